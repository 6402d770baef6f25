"""`tollkeeper wait-settled`: the rule by itself, and each way the command ends."""

from typing import Any

import pytest

from deploy.cli import settled
from deploy.cli.settled_rules import BalanceReport, MeteringReport, StoppedLineError, Target, Wait
from shared.clock import parse_instant
from shared.topics import LIFECYCLE, USAGE
from tests.cli.conftest import Fakes, Tollkeeper
from tests.cli.fakes import Answer, Asked

NOON = "2026-11-01T12:00:00Z"
AFTER_NOON = "2026-11-01T12:00:01Z"
BEFORE_NOON = "2026-11-01T11:59:59Z"


def metering(**changes: Any) -> dict[str, Any]:
    shards = [{"shard": 0, "seq": 3, "published_seq": 3, "through": AFTER_NOON}, {"shard": 1, "seq": 0}]
    return {
        "now": NOON,
        "through": AFTER_NOON,
        "halted": None,
        "shards": shards,
        "positions": {LIFECYCLE: {"0": 5, "3": 2}},
        "unpublished": 0,
        "pending": 1,
        "parked": 0,
        "dead": 2,
        **changes,
    }


def balance(**changes: Any) -> dict[str, Any]:
    streams = [{"shard": 0, "seq": 3, "stopped": None}]
    return {"now": NOON, "positions": {}, "streams": streams, "waiting": 0, "unpublished": 0, "dead": 0, **changes}


def observe(wait: Wait, of_metering: dict[str, Any], of_balance: dict[str, Any]) -> list[str]:
    return wait.observe(MeteringReport.model_validate(of_metering), BalanceReport.model_validate(of_balance))


@pytest.fixture
def wait() -> Wait:
    return Wait(Target({LIFECYCLE: {0: 5, 3: 2}, USAGE: {}}, parse_instant(NOON)))


def test_everything_reached_is_settled(wait: Wait) -> None:
    assert observe(wait, metering(), balance()) == []


@pytest.mark.parametrize(
    ("of_metering", "of_balance", "missing"),
    [
        ({"positions": {}}, {}, f"metering to apply 7 records of {LIFECYCLE}"),
        ({"positions": {LIFECYCLE: {"0": 9, "3": 1}}}, {}, f"metering to apply 1 records of {LIFECYCLE}"),
        ({"through": BEFORE_NOON}, {}, f"metering's through to pass {NOON}"),
        ({"through": None}, {}, f"metering's through to pass {NOON}"),
        ({"unpublished": 4}, {}, "metering to relay 4 messages"),
        ({}, {"streams": []}, "balance to post the charges of 1 shards (0)"),
        ({}, {"streams": [{"shard": 0, "seq": 2}]}, "balance to post the charges of 1 shards (0)"),
        ({}, {"unpublished": 1}, "balance to relay 1 messages"),
    ],
)
def test_each_thing_that_is_missing_is_named(
    wait: Wait, of_metering: dict[str, Any], of_balance: dict[str, Any], missing: str
) -> None:
    assert observe(wait, metering(**of_metering), balance(**of_balance)) == [missing]
    assert observe(wait, metering(), balance()) == []


def test_what_comes_after_the_call_is_not_waited_for(wait: Wait) -> None:
    assert observe(wait, metering(), balance(unpublished=1)) != []
    later = [{"shard": 0, "seq": 9}, {"shard": 1, "seq": 4}]
    assert observe(wait, metering(shards=later, unpublished=8), balance()) == []


def test_charges_of_the_wait_itself_are_waited_for(wait: Wait) -> None:
    assert observe(wait, metering(through=BEFORE_NOON), balance()) != []
    shards = [{"shard": 0, "seq": 4}]
    assert observe(wait, metering(shards=shards), balance()) == ["balance to post the charges of 1 shards (0)"]


def test_on_a_test_clock_the_target_is_as_far_as_metering_can_get() -> None:
    standing = MeteringReport.model_validate(metering(test_clock=True, through_target=BEFORE_NOON))
    assert Target.of({}, standing).through_us == parse_instant(BEFORE_NOON)
    assert Target.of({}, MeteringReport.model_validate(metering())).through_us == parse_instant(NOON)


def test_a_halt_or_a_stopped_shard_ends_the_wait_by_name(wait: Wait) -> None:
    with pytest.raises(StoppedLineError, match="tick is halted: clock jumped"):
        observe(wait, metering(halted="clock jumped", positions={}), balance())
    with pytest.raises(StoppedLineError, match="shard 7 is stopped: seq 4 differs"):
        observe(wait, metering(), balance(streams=[{"shard": 7, "seq": 4, "stopped": {"reason": "seq 4 differs"}}]))


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker's ends without a broker."""

    async def load(_bootstrap: str, _prefix: str) -> dict[str, dict[int, int]]:
        return {LIFECYCLE: {0: 5, 3: 2}, USAGE: {}}

    monkeypatch.setattr(settled, "load_ends", load)
    monkeypatch.setattr(settled, "POLL_SECONDS", 0.01)


