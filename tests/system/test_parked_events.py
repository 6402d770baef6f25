"""What a platform says ahead of its time is applied before charging passes it: nothing is charged to be taken back."""

import pytest

from shared.clock import HOUR_US, MINUTE_US, SECOND_US
from tests.fleet.making import REGIONS, Fleet, lines_of, make_books
from tests.system.checking import check_totals
from tests.system.conftest import START_US, MakeCluster
from tests.system.test_debtors import event
from tests.system.waiting import wait_for

pytestmark = pytest.mark.process


def test_a_stop_that_was_parked_is_applied_before_its_time_is_charged(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    fleet = Fleet(REGIONS, make_books(START_US, 400), (), START_US, START_US)
    for book in fleet.books:
        cluster.put_book(book)
    stops_us = START_US + 20 * MINUTE_US
    events = [
        event("early", "container.created", START_US, gpu_sku="a30", gpu_count=1, persistent_storage_gb=0),
        event("early", "container.started", START_US + SECOND_US),
        event("early", "container.stopped", stops_us),
    ]
    cluster.publish(lines_of(events))
    wait_for(lambda: cluster.status("metering").get("parked") == 1, what="the stop is parked until its time")

    for hours in (5, 10, 15):
        cluster.reach(START_US + hours * HOUR_US)
        through_us = cluster.settle()
    check_totals(cluster, fleet, lines_of(events), through_us)
    assert cluster.query("balance", "select count(*) from entry where class <> 'charge'") == [(0,)]
