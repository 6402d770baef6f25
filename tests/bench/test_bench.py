"""The benchmark measures what it says, on a fleet so small that the figures themselves mean nothing."""

import pytest

from tests.bench.fleet import BOOK, REGIONS, BenchFleet, Crossers
from tests.bench.latency import Latency, measure_latency, percentile
from tests.bench.pipeline import START_US, Measured, measure
from tests.bench.report import as_json, rows
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
    assert measured.wrong == 0
    assert measured.charges == 2 * 2 * 30
    assert {"metering", "balance", "kafka"} <= measured.spent.by_process.keys()
    assert measured.spent.by_process["metering"] > 0
    assert measured.stored_bytes > 0
    assert measured.memory_bytes > 0
    latency = measure_latency(servers, fleet, charges_per_second=6000, crossings=40, shards=4)
    assert len(latency.to_command) == len(latency.to_event) == 40
    # The broker counts whole milliseconds.
    assert all(
        event_ms - 1 <= command_ms for event_ms, command_ms in zip(latency.to_event, latency.to_command, strict=True)
    )


def test_what_is_printed_is_what_was_measured() -> None:
    fleet = BenchFleet(10, 100, 500, START_US)
    spent = Spent({"metering": 1.0, "balance": 0.5}, {"metering": {"tick": 0.9}}, 1.9)
    measured = Measured(fleet, 3, 2.0, 5000.0, spent, 60_000, 300_000, 4.0, 0)
    latency = Latency(700.0, 650.0, [1.0] * 100, [2.0] * 99 + [300.0], fleet)
    document = as_json({"charges": measured, "accounts": measured}, latency)
    charges = document["shapes"]["charges"]
    assert (charges["charges_per_second"], charges["accounts_per_second"], charges["accounts_wrong"]) == (3000, 15, 0)
    assert (charges["stored_bytes_per_charge"], charges["memory_bytes_per_container"]) == (10, 300)
    assert document["crossing_to_command"]["p99_ms"] == 2
    printed = {row.what.partition(",")[0]: row for row in rows({"charges": measured}, latency)}
    assert printed["charges a second"].reached is False
    assert printed["stored per charge"].reached is False
    assert printed["metering's memory per container"].reached is True
    assert printed["first tick of a new worker"].reached is None
    assert printed["zero crossing to stop command"].reached is True
