"""Commands go by the later of our clock and PostgreSQL's: one that is wrong does not keep them from being obeyed."""

import pytest

from services.enforcement.app.unit import later_us
from shared.clock import HOUR_US, SECOND_US, FixedClock, SystemClock, parse_instant
from shared.db import transaction
from shared.topics import COMMANDS, LIFECYCLE
from tests.enforcement.conftest import Open
from tests.enforcement.debt import GRACE_US, debtor, examine
from tests.enforcement.test_clock import ANY_ERROR, RealClock
from tests.enforcement.world import World, account, happened, lifecycle_event
from tests.support.topics import prefix_of

BEHIND_SECONDS = 150


@pytest.fixture
def clock() -> FixedClock:
    return RealClock(SystemClock().now_us() - BEHIND_SECONDS * SECOND_US)


async def expiry_us(world: World, *kinds: str) -> int:
    [command] = await world.sent(COMMANDS, *kinds)
    assert parse_instant(command["time"]) < parse_instant(command["data"]["expires_at"])
    return parse_instant(command["data"]["expires_at"])


@pytest.mark.parametrize("ahead_seconds", [0, BEHIND_SECONDS + HOUR_US // SECOND_US])
async def test_a_stop_arrives_before_it_expires(open_world: Open, ahead_seconds: int) -> None:
    world = await open_world()
    world.move(ahead_seconds)
    now_us = world.clock.now_us()
    await world.learn(happened("created", "ctr-1", now_us), happened("started", "ctr-1", now_us))
    await world.learn(account("exhausted", 2))
    expires_us = await expiry_us(world, "container.stop")
    present_us = max(SystemClock().now_us(), world.clock.now_us())
    assert present_us < expires_us <= present_us + 60 * SECOND_US

    world.move(30)
    await world.service.stopping.repeat()
    assert len(await world.sent(COMMANDS, "container.stop")) == 2, "repeats are due by our own clock"


async def test_a_deletion_arrives_before_it_expires(open_world: Open) -> None:
    """Where it is allowed at all: so far apart, clocks halt deletions unless the settings say otherwise."""
    world = await open_world(runtime="simulator", **ANY_ERROR, enforcement_clock_jump_seconds_max=10**9)
    world.clock.set(world.clock.now_us() - GRACE_US)
    await world.learn(happened("created", "vol-1", world.clock.now_us()), debtor(world))
    world.clock.set(world.clock.now_us() + GRACE_US)
    world.balance.clock = FixedClock(SystemClock().now_us())
    world.balance.ahead_seconds = -BEHIND_SECONDS
    await examine(world)
    assert SystemClock().now_us() < await expiry_us(world, "volume.delete")


class TestApart:
    """Its topics are its own."""

    @pytest.fixture
    def topic_prefix(self, request: pytest.FixtureRequest) -> str:
        return prefix_of(request.node.nodeid)

    @pytest.fixture
    def clock(self) -> FixedClock:
        return RealClock(SystemClock().now_us() - HOUR_US)

    async def test_what_starts_ahead_of_our_clock_alone_is_stopped_at_once(self, open_world: Open) -> None:
        world = await open_world()
        world.start("consumer")
        await world.learn(account("exhausted", 2))
        for verb in ("created", "started"):
            await world.publish(LIFECYCLE, lifecycle_event(f"container.{verb}", "ctr-1", verb, SystemClock().now_us()))
        await world.settle_intake()
        assert await world.fetch("select event_id from parked_event") == []
        await world.send_due_stops()
        assert [item["subject"] for item in await world.sent(COMMANDS, "container.stop")] == ["ctr-1"]


async def test_a_test_clock_is_alone(open_world: Open) -> None:
    world = await open_world()
    alone = FixedClock(world.clock.now_us())
    async with transaction(world.service.pool) as connection:
        assert await later_us(connection, alone) == alone.now_us()
