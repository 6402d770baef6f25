"""A restored database adopts what metering had published since its backup: batches, burns, price books.

One transaction. What was charged in all is then written down: by the backup's own histories plus the adopted lines.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace

from services.metering.app.books import catch_up
from services.metering.app.work import NO_PRICES, Tables, Work, charge_message
from services.metering.rules.charge import charge
from services.metering.rules.restore import Charged, ChargeKey, charged_of
from services.metering.store import prices as price_store
from services.metering.store import resources as resource_store
from services.metering.store import restore as restore_store
from services.metering.store import shards as shard_store
from services.metering.store import usage as usage_store
from services.metering.store.shards import Shard
from services.metering.store.snapshots import delete_snapshots
from shared.db import Connection
from shared.errors import Corruption
from shared.events.charges import ChargeBatch, read_batch
from shared.events.prices import PriceBookPublished
from shared.events.reading import read_json
from shared.ids import shard_of
from shared.log import get_logger
from shared.outbox import Message, insert_messages
from shared.own_records import find_own
from shared.topic_reader import TopicReader
from shared.topics import CHARGES, PRICE_BOOKS

logger = get_logger(__name__)

_CHUNK_MESSAGES = 200


@dataclass(slots=True)
class _Adopted:
    """What the charge topic told, gathered while it is read."""

    charged: dict[int, dict[ChargeKey, Charged]]
    heads: dict[int, int]  # the sequence number reached, by shard
    through_us: dict[int, int] = field(default_factory=dict)  # up to where ticks have charged, by shard
    burns: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    book_version: int = 0
    batches: int = 0


async def adopt(connection: Connection, reader: TopicReader, starts: Mapping[int, int], now_us: int) -> None:
    """Adopt everything on the charge topic that this database does not know. Raises Corruption where that has gaps."""
    version = await shard_store.lock_prices(connection)
    shards = await shard_store.lock_all_shards(connection)
    await delete_snapshots(connection)
    tables = await price_store.load_tables(connection)
    adopted = _Adopted(
        await _charged_by_backup(connection, shards, tables), {number: shard.seq for number, shard in shards.items()}
    )
    rows: list[tuple[int, Message]] = []
    async for batch, value in _unknown_batches(reader, starts, adopted):
        _add(adopted, batch)
        rows.append((batch.seq, charge_message(batch.shard, value)))
        if len(rows) >= _CHUNK_MESSAGES:
            await insert_messages(connection, rows, now_us)
            rows.clear()
    await insert_messages(connection, rows, now_us)
    await _adopt_books(connection, reader, version, adopted.book_version, now_us)
    await _write(connection, adopted)
    logger.warning("restore.adopted", batches=adopted.batches, shards=len(adopted.through_us))


async def _charged_by_backup(
    connection: Connection, shards: dict[int, Shard], tables: Tables
) -> dict[int, dict[ChargeKey, Charged]]:
    """By shard, what the backup had charged for every resource and service."""
    charged: dict[int, dict[ChargeKey, Charged]] = {}
    for number, shard in shards.items():
        found = charged[number] = {}
        for resource in await resource_store.load_all(connection, number):
            through_us = resource.charged_through_us or shard.metered_through_us
            segments = charge(resource.history, tables.get(resource.region, NO_PRICES), through_us)
            for kind, item in charged_of(segments).items():
                found[ChargeKey(resource.region, resource.tenant_id, resource.resource_id, kind)] = item
    for key, item in (await load_usage_due(connection)).items():
        charged[shard_of(key.region, key.tenant_id, len(shards))][key] = item
    return charged


async def load_usage_due(connection: Connection) -> dict[ChargeKey, Charged]:
    """What each tenant's usage of each service costs, by the running sums."""
    due: dict[ChargeKey, Charged] = {}
    for (region, tenant_id, sku, price_micros, unit_size), quantity in (
        await usage_store.load_all_totals(connection)
    ).items():
        key = ChargeKey(region, tenant_id, sku, sku)
        item = Charged(sku, 0, quantity, price_micros, quantity * price_micros // unit_size)
        due[key] = due[key].plus(item) if key in due else item
    return due


async def _unknown_batches(
    reader: TopicReader, starts: Mapping[int, int], adopted: _Adopted
) -> AsyncIterator[tuple[ChargeBatch, bytes]]:
    """The batches past each shard's head, in order, each once."""
    async for record in reader.read_records(CHARGES, starts):
        if find_own("metering", CHARGES, record) is None:
            continue
        partition, offset, value = record.partition, record.offset, record.value
        try:
            batch = read_batch(value or b"")
        except ValueError as error:
            raise Corruption(f"{CHARGES}/{partition}/{offset} is no charge batch of ours: {error}") from error
        head = adopted.heads.get(batch.shard)
        if head is None or batch.seq > head + 1:
            raise Corruption(
                f"{CHARGES}/{partition}/{offset} has seq {batch.seq} of shard {batch.shard}, this database ends at "
                f"{head}, and what lies between is no longer on the topic: restore a later backup"
            )
        if batch.seq == head + 1:
            yield batch, value or b""


def _add(adopted: _Adopted, batch: ChargeBatch) -> None:
    adopted.batches += 1
    adopted.heads[batch.shard] = batch.seq
    if batch.charged_through is not None:
        adopted.through_us[batch.shard] = batch.charged_through
    adopted.book_version = max(adopted.book_version, batch.book_version)
    charged, lines, first = adopted.charged[batch.shard], batch.lines, 0
    for account in batch.accounts:
        name = account.region, account.tenant_id
        adopted.burns[name] = batch.shard, account.burn_micros_per_hour
        for number in range(first, first + account.lines):
            key = ChargeKey(*name, lines.resource_ids[number], lines.kinds[number])
            item = Charged(
                lines.skus[number],
                lines.slots_from[number],
                lines.slots[number],
                lines.prices_micros[number],
                lines.amounts_micros[number],
            )
            charged[key] = charged[key].plus(item) if key in charged else item
        first += account.lines


async def _adopt_books(connection: Connection, reader: TopicReader, known: int, needed: int, now_us: int) -> None:
    """Put the books published since in force as they were, silently: what they charged is on the charge topic."""
    books: dict[int, PriceBookPublished] = {}
    async for record in reader.read_records(PRICE_BOOKS, {}):
        if find_own("metering", PRICE_BOOKS, record) is not None:
            book = read_json(PriceBookPublished, record.value or b"")
            books[book.version] = book
    for version in range(known + 1, max([known, needed, *books]) + 1):
        if version not in books:
            raise Corruption(f"price book {version} was charged with, but is not on {PRICE_BOOKS}: publish it there")
        work = Work(connection, now_us, version - 1, await price_store.load_tables(connection), {}, publishes=False)
        await price_store.insert_book(connection, books[version])
        await catch_up(work, price_store.to_rules(books[version]))


async def _write(connection: Connection, adopted: _Adopted) -> None:
    """Move the shards to where the topic is: sequence numbers, `through`, and what was charged.

    `through` is the last that a tick said. Of a tick whose last batch was not sent yet it is the one before: what the
    others charged is then more than is due, is taken back when the restore settles, and charged again by the next tick.
    """
    moved: list[Shard] = []
    for number, shard in (await shard_store.lock_all_shards(connection)).items():
        through_us = max(shard.metered_through_us, adopted.through_us.get(number, 0))
        moved.append(replace(shard, seq=adopted.heads[number], metered_through_us=through_us))
        await restore_store.insert_charged(connection, number, adopted.charged[number])
    await shard_store.update_shards(connection, moved)
    await shard_store.upsert_burns(connection, adopted.burns)
