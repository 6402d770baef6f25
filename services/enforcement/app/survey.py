"""The evidence of a due case: asked for anew for each case, but for what concerns all of them alike."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from services.enforcement.app.enforce import Enforce
from services.enforcement.clients.asking import OutOfReachError
from services.enforcement.clients.balance import BalanceClient, BalanceStatus
from services.enforcement.clients.metering import MeteringClient, MeteringStatus
from services.enforcement.clients.payment import PaymentClient
from services.enforcement.positions import Positions
from services.enforcement.rules.deletion import Case
from services.enforcement.rules.guards import Evidence
from services.enforcement.store.accounts import load_versions
from services.enforcement.store.halts import load_halts_of
from services.enforcement.store.resources import load_live_ids
from shared.clock import SECOND_US
from shared.db import transaction
from shared.ids import shard_of
from shared.topics import LIFECYCLE

# One survey serves the cases of a moment; a bad one serves longer, so that a neighbour that is down is not asked for
# every case, with a time-out each.
AGE_SECONDS_MAX = 1.0
BAD_AGE_SECONDS_MAX = 5.0
CATCH_UP_PAUSE_SECONDS = 0.05
POSTING_SECONDS_MAX = 1.0

AnswerT = TypeVar("AnswerT")


class Neighbours(NamedTuple):
    balance: BalanceClient
    metering: MeteringClient
    payment: PaymentClient


@dataclass(frozen=True, slots=True)
class _Surveyed:
    """`metering` was asked before `balance`: what it had charged by then, balance can have posted."""

    asked_at: float
    began_at_us: int
    unseen_records: int
    metering: MeteringStatus | None
    balance: BalanceStatus
    pays: bool

    @property
    def is_good(self) -> bool:
        return self.unseen_records == 0 and self.metering is not None and self.pays


class Survey:
    """Asks for everything that could speak against a deletion."""

    def __init__(self, enforce: Enforce, neighbours: Neighbours, positions: Positions) -> None:
        self._enforce = enforce
        self._settings = enforce.settings
        self._neighbours = neighbours
        self._positions = positions
        self._surveyed: _Surveyed | None = None

    def forget(self) -> None:
        """Ask for everything anew."""
        self._surveyed = None

    async def gather(self, case: Case) -> Evidence:
        """The evidence as of now. Raises OutOfReachError if balance does not answer: the case waits.

        Without an answer of metering or payment, or with a bad one, no more is asked: the guards freeze the case.
        """
        surveyed = await self._survey()
        shard = shard_of(case.key.region, case.key.tenant_id, self._settings.shards)
        metering = None if surveyed.metering is None else surveyed.metering.seen_of(shard)
        balance = surveyed.balance.seen_of(shard)
        payments = await _or_none(self._neighbours.payment.load_open(case.key)) if surveyed.pays else None
        held_back = charged = None
        if metering is not None:
            held_back = await _or_none(self._neighbours.metering.load_held_back(case.key))
            charged = await _or_none(self._neighbours.metering.list_charged(case.key))
        deadline = asyncio.get_running_loop().time() + POSTING_SECONDS_MAX
        while metering is not None and balance.seq < metering.seq and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(CATCH_UP_PAUSE_SECONDS)
            balance = (await self._neighbours.balance.load_status()).seen_of(shard)
        asked_at_us = self._enforce.clock.now_us()
        # The account comes last: what was asked before may have moved it.
        answer = await self._neighbours.balance.load_account(case.key)
        async with transaction(self._enforce.pool) as connection:
            versions = await load_versions(connection, [case.key])
            halts = await load_halts_of(connection, case.key.region)
            live = await load_live_ids(connection, case.key)
        return Evidence(
            asked_at_us=asked_at_us,
            began_at_us=surveyed.began_at_us,
            account=None if answer is None else answer.to_account(),
            known_version=versions.get(case.key, 0),
            without_reversals_micros=None if answer is None else answer.balance_without_reversals_micros,
            balance=balance,
            metering=metering,
            payments=payments,
            unseen_records=surveyed.unseen_records,
            halts=halts,
            held_back=held_back,
            unknown=None if charged is None else tuple(sorted(charged - live)),
        )

    async def _survey(self) -> _Surveyed:
        known, now = self._surveyed, asyncio.get_running_loop().time()
        if known is not None and now - known.asked_at <= (AGE_SECONDS_MAX if known.is_good else BAD_AGE_SECONDS_MAX):
            return known
        began_at_us = self._enforce.clock.now_us()
        unseen = await self._catch_up()
        metering = await _or_none(self._neighbours.metering.load_status())
        balance = await self._neighbours.balance.load_status()
        pays = await _answers(self._neighbours.payment.check())
        # As of its end: a bad survey of slow neighbours is not out of date before it is used.
        asked_at = now if metering is not None and pays else asyncio.get_running_loop().time()
        self._surveyed = _Surveyed(asked_at, began_at_us, unseen, metering, balance, pays)
        return self._surveyed

    async def _catch_up(self) -> int:
        """Wait a while until what is published by now is applied; return how many records still are not.

        None are where only platforms' events of the last moments are not: of these metering may lag as long. What our
        own services published, a restore that ends all deletions among it, must be read to its end.
        """
        loop = asyncio.get_running_loop()
        ends = await self._positions.load_ends()
        now_us = self._enforce.clock.now_us()
        self._positions.remember(ends, now_us)
        deadline = loop.time() + self._settings.enforcement_catch_up_seconds_max
        while (unseen := await self._positions.count_unseen(ends)) and loop.time() < deadline:
            await asyncio.sleep(CATCH_UP_PAUSE_SECONDS)
        since_us = now_us - self._settings.enforcement_lag_seconds_max * SECOND_US
        if unseen and await self._positions.is_read_since(ends, since_us, now_us, {LIFECYCLE}):
            return 0
        return unseen


async def _or_none(question: Awaitable[AnswerT]) -> AnswerT | None:
    """The answer; None without a usable one, which is evidence of its own: its guard freezes."""
    try:
        return await question
    except OutOfReachError:
        return None


async def _answers(question: Awaitable[None]) -> bool:
    try:
        await question
    except OutOfReachError:
        return False
    return True