def serve(fakes: Fakes, of_metering: dict[str, Any], of_balance: dict[str, Any]) -> None:
    fakes.metering.on("GET", "/v1/status", of_metering)
    fakes.metering.on("GET", "/v1/pending", {"pending": [{"event_id": f"e{number}"} for number in range(25)]})
    fakes.metering.on("GET", "/v1/parked", {"parked": []})
    fakes.metering.on("GET", "/v1/dead-letters", {"dead_letters": [{"dead_id": "d1", "reason": "not JSON"}]})
    fakes.balance.on("GET", "/v1/status", of_balance)
    fakes.enforcement.on("GET", "/v1/status", {"dead": 30})


@pytest.mark.usefixtures("ends")
def test_settled_lists_what_is_kept_back(fakes: Fakes, tollkeeper: Tollkeeper) -> None:
    serve(fakes, metering(pending=25), balance())
    ended = tollkeeper("wait-settled", "--json")
    assert ended.code == 0
    document = ended.document
    assert (document["state"], document["reason"]) == ("settled", None)
    assert (document["pending"]["count"], len(document["pending"]["first"])) == (25, 20)
    assert document["parked"] == {"count": 0, "first": []}
    # Services count all of theirs and list a part.
    assert document["dead"]["count"] == 32
    assert document["dead"]["first"] == [{"service": "metering", "dead_id": "d1", "reason": "not JSON"}]

    ended = tollkeeper("wait-settled")
    assert ended.code == 0
    assert "25 pending" in ended.out
    assert "  and 5 more" in ended.out
    assert "reason not JSON" in ended.out
    assert "settled after" in ended.out


@pytest.mark.usefixtures("ends")
def test_it_waits_and_says_each_thing_once(fakes: Fakes, tollkeeper: Tollkeeper) -> None:
    serve(fakes, metering(), balance())
    answers = [metering(positions={})] * 4 + [metering(through=BEFORE_NOON)] * 3

    def report(_asked: Asked) -> Answer:
        return 200, answers.pop(0) if answers else metering()

    fakes.metering.on("GET", "/v1/status", report)
    ended = tollkeeper("wait-settled")
    assert ended.code == 0
    assert ended.err.splitlines() == [
        f"waiting for metering to apply 7 records of {LIFECYCLE}",
        f"waiting for metering's through to pass {NOON}",
    ]


@pytest.mark.usefixtures("ends")
def test_a_time_out_says_what_is_still_waited_for(fakes: Fakes, tollkeeper: Tollkeeper) -> None:
    serve(fakes, metering(unpublished=3), balance())
    ended = tollkeeper("wait-settled", "--timeout", "0.05", "--json")
    assert ended.code == 2
    assert ended.document["state"] == "timeout"
    assert "still waiting for metering to relay 3 messages" in ended.document["reason"]


@pytest.mark.usefixtures("ends")
def test_a_stopped_shard_has_an_exit_code_of_its_own(fakes: Fakes, tollkeeper: Tollkeeper) -> None:
    serve(fakes, metering(), balance(streams=[{"shard": 5, "seq": 1, "stopped": "another content"}]))
    ended = tollkeeper("wait-settled", "--json")
    assert ended.code == 3
    assert ended.document["state"] == "stopped"
    assert "shard 5 is stopped: another content" in ended.err


@pytest.mark.usefixtures("ends")
def test_a_service_that_is_started_again_meanwhile_is_waited_for(fakes: Fakes, tollkeeper: Tollkeeper) -> None:
    serve(fakes, metering(), balance())
    unavailable = {"type": "urn:tollkeeper:problem:unavailable", "detail": "try again"}
    answers: list[Answer] = [(200, balance(streams=[]))] * 2 + [(503, unavailable)] * 3

    def report(_asked: Asked) -> Answer:
        return answers.pop(0) if answers else (200, balance())

    fakes.balance.on("GET", "/v1/status", report)
    ended = tollkeeper("wait-settled")
    assert ended.code == 0
    assert ended.err.splitlines() == [
        "waiting for balance to post the charges of 1 shards (0)",
        "waiting for an answer (balance refused (503 unavailable): try again)",
    ]
    answers = [(200, balance(streams=[]))] * 2 + [(503, unavailable)] * 1000
    ended = tollkeeper("wait-settled", "--timeout", "0.1", "--json")
    assert (ended.code, ended.document["state"]) == (2, "timeout")


@pytest.mark.usefixtures("ends")
def test_services_that_do_not_answer_or_answer_otherwise(fakes: Fakes, tollkeeper: Tollkeeper) -> None:
    serve(fakes, {"status": "ok"}, balance())
    ended = tollkeeper("wait-settled")
    assert (ended.code, "not of this version" in ended.err) == (69, True)
    fakes.metering.on("GET", "/v1/status", b"<html>")
    ended = tollkeeper("wait-settled")
    assert (ended.code, "is this metering?" in ended.err) == (69, True)


def test_without_a_stack_it_says_how_to_start_one(tollkeeper: Tollkeeper) -> None:
    ended = tollkeeper("wait-settled")
    assert (ended.code, "tollkeeper up" in ended.err) == (69, True)
    assert "Traceback" not in ended.err
