"""SQL of price books."""

from services.metering.rules.prices import PriceBook, PriceTable, ServiceRate
from shared.db import Connection
from shared.events.prices import PriceBookPublished
from shared.events.reading import read_json
from shared.money import parse_micros


async def insert_book(connection: Connection, book: PriceBookPublished) -> None:
    await connection.execute(
        "insert into price_book (version, region, effective_from, published_at, body) values ($1, $2, $3, $4, $5)",
        book.version,
        book.region,
        book.effective_from,
        book.published_at,
        book.model_dump_json(),
    )


async def load_books(connection: Connection, region: str | None = None) -> list[PriceBookPublished]:
    """All books in the order in which they were published, of one region or of all."""
    rows = await connection.fetch(
        "select body from price_book where $1::text is null or region = $1 order by version", region
    )
    return [read_json(PriceBookPublished, row["body"]) for row in rows]


def to_rules(book: PriceBookPublished) -> PriceBook:
    """The book as the rules take it: prices in micros, instants as integers."""
    return PriceBook(
        region=book.region,
        version=book.version,
        effective_from_us=book.effective_from,
        gpu={sku: parse_micros(price) for sku, price in book.gpu.items()},
        storage={sku: parse_micros(price) for sku, price in book.storage.items()},
        services={
            sku: ServiceRate(service.unit_size, service.unit, service.price_micros)
            for sku, service in book.services.items()
        },
    )


async def load_tables(connection: Connection) -> dict[str, PriceTable]:
    """The price table of every region that has one."""
    tables: dict[str, PriceTable] = {}
    for book in await load_books(connection):
        tables[book.region] = tables.get(book.region, PriceTable()).with_book(to_rules(book))
    return tables
