"""A resource that can't be computed is set aside: its neighbours go on, and it is charged right once it can be."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from services.metering.app import cache as cache_module
from services.metering.app import intake as intake_module
from services.metering.app.tick import TICK, TICK_SHARD
from shared.clock import HOUR_US, MINUTE_US
from shared.db import transaction
from shared.errors import Refusal
from shared.set_aside import list_set_aside, retry_now
from tests.metering.meter import START_US, Meter, book, lifecycle, usage

TENANTS = ("acme", "bolt", "core", "dune", "echo", "flux", "gale", "hush")


async def run_all(meter: Meter) -> None:
    await meter.put_book(book(START_US - HOUR_US, gpu={"a30": "0.6"}))
    for tenant_id in TENANTS:
        for number in (1, 2):
            name = f"{tenant_id}-{number}"
            await meter.take(
                lifecycle("container.created", name, START_US, tenant_id=tenant_id, gpu_sku="a30", gpu_count=1),
                lifecycle("container.started", name, START_US, tenant_id=tenant_id),
            )


COMPUTED = ("steady", "charge", "burn_at")


def break_resource(monkeypatch: pytest.MonkeyPatch, name: str, functions: Sequence[str] = COMPUTED) -> None:
    """Nothing of this resource, or only some of it, can be computed by ticks."""
    for function in functions:
        original = getattr(cache_module, function)

        def failing(history: Any, *arguments: Any, _original: Any = original) -> Any:
            if any(event.event_id.startswith(name) for event in history.events):
                raise OverflowError("too large for anything")
            return _original(history, *arguments)

        monkeypatch.setattr(cache_module, function, failing)


async def aside(meter: Meter, kind: str = TICK) -> list[str]:
    async with transaction(meter.pool) as connection:
        return [item.item for item in await list_set_aside(connection, kind=kind)]


@pytest.mark.parametrize("when", ["from the first tick on", "later, while it is at rest", "later, in a new worker"])
async def test_neighbours_of_a_resource_that_cant_be_computed_are_charged(
    meter: Meter, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    await run_all(meter)
    if when != "from the first tick on":
        await meter.reach(START_US + 10 * MINUTE_US)
    with monkeypatch.context() as broken:
        break_resource(broken, "acme-1")
        if when == "later, in a new worker":
            meter = Meter.wire(meter.pool, meter.settings, meter.clock)
        if when == "later, while it is at rest":
            # An event that comes late has it read again.
            event = lifecycle("container.resized", "acme-1", START_US + 11 * MINUTE_US, gpu_count=2)
            await meter.take(event)
        await meter.reach(START_US + HOUR_US)
        assert await aside(meter) == ["vn/acme-1"]
        charged = await meter.charged()
        assert all(charged["vn", tenant_id] == 1_200_000 for tenant_id in TENANTS[1:])
        before = 0 if when == "from the first tick on" else 100_000
        assert charged["vn", "acme"] == 600_000 + before
        # It is seen, tried again ever more seldom, and what comes for it meanwhile is applied.
        await meter.take(lifecycle("container.stopped", "acme-1", START_US + 90 * MINUTE_US))
        await meter.reach(START_US + 2 * HOUR_US)
        assert await aside(meter) == ["vn/acme-1"]
    async with transaction(meter.pool) as connection:
        await retry_now(connection, TICK, "vn/acme-1", meter.clock.now_us())
    await meter.reach(START_US + 2 * HOUR_US + MINUTE_US)
    assert await aside(meter) == []
    await meter.check_m1()
    await meter.reach(START_US + 3 * HOUR_US)
    await meter.check_m1()
    resized = 79 * 10_000 if when == "later, while it is at rest" else 0
    assert (await meter.charged())["vn", "acme"] == 1_800_000 + 900_000 + resized


@pytest.mark.parametrize("function", COMPUTED)
async def test_whatever_of_a_resource_cant_be_computed_it_is_set_aside_alone(
    meter: Meter, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    await run_all(meter)
    with monkeypatch.context() as broken:
        break_resource(broken, "acme-1", [function])
        await meter.reach(START_US + HOUR_US)
        assert await aside(meter) == ["vn/acme-1"]
        assert await aside(meter, TICK_SHARD) == []
        assert (await meter.charged())["vn", "acme"] == 600_000
    await meter.reach(START_US + 2 * HOUR_US)
    await meter.check_m1()


async def test_a_late_event_of_a_resource_set_aside_corrects_what_was_charged_of_it(
    meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run_all(meter)
    await meter.reach(START_US + 10 * MINUTE_US)
    with monkeypatch.context() as broken:
        break_resource(broken, "acme-1")
        meter = Meter.wire(meter.pool, meter.settings, meter.clock)
        await meter.reach(START_US + HOUR_US)
        await meter.take(lifecycle("container.stopped", "acme-1", START_US + 5 * MINUTE_US))
        await meter.check_m1()
        assert (await meter.charged())["vn", "acme"] == 600_000 + 50_000
    await meter.reach(START_US + 2 * HOUR_US)
    assert await aside(meter) == []
    await meter.check_m1()


async def test_a_history_that_cant_be_read_stops_no_other(meter: Meter) -> None:
    await run_all(meter)
    [(stored,)] = await meter.rows("select history from resource where resource_id = 'acme-1'")
    await meter.rows("update resource set history = '\\x00' where resource_id = 'acme-1'")
    await meter.reach(START_US + HOUR_US)
    assert await aside(meter) == ["vn/acme-1"]
    assert (await meter.charged())["vn", "acme"] == 600_000
    await meter.rows("update resource set history = $1 where resource_id = 'acme-1'", stored)
    await meter.reach(START_US + 2 * HOUR_US)
    assert await aside(meter) == []
    await meter.check_m1()


@pytest.mark.parametrize("waits", [False, True])
async def test_what_comes_for_a_history_that_cant_be_read_is_kept_and_stops_no_other(
    meter: Meter, *, waits: bool
) -> None:
    """In one poll with its neighbours' events: its own are dead letters until it is mended, repeats are dropped."""
    await run_all(meter)
    await meter.reach(START_US + 10 * MINUTE_US)
    known = lifecycle("container.started", "acme-1", START_US, tenant_id="acme")
    stops = [
        lifecycle("container.stopped", name, START_US + 30 * MINUTE_US, tenant_id=name.partition("-")[0])
        for name in ("acme-1", "bolt-1")
    ]
    if waits:
        await meter.take(*stops)
    [(stored,)] = await meter.rows("select history from resource where resource_id = 'acme-1'")
    await meter.rows("update resource set history = '\\x00' where resource_id = 'acme-1'")
    meter.clock.set(START_US + 30 * MINUTE_US)
    await meter.take(known, *([] if waits else stops))
    await meter.reach(START_US + HOUR_US)
    [(reason, value)] = await meter.rows("select reason, value from dead_letter")
    assert (reason, json.loads(value)["id"]) == ("resource_unreadable", stops[0]["id"])
    charged = await meter.charged()
    assert (charged["vn", "bolt"], charged["vn", "core"]) == (900_000, 1_200_000)
    await meter.rows("update resource set history = $1 where resource_id = 'acme-1'", stored)
    await meter.take(stops[0])
    await meter.reach(START_US + 2 * HOUR_US)
    assert await aside(meter) == []
    await meter.check_m1()
    assert (await meter.charged())["vn", "acme"] == 300_000 + 1_200_000


