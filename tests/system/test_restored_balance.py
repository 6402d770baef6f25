"""Balance's database is lost and a dump takes its place: what is on topics is posted again, what came over HTTP is
listed, debtors are stopped, and nobody is deleted before an operator has confirmed.
"""

from typing import Any

import pytest

from shared.clock import HOUR_US, MINUTE_US, SECOND_US
from shared.topics import ACCOUNT_EVENTS, COMMANDS, SERVICE_EVENTS
from tests.fleet.making import REGIONS, Event, Fleet, lines_of, make_books
from tests.system.checking import check_totals
from tests.system.cluster import Cluster
from tests.system.conftest import START_US, MakeCluster
from tests.system.test_debtors import commanded, deletions, event, read_events
from tests.system.waiting import wait_for

pytestmark = pytest.mark.process

GIFT_MICROS = 60_000_000
SERVICES = ("metering", "balance", "enforcement", "payment")
EVERYBODY = {"debtor": 1_000_000, "gifted": 1_000_000, "payer": 900_000_000}


def begin(cluster: Cluster) -> tuple[Fleet, list[Event]]:
    """Two tenants that are below zero after two hours, and one that pays."""
    events = []
    for tenant in EVERYBODY:
        created = event(tenant, "container.created", START_US, gpu_sku="a30", gpu_count=1, persistent_storage_gb=500)
        events += [created, event(tenant, "container.started", START_US + SECOND_US)]
    fleet = Fleet(REGIONS, make_books(START_US, 400), (), START_US, START_US)
    for book in fleet.books:
        cluster.put_book(book)
    cluster.publish(lines_of(events))
    for tenant, micros in EVERYBODY.items():
        cluster.credit(("vn", tenant), micros, "first")
    cluster.reach(START_US + 2 * HOUR_US)
    cluster.settle()
    wait_for(lambda: commanded(cluster, "container.stop") == {"ctr-debtor", "ctr-gifted"}, what="both stopped")
    stopped = [event(tenant, "container.stopped", cluster.now_us) for tenant in ("debtor", "gifted")]
    cluster.publish(lines_of(stopped))
    cluster.settle()
    return fleet, events + stopped


def start_two(cluster: Cluster, service: str) -> None:
    """Start two processes of a service at once."""
    cluster.add_process(f"{service}-2")
    for name in (service, f"{service}-2"):
        cluster.start(name, wait=False)
    for name in (service, f"{service}-2"):
        cluster.wait_ready(name)


def stops_of(cluster: Cluster, subject: str) -> list[dict[str, Any]]:
    stops = [item for item in read_events(cluster, COMMANDS) if item["type"] == "container.stop"]
    return [item for item in stops if item["subject"] == subject]


def confirm(cluster: Cluster, service: str, incarnation: int = 1) -> None:
    word = {"actor": "sre", "reason": "looked at what was lost"}
    answer = cluster.post(service, f"/v1/restores/{incarnation}/confirm", word)
    assert answer.is_success, answer.text


@pytest.mark.parametrize("age_us", [10 * MINUTE_US, 23 * HOUR_US], ids=["ten minutes old", "a day old"])
def test_a_restored_balance_posts_again_and_lists_what_it_lost(make_cluster: MakeCluster, age_us: int) -> None:
    cluster = make_cluster(names=SERVICES)
    fleet, events = begin(cluster)
    dump = cluster.dump("balance")

    # What the dump does not know: an operator's credit, a run that it pays for, a new account, and charges.
    cluster.credit(("vn", "gifted"), GIFT_MICROS, "gift")
    cluster.credit(("vn", "newcomer"), 5_000_000, "welcome")
    again = event("gifted", "container.started", cluster.now_us + SECOND_US)
    events.append(again)
    cluster.publish(lines_of([again]))
    for number in range(1, 4):
        cluster.reach(START_US + 2 * HOUR_US + age_us * number // 3)
        cluster.settle()
    before = cluster.balances()
    versions = versions_of(cluster)
    cluster.kill("balance")
    cluster.restore_dump("balance", dump)
    # More to post, and both processes start at once.
    cluster.reach(cluster.now_us + MINUTE_US)
    cluster.settle_metering()
    start_two(cluster, "balance")
    through_us = cluster.settle()

    cluster.credits["vn", "gifted"] -= GIFT_MICROS
    cluster.credits["vn", "newcomer"] -= 5_000_000
    check_totals(cluster, fleet, lines_of(events), through_us)
    [restore] = cluster.get("balance", "/v1/restores")["restores"]
    assert (restore["incarnation"], restore["confirmed_at"]) == (1, None)
    lost = {(item["kind"], item["item"]): item for item in cluster.get("balance", "/v1/restores/1/lost")["lost"]}
    assert {key for key in lost if key[0] == "credit"} == {
        ("credit", "vn/gifted/adjustment/gift"),
        ("credit", "vn/newcomer/adjustment/welcome"),
    }
    assert lost["credit", "vn/gifted/adjustment/gift"]["told"]["amount_micros"] == GIFT_MICROS
    newcomer = lost["account", "vn/newcomer"]
    assert (newcomer["told"]["balance_micros"], newcomer["present"]["balance_micros"]) == (5_000_000, 0)
    assert cluster.balances()["vn", "gifted"] < before["vn", "gifted"] - GIFT_MICROS + 1

    # Versions of the new incarnation win, also where the old future told more of them.
    told = [item for item in read_events(cluster, ACCOUNT_EVENTS) if item["type"] == "account.restated"]
    assert {item["data"]["tenant_id"] for item in told} >= {"gifted", "newcomer"}
    after = versions_of(cluster)
    assert all(after[tenant] >= 2**40 > versions[tenant] for tenant in versions)
    assert len(read_events(cluster, SERVICE_EVENTS)) == 1, "two processes, one restore"

    # The one whose credit is lost is in debt by the books, and its second run is stopped.
    wait_for(
        lambda: any(stop["data"]["run"]["event_id"] == again["id"] for stop in stops_of(cluster, "ctr-gifted")),
        what="the second run of gifted is stopped",
    )
    assert not stops_of(cluster, "ctr-payer")

    # A day and more below zero: nobody goes before the operator, who first gives again what was lost.
    cluster.reach(cluster.now_us + 25 * HOUR_US)
    cluster.settle()
    wait_for(lambda: is_frozen(cluster, "debtor"), what="the debtor's case is frozen")
    assert not deletions(cluster)
    cluster.credit(("vn", "gifted"), GIFT_MICROS, "gift")
    present = {item["item"]: item["present"] for item in cluster.get("balance", "/v1/restores/1/lost")["lost"]}
    assert present["vn/gifted/adjustment/gift"] == {"given_again": True}
    confirm(cluster, "balance")
    wait_for(lambda: deletions(cluster) == {"ctr-debtor"}, what="the debtor's container", timeout_seconds=60)
    assert cluster.audit() == []


def versions_of(cluster: Cluster) -> dict[str, int]:
    return dict(cluster.query("balance", "select tenant_id, account_version from account"))


def is_frozen(cluster: Cluster, tenant: str) -> bool:
    cases = cluster.get("enforcement", f"/v1/deletion-cases/vn/{tenant}")["deletion_cases"]
    return any(case["state"] == "frozen" and "confirmed" in (case["reason"] or "") for case in cases)
