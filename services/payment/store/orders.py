"""Orders and their transitions."""

from dataclasses import asdict, dataclass
from datetime import date

import asyncpg

from services.payment.providers import ProviderName
from services.payment.rules.decision import OrderState
from services.payment.rules.facts import Money
from services.payment.rules.orders import Order
from shared.db import Connection


@dataclass(frozen=True, slots=True)
class NewOrder:
    """An order as it was agreed: nothing of this ever changes."""

    order_id: str
    region: str
    tenant_id: str
    shard: int
    idempotency_key: str
    request_hash: bytes
    provider: ProviderName
    amount_micros: int
    currency: str
    account_currency: str
    credit_micros: int
    rate_e12: int
    rate_date: date | None
    quote_id: str | None
    email: str
    payer_name: str
    payer_ip: str
    locale: str
    bank_code: str
    save_card: bool
    created_at: int
    expires_at: int

    @property
    def money(self) -> Money:
        return Money(self.amount_micros, self.currency)


@dataclass(frozen=True, slots=True)
class StoredOrder(NewOrder):
    """An order with how it stands. Instants are microseconds, as everywhere."""

    state: OrderState
    transitions: int
    attempted: bool
    attempt_registered: bool
    failure_told: bool
    payment_id: str | None
    registered_at: int | None
    page_url: str | None
    page_reference: str | None

    @property
    def order(self) -> Order:
        return Order(
            self.order_id,
            self.money,
            self.credit_micros,
            self.state,
            self.payment_id,
            self.attempted,
            self.failure_told,
        )


_AGREED = ", ".join(NewOrder.__dataclass_fields__)
ORDER_COLUMNS = tuple(StoredOrder.__dataclass_fields__)
_COLUMNS = ", ".join(ORDER_COLUMNS)


def _read(row: asyncpg.Record | None) -> StoredOrder | None:
    return None if row is None else StoredOrder(*row)


async def load_order(connection: Connection, order_id: str) -> StoredOrder | None:
    query = f"select {_COLUMNS} from payment_order where order_id = $1"  # noqa: S608 - constants
    return _read(await connection.fetchrow(query, order_id))


async def lock_order(connection: Connection, order_id: str) -> StoredOrder | None:
    query = f"select {_COLUMNS} from payment_order where order_id = $1 for update"  # noqa: S608 - constants
    return _read(await connection.fetchrow(query, order_id))


@dataclass(frozen=True, slots=True)
class OrderOfPayment:
    """The locked order that a payment names, whether the payment has its row, and whether facts wait for it."""

    order: StoredOrder | None
    payment_known: bool
    has_early_facts: bool


async def lock_order_of_payment(connection: Connection, order_id: str | None, payment_id: str) -> OrderOfPayment:
    """Everything that a success is decided by, at once; the caller holds the payment's id."""
    known = """
        exists (select from payment where payment_id = $2), exists (select from early_fact where payment_id = $2)
    """
    query = f"select {_COLUMNS}, {known} from payment_order where order_id = $1 for update"  # noqa: S608 - constants
    row = await connection.fetchrow(query, order_id, payment_id)
    if row is not None:
        *columns, payment_known, has_early_facts = row
        return OrderOfPayment(StoredOrder(*columns), payment_known, has_early_facts)
    row = await connection.fetchrow(f"select $1::text, {known}", None, payment_id)
    assert row is not None, "a select without a table answers a row"
    return OrderOfPayment(None, row[1], row[2])


async def insert_order(connection: Connection, order: NewOrder) -> bool:
    """Keep a new order; answer False where its id is taken."""
    places = ", ".join(f"${number}" for number in range(1, len(NewOrder.__dataclass_fields__) + 1))
    status = await connection.execute(
        f"insert into payment_order ({_AGREED}) values ({places}) on conflict do nothing",  # noqa: S608 - constants
        *asdict(order).values(),
    )
    return status.endswith(" 1")


@dataclass(frozen=True, slots=True)
class Change:
    """How an order is to stand from now on."""

    state: OrderState
    attempted: bool
    failure_told: bool
    payment_id: str | None


async def update_order(connection: Connection, order: StoredOrder, change: Change, cause: str, now_us: int) -> None:
    """Save a locked order; a change of state becomes a transition with its cause."""
    await connection.execute(
        """
        with changed as (
          update payment_order set state = $2, attempted = $3, failure_told = $4, payment_id = $5,
            transitions = transitions + (state <> $2)::int
          where order_id = $1 returning order_id, transitions
        )
        insert into order_transition (order_id, number, from_state, to_state, cause, at)
        select order_id, transitions, $6, $2, $7, $8 from changed where $6 <> $2
        """,
        order.order_id,
        change.state,
        change.attempted,
        change.failure_told,
        change.payment_id,
        order.state,
        cause,
        now_us,
    )


async def save_page(connection: Connection, order_id: str, url: str, reference: str, now_us: int) -> None:
    """Remember the page that was opened, and that balance knew of the order before."""
    await connection.execute(
        """
        update payment_order set page_url = $2, page_reference = $3, registered_at = coalesce(registered_at, $4)
        where order_id = $1
        """,
        order_id,
        url,
        reference,
        now_us,
    )


async def mark_attempted(connection: Connection, order_id: str) -> None:
    """Say of a new order that the provider will be asked for money without a page."""
    await connection.execute("update payment_order set attempted = true where order_id = $1", order_id)


async def load_unregistered_attempts(connection: Connection, limit: int) -> list[StoredOrder]:
    """Open orders that were attempted, which balance does not know yet."""
    rows = await connection.fetch(
        f"""
        select {_COLUMNS} from payment_order
        where attempted and not attempt_registered and state in ('pending', 'mismatched')
        order by order_number limit $1
        """,  # noqa: S608 - constants
        limit,
    )
    return [StoredOrder(*row) for row in rows]


async def mark_attempts_registered(connection: Connection, order_ids: list[str]) -> None:
    await connection.execute(
        "update payment_order set attempt_registered = true where order_id = any($1::text[])", order_ids
    )
