"""Deletions that nobody confirms, on real PostgreSQL: repeated ever more seldom, and in nobody's way."""

from services.enforcement.rules.account import AccountKey
from shared.clock import SECOND_US
from tests.enforcement.conftest import REGION, Open
from tests.enforcement.debt import GRACE_US, debtor, examine, open_debt, open_due
from tests.enforcement.world import ACME, account, happened

BOTH = {"vn": REGION, "jp": REGION}


async def test_an_unconfirmed_deletion_is_repeated_at_pauses_that_double_to_an_hour(open_world: Open) -> None:
    world = await open_due(open_world, "vol-1")
    await examine(world)
    for number, pause_seconds in enumerate((60, 120, 240, 480, 960, 1920, 3600, 3600), start=1):
        world.move(pause_seconds - 1)
        await examine(world)
        assert len(await world.deleted()) == number, "not before the pause is over"
        world.move(1)
        await examine(world)
        assert len(await world.deleted()) == number + 1
    assert len(world.balance.permits) == 9, "no permit without a command that is due"


async def test_what_is_created_meanwhile_does_not_wait_for_the_repeats(open_world: Open) -> None:
    world = await open_due(open_world, "vol-1")
    await examine(world)
    await world.learn(happened("created", "vol-2", world.clock.now_us()))
    await examine(world)
    assert await world.deleted() == ["vol-1", "vol-2"]


async def test_repeats_have_an_allowance_apart_and_hold_up_nobody(open_world: Open) -> None:
    """41 resources that a platform can't delete do not freeze the deletions of everybody else."""
    world = await open_debt(
        open_world,
        *(f"vol-{number}" for number in range(4)),
        enforcement_deletions_per_hour_max=5,
        enforcement_deletion_repeats_per_hour_max=2,
    )
    other = ACME._replace(tenant_id="other")
    since_us = world.clock.now_us() + 91 * SECOND_US
    owes = account("negative", 2, since_us=since_us, key=other)
    await world.learn(happened("created", "vol-other", world.clock.now_us(), key=other), owes)
    world.move(GRACE_US / SECOND_US)
    await examine(world)
    world.move(90)
    await examine(world)
    await examine(world)
    assert len(await world.deleted()) == 4 + 2
    assert [case["state"] for case in await world.cases()] == ["carrying_out"]
    world.move(1)
    await examine(world)
    assert "vol-other" in await world.deleted()


async def test_the_breaker_of_one_region_holds_up_no_other(open_world: Open) -> None:
    world = await open_debt(open_world, "vol-1", "vol-2", enforcement_deletions_per_hour_max=1, regions=BOTH)
    japan = AccountKey("jp", "acme")
    await world.learn(happened("created", "vol-jp", world.clock.now_us(), key=japan), debtor(world, key=japan))
    world.move(GRACE_US / SECOND_US)
    await examine(world)
    assert sorted(await world.deleted()) == ["vol-1", "vol-jp"]
    assert [case["state"] for case in await world.cases()] == ["frozen"]
    assert [case["state"] for case in await world.cases(japan)] == ["carrying_out"]
    rows = await world.fetch("select name, used from breaker order by name")
    assert [(row["name"], row["used"]) for row in rows] == [("deletions/jp", 1), ("deletions/vn", 1)]


async def test_windows_of_days_ago_are_removed(open_world: Open) -> None:
    world = await open_due(open_world, "vol-1")
    await world.execute("insert into breaker values ('deletions/vn', '2020-01-01T00:00:00Z', 7)")
    await examine(world)
    rows = await world.fetch("select used from breaker where name = 'deletions/vn'")
    assert [row["used"] for row in rows] == [1]
