"""Two processes of enforcement on one database: each deletion is commanded once, whoever is frozen or dies."""

import asyncio

import pytest

from services.enforcement.store.cases import claim_due_case, load_cases
from services.enforcement.store.sweep_turns import claim_sweep
from shared.db import transaction
from shared.topics import COMMANDS
from tests.enforcement.conftest import Open
from tests.enforcement.debt import GRACE_US, debtor, examine, open_debt
from tests.enforcement.world import ACME, World, happened
from tests.support.eventually import eventually

TENANTS, VOLUMES = 4, 3


async def open_two(open_world: Open) -> tuple[World, World]:
    """Two services whose cases have just become due: TENANTS tenants with VOLUMES volumes each."""
    first = await open_debt(open_world)
    for number in range(TENANTS):
        key = ACME._replace(tenant_id=f"del-{number}")
        facts = [happened("created", f"vol-{number}-{n}", first.clock.now_us(), key=key) for n in range(VOLUMES)]
        await first.learn(*facts, debtor(first, key=key))
    second = await open_world(runtime="simulator", enforcement_deletion_retry_seconds=3600)
    first.move(GRACE_US / 1_000_000)
    return first, second


async def check_once(world: World) -> None:
    commands = await world.sent(COMMANDS, "volume.delete")
    assert len(commands) == len({command["subject"] for command in commands}) == TENANTS * VOLUMES
    assert len({command["id"] for command in commands}) == TENANTS * VOLUMES
    [used] = await world.fetch("select sum(used)::int as used from breaker where name = 'deletions/vn'")
    assert used["used"] == TENANTS * VOLUMES, "the breaker is not used twice"
    [most] = await world.fetch("select max(commands) as commands from deletion_target")
    assert most["commands"] == 1


async def test_two_processes_share_the_cases(open_world: Open) -> None:
    first, second = await open_two(open_world)
    await asyncio.gather(first.service.deletions.examine_due(), second.service.deletions.examine_due())
    await check_once(first)
    assert len(first.balance.permits) == TENANTS + 1, "one permit per case"


async def test_two_processes_that_look_at_the_same_case_command_each_resource_once(open_world: Open) -> None:
    """A claim that ended while its process was slow: both carry out the same cases."""
    first, second = await open_two(open_world)
    keys = [ACME._replace(tenant_id=f"del-{number}") for number in range(TENANTS)]
    async with first.service.pool.acquire() as connection:
        cases = await load_cases(connection, keys)
    for case in cases:
        await asyncio.gather(first.service.deletions.examine(case), second.service.deletions.examine(case))
    await check_once(first)


async def test_a_process_that_was_frozen_after_its_redemption_commands_nothing_again(
    open_world: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await open_two(open_world)
    command = type(second.service.deletions._commanding).command
    other = first.service.deletions._commanding

    async def freeze_then_command(commanding: object, *arguments: object) -> bool:
        if commanding is other:
            await examine(second)
        return await command(commanding, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(type(other), "command", freeze_then_command)
    await first.service.deletions.examine_due()
    await check_once(first)


async def test_a_claim_of_a_process_that_vanished_ends_by_itself(open_world: Open) -> None:
    first, second = await open_two(open_world)
    for _ in range(TENANTS + 1):
        async with transaction(first.service.pool) as connection:
            assert await claim_due_case(connection, first.clock.now_us(), 0.5, with_plans=False) is not None
    await second.service.deletions.examine_due()

    async def commanded() -> bool:
        await second.service.deletions.examine_due()
        return len(await second.sent(COMMANDS, "volume.delete")) == TENANTS * VOLUMES

    done: bool = await eventually(commanded, what="the other process carrying out what was claimed")
    assert done
    await check_once(second)


async def test_processes_take_turns_at_the_sweep(open_world: Open) -> None:
    first = await open_world(enforcement_sweep_seconds=3600)
    second = await open_world(enforcement_sweep_seconds=3600)
    for world in (first, second):
        world.start("sweep")

    async def swept() -> bool:
        return (await first.fetch("select swept_at from sweep_turn"))[0]["swept_at"] is not None

    done: bool = await eventually(swept, what="a sweep")
    assert done
    async with transaction(second.service.pool) as connection:
        assert not await claim_sweep(connection, 3600)
    assert first.balance.asked == ["GET /v1/accounts"]