async def test_a_first_price_of_a_history_that_cant_be_read_is_refused_with_its_name(meter: Meter) -> None:
    await run_all(meter)
    await meter.take(lifecycle("container.created", "odd-1", START_US, gpu_sku="zz", gpu_count=1))
    await meter.rows("update resource set history = '\\x00' where resource_id = 'odd-1'")
    with pytest.raises(Refusal, match=r"resource-unreadable: .*odd-1"):
        await meter.put_book(book(START_US - HOUR_US, gpu={"a30": "0.6", "zz": "1"}))
    await meter.put_book(book(START_US + HOUR_US, gpu={"a30": "0.9"}))


async def test_a_shard_that_cant_be_ticked_starves_no_other(meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    await run_all(meter)
    meter.settings = meter.settings.model_copy(update={"metering_tick_shards_max": 1})
    meter = Meter.wire(meter.pool, meter.settings, meter.clock)
    [(shard,)] = await meter.rows("select shard from resource where resource_id = 'acme-1'")
    original = cache_module.ShardCache.plan

    def failing(found: Any, *arguments: Any) -> Any:
        if any(account[1] == "acme" for account in found.accounts):
            raise RuntimeError("no resource is the cause")
        return original(found, *arguments)

    with monkeypatch.context() as broken:
        broken.setattr(cache_module.ShardCache, "plan", failing)
        await meter.reach(START_US + HOUR_US)
        assert await aside(meter, TICK_SHARD) == [str(shard)]
        rows = await meter.rows("select shard from shard where metered_through < $1", START_US + HOUR_US)
        assert rows == [(shard,)]
    await meter.reach(START_US + 2 * HOUR_US)
    assert await aside(meter, TICK_SHARD) == []
    await meter.check_m1()
    assert set((await meter.charged()).values()) == {2_400_000}


async def test_a_shard_whose_next_number_is_taken_holds_up_no_other(meter: Meter) -> None:
    """As a row that a restore of one table left: what is there each time is no race."""
    await run_all(meter)
    await meter.reach(START_US + 10 * MINUTE_US)
    [(shard,)] = await meter.rows("select shard from resource where resource_id = 'acme-1'")
    await meter.rows("update shard set seq = seq - 1 where shard = $1", shard)
    await meter.reach(START_US + HOUR_US)
    assert await aside(meter, TICK_SHARD) == [str(shard)]
    assert await meter.rows("select shard from shard where metered_through < $1", START_US + HOUR_US) == [(shard,)]
    await meter.rows("update shard set seq = seq + 1 where shard = $1", shard)
    await meter.reach(START_US + 2 * HOUR_US)
    assert await aside(meter, TICK_SHARD) == []
    await meter.check_m1()


async def test_a_resource_that_recovers_announces_its_admission_once(
    meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    await meter.put_book(book(START_US - HOUR_US, gpu={"a30": "0.6"}))
    created = lifecycle("container.created", "adm-1", START_US, gpu_sku="a30", gpu_count=1, admission_id="a-1")
    await meter.take(created, lifecycle("container.started", "adm-1", START_US))
    with monkeypatch.context() as broken:
        break_resource(broken, "adm-1")
        await meter.reach(START_US + MINUTE_US)
    await meter.reach(START_US + HOUR_US)
    await meter.reach(START_US + 2 * HOUR_US)
    admissions = [
        name for batch in await meter.batches() for account in batch.accounts for name in account.admission_ids
    ]
    assert admissions == ["a-1"]
    await meter.check()


@pytest.mark.parametrize("prices", [{"gpu": {"zzz": "9999999999999"}}, {"storage": {"persistent": "99999999"}}])
async def test_a_price_that_no_amount_can_hold_is_refused(meter: Meter, prices: dict[str, Any]) -> None:
    with pytest.raises(Refusal, match="the most that can be charged"):
        await meter.put_book(book(START_US - HOUR_US, **prices))


JOBS = {"jobs": {"unit": "1-job", "price": "9000.0"}}
TOO_MANY = 10**15


async def test_many_parked_events_that_cant_be_applied_hold_up_no_other(
    meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them than are read at once, or listed: what falls due behind them is applied."""
    monkeypatch.setattr(intake_module, "DUE_EVENTS_MAX", 10)
    await meter.put_book(book(START_US - HOUR_US, services=JOBS))
    due_us = START_US + 20 * MINUTE_US
    bad = [usage(f"bad-{number}", due_us, TOO_MANY, "jobs", "huge") for number in range(120)]
    await meter.take(*bad, usage("good", due_us + MINUTE_US, 2, "jobs"))
    async with asyncio.timeout(60):
        await meter.reach(due_us + HOUR_US)
    assert await meter.charged() == {("vn", "acme"): 18_000_000_000}
    assert await meter.rows("select count(*) from set_aside where kind = 'waiting' and attempts = 1") == [(120,)]


async def test_a_parked_event_that_cant_be_applied_is_released_to_the_dead_letters(meter: Meter) -> None:
    await meter.put_book(book(START_US - HOUR_US, services=JOBS))
    await meter.take(usage("bad", START_US + 20 * MINUTE_US, TOO_MANY, "jobs"))
    await meter.reach(START_US + HOUR_US)
    assert await aside(meter, "waiting") == ["service.usage.v1/inference/vn/bad"]
    assert await meter.intake.release(meter.pool, ("inference/vn", "bad")) == "dead"
    assert await aside(meter, "waiting") == []
    assert await meter.rows("select reason, position('inference/vn/bad' in detail) from dead_letter") == [
        ("can't be applied", 1)
    ]
    # Its id is free for the right one.
    await meter.take(usage("bad", START_US + 20 * MINUTE_US, 1, "jobs"))
    assert await meter.charged() == {("vn", "acme"): 9_000_000_000}
