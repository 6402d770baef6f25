"""Enforcement's database is set back: nobody is stopped for what was true yesterday, no command id means two things."""

import pytest

from shared.clock import HOUR_US, MINUTE_US, SECOND_US
from shared.topics import COMMANDS
from tests.fleet.making import lines_of
from tests.system.conftest import START_US, MakeCluster
from tests.system.test_debtors import commanded, deletions, event, read_events
from tests.system.test_restored_balance import SERVICES, begin, confirm, is_frozen, start_two, stops_of
from tests.system.waiting import wait_for

pytestmark = pytest.mark.process


@pytest.mark.parametrize("age_us", [10 * MINUTE_US, 23 * HOUR_US], ids=["ten minutes old", "a day old"])
def test_a_restored_enforcement_acts_on_what_is_true_now(make_cluster: MakeCluster, age_us: int) -> None:
    cluster = make_cluster(names=SERVICES)
    dump = cluster.dump("enforcement")
    begin(cluster)
    # The dump is from before everything; what was told since: two stops, and that one of the accounts recovered.
    cluster.credit(("vn", "gifted"), 900_000_000, "gift")
    cluster.publish(lines_of([event("gifted", "container.started", cluster.now_us + SECOND_US)]))
    cluster.reach(START_US + 2 * HOUR_US + age_us)
    cluster.settle()
    ids = [(item["id"], item["data"]) for item in read_events(cluster, COMMANDS)]
    cluster.kill("enforcement")
    cluster.restore_dump("enforcement", dump)
    start_two(cluster, "enforcement")
    cluster.reach(cluster.now_us + MINUTE_US)
    cluster.settle()
    cluster.reach(cluster.now_us + 25 * HOUR_US)
    cluster.settle()
    wait_for(lambda: is_frozen(cluster, "debtor"), what="the debtor's case is frozen")
    assert not deletions(cluster)
    assert len(stops_of(cluster, "ctr-gifted")) == 1, "its second run is paid for"
    confirm(cluster, "enforcement")
    wait_for(lambda: deletions(cluster) == {"ctr-debtor"}, what="the debtor's container", timeout_seconds=60)
    by_id: dict[str, set[str]] = {}
    for identifier, data in [*ids, *((item["id"], item["data"]) for item in read_events(cluster, COMMANDS))]:
        by_id.setdefault(identifier, set()).add(str(data))
    assert all(len(said) == 1 for said in by_id.values())
    assert "ctr-payer" not in commanded(cluster, "container.stop")
