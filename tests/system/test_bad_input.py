"""Records that make no sense, and a clock that makes none: nobody is charged for them, nobody waits for them, nothing
is lost, and once they are mended the totals are those of a run in which nothing was ever wrong.
"""

import json
import random

import pytest

from shared.clock import DAY_US, SECOND_US, format_instant
from shared.topics import LIFECYCLE, USAGE
from tests.fleet.hostile import Hostile, hostile_records
from tests.fleet.making import Event, Fleet, make_fleet
from tests.system.broker import Outgoing, outgoing
from tests.system.checking import check_totals
from tests.system.cluster import Cluster
from tests.system.conftest import START_US, MakeCluster
from tests.system.waiting import wait_for

pytestmark = pytest.mark.process


def as_outgoing(record: Hostile) -> Outgoing:
    return Outgoing(USAGE if record.usage else LIFECYCLE, record.value, record.key, record.headers)


def contradictions(fleet: Fleet) -> list[Event]:
    """Events that contradict accepted ones, about containers of the fleet."""
    created = [event for event in fleet.events if event["type"] == "container.created"][:3]
    again = {**created[0], "id": "created-again"}
    changed = {**created[1], "time": format_instant(fleet.start_us + 1)}
    stolen = {**created[2], "id": "stolen", "type": "container.stopped"}
    stolen["data"] = {**stolen["data"], "tenant_id": "thief"}
    return [again, changed, stolen]


def test_bad_records_hurt_nobody_and_count_once_mended(make_cluster: MakeCluster) -> None:
    fleet = make_fleet(21, START_US, hours=1)
    cluster = make_cluster()
    for book in fleet.books:
        cluster.put_book(book)
    cluster.reach(fleet.end_us)
    records = hostile_records("vn", "tenant-0", fleet.end_us)
    half = len(fleet.events) // 2
    cluster.publish(fleet.lines()[:half])
    cluster.settle()
    bad = contradictions(Fleet(fleet.regions, fleet.books, fleet.events[:half], fleet.start_us, fleet.end_us))
    rest = [*map(as_outgoing, records), *(outgoing(json.dumps(event)) for event in bad)]
    mixed = [*rest, *map(outgoing, fleet.lines()[half:])]
    order = list(range(len(mixed)))
    random.Random(2).shuffle(order)
    sent = cluster.produce([mixed[number] for number in order])
    positions = dict(zip(order, sent, strict=True))

    cluster.settle()
    alive = [record.value for record in records if record.fate != "dead" and record.value is not None]
    lines = [*(line.encode() for line in fleet.lines()), *alive]
    check_totals(cluster, fleet, lines, fleet.end_us)
    dead = cluster.dead_letters("metering")
    expected = {positions[number] for number, record in enumerate(records) if record.fate == "dead"}
    expected |= {positions[number] for number in range(len(records), len(rest))}
    assert set(dead) == expected
    assert all(item["reason"] for item in dead.values())
    assert [event["resource_id"] for event in cluster.get("metering", "/v1/pending")["pending"]] == ["bad-orphan"]

    for number, record in enumerate(records):
        if record.mended is not None:
            cluster.replay("metering", dead[positions[number]]["dead_id"], json.dumps(record.mended))
            lines.append(json.dumps(record.mended).encode())
    mended = _mend_what_waits(cluster, fleet, records, lines)
    cluster.settle()
    check_totals(cluster, mended, lines, fleet.end_us)
    left = {record.name for record in records if record.fate == "dead" and record.mended is None}
    assert len(cluster.dead_letters("metering")) == len(left) + len(bad)


def _mend_what_waits(cluster: Cluster, fleet: Fleet, records: list[Hostile], lines: list[bytes]) -> Fleet:
    """Publish the creation that an event waits for, and the first price of the unknown SKU, back-dated."""
    orphan = next(json.loads(record.value or b"") for record in records if record.name == "never created")
    created = {**orphan, "id": "orphan-created", "type": "container.created"}
    lines.append(json.dumps(created).encode())
    cluster.publish([lines[-1]])
    book = {"region": "vn", "effective_from": format_instant(START_US), "gpu": {"unheard-of": "1.230001"}}
    cluster.put_book(book)
    return Fleet(fleet.regions, (*fleet.books, book), fleet.events, fleet.start_us, fleet.end_us)


def test_a_clock_that_jumps_two_years_charges_nobody(make_cluster: MakeCluster) -> None:
    """With the sanity limits on, ticks halt until an operator says that the clock is right again."""
    fleet = make_fleet(22, START_US, hours=1)
    limits_on = {
        "TOLLKEEPER_SANITY_LIMITS": "on",
        "TOLLKEEPER_METERING_CORRECTION_HOURS_MAX": "1000000",
    }
    cluster = make_cluster(settings=limits_on)
    for book in fleet.books:
        cluster.put_book(book)
    cluster.publish(fleet.lines()[: len(fleet.events) // 2])
    cluster.reach(START_US + 1200 * SECOND_US)
    cluster.settle()

    cluster.set_clock(cluster.now_us + 730 * DAY_US)
    wait_for(lambda: cluster.status("metering")["halted"], what="the ticks halt")
    assert cluster.through_us() == START_US + 1200 * SECOND_US, "a wild clock was believed"
    cluster.reach(fleet.end_us)
    # By a clock that is still two years ahead, events of now would be parked as too old.
    wait_for(lambda: cluster.status("metering")["now"] == format_instant(cluster.now_us), what="the clock is seen")
    cluster.publish(fleet.lines()[len(fleet.events) // 2 :])
    ends = cluster.broker.ends(LIFECYCLE, USAGE)

    def resumed() -> bool:
        # The jump back is a jump too: whoever resumes before it was noticed does so again.
        if cluster.status("metering")["halted"]:
            word = {"actor": "tests/system", "reason": "the clock is right again"}
            assert cluster.post("metering", "/v1/resume", word).is_success
        return not cluster.unsettled(ends)

    wait_for(resumed, what="ticks go on")
    check_totals(cluster, fleet, fleet.lines(), cluster.through_us())
