"""A resource's id belongs to whoever creates it first, also if two transactions do so at one moment."""

import asyncio
import json
import uuid
from typing import Any

import asyncpg
import pytest

from services.metering.store.resources import Resource, load_resources, write_resources
from shared.clock import HOUR_US
from shared.consumer import Poll
from shared.db import is_transient
from shared.errors import TransientFault
from shared.kafka import Record
from shared.topics import LIFECYCLE
from tests.metering.meter import START_US, Meter, book, lifecycle
from tests.support.eventually import eventually
from tests.support.locks import count_lock_waits


def created_by(tenant_id: str, gpu_count: int) -> list[dict[str, Any]]:
    events = [
        lifecycle("container.created", "race-1", START_US, tenant_id=tenant_id, gpu_sku="a30", gpu_count=gpu_count),
        lifecycle("container.started", "race-1", START_US, tenant_id=tenant_id),
    ]
    return [{**event, "source": f"platform/{tenant_id}"} for event in events]


def poll_of(events: list[dict[str, Any]]) -> Poll:
    topic_id = uuid.UUID(int=7)
    return Poll([Record(LIFECYCLE, topic_id, 1, n, None, json.dumps(event).encode()) for n, event in enumerate(events)])


async def test_two_creations_of_one_id_at_one_moment_leave_one_life(meter: Meter) -> None:
    await meter.put_book(book(START_US - HOUR_US, gpu={"a30": "2.54"}))
    async with meter.pool.acquire() as first, meter.pool.acquire() as second:
        earlier, later = first.transaction(), second.transaction()
        await earlier.start()
        await later.start()
        await meter.intake.apply(first, poll_of(created_by("race-a", 1)))
        # The second began before the first committed: it saw no such resource and waits for its row.
        blocked = asyncio.create_task(meter.intake.apply(second, poll_of(created_by("race-b", 8))))
        await wait_for_lock(meter)
        await earlier.commit()
        with pytest.raises(asyncpg.UniqueViolationError) as fault:
            await blocked
        assert is_transient(fault.value), "the consumer tries the poll again"
        await later.rollback()
    again = poll_of(created_by("race-b", 8))
    async with meter.pool.acquire() as connection, connection.transaction():
        await meter.intake.apply(connection, again)
    assert [item.reason for item in again.dead] == ["other_tenant", "other_tenant"]
    await meter.reach(START_US + HOUR_US)
    assert await meter.charged() == {("vn", "race-a"): 2_540_000}
    await meter.check_m1()


async def wait_for_lock(meter: Meter) -> None:
    waits: int = await eventually(lambda: count_lock_waits(meter.pool), what="the wait for the first transaction")
    assert waits


async def test_a_resource_that_changed_since_it_was_read_is_not_written(meter: Meter) -> None:
    await meter.take(*created_by("race-a", 1))
    async with meter.pool.acquire() as connection:
        [resource] = await load_resources(connection, {("vn", "race-1")})
        assert isinstance(resource, Resource)
        # Somebody who does not hold the shard's lock writes the row between read and write.
        await connection.execute("update resource set version = version + 1")
        with pytest.raises(TransientFault):
            await write_resources(connection, [resource], {resource.key: resource.version})
        await write_resources(connection, [resource], {resource.key: resource.version + 1})
