"""A clock that jumps sets no mark and charges nothing, at whatever moment it does (each guard alone)."""

from collections.abc import AsyncIterator, Sequence
from typing import cast

import pytest

from services.metering.app.guard import ClockGuard
from services.metering.app.read_until import ReadUntil
from services.metering.app.work import Prices, Tables
from services.metering.settings import Settings
from services.metering.store.reading import load_read_until, move_read_until
from shared.clock import HOUR_US, MINUTE_US
from shared.db import Connection, transaction
from shared.errors import TransientFault
from shared.watermarks import TopicEnds, Watermarks
from tests.conftest import MakeDatabase
from tests.metering.meter import REGIONS, SHARDS, START_US, Meter, book, lifecycle


class NothingPublished:
    """A broker whose topics are empty."""

    async def load(self, topics: Sequence[str]) -> dict[str, TopicEnds]:
        assert list(topics) == []
        return {}


@pytest.fixture
async def meter(make_database: MakeDatabase) -> AsyncIterator[Meter]:
    """With the sanity limits on."""
    _, app_url = await make_database("metering")
    plain = await Meter.open(app_url)
    settings = Settings(regions=REGIONS, shards=SHARDS, settle_delay_seconds=0, sanity_limits="on")
    yield Meter.wire(plain.pool, settings, plain.clock)
    await plain.close()


def reading_of(meter: Meter) -> ReadUntil:
    guard = ClockGuard(meter.pool, meter.clock, meter.settings)
    watermarks = cast("Watermarks", NothingPublished())
    return ReadUntil(meter.pool, meter.clock, guard, watermarks, topics=[], settle_delay_seconds=0)


async def read_until(meter: Meter) -> int:
    async with transaction(meter.pool) as connection:
        return await load_read_until(connection)


async def test_an_instant_read_on_a_clock_that_jumped_is_no_mark(meter: Meter) -> None:
    reading = reading_of(meter)
    assert await reading.advance()
    assert await read_until(meter) == START_US
    meter.clock.set(START_US + 2 * HOUR_US)
    assert not await reading.advance()
    assert await read_until(meter) == START_US


async def test_a_mark_that_a_wrong_clock_has_set_allows_nothing(meter: Meter) -> None:
    reading = reading_of(meter)
    async with transaction(meter.pool) as connection:
        await move_read_until(connection, START_US + HOUR_US, START_US + HOUR_US)
        assert await reading.load_bound_us(connection) == 0


async def test_a_tick_on_a_clock_that_jumps_meanwhile_charges_nothing(
    meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    await meter.put_book(book(START_US - HOUR_US, gpu={"a30": "0.6"}))
    created = lifecycle("container.created", "c", START_US, gpu_sku="a30", gpu_count=1)
    await meter.take(created, lifecycle("container.started", "c", START_US))
    meter.clock.set(START_US + MINUTE_US)
    load_tables, clock = Prices.at, meter.clock

    async def jump(prices: Prices, connection: Connection, version: int) -> Tables:
        clock.set(START_US + 2 * HOUR_US)
        return await load_tables(prices, connection, version)

    monkeypatch.setattr(Prices, "at", jump)
    with pytest.raises(TransientFault, match="the clock jumped during the tick"):
        await meter.ticker.tick()
    monkeypatch.undo()
    assert await meter.ticker.tick() == 0, "it halts"
    assert await meter.charged() == {}
