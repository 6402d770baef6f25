"""kill -9 at named points with a hundred batches in flight: not one micro lost, invented or charged twice.

Services are killed by themselves, at the n-th call of a function of theirs, and started again as they are.
"""

import pytest

from shared.clock import MINUTE_US
from tests.fleet.making import Fleet, make_fleet
from tests.system.checking import check_totals
from tests.system.cluster import Cluster
from tests.system.conftest import START_US, MakeCluster
from tests.system.failpoints import HoldRelay, Kill

pytestmark = pytest.mark.process

SHARDS = 128
BATCHES_IN_FLIGHT = 100

# After these, no consumer is needed to reach the point: ticks and the relay go on by themselves.
TICK_AND_RELAY = {
    "between database commit and broker acknowledgement": Kill("shared.outbox:Relay._send"),
    "with half of the batches at the broker": Kill("aiokafka:AIOKafkaProducer.send", call=60),
    "between acknowledgement and mark": Kill("shared.outbox:Relay._mark"),
    "in the middle of a tick": Kill("services.metering.store.shards:update_shards", call=3),
    "after a tick's commit, before it is remembered": Kill("services.metering.app.cache:ShardCache.commit", call=40),
}


def big_fleet(seed: int) -> Fleet:
    """So many accounts that every tick has a batch for each of a hundred shards and more."""
    return make_fleet(seed, START_US, hours=2, tenants=200, containers=500, volumes=100, usages=200)


def prepare(cluster: Cluster, fleet: Fleet) -> None:
    for book in fleet.books:
        cluster.put_book(book)
    cluster.reach(START_US + 30 * MINUTE_US)
    cluster.publish(fleet.lines()[: len(fleet.events) * 2 // 3])
    cluster.settle()


def test_metering_is_killed_anywhere(make_cluster: MakeCluster) -> None:
    fleet = big_fleet(31)
    cluster = make_cluster(shards=SHARDS)
    prepare(cluster, fleet)
    cluster.kill("metering")
    for number, (point, kill) in enumerate(TICK_AND_RELAY.items(), start=1):
        cluster.reach(START_US + (30 + number * 10) * MINUTE_US)
        faults = (
            (HoldRelay(BATCHES_IN_FLIGHT), kill) if "Relay" in kill.target or "Producer" in kill.target else (kill,)
        )
        cluster.start("metering", *faults, wait=False)
        cluster.wait_killed("metering")
        unpublished = cluster.in_flight()
        if len(faults) == 2:
            assert unpublished >= BATCHES_IN_FLIGHT, f"{point}: only {unpublished} batches were in flight"
    # The rest of the events come while nobody listens, and meet a process that dies with them half applied.
    cluster.publish(fleet.lines()[len(fleet.events) // 2 :])
    cluster.start("metering", Kill("services.metering.store.resources:write_resources", "after"), wait=False)
    cluster.wait_killed("metering")
    cluster.start("metering", wait=False)
    cluster.reach(fleet.end_us)
    assert cluster.settle() == fleet.end_us
    check_totals(cluster, fleet, fleet.lines(), fleet.end_us)


def test_balance_is_killed_anywhere(make_cluster: MakeCluster) -> None:
    fleet = big_fleet(32)
    # Small polls, so that a process which dies late has not posted everything before.
    cluster = make_cluster(shards=SHARDS, settings={"TOLLKEEPER_BALANCE_RECORDS_MAX": "32"})
    prepare(cluster, fleet)
    cluster.kill("balance")
    cluster.publish(fleet.lines()[len(fleet.events) // 2 :])
    for minutes in (50, 70, 90, 120):
        cluster.reach(START_US + minutes * MINUTE_US)
        cluster.settle_metering()
    # The relay first: only while accounts get into debt for the first time is there much to tell.
    for kill in (
        Kill("shared.outbox:Relay._mark"),
        Kill("services.balance.app.post:post_entries", "after", 1),
        Kill("services.balance.app.directory:Directory.remember", "before", 1),
    ):
        posted = sum(stream[0] for stream in cluster.query("balance", "select seq from charge_stream"))
        charged = sum(shard[0] for shard in cluster.query("metering", "select seq from shard"))
        assert charged - posted >= BATCHES_IN_FLIGHT, "too few batches are in flight for the point to mean anything"
        cluster.start("balance", kill, wait=False)
        cluster.wait_killed("balance")
    cluster.start("balance", wait=False)
    assert cluster.settle() == fleet.end_us
    check_totals(cluster, fleet, fleet.lines(), fleet.end_us)


def test_the_whole_system_is_killed_again_and_again(make_cluster: MakeCluster) -> None:
    """Both at once, at no point in particular, while events arrive and the clock moves."""
    fleet = big_fleet(33)
    cluster = make_cluster(shards=SHARDS)
    prepare(cluster, fleet)
    third = len(fleet.events) // 3
    for round_number in range(3):
        cluster.publish(fleet.lines()[round_number * third :][: third + 3], seed=round_number)
        cluster.reach(START_US + (40 + round_number * 20) * MINUTE_US)
        cluster.kill("metering")
        cluster.start("metering", wait=False)
        cluster.kill("balance")
        cluster.start("balance", wait=False)
    cluster.reach(fleet.end_us)
    assert cluster.settle() == fleet.end_us
    check_totals(cluster, fleet, fleet.lines(), fleet.end_us)
