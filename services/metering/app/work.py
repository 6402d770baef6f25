"""One transaction on some shards: what was locked and loaded, what it changed, and what it publishes.

Every transaction on a shard begins by locking its row. Corrections are published in the transaction that changes the
history, so that for every resource the lines published add up to `charge(history as known, prices, through)`.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from services.metering.batches import AccountPart, BatchHead, PartLine, encode_parts
from services.metering.rules.charge import charge
from services.metering.rules.history import CONFIGURES, DELETED, Event, History
from services.metering.rules.lines import Anchor, Line, correction_lines
from services.metering.rules.prices import GPU, PERSISTENT, STORAGE, PriceTable
from services.metering.rules.segments import Segment
from services.metering.rules.timeline import build_timeline
from services.metering.store import resources as resource_store
from services.metering.store import shards as shard_store
from services.metering.store.prices import load_tables
from services.metering.store.resources import Resource, Unreadable
from services.metering.store.shards import Shard
from shared.db import Connection, ensure_partitions
from shared.events.charges import CONTENT_TYPE
from shared.outbox import Message, insert_messages
from shared.topics import CHARGES

FUNCTION_VERSION = 1
NO_PRICES = PriceTable()
ResourceKey = tuple[str, str]
Account = tuple[str, str]
Segments = tuple[Segment, ...]
Tables = Mapping[str, PriceTable]


class Prices:
    """The price tables of every region, as of one book version; read again when the version has moved."""

    def __init__(self) -> None:
        self.version = -1
        self.tables: Mapping[str, PriceTable] = {}

    async def at(self, connection: Connection, version: int) -> Mapping[str, PriceTable]:
        """The tables of a version read under the prices' lock in this transaction."""
        if version != self.version:
            self.tables = await load_tables(connection)
            self.version = version
        return self.tables


