"""Vouchers, who redeemed them, and how often somebody guessed."""

from dataclasses import dataclass

from shared.db import Connection


@dataclass(frozen=True, slots=True)
class Voucher:
    voucher_id: str
    code_hash: bytes
    region: str
    amount_micros: int
    priority: int
    grant_seconds: int
    redeem_until_us: int
    redemptions_max: int
    redemptions: int
    reason: str
    actor: str
    request_hash: bytes
    issued_at_us: int


_COLUMNS = """
    voucher_id, code_hash, region, amount_micros, priority, grant_seconds, redeem_until, redemptions_max, redemptions,
    reason, actor, request_hash, issued_at
"""


async def insert_voucher(connection: Connection, voucher: Voucher) -> bool:
    """Keep a voucher; answer False where its id or its code is taken."""
    status = await connection.execute(
        f"""
        insert into voucher ({_COLUMNS}) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
        on conflict do nothing
        """,  # noqa: S608 - a constant
        voucher.voucher_id,
        voucher.code_hash,
        voucher.region,
        voucher.amount_micros,
        voucher.priority,
        voucher.grant_seconds,
        voucher.redeem_until_us,
        voucher.redemptions_max,
        voucher.redemptions,
        voucher.reason,
        voucher.actor,
        voucher.request_hash,
        voucher.issued_at_us,
    )
    return status.endswith(" 1")


async def load_voucher(connection: Connection, voucher_id: str) -> Voucher | None:
    row = await connection.fetchrow(
        f"select {_COLUMNS} from voucher where voucher_id = $1",  # noqa: S608 - a constant
        voucher_id,
    )
    return None if row is None else Voucher(*row)


async def find_voucher(connection: Connection, code_hash: bytes) -> Voucher | None:
    row = await connection.fetchrow(
        f"select {_COLUMNS} from voucher where code_hash = $1",  # noqa: S608 - a constant
        code_hash,
    )
    return None if row is None else Voucher(*row)


async def lock_voucher(connection: Connection, code_hash: bytes) -> Voucher | None:
    row = await connection.fetchrow(
        f"select {_COLUMNS} from voucher where code_hash = $1 for update",  # noqa: S608 - a constant
        code_hash,
    )
    return None if row is None else Voucher(*row)


async def find_redemption(connection: Connection, voucher_id: str, account_id: int) -> str | None:
    """The grant of an account's redemption of a voucher."""
    grant_id: str | None = await connection.fetchval(
        "select grant_id from voucher_redemption where voucher_id = $1 and account_id = $2", voucher_id, account_id
    )
    return grant_id


async def insert_redemption(
    connection: Connection, voucher_id: str, account_id: int, grant_id: str, now_us: int
) -> None:
    await connection.execute(
        """
        with counted as (update voucher set redemptions = redemptions + 1 where voucher_id = $1)
        insert into voucher_redemption (voucher_id, account_id, grant_id, redeemed_at) values ($1, $2, $3, $4)
        """,
        voucher_id,
        account_id,
        grant_id,
        now_us,
    )


async def count_guess(connection: Connection, region: str, tenant_id: str, hour_us: int) -> None:
    await connection.execute(
        "update voucher_guess set guesses = guesses + 1 where (region, tenant_id, hour) = ($1, $2, $3)",
        region,
        tenant_id,
        hour_us,
    )


async def lock_guesses(connection: Connection, region: str, tenant_id: str, hour_us: int) -> int:
    """How many codes of an hour were none, locked: a tenant's codes are looked at one after another.

    Its earlier hours bound nothing any more and go.
    """
    guesses: int = await connection.fetchval(
        """
        insert into voucher_guess (region, tenant_id, hour, guesses) values ($1, $2, $3, 0)
        on conflict (region, tenant_id, hour) do update set guesses = voucher_guess.guesses returning guesses
        """,
        region,
        tenant_id,
        hour_us,
    )
    await connection.execute(
        "delete from voucher_guess where region = $1 and tenant_id = $2 and hour < $3", region, tenant_id, hour_us
    )
    return guesses
