"""Two processes of each service: one that is frozen holds the other up for no longer than ten seconds."""

import signal

import pytest

from shared.clock import MINUTE_US
from tests.system.cluster import Cluster
from tests.system.conftest import START_US, MakeCluster
from tests.system.test_read_until import BOOK, run_container

pytestmark = pytest.mark.process

# Ten seconds of the server's and the group's time-outs, and what a rebalance takes on a busy machine.
FREED_SECONDS = 10
SLACK_SECONDS = 20


def settle_without(cluster: Cluster, service: str, other: str) -> None:
    """Everything settles in time while the other process alone answers for its service."""
    cluster.ask_of(service, other)
    cluster.settle(timeout_seconds=FREED_SECONDS + SLACK_SECONDS)
    cluster.ask_of(service, service)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("service", ["metering", "balance"])
def test_whichever_process_is_frozen_the_other_goes_on(make_cluster: MakeCluster, service: str) -> None:
    """One of the two holds the relay, and each has partitions."""
    cluster = make_cluster(processes=2)
    cluster.put_book(BOOK)
    cluster.credit(("vn", "acme"), 100_000_000, "first")
    run_container(cluster, "one", "a30", START_US)
    cluster.reach(START_US + MINUTE_US)
    cluster.settle()
    for number, name in enumerate((service, f"{service}-2"), start=1):
        other = f"{service}-2" if name == service else service
        cluster.signal(name, signal.SIGSTOP)
        run_container(cluster, f"while-{number}", "a30", cluster.now_us)
        cluster.reach(cluster.now_us + 10 * MINUTE_US)
        settle_without(cluster, service, other)
        cluster.signal(name, signal.SIGCONT)
        # The woken one does no harm: everything is right, once.
        cluster.reach(cluster.now_us + MINUTE_US)
        cluster.settle()
    minutes = (cluster.through_us() - START_US) // MINUTE_US
    assert cluster.balances()["vn", "acme"] < 100_000_000 - minutes * 670_000 // 60
    assert cluster.audit() == []
