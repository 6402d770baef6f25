"""Automatic top-up: charging a saved card, as the customer agreed, when a balance falls below its threshold."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from services.payment.app.facts import Cause, FactApplier
from services.payment.app.topups import TopUpRequest, TopUps
from services.payment.balance_client import BalanceClient
from services.payment.events import suspension_message
from services.payment.metrics import AUTO_TOP_UPS
from services.payment.providers import NeedsCustomer, Provider, ProviderName, ProviderRefusal, SavedCharge
from services.payment.rules.auto_top_up import (
    Attempt,
    AttemptState,
    AutoTopUp,
    Charge,
    check_agreement,
    decide_attempt,
    decide_suspension,
)
from services.payment.rules.currencies import payable_micros
from services.payment.rules.facts import Declined, Fact, Paid
from services.payment.store.auto_top_ups import (
    StoredAgreement,
    StoredAttempt,
    disable,
    end_attempt,
    insert_attempt,
    load_active,
    load_agreement,
    load_attempts,
    load_last_attempt_number,
    load_open_attempts,
    load_saved_card,
    lock_agreement,
    save_agreement,
    suspend,
)
from services.payment.store.orders import StoredOrder, load_order, mark_attempted
from shared.clock import DAY_US
from shared.db import Connection, transaction
from shared.errors import Refusal, TransientFault
from shared.ids import content_hash
from shared.log import get_logger
from shared.money import format_micros
from shared.outbox import append_messages

logger = get_logger(__name__)

PROVIDER: ProviderName = "stripe"
BATCH = 50
AT_ONCE = 8
# A month and the last hour before it.
_REMEMBERED_US = 32 * DAY_US
_OPEN_STATES = ("pending",)
_PAID_STATES = ("paid", "credited", "refunded", "disputed")


@dataclass(frozen=True, slots=True)
class Consent:
    """What the customer read and agreed to, word by word, and who agreed."""

    text: str
    actor: str


class AutoTopUps:
    def __init__(
        self,
        topups: TopUps,
        balance: BalanceClient,
        providers: Mapping[ProviderName, Provider],
        applier: FactApplier,
    ) -> None:
        self._topups = topups
        self._pool = topups.rates.pool
        self._clock = topups.rates.clock
        self._settings = topups.rates.settings
        self._rates = topups.rates
        self._balance = balance
        self._providers = providers
        self._applier = applier
        self._places = asyncio.Semaphore(AT_ONCE)

    async def agree(self, region: str, tenant_id: str, terms: AutoTopUp, consent: Consent) -> StoredAgreement:
        """Keep what a customer agreed to, in place of what was agreed before; it is no longer suspended.

        Raises Refusal for amounts that make no sense together, and where no card was saved by a payment before.
        """
        currency = self._rates.account_currency(region)
        self._topups.require_provider(PROVIDER)
        check_agreement(terms, payable_micros(currency), self._topups.limits_of(PROVIDER, currency)[0])
        async with transaction(self._pool) as connection:
            card = await load_saved_card(connection, region, tenant_id)
            if card is None:
                raise Refusal("card-needed", "no card is saved: make a top-up with Stripe and save_card first")
            agreement = StoredAgreement(region, tenant_id, terms, card, enabled=True, suspensions=0)
            await save_agreement(connection, agreement, consent.text, consent.actor, self._clock.now_us())
        return await self.load(region, tenant_id)

    async def load(self, region: str, tenant_id: str) -> StoredAgreement:
        async with transaction(self._pool) as connection:
            found = await load_agreement(connection, region, tenant_id)
        if found is None or not found.enabled:
            raise Refusal("no-auto-top-up", f"{region}/{tenant_id} has no automatic top-up", status=404)
        return found

    async def end(self, region: str, tenant_id: str) -> None:
        """Charge the card no more; what was agreed stays on record."""
        async with transaction(self._pool) as connection:
            if not await disable(connection, region, tenant_id, self._clock.now_us()):
                raise Refusal("no-auto-top-up", f"{region}/{tenant_id} has no automatic top-up", status=404)

    async def run(self) -> None:
        """Look after every agreement until cancelled."""
        while True:
            await self.resume()
            await self.charge_due()
            await asyncio.sleep(self._settings.auto_top_up_poll_seconds)

    async def charge_due(self) -> int:
        """Start what the agreements ask for; answer how many cards were charged."""
        after, charged = ("", ""), 0
        while True:
            async with transaction(self._pool) as connection:
                accounts = await load_active(connection, after, BATCH)
            charged += sum(await asyncio.gather(*(self._look_after(*account) for account in accounts)))
            if len(accounts) < BATCH:
                return charged
            after = accounts[-1]

    async def resume(self) -> int:
        """Go on with attempts whose outcome is open; answer how many ended."""
        async with transaction(self._pool) as connection:
            attempts = await load_open_attempts(connection, BATCH)
        return sum([await self._carry_out(attempt) for attempt in attempts])

    async def _look_after(self, region: str, tenant_id: str) -> bool:
        async with self._places:
            try:
                balance_micros = await self._balance.find_balance(region, tenant_id)
            except TransientFault as fault:
                logger.warning("auto_top_up.balance_unreachable", error=str(fault)[:300])
                return False
            attempt = await self._start(region, tenant_id, balance_micros or 0)
            return attempt is not None and await self._carry_out(attempt)

    async def _start(self, region: str, tenant_id: str, balance_micros: int) -> StoredAttempt | None:
        """Decide under the agreement's lock, and keep order and attempt before anything is charged."""
        currency = self._rates.account_currency(region)
        async with transaction(self._pool) as connection:
            agreement = await lock_agreement(connection, region, tenant_id)
            if agreement is None or not agreement.enabled:
                return None
            now_us = self._clock.now_us()
            known = await load_attempts(connection, region, tenant_id, now_us - _REMEMBERED_US)
            least_micros, most_micros = self._topups.limits_of(PROVIDER, currency)
            decision = decide_attempt(
                agreement.terms,
                [item.attempt for item in known],
                balance_micros,
                now_us,
                unit_micros=payable_micros(currency),
                minimum_micros=least_micros,
                maximum_micros=most_micros,
            )
            if not isinstance(decision, Charge):
                return None
            number = await load_last_attempt_number(connection, region, tenant_id) + 1
            amount = format_micros(decision.amount_micros)
            request = TopUpRequest(region, tenant_id, amount, currency, PROVIDER, f"auto-top-up/{number}")
            await self._topups.insert(connection, request)
            await mark_attempted(connection, request.order_id)
            attempt = Attempt(now_us, decision.amount_micros, "open")
            found = StoredAttempt(request.order_id, region, tenant_id, number, attempt)
            await insert_attempt(connection, found)
        return found

    async def _carry_out(self, attempt: StoredAttempt) -> bool:
        """Register and charge an open attempt, or end it by what its order says; whether it ended."""
        async with transaction(self._pool) as connection:
            order = await load_order(connection, attempt.order_id)
            agreement = await load_agreement(connection, attempt.region, attempt.tenant_id)
        assert order is not None, "an attempt has its order"
        assert agreement is not None, "an attempt has its agreement"
        if order.state not in _OPEN_STATES:
            return await self._end(attempt, "paid" if order.state in _PAID_STATES else "declined")
        try:
            await self._balance.register(order)
            answer = await self._charge(order, agreement)
        except (TransientFault, Refusal) as fault:
            # No registration, no charge: the attempt stays open, keeps others away, and is tried again.
            logger.warning("auto_top_up.still_open", order_id=order.order_id, error=str(fault)[:300])
            return False
        return await self._take(attempt, order, answer)

    async def _charge(self, order: StoredOrder, agreement: StoredAgreement) -> Fact | NeedsCustomer:
        """Charge the card; the order's id is the key, so that a repeat is the same charge."""
        charge = SavedCharge(
            content_hash(order.order_id.encode()).hex()[:32],
            order.order_id,
            order.region,
            order.tenant_id,
            order.money,
            agreement.card,
        )
        try:
            return await self._providers[PROVIDER].charge_saved(charge)
        except ProviderRefusal as refusal:
            return Declined(order.order_id, refusal.code, final=True)

    async def _take(self, attempt: StoredAttempt, order: StoredOrder, answer: Fact | NeedsCustomer) -> bool:
        needs_customer = isinstance(answer, NeedsCustomer)
        fact = Declined(order.order_id, "authentication_required", final=True) if needs_customer else answer
        assert not isinstance(fact, NeedsCustomer)
        async with transaction(self._pool) as connection:
            await self._applier.apply_facts(connection, [fact], Cause(PROVIDER, "automatic top-up"))
        if isinstance(fact, Paid):
            return await self._end(attempt, "paid")
        if needs_customer:
            return await self._end(attempt, "needs_customer", await self._invite(attempt, order))
        return isinstance(fact, Declined) and await self._end(attempt, "declined")

    async def _invite(self, attempt: StoredAttempt, order: StoredOrder) -> str | None:
        """Open a page where the customer pays the same amount on session; None where none can be had now."""
        key = f"auto-top-up/{attempt.number}/on-session"
        amount = format_micros(order.amount_micros)
        request = TopUpRequest(
            order.region, order.tenant_id, amount, order.currency, PROVIDER, key, save_card=True, payer_ip="127.0.0.1"
        )
        try:
            invited = await self._topups.create(request)
        except (Refusal, TransientFault) as fault:
            logger.warning("auto_top_up.no_page", order_id=order.order_id, error=str(fault)[:300])
            return None
        return f"{self._settings.public_url.rstrip('/')}/orders/{invited.order_id}"

    async def _end(self, attempt: StoredAttempt, state: AttemptState, action_url: str | None = None) -> bool:
        """End an attempt, and stop the agreement where it says so; what stops it is told once, with where to go."""
        async with transaction(self._pool) as connection:
            if not await end_attempt(connection, attempt.order_id, state):
                return False
            reason = await self._suspend(connection, attempt, action_url)
        AUTO_TOP_UPS.labels(state).inc()
        if reason is not None:
            logger.warning("auto_top_up.suspended", region=attempt.region, tenant_id=attempt.tenant_id, reason=reason)
        return True

    async def _suspend(self, connection: Connection, attempt: StoredAttempt, action_url: str | None) -> str | None:
        agreement = await lock_agreement(connection, attempt.region, attempt.tenant_id)
        assert agreement is not None, "an attempt has its agreement"
        now_us = self._clock.now_us()
        known = await load_attempts(connection, attempt.region, attempt.tenant_id, now_us - _REMEMBERED_US)
        reason = decide_suspension([item.attempt for item in known], self._settings.auto_top_up_declines_max)
        if reason is None or agreement.terms.suspended_reason is not None:
            return None
        await suspend(connection, attempt.region, attempt.tenant_id, reason, now_us)
        message = suspension_message(
            attempt.region,
            attempt.tenant_id,
            agreement.suspensions + 1,
            reason,
            action_url,
            now_us,
            self._rates.shared.shards,
        )
        await append_messages(connection, [message], now_us)
        return reason
