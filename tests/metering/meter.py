"""Metering's use cases wired to a database, with a clock that stands, and held against the oracle. Without Kafka."""

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from services.metering.app.books import publish_book
from services.metering.app.guard import ClockGuard
from services.metering.app.intake import Intake
from services.metering.app.inventory import Inventory
from services.metering.app.lifecycle import Rules
from services.metering.app.tick import Ticker
from services.metering.app.work import Prices
from services.metering.rules.charge import charge, total
from services.metering.settings import Settings
from services.metering.store.resources import load_all
from services.metering.store.shards import ensure_shards, load_book_version, load_shards
from shared.clock import SECOND_US, FixedClock, format_instant
from shared.consumer import Poll
from shared.db import Pool, ensure_partitions, open_pool, transaction
from shared.dead_letters import insert_dead_letters
from shared.events.charges import ChargeBatch, read_batch
from shared.events.prices import PriceBookFile, PriceBookPublished
from shared.kafka import Record
from shared.topics import CHARGES, LIFECYCLE, USAGE
from tests.oracle.accounts import answer

START_US = 1_767_225_600_000_000
SHARDS = 4
REGIONS: dict[str, dict[str, Any]] = {
    "vn": {"currency": "VND", "opened_at": "2020-01-01T00:00:00Z"},
    "jp": {
        "currency": "JPY",
        "opened_at": "2020-01-01T00:00:00Z",
        "slot_seconds": 7,
        "declares_inventory": True,
        "inventory_bound_seconds": 600,
    },
}
_TOPIC_ID = uuid.UUID(int=7)


def lifecycle(kind: str, resource_id: str, at_us: int, *, region: str = "vn", **data: Any) -> dict[str, Any]:
    """A lifecycle event of tenant `acme`, if the data names no other; its id is derived from what it says."""
    return {
        "specversion": "1.0",
        "id": f"{resource_id}-{kind}-{at_us}",
        "source": f"platform/{region}",
        "type": kind,
        "subject": resource_id,
        "time": format_instant(at_us),
        "data": {"region": region, "tenant_id": "acme", **data},
    }


def usage(
    name: str, at_us: int, quantity: int, sku: str = "tokens", tenant_id: str = "acme", **data: Any
) -> dict[str, Any]:
    interval = {"from": format_instant(at_us), "to": format_instant(at_us + SECOND_US), **data}
    return {
        "specversion": "1.0",
        "id": name,
        "source": "inference/vn",
        "type": "service.usage",
        "time": format_instant(at_us),
        "data": {"region": "vn", "tenant_id": tenant_id, "sku": sku, "quantity": quantity, **interval},
    }


def book(effective_from_us: int, *, region: str = "vn", **prices: Any) -> dict[str, Any]:
    return {"region": region, "effective_from": format_instant(effective_from_us), **prices}


