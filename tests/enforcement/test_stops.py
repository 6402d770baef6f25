"""Stops, on real PostgreSQL and Kafka."""

import pytest

from shared.clock import SECOND_US
from tests.enforcement.conftest import Open
from tests.enforcement.world import account
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
    world = await open_world()
    world.start("consumer", "relay")
    await world.tell_account(account("exhausted", 2))
    await world.tell("container.created", "ctr-1")
    await world.settle()
    await world.tell("container.started", "ctr-1", "run-1")
    await world.settle()
    assert [command["id"] for command in await world.commands()] == ["ctr-1/platform/vn/run-1/stop/1"]


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
