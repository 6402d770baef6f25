"""Making an order: commit it, register it at balance, open the provider's page. Each step is resumed by a repeat."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from typing import Final

import orjson

from services.payment.app.facts import Cause, FactApplier
from services.payment.app.rates import Rates
from services.payment.balance_client import BalanceClient
from services.payment.providers import PageOrder, Provider, ProviderName, ProviderRefusal
from services.payment.rules.conversion import RATE_ONE_E12, check_limits, check_quote, parse_amount
from services.payment.rules.currencies import check_payable
from services.payment.rules.facts import Declined, Money
from services.payment.rules.told import failure_as_told
from services.payment.store.asking import UNTRIED_MAX, load_untried_orders, lock_orders_of
from services.payment.store.orders import (
    NewOrder,
    StoredOrder,
    insert_order,
    load_order,
    load_order_of_page,
    save_page,
)
from services.payment.store.payments import (
    NamingPayment,
    load_payment,
    load_payments_naming,
    lock_payment_ids,
)
from services.payment.store.rates import load_quote
from services.payment.store.restores import find_told_failure
from shared.clock import SECOND_US, from_us
from shared.db import Connection, transaction
from shared.errors import Refusal
from shared.ids import content_hash, fact_id, shard_of
from shared.money import AMOUNT_MICROS_MAX, format_micros, parse_micros

# Keys that begin so name the charges of saved cards. No customer's do: the card would be charged for that order.
AUTOMATIC_KEYS: Final = "auto-top-up/"


@dataclass(frozen=True, slots=True)
class TopUpRequest:
    """What a customer asks for. `payer_ip` comes from the connection and is no part of what must be repeated."""

    region: str
    tenant_id: str
    amount: str
    currency: str
    provider: ProviderName
    idempotency_key: str
    quote_id: str | None = None
    email: str = ""
    payer_name: str = ""
    locale: str = ""
    bank_code: str = ""
    save_card: bool = False
    payer_ip: str = field(default="", compare=False)

    @property
    def order_id(self) -> str:
        return fact_id("order", self.region, self.tenant_id, self.idempotency_key)

    @property
    def request_hash(self) -> bytes:
        body = {name: value for name, value in asdict(self).items() if name != "payer_ip"}
        return content_hash(orjson.dumps(body, option=orjson.OPT_SORT_KEYS))


def automatic_request(region: str, tenant_id: str, number: int, money: Money) -> TopUpRequest:
    """What the account's charge of that number orders: `money` in the account's currency."""
    amount, key = format_micros(money.amount_micros), f"{AUTOMATIC_KEYS}{number}"
    return TopUpRequest(region, tenant_id, amount, money.currency, "stripe", key)


@dataclass(frozen=True, slots=True)
class Settled:
    """What was paid for an order, and the credit for it in the account's currency."""

    paid: Money
    credit_micros: int


@dataclass(frozen=True, slots=True)
class _Terms:
    """What an order asks for, and what it credits at which rate; `rate_date` None: in the account's own currency."""

    money: Money
    account_currency: str
    credit_micros: int
    rate_e12: int
    rate_date: date | None


