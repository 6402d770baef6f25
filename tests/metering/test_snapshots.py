"""A new worker goes on from a snapshot, and charges what one does that read every history."""

import random
from collections.abc import Sequence
from typing import Any

import pytest

from services.metering import metrics
from services.metering.app import cache as cache_module
from services.metering.store.snapshots import delete_snapshots
from shared.clock import HOUR_US, MINUTE_US, SECOND_US
from shared.db import transaction
from tests.metering.meter import START_US, Meter, book, lifecycle

TENANTS = ("acme", "bolt", "core", "dune")
CONTAINERS = 40


@pytest.fixture(autouse=True)
def small_snapshots(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few resources are worth a snapshot."""
    monkeypatch.setattr(cache_module, "_UNSAVED_MIN", 2)


def name_of(number: int) -> tuple[str, str]:
    return f"{TENANTS[number % len(TENANTS)]}", f"ctr-{number}"


async def begin(meter: Meter) -> None:
    await meter.put_book(book(START_US - HOUR_US, gpu={"a30": "0.67", "h100": "2.54"}, storage={"persistent": "0.13"}))
    await meter.put_book(book(START_US + 50 * MINUTE_US, gpu={"a30": "0.71"}))
    events = []
    for number in range(CONTAINERS):
        tenant, name = name_of(number)
        at_us = START_US + number * 7 * SECOND_US
        sku = ("a30", "h100", "unpriced")[number % 3]
        created = lifecycle("container.created", name, at_us, tenant_id=tenant, gpu_sku=sku, gpu_count=1 + number % 4,
                            persistent_storage_gb=number)  # fmt: skip
        events += [created, lifecycle("container.started", name, at_us, tenant_id=tenant)]
    await meter.take(*events)


def change(number: int, kind: str, at_us: int, **data: Any) -> dict[str, Any]:
    tenant, name = name_of(number)
    return lifecycle(kind, name, at_us, tenant_id=tenant, **data)


def restart(meter: Meter) -> Meter:
    """Another worker: it has nothing in memory."""
    fresh = Meter.wire(meter.pool, meter.settings, meter.clock)
    fresh.lines, fresh.books, fresh._offset = meter.lines, meter.books, meter._offset
    return fresh


def loads() -> float:
    return sum(sample.value for metric in metrics.CACHE_LOADS.collect() for sample in metric.samples[:1])


async def test_a_new_worker_reads_only_what_changed_since(meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    await begin(meter)
    await meter.reach(START_US + 30 * MINUTE_US)
    for at_rest in (10, 11, 12):
        await meter.take(change(at_rest, "container.stopped", START_US + 20 * MINUTE_US))  # late
    await meter.take(change(13, "container.deleted", START_US + 31 * MINUTE_US))
    read: list[str] = []
    original = cache_module.ShardCache.load

    def counting(cache: Any, resources: Sequence[Any], *others: Any) -> None:
        read.extend(item.resource_id for item in resources)
        original(cache, resources, *others)

    monkeypatch.setattr(cache_module.ShardCache, "load", counting)
    before = loads()
    meter = restart(meter)
    # Over the minute in which a price changes, and what was unpriced gets its first.
    await meter.reach(START_US + HOUR_US)
    assert loads() == before
    unrested = {name_of(number)[1] for number in range(CONTAINERS) if number % 3 == 2}
    assert set(read) <= unrested | {"ctr-10", "ctr-11", "ctr-12", "ctr-13"}
    await meter.check()
    await meter.check_m1()
    await meter.put_book(book(START_US, gpu={"unpriced": "1.01"}))
    meter = restart(meter)
    await meter.reach(START_US + 2 * HOUR_US)
    await meter.check()


async def test_workers_that_come_and_go_charge_what_the_oracle_counts(meter: Meter) -> None:
    draw = random.Random(7)
    await begin(meter)
    now_us = START_US + 5 * MINUTE_US
    for _ in range(12):
        now_us += draw.randrange(1, 20 * MINUTE_US)
        number = draw.randrange(CONTAINERS)
        kind = draw.choice(("container.stopped", "container.started", "container.resized", "container.deleted"))
        data = {"gpu_count": draw.randrange(5)} if kind == "container.resized" else {}
        await meter.take(change(number, kind, now_us - draw.randrange(10 * MINUTE_US), **data))
        await meter.reach(now_us)
        if draw.random() < 0.6:
            meter = restart(meter)
    await meter.check()
    await meter.check_m1()


@pytest.mark.parametrize("damage", ["value = '\\x28b52ffd00'", "format = 0", "function_version = 99"])
async def test_a_snapshot_that_cant_be_read_is_an_economy_lost(meter: Meter, damage: str) -> None:
    await begin(meter)
    await meter.reach(START_US + 30 * MINUTE_US)
    assert await meter.rows("select shard from shard_snapshot")
    async with meter.pool.acquire() as connection:
        await connection.execute(f"update shard_snapshot set {damage}")
    before = loads()
    meter = restart(meter)
    await meter.reach(START_US + HOUR_US)
    assert loads() > before
    await meter.check()


async def test_a_snapshot_further_than_its_shard_is_not_used(meter: Meter) -> None:
    await begin(meter)
    await meter.reach(START_US + 30 * MINUTE_US)
    async with meter.pool.acquire() as connection:
        await connection.execute("update shard_snapshot set through = through + interval '1 hour'")
    meter = restart(meter)
    await meter.reach(START_US + 31 * MINUTE_US)
    await meter.check()
    async with transaction(meter.pool) as connection:
        await delete_snapshots(connection)
    assert await meter.rows("select shard from shard_snapshot") == []


async def test_a_snapshot_that_cant_be_saved_costs_no_tick(meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_arguments: object) -> bytes:
        raise OverflowError("a row that no column can hold")

    monkeypatch.setattr(cache_module, "encode_snapshot", failing)
    await begin(meter)
    await meter.reach(START_US + HOUR_US)
    assert await meter.rows("select shard from shard_snapshot") == []
    await meter.check()
