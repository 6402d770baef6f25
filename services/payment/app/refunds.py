"""Refunds by operators: kept first, then sent, then applied like any other word of the provider."""

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from services.payment.app.facts import Cause, FactApplier
from services.payment.providers import (
    PROVIDER_NAMES,
    Provider,
    ProviderName,
    ProviderRefusal,
    RefundOrder,
    UnreadableAnswer,
    provider_of,
)
from services.payment.rules.currencies import check_payable
from services.payment.rules.facts import Fact, Money, Refunded, RefundFailed
from services.payment.rules.sending import check_goes_at_once
from services.payment.store.orders import load_order
from services.payment.store.payments import StoredPayment, load_payment, lock_payment_ids
from services.payment.store.queue import settle_item
from services.payment.store.refund_requests import (
    SET_ASIDE_KIND,
    RefundRequest,
    answer_request,
    count_alike,
    insert_request,
    load_open_requests,
    load_request,
    mark_tried,
    sum_open_requests,
    withdraw_request,
)
from services.payment.store.restores import may_lack_refunds
from shared.clock import DAY_US, SECOND_US, Clock
from shared.db import Connection, Pool, is_transient, transaction
from shared.errors import Refusal
from shared.ids import content_hash
from shared.log import get_logger
from shared.restore_records import find_last_restore
from shared.set_aside import describe_error, load_held_back, release, set_aside

logger = get_logger(__name__)

# A request without an answer is sent again after so long: its first sender may still be at it.
RESUME_AFTER_SECONDS = 60
RESUME_EVERY_SECONDS = 30.0
BATCH = 50
AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class RefundWish:
    """What an operator asks for; `amount_micros` None means all that is left."""

    payment_id: str
    amount_micros: int | None
    reason: str
    actor: str
    idempotency_key: str

    @property
    def request_id(self) -> str:
        """32 characters that providers accept as a key of their own."""
        named = f"refund\x1f{self.payment_id}\x1f{self.idempotency_key}"
        return hashlib.blake2b(named.encode(), digest_size=16).hexdigest()

    @property
    def request_hash(self) -> bytes:
        return content_hash(orjson.dumps([self.amount_micros, self.reason, self.actor]))


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """Who takes a refund request back, and why; `checked`: the operator saw at the provider that it was not made."""

    actor: str
    reason: str
    checked: bool = False


