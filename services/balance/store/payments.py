"""Facts of payment as they were posted, and what disputes hold."""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.db import Connection


@dataclass(frozen=True, slots=True)
class PostedFact:
    fact_id: str
    account_id: int
    content_hash: bytes
    payment_id: str | None
    amount_micros: int
    entry_number: int | None
    posted_at_us: int


async def load_fact_hashes(connection: Connection, fact_ids: Sequence[str]) -> dict[str, bytes]:
    """The content hashes of the facts that are known."""
    rows = await connection.fetch(
        "select fact_id, content_hash from posted_fact where fact_id = any($1::text[])", fact_ids
    )
    return {row["fact_id"]: row["content_hash"] for row in rows}


async def insert_facts(connection: Connection, facts: Sequence[PostedFact]) -> None:
    """Keep facts; the entry of one that moved something is its account's last, in the same transaction."""
    await connection.execute(
        """
        insert into posted_fact (fact_id, account_id, content_hash, payment_id, amount_micros, entry_number, posted_at)
        select f.fact_id, f.account_id, f.content_hash, f.payment_id, f.amount,
               case when f.amount <> 0 then a.entries end, f.posted_at
        from unnest($1::text[], $2::bigint[], $3::bytea[], $4::text[], $5::bigint[], $6::timestamptz[])
          f(fact_id, account_id, content_hash, payment_id, amount, posted_at)
        join account a using (account_id)
        """,
        [fact.fact_id for fact in facts],
        [fact.account_id for fact in facts],
        [fact.content_hash for fact in facts],
        [fact.payment_id for fact in facts],
        [fact.amount_micros for fact in facts],
        [fact.posted_at_us for fact in facts],
    )


async def load_payment_facts(connection: Connection, account_id: int, payment_id: str) -> list[PostedFact]:
    """Everything that was posted for a payment, in order."""
    rows = await connection.fetch(
        """
        select fact_id, account_id, content_hash, payment_id, amount_micros, entry_number, posted_at
        from posted_fact where payment_id = $2 and account_id = $1 order by entry_number nulls first, posted_at
        """,
        account_id,
        payment_id,
    )
    return [PostedFact(*row) for row in rows]


async def hold(connection: Connection, account_id: int, dispute_id: str, held_micros: int) -> None:
    """Let a dispute hold an amount from now on; the caller holds the account's chain head."""
    await connection.execute(
        """
        with before as (select held_micros from dispute_hold where dispute_id = $2),
        kept as (
          insert into dispute_hold (dispute_id, account_id, held_micros) values ($2, $1, $3)
          on conflict (dispute_id) do update set held_micros = excluded.held_micros
        )
        update account set held_micros = held_micros + $3 - coalesce((select held_micros from before), 0)
        where account_id = $1
        """,
        account_id,
        dispute_id,
        held_micros,
    )
