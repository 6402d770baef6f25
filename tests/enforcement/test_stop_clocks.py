"""Stops and clocks that were wrong: who is to be stopped is not left running for as long as a clock was ahead."""

from shared.clock import SECOND_US
from shared.topics import COMMANDS
from tests.enforcement.conftest import Open
from tests.enforcement.world import World, account, happened

AHEAD_SECONDS = 5 * 3600


async def stops(world: World) -> int:
    return len(await world.sent(COMMANDS, "container.stop"))


async def fall(world: World) -> None:
    now_us = world.clock.now_us()
    await world.learn(happened("created", "ctr-1", now_us), happened("started", "ctr-1", now_us + 1, "run"))
    await world.learn(account("exhausted", 2))


async def test_a_command_that_was_sent_by_a_clock_that_was_ahead_is_repeated_in_time(open_world: Open) -> None:
    world = await open_world()
    world.metering.charged["ctr-1"] = ("acme", "run")
    world.move(AHEAD_SECONDS)
    await fall(world)
    assert await stops(world) == 1
    world.move(-AHEAD_SECONDS + 31)
    await world.send_due_stops()
    assert await stops(world) == 2
    await world.send_due_stops()
    assert await stops(world) == 2, "and then at its usual pauses"
    world.move(61)
    await world.send_due_stops()
    assert await stops(world) == 3


async def test_a_stop_that_waits_for_its_first_command_does_not_wait_for_the_clock(open_world: Open) -> None:
    world = await open_world(enforcement_stops_per_minute_max=0)
    world.move(AHEAD_SECONDS)
    await fall(world)
    world.move(-AHEAD_SECONDS)
    settings = world.service.settings.model_copy(update={"enforcement_stops_per_minute_max": 10})
    world.service.enforce.settings = settings
    await world.send_due_stops()
    assert await stops(world) == 1


async def test_what_was_set_aside_by_a_clock_that_was_ahead_is_tried_at_once(open_world: Open) -> None:
    world = await open_world()
    world.metering.charged["ctr-1"] = ("other", "run")
    world.move(AHEAD_SECONDS)
    await fall(world)
    world.move(31)
    await world.send_due_stops()
    [aside] = await world.fetch("select next_at - last_at as pause, attempts from set_aside")
    assert aside["attempts"] == 1
    world.metering.charged["ctr-1"] = ("acme", "run")
    world.move(-AHEAD_SECONDS)
    await world.send_due_stops()
    assert await stops(world) == 2


async def test_a_stop_that_metering_objects_to_is_asked_about_ever_more_seldom(open_world: Open) -> None:
    world = await open_world()
    world.metering.charged["ctr-1"] = ("other", "run")
    await fall(world)
    for _ in range(120):
        world.move(30)
        await world.send_due_stops()
    [aside] = await world.fetch("select attempts, first_at, last_at from set_aside")
    assert 5 <= aside["attempts"] <= 9
    assert aside["last_at"] - aside["first_at"] > 1800 * SECOND_US
    assert world.metering.asked.count("POST /v1/runs") == aside["attempts"]
