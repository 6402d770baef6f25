"""`make bench`: a fleet through the whole pipeline, charges counted at the ledger's commit and checked by the oracle.

A counted charge is one slot of one kind, settled by the tick in which it began. The clock moves a minute at a time, as
soon as metering has ticked the one before; the time stops when balance has posted the last batch.
"""

import argparse
import sys
import time

import psutil

from shared.clock import SECOND_US
from tests.bench.fleet import BOOK, REGIONS, BenchFleet
from tests.oracle.accounts import answer, differences
from tests.support.databases import Databases
from tests.support.infrastructure import SessionInfrastructure, temporary_home
from tests.system.cluster import Cluster
from tests.system.waiting import wait_for

START_US = 1_767_225_600_000_000
SETTLE_SECONDS = 3
WAIT_SECONDS = 600


def measure(servers: SessionInfrastructure, fleet: BenchFleet, *, rounds: int, shards: int, name: str) -> bool:
    """Run one shape and print what it came to; answer whether the oracle agrees to the micro."""
    with temporary_home() as home:
        cluster = Cluster(
            home,
            databases=Databases(servers.postgres_url),
            bootstrap=servers.kafka_bootstrap,
            prefix=f"bench-{name}.",
            regions=REGIONS,
            start_us=START_US + SETTLE_SECONDS * SECOND_US,
            names=("metering", "balance"),
            shards=shards,
            settle_delay_seconds=SETTLE_SECONDS,
        )
        with cluster:
            cluster.put_book(BOOK)
            began = time.monotonic()
            cluster.publish(fleet.lines())
            cluster.settle(WAIT_SECONDS)
            loaded = time.monotonic() - began
            # One round warms the caches of metering and the statistics of PostgreSQL.
            _advance(cluster, 1)
            cluster.settle(WAIT_SECONDS)
            cpu = _processor_seconds(cluster)
            began = time.monotonic()
            for number in range(2, rounds + 2):
                _advance(cluster, number)
            ticked = time.monotonic() - began
            through_us = cluster.settle(WAIT_SECONDS)
            took = time.monotonic() - began
            spent = {key: seconds - cpu[key] for key, seconds in _processor_seconds(cluster).items()}
            charges, debits = fleet.charges_per_minute * rounds, fleet.accounts * rounds
            print(f"{name}: {fleet.tenants:,} tenants x {fleet.containers} containers, {rounds} minutes")
            print(f"  events in            {2 * fleet.tenants * fleet.containers / loaded:>12,.0f} a second")
            print(f"  charges, end to end  {charges / took:>12,.0f} a second ({charges:,} in {took:.2f} s)")
            print(f"  accounts debited     {debits / took:>12,.0f} a second")
            print(f"  metering ticked for  {ticked:>12.2f} s; processor: " + _shares(spent, took))
            print(f"  metering's memory    {_memory(cluster) / 2**20:>12,.0f} MiB")
            found = answer(fleet.lines(), [BOOK], REGIONS, through_us, now_us=cluster.now_us)
            wrong = differences(found.totals(), cluster.balances(), {})
            print(f"  oracle               {'every account right to the micro' if not wrong else wrong[:5]}")
            return not wrong


def _advance(cluster: Cluster, minute: int) -> None:
    """Move the clock and wait until metering has ticked every shard."""
    cluster.reach(START_US + minute * 60 * SECOND_US)
    target_us = START_US + minute * 60 * SECOND_US
    wait_for(
        lambda: cluster.through_us() >= target_us,
        timeout_seconds=WAIT_SECONDS,
        what=lambda: f"minute {minute} ticked\n{cluster.logs()}",
    )


def _processor_seconds(cluster: Cluster) -> dict[str, float]:
    found = {name: sum(psutil.Process(pid).cpu_times()[:2]) for name, pid in cluster.pids().items()}
    for kind, word in (("postgres", "postgres"), ("kafka", "java")):
        found[kind] = sum(
            sum(process.cpu_times()[:2]) for process in psutil.process_iter(["name"]) if word in process.info["name"]
        )
    return found


def _shares(spent: dict[str, float], took: float) -> str:
    return ", ".join(f"{name} {seconds / took:.0%}" for name, seconds in spent.items()) + " of one core each"


def _memory(cluster: Cluster) -> int:
    return int(psutil.Process(cluster.pids()["metering"]).memory_info().rss)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--tenants", type=int, default=2000, help="tenants with 100 containers each")
    parser.add_argument("--accounts", type=int, default=40_000, help="accounts with one container each")
    parser.add_argument("--rounds", type=int, default=5, help="minutes that are measured")
    parser.add_argument("--shards", type=int, default=64)
    options = parser.parse_args()
    servers = SessionInfrastructure()
    shapes = {
        "charges": BenchFleet(options.tenants, 100, 500, START_US),
        "accounts": BenchFleet(options.accounts, 1, 0, START_US),
    }
    try:
        right = [
            measure(servers, fleet, rounds=options.rounds, shards=options.shards, name=name)
            for name, fleet in shapes.items()
        ]
    finally:
        servers.stop()
    return 0 if all(right) else 1


if __name__ == "__main__":
    sys.exit(main())
