"""Kafka and PostgreSQL die, come back and stand still under a running system: the totals are those of a quiet day."""

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from deploy.local.infrastructure.kafka import EmbeddedKafka
from deploy.local.infrastructure.postgres import EmbeddedPostgres
from deploy.local.processes import signal_tree
from shared.clock import MINUTE_US
from tests.fleet.making import REGIONS, make_fleet
from tests.support.databases import Databases
from tests.support.infrastructure import make_kafka, make_postgres, temporary_home
from tests.system.checking import check_totals
from tests.system.cluster import Cluster
from tests.system.conftest import START_US
from tests.system.failpoints import HoldRelay
from tests.system.waiting import wait_for

pytestmark = pytest.mark.process

SHARDS = 128


@dataclass(frozen=True)
class Servers:
    """Servers of a test's own, to be killed."""

    home: Path
    postgres: EmbeddedPostgres
    kafka: EmbeddedKafka


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with temporary_home() as home, make_postgres(home) as postgres, make_kafka(home) as kafka:
        yield Servers(home, postgres, kafka)


@pytest.mark.timeout(240)
def test_servers_are_killed_restarted_and_frozen(servers: Servers) -> None:
    fleet = make_fleet(41, START_US, hours=2, tenants=200, containers=500, volumes=100, usages=200)
    with temporary_home() as home:
        cluster = Cluster(
            home,
            databases=Databases(servers.postgres.url),
            bootstrap=servers.kafka.bootstrap,
            prefix="faults.",
            regions=REGIONS,
            start_us=START_US,
            shards=SHARDS,
        )
        with cluster:
            for book in fleet.books:
                cluster.put_book(book)
            sixth = len(fleet.events) // 6

            def live_on(number: int) -> None:
                """A sixth of the events, and ten minutes to charge."""
                cluster.publish(fleet.lines()[number * sixth :][: sixth + 6], seed=number)
                cluster.reach(START_US + (number + 1) * 10 * MINUTE_US)

            live_on(0)
            cluster.settle()

            # Kafka dies with every shard's batches in the outbox, and is gone for a while.
            cluster.stop("metering")
            cluster.start("metering", HoldRelay(2**31))
            for minutes in (12, 15):
                tick_to(cluster, START_US + minutes * MINUTE_US)
            assert cluster.in_flight() >= 100
            servers.kafka.kill()
            assert_nothing_is_charged(cluster, START_US + 18 * MINUTE_US)
            cluster.kill("metering")
            servers.kafka.start()
            cluster.start("metering")
            live_on(1)

            # PostgreSQL dies under intake, ticks and postings.
            live_on(2)
            servers.postgres.kill()
            servers.postgres.start()
            live_on(3)

            # Each stands still for longer than anybody's patience within one request.
            for name, process in (("broker", servers.kafka.process), ("database", servers.postgres.process)):
                assert process is not None
                signal_tree(process.pid, signal.SIGSTOP)
                try:
                    wait_for(lambda name=name: name in silent(cluster), what=f"{name} is named")  # type: ignore[misc]
                    cluster.reach(cluster.now_us + 5 * MINUTE_US)
                    assert_nothing_ends(cluster)
                finally:
                    signal_tree(process.pid, signal.SIGCONT)
            wait_for(lambda: not silent(cluster), what="everything answers again")
            live_on(4)
            live_on(5)
            servers.kafka.restart()
            servers.postgres.restart()
            cluster.reach(fleet.end_us)
            assert cluster.settle(timeout_seconds=90) == fleet.end_us
            check_totals(cluster, fleet, fleet.lines(), fleet.end_us)


def silent(cluster: Cluster) -> set[str]:
    """What both services say of the servers that do not answer."""
    said = [httpx.get(f"{cluster.url(name)}/readyz", timeout=10).json()["failing"] for name in cluster.names]
    return set.intersection(*map(set, said)) & {"broker", "database"}


def tick_to(cluster: Cluster, through_us: int) -> None:
    cluster.reach(through_us)
    wait_for(lambda: cluster.through_us() == through_us, what="ticks")


def assert_nothing_is_charged(cluster: Cluster, through_us: int) -> None:
    """Without a broker nobody knows what is unread: charging waits, and says for what."""
    before_us = cluster.through_us()
    cluster.reach(through_us)
    wait_for(lambda: cluster.status("metering").get("read_waits_for", {}).get("fault"), what="metering says so")
    assert cluster.through_us() == before_us


def assert_nothing_ends(cluster: Cluster, seconds: float = 3) -> None:
    """Wait while a server stands still; the services must outlive it."""
    with pytest.raises(AssertionError, match="not in"):
        wait_for(lambda: not cluster.running(), timeout_seconds=seconds, what="a service that ends")
