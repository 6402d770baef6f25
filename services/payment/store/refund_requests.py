"""Refunds that operators asked for, kept before the provider is asked."""

from dataclasses import dataclass

import asyncpg

from shared.db import Connection

_COLUMNS = """
    request_id, payment_id, request_hash, amount_micros, reason, actor, requested_at, refund_id, failure, answered_at
"""


@dataclass(frozen=True, slots=True)
class RefundRequest:
    """`amount_micros` of the payment's currency; answered with a refund's id or with a failure."""

    request_id: str
    payment_id: str
    request_hash: bytes
    amount_micros: int
    reason: str
    actor: str
    requested_at_us: int
    refund_id: str | None = None
    failure: str | None = None
    answered_at_us: int | None = None


def _read(row: asyncpg.Record | None) -> RefundRequest | None:
    return None if row is None else RefundRequest(*row)


async def load_request(connection: Connection, request_id: str) -> RefundRequest | None:
    query = f"select {_COLUMNS} from refund_request where request_id = $1"  # noqa: S608 - constants
    return _read(await connection.fetchrow(query, request_id))


async def insert_request(connection: Connection, request: RefundRequest) -> None:
    await connection.execute(
        """
        insert into refund_request (request_id, payment_id, request_hash, amount_micros, reason, actor, requested_at)
        values ($1, $2, $3, $4, $5, $6, $7)
        """,
        request.request_id,
        request.payment_id,
        request.request_hash,
        request.amount_micros,
        request.reason,
        request.actor,
        request.requested_at_us,
    )


async def answer_request(
    connection: Connection, request_id: str, refund_id: str | None, failure: str | None, now_us: int
) -> None:
    """Remember what the provider made of a request; the first answer stays."""
    await connection.execute(
        """
        update refund_request set refund_id = $2, failure = $3, answered_at = $4
        where request_id = $1 and answered_at is null
        """,
        request_id,
        refund_id,
        failure,
        now_us,
    )


async def sum_open_requests(connection: Connection, payment_id: str) -> int:
    """What was asked for and not answered yet, in the payment's currency."""
    return int(
        await connection.fetchval(
            """
            select coalesce(sum(amount_micros), 0)::bigint from refund_request
            where payment_id = $1 and answered_at is null
            """,
            payment_id,
        )
    )


async def load_open_requests(connection: Connection, before_us: int, limit: int) -> list[RefundRequest]:
    """Requests from before an instant that the provider has not answered."""
    rows = await connection.fetch(
        f"""
        select {_COLUMNS} from refund_request where answered_at is null and requested_at < $1
        order by requested_at limit $2
        """,  # noqa: S608 - constants
        before_us,
        limit,
    )
    return [RefundRequest(*row) for row in rows]
