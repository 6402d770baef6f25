"""Which orders are due to be asked about, and how far a provider's events were swept."""

from services.payment.providers import ProviderName
from services.payment.store.orders import ORDER_COLUMNS, StoredOrder
from shared.db import Connection

# So many orders that nobody tried to pay an account may have: each is asked about before a deletion.
UNTRIED_MAX = 20


async def claim_due_orders(
    connection: Connection, provider: ProviderName, now_us: int, first_before_us: int, until_us: int, limit: int
) -> list[StoredOrder]:
    """A provider's orders to ask about now, nobody else's until `until_us`: who dies leaves his to the next."""
    rows = await connection.fetch(
        f"""
        with due as (
          select order_id from payment_order
          where provider = $5 and ((asks = 0 and ask_at is null and created_at <= $2) or ask_at <= $1)
          order by coalesce(ask_at, created_at) limit $4 for update skip locked
        )
        update payment_order o set asks = asks + 1, ask_at = $3 from due where o.order_id = due.order_id
        returning {", ".join(f"o.{name}" for name in ORDER_COLUMNS)}
        """,  # noqa: S608 - constants
        now_us,
        first_before_us,
        until_us,
        limit,
        provider,
    )
    return [StoredOrder(*row) for row in rows]


async def load_recent_orders(
    connection: Connection, since_us: int, after: str, limit: int, region: str | None, tenant_id: str | None
) -> list[StoredOrder]:
    """Orders since an instant, or unsettled ones however old, by id."""
    rows = await connection.fetch(
        f"""
        select {", ".join(ORDER_COLUMNS)} from payment_order
        where order_id > $2 and (created_at >= $1 or state in ('pending', 'paid', 'mismatched'))
          and ($4::text is null or region = $4) and ($5::text is null or tenant_id = $5)
        order by order_id limit $3
        """,  # noqa: S608 - constants
        since_us,
        after,
        limit,
        region,
        tenant_id,
    )
    return [StoredOrder(*row) for row in rows]


async def lock_orders_of(connection: Connection, region: str, tenant_id: str) -> None:
    """Let an account's new orders come one after another until the end of the transaction."""
    await connection.execute("select pg_advisory_xact_lock(hashtextextended($1, 4712))", f"orders {region}/{tenant_id}")


async def load_untried_orders(connection: Connection, region: str, tenant_id: str, limit: int) -> list[StoredOrder]:
    """An account's open orders that nobody is known to have tried to pay, the newest first."""
    rows = await connection.fetch(
        f"""
        select {", ".join(ORDER_COLUMNS)} from payment_order
        where (region, tenant_id) = ($1, $2) and state = 'pending' and not attempted order by created_at desc limit $3
        """,  # noqa: S608 - constants
        region,
        tenant_id,
        limit,
    )
    return [StoredOrder(*row) for row in rows]


async def set_next_ask(connection: Connection, order_id: str, ask_at_us: int | None) -> None:
    await connection.execute(
        "update payment_order set ask_at = $2, asks = greatest(asks, 1) where order_id = $1", order_id, ask_at_us
    )


async def load_swept_through(connection: Connection, provider: ProviderName) -> int | None:
    value: int | None = await connection.fetchval("select swept_through from event_sweep where provider = $1", provider)
    return value


async def save_swept_through(connection: Connection, provider: ProviderName, through_us: int) -> None:
    await connection.execute(
        """
        insert into event_sweep (provider, swept_through) values ($1, $2)
        on conflict (provider) do update set swept_through = greatest(event_sweep.swept_through, excluded.swept_through)
        """,
        provider,
        through_us,
    )
