"""What metering keeps back of an account: it is told to whoever wants to delete the account's resources."""

from dataclasses import replace

from services.metering.rules.acceptance import Limits
from services.metering.store.contradictions import close_contradiction
from services.metering.store.held_back import HeldBack, load_held_back
from shared.clock import DAY_US, HOUR_US
from shared.db import transaction
from tests.metering.meter import START_US, Meter, lifecycle, usage


async def held_back(meter: Meter, tenant_id: str = "acme") -> list[HeldBack]:
    async with transaction(meter.pool) as connection:
        return await load_held_back(connection, "vn", tenant_id, 20)


async def test_an_event_that_waits_for_an_operator_is_told_of_its_tenant(meter: Meter) -> None:
    meter.intake.rules = replace(meter.intake.rules, limits=Limits(None, 7 * DAY_US // 1_000_000))
    created = lifecycle("container.created", "ctr-1", START_US, gpu_sku="a30", gpu_count=1)
    await meter.take(created, lifecycle("container.started", "ctr-1", START_US))
    assert await held_back(meter) == []
    meter.clock.set(START_US + 8 * DAY_US)
    stopped = lifecycle("container.stopped", "ctr-1", START_US + HOUR_US)
    # What waits for its own time is no doubt.
    await meter.take(stopped, usage("ahead", meter.clock.now_us() + HOUR_US, 1_000))
    [item] = await held_back(meter)
    assert item == HeldBack("parked", f"platform/vn/{stopped['id']}", "ctr-1", "too_old")
    assert await held_back(meter, "other") == []


async def test_a_resource_that_two_tenants_claim_is_told_of_both_until_somebody_has_looked(meter: Meter) -> None:
    first = lifecycle("volume.created", "vol-1", START_US, tenant_id="debtor", size_gb=10)
    second = {**lifecycle("volume.created", "vol-1", START_US, tenant_id="owner", size_gb=10), "source": "platform/2"}
    await meter.take(first, second)
    assert meter.dead == ["other_tenant"]
    for tenant_id in ("debtor", "owner"):
        found = await held_back(meter, tenant_id)
        assert ("contradiction", "vol-1", "other_tenant") in [(i.kind, i.resource_id, i.reason) for i in found]
    async with transaction(meter.pool) as connection:
        key = ("vn", "vol-1", "other_tenant", "platform/2", second["id"])
        assert await close_contradiction(connection, key)
    assert await held_back(meter, "debtor") == []


async def test_a_dead_letter_is_told_of_the_tenant_that_it_names(meter: Meter) -> None:
    broken = lifecycle("container.stopped", "ctr-1", START_US)
    del broken["time"]
    await meter.take(broken)
    assert len(meter.dead) == 1
    assert [item.kind for item in await held_back(meter)] == ["dead"]
    assert await held_back(meter, "acm") == []
