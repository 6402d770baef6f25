"""`python -m tests.bench.intake`: how fast metering takes lifecycle events in, and that it took them in right.

The events wait on the topic before metering starts; the time runs from the first applied offset to the last.
Half of them create containers, half start them, and none is charged yet: first with every resource's events in one
partition, as producers that key by resource have it, then with each in any partition, where a start may come before its
creation. Then all are charged for ten minutes, and each is stopped late, so that every event corrects. The oracle
counts the cost.
"""

import argparse
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import orjson

from shared.clock import MINUTE_US, SECOND_US, format_instant
from shared.topics import LIFECYCLE
from tests.bench.fleet import BOOK, REGION, BenchFleet
from tests.bench.pipeline import START_US, open_cluster
from tests.oracle.accounts import answer, differences
from tests.support.standalone import Servers, open_servers
from tests.system.broker import Outgoing, outgoing
from tests.system.checking import charged_on_topic
from tests.system.cluster import Cluster
from tests.system.waiting import wait_for

WAIT_SECONDS = 300
PARTITIONS = 8


def keyed(lines: Sequence[bytes]) -> list[Outgoing]:
    """Each resource's events in one partition."""
    return [outgoing(line, crc32(orjson.loads(line)["subject"].encode()) % PARTITIONS) for line in lines]


def anywhere(lines: Sequence[bytes]) -> list[Outgoing]:
    return [outgoing(line) for line in lines]


SPREADS: dict[str, Callable[[Sequence[bytes]], list[Outgoing]]] = {"keyed": keyed, "anywhere": anywhere}


@dataclass(frozen=True, slots=True)
class Measured:
    """Events a second of new containers and of late stops; accounts that differ from the oracle."""

    new: float
    late: float
    wrong: int


@dataclass(frozen=True, slots=True)
class Hot:
    """One container with many events: events a second of the first and the last fifth; accounts that differ.

    `longest` is the most seconds that metering took meanwhile to say that it lives.
    """

    events: int
    first: float
    last: float
    longest: float
    wrong: int

    @property
    def slowdown(self) -> float:
        return self.first / self.last


