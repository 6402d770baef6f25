"""What keeps a due case from being carried out, on real PostgreSQL: recorded with its evidence, paged once."""

from collections.abc import Callable

import pytest
from prometheus_client import REGISTRY

from services.enforcement.store.halts import insert_halt
from shared.clock import HOUR_US, SECOND_US, format_instant
from tests.enforcement.conftest import Open
from tests.enforcement.debt import GRACE_US, debtor, examine, open_debt, open_due
from tests.enforcement.world import ACME, World, happened


def held_up(cause: str, region: str = "vn") -> float:
    labels = {"region": region, "cause": cause}
    return REGISTRY.get_sample_value("tollkeeper_enforcement_deletions_held_up_total", labels) or 0


@pytest.mark.parametrize(
    ("spoil", "mend", "reason"),
    [
        (
            lambda world: setattr(world.metering, "lag_seconds", 12 * 3600),
            lambda world: setattr(world.metering, "lag_seconds", 5),
            "metering lags",
        ),
        (
            lambda world: setattr(world.metering, "down", True),
            lambda world: setattr(world.metering, "down", False),
            "metering is out of reach",
        ),
        (
            lambda world: setattr(world.metering, "halted", "the clock jumped"),
            lambda world: setattr(world.metering, "halted", None),
            "metering is halted: the clock jumped",
        ),
        (
            lambda world: setattr(world.metering, "seq", 1),
            lambda world: setattr(world.metering, "seq", 0),
            "charges wait to be posted",
        ),
        (
            lambda world: world.metering.held_back.append(
                {"kind": "parked", "id": "platform/vn/evt-9", "resource_id": "ctr-1", "reason": "too_old"}
            ),
            lambda world: world.metering.held_back.clear(),
            "metering keeps back: parked platform/vn/evt-9 (too_old) of ctr-1",
        ),
        (
            lambda world: world.metering.charged.update({"ctr-9": ("acme", None), "vol-1": ("acme", None)}),
            lambda world: world.metering.charged.pop("ctr-9"),
            "metering charges the account for 1 resources that are not known here: ctr-9",
        ),
        (
            lambda world: setattr(world.payment, "down", True),
            lambda world: setattr(world.payment, "down", False),
            "payment is out of reach",
        ),
        (
            lambda world: world.payment.add(ACME, "payment", "stripe:pi_1", "uncredited", attempted=True),
            lambda world: world.payment.open.clear(),
            "a payment may still be credited: payment stripe:pi_1 (uncredited)",
        ),
        (
            lambda world: setattr(world.balance, "reversed_micros", 5),
            lambda world: setattr(world.balance, "reversed_micros", 0),
            "without refunds, disputes and operators' debits the account would not be below zero",
        ),
    ],
)
async def test_a_doubt_freezes_with_its_reason_and_ends_with_it(
    open_world: Open, spoil: Callable[[World], None], mend: Callable[[World], None], reason: str
) -> None:
    world = await open_due(open_world, "vol-1")
    spoil(world)
    await examine(world)
    await examine(world)
    [case] = await world.cases()
    assert case["state"] == "frozen"
    assert reason in case["reason"]
    assert await world.told("deletion.frozen") == ["deletion.frozen"]
    assert await world.deleted() == []
    assert not world.balance.permits, "balance is not asked for a permit"

    mend(world)
    await examine(world)
    assert await world.deleted() == ["vol-1"]
    evidence = (await world.cases())[0]["evidence"]
    assert evidence["metering"]["through_us"] == world.clock.now_us() - 5 * SECOND_US
    assert evidence["payments"]["open"] == []
    assert evidence["without_reversals_micros"] == -5


async def test_an_order_that_nobody_tried_to_pay_delays_two_hours(open_world: Open) -> None:
    world = await open_due(open_world, "vol-1")
    world.payment.add(ACME, "order", "ord-1", "pending", attempted=False)
    await examine(world)
    assert await world.deleted() == []
    world.move(2 * HOUR_US / SECOND_US)
    await examine(world)
    assert await world.deleted() == ["vol-1"]


