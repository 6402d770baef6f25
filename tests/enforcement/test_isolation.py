"""One bad item of a loop is set aside, and its neighbours go on; it comes back when it is mended."""

from typing import Any

import pytest

from services.enforcement.handlers import FutureFact
from services.enforcement.messages import DeleteOrder, Messages, StopOrder
from services.enforcement.rules.deletion import Case
from services.enforcement.store.parked import insert_parked
from shared.clock import HOUR_US, SECOND_US
from shared.outbox import Message
from shared.topics import COMMANDS
from tests.enforcement.conftest import Open
from tests.enforcement.debt import GRACE_US, debtor, examine, open_debt, open_due
from tests.enforcement.world import ACME, World, account, happened

HOUR_SECONDS = HOUR_US // SECOND_US


async def set_aside(world: World) -> list[tuple[str, str]]:
    rows = await world.fetch("select kind, item from set_aside order by 1, 2")
    return [(row["kind"], row["item"]) for row in rows]


async def test_a_stop_that_can_not_be_sent_stands_before_nobody(
    open_world: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await open_world()
    now_us = world.clock.now_us()
    for number in range(5):
        await world.learn(happened("created", f"ctr-{number}", now_us), happened("started", f"ctr-{number}", now_us))
    await world.learn(account("exhausted", 2))
    world.move(60)
    stop = Messages.stop

    def stop_or_fail(make: Messages, order: StopOrder) -> Message:
        if order.resource_id == "ctr-2":
            raise ValueError("a bad row")
        return stop(make, order)

    with monkeypatch.context() as patch:
        patch.setattr(Messages, "stop", stop_or_fail)
        await world.send_due_stops()
        assert await set_aside(world) == [("stop", "vn/acme/ctr-2")]
        repeated = [command["subject"] for command in await world.sent(COMMANDS)][5:]
        assert sorted(repeated) == ["ctr-0", "ctr-1", "ctr-3", "ctr-4"]
    world.move(HOUR_SECONDS)
    await world.send_due_stops()
    assert await set_aside(world) == []


async def test_a_container_whose_row_cannot_be_read_keeps_no_other_of_its_account_running(open_world: Open) -> None:
    world = await open_world()
    now_us = world.clock.now_us()
    for number in range(3):
        await world.learn(happened("created", f"ctr-{number}", now_us), happened("started", f"ctr-{number}", now_us))
    await world.execute("update resource set life = '{}' where resource_id = 'ctr-1'")
    await world.learn(account("exhausted", 2))
    stopped = [command["subject"] for command in await world.sent(COMMANDS)]
    assert sorted(stopped) == ["ctr-0", "ctr-2"]
    assert await set_aside(world) == [("resource", "vn/ctr-1")]


async def test_a_parked_event_that_can_not_be_read_stands_before_nobody(open_world: Open) -> None:
    world = await open_world()
    now_us = world.clock.now_us()
    await world.learn(happened("created", "ctr-1", now_us), account("exhausted", 2))
    started: dict[str, Any] = {
        "specversion": "1.0",
        "id": "evt-1",
        "source": "platform/vn",
        "type": "container.started",
        "subject": "ctr-1",
        "time": "2026-11-01T08:10:00Z",
        "data": {"region": "vn", "tenant_id": "acme"},
    }
    facts = [
        FutureFact("platform/vn", f"bad-{number}", "ctr-1", now_us + number, {**started, "data": {"region": "moon"}})
        for number in range(3)
    ]
    facts.append(FutureFact("platform/vn", "evt-1", "ctr-1", now_us + 600 * SECOND_US, started))
    async with world.service.pool.acquire() as connection:
        await insert_parked(connection, facts)
    world.move(600)
    assert await world.service.enforce.apply_parked() == 1
    assert [kind for kind, _ in await set_aside(world)] == ["parked"] * 3
    await world.send_due_stops()
    assert [command["subject"] for command in await world.sent(COMMANDS)] == ["ctr-1"]


async def test_a_case_that_can_not_be_carried_out_stands_before_nobody(
    open_world: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await open_debt(open_world, "vol-1", "vol-2", "vol-3")
    other = ACME._replace(tenant_id="other")
    await world.learn(happened("created", "vol-9", world.clock.now_us(), key=other), debtor(world, key=other))
    world.move(GRACE_US / SECOND_US)
    delete = Messages.delete

    def delete_or_fail(make: Messages, order: DeleteOrder) -> Message:
        if order.resource_id == "vol-2":
            raise ValueError("a bad row")
        return delete(make, order)

    with monkeypatch.context() as patch:
        patch.setattr(Messages, "delete", delete_or_fail)
        await examine(world)
        assert sorted(await world.deleted()) == ["vol-1", "vol-3", "vol-9"]
        [(kind, item)] = await set_aside(world)
        assert (kind, item.rpartition("/")[0]) == ("deletion", "vn/acme")
        await examine(world)
        assert len(await world.deleted()) == 3, "left out until its pause is over"
    world.move(HOUR_SECONDS)
    await examine(world)
    assert "vol-2" in await world.deleted()
    assert await set_aside(world) == []


async def test_a_reminder_that_can_not_be_made_stands_before_nobody(
    open_world: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await open_debt(open_world)
    for number in range(3):
        await world.learn(debtor(world, key=ACME._replace(tenant_id=f"t-{number}")))
    world.move(13 * HOUR_SECONDS)
    reminder = Messages.reminder

    def remind_or_fail(make: Messages, case: Case, planned_at_us: int) -> Message:
        if case.key.tenant_id == "t-1":
            raise ValueError("a bad row")
        return reminder(make, case, planned_at_us)

    monkeypatch.setattr(Messages, "reminder", remind_or_fail)
    assert await world.service.timers.remind_due() == 3
    assert [kind for kind, _ in await set_aside(world)] == ["reminder"]


async def test_an_account_that_balance_answers_nonsense_of_stands_before_nobody(open_world: Open) -> None:
    world = await open_due(open_world, "ctr-1")
    for name in ("a", "b", "z"):
        world.balance.set(account("negative", 2, since_us=world.clock.now_us(), key=ACME._replace(tenant_id=name)))
    believed = ACME._replace(tenant_id="believed")
    await world.learn(account("exhausted", 2, key=believed))
    world.balance.set(account("ok", 3, key=believed))
    world.balance.nonsense |= {ACME._replace(tenant_id="a"), believed}
    assert await world.service.sweep.sweep() == 2
    assert await set_aside(world) == [("sweep", "vn/a"), ("sweep", "vn/believed")]
    world.balance.nonsense.clear()
    world.move(60)
    assert await world.service.sweep.sweep() == 2
    assert await set_aside(world) == []


async def test_what_was_set_aside_is_forgotten_when_it_ends_otherwise(open_world: Open) -> None:
    world = await open_world()
    now_us = world.clock.now_us()
    await world.learn(happened("created", "ctr-1", now_us), happened("started", "ctr-1", now_us, "run"))
    await world.learn(account("exhausted", 2))
    world.move(60)
    world.metering.charged["ctr-1"] = ("other", "run")
    await world.send_due_stops()
    assert await set_aside(world) == [("stop", "vn/acme/ctr-1")]
    await world.learn(happened("stopped", "ctr-1", world.clock.now_us()))
    await world.send_due_stops()
    assert await set_aside(world) == []


async def test_what_was_set_aside_of_a_case_is_forgotten_when_the_account_recovers(open_world: Open) -> None:
    world = await open_due(open_world, "vol-1")
    [case] = await world.cases()
    for kind in ("deletion", "reminder"):
        await world.service.enforce.isolation.set_aside(kind, case["case_id"], ValueError("a bad row"))
    await examine(world)
    assert len(await set_aside(world)) == 2
    await world.learn(account("ok", 3))
    await examine(world)
    assert await set_aside(world) == []
