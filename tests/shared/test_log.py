"""Logs of libraries that repeat themselves: a line of each kind now and then, with how many were left out."""

import logging

from shared.log import QUIET_SECONDS, OncePerKind, _format_exception


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def record(logger: str, message: str, *arguments: object) -> logging.LogRecord:
    return logging.LogRecord(logger, logging.ERROR, "", 0, message, arguments, None)


def test_an_outage_of_the_broker_writes_a_line_of_each_kind() -> None:
    clock = Clock()
    quiet = OncePerKind(monotonic=clock)
    passed = []
    for number in range(10_000):
        clock.now = number / 100
        for message in ("Unable connect to node with id %s: %s", "Failed fetch of %s: %s"):
            item = record("aiokafka.client", message, number, f"[Errno 111] at {number}")
            if quiet.filter(item):
                passed.append(item.getMessage())
    assert len(passed) == 2 * 4
    assert passed[-1].endswith("(2999 more like it were left out)")


def test_kinds_loggers_and_our_own_lines_do_not_hide_each_other() -> None:
    clock = Clock()
    quiet = OncePerKind(monotonic=clock)
    assert quiet.filter(record("aiokafka.client", "Unable to update metadata from %s", 1))
    assert quiet.filter(record("aiokafka.consumer", "Unable to update metadata from %s", 1))
    assert quiet.filter(record("aiokafka.client", "Heartbeat failed"))
    assert not quiet.filter(record("aiokafka.client", "Unable to update metadata from %s", 2))
    # Formatted beforehand, it is of its kind all the same.
    assert quiet.filter(record("asyncpg.pool", "lost connection 17 to '10.0.0.1'"))
    assert not quiet.filter(record("asyncpg.pool", "lost connection 18 to '10.0.0.2'"))
    for _ in range(3):
        assert quiet.filter(record("shared.consumer", "consumer.retry"))
    clock.now = QUIET_SECONDS
    assert quiet.filter(record("aiokafka.client", "Unable to update metadata from %s", 3))


def test_an_error_that_came_out_of_a_group_and_names_it_as_its_cause_is_written_once() -> None:
    """Such a circle once ended the loops of all consumers: the error of a broker that stood still."""
    try:
        try:
            raise ExceptionGroup("lanes", [ValueError("the first lane"), KeyError("the second")])  # noqa: TRY301
        except ExceptionGroup as group:
            raise group.exceptions[0] from group
    except ValueError as error:
        text = _format_exception((ValueError, error, error.__traceback__))
    assert text.count("ValueError: the first lane") == 1
    assert text.count("KeyError: 'the second'") == 1
    assert "ExceptionGroup: lanes (2 sub-exceptions)" in text
