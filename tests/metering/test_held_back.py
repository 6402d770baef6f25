"""What metering keeps back of an account: it is told to whoever wants to delete the account's resources."""

from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.metering.rules.acceptance import Limits
from services.metering.rules.named import find_names
from services.metering.store.contradictions import close_contradiction
from services.metering.store.held_back import HeldBack, load_held_back
from shared.clock import DAY_US, HOUR_US
from shared.db import transaction
from shared.dead_letters import DeadRecord, insert_dead_letters
from shared.kafka import Record
from shared.topics import LIFECYCLE
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
    # The claim itself is a dead letter, which has its own end.
    assert [item.kind for item in await held_back(meter, "debtor")] == ["dead"]


async def test_a_dead_letter_is_told_of_the_tenant_that_it_names(meter: Meter) -> None:
    broken = lifecycle("container.stopped", "ctr-1", START_US)
    del broken["time"]
    await meter.take(broken)
    assert len(meter.dead) == 1
    assert [item.kind for item in await held_back(meter)] == ["dead"]
    assert await held_back(meter, "acm") == []


TENANT_HIDDEN = [
    b'{"specversion":"1.0","id":"e","source":"platform/vn","type":"container.stopped","subject":"ctr-1","time":"2027-',
    b'{"subject":"ctr-1","data":{"region":"vn"}}',
    b'{"data":{"tenant_id":"\\u0061cme"}}',
    b'{"data":{"tenant_id":"acme "}}',
    b"acme stopped",
]


@pytest.mark.parametrize("value", TENANT_HIDDEN)
async def test_a_dead_letter_is_told_of_whom_it_names_in_any_way(meter: Meter, value: bytes) -> None:
    await meter.take(lifecycle("container.created", "ctr-1", START_US, gpu_sku="a30", gpu_count=1))
    await meter.take(value)
    assert len(meter.dead) == 1
    assert [item.kind for item in await held_back(meter)] == ["dead"]
    assert await held_back(meter, "other") == []


async def test_a_long_dead_letter_is_read_to_its_end(meter: Meter) -> None:
    """With labels in Vietnamese, say: its tenant stood after them, and was not seen."""
    await meter.take(lifecycle("container.created", "ctr-1", START_US, gpu_sku="a30", gpu_count=1))
    label = "Bản quyền của khách hàng "
    await meter.take(f'{{"labels": "{label * 2000}", "data": {{"tenant_id": "acme"}}}}'.encode())
    assert [item.kind for item in await held_back(meter)] == ["dead"]
    assert await held_back(meter, "other") == []


@pytest.mark.parametrize("subject", [b"ctr-1", b"%63tr-1", b"vn/ctr-1"])
async def test_a_dead_letter_that_names_whom_it_concerns_in_its_headers_is_told(meter: Meter, subject: bytes) -> None:
    await meter.take(lifecycle("container.created", "ctr-1", START_US, gpu_sku="a30", gpu_count=1))
    headers = (("ce_specversion", b"1.0"), ("ce_type", b"container.stopped"), ("ce_subject", subject), ("odd", None))
    record = Record(LIFECYCLE, UUID(int=7), 0, 99, None, b'{"region": "vn"}', headers)
    async with transaction(meter.pool) as connection:
        await insert_dead_letters(connection, [DeadRecord(record, "invalid", "no tenant")], meter.clock.now_us())
    assert [(item.kind, item.resource_id) for item in await held_back(meter)] == [("dead", "ctr-1")]
    assert await held_back(meter, "other") == []


async def test_dead_letters_too_long_to_be_looked_through_are_a_doubt_about_everybody(
    meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.metering.store.held_back.BYTES_MAX", 30_000)
    await meter.take(b"x" * 25_000)
    assert await held_back(meter, "other") == []
    await meter.take(b"x" * 25_000)
    [item] = await held_back(meter, "other")
    assert (item.kind, "replay or close" in item.reason) == ("dead", True)


async def test_dead_letters_that_nobody_can_look_through_are_a_doubt_about_everybody(
    meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.metering.store.held_back.LETTERS_MAX", 2)
    await meter.take(*(b"no event %d" % number for number in range(2)))
    assert await held_back(meter, "other") == []
    await meter.take(b"no event 3")
    [item] = await held_back(meter, "other")
    assert (item.kind, "replay or close" in item.reason) == ("dead", True)


async def test_an_event_that_waits_for_the_one_that_it_replaces_is_told(meter: Meter) -> None:
    created = lifecycle("container.created", "ctr-1", START_US, gpu_sku="a30", gpu_count=1)
    stopped = lifecycle("container.stopped", "ctr-1", START_US)
    stopped["data"] |= {"replaces": {"source": "platform/vn", "id": "never"}, "reason": "a wrong clock"}
    await meter.take(created, stopped)
    [item] = await held_back(meter)
    assert (item.kind, item.resource_id) == ("pending", "ctr-1")


@given(st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=20), st.binary(max_size=50))
def test_a_name_is_found_whatever_stands_around_it(name: str, noise: bytes) -> None:
    escaped = "".join(f"\\u{ord(letter):04X}" for letter in name)
    for form in (name, f'"{name}"', f'{{"tenant_id": "{name}  ', f"vn/{name}", f'"{escaped}"'):
        assert name in find_names([None, b" " + form.encode() + b" " + noise])
