"""Stops that were decided earlier and are sent now: balance is asked again whether they are still to be.

An event that says "at or below zero" can be long overtaken: its account was paid for, and balance's relay, the broker
or this service was paused meanwhile. Only what balance has told a moment ago is stopped without asking (`Unit.learn`).

Metering is asked whose run it is, all at once. It may be out of reach: then what nobody contradicts is stopped at once,
and the rest after a while. Nothing is stopped for the debts of an account that another is charged for.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from functools import partial

from services.enforcement import metrics
from services.enforcement.app.enforce import BATCH, Enforce
from services.enforcement.app.scene import Scene
from services.enforcement.clients.asking import OutOfReachError, RefusedError, UnusableAnswerError
from services.enforcement.clients.balance import BalanceClient
from services.enforcement.clients.metering import MeteringClient
from services.enforcement.rules.account import Account, AccountKey
from services.enforcement.rules.stops import Charged, find_stop_objection
from services.enforcement.store.resources import load_found
from services.enforcement.store.stops import (
    STOP,
    StopRequest,
    StopTurn,
    forget_ended_stops,
    load_due_ids,
    load_requests,
    name_stop,
)
from shared.clock import SECOND_US
from shared.db import transaction
from shared.errors import RecordError
from shared.log import get_logger
from shared.set_aside import PASSING, Pause

logger = get_logger(__name__)

# So many accounts are asked for at a time, and their stops sent at once.
ASKED_TOGETHER = 16
# Once balance answered for none of so many times that many, it is out of reach for the others too.
UNANSWERED_MAX = 2
# An answer is used within this time, or asked for again: a process can have been paused after it.
ANSWER_SECONDS_MAX = 5.0

_Due = tuple[AccountKey, str]
_Answers = Mapping[tuple[str, str], Charged]


class Stopping:
    """Sends the due stops of each kind by itself: neither waits behind the other, nor uses its allowance."""

    def __init__(self, enforce: Enforce, balance: BalanceClient, metering: MeteringClient) -> None:
        self._enforce = enforce
        self._balance = balance
        self._metering = metering

    @property
    def _pause_us_max(self) -> int:
        return max(self._enforce.settings.backoff) * SECOND_US

    async def send_first(self) -> int:
        """Send first commands that wait, as far as balance agrees and the breaker allows; return how many were sent."""
        return await self._send_due("first")

    async def repeat(self) -> int:
        """Send the due repeats, as far as balance agrees and their own breaker allows; return how many were sent."""
        return await self._send_due("repeat")

    async def _send_due(self, turn: StopTurn) -> int:
        """Send up to BATCH due commands of one kind. Raises OutOfReachError: what is not answered waits."""
        async with transaction(self._enforce.pool) as connection:
            await forget_ended_stops(connection)
            due = await load_due_ids(connection, self._enforce.clock.now_us(), BATCH, turn, self._pause_us_max)
        keys = sorted({key for key, _ in due})
        # Before balance, whose answers are good for seconds.
        charged = await self._load_charged(due)
        sent = 0
        unanswered: list[OutOfReachError] = []
        for first in range(0, len(keys), ASKED_TOGETHER):
            asked = set(keys[first : first + ASKED_TOGETHER])
            try:
                sent += await self._send_asked(turn, [item for item in due if item[0] in asked], charged)
            except OutOfReachError as error:
                unanswered.append(error)
                if len(unanswered) == UNANSWERED_MAX:
                    break
        if unanswered:
            raise unanswered[0]
        return sent

    async def _load_charged(self, due: Sequence[_Due]) -> _Answers:
        """What metering charges of the containers; nothing where it does not answer."""
        if not due:
            return {}
        try:
            return await self._metering.load_charged({(key.region, resource_id) for key, resource_id in due})
        except (OutOfReachError, RefusedError) as error:
            logger.warning("stops.metering_unanswered", stops=len(due), reason=str(error)[:200])
            return {}

    async def _send_asked(self, turn: StopTurn, due: Sequence[_Due], charged: _Answers) -> int:
        asked_at = time.monotonic()
        agreed = await self._ask(due)
        wanted = [item for item in due if item[0] in agreed]
        held: dict[str, str] = {}
        act = partial(self._send, turn, asked_at, charged, held)
        sent = await self._enforce.isolation.apply(STOP, wanted, _name_stop, act, held=held)
        for item, reason in held.items():
            await self._enforce.isolation.set_aside(STOP, item, RecordError("stop_held", reason))
        return sent

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
            pause = Pause() if isinstance(error, UnusableAnswerError) else PASSING
            for item in due:
                if item[0] == key:
                    await self._enforce.isolation.set_aside(STOP, _name_stop(item), error, pause)
        await self._enforce.apply_answers(known)
        metrics.STOPS_DROPPED.inc(sum(not account.must_stop for account in known))
        return {account.key for account in known if account.must_stop}

    async def _load(self, key: AccountKey) -> Account:
        answer = await self._balance.load_account(key)
        if answer is None:
            # Not knowing an account is no reason to do anything about it.
            raise UnusableAnswerError("balance does not know the account")
        return answer.to_account()

    async def _send(
        self, turn: StopTurn, asked_at: float, charged: _Answers, held: dict[str, str], due: Sequence[_Due]
    ) -> int:
        """Decide once more under the accounts' locks: an event may have come after the answer. `held`: why not."""
        async with self._enforce.unit() as (connection, unit):
            scene = await unit.begin([key for key, _ in due])
            ids = sorted({(key.region, resource_id) for key, resource_id in due})
            scene.add_found(await load_found(connection, ids))
            scene.add_requests(await load_requests(connection, ids))
            scene.touch_all()
            scene.end_uncharged(charged)
            scene.decide_stops()
            if time.monotonic() - asked_at > ANSWER_SECONDS_MAX:
                raise OutOfReachError("balance's answer is too old to stop by")
            requests = [request for request in scene.due_requests(self._pause_us_max) if request.turn == turn]
            objections = {request: self._object(scene, request, charged) for request in requests}
            held.update((_name_request(item), reason) for item, reason in objections.items() if reason is not None)
            agreed = [request for request in requests if objections[request] is None]
            sent = await unit.send_stops(scene, turn, agreed[:BATCH])
            await unit.save(scene)
        return sent

    def _object(self, scene: Scene, request: StopRequest, charged: _Answers) -> str | None:
        if request.metering_only and (request.key.region, request.resource_id) not in charged:
            return "the run is known by metering alone, and metering does not say again that it charges it"
        return find_stop_objection(
            request.key.tenant_id,
            request.run,
            charged.get((request.key.region, request.resource_id)),
            is_doubtful=scene.is_doubtful(request),
            # Negative by a clock that was ahead when it was asked for: how long ago that was, nobody knows.
            waited_us=abs(scene.now_us - request.requested_at_us),
            wait_us_max=self._enforce.settings.enforcement_metering_wait_seconds_max * SECOND_US,
        )


def _name_request(request: StopRequest) -> str:
    return _name_stop((request.key, request.resource_id))


def _name_stop(due: _Due) -> str:
    key, resource_id = due
    return name_stop(key, resource_id)
