"""A fleet at rest through metering and balance, minute by minute as fast as they can.

The best case, by the meaning of at rest: no event, price change, correction or crossing while it is measured, a test
clock, sanity limits off.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from shared.clock import SECOND_US
from tests.bench.fleet import BOOK, REGIONS, BenchFleet
from tests.bench.launch import FOLDER
from tests.bench.spending import Meter, Spent, resident_bytes, resident_bytes_max
from tests.oracle.accounts import answer, differences
from tests.support.infrastructure import temporary_home
from tests.support.standalone import Servers
from tests.support.topics import session_prefix
from tests.system.cluster import Cluster

START_US = 1_767_225_600_000_000
MINUTE_US = 60 * SECOND_US
SETTLE_SECONDS = 3
# A million containers are two million events, which are loaded before anything is measured.
WAIT_SECONDS = 1200
ASK_SECONDS = 0.01
STORED = """
    select sum(pg_total_relation_size(relid))::bigint from pg_partition_tree('entry') where isleaf
    union all select sum(pg_total_relation_size(relid))::bigint from pg_partition_tree('evidence') where isleaf
    union all select pg_total_relation_size('chain_link')
    """


class BenchCluster(Cluster):
    launcher = "tests.bench.launch"
    is_warm = False


@dataclass(frozen=True, slots=True)
class Measured:
    """One shape: `seconds` from the first minute's beginning until the last batch is posted.

    `wrong` accounts differ from the oracle; `faults` are what the audit of the books found.
    """

    fleet: BenchFleet
    rounds: int
    seconds: float
    events_per_second: float
    spent: Spent
    stored_bytes: int
    memory_bytes: int
    first_tick_seconds: float
    wrong: int
    faults: int = 0

    @property
    def charges(self) -> int:
        return self.fleet.charges_per_minute * self.rounds

    @property
    def charges_per_second(self) -> float:
        return self.charges / self.seconds

    @property
    def accounts_per_second(self) -> float:
        return self.fleet.accounts * self.rounds / self.seconds

    @property
    def minute_seconds(self) -> float:
        """How long one minute of the whole fleet took to be charged and settled."""
        return self.seconds / self.rounds

    @property
    def processor_per_charge_us(self) -> float:
        return self.spent.total / self.charges * 1e6

    @property
    def stored_per_charge(self) -> float:
        return self.stored_bytes / self.charges

    @property
    def memory_per_container(self) -> float:
        return self.memory_bytes / self.fleet.running


@contextmanager
def open_cluster(
    servers: Servers,
    name: str,
    *,
    shards: int,
    names: tuple[str, ...] = ("metering", "balance"),
    regions: Mapping[str, Mapping[str, Any]] = REGIONS,
) -> Iterator[Cluster]:
    """Services on a test clock, with prices in force."""
    with temporary_home() as home:
        cluster = BenchCluster(
            home,
            databases=servers.databases,
            bootstrap=servers.bootstrap,
            prefix=f"{session_prefix()}bench-{name}.",
            regions=regions,
            start_us=START_US + SETTLE_SECONDS * SECOND_US,
            names=names,
            shards=shards,
            settle_delay_seconds=SETTLE_SECONDS,
            settings={
                FOLDER: str(home),
                # A stop is told once, and the sweep comes as seldom as in production.
                "TOLLKEEPER_ENFORCEMENT_STOP_REPEAT_SECONDS": "86400",
                "TOLLKEEPER_ENFORCEMENT_STOP_REPEAT_SECONDS_MAX": "86400",
                "TOLLKEEPER_ENFORCEMENT_SWEEP_SECONDS": "60",
            },
        )
        with cluster:
            cluster.put_book(BOOK)
            yield cluster


def measure(servers: Servers, name: str, fleet: BenchFleet, *, rounds: int, shards: int) -> Measured:
    """Load a fleet, warm everything with one minute, then measure `rounds` minutes and ask the oracle."""
    with open_cluster(servers, name, shards=shards) as cluster:
        empty_bytes = resident_bytes(cluster.pids()["metering"])
        began = time.monotonic()
        cluster.publish(fleet.lines())
        cluster.settle(WAIT_SECONDS)
        loaded_seconds = time.monotonic() - began
        advance(cluster, 1)
        cluster.settle(WAIT_SECONDS)
        stored_bytes = _stored(cluster)
        meter = Meter(cluster.pids(), cluster.home)
        began = time.monotonic()
        for minute in range(2, rounds + 2):
            advance(cluster, minute)
        cluster.settle(WAIT_SECONDS)
        seconds = time.monotonic() - began
        spent = meter.lap()
        stored_bytes = _stored(cluster) - stored_bytes
        memory_bytes = resident_bytes_max(cluster.pids()["metering"]) - empty_bytes
        first_tick_seconds = _tick_anew(cluster, rounds + 2)
        wrong = count_wrong(cluster, fleet.lines())
        faults = len(cluster.audit())
    events_per_second = 2 * fleet.running / loaded_seconds
    return Measured(
        fleet, rounds, seconds, events_per_second, spent, stored_bytes, memory_bytes, first_tick_seconds, wrong, faults
    )


def advance(cluster: Cluster, minute: int) -> None:
    """Move the clock and wait until metering has ticked every shard."""
    target_us = START_US + minute * MINUTE_US
    deadline = time.monotonic() + WAIT_SECONDS
    cluster.reach(target_us)
    # Asked evenly: what is waited longer than needed would count as the pipeline's time.
    while cluster.through_us() < target_us:
        assert time.monotonic() < deadline, f"minute {minute} ticked\n{cluster.logs()}"
        time.sleep(ASK_SECONDS)


def _tick_anew(cluster: Cluster, minute: int) -> float:
    """Seconds from a new worker's start until it has ticked every shard, its caches loaded on the way."""
    cluster.stop("metering")
    cluster.reach(START_US + minute * MINUTE_US)
    began = time.monotonic()
    cluster.start("metering")
    advance(cluster, minute)
    return time.monotonic() - began


def _stored(cluster: Cluster) -> int:
    return sum(row[0] for row in cluster.query("balance", STORED))


def count_wrong(cluster: Cluster, lines: Iterable[bytes]) -> int:
    """How many accounts do not have what the oracle counts."""
    through_us = cluster.settle(WAIT_SECONDS)
    found = answer(lines, [BOOK], REGIONS, through_us, now_us=cluster.now_us)
    return len(differences(found.totals(), cluster.balances(), cluster.credits))
