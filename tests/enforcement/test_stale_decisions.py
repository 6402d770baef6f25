"""A process that is paused between what it saw and what it does: when it wakes it sees again, or does nothing."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from services.enforcement.app import deletions as deletions_module
from services.enforcement.app import unit as unit_module
from services.enforcement.clients.balance import PermitAnswer
from services.enforcement.rules.account import AccountKey
from services.enforcement.store.accounts import lock_accounts
from shared.clock import HOUR_US, SECOND_US
from shared.db import Connection
from shared.topics import COMMANDS
from tests.enforcement.conftest import Open
from tests.enforcement.debt import GRACE_US, debtor, examine, open_debt, open_due
from tests.enforcement.world import ACME, World, account, happened


def pause_before_permit(
    monkeypatch: pytest.MonkeyPatch, world: World, meanwhile: Callable[[], Awaitable[None]]
) -> None:
    """The world goes on after the evidence was found good, and before balance is asked for a permit; once."""
    balance = world.service.deletions._balance
    ask = balance.ask_permit

    async def paused(*arguments: Any) -> PermitAnswer:
        monkeypatch.setattr(balance, "ask_permit", ask)
        await meanwhile()
        return await ask(*arguments)

    monkeypatch.setattr(balance, "ask_permit", paused)


async def test_what_another_process_found_meanwhile_ends_a_decision(
    open_world: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await open_due(open_world, "vol-1")

    async def frozen_by_the_other() -> None:
        world.payment.add(ACME, "payment", "stripe:pi_1", "uncredited", attempted=True)
        await examine(world)
        assert [case["state"] for case in await world.cases()] == ["frozen"]

    pause_before_permit(monkeypatch, world, frozen_by_the_other)
    await examine(world)
    assert await world.deleted() == []
    assert [case["state"] for case in await world.cases()] == ["frozen"]


async def test_old_evidence_is_asked_for_again(open_world: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    world = await open_due(open_world, "vol-1")

    async def minutes_pass() -> None:
        world.move(600)

    pause_before_permit(monkeypatch, world, minutes_pass)
    await examine(world)
    assert await world.deleted() == []
    await examine(world)
    assert await world.deleted() == ["vol-1"]


async def test_those_frozen_for_good_keep_nobody_from_his_turn(
    open_world: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deletions_module, "CASES_MAX", 2)
    world = await open_debt(open_world, "vol-1", enforcement_deletion_retry_seconds=0.000_001)
    crowd = [AccountKey("vn", f"charged-back-{number}") for number in range(5)]
    world.move(-HOUR_US / SECOND_US)
    for key in crowd:
        world.payment.add(key, "payment", f"stripe:{key.tenant_id}", "uncredited", attempted=True)
        await world.learn(happened("created", key.tenant_id, world.clock.now_us(), key=key), debtor(world, key=key))
    world.move((GRACE_US + 2 * HOUR_US) / SECOND_US)
    for _ in range(4):
        world.service.deletions.survey.forget()
        await world.service.deletions.examine_due()
    assert await world.deleted() == ["vol-1"]


async def test_a_stop_that_waited_for_a_lock_asks_balance_again(
    open_world: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await open_world()
    now_us = world.clock.now_us()
    await world.learn(happened("created", "ctr-1", now_us), happened("started", "ctr-1", now_us + 1, "run"))

    async def waiting(connection: Connection, keys: Sequence[AccountKey]) -> Any:
        world.move(45)
        return await lock_accounts(connection, keys)

    monkeypatch.setattr(unit_module, "lock_accounts", waiting)
    await world.learn(account("exhausted", 2))
    monkeypatch.setattr(unit_module, "lock_accounts", lock_accounts)
    assert await world.sent(COMMANDS, "container.stop") == []
    world.metering.charged["ctr-1"] = ("acme", "run")
    world.balance.set(account("ok", 3))
    await world.send_due_stops()
    assert await world.sent(COMMANDS, "container.stop") == []
