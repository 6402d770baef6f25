"""The benchmark measures what it says, on a fleet so small that the figures themselves mean nothing."""

import pytest

from tests.bench.fleet import BOOK, REGIONS, BenchFleet, Crossers
from tests.bench.intake import Hot
from tests.bench.latency import Latency, measure_latency, percentile
from tests.bench.pipeline import START_US, Measured, measure
from tests.bench.report import Figures, as_json, rows
from tests.bench.spending import Spent
from tests.oracle.accounts import answer
from tests.support.databases import Databases
from tests.support.standalone import Servers


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [float(value) for value in range(200, 0, -1)]
    assert [percentile(values, percent) for percent in (1, 50, 99, 100)] == [2, 100, 198, 200]
    assert percentile([7.0], 99) == 7


def test_crossers_reach_zero_to_the_micro_at_their_minute() -> None:
    crossers = Crossers(4, 3, 2, START_US)
    owed = {
        minute: answer(crossers.lines(), [BOOK], REGIONS, START_US + minute * 60_000_000).totals()
        for minute in range(3, 7)
    }
    for number, (tenant, credit_micros) in enumerate(crossers.tenants()):
        minute = 4 + number // 2
        assert owed[minute]["vn", tenant] == credit_micros
        assert owed[minute - 1]["vn", tenant] < credit_micros


@pytest.mark.process
def test_a_small_fleet_is_measured_and_right(databases: Databases, kafka_bootstrap: str) -> None:
    servers = Servers(databases, kafka_bootstrap)
    fleet = BenchFleet(6, 5, 500, START_US)
    measured = measure(servers, "small", fleet, rounds=2, shards=4)
    assert (measured.wrong, measured.faults) == (0, 0)
    assert measured.charges == 2 * 2 * 30
    assert {"metering", "balance", "kafka"} <= measured.spent.by_process.keys()
    assert measured.spent.by_process["metering"] > 0
    assert measured.stored_bytes > 0
    assert measured.memory_bytes > 0
    latency = measure_latency(servers, fleet, charges_per_second=6000, crossings=40, shards=4)
    assert latency.wrong == 0
    assert len(latency.to_command) == len(latency.to_event) == 40
    # The broker counts whole milliseconds.
    assert all(
        event_ms - 1 <= command_ms for event_ms, command_ms in zip(latency.to_event, latency.to_command, strict=True)
    )


SPENT = Spent({"metering": 1.0, "balance": 0.5}, {"metering": {"tick": 0.9}}, 1.9)


def make_measured(tenants: int, seconds: float = 2.0, wrong: int = 0) -> Measured:
    fleet = BenchFleet(tenants, 100, 500, START_US)
    return Measured(fleet, 3, seconds, 5000.0, SPENT, 60_000, 300_000, 4.0, wrong)


def mark(figures: Figures, what: str) -> bool | None:
    """The first row's that begins so."""
    return next(row.reached for row in rows(figures) if row.what.startswith(what))


def test_what_is_printed_is_what_was_measured() -> None:
    measured = make_measured(10)
    latency = Latency(700.0, 690.0, [1.0] * 100, [2.0] * 99 + [300.0], measured.fleet, 40)
    document = as_json(Figures({"charges": measured, "accounts": measured}, latency))
    charges = document["shapes"]["charges"]
    assert (charges["charges_per_second"], charges["accounts_per_second"], charges["accounts_wrong"]) == (3000, 15, 0)
    assert (charges["stored_bytes_per_charge"], charges["memory_bytes_per_container"]) == (10, 300)
    assert document["crossing_to_command"]["p99_ms"] == 2
    assert mark(Figures({}, latency), "zero crossing to stop command, p99") is True


TARGETED = (
    "charges a second",
    "a minute charged and settled",
    "metering's memory per container",
    "first tick of a new worker",
    "cost per charge",
    "one container's",
    "  the first fifth",
    "  its longest answer",
)


def test_no_mark_where_the_shape_is_not_that_of_the_target() -> None:
    small = Figures(
        {"charges": make_measured(10), "few": make_measured(5)}, hot={"in order": Hot(100, 9000.0, 8000.0, 0.01, 0)}
    )
    assert {mark(small, what) for what in TARGETED} == {None}
    hot = {"in order": Hot(10_000, 9000.0, 4000.0, 0.06, 0)}
    designed = Figures({"charges": make_measured(10_000), "few": make_measured(100)}, hot=hot)
    # Six million charges in two seconds; the same processor time for a hundredth of them.
    assert [mark(designed, what) for what in TARGETED] == [True, True, True, True, True, False, False, False]


@pytest.mark.parametrize(("load", "late", "wrong"), [(600.0, 0, 0), (700.0, 3, 0), (700.0, 0, 1)])
def test_a_load_that_was_not_reached_gets_no_mark(load: float, late: int, wrong: int) -> None:
    latency = Latency(700.0, load, [1.0] * 100, [2.0] * 100, BenchFleet(1, 1, 1, START_US), 40, late, wrong)
    figures = Figures({}, latency)
    assert [row.reached for row in rows(figures)] == [None] * 3
    assert figures.wrong == wrong


def test_whatever_is_wrong_is_an_exit_code() -> None:
    assert Figures({"charges": make_measured(1)}).wrong == 0
    assert Figures({"charges": make_measured(1, wrong=2)}, hot={"late": Hot(1, 1.0, 1.0, 0.01, 3)}).wrong == 5