def hot_lines(count: int) -> list[bytes]:
    """Of one container: created, then started and stopped by turns, a second apart."""
    kinds = ["container.created", *("container.started", "container.stopped") * (count // 2)]
    configuration = {"gpu_sku": "a30", "gpu_count": 1, "persistent_storage_gb": 0}
    return [
        orjson.dumps(
            {
                "specversion": "1.0",
                "id": f"hot-{number}",
                "source": "bench",
                "type": kind,
                "subject": "ctr-hot",
                "time": format_instant(START_US + number * SECOND_US),
                "data": {
                    "region": REGION,
                    "tenant_id": "hot",
                    "sequence": number + 1,
                    **(configuration if not number else {}),
                },
            }
        )
        for number, kind in enumerate(kinds[:count])
    ]


def measure_hot(servers: Servers, *, events: int, shards: int, reverse: bool = False) -> Hot:
    """Take one container's events in, a fifth at a time, in order or the last first; ask the oracle.

    All are late: the container is charged to beyond the last of them. Its creation comes first in either order.
    """
    lines = hot_lines(events)
    given = [lines[0], *lines[:0:-1]] if reverse else lines
    fifth = max(events // 5, 1)
    name = "hot-late" if reverse else "hot"
    with open_cluster(servers, name, shards=shards, names=("metering",)) as cluster:
        cluster.reach(START_US + (events + 120) * SECOND_US)
        parts = [_apply(cluster, keyed(given[start : start + fifth])) for start in range(0, events, fifth)]
        cluster.settle_metering(WAIT_SECONDS)
        rates, waits = [rate for rate, _ in parts], [wait for _, wait in parts]
        return Hot(events, rates[0], rates[-1], max(waits), wrong_accounts(cluster, lines, [BOOK]))


def stops(fleet: BenchFleet, at_us: int) -> list[bytes]:
    return [
        orjson.dumps(
            {
                "specversion": "1.0",
                "id": f"{number}-3",
                "source": "bench",
                "type": "container.stopped",
                "subject": f"ctr-{number}",
                "time": format_instant(at_us),
                "data": {"region": REGION, "tenant_id": f"t{number // fleet.containers}", "sequence": 3},
            }
        )
        for number in range(fleet.running)
    ]


def take_in(cluster: Cluster, records: Sequence[Outgoing]) -> float:
    """Events a second of records that wait when metering starts."""
    cluster.stop("metering")
    before = applied(cluster)
    cluster.produce(records)
    cluster.start("metering")
    wait_for(lambda: applied(cluster) > before, timeout_seconds=WAIT_SECONDS, what="the first poll")
    began, first = time.monotonic(), applied(cluster)
    wait_for(lambda: applied(cluster) - before >= len(records), timeout_seconds=WAIT_SECONDS, what="the last poll")
    return (before + len(records) - first) / (time.monotonic() - began)


def _apply(cluster: Cluster, records: Sequence[Outgoing]) -> tuple[float, float]:
    """Take in records that wait when a paused metering goes on: sending them is not what is measured.

    Answers events a second, and the most seconds that it took meanwhile to say that it lives.
    """
    target = applied(cluster) + len(records)
    cluster.signal("metering", signal.SIGSTOP)
    cluster.produce(records)
    waits: list[float] = []

    def is_applied() -> bool:
        asked = time.monotonic()
        cluster.get("metering", "/healthz")
        waits.append(time.monotonic() - asked)
        return applied(cluster) >= target

    began = time.monotonic()
    cluster.signal("metering", signal.SIGCONT)
    wait_for(is_applied, timeout_seconds=WAIT_SECONDS, what="the last of them applied")
    return len(records) / (time.monotonic() - began), max(waits)


def applied(cluster: Cluster) -> int:
    statement = f"select coalesce(sum(next_offset), 0)::bigint from consumer_offset where topic = '{LIFECYCLE}'"
    return int(cluster.query("metering", statement)[0][0])


def wrong_accounts(cluster: Cluster, lines: Sequence[bytes], books: Sequence[Mapping[str, Any]]) -> int:
    through_us = cluster.through_us()
    expected = answer(lines, books, cluster.regions, through_us).totals()
    assert expected, "nothing was charged: this proves nothing"
    return len(differences(expected, {key: -micros for key, micros in charged_on_topic(cluster).items()}, {}))


def measure(servers: Servers, name: str, *, tenants: int, shards: int) -> Measured:
    """Take a fleet in, spread over the partitions as SPREADS says, then stops that come late; ask the oracle."""
    fleet, spread = BenchFleet(tenants, 100, 500, START_US + 2 * MINUTE_US), SPREADS[name]
    lines, late = list(fleet.lines()), stops(fleet, START_US + 5 * MINUTE_US)
    with open_cluster(servers, f"intake-{name}", shards=shards, names=("metering",)) as cluster:
        began = take_in(cluster, spread(lines))
        cluster.reach(START_US + 10 * MINUTE_US)
        cluster.settle_metering(WAIT_SECONDS)
        corrected = take_in(cluster, spread(late))
        cluster.settle_metering(WAIT_SECONDS)
        return Measured(began, corrected, wrong_accounts(cluster, [*lines, *late], [BOOK]))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.intake", description=__doc__)
    parser.add_argument("--tenants", type=int, default=400, help="tenants with 100 containers each")
    parser.add_argument("--shards", type=int, default=64)
    options = parser.parse_args()
    wrong = 0
    with open_servers() as servers:
        for name in SPREADS:
            found = measure(servers, name, tenants=options.tenants, shards=options.shards)
            wrong += found.wrong
            print(f"{name}: {found.new:,.0f} events/s of new containers, {found.late:,.0f} events/s that correct")
    print(f"accounts that differ from the oracle: {wrong}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