@dataclass(slots=True)
class Work:
    """A transaction's shards and resources. `book_version` and `tables` hold until it ends.

    `publishes` is False while a restore is caught up with: what changes is settled once it is all known.
    """

    connection: Connection
    now_us: int
    book_version: int
    tables: Mapping[str, PriceTable]
    shards: dict[int, Shard]
    resources: dict[ResourceKey, Resource] = field(default_factory=dict)
    changed: set[ResourceKey] = field(default_factory=set)
    unpriced: set[tuple[str, str, str, str, int]] = field(default_factory=set)
    parts: dict[int, dict[Account, AccountPart]] = field(default_factory=dict)
    publishes: bool = True
    # What can't be read, and so not be changed: whatever concerns it is kept until its row is mended.
    unreadable: dict[ResourceKey, Unreadable] = field(default_factory=dict)
    # The versions at which resources were read; what is not here is new.
    seen: dict[ResourceKey, int] = field(default_factory=dict)
    # The last charge computed of a resource: the next event of the same transaction corrects that one.
    charges: dict[ResourceKey, tuple[History, Segments]] = field(default_factory=dict)

    def take(self, found: Iterable[Resource | Unreadable]) -> None:
        """Hold resources as they were just read."""
        for resource in found:
            if isinstance(resource, Unreadable):
                self.unreadable[resource.key] = resource
            else:
                self.resources[resource.key] = resource
                self.seen[resource.key] = resource.version

    def table(self, region: str) -> PriceTable:
        return self.tables.get(region, NO_PRICES)

    def through_us(self, shard: int) -> int:
        return self.shards[shard].metered_through_us

    def charged_through(self, resource: Resource) -> int:
        """Up to where a resource is charged: with its shard, unless ticks have set it aside."""
        if resource.charged_through_us is not None:
            return resource.charged_through_us
        return self.through_us(resource.shard)

    def corrections(self, resource: Resource, before: History | None) -> tuple[Line, ...]:
        """What a resource's new history publishes in place of `before`; nothing where both say the same up to now."""
        after, through_us, table = resource.history, self.charged_through(resource), self.table(resource.region)
        if before is None and all(event.time_us >= through_us for event in after.events):
            return ()
        charged = () if before is None else self._charge(resource.key, before, table, through_us)
        due = charge(after, table, through_us)
        self.charges[resource.key] = after, due
        return correction_lines(charged, due)

    def _charge(self, key: ResourceKey, history: History, table: PriceTable, through_us: int) -> Segments:
        known = self.charges.get(key)
        return known[1] if known is not None and known[0] is history else charge(history, table, through_us)

    def put(self, resource: Resource, lines: Iterable[Line], cause: str) -> None:
        """Change a resource and publish what that corrects."""
        key = (resource.region, resource.resource_id)
        added = list(lines)
        first_line = bool(added) and (key not in self.resources or not self._was_charged(self.resources[key]))
        self.resources[key] = resource
        self.changed.add(key)
        account, anchor = (resource.region, resource.tenant_id), resource.history.anchor
        self.publish(resource.shard, account, resource.resource_id, added, cause, anchor)
        if first_line:
            self.announce_admission(resource)

    def announce_admission(self, resource: Resource) -> None:
        """Say with the resource's first line that its admission has come true."""
        if self.publishes and resource.admission_id is not None:
            part = self._part(resource.shard, (resource.region, resource.tenant_id))
            part.admission_ids.append(resource.admission_id)

    def _was_charged(self, resource: Resource) -> bool:
        if resource.admission_id is None:
            return True
        return bool(charge(resource.history, self.table(resource.region), self.charged_through(resource)))

    def publish(
        self,
        shard: int,
        account: Account,
        resource_id: str,
        lines: Iterable[Line],
        cause: str,
        anchor: Anchor | None = None,
    ) -> None:
        for line in lines if self.publishes else ():
            self._part(shard, account).lines.append(PartLine(resource_id, line, cause, anchor))

    def _part(self, shard: int, account: Account) -> AccountPart:
        return self.parts.setdefault(shard, {}).setdefault(account, AccountPart(account[0], account[1], 0))

    def note_unpriced(self, resource: Resource, events: Iterable[Event]) -> None:
        """Remember which SKUs of a resource's new events wait for their first price."""
        table = self.table(resource.region)
        for event in events:
            if event.type not in CONFIGURES:
                continue
            if event.gpu_sku is not None and not table.schedule(GPU, event.gpu_sku):
                self.unpriced.add((resource.region, GPU, event.gpu_sku, resource.resource_id, resource.shard))
            if event.storage_gb and not table.schedule(STORAGE, PERSISTENT):
                self.unpriced.add((resource.region, STORAGE, PERSISTENT, resource.resource_id, resource.shard))

    async def save(self) -> None:
        """Write the changed resources under their shards' new versions, and the batches."""
        changed_shards = {self.resources[key].shard for key in self.changed}
        for number in changed_shards:
            shard = self.shards[number]
            self.shards[number] = replace(shard, version=shard.version + 1)
        await resource_store.write_resources(
            self.connection, [self._versioned(self.resources[key]) for key in sorted(self.changed)], self.seen
        )
        await resource_store.insert_unpriced(self.connection, self.unpriced)
        await self._publish_parts()
        touched = changed_shards | set(self.parts)
        await shard_store.update_shards(self.connection, [self.shards[number] for number in sorted(touched)])

    def _versioned(self, resource: Resource) -> Resource:
        version = self.shards[resource.shard].version
        return resource.with_history(resource.history, version, _ends_at_us(resource.history))

    async def _publish_parts(self) -> None:
        if not self.parts:
            return
        accounts = [account for parts in self.parts.values() for account in parts]
        burns = await shard_store.load_burns_of(self.connection, accounts)
        rows: list[tuple[int, Message]] = []
        for number, parts in sorted(self.parts.items()):
            shard = self.shards[number]
            for account, part in parts.items():
                part.burn_micros_per_hour = burns.get(account, 0)
            head = BatchHead(self.now_us, FUNCTION_VERSION, self.book_version)
            batches = list(encode_parts(number, shard.seq + 1, head, parts.values()))
            rows += [(seq, charge_message(number, value)) for seq, value in batches]
            self.shards[number] = replace(shard, seq=shard.seq + len(batches))
        await ensure_partitions(self.connection, "outbox", self.now_us)
        await insert_messages(self.connection, rows, self.now_us)


def charge_message(shard: int, value: bytes) -> Message:
    return Message(shard, CHARGES, str(shard).encode(), value, CONTENT_TYPE)


def _ends_at_us(history: History) -> int | None:
    if history.commanded_us is None and not any(event.type in DELETED for event in history.events):
        return None
    return build_timeline(history).charge_end_us


async def open_work(
    connection: Connection,
    prices: Prices,
    now_us: int,
    shards: Collection[int],
    keys: Collection[ResourceKey],
    *,
    publishes: bool = True,
) -> Work:
    """Share the prices, lock the shards in ascending order, load the resources."""
    version = await shard_store.share_prices(connection)
    tables = await prices.at(connection, version)
    locked = await shard_store.lock_shards(connection, sorted(shards))
    work = Work(connection, now_us, version, tables, locked, publishes=publishes)
    work.take(await resource_store.load_resources(connection, keys) if keys else ())
    return work