@pytest.mark.parametrize("other", ["metering", "breaker", "permit"])
async def test_an_order_delays_two_hours_from_when_nothing_else_does_whenever_it_is_registered(
    open_world: Open, other: str
) -> None:
    world = await open_due(open_world, "vol-1", enforcement_deletions_per_hour_max=1)
    world.metering.down = other == "metering"
    world.balance.refuse_permits = other == "permit"
    for _ in range(6):
        if other == "breaker":
            hour_us = world.clock.now_us() // HOUR_US * HOUR_US
            await world.execute("insert into breaker values ('deletions/vn', $1, 1)", hour_us)
        await examine(world)
        world.move(HOUR_US / SECOND_US)
    world.metering.down = world.balance.refuse_permits = False
    world.payment.add(ACME, "order", "ord-1", "pending", attempted=False)
    await examine(world)
    world.move(2 * HOUR_US / SECOND_US - 1)
    # Another order has no two hours more.
    world.payment.add(ACME, "order", "ord-2", "pending", attempted=False)
    await examine(world)
    assert await world.deleted() == []
    [case] = await world.cases()
    assert case["reason"] == "an order may still be paid: order ord-1 (pending), order ord-2 (pending)"
    world.move(1)
    await examine(world)
    assert await world.deleted() == ["vol-1"]
    [permit] = [grant for grant in world.balance.granted if grant["due_at"] == case["deletable_at"]]
    assert permit["tenant_id"] == "acme", "balance counts from the same instant"


async def test_a_shared_cause_pages_once_per_region(open_world: Open) -> None:
    world = await open_debt(open_world)
    for number in range(3):
        key = ACME._replace(tenant_id=f"tenant-{number}")
        await world.learn(happened("created", f"vol-{number}", world.clock.now_us(), key=key), debtor(world, key=key))
    world.move(GRACE_US / SECOND_US)
    world.metering.down = True
    before = held_up("metering-clock")
    await examine(world)
    await examine(world)
    assert len(await world.told("deletion.frozen")) == 4, "one per case"
    assert held_up("metering-clock") - before == 1
    assert len([question for question in world.payment.asked if "open-payments" in question]) == 8
    await world.execute("update doubt set seen_at = seen_at - interval '1 hour'")
    await examine(world)
    assert held_up("metering-clock") - before == 2, "news again after a while of quiet"


async def test_a_halt_of_a_region_holds_up_that_region_alone(open_world: Open) -> None:
    world = await open_due(open_world, "vol-1")
    async with world.service.pool.acquire() as connection:
        assert await insert_halt(connection, "balance", "jp", "balance was restored", world.clock.now_us())
        assert not await insert_halt(connection, "balance", "jp", "again", world.clock.now_us())
    await examine(world)
    assert await world.deleted() == ["vol-1"]


async def test_a_halt_by_another_service_waits_for_an_operator(open_world: Open) -> None:
    world = await open_due(open_world, "vol-1")
    async with world.service.pool.acquire() as connection:
        assert await insert_halt(connection, "metering", None, "metering was restored", world.clock.now_us())
    await examine(world)
    [case] = await world.cases()
    assert case["reason"] == "deletions wait for an operator: metering was restored"
    assert await world.deleted() == []


async def test_looks_at_a_case_that_stays_frozen_become_rare(open_world: Open) -> None:
    world = await open_due(
        open_world, "vol-1", enforcement_deletion_retry_seconds=10, enforcement_deletion_retry_seconds_max=60
    )
    world.balance.refuse_permits = True
    pauses = []
    for _ in range(5):
        await examine(world)
        [row] = await world.fetch(
            "select extract(epoch from next_look_at - clock_timestamp())::int as s from deletion_case"
        )
        pauses.append(round(row["s"], -1))
    assert pauses == [10, 10, 20, 40, 60]


async def test_the_evidence_names_when_it_was_asked_for(open_world: Open) -> None:
    world = await open_due(open_world, "vol-1")
    await examine(world)
    evidence = (await world.cases())[0]["evidence"]
    assert format_instant(evidence["asked_at_us"]) == format_instant(world.clock.now_us())
