"""Operators' adjustments, unique by account and idempotency key."""

from dataclasses import dataclass
from typing import Protocol

from shared.db import Connection


class Request(Protocol):
    """What an operator asked for."""

    @property
    def idempotency_key(self) -> str: ...
    @property
    def amount_micros(self) -> int: ...
    @property
    def reason(self) -> str: ...
    @property
    def actor(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Adjustment:
    account_id: int
    idempotency_key: str
    request_hash: bytes
    amount_micros: int
    reason: str
    actor: str
    entry_number: int
    balance_after_micros: int
    posted_at_us: int


async def load_adjustment(connection: Connection, account_id: int, idempotency_key: str) -> Adjustment | None:
    row = await connection.fetchrow(
        """
        select account_id, idempotency_key, request_hash, amount_micros, reason, actor, entry_number,
               balance_after_micros, posted_at
        from adjustment where account_id = $1 and idempotency_key = $2
        """,
        account_id,
        idempotency_key,
    )
    return None if row is None else Adjustment(*row)


async def insert_adjustment(
    connection: Connection, account_id: int, request: Request, request_hash: bytes, posted_at_us: int
) -> Adjustment:
    """Keep an adjustment whose entry is the account's last, in the same transaction."""
    row = await connection.fetchrow(
        """
        insert into adjustment (account_id, idempotency_key, request_hash, amount_micros, reason, actor, entry_number,
          balance_after_micros, posted_at)
        select account_id, $2, $3, $4, $5, $6, entries, balance_micros, $7 from account where account_id = $1
        returning account_id, idempotency_key, request_hash, amount_micros, reason, actor, entry_number,
          balance_after_micros, posted_at
        """,
        account_id,
        request.idempotency_key,
        request_hash,
        request.amount_micros,
        request.reason,
        request.actor,
        posted_at_us,
    )
    assert row is not None, "the caller holds the account"
    return Adjustment(*row)
