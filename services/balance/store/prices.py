"""Prices as metering published them, by SKU."""

from collections.abc import Collection, Sequence

from services.balance.rules.admission import PriceKey, PriceStep
from shared.db import Connection


async def save_prices(
    connection: Connection,
    region: str,
    version: int,
    effective_from_us: int,
    prices: Sequence[tuple[PriceKey, int]],
) -> None:
    """Keep a book's prices; of two books for one instant the later holds, in whatever order they come."""
    await connection.execute(
        """
        insert into price (region, kind, sku, effective_from, price_micros, book_version)
        select $1, k.kind, k.sku, $2, k.price_micros, $3
        from unnest($4::text[], $5::text[], $6::bigint[]) k(kind, sku, price_micros)
        on conflict (region, kind, sku, effective_from) do update
          set price_micros = excluded.price_micros, book_version = excluded.book_version
          where price.book_version < excluded.book_version
        """,
        region,
        effective_from_us,
        version,
        [key.kind for key, _ in prices],
        [key.sku for key, _ in prices],
        [price_micros for _, price_micros in prices],
    )


async def load_prices(
    connection: Connection, region: str, keys: Collection[PriceKey]
) -> dict[PriceKey, list[PriceStep]]:
    """Every step of these SKUs' prices, ascending."""
    found: dict[PriceKey, list[PriceStep]] = {}
    rows = await connection.fetch(
        """
        select p.kind, p.sku, p.effective_from, p.price_micros
        from unnest($2::text[], $3::text[]) k(kind, sku) join price p using (kind, sku)
        where p.region = $1 order by p.effective_from
        """,
        region,
        [key.kind for key in keys],
        [key.sku for key in keys],
    )
    for kind, sku, effective_from_us, price_micros in rows:
        found.setdefault(PriceKey(kind, sku), []).append(PriceStep(effective_from_us, price_micros))
    return found
