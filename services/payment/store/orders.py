"""Orders and their transitions."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Final

import asyncpg

from services.payment.providers import ProviderName
from services.payment.rules.decision import OrderState
from services.payment.rules.facts import Money
from services.payment.rules.orders import Order
from shared.clock import SECOND_US
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
    page_token: str

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


# What the loop that tells balance of attempts calls an order that it has to leave out (shared.set_aside).
ATTEMPT_KIND: Final = "attempt"
# A payment that balance has not credited after so long is told to it by a question of ours.
UNHEARD_US = SECOND_US

_AGREED = ", ".join(NewOrder.__dataclass_fields__)
ORDER_COLUMNS = tuple(StoredOrder.__dataclass_fields__)
_COLUMNS = ", ".join(ORDER_COLUMNS)


def _read(row: asyncpg.Record | None) -> StoredOrder | None:
    return None if row is None else StoredOrder(*row)


async def load_order(connection: Connection, order_id: str) -> StoredOrder | None:
    query = f"select {_COLUMNS} from payment_order where order_id = $1"  # noqa: S608 - constants
    return _read(await connection.fetchrow(query, order_id))


async def load_order_of_page(connection: Connection, token: str) -> StoredOrder | None:
    query = f"select {_COLUMNS} from payment_order where page_token = $1"  # noqa: S608 - constants
    return _read(await connection.fetchrow(query, token))


async def lock_order(connection: Connection, order_id: str) -> StoredOrder | None:
    query = f"select {_COLUMNS} from payment_order where order_id = $1 for update"  # noqa: S608 - constants
    return _read(await connection.fetchrow(query, order_id))


@dataclass(frozen=True, slots=True)
class OrderOfPayment:
    """The locked order that a payment names, whether the payment has its row, and whether facts wait for it."""

    order: StoredOrder | None
    payment_known: bool
    has_early_facts: bool


async def lock_orders_of_payments(
    connection: Connection, named: Sequence[tuple[str | None, str]]
) -> list[OrderOfPayment]:
    """Everything that successes are decided by, for pairs of order and payment; the caller holds the payments' ids.

    Orders are locked in ascending order, so that nobody waits for one another in a circle.
    """
    if not named:
        return []
    rows = await connection.fetch(
        f"""
        with locked as materialized (
          select {_COLUMNS} from payment_order where order_id = any($1::text[]) order by order_id for update
        )
        select locked.*, exists (select from payment p where p.payment_id = n.payment_id),
          exists (select from early_fact f where f.payment_id = n.payment_id)
        from unnest($1::text[], $2::text[]) with ordinality n(order_id, payment_id, number)
        left join locked using (order_id) order by n.number
        """,  # noqa: S608 - constants
        [order_id for order_id, _ in named],
        [payment_id for _, payment_id in named],
    )
    return [
        OrderOfPayment(None if columns[0] is None else StoredOrder(*columns), payment_known, has_early_facts)
        for *columns, payment_known, has_early_facts in rows
    ]


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


async def update_orders(
    connection: Connection, changes: Sequence[tuple[StoredOrder, Change, str]], now_us: int
) -> None:
    """Save locked orders, each with the cause; a change of state becomes a transition that names it."""
    if not changes:
        return
    await connection.execute(
        """
        with changed as (
          update payment_order o set state = c.state, attempted = c.attempted, failure_told = c.failure_told,
            payment_id = c.payment_id, transitions = o.transitions + (o.state <> c.state)::int
          from unnest($1::text[], $2::text[], $3::text[], $4::bool[], $5::bool[], $6::text[], $7::text[])
            c(order_id, from_state, state, attempted, failure_told, payment_id, cause)
          where o.order_id = c.order_id
          returning o.order_id, o.transitions, c.from_state, c.state, c.cause
        )
        insert into order_transition (order_id, number, from_state, to_state, cause, at)
        select order_id, transitions, from_state, state, cause, $8 from changed where from_state <> state
        """,
        [order.order_id for order, _, _ in changes],
        [order.state for order, _, _ in changes],
        [change.state for _, change, _ in changes],
        [change.attempted for _, change, _ in changes],
        [change.failure_told for _, change, _ in changes],
        [change.payment_id for _, change, _ in changes],
        [cause for _, _, cause in changes],
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


async def load_unregistered_attempts(connection: Connection, limit: int, now_us: int) -> list[StoredOrder]:
    """Orders whose money may come, which balance does not know yet; without those that are set aside.

    Open ones that were attempted, and those paid a moment ago whose credit balance has not told of: where what we
    publish is late, this keeps a deletion away.
    """
    rows = await connection.fetch(
        f"""
        select * from (
          select {_COLUMNS} from payment_order
          where attempted and not attempt_registered and state in ('pending', 'mismatched')
          union all
          select {", ".join(f"o.{name}" for name in ORDER_COLUMNS)} from payment p join payment_order o using (order_id)
          where p.credit_micros is not null and p.credited_at is null and p.captured_at <= $3
            and not o.attempt_registered
        ) o
        where o.order_id not in (select item from set_aside s where kind = '{ATTEMPT_KIND}' and still_held(s, $2))
        order by o.created_at, o.order_id limit $1
        """,  # noqa: S608 - constants
        limit,
        now_us,
        now_us - UNHEARD_US,
    )
    return [StoredOrder(*row) for row in rows]


async def mark_attempts_registered(connection: Connection, order_ids: list[str]) -> None:
    await connection.execute(
        "update payment_order set attempt_registered = true where order_id = any($1::text[])", order_ids
    )