class Refunds:
    def __init__(
        self, pool: Pool, clock: Clock, providers: Mapping[ProviderName, Provider], applier: FactApplier
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._providers = providers
        self._applier = applier
        self._places = {name: asyncio.Semaphore(AT_ONCE) for name in PROVIDER_NAMES}

    async def refund(self, wish: RefundWish, item_id: str | None = None) -> RefundRequest:
        """Send money back, once per Idempotency-Key; `item_id` is a queue item that this settles.

        Raises Refusal for more than is left, for what the provider can't take, and when the provider refuses;
        TransientFault when it is out of reach: the request then stays and is sent again, by a repeat or by itself.
        """
        made = await self._find_forgotten(wish)
        async with transaction(self._pool) as connection:
            request = await self._keep(connection, wish, made)
        if request.answered_at_us is None:
            request = await (
                self._send(request, item_id) if made is None else self._finish(request, made, None, item_id)
            )
        if request.failure is not None:
            raise ProviderRefusal("refund-refused", request.failure)
        return request

    async def adopt_forgotten(self, wish: RefundWish) -> None:
        """Apply what the provider made of a wish, if a restore lost that. Raises TransientFault where it can't tell."""
        made = await self._find_forgotten(wish)
        if made is None:
            return
        async with transaction(self._pool) as connection:
            await lock_payment_ids(connection, [made.payment_id])
            stored = await load_payment(connection, made.payment_id)
            assert stored is not None, "payments are never deleted"
            await self._applier.apply_facts(connection, [made], Cause(stored.provider, "asked for after a restore"))

    async def list_open(self, after: tuple[int, str], limit: int) -> list[RefundRequest]:
        """A page of requests without an answer, oldest first."""
        async with transaction(self._pool) as connection:
            return await load_open_requests(connection, after, limit, before_us=self._clock.now_us() + DAY_US)

    async def withdraw(self, request_id: str, word: Withdrawal) -> RefundRequest:
        """Take back a request that has no answer. One that was sent is asked about first: what happened stays.

        Raises Refusal for one that was answered or is under way; TransientFault when the provider can't tell, unless
        the operator has looked there (`checked`).
        """
        async with transaction(self._pool) as connection:
            request = await _require(connection, request_id)
            was_sent = request.sent_at_us is not None or await _may_be_forgotten(connection, request)
        if request.answered_at_us is None and was_sent:
            self._refuse_under_way(request)
            if not word.checked and (found := await self._find(request)) is not None:
                request = await self._finish(request, found, None, None)
        async with transaction(self._pool) as connection:
            await lock_payment_ids(connection, [request.payment_id])
            request = await _require(connection, request_id)
            if request.answered_at_us is not None:
                raise Refusal("refund-answered", f"the refund was answered: {request.refund_id or request.failure}")
            self._refuse_under_way(request)
            await withdraw_request(connection, request_id, word.actor, word.reason, self._clock.now_us())
            await release(connection, SET_ASIDE_KIND, [request_id])
            withdrawn = await _require(connection, request_id)
        logger.warning("refund.withdrawn", request_id=request_id, actor=word.actor)
        return withdrawn

    async def run(self) -> None:
        """Send again what has no answer, until cancelled."""
        while True:
            await self.resume()
            await asyncio.sleep(RESUME_EVERY_SECONDS)

    async def resume(self) -> int:
        """Go on with what has had no answer for a while; answer how many were answered now. Each by itself."""
        before_us = self._clock.now_us() - RESUME_AFTER_SECONDS * SECOND_US
        after, answered = (0, ""), 0
        while True:
            async with transaction(self._pool) as connection:
                requests = await load_open_requests(connection, after, BATCH, before_us=before_us)
                names = [request.request_id for request in requests]
                held = await load_held_back(connection, SET_ASIDE_KIND, names, self._clock.now_us())
            due = [request for request in requests if request.request_id not in held]
            answered += sum(await asyncio.gather(*(self._resume(request) for request in due)))
            if len(requests) < BATCH:
                return answered
            after = requests[-1].cursor

    async def _resume(self, request: RefundRequest) -> bool:
        async with self._places[provider_of(request.payment_id)]:
            try:
                await self._send(request, None)
            except Exception as error:  # noqa: BLE001 - every error is this request's own
                if is_transient(error):
                    logger.warning("refund.still_open", request_id=request.request_id, error=describe_error(error))
                    return False
                async with transaction(self._pool) as connection:
                    now_us = self._clock.now_us()
                    await set_aside(connection, SET_ASIDE_KIND, request.request_id, describe_error(error), now_us)
                return False
        return True

    async def _find_forgotten(self, wish: RefundWish) -> Refunded | RefundFailed | None:
        """What the provider made of a wish whose request a restore lost; None where it made nothing, or none was lost.

        Whoever asks with the same key after the restore is answered by what happened before it.
        """
        async with transaction(self._pool) as connection:
            stored = await load_payment(connection, wish.payment_id)
            if stored is None or await load_request(connection, wish.request_id) is not None:
                return None
            if not await may_lack_refunds(connection, wish.payment_id):
                return None
            adopted = _adopted(stored, wish.request_id)
            if adopted is not None:
                return adopted
            payment = stored.payment
            left_micros = max(0, payment.paid.amount_micros - payment.gone_micros)
            amount_micros = wish.amount_micros or left_micros or payment.paid.amount_micros
            _, order = await self._describe(connection, self._request_of(wish, amount_micros))
        return _require_refund(await self._provider_of(stored).find_refund(order))

    def _request_of(self, wish: RefundWish, amount_micros: int) -> RefundRequest:
        return RefundRequest(
            wish.request_id,
            wish.payment_id,
            wish.request_hash,
            amount_micros,
            wish.reason,
            wish.actor,
            self._clock.now_us(),
        )

    async def _keep(
        self, connection: Connection, wish: RefundWish, made: Refunded | RefundFailed | None
    ) -> RefundRequest:
        """The request of a wish, kept now or before; what was `made` of it already is no more of what is left."""
        await lock_payment_ids(connection, [wish.payment_id])
        stored = await load_payment(connection, wish.payment_id)
        if stored is None:
            raise Refusal("payment-not-found", f"there is no payment {wish.payment_id}", status=404)
        known = await load_request(connection, wish.request_id)
        if known is not None:
            if known.request_hash != wish.request_hash:
                raise Refusal("idempotency-key-reused", "this Idempotency-Key was used with another body")
            return known
        self._provider_of(stored)
        if made is None:
            amount_micros = await self._check_amount(connection, wish, stored)
        else:
            amount_micros = made.money.amount_micros
            if wish.amount_micros not in (None, amount_micros):
                raise Refusal("idempotency-key-reused", "this Idempotency-Key was used with another amount")
        request = self._request_of(wish, amount_micros)
        await insert_request(connection, request)
        return request

    async def _check_amount(self, connection: Connection, wish: RefundWish, stored: StoredPayment) -> int:
        """How much to send back. Raises Refusal for more than is left, and for what the provider can't take."""
        payment = stored.payment
        asked_micros = await sum_open_requests(connection, wish.payment_id)
        left_micros = payment.paid.amount_micros - payment.gone_micros - asked_micros
        amount_micros = left_micros if wish.amount_micros is None else wish.amount_micros
        if not 0 < amount_micros <= left_micros:
            raise Refusal(
                "refund-exceeds-payment",
                f"{max(0, left_micros)} micros {payment.paid.currency} of {wish.payment_id} are left to refund",
                left_micros=max(0, left_micros),
            )
        check_payable(stored.provider, Money(amount_micros, payment.paid.currency))
        return amount_micros

    def _provider_of(self, stored: StoredPayment) -> Provider:
        provider = self._providers.get(stored.provider)
        if provider is None:
            raise Refusal("provider-not-configured", f"{stored.provider} has no keys here", status=422)
        return provider

    def _refuse_under_way(self, request: RefundRequest) -> None:
        """Whoever sent it last may still be at it."""
        tried_at_us = request.tried_at_us
        if tried_at_us is not None and self._clock.now_us() - tried_at_us < RESUME_AFTER_SECONDS * SECOND_US:
            raise Refusal("refund-under-way", "the refund was sent less than a minute ago: try again in a minute")

    async def _send(self, request: RefundRequest, item_id: str | None) -> RefundRequest:
        """Have a refund carried out; what the provider might not recognise as sent before is asked about first."""
        async with transaction(self._pool) as connection:
            stored, order = await self._describe(connection, request)
            is_doubtful = await _may_be_forgotten(connection, request)
        provider = self._provider_of(stored)
        first_us = request.sent_at_us or request.requested_at_us
        if is_doubtful or not provider.remembers(first_us, self._clock.now_us()):
            found = await self._find(request)
            if found is not None:
                return await self._finish(request, found, None, item_id)
        async with transaction(self._pool) as connection:
            await lock_payment_ids(connection, [request.payment_id])
            current = await _require(connection, request.request_id)
            if current.answered_at_us is not None:
                return current
            sent_at_us = self._clock.now_us()
            await mark_tried(connection, request.request_id, sent_at_us, sent=True)
        check_goes_at_once(sent_at_us, self._clock.now_us())
        try:
            answer = await provider.refund(order)
        except ProviderRefusal as refusal:
            return await self._finish(request, None, f"{refusal.code}: {refusal.detail}"[:500], item_id)
        return await self._finish(request, answer, None, item_id)

    async def _find(self, request: RefundRequest) -> Fact | None:
        """What the provider has of a request that was sent before."""
        async with transaction(self._pool) as connection:
            stored, order = await self._describe(connection, request)
        adopted = _adopted(stored, request.request_id)
        return await self._provider_of(stored).find_refund(order) if adopted is None else adopted

    async def _finish(
        self, request: RefundRequest, answer: Fact | None, failure: str | None, item_id: str | None
    ) -> RefundRequest:
        """Apply what the provider answered, and remember it."""
        refund = _require_refund(answer)
        if isinstance(refund, RefundFailed):
            failure = refund.reason
        now_us = self._clock.now_us()
        refund_id = None if refund is None or failure is not None else refund.refund_id
        async with transaction(self._pool) as connection:
            await lock_payment_ids(connection, [request.payment_id])
            stored = await load_payment(connection, request.payment_id)
            assert stored is not None, "payments are never deleted"
            if item_id is not None and failure is None:
                await settle_item(connection, item_id, "refund", None, request.actor, request.reason, now_us)
            if refund is not None:
                name = f"refund {request.request_id} by {request.actor}: {request.reason}"[:500]
                await self._applier.apply_facts(connection, [refund], Cause(stored.provider, name))
            await answer_request(connection, request.request_id, refund_id, failure, now_us)
            await release(connection, SET_ASIDE_KIND, [request.request_id])
            return await _require(connection, request.request_id)

    async def _describe(self, connection: Connection, request: RefundRequest) -> tuple[StoredPayment, RefundOrder]:
        stored = await load_payment(connection, request.payment_id)
        assert stored is not None, "payments are never deleted"
        order = None if stored.order_id is None else await load_order(connection, stored.order_id)
        paid = stored.payment.paid
        described = RefundOrder(
            request_id=request.request_id,
            region=stored.region or "",
            order_id=stored.order_id or "",
            payment_id=request.payment_id,
            money=Money(request.amount_micros, paid.currency),
            paid=paid,
            order_created_at_us=request.requested_at_us if order is None else order.created_at,
            at_us=request.requested_at_us,
            actor=request.actor,
            is_only=await count_alike(connection, request) == 0,
            known=frozenset(refund.refund_id for refund in stored.payment.refunds),
        )
        return stored, described


async def _may_be_forgotten(connection: Connection, request: RefundRequest) -> bool:
    """Whether a restore may have lost that a request was sent: it was kept before the database was set back."""
    restored_at_us = await find_last_restore(connection)
    return restored_at_us is not None and request.requested_at_us <= restored_at_us


def _require_refund(answer: Fact | None) -> Refunded | RefundFailed | None:
    if answer is not None and not isinstance(answer, Refunded | RefundFailed):
        raise UnreadableAnswer(f"a refund was answered with {type(answer).__name__}")
    return answer


def _adopted(stored: StoredPayment, request_id: str) -> Refunded | RefundFailed | None:
    """The refund that a request led to, as its provider said it, where that has the request's name and is known."""
    payment = stored.payment
    refund = payment.find_refund(f"{stored.provider}:{request_id}")
    if refund is None:
        return None
    money = Money(refund.amount_micros, payment.paid.currency)
    if refund.state == "failed":
        return RefundFailed(payment.payment_id, refund.refund_id, money, refund.reason or "failed")
    return Refunded(payment.payment_id, refund.refund_id, money, refund.state)


async def _require(connection: Connection, request_id: str) -> RefundRequest:
    found = await load_request(connection, request_id)
    if found is None:
        raise Refusal("refund-request-not-found", f"there is no refund request {request_id}", status=404)
    return found
