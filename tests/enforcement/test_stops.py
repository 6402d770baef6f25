"""Stops, on real PostgreSQL and Kafka."""

from dataclasses import replace

import pytest

from services.enforcement.clients.asking import OutOfReachError
from services.enforcement.rules.account import AccountKey
from shared.clock import SECOND_US
from shared.topics import COMMANDS
from tests.enforcement.conftest import Open
from tests.enforcement.world import ACME, World, account, happened, running
from tests.support.eventually import eventually
from tests.support.topics import prefix_of


@pytest.fixture
def topic_prefix(request: pytest.FixtureRequest) -> str:
    """These tests publish: their topics are their own."""
    return prefix_of(request.node.nodeid)


async def test_an_exhausted_account_has_its_running_containers_stopped(open_world: Open) -> None:
    world = await open_world()
    world.start("consumer", "relay")
    await world.tell("container.created", "ctr-1")
    run = await world.tell("container.started", "ctr-1")
    await world.tell("container.created", "ctr-2")
    await world.settle()
    assert await world.commands() == []

    await world.tell_account(account("exhausted", 2))
    await world.settle()

    [command] = await world.commands()
    assert command["type"] == "container.stop"
    assert command["subject"] == "ctr-1"
    assert command["id"] == f"ctr-1/platform/vn/{run}/stop/1"
    assert command["data"]["run"] == {"source": "platform/vn", "event_id": run}
    assert command["data"]["account_version"] == 2
    assert [event["type"] for event in await world.events()] == ["stop.requested"]


async def test_a_stop_is_repeated_until_its_run_is_confirmed(open_world: Open) -> None:
    world = await open_world()
    world.start("consumer", "relay", "stops", "stop-repeats")
    await world.tell("container.created", "ctr-1")
    await world.tell("container.started", "ctr-1", "run-1")
    await world.tell_account(account("exhausted", 2))
    await world.settle()
    world.clock.set(world.clock.now_us() + 30 * SECOND_US)
    await world.eventually_commands(2)

    await world.tell("container.stopped", "ctr-1")
    await world.settle()
    world.clock.set(world.clock.now_us() + 3600 * SECOND_US)
    await world.pass_stops()

    assert [command["data"]["attempt"] for command in await world.commands()] == [1, 2]
    assert [event["type"] for event in await world.events()] == ["stop.requested", "stop.confirmed"]


async def test_what_starts_on_an_exhausted_account_is_stopped_too(open_world: Open) -> None:
    world = await open_world(enforcement_stop_poll_seconds=3600)
    world.start("consumer", "relay", "stops")
    await world.tell_account(account("exhausted", 2))
    await world.tell("container.created", "ctr-1")
    await world.settle()
    await world.tell("container.started", "ctr-1", "run-1")
    # Once balance has said that it still is; nobody waits for the next poll.
    [command] = await world.eventually_commands(1)
    assert command["id"] == "ctr-1/platform/vn/run-1/stop/1"


async def test_a_late_stopped_of_an_old_run_does_not_confirm_the_new_one(open_world: Open) -> None:
    world = await open_world()
    world.start("consumer", "relay")
    await world.tell("container.created", "ctr-1", ago_seconds=100)
    await world.tell("container.started", "ctr-1", "run-1", ago_seconds=90)
    await world.tell_account(account("exhausted", 2))
    await world.tell("container.started", "ctr-1", "run-2", ago_seconds=10)
    await world.settle()
    await world.tell("container.stopped", "ctr-1", ago_seconds=50)
    await world.settle()
    open_runs = await world.fetch("select run_event_id from stop_request where ended_at is null")
    assert open_runs == [{"run_event_id": "run-2"}]


