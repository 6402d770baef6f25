"""A run that metering charges an empty account for is stopped, whatever our own books have of it."""

from services.enforcement.rules.account import AccountKey
from shared.topics import COMMANDS, ENFORCEMENT_EVENTS
from tests.enforcement.conftest import Open
from tests.enforcement.world import ACME, World, account, happened

OTHER = AccountKey("vn", "other")


async def commands(world: World) -> list[tuple[str, str]]:
    """(tenant, run) of every stop command."""
    sent = await world.sent(COMMANDS, "container.stop")
    return [(item["data"]["tenant_id"], item["data"]["run"]["event_id"]) for item in sent]


async def look(world: World) -> None:
    """Let half a minute pass, compare with metering, and send what is due."""
    world.move(31)
    await world.service.charged_runs.compare()
    await world.send_due_stops()


async def outcomes(world: World) -> list[tuple[str, str | None, bool]]:
    rows = await world.fetch("select run_event_id, outcome, metering_only from stop_request order by 1")
    return [(row["run_event_id"], row["outcome"], row["metering_only"]) for row in rows]


async def test_a_run_that_was_never_heard_of_is_stopped_until_metering_says_that_it_is_over(open_world: Open) -> None:
    world = await open_world()
    world.metering.charged |= {"ctr-1": ("acme", "run"), "ctr-2": ("acme", None), "ctr-3": ("rich", "run-3")}
    await world.learn(account("exhausted", 2))
    await world.service.charged_runs.compare()
    assert await commands(world) == [], "what has just fallen to zero is stopped by what we hear ourselves"
    await look(world)
    assert await commands(world) == [("acme", "run")]
    await look(world)
    assert await commands(world) == [("acme", "run")] * 2, "repeated until it is confirmed"
    # Without a new word of metering nothing is repeated, and nothing ends.
    world.metering.down = True
    world.move(3600)
    await world.send_due_stops()
    assert await commands(world) == [("acme", "run")] * 2
    world.metering.down = False
    world.metering.charged["ctr-1"] = ("acme", None)
    world.move(3600)
    await world.send_due_stops()
    assert await outcomes(world) == [("run", "confirmed", True)]
    assert [item["type"] for item in await world.sent(ENFORCEMENT_EVENTS)] == ["stop.requested", "stop.confirmed"]
    await look(world)
    assert await commands(world) == [("acme", "run")] * 2


async def test_an_account_that_recovers_ends_it(open_world: Open) -> None:
    world = await open_world(enforcement_stops_per_minute_max=0)
    world.metering.charged["ctr-1"] = ("acme", "run")
    await world.learn(account("exhausted", 2))
    await look(world)
    assert await outcomes(world) == [("run", None, True)]
    await world.learn(account("ok", 3))
    assert await outcomes(world) == [("run", "cancelled", True)]
    await look(world)
    assert await commands(world) == []
    # Another debt is another reason.
    await world.learn(account("exhausted", 4))
    await look(world)
    assert await outcomes(world) == [("run", None, True)]


async def test_what_we_hear_late_is_a_request_like_others(open_world: Open) -> None:
    world = await open_world()
    world.metering.charged["ctr-1"] = ("acme", "run")
    await world.learn(account("exhausted", 2))
    await look(world)
    now_us = world.clock.now_us()
    await world.learn(happened("created", "ctr-1", now_us), happened("started", "ctr-1", now_us + 1, "run"))
    assert await outcomes(world) == [("run", None, False)]
    await world.learn(happened("stopped", "ctr-1", now_us + 2))
    assert await outcomes(world) == [("run", "confirmed", False)]
    assert await commands(world) == [("acme", "run")]


async def test_it_is_stopped_for_whom_metering_charges_and_not_for_whom_we_thought(open_world: Open) -> None:
    """Both are at zero: by our books the run is the other account's."""
    world = await open_world()
    now_us = world.clock.now_us()
    await world.learn(
        happened("created", "ctr-1", now_us, key=OTHER), happened("started", "ctr-1", now_us + 1, "run", key=OTHER)
    )
    world.metering.charged["ctr-1"] = ("acme", "run")
    await world.learn(happened("created", "ctr-1", now_us, "claim"), account("exhausted", 2))
    await world.learn(account("exhausted", 2, key=OTHER))
    await world.send_due_stops()
    assert await commands(world) == []
    await look(world)
    assert await commands(world) == [("acme", "run")]
    await look(world)
    await world.learn(account("exhausted", 3, key=OTHER))
    assert await outcomes(world) == [("run", None, True)]
    assert {tenant for tenant, _ in await commands(world)} == {"acme"}
    # It is over; by our own books it goes on, and metering does not charge anybody for it.
    world.metering.charged["ctr-1"] = ("acme", None)
    for _ in range(3):
        world.move(3600)
        await world.send_due_stops()
    assert {tenant for tenant, _ in await commands(world)} == {"acme"}


async def test_a_row_that_can_not_be_read_saves_no_run(open_world: Open) -> None:
    world = await open_world()
    now_us = world.clock.now_us()
    for name in ("ctr-1", "ctr-2"):
        await world.learn(happened("created", name, now_us), happened("started", name, now_us + 1, f"{name}-run"))
        world.metering.charged[name] = ("acme", f"{name}-run")
    await world.execute("update resource set life = '{}' where resource_id = 'ctr-1'")
    await world.learn(account("exhausted", 2))
    assert await commands(world) == [("acme", "ctr-2-run")]
    await look(world)
    assert ("acme", "ctr-1-run") in await commands(world)
    assert await world.fetch("select item from set_aside where kind <> 'resource'") == []


async def test_what_runs_by_our_books_too_is_asked_for_once(open_world: Open) -> None:
    world = await open_world()
    now_us = world.clock.now_us()
    await world.learn(happened("created", "ctr-1", now_us), happened("started", "ctr-1", now_us + 1, "run"))
    world.metering.charged["ctr-1"] = ("acme", "run")
    await world.learn(account("exhausted", 2))
    await look(world)
    assert await outcomes(world) == [("run", None, False)]
    assert (await world.cases(ACME)) == []
