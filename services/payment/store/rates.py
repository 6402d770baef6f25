"""Exchange rates as published, and quotes."""

from datetime import date

import asyncpg

from services.payment.rules.conversion import Quote, Rate
from services.payment.rules.facts import Money
from shared.db import Connection


async def insert_rate(connection: Connection, rate: Rate, actor: str, now_us: int) -> None:
    """Publish a rate; one that is in force with the same value is not written again."""
    await connection.execute(
        """
        insert into exchange_rate (from_currency, to_currency, valid_on, rate_e12, actor, published_at)
        select $1, $2, $3, $4, $5, $6 where $4::bigint is distinct from (
          select rate_e12 from exchange_rate where (from_currency, to_currency, valid_on) = ($1, $2, $3)
          order by rate_number desc limit 1
        )
        """,
        rate.from_currency,
        rate.to_currency,
        rate.valid_on,
        rate.rate_e12,
        actor,
        now_us,
    )


async def load_rate(connection: Connection, from_currency: str, to_currency: str, on: date) -> Rate | None:
    """The rate in force on a day: the latest day's, and of that day the one published last."""
    row = await connection.fetchrow(
        """
        select from_currency, to_currency, rate_e12, valid_on from exchange_rate
        where from_currency = $1 and to_currency = $2 and valid_on <= $3
        order by valid_on desc, rate_number desc limit 1
        """,
        from_currency,
        to_currency,
        on,
    )
    return None if row is None else Rate(*row)


async def load_rates(connection: Connection) -> list[asyncpg.Record]:
    """The rate in force last of each pair and day, newest day first."""
    return await connection.fetch(
        """
        select distinct on (from_currency, to_currency, valid_on)
          from_currency, to_currency, valid_on, rate_e12, actor, published_at
        from exchange_rate order by from_currency, to_currency, valid_on desc, rate_number desc
        """
    )


async def insert_quote(connection: Connection, quote: Quote, now_us: int) -> None:
    await connection.execute(
        """
        insert into quote (quote_id, region, amount_micros, currency, account_currency, rate_e12, rate_date,
          credit_micros, quoted_at, expires_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) on conflict do nothing
        """,
        quote.quote_id,
        quote.region,
        quote.money.amount_micros,
        quote.money.currency,
        quote.rate.to_currency,
        quote.rate.rate_e12,
        quote.rate.valid_on,
        quote.credit_micros,
        now_us,
        quote.expires_at_us,
    )


async def load_quote(connection: Connection, quote_id: str) -> Quote | None:
    row = await connection.fetchrow("select * from quote where quote_id = $1", quote_id)
    if row is None:
        return None
    rate = Rate(row["currency"], row["account_currency"], row["rate_e12"], row["rate_date"])
    money = Money(row["amount_micros"], row["currency"])
    return Quote(quote_id, row["region"], money, rate, row["credit_micros"], row["expires_at"])


async def delete_old_quotes(connection: Connection, before_us: int) -> None:
    """Forget quotes that ended long ago; what was agreed stands in the order."""
    await connection.execute("delete from quote where expires_at < $1", before_us)
