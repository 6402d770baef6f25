"""What metering keeps back until an operator has looked is a reason not to delete; afterwards the deletion goes on."""

from typing import Any

import pytest

from shared.clock import DAY_US, HOUR_US, MINUTE_US, SECOND_US
from tests.fleet.making import REGIONS, Fleet, lines_of, make_books
from tests.system.cluster import Cluster
from tests.system.conftest import START_US, MakeCluster
from tests.system.test_debtors import deletions, event
from tests.system.waiting import wait_for

pytestmark = pytest.mark.process

NAMES = ("metering", "balance", "enforcement", "payment")
BELIEVING = {
    "TOLLKEEPER_SANITY_LIMITS": "on",
    "TOLLKEEPER_METERING_JUMP_SECONDS_MAX": "100000000",
    "TOLLKEEPER_METERING_GAP_SECONDS_MAX": "100000000",
    "TOLLKEEPER_METERING_ADVANCE_SECONDS_MAX": "10000000",
}


def put_books(cluster: Cluster) -> None:
    for book in Fleet(REGIONS, make_books(START_US, 400), (), START_US, START_US).books:
        cluster.put_book(book)


def pass_time(cluster: Cluster, through_us: int) -> None:
    cluster.reach(through_us)
    cluster.settle()


def wait_frozen(cluster: Cluster, reason: str) -> None:
    def frozen() -> bool:
        cases: list[dict[str, Any]] = cluster.get("enforcement", "/v1/deletion-cases")["deletion_cases"]
        return any(case["state"] == "frozen" and reason in case["reason"] for case in cases)

    wait_for(frozen, what=f"a case frozen because {reason}")
    assert not deletions(cluster)


def test_what_two_tenants_claim_is_not_deleted_for_the_debts_of_one(make_cluster: MakeCluster) -> None:
    """Its true owner has paid; the debtor was named by mistake, and first."""
    cluster = make_cluster(names=NAMES)
    put_books(cluster)
    cluster.credit(("vn", "owner"), 1_000_000_000, "first")
    cluster.credit(("vn", "debtor"), 1_000_000, "first")
    mistake = event("debtor", "volume.created", START_US, size_gb=3000) | {"subject": "vol"}
    truth = event("owner", "volume.created", START_US, size_gb=3000) | {"subject": "vol"}
    cluster.publish(lines_of([mistake]))
    pass_time(cluster, START_US + MINUTE_US)
    cluster.publish(lines_of([truth]))
    pass_time(cluster, START_US + 4 * HOUR_US)
    pass_time(cluster, START_US + 32 * HOUR_US)
    wait_frozen(cluster, f"metering keeps back: contradiction platform/vn/{truth['id']} (other_tenant) of vol")

    # An operator has found that the second claim was the mistake.
    [found] = cluster.get("metering", "/v1/contradictions", kind="other_tenant")["contradictions"]
    key = {name: found[name] for name in ("region", "resource_id", "kind", "source", "event_id")}
    closed = cluster.post("metering", "/v1/contradictions/close", {**key, "actor": "ops", "reason": "it is debtor's"})
    assert closed.is_success, closed.text
    for letter in cluster.dead_letters("metering").values():
        path = f"/v1/dead-letters/{letter['dead_id']}/close"
        assert cluster.post("metering", path, {"actor": "ops", "reason": "a mistake"}).is_success
    wait_for(lambda: deletions(cluster) == {"vol"}, what="the deletion goes on")


def test_a_parked_stop_keeps_the_deletion_away_that_it_would_make_wrong(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(names=NAMES, settings=BELIEVING)
    put_books(cluster)
    cluster.credit(("vn", "acme"), 150_000_000, "first")
    created = event("acme", "container.created", START_US, gpu_sku="a30", gpu_count=1, persistent_storage_gb=10)
    cluster.publish(lines_of([created, event("acme", "container.started", START_US + SECOND_US)]))
    pass_time(cluster, START_US + MINUTE_US)
    pass_time(cluster, START_US + 8 * DAY_US)
    # It is older than what can be believed without an operator.
    stopped = event("acme", "container.stopped", START_US + HOUR_US)
    cluster.publish(lines_of([stopped]))
    for days in (10, 11, 12):
        pass_time(cluster, START_US + days * DAY_US)
    assert cluster.balances()["vn", "acme"] < 0
    wait_frozen(cluster, f"metering keeps back: parked platform/vn/{stopped['id']} (too_old) of ctr-acme")

    word = {"source": "platform/vn", "event_id": stopped["id"], "actor": "ops", "reason": "the platform was away"}
    released = cluster.post("metering", "/v1/parked/release", word)
    assert released.is_success, released.text
    cluster.settle()
    assert cluster.balances()["vn", "acme"] > 140_000_000
    wait_for(
        lambda: (
            [case["state"] for case in cluster.get("enforcement", "/v1/deletion-cases")["deletion_cases"]]
            == ["cancelled"]
        ),
        what="the case is cancelled",
    )
    assert not deletions(cluster)
