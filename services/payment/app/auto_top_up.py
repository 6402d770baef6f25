"""Automatic top-up: charging a saved card, as the customer agreed, when a balance falls below its threshold."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypedDict

from services.payment.app.facts import Cause, FactApplier
from services.payment.app.topups import AUTOMATIC_KEYS, TopUpRequest, TopUps, automatic_request
from services.payment.balance_client import BalanceClient
from services.payment.events import suspension_message
from services.payment.metrics import AUTO_TOP_UPS
from services.payment.providers import NeedsCustomer, Provider, ProviderName, ProviderRefusal, SavedCharge
from services.payment.rules.auto_top_up import (
    Attempt,
    AttemptState,
    AutoTopUp,
    Charge,
    SuspensionReason,
    check_agreement,
    decide_again,
    decide_attempt,
    decide_suspension,
    is_too_old,
)
from services.payment.rules.currencies import payable_micros
from services.payment.rules.facts import Declined, Fact, Money, Paid
from services.payment.rules.sending import SEND_WITHIN_US, check_goes_at_once
from services.payment.store.auto_top_ups import (
    SET_ASIDE_KIND,
    StoredAgreement,
    StoredAttempt,
    UnderWay,
    are_charging,
    disable,
    end_attempt,
    find_reversal,
    insert_attempt,
    load_active,
    load_agreement,
    load_attempt,
    load_attempts,
    load_next_attempt_number,
    load_open_attempts,
    load_open_attempts_of,
    load_saved_card,
    load_under_way,
    lock_agreement,
    mark_answered,
    mark_asked,
    mark_charging,
    save_agreement,
    suspend,
)
from services.payment.store.orders import StoredOrder, load_order, mark_attempted
from shared.clock import DAY_US, SECOND_US
from shared.db import Connection, is_transient, transaction
from shared.errors import Refusal, TransientFault
from shared.ids import content_hash
from shared.log import get_logger
from shared.money import format_micros
from shared.outbox import append_messages
from shared.set_aside import describe_error, release, set_aside

logger = get_logger(__name__)

PROVIDER: ProviderName = "stripe"
BATCH = 50
AT_ONCE = 8
# How long after a charge was sent, or asked about, its answer may still come; after that the provider is asked.
ASK_AFTER_SECONDS = 60
# How often whoever withdraws his consent looks whether a charge is still on its way.
_WAIT_SECONDS = 0.1
# A month and the last hour before it.
_REMEMBERED_US = 32 * DAY_US
_OPEN_STATES = ("pending",)
_PAID_STATES = ("paid", "credited", "refunded", "disputed")


@dataclass(frozen=True, slots=True)
class Consent:
    """What the customer read and agreed to, word by word, and who agreed."""

    text: str
    actor: str


@dataclass(frozen=True, slots=True)
class _Asked:
    """What balance answered about an account, when it was asked, and what was paid and not credited by then."""

    balance_micros: int
    at_us: int
    under_way: UnderWay


class Bounds(TypedDict):
    """What a provider takes, as the rules ask for it."""

    unit_micros: int
    minimum_micros: int
    maximum_micros: int


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

        What was decided by the agreement before is charged no more. Raises Refusal for amounts that make no sense
        together, and where no card was saved by a payment before.
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
            sent = await self._withdraw_unsent(connection, region, tenant_id, "another agreement")
        await self._wait_answered(sent)
        return await self.load(region, tenant_id)

    async def load(self, region: str, tenant_id: str) -> StoredAgreement:
        async with transaction(self._pool) as connection:
            found = await load_agreement(connection, region, tenant_id)
        if found is None or not found.enabled:
            raise Refusal("no-auto-top-up", f"{region}/{tenant_id} has no automatic top-up", status=404)
        return found

    async def end(self, region: str, tenant_id: str) -> None:
        """Charge the card no more, whatever was decided before; what was agreed stays on record.

        Returns when nothing is on its way to the provider any more: what was taken was taken before that.
        """
        async with transaction(self._pool) as connection:
            was_enabled = await disable(connection, region, tenant_id, self._clock.now_us())
            sent = await self._withdraw_unsent(connection, region, tenant_id, "consent withdrawn")
        await self._wait_answered(sent)
        if not was_enabled:
            raise Refusal("no-auto-top-up", f"{region}/{tenant_id} has no automatic top-up", status=404)

    async def _withdraw_unsent(self, connection: Connection, region: str, tenant_id: str, reason: str) -> list[str]:
        """End what the provider has never heard of; of the rest, whose order ids are answered, it is asked first."""
        attempts = await load_open_attempts_of(connection, region, tenant_id)
        for attempt in attempts:
            if attempt.sent_at_us is None:
                await self._withdraw(connection, attempt, reason)
        return [attempt.order_id for attempt in attempts if attempt.sent_at_us is not None]

    async def _wait_answered(self, order_ids: list[str]) -> None:
        """Wait while requests of these charges are on their way; the time that a charge is given bounds it."""
        while order_ids:
            async with transaction(self._pool) as connection:
                if not await are_charging(connection, order_ids):
                    return
            await asyncio.sleep(_WAIT_SECONDS)

    async def _withdraw(self, connection: Connection, attempt: StoredAttempt, reason: str) -> None:
        """End an attempt and its order without a charge; the caller holds the agreement."""
        if not await end_attempt(connection, attempt.order_id, "withdrawn", reason):
            return
        declined = Declined(attempt.order_id, "withdrawn", final=True)
        await self._applier.apply_facts(connection, [declined], Cause(PROVIDER, f"automatic top-up: {reason}"))
        AUTO_TOP_UPS.labels("withdrawn").inc()
        logger.info("auto_top_up.withdrawn", order_id=attempt.order_id, reason=reason)

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
                accounts = await load_active(connection, after, BATCH, self._clock.now_us())
            done = await asyncio.gather(
                *(self._isolate("/".join(account), partial(self._look_after, *account)) for account in accounts)
            )
            charged += sum(done)
            if len(accounts) < BATCH:
                return charged
            after = accounts[-1]

    async def resume(self) -> int:
        """Go on with attempts whose outcome is open; answer how many ended."""
        after, ended = (0, ""), 0
        while True:
            async with transaction(self._pool) as connection:
                attempts = await load_open_attempts(connection, after, BATCH, self._clock.now_us())
            done = await asyncio.gather(
                *(self._isolate(item.account, partial(self._carry_out, item)) for item in attempts)
            )
            ended += sum(done)
            if len(attempts) < BATCH:
                return ended
            after = attempts[-1].attempt.at_us, attempts[-1].order_id

    async def _isolate(self, account: str, work: Callable[[], Awaitable[bool]]) -> bool:
        """One account's work; if it can't be done, the account is set aside and its neighbours go on."""
        async with self._places:
            try:
                done = await work()
            except Exception as error:  # noqa: BLE001 - every error is this account's own
                if is_transient(error):
                    # Nothing clear was answered: an open attempt stays open, keeps others away, and is tried again.
                    logger.warning("auto_top_up.still_open", account=account, error=describe_error(error))
                    return False
                async with transaction(self._pool) as connection:
                    await set_aside(connection, SET_ASIDE_KIND, account, describe_error(error), self._clock.now_us())
                return False
        if done:
            async with transaction(self._pool) as connection:
                await release(connection, SET_ASIDE_KIND, [account])
        return done

    async def _look_after(self, region: str, tenant_id: str) -> bool:
        asked = await self._ask_balance(region, tenant_id)
        attempt = await self._start(region, tenant_id, asked)
        return attempt is not None and await self._carry_out(attempt)

    async def _ask_balance(self, region: str, tenant_id: str) -> _Asked:
        """The balance, and what was captured before it was asked: that may be part of it, or not yet."""
        at_us = self._clock.now_us()
        async with transaction(self._pool) as connection:
            under_way = await load_under_way(connection, region, tenant_id, at_us)
        return _Asked(await self._balance.find_balance(region, tenant_id) or 0, at_us, under_way)

    async def _find_money(self, connection: Connection, region: str, tenant_id: str, asked: _Asked) -> int:
        """The balance with all that is paid, though balance has not posted it; the caller holds the agreement.

        Raises TransientFault where that changed since balance was asked: nobody knows whether its answer has it.
        """
        under_way = await load_under_way(connection, region, tenant_id, asked.at_us)
        if under_way.payment_ids != asked.under_way.payment_ids:
            raise TransientFault("a payment came, or was credited, since balance was asked")
        return asked.balance_micros + under_way.credit_micros

    async def _start(self, region: str, tenant_id: str, asked: _Asked) -> StoredAttempt | None:
        """Decide under the agreement's lock, and keep order and attempt before anything is charged."""
        currency = self._rates.account_currency(region)
        async with transaction(self._pool) as connection:
            agreement = await lock_agreement(connection, region, tenant_id)
            if agreement is None or not agreement.enabled:
                return None
            now_us = self._clock.now_us()
            if await self._suspend_reversed(connection, agreement) is not None:
                return None
            known = await load_attempts(connection, region, tenant_id, now_us - _REMEMBERED_US)
            money_micros = await self._find_money(connection, region, tenant_id, asked)
            decision = decide_attempt(
                agreement.terms, [item.attempt for item in known], money_micros, now_us, **self._bounds(currency)
            )
            if not isinstance(decision, Charge):
                return None
            number = await load_next_attempt_number(connection, region, tenant_id)
            request = automatic_request(region, tenant_id, number, Money(decision.amount_micros, currency))
            await self._topups.insert(connection, request)
            await mark_attempted(connection, request.order_id)
            attempt = Attempt(now_us, decision.amount_micros, "open")
            found = StoredAttempt(
                request.order_id, region, tenant_id, number, attempt, agreement.number, agreement.card
            )
            await insert_attempt(connection, found)
        return found

    def _bounds(self, currency: str) -> Bounds:
        """What the provider takes: multiples of a unit, from a least to a most."""
        least_micros, most_micros = self._topups.limits_of(PROVIDER, currency)
        return {
            "unit_micros": payable_micros(currency),
            "minimum_micros": least_micros,
            "maximum_micros": most_micros,
        }

    async def _carry_out(self, attempt: StoredAttempt) -> bool:
        """Charge an open attempt if it is still agreed to and asked for, or end it; whether it ended."""
        async with transaction(self._pool) as connection:
            order = await load_order(connection, attempt.order_id)
        assert order is not None, "an attempt has its order"
        if order.state not in _OPEN_STATES:
            return await self._end(attempt, "paid" if order.state in _PAID_STATES else "declined")
        if attempt.sent_at_us is not None:
            if self._is_under_way(attempt):
                return False
            found = await self._ask(attempt, order)
            if found is not None:
                return await self._take(attempt, order, found) or await self._look_again_later(attempt)
        asked: _Asked | None = None
        if not is_too_old(attempt.attempt, self._clock.now_us()):
            await self._balance.register(order)
            asked = await self._ask_balance(order.region, order.tenant_id)
        decided_at_us = await self._decide_again(attempt, order, asked)
        if decided_at_us is None:
            return True
        try:
            return await self._take(attempt, order, await self._charge(attempt, order, decided_at_us))
        finally:
            async with transaction(self._pool) as connection:
                await mark_answered(connection, order.order_id)

    def _is_under_way(self, attempt: StoredAttempt) -> bool:
        """Whether somebody sent it, or asked about it, so lately that the answer may still come."""
        tried_at_us = attempt.tried_at_us or 0
        return self._clock.now_us() - tried_at_us < ASK_AFTER_SECONDS * SECOND_US

    async def _look_again_later(self, attempt: StoredAttempt) -> bool:
        async with transaction(self._pool) as connection:
            await mark_asked(connection, attempt.order_id, self._clock.now_us())
        return False

    async def _ask(self, attempt: StoredAttempt, order: StoredOrder) -> Fact | NeedsCustomer | None:
        """What became of a charge whose answer was lost: never is one sent again that happened."""
        sent_at_us = attempt.sent_at_us
        assert sent_at_us is not None, "only what was sent is asked about"
        try:
            return await self._providers[PROVIDER].find_charge(_saved_charge(attempt, order), sent_at_us)
        except ProviderRefusal:
            # The provider knows no such customer: it charged none.
            return None

    async def _decide_again(self, attempt: StoredAttempt, order: StoredOrder, asked: _Asked | None) -> int | None:
        """Decide under the agreement's lock to charge, and note when; otherwise end it and answer None.

        Of what is too old to be charged, balance is not `asked`.
        """
        async with transaction(self._pool) as connection:
            agreement = await lock_agreement(connection, attempt.region, attempt.tenant_id)
            now_us = self._clock.now_us()
            current = await load_attempt(connection, attempt.order_id)
            if current is None or current.attempt.state != "open":
                return None
            if current.tried_at_us != attempt.tried_at_us:
                raise TransientFault("somebody else is at this charge")
            known = await load_attempts(connection, attempt.region, attempt.tenant_id, now_us - _REMEMBERED_US)
            money_micros = 0
            if asked is not None:
                money_micros = await self._find_money(connection, attempt.region, attempt.tenant_id, asked)
            terms: AutoTopUp | None = None
            if agreement is not None and agreement.enabled and agreement.number == attempt.agreement_number:
                reversal = await self._suspend_reversed(connection, agreement)
                terms = replace(agreement.terms, suspended_reason=reversal) if reversal else agreement.terms
            reason = decide_again(
                terms,
                attempt.attempt,
                [item.attempt for item in known if item.order_id != attempt.order_id],
                money_micros,
                now_us,
                **self._bounds(order.currency),
            )
            if reason is not None:
                await self._withdraw(connection, attempt, reason)
                return None
            seconds = SEND_WITHIN_US / SECOND_US + self._settings.stripe_timeout_seconds
            await mark_charging(connection, attempt.order_id, now_us, seconds)
        return now_us

    async def _charge(self, attempt: StoredAttempt, order: StoredOrder, decided_at_us: int) -> Fact | NeedsCustomer:
        """Charge the card; the order's id is the key, so that a repeat is the same charge.

        Whoever withdraws his consent waits no longer than a charge is on its way, so it goes out at once or not at all.
        """
        check_goes_at_once(decided_at_us, self._clock.now_us())
        try:
            async with asyncio.timeout(self._settings.stripe_timeout_seconds):
                return await self._providers[PROVIDER].charge_saved(_saved_charge(attempt, order))
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
        key = f"{AUTOMATIC_KEYS}{attempt.number}/on-session"
        amount = format_micros(order.amount_micros)
        request = TopUpRequest(
            order.region, order.tenant_id, amount, order.currency, PROVIDER, key, save_card=True, payer_ip="127.0.0.1"
        )
        try:
            invited = await self._topups.create(request)
        except (Refusal, TransientFault) as fault:
            logger.warning("auto_top_up.no_page", order_id=order.order_id, error=str(fault)[:300])
            return None
        return f"{self._settings.public_url.rstrip('/')}/orders/{invited.page_token}"

    async def _end(self, attempt: StoredAttempt, state: AttemptState, action_url: str | None = None) -> bool:
        """End an attempt, and stop the agreement where it says so; what stops it is told once, with where to go."""
        async with transaction(self._pool) as connection:
            # The agreement first, as everywhere: two that end attempts must not wait for one another in a circle.
            await lock_agreement(connection, attempt.region, attempt.tenant_id)
            if not await end_attempt(connection, attempt.order_id, state):
                return False
            await self._suspend(connection, attempt, action_url)
        AUTO_TOP_UPS.labels(state).inc()
        return True

    async def _suspend_reversed(
        self, connection: Connection, agreement: StoredAgreement
    ) -> Literal["refunded", "disputed"] | None:
        """Suspend the locked agreement if a payment was refunded or disputed since it was made, and answer which.

        Charged again at once, a customer who got his money back would have got nothing.
        """
        if agreement.terms.suspended_reason is not None:
            return None
        reason = await find_reversal(connection, agreement.region, agreement.tenant_id)
        if reason is not None:
            await self._tell_suspended(connection, agreement, reason, None)
        return reason

    async def _suspend(self, connection: Connection, attempt: StoredAttempt, action_url: str | None) -> None:
        agreement = await load_agreement(connection, attempt.region, attempt.tenant_id)
        assert agreement is not None, "an attempt has its agreement"
        if agreement.number != attempt.agreement_number:
            return
        now_us = self._clock.now_us()
        known = await load_attempts(connection, attempt.region, attempt.tenant_id, now_us - _REMEMBERED_US)
        reason = decide_suspension([item.attempt for item in known], self._settings.auto_top_up_declines_max)
        if reason is not None and agreement.terms.suspended_reason is None:
            await self._tell_suspended(connection, agreement, reason, action_url)

    async def _tell_suspended(
        self, connection: Connection, agreement: StoredAgreement, reason: SuspensionReason, action_url: str | None
    ) -> None:
        now_us, shards = self._clock.now_us(), self._rates.shared.shards
        region, tenant_id, number = agreement.region, agreement.tenant_id, agreement.suspensions + 1
        await suspend(connection, region, tenant_id, reason, now_us)
        message = suspension_message(region, tenant_id, number, reason, action_url, now_us, shards)
        await append_messages(connection, [message], now_us)
        logger.warning("auto_top_up.suspended", region=region, tenant_id=tenant_id, reason=reason)


def _saved_charge(attempt: StoredAttempt, order: StoredOrder) -> SavedCharge:
    """The charge of an attempt, the same each time that it is sent or asked about."""
    request_id = content_hash(order.order_id.encode()).hex()[:32]
    return SavedCharge(request_id, order.order_id, order.region, order.tenant_id, order.money, attempt.card)
