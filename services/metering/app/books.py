"""Publishing a price book: checked while every tick and intake stands still, and what waited unpriced is charged."""

from collections.abc import Mapping
from dataclasses import replace

from services.metering.app.usage import charge_usage
from services.metering.app.work import NO_PRICES, Prices, Work
from services.metering.rules.charge import charge
from services.metering.rules.lines import correction_lines
from services.metering.rules.prices import GPU, STORAGE, PriceBook, PriceTable, check_book
from services.metering.store import prices as price_store
from services.metering.store import resources as resource_store
from services.metering.store import shards as shard_store
from services.metering.store import usage as usage_store
from shared.clock import format_instant
from shared.db import Pool, ensure_partitions, transaction
from shared.errors import Refusal
from shared.events.prices import PriceBookFile, PriceBookPublished
from shared.outbox import JSON_TYPE, Message, append_messages
from shared.settings import Region
from shared.topics import PRICE_BOOKS

# Price books have a stream of their own, beside the shards' and the dead letters'.
BOOK_STREAM = -2
# A service's SKU is the kind of its lines and entries, so it can't be called like one of ours.
RESERVED_KINDS = frozenset({GPU, STORAGE})


async def publish_book(
    pool: Pool, prices: Prices, regions: Mapping[str, Region], file: PriceBookFile, now_us: int
) -> PriceBookPublished:
    """Put a price book in force. The same book as the region's last one is answered with that one's version.

    Raises Refusal (422) with what forbids it.
    """
    if file.region not in regions:
        raise Refusal("unknown-region", f"this deployment has no region {file.region}", status=422)
    async with transaction(pool) as connection:
        version = await shard_store.lock_prices(connection)
        books = await price_store.load_books(connection, file.region)
        if books and file.model_dump() == books[-1].model_dump(exclude={"version", "published_at"}):
            return books[-1]
        published = PriceBookPublished(**file.model_dump(), version=version + 1, published_at=now_us)
        tables = await prices.at(connection, version)
        _, through_us = await shard_store.load_through(connection)
        book = price_store.to_rules(published)
        used_until_us = await usage_store.load_used_until(connection, file.region, book.services)
        table = tables.get(file.region, NO_PRICES)
        _refuse_if_wrong(table, book, through_us, regions[file.region].slot_seconds, used_until_us)
        await price_store.insert_book(connection, published)
        await catch_up(Work(connection, now_us, version, tables, {}), book)
        await ensure_partitions(connection, "outbox", now_us)
        key = f"{published.region}/{published.version}".encode()
        message = Message(BOOK_STREAM, PRICE_BOOKS, key, published.model_dump_json().encode(), JSON_TYPE)
        await append_messages(connection, [message], now_us)
    return published


def _refuse_if_wrong(
    table: PriceTable, book: PriceBook, through_us: int, slot_seconds: int, used_until_us: Mapping[str, int]
) -> None:
    problems = check_book(table, book, through_us, slot_seconds, used_until_us)
    problems += [f"service {sku}: the name is taken" for sku in book.services if sku in RESERVED_KINDS]
    if problems:
        raise Refusal("price-book-refused", "; ".join(problems), status=422, metered_through=format_instant(through_us))


async def catch_up(work: Work, book: PriceBook) -> None:
    """Charge what used SKUs that get their first price with this book, from its start on. `work` has no shards yet."""
    old = work.table(book.region)
    new = old.with_book(book)
    first_gpu = [sku for sku in book.gpu if not old.schedule(GPU, sku)]
    first_storage = [sku for sku in book.storage if not old.schedule(STORAGE, sku)]
    waiting = {
        *await resource_store.load_unpriced(work.connection, book.region, GPU, first_gpu),
        *await resource_store.load_unpriced(work.connection, book.region, STORAGE, first_storage),
    }
    # Also of what has a price: its first one may take effect later than this one.
    usage = await usage_store.load_unpriced_usage(work.connection, book.region, book.services)
    shards = sorted({shard for shard, _ in waiting} | {record.shard for record in usage})
    work.shards = await shard_store.lock_shards(work.connection, shards)
    keys = [(book.region, resource_id) for _, resource_id in sorted(waiting)]
    work.take(await resource_store.load_resources(work.connection, keys))
    if work.unreadable:
        names = ", ".join(sorted(resource_id for _, resource_id in work.unreadable))
        detail = f"it would be the first price of what these use, whose histories can't be read: {names}; mend them"
        raise Refusal("resource-unreadable", detail)
    cause = f"price-book/{book.version}"
    for resource in list(work.resources.values()):
        through_us = work.charged_through(resource)
        before, after = (charge(resource.history, table, through_us) for table in (old, new))
        work.put(resource, correction_lines(before, after), cause)
    work.tables = {**work.tables, book.region: new}
    work.book_version = book.version
    priced = [record for record in usage if new.service_rate(record.sku, record.used_from_us) is not None]
    await charge_usage(work, [replace(record, priced=True) for record in priced])
    await usage_store.mark_priced(work.connection, priced)
    await resource_store.delete_unpriced(work.connection, book.region, GPU, first_gpu)
    await resource_store.delete_unpriced(work.connection, book.region, STORAGE, first_storage)
    await work.save()