class TopUps:
    """Use cases of a customer who buys credits."""

    def __init__(
        self,
        rates: Rates,
        balance: BalanceClient,
        providers: Mapping[ProviderName, Provider],
        applier: FactApplier,
    ) -> None:
        self.rates = rates
        self._settings = rates.settings
        self._balance = balance
        self._providers = providers
        self._applier = applier

    async def create_for_customer(self, request: TopUpRequest) -> StoredOrder:
        """As `create`, by a key of the customer's own. Raises Refusal for one that belongs to automatic top-up."""
        if request.idempotency_key.startswith(AUTOMATIC_KEYS):
            detail = f"an Idempotency-Key does not begin with {AUTOMATIC_KEYS}: use another one"
            raise Refusal("idempotency-key-reserved", detail, status=422)
        return await self.create(request)

    async def create(self, request: TopUpRequest) -> StoredOrder:
        """Make an order with its page, once per Idempotency-Key; a repeat goes on where the last attempt ended.

        Raises Refusal for a request that can't be taken, TransientFault when balance or the provider is out of reach.
        """
        order = await self.commit_order(request)
        if order.page_url is not None or order.payment_id is not None:
            return order
        if order.state != "pending":
            raise Refusal("order-ended", f"the order {order.order_id} is {order.state}; make a new one")
        if self.rates.clock.now_us() >= order.expires_at:
            raise Refusal("order-expired", f"the order {order.order_id} was not opened in time; make a new one")
        await self._balance.register(order)
        return await self._open_page(order)

    async def load(self, order_id: str) -> StoredOrder:
        """An order as it stands. Raises Refusal for none."""
        async with transaction(self.rates.pool) as connection:
            found = await load_order(connection, order_id)
        if found is None:
            raise Refusal("order-not-found", f"there is no order {order_id}", status=404)
        return found

    async def find_page(self, token: str) -> StoredOrder | None:
        """The order whose page a token names."""
        async with transaction(self.rates.pool) as connection:
            return await load_order_of_page(connection, token)

    async def find_settled(self, order: StoredOrder) -> Settled:
        """What was paid and credited for an order as it was settled; until then, as it was agreed."""
        agreed = Settled(order.money, order.credit_micros)
        if order.payment_id is None:
            return agreed
        async with transaction(self.rates.pool) as connection:
            stored = await load_payment(connection, order.payment_id)
        if stored is None or stored.payment.credit_micros is None:
            return agreed
        return Settled(stored.payment.paid, stored.payment.credit_micros)

    async def commit_order(self, request: TopUpRequest) -> StoredOrder:
        """The order of a request, committed now or before. Raises Refusal for a key that named something else."""
        async with transaction(self.rates.pool) as connection:
            return await self.insert(connection, request)

    async def insert(self, connection: Connection, request: TopUpRequest) -> StoredOrder:
        """The order of a request, inserted now or before. Raises Refusal for what can't be ordered.

        So it does for a key that named something else: no order is taken for one of other terms. An order that a
        restore lost is made again as it ended: its payment, or its failure, was told.
        """
        paid = await load_payments_naming(connection, request.order_id)
        await lock_payment_ids(connection, [payment.payment_id for payment in paid])
        found = await load_order(connection, request.order_id)
        if found is None:
            found = await self._insert(connection, request, paid)
        if found.request_hash != request.request_hash:
            raise Refusal("idempotency-key-reused", "this Idempotency-Key was used with another body")
        for payment in paid:
            await self._applier.take_payment(connection, found.order_id, payment.payment_id)
        return await self._reload(connection, found.order_id) if paid else found

    async def _insert(self, connection: Connection, request: TopUpRequest, paid: list[NamingPayment]) -> StoredOrder:
        """A new order, or one that a restore lost, with its terms and its failure as far as they are known."""
        credited = next((payment for payment in paid if payment.credit_micros is not None), None)
        if credited is None:
            await self._check_open(connection, request)
            order = await self._agree(connection, request)
        else:
            order = self._agree_as_paid(request, credited)
        await insert_order(connection, order)
        reason = None if paid else await find_told_failure(connection, order.order_id)
        if reason is not None:
            failure = failure_as_told(order.order_id, reason)
            cause = Cause(order.provider, "told before the restore")
            await self._applier.silent.apply_facts(connection, [failure], cause)
        return await self._reload(connection, request.order_id)

    async def _check_open(self, connection: Connection, request: TopUpRequest) -> None:
        """Raise Refusal where the account has as many orders that nobody tried to pay as can be asked about.

        Before its deletion each of them is asked about: more of them would hold it up for ever.
        """
        if request.idempotency_key.startswith(AUTOMATIC_KEYS):
            return
        await lock_orders_of(connection, request.region, request.tenant_id)
        if len(await load_untried_orders(connection, request.region, request.tenant_id, UNTRIED_MAX)) < UNTRIED_MAX:
            return
        detail = f"{UNTRIED_MAX} orders of the account wait to be paid; pay one of them, or wait until one has expired"
        raise Refusal("too-many-open-orders", detail, status=429)

    async def _reload(self, connection: Connection, order_id: str) -> StoredOrder:
        found = await load_order(connection, order_id)
        assert found is not None, "it was inserted now or by somebody else"
        return found

    async def _agree(self, connection: Connection, request: TopUpRequest) -> NewOrder:
        """What is agreed on: amount, credit and rate stand from here on. Raises Refusal."""
        account_currency = self.rates.account_currency(request.region)
        money = parse_amount(request.amount, request.currency)
        self.check_offer(request.provider, money)
        check_limits(money, *self.limits_of(request.provider, money.currency))
        now_us = self.rates.clock.now_us()
        terms = _Terms(money, account_currency, money.amount_micros, RATE_ONE_E12, None)
        if money.currency != account_currency:
            quote = await load_quote(connection, request.quote_id or "")
            if quote is None:
                detail = f"the region {request.region} is in {account_currency}: give the quote_id of a POST /v1/quotes"
                raise Refusal("quote-needed", detail, status=422)
            check_quote(quote, request.region, money, now_us)
            rate = quote.rate
            terms = _Terms(money, account_currency, quote.credit_micros, rate.rate_e12, rate.valid_on)
        return self._make(request, terms, now_us)

    def _agree_as_paid(self, request: TopUpRequest, payment: NamingPayment) -> NewOrder:
        """The order of a request that was lost after it was paid and credited. Raises Refusal for another one's key."""
        money = parse_amount(request.amount, request.currency)
        if money != payment.paid or not payment.payment_id.startswith(f"{request.provider}:"):
            raise Refusal("idempotency-key-reused", "this Idempotency-Key was used with another body")
        account_currency, credit_micros = self.rates.account_currency(request.region), payment.credit_micros
        assert credit_micros is not None, "only of what is credited the terms are known"
        terms = _Terms(payment.paid, account_currency, credit_micros, RATE_ONE_E12, None)
        if payment.paid.currency != account_currency:
            rate_e12 = max(1, credit_micros * RATE_ONE_E12 // payment.paid.amount_micros)
            terms = replace(terms, rate_e12=rate_e12, rate_date=from_us(payment.paid_at_us).date())
        return self._make(request, terms, self.rates.clock.now_us())

    def _make(self, request: TopUpRequest, terms: "_Terms", now_us: int) -> NewOrder:
        return NewOrder(
            order_id=request.order_id,
            region=request.region,
            tenant_id=request.tenant_id,
            shard=shard_of(request.region, request.tenant_id, self.rates.shared.shards),
            idempotency_key=request.idempotency_key,
            request_hash=request.request_hash,
            provider=request.provider,
            amount_micros=terms.money.amount_micros,
            currency=terms.money.currency,
            account_currency=terms.account_currency,
            credit_micros=terms.credit_micros,
            rate_e12=terms.rate_e12,
            rate_date=terms.rate_date,
            quote_id=request.quote_id if terms.rate_date is not None else None,
            email=request.email,
            payer_name=request.payer_name,
            payer_ip=request.payer_ip,
            locale=request.locale,
            bank_code=request.bank_code,
            save_card=request.save_card,
            created_at=now_us,
            expires_at=now_us + self._settings.order_seconds * SECOND_US,
        )

    def limits_of(self, provider: ProviderName, currency: str) -> tuple[int, int]:
        """The least and the most that one order may be; where no setting says so, what an account can hold."""
        limit = self._settings.limits.get(provider, {}).get(currency)
        return (1, AMOUNT_MICROS_MAX) if limit is None else (parse_micros(limit.min), parse_micros(limit.max))

    def require_provider(self, provider: ProviderName) -> None:
        """Refuse a provider that this deployment has no key for."""
        if provider not in self._providers:
            raise Refusal("provider-not-configured", f"{provider} is not offered here: it has no keys", status=422)

    def check_offer(self, provider: ProviderName, money: Money) -> None:
        """Refuse a provider without keys, and an amount that it can't take whole."""
        self.require_provider(provider)
        check_payable(provider, money)

    async def _open_page(self, order: StoredOrder) -> StoredOrder:
        try:
            page = await self._providers[order.provider].open_page(self._page_order(order))
        except ProviderRefusal as refusal:
            # Nothing was opened and never will be: balance must not wait for it.
            declined = Declined(order.order_id, refusal.code, final=True)
            async with transaction(self.rates.pool) as connection:
                cause = Cause(order.provider, f"page refused: {refusal.code}")
                await self._applier.apply_facts(connection, [declined], cause)
            raise
        async with transaction(self.rates.pool) as connection:
            await save_page(connection, order.order_id, page.url, page.reference, self.rates.clock.now_us())
            saved = await load_order(connection, order.order_id)
        assert saved is not None, "orders are never deleted"
        return saved

    def _page_order(self, order: StoredOrder) -> PageOrder:
        return PageOrder(
            order_id=order.order_id,
            region=order.region,
            tenant_id=order.tenant_id,
            money=order.money,
            created_at_us=order.created_at,
            expires_at_us=order.expires_at,
            return_url=self._settings.public_url.rstrip("/"),
            page_token=order.page_token,
            payer_ip=order.payer_ip,
            locale=order.locale or None,
            email=order.email or None,
            bank_code=order.bank_code or None,
            save_card=order.save_card,
        )