async def test_recovery_cancels_repeats_and_starts_nothing(open_world: Open) -> None:
    world = await open_world()
    world.start("consumer", "relay", "stops", "stop-repeats")
    await world.tell("container.created", "ctr-1")
    await world.tell("container.started", "ctr-1")
    await world.tell_account(account("exhausted", 2))
    await world.settle()
    await world.tell_account(account("ok", 3))
    await world.settle()
    world.clock.set(world.clock.now_us() + 3600 * SECOND_US)
    await world.pass_stops()
    assert len(await world.commands()) == 1
    assert [row["outcome"] for row in await world.fetch("select outcome from stop_request")] == ["cancelled"]

    await world.tell_account(account("exhausted", 4))
    await world.settle()
    assert [command["data"]["attempt"] for command in await world.commands()] == [1, 2]


STALE_SECONDS = 10


async def stop_requests(world: World) -> list[str | None]:
    return [row["outcome"] for row in await world.fetch("select outcome from stop_request order by resource_id")]


async def stopped(world: World) -> list[str]:
    return [command["subject"] for command in await world.sent(COMMANDS, "container.stop")]


async def test_what_starts_after_a_payment_that_is_not_heard_of_yet_runs_on(open_world: Open) -> None:
    """Balance has answered the customer, and its event is still on its way."""
    world = await open_world()
    await world.learn(account("exhausted", 2))
    world.move(STALE_SECONDS)
    world.balance.set(account("ok", 3))
    now_us = world.clock.now_us()
    await world.learn(happened("created", "ctr-1", now_us), happened("started", "ctr-1", now_us))
    await world.send_due_stops()
    assert await stopped(world) == []
    assert await stop_requests(world) == ["cancelled"]


async def test_an_old_event_that_is_heard_late_stops_only_who_is_still_to_be_stopped(open_world: Open) -> None:
    world = await open_world()
    late_us = world.clock.now_us()
    for name in ("acme", "poor"):
        key = AccountKey("vn", name)
        await world.learn(happened("created", name, late_us, key=key), happened("started", name, late_us, key=key))
    world.move(STALE_SECONDS)
    world.balance.set(account("ok", 3))
    world.balance.set(account("exhausted", 2, key=AccountKey("vn", "poor")))
    async with world.service.enforce.unit() as (_, unit):
        old = [replace(account("exhausted", 2, key=AccountKey("vn", n)), told_at_us=late_us) for n in ("acme", "poor")]
        await unit.save(await unit.learn(old))
    assert await stopped(world) == []
    async with running(world, "stops"):
        stops: list[str] = await eventually(lambda: stopped(world), what="a stop")
    assert stops == ["poor"]
    assert await stop_requests(world) == ["cancelled", None]


async def test_a_repeat_is_not_sent_to_who_has_paid_meanwhile(open_world: Open) -> None:
    world = await open_world()
    now_us = world.clock.now_us()
    await world.learn(happened("created", "ctr-1", now_us), happened("started", "ctr-1", now_us))
    await world.learn(account("exhausted", 2))
    assert await stopped(world) == ["ctr-1"]
    world.move(60)
    world.balance.set(account("ok", 3))
    await world.send_due_stops()
    assert await stopped(world) == ["ctr-1"]
    assert await stop_requests(world) == ["cancelled"]


async def test_a_stop_that_balance_does_not_answer_for_waits_and_stands_before_nobody(open_world: Open) -> None:
    world = await open_world()
    keys = [AccountKey("vn", name) for name in ("acme", "poor")]
    for key in keys:
        await world.learn(account("exhausted", 2, key=key))
    world.move(STALE_SECONDS)
    now_us = world.clock.now_us()
    for key in keys:
        name = key.tenant_id
        await world.learn(happened("created", name, now_us, key=key), happened("started", name, now_us, key=key))
    world.balance.down = True
    with pytest.raises(OutOfReachError):
        await world.service.stopping.send_first()
    world.balance.down = False
    world.balance.nonsense.add(ACME)
    assert await world.service.stopping.send_first() == 1
    assert await stopped(world) == ["poor"]
    world.balance.nonsense.clear()
    world.move(3600)
    await world.service.stopping.send_first()
    assert sorted(set(await stopped(world))) == ["acme", "poor"]
