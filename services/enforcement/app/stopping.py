"""Stops that were decided earlier and are sent now: balance is asked again whether they are still to be.

An event that says "at or below zero" can be long overtaken: its account was paid for, and balance's relay, the broker
or this service was paused meanwhile. Only what balance has told a moment ago is stopped without asking (`Unit.learn`).
"""

import asyncio
import time
from collections.abc import Sequence
from functools import partial

from services.enforcement import metrics
from services.enforcement.app.enforce import BATCH, Enforce
from services.enforcement.clients.asking import OutOfReachError, UnusableAnswerError
from services.enforcement.clients.balance import BalanceClient
from services.enforcement.rules.account import Account, AccountKey
from services.enforcement.store.resources import load_resources
from services.enforcement.store.stops import StopTurn, load_due_ids, load_requests
from shared.db import transaction

# So many accounts are asked for at a time, and their stops sent at once.
ASKED_TOGETHER = 16
# An answer is used within this time, or asked for again: a process can have been paused after it.
ANSWER_SECONDS_MAX = 5.0

_Due = tuple[AccountKey, str]


class Stopping:
    """Sends the due stops of each kind by itself: neither waits behind the other, nor uses its allowance."""

    def __init__(self, enforce: Enforce, balance: BalanceClient) -> None:
        self._enforce = enforce
        self._balance = balance

    async def send_first(self) -> int:
        """Send first commands that wait, as far as balance agrees and the breaker allows; return how many were sent."""
        return await self._send_due("first")

    async def repeat(self) -> int:
        """Send the due repeats, as far as balance agrees and their own breaker allows; return how many were sent."""
        return await self._send_due("repeat")

    async def _send_due(self, turn: StopTurn) -> int:
        """Send up to BATCH due commands of one kind. Raises OutOfReachError: what is not answered waits."""
        async with transaction(self._enforce.pool) as connection:
            due = await load_due_ids(connection, self._enforce.clock.now_us(), BATCH, turn)
        keys = sorted({key for key, _ in due})
        sent = 0
        for first in range(0, len(keys), ASKED_TOGETHER):
            asked = set(keys[first : first + ASKED_TOGETHER])
            sent += await self._send_asked(turn, [item for item in due if item[0] in asked])
        return sent

    async def _send_asked(self, turn: StopTurn, due: Sequence[_Due]) -> int:
        asked_at = time.monotonic()
        agreed = await self._ask(due)
        wanted = [item for item in due if item[0] in agreed]
        act = partial(self._send, turn, asked_at)
        return await self._enforce.isolation.apply("stop", wanted, _name_stop, act)

    async def _ask(self, due: Sequence[_Due]) -> set[AccountKey]:
        """Learn what balance says of these accounts now; return those that it says must be stopped.

        Raises OutOfReachError if it answers for none of them; one that it has no answer for is set aside.
        """
        keys = sorted({key for key, _ in due})
        answers = await asyncio.gather(*map(self._load, keys), return_exceptions=True)
        known = [answer for answer in answers if isinstance(answer, Account)]
        failed = {key: answer for key, answer in zip(keys, answers, strict=True) if isinstance(answer, BaseException)}
        for key, error in failed.items():
            if not isinstance(error, UnusableAnswerError) and not (known and isinstance(error, OutOfReachError)):
                raise error
            for item in due:
                if item[0] == key:
                    await self._enforce.isolation.set_aside("stop", _name_stop(item), error)
        await self._enforce.apply_answers(known)
        metrics.STOPS_DROPPED.inc(sum(not account.must_stop for account in known))
        return {account.key for account in known if account.must_stop}

    async def _load(self, key: AccountKey) -> Account:
        answer = await self._balance.load_account(key)
        if answer is None:
            # Not knowing an account is no reason to do anything about it.
            raise UnusableAnswerError("balance does not know the account")
        return answer.to_account()

    async def _send(self, turn: StopTurn, asked_at: float, due: Sequence[_Due]) -> int:
        """Decide once more under the accounts' locks: an event may have come after the answer."""
        async with self._enforce.unit() as (connection, unit):
            scene = await unit.begin([key for key, _ in due])
            ids = sorted({(key.region, resource_id) for key, resource_id in due})
            scene.add_resources(await load_resources(connection, ids))
            scene.add_requests(await load_requests(connection, ids))
            scene.touch_all()
            scene.decide_stops()
            if time.monotonic() - asked_at > ANSWER_SECONDS_MAX:
                raise OutOfReachError("balance's answer is too old to stop by")
            requests = [request for request in scene.due_requests() if request.turn == turn][:BATCH]
            sent = await unit.send_stops(scene, turn, requests)
            await unit.save(scene)
        return sent


def _name_stop(due: _Due) -> str:
    key, resource_id = due
    return f"{key.region}/{resource_id}"
