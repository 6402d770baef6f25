"""A process that was out of reach while its database was set back wakes: it ends instead of going on with what it had
in memory, and begins anew.
"""

import signal

import pytest

from shared.clock import HOUR_US, MINUTE_US, SECOND_US
from tests.fleet.making import REGIONS, Fleet, lines_of, make_books
from tests.system.checking import check_totals
from tests.system.conftest import START_US, MakeCluster
from tests.system.test_debtors import event
from tests.system.waiting import wait_for

pytestmark = pytest.mark.process


def test_a_twin_that_wakes_after_the_restore_begins_anew(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(processes=2)
    fleet = Fleet(REGIONS, make_books(START_US, 400), (), START_US, START_US)
    for book in fleet.books:
        cluster.put_book(book)
    names = [f"p{number}" for number in range(24)]
    events = [event(name, "container.created", START_US, gpu_sku="a30", gpu_count=1) for name in names]
    events += [event(name, "container.started", START_US + SECOND_US) for name in names]
    cluster.publish(lines_of(events))
    cluster.reach(START_US + HOUR_US)
    cluster.settle()
    dump = cluster.dump("metering")

    # What the dump does not know, and the twin has in memory.
    stops = [event(name, "container.stopped", cluster.now_us + SECOND_US) for name in names[:12]]
    cluster.publish(lines_of(stops))
    for _ in range(3):
        cluster.reach(cluster.now_us + 4 * MINUTE_US)
        cluster.settle()
    cluster.signal("metering-2", signal.SIGSTOP)
    cluster.kill("metering")
    cluster.restore_dump("metering", dump)
    cluster.start("metering")
    more = [event(name, "container.stopped", cluster.now_us + SECOND_US) for name in names[12:18]]
    cluster.publish(lines_of(more))
    for _ in range(3):
        cluster.reach(cluster.now_us + 2 * MINUTE_US)
        cluster.settle()

    cluster.signal("metering-2", signal.SIGCONT)
    wait_for(lambda: not cluster.is_running("metering-2"), what="the twin ends")
    assert "database.replaced" in cluster.logs()
    cluster.start("metering-2")
    last = [event(name, "container.stopped", cluster.now_us + SECOND_US) for name in names[18:]]
    cluster.publish(lines_of(last))
    cluster.reach(cluster.now_us + 10 * MINUTE_US)
    through_us = cluster.settle()
    check_totals(cluster, fleet, lines_of([*events, *stops, *more, *last]), through_us)
