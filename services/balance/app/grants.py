"""Giving promotional credit, telling what is left of it, and letting the rest expire."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import orjson

from services.balance import metrics
from services.balance.app.accounts import Accounts, check_range
from services.balance.app.moves import load_moves
from services.balance.app.post import AfterCommit, Poster
from services.balance.app.unit import unit_of_work
from services.balance.rules.crossing import Movement
from services.balance.rules.grants import Burning, burn_entries, find_expiries, put_in_place
from services.balance.rules.posting import FactEntry, post_facts
from services.balance.store.accounts import Account, load_account, lock_account_id
from services.balance.store.chain import Head, lock_heads
from services.balance.store.grants import (
    Checkpoint,
    StoredGrant,
    end_grants,
    insert_grant,
    load_accounts_to_work_out,
    load_charged_through,
    load_checkpoint,
    load_grant,
    load_grants,
    load_last_solvent,
    save_checkpoint,
)
from services.balance.store.payments import PostedFact, insert_facts
from services.balance.store.posting import prefer_plans_by_size
from services.balance.store.restores import load_lost_credit
from shared.clock import HOUR_US, SECOND_US, Clock, format_instant, minute_of
from shared.db import Connection, Pool, transaction
from shared.each import do_each
from shared.errors import Refusal
from shared.events.account import EntryClass, GrantKind
from shared.ids import content_hash, fact_id

BATCH = 100
POLL_SECONDS = 1.0
PROMO = "promo"
GrantState = Literal["active", "ended", "expired"]
# The kind under which accounts are set aside whose grants can't be worked out.
GRANT = "grant"


@dataclass(frozen=True, slots=True)
class GrantRequest:
    """Promotional credit for an account; a lower `priority` is burnt sooner.

    It expires at `expires_at_us`, or `lasts_seconds` after it was given.
    """

    idempotency_key: str
    kind: GrantKind
    amount_micros: int
    priority: int
    reason: str
    actor: str
    expires_at_us: int | None = None
    lasts_seconds: int = 0

    @property
    def request_hash(self) -> bytes:
        when = [self.expires_at_us, self.lasts_seconds]
        return content_hash(orjson.dumps([self.kind, self.amount_micros, self.priority, when, self.reason, self.actor]))

    def end_us(self, given_at_us: int) -> int:
        return given_at_us + self.lasts_seconds * SECOND_US if self.expires_at_us is None else self.expires_at_us


@dataclass(frozen=True, slots=True)
class Standing:
    """A grant and what is left of it now.

    `ended`: nothing that is used from now on is paid by it, but what was used before and is not posted yet.
    """

    grant: StoredGrant
    remaining_micros: int
    state: GrantState


class Grants:
    def __init__(self, pool: Pool, clock: Clock, accounts: Accounts, poster: Poster) -> None:
        self._pool = pool
        self._clock = clock
        self._accounts = accounts
        self._poster = poster

    async def give(self, region: str, tenant_id: str, request: GrantRequest) -> StoredGrant:
        """Give promotional credit once; a repeat with the same key answers the same. Raises Refusal."""
        async with unit_of_work(self._pool) as (connection, after_commit):
            return await self.give_in(connection, after_commit, region, tenant_id, request)

    async def give_in(
        self, connection: Connection, after_commit: AfterCommit, region: str, tenant_id: str, request: GrantRequest
    ) -> StoredGrant:
        """As `give`, in the caller's transaction, which holds no account yet.

        One that a restore lost, by key and amount, is given again as it was, though its end may be past: it pays for
        what was used since it was first given.
        """
        head, posted_at_us, account, opened = await self._accounts.lock(connection, region, tenant_id, after_commit)
        known = await load_grant(connection, account.account_id, request.idempotency_key)
        if known is not None:
            if known.request_hash != request.request_hash:
                raise Refusal("idempotency-key-reused", "this Idempotency-Key was used with another body")
            return known
        grant_id = fact_id("grant", region, tenant_id, request.idempotency_key)
        lost = await load_lost_credit(connection, region, tenant_id, request.kind, grant_id)
        given_again = lost is not None and lost[1] == request.amount_micros
        granted_at_us = lost[0] if lost is not None and given_again else posted_at_us
        expires_at_us = request.end_us(granted_at_us)
        if expires_at_us <= posted_at_us and not given_again:
            raise Refusal("grant-expired", f"the grant would expire at {format_instant(expires_at_us)}", status=422)
        check_range(account.standing.balance_micros, request.amount_micros)
        grant = StoredGrant(
            grant_id,
            account.account_id,
            request.kind,
            request.amount_micros,
            request.priority,
            expires_at_us,
            granted_at_us,
            request.idempotency_key,
            request.request_hash,
            request.reason,
            request.actor,
        )
        if await load_checkpoint(connection, account.account_id) is None:
            before = await _work_out_debt(connection, account)
            await save_checkpoint(connection, account.account_id, account.entries, before, posted_at_us)
        await insert_grant(connection, grant)
        movement = Movement(grant.amount_micros, grant.grant_id, request.kind)
        name = f"grant/{grant.grant_id}"
        await self._post(connection, head, posted_at_us, account, name, "grant", movement, opened)
        if given_again:
            burning = await _work_out_anew(connection, account.account_id)
            await save_checkpoint(connection, account.account_id, account.entries + 1, burning, posted_at_us)
        return grant

    async def load(self, region: str, tenant_id: str) -> list[Standing]:
        """All grants of an account with what is left of each now. Raises Refusal for no account."""
        async with (
            self._pool.acquire(timeout=30) as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            account = await load_account(connection, region, tenant_id)
            if account is None:
                raise Refusal("account-not-found", f"there is no account {region}/{tenant_id}", status=404)
            return await self.load_in(connection, account.account_id)

    async def load_in(self, connection: Connection, account_id: int) -> list[Standing]:
        """As `load`, in the caller's transaction, in which the account does not move."""
        checkpoint = await load_checkpoint(connection, account_id)
        if checkpoint is None:
            return []
        grants = await load_grants(connection, account_id)
        burning, _ = await _work_out(connection, account_id, checkpoint)
        now_us = self._clock.now_us()
        standings = []
        for grant in grants:
            state: GrantState = "active" if now_us < grant.expires_at_us else "ended"
            state = "expired" if grant.grant_id in checkpoint.over else state
            standings.append(Standing(grant, burning.remaining.get(grant.grant_id, 0), state))
        return standings

    async def run(self) -> None:
        """Work out, and let expire, until cancelled."""
        while True:
            if not await self.keep():
                await asyncio.sleep(POLL_SECONDS)

    async def keep(self) -> int:
        """Work out the accounts that are due, each in a transaction of its own.

        Answer how many rests expired or were taken back.
        """
        now_us = self._clock.now_us()
        async with transaction(self._pool) as connection:
            due = await load_accounts_to_work_out(connection, GRANT, now_us, now_us - now_us % HOUR_US, BATCH)
        items = {str(account_id): account_id for account_id in due}
        return sum(await do_each(self._pool, self._clock, GRANT, items, self._keep_account))

    async def _keep_account(self, account_id: int) -> int:
        """Bring an account's checkpoint up to its last entry and post what is left of grants that are over.

        What was used within a grant and told after its rest had expired takes so much of that back first.
        """
        async with unit_of_work(self._pool) as (connection, after_commit):
            shard = await connection.fetchval("select shard from account where account_id = $1", account_id)
            [head] = await lock_heads(connection, [shard])
            posted_at_us = head.posting_time(self._clock.now_us())
            await self._poster.ensure_days(connection, [posted_at_us], after_commit)
            account = await lock_account_id(connection, account_id)
            checkpoint = await load_checkpoint(connection, account_id)
            assert checkpoint is not None, "an account with grants has a checkpoint"
            burning, _ = await _work_out(connection, account_id, checkpoint)
            # Read under the chain head: what is committed of the stream is posted, and nothing of it meanwhile.
            charged_us = await load_charged_through(connection, account.shard)
            through_us = posted_at_us if charged_us is None else minute_of(charged_us)
            over = [item for item in checkpoint.grants.values() if item.expires_at_us <= through_us]
            await save_checkpoint(connection, account_id, account.entries, burning, posted_at_us)
            moved = find_expiries(burning, [item.grant_id for item in over])
            for grant_id, delta_micros in sorted(moved.items()):
                name = f"expiry/{grant_id}/{checkpoint.expiries[grant_id] + 1}"
                await self._post(connection, head, posted_at_us, account, name, "expiry", Movement(delta_micros), [])
                [head] = await lock_heads(connection, [shard])
            ended = {item.grant_id for item in over} - checkpoint.over | moved.keys()
            if ended:
                await end_grants(connection, sorted(ended), list(moved))
        metrics.EXPIRED_GRANTS.inc(sum(delta_micros < 0 for delta_micros in moved.values()))
        return len(moved)

    async def _post(
        self,
        connection: Connection,
        head: Head,
        posted_at_us: int,
        account: Account,
        name: str,
        entry_class: EntryClass,
        movement: Movement,
        opened: Sequence[Account],
    ) -> None:
        """Post the one entry of a grant or an expiry, and keep the fact that caused it."""
        burn_micros = account.standing.burn_micros_per_hour
        where = account.account_id, account.name, 0
        entry = FactEntry(*where, name, movement.delta_micros, PROMO, entry_class, burn_micros)
        await prefer_plans_by_size(connection)
        await self._poster.post(
            connection,
            post_facts([entry]),
            [head],
            [posted_at_us],
            lambda _account_id: [(burn_micros, [movement])],
            opened,
        )
        digest = content_hash(f"{name} {movement.delta_micros}".encode())
        fact = PostedFact(name, account.account_id, digest, None, movement.delta_micros, None, posted_at_us)
        await insert_facts(connection, [fact])


