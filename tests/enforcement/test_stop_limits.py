"""What bounds stop commands, on real PostgreSQL: a platform that never confirms is told for ever, at a bounded rate."""

import pytest

from services.enforcement.rules.account import AccountKey
from services.enforcement.store.breakers import take_allowance
from services.enforcement.store.stops import load_due_ids
from shared.clock import SECOND_US
from shared.db import transaction
from shared.topics import COMMANDS
from tests.enforcement.conftest import REGION, Open
from tests.enforcement.world import ACME, World, account, happened


async def start(world: World, *resource_ids: str) -> None:
    now_us = world.clock.now_us()
    for resource_id in resource_ids:
        await world.learn(happened("created", resource_id, now_us), happened("started", resource_id, now_us, "run"))


async def stops(world: World) -> list[str]:
    return [command["id"] for command in await world.sent(COMMANDS, "container.stop")]


async def test_a_platform_that_never_confirms_is_told_at_the_slowest_pace_for_ever(open_world: Open) -> None:
    world = await open_world()
    await start(world, "ctr-1")
    await world.learn(account("exhausted", 2))
    for _ in range(3600 // 10):
        world.move(10)
        await world.send_due_stops()
    ids = await stops(world)
    # Pauses of 30, 60, 120, 240 and then 300 seconds.
    assert ids == [f"ctr-1/platform/vn/run/stop/{attempt}" for attempt in range(1, 16)]
    commands = await world.sent(COMMANDS, "container.stop")
    assert {command["data"]["run"]["event_id"] for command in commands} == {"run"}


async def test_the_breaker_bounds_first_stops_and_the_rest_follows(open_world: Open) -> None:
    world = await open_world(enforcement_stops_per_minute_max=2)
    await start(world, *(f"ctr-{number}" for number in range(5)))
    await world.learn(account("exhausted", 2))
    await world.send_due_stops()
    assert len(await stops(world)) == 2
    for _ in range(2):
        world.move(60)
        await world.service.stopping.send_first()
    assert sorted(await stops(world)) == [f"ctr-{number}/platform/vn/run/stop/1" for number in range(5)]


async def test_the_breaker_bounds_repeats_by_themselves(open_world: Open) -> None:
    world = await open_world(enforcement_stop_repeats_per_minute_max=1)
    await start(world, *(f"ctr-{number}" for number in range(3)))
    await world.learn(account("exhausted", 2))
    world.move(60)
    await world.send_due_stops()
    assert len([stop for stop in await stops(world) if stop.endswith("/stop/2")]) == 1
    await start(world, "ctr-new")
    await world.service.stopping.send_first()
    assert (await stops(world))[-1] == "ctr-new/platform/vn/run/stop/1", "repeats use up nothing of a first stop's"


async def test_first_stops_that_are_held_back_do_not_stand_in_the_way_of_repeats(
    open_world: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.enforcement.app.enforce.BATCH", 2)
    world = await open_world(enforcement_stops_per_minute_max=0)
    await start(world, *(f"ctr-{number}" for number in range(3)))
    await world.learn(account("exhausted", 2))
    key = ACME._replace(tenant_id="told")
    await world.learn(happened("created", "ctr-told", 0, key=key), happened("started", "ctr-told", 0, "run", key=key))
    await world.learn(account("exhausted", 2, key=key))
    await world.fetch(
        "update stop_request set attempts = 1, next_attempt_at = requested_at + interval '30 s' "
        "where tenant_id = 'told'"
    )
    world.move(60)
    await world.send_due_stops()
    assert await stops(world) == ["ctr-told/platform/vn/run/stop/2"]


async def test_recovery_before_a_held_back_stop_sends_nothing(open_world: Open) -> None:
    world = await open_world(enforcement_stops_per_minute_max=0)
    await start(world, "ctr-1")
    await world.learn(account("exhausted", 2))
    await world.learn(account("ok", 3))
    world.move(60)
    await world.send_due_stops()
    assert await stops(world) == []


async def test_what_is_deleted_before_it_is_created_is_never_stopped(open_world: Open) -> None:
    world = await open_world()
    now_us = world.clock.now_us()
    await world.learn(account("exhausted", 2))
    await world.learn(happened("deleted", "ctr-1", now_us))
    await world.learn(happened("started", "ctr-1", now_us - 2 * SECOND_US))
    await world.learn(happened("created", "ctr-1", now_us - 3 * SECOND_US))
    assert await stops(world) == []


async def test_a_start_that_arrives_late_on_an_exhausted_account_is_stopped_by_its_run(open_world: Open) -> None:
    world = await open_world()
    now_us = world.clock.now_us()
    await world.learn(account("exhausted", 2))
    await world.learn(happened("started", "ctr-1", now_us - 60 * SECOND_US, "run-1"))
    assert await stops(world) == [], "whose it is, is not known before its creation"
    await world.learn(happened("created", "ctr-1", now_us - 90 * SECOND_US))
    await world.service.stopping.send_first()
    assert await stops(world) == ["ctr-1/platform/vn/run-1/stop/1"]
    await world.learn(happened("stopped", "ctr-1", now_us - 80 * SECOND_US))
    assert [row["outcome"] for row in await world.fetch("select outcome from stop_request")] == [None]


async def test_an_allowance_that_is_used_up_is_there_again_in_seconds(open_world: Open) -> None:
    world = await open_world(enforcement_stops_per_minute_max=1000)
    world.clock.set(world.clock.now_us() // (60 * SECOND_US) * 60 * SECOND_US)
    async with world.service.enforce.unit() as (connection, unit):
        assert await take_allowance(connection, "stops/vn", unit.now_us, 6 * SECOND_US, 100, 1000) == 100
    await start(world, "ctr-1")
    await world.learn(account("exhausted", 2))
    assert await stops(world) == []
    world.move(6)
    await world.send_due_stops()
    assert len(await stops(world)) == 1


@pytest.mark.parametrize("other", [AccountKey("jp", "acme"), AccountKey("vn", "poor")], ids=["region", "tenant"])
async def test_a_backlog_of_one_leaves_another_its_turn(open_world: Open, other: AccountKey) -> None:
    world = await open_world(enforcement_stops_per_minute_max=0, regions={"vn": REGION, "jp": REGION})
    await start(world, *(f"ctr-{number}" for number in range(5)))
    await world.learn(account("exhausted", 2))
    world.move(1)
    await world.learn(happened("created", "ctr-o", 0, key=other), happened("started", "ctr-o", 0, "run", key=other))
    await world.learn(account("exhausted", 2, key=other))
    world.move(60)
    async with transaction(world.service.pool) as connection:
        due = await load_due_ids(connection, world.clock.now_us(), 2, "first", 300 * SECOND_US)
    assert {key for key, _ in due} == {ACME, other}
