"""Payment's database set back to a backup: what comes after the backup is played, told, and lost."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from services.payment.app.recovery import PaymentRecovery
from shared.db import ensure_partitions, transaction
from shared.outbox import SEQ_HEADER, STREAM_HEADER
from shared.restore_records import Restore, insert_restore, raise_heads
from shared.topic_reader import Bounds, FoundRecord, TopicReader
from shared.topics import PAYMENT_EVENTS
from tests.payment.shop import SHARDS, Shop, open_shop
from tests.support.databases import Databases

INCARNATIONS_MAX = 2


class Topic(TopicReader):
    """A topic with the records that a relay sent of an outbox."""

    def __init__(self, records: list[FoundRecord]) -> None:
        super().__init__("nowhere", "")
        self._records = records

    async def load_bounds(self, topics: object) -> dict[tuple[str, int], Bounds]:
        raise AssertionError(f"nobody asks how far {topics} go")

    async def read_records(self, topic: str, starts: Mapping[int, int]) -> AsyncIterator[FoundRecord]:
        assert topic == PAYMENT_EVENTS
        for record in self._records:
            if record.offset >= starts.get(record.partition, 0):
                yield record


@dataclass
class Restoring:
    """`before`: up to the backup; `lost`: what the backup does not know; `after`: started on a copy of the backup."""

    databases: Databases
    name: str
    app_url: str
    now_us: int = 0
    told: list[FoundRecord] = field(default_factory=list)

    def dump(self, incarnation: int) -> str:
        """The backup (0), and the copy of it on which an incarnation starts."""
        return f"{self.name}_dump{incarnation}"

    @contextlib.asynccontextmanager
    async def before(self, **settings: Any) -> AsyncIterator[Shop]:
        """Play what the backup knows; it is made when this ends."""
        async with open_shop(self.app_url, **settings) as shop:
            yield shop
            self.now_us = shop.clock.now_us()
        await self.databases.copy(self.name, self.dump(0))

    @contextlib.asynccontextmanager
    async def lost(self, **settings: Any) -> AsyncIterator[Shop]:
        """Go on after the backup; all that is told is published when this ends."""
        async with open_shop(self.app_url, **settings) as shop:
            shop.clock.set(self.now_us)
            yield shop
            self.now_us = shop.clock.now_us()
            await self.publish(shop)

    async def publish(self, shop: Shop) -> None:
        """Send what is in a shop's outbox, behind what was sent before."""
        for stream, seq, value in await shop.rows("select stream, seq, value from outbox order by stream, seq"):
            headers = {STREAM_HEADER: b"%d" % stream, SEQ_HEADER: b"%d" % seq}
            self.told.append(FoundRecord(stream, seq, bytes(value), headers))

    @contextlib.asynccontextmanager
    async def after(self, incarnation: int = 1, **settings: Any) -> AsyncIterator[Shop]:
        """Start on the backup, as a service does before any of its loops."""
        await self.databases.copy(self.dump(0), self.dump(incarnation))
        async with open_shop(self.app_url.replace(self.name, self.dump(incarnation)), **settings) as shop:
            shop.clock.set(self.now_us)
            restore = Restore(incarnation, "another server", self.now_us, self.now_us)
            recovery = PaymentRecovery(Topic(self.told), shop.clock, SHARDS)
            async with transaction(shop.service.pool) as connection:
                await ensure_partitions(connection, "outbox", self.now_us)
                await insert_restore(connection, restore)
                await raise_heads(connection, {item.partition: item.offset for item in self.told})
                await recovery.adopt(connection, restore, {PAYMENT_EVENTS: {}})
            yield shop


@contextlib.asynccontextmanager
async def open_restoring(databases: Databases) -> AsyncIterator[Restoring]:
    name, _, app_url = await databases.make("payment")
    made = Restoring(databases, name, app_url)
    try:
        yield made
    finally:
        for database in (name, *map(made.dump, range(INCARNATIONS_MAX + 1))):
            await databases.drop(database)
