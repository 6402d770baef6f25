"""Two processes of every service beside each other, which come and go: the totals are those of one."""

import pytest

from shared.clock import MINUTE_US
from tests.fleet.making import make_fleet
from tests.system.checking import check_totals
from tests.system.conftest import START_US, MakeCluster

pytestmark = pytest.mark.process


def test_either_process_of_a_service_may_die_and_come_back(make_cluster: MakeCluster) -> None:
    fleet = make_fleet(71, START_US, hours=1, tenants=20, containers=60, volumes=10, usages=40)
    cluster = make_cluster(names=("metering", "balance", "enforcement"), processes=2)
    for book in fleet.books:
        cluster.put_book(book)
    lines, half = fleet.lines(), len(fleet.events) // 2
    for number in range(2):
        cluster.publish(lines[number * half :][: half + 2], seed=number)
        cluster.reach(START_US + (number + 1) * 25 * MINUTE_US)
        gone = [name for name in cluster.process_names if name.endswith("-2") is (number % 2 == 0)]
        for name in gone:
            cluster.kill(name)
        for name in gone:
            cluster.start(name, wait=False)
        for name in gone:
            cluster.wait_ready(name)
    cluster.reach(fleet.end_us)
    assert cluster.settle() == fleet.end_us
    check_totals(cluster, fleet, lines, fleet.end_us)
