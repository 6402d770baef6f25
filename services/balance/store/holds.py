"""Holds: what of a balance is kept for what was admitted and is not charged yet."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import asyncpg

from services.balance.rules.admission import Action
from shared.db import Connection

EndReason = Literal["charged", "released"]


@dataclass(frozen=True, slots=True)
class Hold:
    """`ended_at_us` None: it holds until `expires_at_us`."""

    admission_id: str
    account_id: int
    idempotency_key: str
    request_hash: bytes
    action: Action
    amount_micros: int
    held_at_us: int
    expires_at_us: int
    ended_at_us: int | None = None
    end_reason: EndReason | None = None


_COLUMNS = (
    "admission_id, account_id, idempotency_key, request_hash, action, amount_micros, held_at, expires_at, ended_at, "
    "end_reason"
)


async def insert_hold(connection: Connection, hold: Hold) -> None:
    await connection.execute(
        f"insert into hold ({_COLUMNS}) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",  # noqa: S608 - a constant
        hold.admission_id,
        hold.account_id,
        hold.idempotency_key,
        hold.request_hash,
        hold.action,
        hold.amount_micros,
        hold.held_at_us,
        hold.expires_at_us,
        hold.ended_at_us,
        hold.end_reason,
    )


async def load_hold(connection: Connection, account_id: int, idempotency_key: str) -> Hold | None:
    row = await connection.fetchrow(
        f"select {_COLUMNS} from hold where (account_id, idempotency_key) = ($1, $2)",  # noqa: S608 - a constant
        account_id,
        idempotency_key,
    )
    return _read(row)


async def load_admission(connection: Connection, admission_id: str) -> Hold | None:
    row = await connection.fetchrow(
        f"select {_COLUMNS} from hold where admission_id = $1",  # noqa: S608 - a constant
        admission_id,
    )
    return _read(row)


def _read(row: asyncpg.Record | None) -> Hold | None:
    return None if row is None else Hold(*row)


async def sum_holds(connection: Connection, account_id: int, now_us: int) -> int:
    """Micros that an account's open holds keep; the caller holds the account."""
    return int(
        await connection.fetchval(
            "select coalesce(sum(amount_micros), 0) from hold "
            "where account_id = $1 and ended_at is null and expires_at > $2",
            account_id,
            now_us,
        )
    )


async def release_hold(connection: Connection, admission_id: str, now_us: int) -> None:
    await connection.execute(
        "update hold set ended_at = $2, end_reason = 'released' where admission_id = $1 and ended_at is null",
        admission_id,
        now_us,
    )


async def end_charged(connection: Connection, admissions: Sequence[tuple[int, str]], now_us: int) -> None:
    """End the holds of (account id, admission id) whose first line is posted; one of another account stays."""
    await connection.execute(
        """
        update hold h set ended_at = $3, end_reason = 'charged'
        from unnest($1::bigint[], $2::text[]) k(account_id, admission_id)
        where (h.account_id, h.admission_id) = (k.account_id, k.admission_id) and h.ended_at is null
        """,
        [account_id for account_id, _ in admissions],
        [admission_id for _, admission_id in admissions],
        now_us,
    )
