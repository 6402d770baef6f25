"""Refunds by operators: kept first, then sent, then applied like any other word of the provider."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from services.payment.app.facts import Cause, FactApplier
from services.payment.providers import Provider, ProviderName, ProviderRefusal, RefundOrder
from services.payment.rules.facts import Money, Refunded, RefundFailed
from services.payment.store.orders import load_order
from services.payment.store.payments import StoredPayment, load_payment, lock_payment_ids
from services.payment.store.queue import settle_item
from services.payment.store.refund_requests import (
    RefundRequest,
    answer_request,
    insert_request,
    load_open_requests,
    load_request,
    sum_open_requests,
)
from shared.clock import SECOND_US, Clock
from shared.db import Connection, Pool, transaction
from shared.errors import Refusal, TransientFault
from shared.ids import content_hash
from shared.log import get_logger

logger = get_logger(__name__)

# A request without an answer is sent again after so long: its first sender may still be at it.
RESUME_AFTER_SECONDS = 60
RESUME_MAX = 20


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


class Refunds:
    def __init__(
        self, pool: Pool, clock: Clock, providers: Mapping[ProviderName, Provider], applier: FactApplier
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._providers = providers
        self._applier = applier

    async def refund(self, wish: RefundWish, item_id: str | None = None) -> RefundRequest:
        """Send money back, once per Idempotency-Key; `item_id` is a queue item that this settles.

        Raises Refusal for more than is left and when the provider refuses; TransientFault when it is out of reach:
        the request then stays and is sent again, by a repeat or by itself.
        """
        async with transaction(self._pool) as connection:
            request = await self._keep(connection, wish)
        if request.answered_at_us is None:
            request = await self._send(request, item_id)
        if request.failure is not None:
            raise ProviderRefusal("refund-refused", request.failure)
        return request

    async def resume(self) -> int:
        """Send again what has had no answer for a while; answer how many were answered now."""
        async with transaction(self._pool) as connection:
            before_us = self._clock.now_us() - RESUME_AFTER_SECONDS * SECOND_US
            requests = await load_open_requests(connection, before_us, RESUME_MAX)
        answered = 0
        for request in requests:
            try:
                await self._send(request, None)
                answered += 1
            except TransientFault as fault:
                logger.warning("refund.still_open", request_id=request.request_id, error=str(fault)[:300])
        return answered

    async def _keep(self, connection: Connection, wish: RefundWish) -> RefundRequest:
        await lock_payment_ids(connection, [wish.payment_id])
        stored = await load_payment(connection, wish.payment_id)
        if stored is None:
            raise Refusal("payment-not-found", f"there is no payment {wish.payment_id}", status=404)
        known = await load_request(connection, wish.request_id)
        if known is not None:
            if known.request_hash != wish.request_hash:
                raise Refusal("idempotency-key-reused", "this Idempotency-Key was used with another body")
            return known
        if stored.provider not in self._providers:
            raise Refusal("provider-not-configured", f"{stored.provider} has no keys here", status=422)
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
        request = RefundRequest(
            wish.request_id,
            wish.payment_id,
            wish.request_hash,
            amount_micros,
            wish.reason,
            wish.actor,
            self._clock.now_us(),
        )
        await insert_request(connection, request)
        return request

    async def _send(self, request: RefundRequest, item_id: str | None) -> RefundRequest:
        async with transaction(self._pool) as connection:
            stored = await load_payment(connection, request.payment_id)
            assert stored is not None, "payments are never deleted"
            order = await self._describe(connection, request, stored)
        fact: Refunded | RefundFailed | None = None
        failure: str | None = None
        try:
            answer = await self._providers[stored.provider].refund(order)
        except ProviderRefusal as refusal:
            failure = f"{refusal.code}: {refusal.detail}"[:500]
        else:
            if not isinstance(answer, Refunded | RefundFailed):
                raise TransientFault(f"{stored.provider} answered a refund with {type(answer).__name__}")
            fact, failure = answer, answer.reason if isinstance(answer, RefundFailed) else None
        return await self._finish(request, stored.provider, fact, failure, item_id)

    async def _finish(
        self,
        request: RefundRequest,
        provider: ProviderName,
        fact: Refunded | RefundFailed | None,
        failure: str | None,
        item_id: str | None,
    ) -> RefundRequest:
        now_us = self._clock.now_us()
        refund_id = None if fact is None or failure is not None else fact.refund_id
        async with transaction(self._pool) as connection:
            await lock_payment_ids(connection, [request.payment_id])
            if item_id is not None and failure is None:
                await settle_item(connection, item_id, "refund", None, request.actor, request.reason, now_us)
            if fact is not None:
                cause = Cause(provider, f"refund {request.request_id} by {request.actor}: {request.reason}"[:500])
                await self._applier.apply_facts(connection, [fact], cause)
            await answer_request(connection, request.request_id, refund_id, failure, now_us)
            answered = await load_request(connection, request.request_id)
        assert answered is not None, "requests are never deleted"
        return answered

    async def _describe(self, connection: Connection, request: RefundRequest, stored: StoredPayment) -> RefundOrder:
        order = None if stored.order_id is None else await load_order(connection, stored.order_id)
        paid = stored.payment.paid
        return RefundOrder(
            request_id=request.request_id,
            region=stored.region or "",
            order_id=stored.order_id or "",
            payment_id=request.payment_id,
            money=Money(request.amount_micros, paid.currency),
            paid=paid,
            order_created_at_us=request.requested_at_us if order is None else order.created_at,
            at_us=request.requested_at_us,
            actor=request.actor,
        )
