"""Who has paid is not stopped by what balance has not published yet."""

import signal

import pytest

from shared.clock import HOUR_US, MINUTE_US, SECOND_US
from tests.fleet.making import REGIONS, Fleet, lines_of, make_books
from tests.system.cluster import Cluster
from tests.system.conftest import START_US, MakeCluster
from tests.system.test_debtors import commanded, event, read_events, told
from tests.system.waiting import wait_for

pytestmark = pytest.mark.process

TENANTS = ("acme", "beta", "gamma", "poor")
PAYING = TENANTS[:3]


def last_runs(cluster: Cluster) -> set[str]:
    """The runs after the payment that were told to stop."""
    commands = [item for item in read_events(cluster, "container.commands.v1") if item["type"] == "container.stop"]
    runs = {item["data"]["run"]["event_id"] for item in commands}
    return {run for run in runs if not run.endswith(f"-{START_US + SECOND_US}")}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("frozen", ["balance", "balance-2"])
def test_a_frozen_relay_of_balance_stops_nobody_who_has_paid(make_cluster: MakeCluster, frozen: str) -> None:
    """One of the two holds the relay: what the other one credits is answered at once and published later."""
    cluster = make_cluster(names=("metering", "balance", "enforcement"), processes=2)
    for book in Fleet(REGIONS, make_books(START_US, 400), (), START_US, START_US).books:
        cluster.put_book(book)
    for tenant in TENANTS:
        created = event(tenant, "container.created", START_US, gpu_sku="a30", gpu_count=1, persistent_storage_gb=500)
        cluster.publish(lines_of([created, event(tenant, "container.started", START_US + SECOND_US)]))
        cluster.credit(("vn", tenant), 1_000_000, "first")
    cluster.reach(START_US + 3 * HOUR_US)
    cluster.settle()
    wait_for(lambda: len(commanded(cluster, "container.stop")) == len(TENANTS), what="everybody stopped")
    cluster.publish(lines_of([event(tenant, "container.stopped", cluster.now_us) for tenant in TENANTS]))
    wait_for(lambda: len(told(cluster, "stop.confirmed")) == len(TENANTS), what="every stop confirmed")
    cluster.set_clock(cluster.now_us + MINUTE_US)

    cluster.signal(frozen, signal.SIGSTOP)
    # Enforcement's one address of balance is the first's: behind a load balancer it would be the healthy one.
    cluster.ask_of("balance", "balance-2" if frozen == "balance" else "balance")
    for tenant in PAYING:
        cluster.credit(("vn", tenant), 50_000_000, "second")
    cluster.publish(lines_of([event(tenant, "container.started", cluster.now_us) for tenant in TENANTS]))
    started = len(TENANTS) * 2

    def applied() -> bool:
        runs = cluster.query("enforcement", "select count(*) from resource where life::text like '%started%started%'")
        return int(runs[0][0]) == started // 2

    wait_for(applied, what="the second starts are known to enforcement")
    cluster.signal(frozen, signal.SIGCONT)
    # Who has not paid is stopped once balance has answered; by then the others would have been long before.
    wait_for(lambda: last_runs(cluster), timeout_seconds=60, what="the stop of who has not paid")
    cluster.settle()
    assert {run.partition("-")[0] for run in last_runs(cluster)} == {"poor"}
