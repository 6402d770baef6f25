"""A clock that jumps deletes nobody: deletions halt until an operator says that it is right."""

import pytest

from services.enforcement.clients.balance import BalanceClient, RedemptionAnswer
from services.enforcement.store.halts import end_halts
from shared.clock import FixedClock
from tests.enforcement.conftest import START_US, Open
from tests.enforcement.debt import examine, open_debt, open_due
from tests.enforcement.world import World

# The clock of these tests stands far from PostgreSQL's.
ANY_ERROR = {"enforcement_clock_error_seconds_max": 10**10}


class RealClock(FixedClock):
    """A clock that the test moves, and that claims to be the operating system's."""

    is_test = False


@pytest.fixture
def clock() -> FixedClock:
    return RealClock(START_US)


async def halts(world: World) -> list[str]:
    return [row["reason"] for row in await world.fetch("select reason from halt where resumed_at is null")]


async def test_a_jump_halts_deletions_until_an_operator_says_so(open_world: Open) -> None:
    world = await open_due(open_world, "ctr-1", **ANY_ERROR)
    await world.service.deletions.guard.check()
    await examine(world)
    assert await world.deleted() == []
    [case] = await world.cases()
    assert case["state"] == "frozen"
    assert case["reason"].startswith("deletions wait for an operator: the clock jumped by 86")

    async with world.service.pool.acquire() as connection:
        assert await end_halts(connection, "ops", "the clock is right", world.clock.now_us())
    await examine(world)
    assert await world.deleted() == ["ctr-1"]


async def test_a_jump_since_the_last_check_deletes_nothing(open_world: Open) -> None:
    world = await open_debt(open_world, "ctr-1", **ANY_ERROR)
    await world.service.deletions.guard.check()
    world.move(86400)
    await examine(world)
    assert await world.deleted() == []
    await world.service.deletions.guard.check()
    assert len(await halts(world)) == 1, "what was suspected in between is not forgotten"


async def test_a_jump_back_between_redemption_and_command_sends_no_command(
    open_world: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await open_due(open_world, "ctr-1", **ANY_ERROR, enforcement_clock_jump_seconds_max=100_000)
    await world.service.deletions.guard.check()
    redeem = BalanceClient.redeem

    async def redeem_and_jump(client: BalanceClient, permit_id: str, resource_id: str) -> RedemptionAnswer:
        answer = await redeem(client, permit_id, resource_id)
        world.move(-200_000)
        return answer

    monkeypatch.setattr(BalanceClient, "redeem", redeem_and_jump)
    await examine(world)
    assert world.balance.redeemed
    assert await world.deleted() == []


async def test_a_clock_far_from_the_last_run_halts_at_start(open_world: Open) -> None:
    world = await open_debt(open_world, "ctr-1", **ANY_ERROR)
    await world.service.deletions.guard.check_start()
    await world.service.deletions.guard.check()
    assert await halts(world) == []
    world.move(2 * 365 * 86400)
    later = await open_world(runtime="simulator", **ANY_ERROR)
    await later.service.deletions.guard.check_start()
    await examine(later)
    assert await later.deleted() == []
    assert "at start" in (await later.cases())[0]["reason"]


async def test_a_clock_that_is_not_postgresqls_halts(open_world: Open) -> None:
    world = await open_debt(open_world, "ctr-1")
    await world.service.deletions.guard.check()
    [reason] = await halts(world)
    assert reason.startswith("the clock differs from PostgreSQL's by")
