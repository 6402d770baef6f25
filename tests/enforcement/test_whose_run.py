"""Whose run a stop ends: metering is right wherever the order in which events came could matter."""

from collections.abc import Callable

import pytest

from services.enforcement.rules.account import AccountKey
from services.enforcement.rules.lifecycle import FactKey
from shared.topics import COMMANDS
from tests.enforcement.conftest import Open
from tests.enforcement.world import World, account, happened

OTHER = AccountKey("vn", "other")


async def stopped(world: World) -> list[str]:
    return [command["data"]["run"]["event_id"] for command in await world.sent(COMMANDS, "container.stop")]


async def run_and_fall(world: World, *contradictions: str) -> None:
    """Acme's container runs by `run`, what contradicts that is heard, and acme is at zero."""
    now_us = world.clock.now_us()
    later: dict[str, Callable[[], object]] = {
        "claim": lambda: happened("created", "ctr-1", now_us, key=OTHER),
        "creation": lambda: happened("created", "ctr-1", now_us, "again"),
        "content": lambda: happened("started", "ctr-1", now_us + 1, "run"),
        "amendment": lambda: happened("stopped", "ctr-1", now_us, replaces=FactKey("platform/vn", "nothing")),
    }
    await world.learn(happened("created", "ctr-1", now_us), happened("started", "ctr-1", now_us + 1, "run"))
    if "content" in contradictions:
        await world.learn(happened("started", "ctr-1", now_us + 2, "run"))
    else:
        for name in contradictions:
            await world.learn(later[name]())  # type: ignore[arg-type]
    await world.learn(account("exhausted", 2))


DOUBTS = ["claim", "creation", "content", "amendment"]


@pytest.mark.parametrize("doubt", DOUBTS)
async def test_what_contradicts_is_not_stopped_before_metering_says_whose_it_is(open_world: Open, doubt: str) -> None:
    world = await open_world()
    await run_and_fall(world, doubt)
    assert await stopped(world) == []
    world.metering.charged["ctr-1"] = ("other", "run")
    for _ in range(20):
        world.move(3600)
        await world.send_due_stops()
    assert await stopped(world) == [], "another account pays for it"
    [aside] = await world.fetch("select item, reason from set_aside")
    assert aside["item"] == "vn/acme/ctr-1"
    assert "charges another account" in aside["reason"]
    world.metering.charged["ctr-1"] = ("acme", "run")
    world.move(3600)
    await world.send_due_stops()
    assert await stopped(world) == ["run"]
    assert await world.fetch("select item from set_aside") == []


@pytest.mark.parametrize("down", [True, False])
async def test_a_metering_that_does_not_know_holds_up_no_stop_for_ever(open_world: Open, *, down: bool) -> None:
    """Out of reach, or by a run that is over here."""
    world = await open_world(enforcement_metering_wait_seconds_max=900)
    world.metering.charged["ctr-1"] = ("acme", None)
    world.metering.down = down
    await run_and_fall(world, "amendment")
    for _ in range(14):
        await world.send_due_stops()
        world.move(60)
    assert await stopped(world) == []
    world.move(3600)
    await world.send_due_stops()
    assert await stopped(world) == ["run"]


async def test_what_nothing_contradicts_is_stopped_at_once_also_without_metering(open_world: Open) -> None:
    world = await open_world()
    world.metering.down = True
    await run_and_fall(world)
    assert await stopped(world) == ["run"]
    world.move(60)
    await world.send_due_stops()
    assert await stopped(world) == ["run", "run"]
    # A repeat asks for everything: metering may have heard a claim that we have not.
    world.metering.down = False
    world.metering.charged["ctr-1"] = ("other", "run")
    world.move(3600)
    await world.send_due_stops()
    assert await stopped(world) == ["run", "run"]


async def hold_for_long(world: World) -> None:
    """Acme's stop is held back, ever longer: another account is charged for what acme was said to have created."""
    await run_and_fall(world, "claim")
    world.metering.charged["ctr-1"] = ("other", "run-2")
    for _ in range(10):
        world.move(3600)
        await world.send_due_stops()
    assert await stopped(world) == []


async def test_the_stop_of_whose_it_is_does_not_wait_behind_the_one_of_whose_it_is_not(open_world: Open) -> None:
    world = await open_world()
    await hold_for_long(world)
    await world.learn(account("exhausted", 2, key=OTHER))
    world.move(31)
    await world.service.charged_runs.compare()
    await world.send_due_stops()
    assert await stopped(world) == ["run-2"]


async def test_the_stop_of_a_new_run_does_not_wait_behind_the_one_of_an_old_run(open_world: Open) -> None:
    world = await open_world()
    await hold_for_long(world)
    now_us = world.clock.now_us()
    world.metering.charged["ctr-1"] = ("acme", "run-3")
    await world.learn(happened("stopped", "ctr-1", now_us, "end"), happened("started", "ctr-1", now_us + 1, "run-3"))
    await world.send_due_stops()
    assert await stopped(world) == ["run-3"]
