"""A commanded deletion ends charges, a deletion that was given up takes that back: on real PostgreSQL, with ticks."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from uuid import UUID

import orjson
import pytest

from services.metering.app.books import publish_book
from services.metering.app.guard import ClockGuard
from services.metering.app.intake import Intake
from services.metering.app.lifecycle import Rules
from services.metering.app.tick import Ticker
from services.metering.app.work import Prices
from services.metering.settings import Settings
from services.metering.store.shards import ensure_shards
from shared.clock import HOUR_US, MINUTE_US, FixedClock, format_instant, parse_instant
from shared.consumer import Poll
from shared.db import Pool, ensure_partitions, open_pool, transaction
from shared.events.charges import decompress
from shared.events.prices import PriceBookFile
from shared.kafka import Record
from shared.settings import Region
from shared.topics import CHARGES, ENFORCEMENT_EVENTS, LIFECYCLE
from tests.conftest import MakeDatabase

START_US = parse_instant("2026-11-01T08:00:00Z")
# 100 GB at 0.0006 an hour: 1,000 micros a minute.
GB, PER_MINUTE_MICROS = 100, 1_000
SHARDS = 2


@dataclass
class Meter:
    """Metering without its broker: records in, ticks, and what was charged in all."""

    pool: Pool
    clock: FixedClock
    intake: Intake
    ticker: Ticker
    _ids: Iterator[int] = field(default_factory=lambda: count(1))

    async def take(self, *records: tuple[str, dict[str, Any]]) -> None:
        poll = Poll(
            [Record(topic, UUID(int=1), 0, next(self._ids), None, orjson.dumps(event)) for topic, event in records]
        )
        async with transaction(self.pool) as connection:
            await self.intake.apply(connection, poll)
        assert not poll.dead

    async def reach(self, minutes: int) -> int:
        """Tick until so many minutes after the start; answer what was charged in all, in micros."""
        self.clock.set(START_US + minutes * MINUTE_US)
        while await self.ticker.tick():
            pass
        async with self.pool.acquire() as connection:
            rows = await connection.fetch("select value from outbox where topic = $1", CHARGES)
        return sum(sum(orjson.loads(decompress(row["value"]))["lines"]["amounts_micros"]) for row in rows)


@pytest.fixture
async def meter(make_database: MakeDatabase) -> AsyncIterator[Meter]:
    _, url = await make_database("metering")
    region = Region(currency="VND", opened_at="2020-01-01T00:00:00Z")
    settings = Settings(regions={"vn": region}, shards=SHARDS, settle_delay_seconds=0, sanity_limits="off")
    clock, prices = FixedClock(START_US), Prices()
    pool = await open_pool(url, application="metering-test", size_max=3)
    async with transaction(pool) as connection:
        await ensure_shards(connection, SHARDS, START_US - HOUR_US)
        await ensure_partitions(connection, "outbox", START_US)
    book = PriceBookFile.model_validate(
        {"region": "vn", "effective_from": "2026-01-01T00:00:00Z", "storage": {"persistent": "0.0006"}}
    )
    await publish_book(pool, prices, settings.regions, book, START_US)
    guard = ClockGuard(pool, clock, settings)
    intake = Intake(clock, prices, Rules(settings.regions, SHARDS, settings.limits))
    yield Meter(pool, clock, intake, Ticker(pool, clock, prices, settings, None, guard))
    await pool.close()


def lifecycle(kind: str, minute: int, **data: object) -> tuple[str, dict[str, Any]]:
    return LIFECYCLE, {
        "specversion": "1.0",
        "id": kind,
        "source": "platform/vn",
        "type": kind,
        "subject": "vol-1",
        "time": format_instant(START_US + minute * MINUTE_US),
        "data": {"region": "vn", "tenant_id": "acme", **data},
    }


def enforcement(kind: str, minute: int, attempt: int = 1) -> tuple[str, dict[str, Any]]:
    return ENFORCEMENT_EVENTS, {
        "specversion": "1.0",
        "id": f"case/vol-1/{kind}/{attempt}",
        "source": "tollkeeper/enforcement",
        "type": kind,
        "subject": "vol-1",
        "time": format_instant(START_US + minute * MINUTE_US),
        "datacontenttype": "application/json",
        "data": {"region": "vn", "tenant_id": "acme", "resource_id": "vol-1", "case_id": "case"},
    }


CREATED = lifecycle("volume.created", 0, size_gb=GB)
COMMANDED = enforcement("deletion.commanded", 10)
ABANDONED = enforcement("deletion.abandoned", 20)


async def test_nothing_is_charged_after_the_command(meter: Meter) -> None:
    await meter.take(CREATED)
    assert await meter.reach(12) == 12 * PER_MINUTE_MICROS
    await meter.take(COMMANDED)
    assert await meter.reach(30) == 10 * PER_MINUTE_MICROS


@pytest.mark.parametrize("ticked_between", [True, False])
async def test_a_resource_that_outlived_its_deletion_is_charged_for_its_whole_life(
    meter: Meter, *, ticked_between: bool
) -> None:
    await meter.take(CREATED)
    await meter.reach(9)
    await meter.take(COMMANDED)
    if ticked_between:
        assert await meter.reach(19) == 10 * PER_MINUTE_MICROS
    await meter.take(ABANDONED)
    assert await meter.reach(30) == 30 * PER_MINUTE_MICROS
    assert await meter.reach(40) == 40 * PER_MINUTE_MICROS, "and goes on"


async def test_events_that_come_twice_lead_to_the_same_total(meter: Meter) -> None:
    await meter.take(CREATED, COMMANDED, ABANDONED)
    await meter.take(COMMANDED)
    await meter.take(ABANDONED)
    assert await meter.reach(30) == 30 * PER_MINUTE_MICROS


async def test_a_command_of_a_later_case_ends_charges_again(meter: Meter) -> None:
    await meter.take(CREATED, COMMANDED, ABANDONED, enforcement("deletion.commanded", 25, 2))
    assert await meter.reach(30) == 25 * PER_MINUTE_MICROS


async def test_a_deletion_that_is_told_after_it_was_given_up_ends_charges_at_its_own_time(meter: Meter) -> None:
    await meter.take(CREATED, COMMANDED, ABANDONED)
    assert await meter.reach(20) == 20 * PER_MINUTE_MICROS
    await meter.take(lifecycle("volume.deleted", 11))
    assert await meter.reach(30) == 11 * PER_MINUTE_MICROS
