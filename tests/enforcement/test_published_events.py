"""What is published and not applied yet keeps everything, on real PostgreSQL and Kafka."""

import pytest

from tests.enforcement.conftest import Open
from tests.enforcement.debt import examine, open_due
from tests.enforcement.world import account, account_event
from tests.support.topics import prefix_of


@pytest.fixture
def topic_prefix(request: pytest.FixtureRequest) -> str:
    """These tests publish: their topics are their own."""
    return prefix_of(request.node.nodeid)


async def test_an_event_that_was_published_and_not_applied_yet_freezes(open_world: Open) -> None:
    world = await open_due(open_world, "ctr-1", enforcement_catch_up_seconds_max=0.3)
    await world.publish("account.events.v1", account_event(account("ok", 3), world.clock.now_us()))
    await examine(world)
    assert await world.deleted() == []
    assert "published events are not applied yet" in (await world.cases())[0]["reason"]
    world.start("consumer")
    await world.settle_intake()
    assert (await world.cases())[0]["state"] == "cancelled"
