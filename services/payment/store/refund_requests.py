"""Refunds that operators asked for, kept before the provider is asked."""

from dataclasses import dataclass
from typing import Final

import asyncpg

from shared.db import Connection

_COLUMNS = """
    request_id, payment_id, request_hash, amount_micros, reason, actor, requested_at, refund_id, failure, answered_at,
    sent_at, tried_at
"""
# What the loop that sends again calls a request that it has to leave out (shared.set_aside).
SET_ASIDE_KIND: Final = "refund-resume"


@dataclass(frozen=True, slots=True)
class RefundRequest:
    """`amount_micros` of the payment's currency; answered with a refund's id or with a failure.

    `sent_at_us`: when the provider first may have heard of it; `tried_at_us`: last sent or asked about.
    """

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
    sent_at_us: int | None = None
    tried_at_us: int | None = None

    @property
    def cursor(self) -> tuple[int, str]:
        return self.requested_at_us, self.request_id


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


async def mark_tried(connection: Connection, request_id: str, now_us: int, *, sent: bool) -> None:
    """Note that a provider is about to be asked, before it is: what was sent once may have happened."""
    await connection.execute(
        """
        update refund_request set tried_at = $2, sent_at = case when $3 then coalesce(sent_at, $2) else sent_at end
        where request_id = $1
        """,
        request_id,
        now_us,
        sent,
    )


async def withdraw_request(connection: Connection, request_id: str, actor: str, reason: str, now_us: int) -> None:
    """Take a request back: it is answered, and sent no more."""
    await connection.execute(
        """
        update refund_request set failure = 'withdrawn', answered_at = $4, withdrawn_by = $2, withdrawn_reason = $3
        where request_id = $1 and answered_at is null
        """,
        request_id,
        actor,
        reason,
        now_us,
    )


async def count_alike(connection: Connection, request: RefundRequest) -> int:
    """How many other refunds of its payment are of a request's amount, asked for here or heard of."""
    return int(
        await connection.fetchval(
            """
            select count(*) from (
              select refund_id from refund where payment_id = $1 and amount_micros = $2
              union
              select coalesce(refund_id, request_id) from refund_request
              where payment_id = $1 and amount_micros = $2 and (failure is null or sent_at is not null)
                and request_id <> $3
            ) alike
            """,
            request.payment_id,
            request.amount_micros,
            request.request_id,
        )
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


async def load_open_requests(
    connection: Connection, after: tuple[int, str], limit: int, *, before_us: int
) -> list[RefundRequest]:
    """A page of requests that the provider has not answered, oldest first; those last tried before an instant."""
    rows = await connection.fetch(
        f"""
        select {_COLUMNS} from refund_request
        where answered_at is null and (requested_at, request_id) > ($1, $2)
          and coalesce(tried_at, requested_at) < $3
        order by requested_at, request_id limit $4
        """,  # noqa: S608 - constants
        *after,
        before_us,
        limit,
    )
    return [RefundRequest(*row) for row in rows]
