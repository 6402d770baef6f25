"""Enforcement's every route, asked as no honest client asks."""

import httpx
import structlog

from services.enforcement.api import create_routes
from shared.consumer import OffsetConsumer
from shared.http import create_api, dead_letter_routes, set_aside_routes
from shared.topics import LIFECYCLE
from tests.enforcement.conftest import Open
from tests.enforcement.debt import open_due
from tests.support.hostile_requests import find_faults


async def test_no_input_is_answered_with_a_fault(open_world: Open) -> None:
    world = await open_due(open_world, "ctr-1")
    api = create_api("enforcement", readiness=dict)
    api.include_router(create_routes(world.service))
    pool, clock, topics = world.service.pool, world.clock, (LIFECYCLE,)

    async def apply(*_: object) -> None:
        raise AssertionError

    consumer = OffsetConsumer(pool, clock, apply, bootstrap="", topic_prefix="", topics=topics, group="e")
    api.include_router(dead_letter_routes(pool, consumer))
    api.include_router(set_aside_routes(pool, clock))
    transport = httpx.ASGITransport(api, raise_app_exceptions=False)
    with structlog.testing.capture_logs():
        async with httpx.AsyncClient(transport=transport, base_url="http://enforcement") as client:
            count, faults = await find_faults(client, api.openapi())
    assert not faults, "\n".join(faults)
    assert count > 100
