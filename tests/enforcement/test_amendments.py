"""What is taken back never was, on real PostgreSQL; and a sequence orders what clocks do not (tests F3)."""

import pytest

from services.enforcement.handlers import LifecycleFact, read_envelope
from services.enforcement.rules.lifecycle import FactKey
from shared.clock import SECOND_US, format_instant
from shared.topics import COMMANDS
from tests.enforcement.conftest import REGION, START_US, Open
from tests.enforcement.debt import GRACE_US, examine, open_due
from tests.enforcement.world import World, account, happened


async def stops(world: World) -> list[str]:
    return [command["id"] for command in await world.sent(COMMANDS, "container.stop")]


async def test_a_stop_that_is_retracted_makes_the_container_run_again(open_world: Open) -> None:
    world = await open_world()
    now_us = world.clock.now_us()
    await world.learn(
        happened("created", "ctr-1", now_us),
        happened("started", "ctr-1", now_us + 1, "run-1"),
        account("exhausted", 2),
    )
    await world.learn(happened("stopped", "ctr-1", now_us + 2, "stop-1"))
    assert await world.told() == ["stop.requested", "stop.confirmed"]
    await world.learn(happened("retracted", "ctr-1", now_us + 3, replaces=FactKey("platform/vn", "stop-1")))
    assert len(await stops(world)) == 1, "metering is asked first whose run an amendment left"
    world.metering.charged["ctr-1"] = ("acme", "run-1")
    await world.service.stopping.send_first()
    assert await stops(world) == [f"ctr-1/platform/vn/run-1/stop/{attempt}" for attempt in (1, 2)]
    assert await world.told() == ["stop.requested", "stop.confirmed", "stop.requested"]


async def test_a_start_that_is_retracted_is_stopped_no_more(open_world: Open) -> None:
    world = await open_world()
    now_us = world.clock.now_us()
    await world.learn(
        happened("created", "ctr-1", now_us),
        happened("started", "ctr-1", now_us + 1, "run-1"),
        account("exhausted", 2),
        happened("retracted", "ctr-1", now_us + 3, replaces=FactKey("platform/vn", "run-1")),
    )
    world.move(3600)
    await world.send_due_stops()
    assert await stops(world) == []


async def test_a_deletion_that_is_retracted_leaves_the_resource_to_be_deleted(open_world: Open) -> None:
    world = await open_due(open_world, "vol-1", "vol-2")
    await examine(world)
    now_us = world.clock.now_us()
    await world.learn(happened("deleted", "vol-1", now_us, "gone-1"))
    await world.learn(happened("retracted", "vol-1", now_us, "no-1", replaces=FactKey("platform/vn", "gone-1")))
    await world.learn(happened("deleted", "vol-2", now_us, "gone-2"))
    assert [case["state"] for case in await world.cases()] == ["carrying_out"], "vol-1 is still there"
    world.move(60)
    await examine(world)
    assert await world.deleted() == ["vol-1", "vol-2", "vol-1"]

    await world.learn(happened("deleted", "vol-1", world.clock.now_us(), "gone-3"))
    assert [case["state"] for case in await world.cases()] == ["done"]
    await world.learn(happened("retracted", "vol-1", now_us, "no-3", replaces=FactKey("platform/vn", "gone-3")))
    [case] = await world.cases()
    assert (case["state"], case["due_at"]) == ("scheduled", format_instant(world.clock.now_us() + GRACE_US))
    world.move(GRACE_US / SECOND_US)
    await examine(world)
    assert (await world.deleted())[3:] == ["vol-1"]


@pytest.mark.parametrize("verb", ["retracted", "stopped"])
@pytest.mark.parametrize("is_first", [False, True])
async def test_an_amendment_of_a_creation_is_refused_as_in_metering(
    open_world: Open,
    verb: str,
    is_first: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """Metering goes on charging: a container that was forgotten here would never be stopped."""
    world = await open_world()
    now_us = world.clock.now_us()
    created, started = happened("created", "ctr-1", now_us, "new"), happened("started", "ctr-1", now_us, "run-1")
    amendment = happened(verb, "ctr-1", now_us + 1, "slip", replaces=FactKey("platform/vn", "new"))
    await world.learn(*([amendment, created, started] if is_first else [created, started, amendment]))
    world.metering.charged["ctr-1"] = ("acme", "run-1")
    await world.learn(account("exhausted", 2))
    await world.send_due_stops()
    assert await stops(world) == ["ctr-1/platform/vn/run-1/stop/1"]


async def test_a_creation_that_replaces_another_takes_its_place_in_any_order(open_world: Open) -> None:
    world = await open_world()
    now_us = world.clock.now_us()
    for name, order in (("ctr-1", (0, 1)), ("ctr-2", (1, 0))):
        old = happened("created", name, now_us, f"{name}-old")
        new = happened("created", name, now_us + 1, f"{name}-new", replaces=FactKey("platform/vn", f"{name}-old"))
        for number in order:
            await world.learn((old, new)[number])
        await world.learn(happened("started", name, now_us + 2, "run-1"))
        world.metering.charged[name] = ("acme", "run-1")
    await world.learn(account("exhausted", 2))
    await world.send_due_stops()
    assert await stops(world) == ["ctr-1/platform/vn/run-1/stop/1", "ctr-2/platform/vn/run-1/stop/1"]


async def test_the_sequence_orders_what_a_clock_that_stepped_back_does_not(open_world: Open) -> None:
    world = await open_world()
    now_us = world.clock.now_us()
    await world.learn(
        happened("created", "ctr-1", now_us, sequence=1),
        happened("started", "ctr-1", now_us + 600 * SECOND_US, "run-1", sequence=2),
        happened("stopped", "ctr-1", now_us + 300 * SECOND_US, sequence=3),
        account("exhausted", 2),
    )
    assert await stops(world) == [], "it stopped, whatever the clock said"


async def test_a_stop_ends_the_run_that_it_names_alone(open_world: Open) -> None:
    world = await open_world()
    now_us = world.clock.now_us()
    await world.learn(
        happened("created", "ctr-1", now_us),
        happened("started", "ctr-1", now_us + 1, "run-1", run_id="first"),
        happened("started", "ctr-1", now_us + 2, "run-2", run_id="second"),
        happened("stopped", "ctr-1", now_us + 3, run_id="first"),
        account("exhausted", 2),
    )
    assert await stops(world) == ["ctr-1/platform/vn/run-2/stop/1"]


def test_an_amendment_is_read_from_its_event() -> None:
    envelope: dict[str, object] = {
        "specversion": "1.0",
        "id": "evt-9",
        "source": "platform/vn",
        "type": "event.retracted",
        "subject": "vol-1",
        "time": format_instant(START_US),
        "data": {"region": "vn", "tenant_id": "acme", "replaces": {"source": "platform/vn", "id": "evt-1"}},
    }
    known = read_envelope(envelope, {"vn": REGION}, START_US)
    assert isinstance(known, LifecycleFact)
    assert (known.fact.verb, known.fact.replaces) == ("retracted", FactKey("platform/vn", "evt-1"))