async def _work_out_debt(connection: Connection, account: Account) -> Burning:
    """Burning of an account right before its first grant: a debt's parts are in the entries since it sank."""
    if account.standing.balance_micros >= 0:
        return Burning.before_grants(account.standing.balance_micros)
    number, balance_micros = await load_last_solvent(connection, account.account_id)
    moves = await load_moves(connection, account.account_id, number, ())
    return burn_entries(Burning.before_grants(balance_micros), (move for _, move in moves), {})


async def _work_out_anew(connection: Connection, account_id: int) -> Burning:
    """Burning as of the account's last entry, out of all of them, with each grant where it was given first."""
    checkpoint = await load_checkpoint(connection, account_id)
    assert checkpoint is not None, "an account with grants has a checkpoint"
    granted_at_us = {grant.grant_id: grant.granted_at_us for grant in await load_grants(connection, account_id)}
    ends_us = (grant.expires_at_us for grant in checkpoint.grants.values())
    moves = put_in_place([move for _, move in await load_moves(connection, account_id, 0, ends_us)], granted_at_us)
    # All that an account ever had is seconds of work: not in the way of everybody else's posting.
    return await asyncio.to_thread(burn_entries, Burning(), moves, checkpoint.grants)


async def _work_out(connection: Connection, account_id: int, checkpoint: Checkpoint) -> tuple[Burning, int]:
    """Burning as of the account's last entry, and that entry's number."""
    ends_us = (grant.expires_at_us for grant in checkpoint.grants.values())
    moves = await load_moves(connection, account_id, checkpoint.entry_number, ends_us)
    burning = burn_entries(checkpoint.burning, (move for _, move in moves), checkpoint.grants)
    return burning, moves[-1][0] if moves else checkpoint.entry_number