@dataclass
class Meter:
    """Metering, what it was told, and what it is to have charged for that."""

    pool: Pool
    settings: Settings
    clock: FixedClock
    prices: Prices
    intake: Intake
    inventory: Inventory
    ticker: Ticker
    lines: list[str] = field(default_factory=list)
    books: list[dict[str, Any]] = field(default_factory=list)
    dead: list[str] = field(default_factory=list)
    _offset: int = 0

    @classmethod
    async def open(cls, app_url: str) -> "Meter":
        pool = await open_pool(app_url, application="metering-test", size_max=8)
        settings = Settings(
            regions=REGIONS,
            shards=SHARDS,
            settle_delay_seconds=0,
            sanity_limits="off",
        )
        clock = FixedClock(START_US)
        async with transaction(pool) as connection:
            await ensure_shards(connection, SHARDS, clock.now_us())
            await ensure_partitions(connection, "outbox", clock.now_us())
        return cls.wire(pool, settings, clock)

    @classmethod
    def wire(cls, pool: Pool, settings: Settings, clock: FixedClock) -> "Meter":
        prices = Prices()
        intake = Intake(clock, prices, Rules(settings.regions, settings.shards, settings.limits))
        ticker = Ticker(pool, clock, prices, settings, None, ClockGuard(pool, clock, settings))
        return cls(pool, settings, clock, prices, intake, Inventory(clock, prices, intake.rules), ticker)

    async def close(self) -> None:
        await self.pool.close()

    async def take(self, *events: Mapping[str, Any] | bytes) -> None:
        """Apply one poll in one transaction, as the consumer does; bytes are a record of the lifecycle topic."""
        records = []
        for event in events:
            if isinstance(event, bytes):
                records.append(Record(LIFECYCLE, _TOPIC_ID, 0, self._offset, None, event))
                self._offset += 1
                continue
            line = json.dumps(event)
            self.lines.append(line)
            retracts_usage = event["type"] == "event.retracted" and "subject" not in event
            topic = USAGE if retracts_usage or event["type"] == "service.usage" else LIFECYCLE
            records.append(Record(topic, _TOPIC_ID, 0, self._offset, None, line.encode()))
            self._offset += 1
        poll = Poll(records)
        async with transaction(self.pool) as connection:
            await self.intake.apply(connection, poll)
            await insert_dead_letters(connection, poll.dead, self.clock.now_us())
        self.dead += [item.reason for item in poll.dead]
        while await self.inventory.compare_due(self.pool):
            pass

    async def put_book(self, content: Mapping[str, Any]) -> PriceBookPublished:
        """Publish a book and remember it for the oracle, unless it repeats the last one."""
        file = PriceBookFile.model_validate(content)
        published = await publish_book(self.pool, self.prices, self.settings.regions, file, self.clock.now_us())
        if published.version > len(self.books):
            self.books.append(dict(content))
        return published

    async def reach(self, now_us: int) -> None:
        """Move the clock, apply what waited for it, and tick until every shard is there."""
        self.clock.set(now_us)
        while await self.intake.release_due(self.pool):
            pass
        while await self.inventory.compare_due(self.pool):
            pass
        while await self.ticker.tick():
            pass

    async def batches(self) -> list[ChargeBatch]:
        async with self.pool.acquire() as connection:
            rows = await connection.fetch("select value from outbox where topic = $1 order by stream, seq", CHARGES)
        return [read_batch(row["value"]) for row in rows]

    async def charged(self) -> dict[tuple[str, str], int]:
        """Micros by account, over every batch published; accounts that owe nothing are absent."""
        totals: dict[tuple[str, str], int] = {}
        for batch in await self.batches():
            for account in batch.accounts:
                key = (account.region, account.tenant_id)
                totals[key] = totals.get(key, 0) + sum(total[2] for total in account.totals)
        return {account: total for account, total in totals.items() if total}

    async def causes(self) -> dict[str, int]:
        """Micros by the cause of their lines; those of ticks have none."""
        found: dict[str, int] = {}
        for batch in await self.batches():
            for cause, micros in zip(batch.lines.causes, batch.lines.amounts_micros, strict=True):
                found[cause] = found.get(cause, 0) + micros
        return found

    def expected(self) -> dict[tuple[str, str], int]:
        """What the oracle says of all that was taken, at the prices published, up to now."""
        return answer(self.lines, self.books, REGIONS, self.clock.now_us()).totals()

    async def check(self) -> dict[tuple[str, str], int]:
        """Fail unless every account was charged right to the micro; answers the totals."""
        expected = self.expected()
        charged = await self.charged()
        assert charged == expected, f"charged {charged}, must be {expected}"
        return expected

    async def contradictions(self) -> list[tuple[str, str]]:
        """(resource, kind) of everything that is listed."""
        rows = await self.rows("select resource_id, kind from contradiction order by 1, 2, event_id")
        return [(row[0], row[1]) for row in rows]

    async def check_m1(self) -> None:
        """Fail unless all lines of every resource add up to what its history costs, up to where it is charged.

        The history as metering has it, so that this also holds for what the oracle has no word for.
        """
        published: dict[tuple[str, str, str], int] = {}
        for batch in await self.batches():
            first = 0
            for account in batch.accounts:
                for number in range(first, first + account.lines):
                    key = (account.region, batch.lines.resource_ids[number], batch.lines.kinds[number])
                    published[key] = published.get(key, 0) + batch.lines.amounts_micros[number]
                first += account.lines
        due: dict[tuple[str, str, str], int] = {}
        async with transaction(self.pool) as connection:
            tables = await self.prices.at(connection, await load_book_version(connection))
            for shard in await load_shards(connection):
                for resource in await load_all(connection, shard.shard):
                    through_us = resource.charged_through_us or shard.metered_through_us
                    for kind, micros in total(charge(resource.history, tables[resource.region], through_us)).items():
                        due[resource.region, resource.resource_id, kind] = micros
        metered = {key: micros for key, micros in published.items() if key[2] in ("gpu", "storage") and micros}
        assert metered == {key: micros for key, micros in due.items() if micros}

    async def rows(self, query: str, *arguments: object) -> list[tuple[Any, ...]]:
        async with self.pool.acquire() as connection:
            return [tuple(row) for row in await connection.fetch(query, *arguments)]
