"""What waits: keyed by topic, counted for "same id, other content", and its id given back when it dies."""

from typing import Any

import pytest

from services.metering.store.contradictions import list_contradictions
from shared.clock import HOUR_US, MINUTE_US, SECOND_US, format_instant
from shared.consumer import Poll
from shared.db import transaction
from shared.events.enforcement import EnforcementEvent
from shared.kafka import Record
from shared.topics import ENFORCEMENT_EVENTS
from tests.metering.meter import _TOPIC_ID, START_US, Meter, book, lifecycle, usage

AHEAD_US = START_US + 6 * MINUTE_US


async def prices(meter: Meter) -> None:
    services = {"tokens": {"unit": "1000-tokens", "price": "0.4"}}
    gpu, storage = {"a30": "0.6"}, {"persistent": "0.06"}
    await meter.put_book(book(START_US - HOUR_US, gpu=gpu, storage=storage, services=services))


def named(event: dict[str, Any], name: str, source: str = "one") -> dict[str, Any]:
    return {**event, "id": name, "source": source}


async def test_parked_usage_counts_for_same_id_other_content(meter: Meter) -> None:
    await prices(meter)
    await meter.take(usage("par-1", AHEAD_US, 1_000))
    await meter.take(usage("par-1", AHEAD_US, 1_000), usage("par-1", AHEAD_US, 999_000))
    assert meter.dead == ["same_id_other_content"]
    await meter.reach(AHEAD_US + MINUTE_US)
    assert await meter.charged() == {("vn", "acme"): 400_000}


async def test_lifecycle_and_usage_of_one_id_wait_beside_each_other(meter: Meter) -> None:
    await prices(meter)
    started = named(lifecycle("container.started", "c", START_US), "same-1")
    await meter.take(started)
    await meter.take(named(usage("u", AHEAD_US, 1_000), "same-1"))
    assert len(await meter.rows("select * from waiting_event")) == 2
    await meter.take(lifecycle("container.created", "c", START_US, gpu_sku="a30", gpu_count=1))
    await meter.reach(AHEAD_US + MINUTE_US)
    assert await meter.charged() == {("vn", "acme"): 400_000 + 7 * 10_000}
    assert await meter.rows("select * from waiting_event") == []


def commanded(resource_id: str, at_us: int, kind: str = "deletion.commanded", tenant_id: str = "acme") -> Record:
    event = EnforcementEvent.model_validate(
        {
            "id": f"{kind}-{resource_id}-{at_us}",
            "type": kind,
            "subject": resource_id,
            "time": format_instant(at_us),
            "data": {"region": "vn", "tenant_id": tenant_id, "resource_id": resource_id},
        }
    )
    return Record(ENFORCEMENT_EVENTS, _TOPIC_ID, 0, 0, None, event.model_dump_json().encode())


async def take_records(meter: Meter, *records: Record) -> None:
    async with transaction(meter.pool) as connection:
        await meter.intake.apply(connection, Poll(list(records)))


@pytest.mark.parametrize("order", ["command first", "creation first"])
async def test_a_deletion_commanded_before_its_resource_is_known_waits_for_it(meter: Meter, order: str) -> None:
    await prices(meter)
    created = lifecycle("container.created", "dc", START_US, gpu_count=0, persistent_storage_gb=1)
    command = commanded("dc", START_US + 40 * MINUTE_US)
    if order == "command first":
        await take_records(meter, command)
        await take_records(meter, command)
        await meter.take(created)
    else:
        await meter.take(created)
        await take_records(meter, command)
    await meter.reach(START_US + 2 * HOUR_US)
    assert await meter.charged() == {("vn", "acme"): 40 * 1_000}
    assert await meter.rows("select * from waiting_event") == []


async def test_a_deletion_that_was_given_up_before_its_resource_is_known_ends_nothing(meter: Meter) -> None:
    await prices(meter)
    given_up = commanded("dc", START_US + 50 * MINUTE_US, "deletion.abandoned")
    await take_records(meter, given_up, commanded("dc", START_US + 40 * MINUTE_US))
    await meter.take(lifecycle("container.created", "dc", START_US, gpu_count=0, persistent_storage_gb=1))
    await meter.reach(START_US + HOUR_US)
    assert await meter.charged() == {("vn", "acme"): 60_000}


async def test_a_commanded_deletion_under_another_tenant_is_listed(meter: Meter) -> None:
    await meter.take(lifecycle("container.created", "dc", START_US, gpu_count=0))
    await take_records(meter, commanded("dc", START_US + MINUTE_US, tenant_id="rival"))
    assert await meter.contradictions() == [("dc", "other_tenant")]


