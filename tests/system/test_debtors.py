"""A tenant that runs out of credit is stopped, and deleted after its grace period; nobody else is, whoever dies."""

import json
from typing import Any

import pytest

from shared.clock import HOUR_US, MINUTE_US, SECOND_US, format_instant, parse_instant
from shared.topics import ACCOUNT_EVENTS, COMMANDS, ENFORCEMENT_EVENTS
from tests.fleet.making import REGIONS, Event, Fleet, lines_of, make_books
from tests.system.checking import check_totals
from tests.system.cluster import Cluster
from tests.system.conftest import START_US, MakeCluster
from tests.system.failpoints import Kill
from tests.system.waiting import wait_for

pytestmark = pytest.mark.process

TENANTS = ("debtor", "payer", "saved")


def event(tenant: str, kind: str, at_us: int, resource: str = "ctr", **data: Any) -> Event:
    return {
        "specversion": "1.0",
        "id": f"{tenant}-{resource}-{kind}-{at_us}",
        "source": "platform/vn",
        "type": kind,
        "subject": f"{resource}-{tenant}",
        "time": format_instant(at_us),
        "data": {"region": "vn", "tenant_id": tenant, **data},
    }


def first_events() -> list[Event]:
    found = []
    for tenant in TENANTS:
        found.append(
            event(tenant, "container.created", START_US, gpu_sku="a30", gpu_count=1, persistent_storage_gb=500)
        )
        found.append(event(tenant, "container.started", START_US + SECOND_US))
        found.append(event(tenant, "volume.created", START_US + SECOND_US, "vol", size_gb=100))
    return found


def read_events(cluster: Cluster, topic: str) -> list[dict[str, Any]]:
    """Every event of a topic once."""
    found = {record["id"]: record for _, value in cluster.broker.read(topic) if (record := json.loads(value or b"{}"))}
    return list(found.values())


def commanded(cluster: Cluster, kind: str) -> set[str]:
    return {command["subject"] for command in read_events(cluster, COMMANDS) if command["type"] == kind}


def told(cluster: Cluster, kind: str) -> list[dict[str, Any]]:
    return [item for item in read_events(cluster, ENFORCEMENT_EVENTS) if item["type"] == kind]


def deletions(cluster: Cluster) -> set[str]:
    return commanded(cluster, "container.delete") | commanded(cluster, "volume.delete")


def test_only_the_debtor_is_deleted_whoever_is_killed_on_the_way(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(names=("metering", "balance", "enforcement", "payment"))
    events = first_events()
    fleet = Fleet(REGIONS, make_books(START_US, 400), (), START_US, START_US)
    for book in fleet.books:
        cluster.put_book(book)
    cluster.publish(lines_of(events))
    for tenant, credit_micros in (("debtor", 1_000_000), ("payer", 100_000_000), ("saved", 1_000_000)):
        cluster.credit(("vn", tenant), credit_micros, "first")
    cluster.reach(START_US + HOUR_US)
    cluster.settle()
    assert not commanded(cluster, "container.stop")

    # At zero both that have nothing left are stopped, until the platform says that they are.
    cluster.reach(START_US + 2 * HOUR_US)
    cluster.settle()
    wait_for(lambda: commanded(cluster, "container.stop") == {"ctr-debtor", "ctr-saved"}, what="stop commands")
    stops = [command for command in read_events(cluster, COMMANDS) if command["type"] == "container.stop"]
    started = {item["id"] for item in events if item["type"] == "container.started"}
    assert {command["data"]["run"]["event_id"] for command in stops} <= started
    stopped = [event(tenant, "container.stopped", cluster.now_us) for tenant in ("debtor", "saved")]
    events += stopped
    cluster.publish(lines_of(stopped))
    wait_for(lambda: len(told(cluster, "stop.confirmed")) == 2, what="both stops confirmed")

    # Half a day below zero; one is paid for again, which ends its case for good.
    cluster.reach(START_US + 12 * HOUR_US)
    cluster.settle()
    cluster.credit(("vn", "saved"), 50_000_000, "saved")
    wait_for(
        lambda: [item["data"]["tenant_id"] for item in told(cluster, "deletion.cancelled")] == ["saved"], what="saved"
    )
    [case] = [item for item in told(cluster, "deletion.scheduled") if item["data"]["tenant_id"] == "debtor"]
    due_us = parse_instant(case["data"]["due_at"])
    assert due_us == parse_instant(case["data"]["negative_since"]) + 86_400 * SECOND_US
    cluster.set_clock(due_us - MINUTE_US)
    cluster.settle()
    assert not deletions(cluster)

    # Due: the service dies with the permit in its hand, then with its redemption, then with the committed command.
    for kill in (
        Kill("services.enforcement.clients.balance:BalanceClient.ask_permit", "after"),
        Kill("services.enforcement.clients.balance:BalanceClient.redeem", "after"),
        Kill("shared.outbox:Relay._send"),
    ):
        cluster.kill("enforcement")
        cluster.set_clock(cluster.now_us if cluster.now_us >= due_us else due_us + MINUTE_US)
        cluster.settle()
        cluster.start("enforcement", kill, wait=False)
        cluster.wait_killed("enforcement")
        assert not deletions(cluster), f"deleted although it died: {kill}"
    cluster.start("enforcement")
    wait_for(lambda: deletions(cluster) == {"ctr-debtor", "vol-debtor"}, what="the debtor's two resources")
    for command in read_events(cluster, COMMANDS):
        if command["type"] != "container.stop":
            assert command["data"]["permit_id"]
            assert command["data"]["negative_since"] == case["data"]["negative_since"]

    # Nothing is charged for what was commanded to go, and everything for what was not.
    commands = {
        ("vn", item["data"]["resource_id"]): parse_instant(item["time"]) for item in told(cluster, "deletion.commanded")
    }
    gone = [
        event("debtor", "container.deleted", cluster.now_us),
        event("debtor", "volume.deleted", cluster.now_us, "vol"),
    ]
    events += gone
    cluster.publish(lines_of(gone))
    wait_for(lambda: len(told(cluster, "deletion.done")) >= 1, what="the deletion is done")
    cluster.reach(cluster.now_us + 3 * HOUR_US)
    through_us = cluster.settle()
    check_totals(cluster, fleet, lines_of(events), through_us, commands)
    assert deletions(cluster) == {"ctr-debtor", "vol-debtor"}
    assert commanded(cluster, "container.stop") == {"ctr-debtor", "ctr-saved"}
    states = {item["data"]["tenant_id"]: item["data"]["state"] for item in read_events(cluster, ACCOUNT_EVENTS)}
    assert states == {"debtor": "negative", "payer": "ok", "saved": "ok"}
