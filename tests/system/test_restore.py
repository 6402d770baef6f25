"""Metering's database is lost and an older backup takes its place: nobody is charged twice, nothing is taken back for
long, and the ledger never sees one sequence number with two contents.
"""

import json
from collections.abc import Sequence

import pytest

from shared.clock import MINUTE_US, SECOND_US, format_instant
from shared.topics import SERVICE_EVENTS
from tests.fleet.making import Fleet, make_fleet
from tests.system.checking import check_totals
from tests.system.cluster import Cluster
from tests.system.conftest import START_US, MakeCluster
from tests.system.failpoints import Kill

pytestmark = pytest.mark.process

BACKUP_US = START_US + 40 * MINUTE_US
LOST_US = START_US + 90 * MINUTE_US
FIRST_PRICE = {"region": "vn", "effective_from": format_instant(START_US), "gpu": {"never-priced": "0.300003"}}


def live_to(cluster: Cluster, lines: Sequence[str], through_us: int, seed: int) -> None:
    """Publish lines, late ones among them, and charge in two ticks what they say."""
    cluster.publish(lines, seed=seed)
    cluster.reach(through_us - 7 * MINUTE_US)
    cluster.settle()
    cluster.reach(through_us)
    cluster.settle()


def stopped_streams(cluster: Cluster) -> list[object]:
    return [stream for stream in cluster.status("balance")["streams"] if stream["stopped"]]


def corrections(cluster: Cluster) -> int:
    """How many entries of the ledger correct something, by restores or otherwise."""
    return int(cluster.query("balance", "select count(*) from entry where class <> 'charge'")[0][0])


def test_a_restored_backup_adopts_what_it_had_published(make_cluster: MakeCluster) -> None:
    fleet = make_fleet(51, START_US, hours=2, tenants=40, containers=120, volumes=30, usages=80)
    cluster = make_cluster()
    for book in fleet.books:
        cluster.put_book(book)
    lines, third = fleet.lines(), len(fleet.events) // 3
    live_to(cluster, lines[:third], BACKUP_US, 1)
    cluster.kill("metering")
    cluster.back_up("metering")
    cluster.start("metering")

    # What the backup will not know: events, usage, a first price that charges the past, and ticks.
    live_to(cluster, lines[third : 2 * third], LOST_US - 20 * MINUTE_US, 2)
    cluster.put_book(FIRST_PRICE)
    live_to(cluster, lines[2 * third :][: third // 2], LOST_US, 3)
    before, corrected = cluster.balances(), corrections(cluster)
    cluster.kill("metering")
    cluster.restore("metering")
    # The restored service dies with the batches adopted and nothing settled, and again while it settles.
    cluster.start("metering", Kill("services.metering.app.restore:MeteringRecovery.catch_up"), wait=False)
    cluster.wait_killed("metering")
    cluster.start("metering", Kill("services.metering.app.restore:settle", "after"), wait=False)
    cluster.wait_killed("metering")
    cluster.start("metering")
    cluster.settle()
    assert not stopped_streams(cluster)
    told = [json.loads(value or b"{}") for _, value in cluster.broker.read(SERVICE_EVENTS)]
    assert [(item["type"], item["data"]["incarnation"]) for item in told] == [("service.restored", 1)]
    assert cluster.balances() == before, "a clock that stands charges nobody, restored or not"
    assert corrections(cluster) == corrected, "nothing was taken back to be charged again"

    # It goes on as if nothing had been: late events still correct, ticks still charge.
    cluster.publish(lines[2 * third + third // 2 :], seed=4)
    cluster.publish(lines[: 2 * third], seed=5)
    cluster.reach(fleet.end_us)
    assert cluster.settle() == fleet.end_us
    priced = Fleet(fleet.regions, (*fleet.books, FIRST_PRICE), fleet.events, fleet.start_us, fleet.end_us)
    check_totals(cluster, priced, lines, fleet.end_us)
    assert not stopped_streams(cluster)


def test_what_came_in_while_metering_was_down_is_charged_with_the_settlement(make_cluster: MakeCluster) -> None:
    """Also a restart without any restore, which finds nothing ahead, even killed between acknowledgement and mark."""
    fleet = make_fleet(52, START_US, hours=2, tenants=20, containers=60, volumes=10, usages=40)
    cluster = make_cluster()
    for book in fleet.books:
        cluster.put_book(book)
    lines, half = fleet.lines(), len(fleet.events) // 2
    live_to(cluster, lines[:half], BACKUP_US, 1)
    cluster.kill("metering")
    cluster.back_up("metering")
    cluster.start("metering", Kill("shared.outbox:Relay._mark"), wait=False)
    cluster.reach(BACKUP_US + 20 * MINUTE_US)
    cluster.wait_killed("metering")
    cluster.start("metering")
    cluster.settle()
    assert cluster.query("metering", "select count(*) from restore_record") == [(0,)]
    assert "restore.noticed" not in cluster.logs()

    cluster.kill("metering")
    cluster.restore("metering")
    cluster.publish(lines[half:], seed=2)
    cluster.reach(fleet.end_us + 30 * SECOND_US)
    cluster.start("metering")
    cluster.settle()
    check_totals(cluster, fleet, lines, fleet.end_us + 30 * SECOND_US)
    assert not stopped_streams(cluster)
    assert cluster.status("metering")["unpublished"] == 0