CREATED = lifecycle("container.created", "hp", START_US, gpu_sku="a30", gpu_count=1)
WRONG = named(lifecycle("container.started", "hp", START_US, tenant_id="rival"), "s")
RIGHT = named(lifecycle("container.started", "hp", START_US), "s")


@pytest.mark.parametrize(
    "polls", [[[WRONG], [CREATED], [RIGHT]], [[WRONG, CREATED, RIGHT]], [[WRONG], [CREATED, RIGHT]]]
)
async def test_an_event_that_waited_and_died_gives_its_id_back(meter: Meter, polls: list[list[dict[str, Any]]]) -> None:
    await prices(meter)
    for poll in polls:
        await meter.take(*poll)
    await meter.reach(START_US + HOUR_US)
    assert await meter.charged() == {("vn", "acme"): 600_000}
    assert await meter.rows("select count(*) from dead_letter where reason = 'other_tenant'") == [(1,)]


async def test_an_event_that_waited_and_died_is_refused_again_as_long_as_it_is_wrong(meter: Meter) -> None:
    await meter.take(WRONG)
    await meter.take(CREATED)
    await meter.take(WRONG)
    assert await meter.rows("select 1 from lifecycle_event where event_id = 's'") == []
    assert meter.dead == ["other_tenant"] * 2, "it is no duplicate of anything that was accepted"


@pytest.mark.parametrize("together", [True, False])
async def test_a_refused_event_and_its_mended_one_in_one_poll_or_two(meter: Meter, *, together: bool) -> None:
    await prices(meter)
    await meter.take(CREATED)
    far = named(lifecycle("container.started", "hp", START_US + 48 * HOUR_US), "s")
    if together:
        await meter.take(far, RIGHT)
    else:
        await meter.take(far)
        await meter.take(RIGHT)
    assert meter.dead == ["far_future"]
    await meter.reach(START_US + HOUR_US)
    assert await meter.charged() == {("vn", "acme"): 600_000}


@pytest.mark.parametrize("together", [True, False])
async def test_what_waits_holds_its_id_in_one_poll_as_in_two(meter: Meter, *, together: bool) -> None:
    """A pending event, then another one of its id under the right tenant: the first holds the id until it dies."""
    if together:
        await meter.take(WRONG, RIGHT, CREATED)
    else:
        await meter.take(WRONG)
        await meter.take(RIGHT)
        await meter.take(CREATED)
    dead = sorted(row[0] for row in await meter.rows("select reason from dead_letter"))
    assert dead == ["other_tenant", "same_id_other_content"]


async def test_contradictions_are_listed_with_their_resource_and_go_when_they_are_resolved(meter: Meter) -> None:
    stop = lifecycle("container.stopped", "x", START_US + 10 * SECOND_US, run_id="r")
    await meter.take(
        lifecycle("container.created", "x", START_US, gpu_sku="a30", gpu_count=1),
        stop,
        lifecycle("container.stopped", "x", START_US + 20 * SECOND_US),
    )
    assert await meter.contradictions() == [("x", "ends_no_run"), ("x", "ends_no_run")]
    await meter.take(lifecycle("container.started", "x", START_US + 30 * SECOND_US, run_id="r"))
    assert await meter.contradictions() == [("x", "ends_no_run")]
    deleted = lifecycle("container.deleted", "x", START_US + 40 * SECOND_US, sequence=1)
    late = lifecycle("container.started", "x", START_US + 50 * SECOND_US, sequence=1)
    await meter.take(deleted, late)
    assert await meter.contradictions() == [("x", "after_the_end"), ("x", "ends_no_run")]
    await meter.take(
        lifecycle("container.resized", "x", START_US + SECOND_US, gpu_count=2, sequence=7),
        lifecycle("container.resized", "x", START_US + 2 * SECOND_US, gpu_count=3, sequence=7),
        named(lifecycle("container.started", "x", START_US, tenant_id="rival"), "foreign"),
    )
    listed = await meter.contradictions()
    assert ("x", "other_tenant") in listed
    async with meter.pool.acquire() as connection:
        page: list[str] = [""] * 5
        found = []
        while True:
            items = await list_contradictions(
                connection, kind=None, region="vn", tenant_id=None, resource_id="x", after=page, limit=1
            )
            if not items:
                break
            found += [(item.resource_id, item.kind) for item in items]
            last = items[-1]
            page = [last.region, last.resource_id, last.kind, last.source, last.event_id]
    assert found == listed
