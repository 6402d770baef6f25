"""Whatever the order, repetition and delay in which events come: the ledger has what the oracle counts."""

import pytest

from shared.clock import SECOND_US
from shared.events.charges import read_batch
from shared.topics import CHARGES
from tests.fleet.disorder import delayed, shuffled_with_repeats
from tests.fleet.making import HOUR_US, Fleet, lines_of, make_fleet
from tests.oracle.instants import instant
from tests.system.checking import check_totals
from tests.system.cluster import Cluster
from tests.system.conftest import START_US, MakeCluster

pytestmark = pytest.mark.process
SETTLE_DELAY_SECONDS = 300
STEP_US = 120 * SECOND_US


def publish_books(cluster: Cluster, fleet: Fleet) -> None:
    for book in fleet.books:
        cluster.put_book(book)


def test_a_shuffled_repeated_and_delayed_file_settles_like_the_ordered_one(make_cluster: MakeCluster) -> None:
    """Two clusters, one file: one gets it in order, the other in pieces, out of order, repeated, as the clock moves."""
    fleet = make_fleet(11, START_US)
    ordered, disordered = make_cluster(), make_cluster(shards=3)
    for cluster in (ordered, disordered):
        publish_books(cluster, fleet)
    ordered.reach(fleet.end_us)
    ordered.publish(fleet.lines())
    lines = delayed(shuffled_with_repeats(fleet.lines(), 5), 6)
    quarter = len(lines) // 4
    for number in range(4):
        disordered.reach(START_US + number * HOUR_US)
        disordered.publish(lines[number * quarter : (number + 1) * quarter], seed=number)
    disordered.reach(fleet.end_us)
    disordered.publish(lines[4 * quarter :], seed=9)
    for cluster in (ordered, disordered):
        assert cluster.settle() == fleet.end_us
        # What lay too far ahead of the clock waited, and was not forgotten.
        check_totals(cluster, fleet, fleet.lines(), fleet.end_us)


def test_ticks_bill_the_same_as_corrections(make_cluster: MakeCluster) -> None:
    """Each event published when the clock reaches it: ticks bill it, and nothing has to be corrected."""
    fleet = make_fleet(12, START_US, hours=1, careless=0)
    cluster = make_cluster(settle_delay_seconds=SETTLE_DELAY_SECONDS)
    publish_books(cluster, fleet)
    waiting = list(fleet.events)
    clock_us = START_US
    while waiting or cluster.through_us() < fleet.end_us:
        clock_us += STEP_US
        due = [event for event in waiting if instant(event["time"]) <= clock_us]
        waiting = waiting[len(due) :]
        cluster.set_clock(clock_us)
        cluster.publish(lines_of(due))
        cluster.settle()
    found = check_totals(cluster, fleet, fleet.lines(), cluster.through_us())
    assert sum(sum(kinds.values()) for kinds in found.slots.values()) > 10_000
    batches = [read_batch(value) for _, value in cluster.broker.read(CHARGES) if value is not None]
    assert {kind for batch in batches for kind in batch.lines.classes} == {"charge"}
