"""Exchange rates published by operators, and quotes made from them."""

from dataclasses import dataclass

from services.payment.rules.conversion import Quote, Rate, check_rate_age, convert
from services.payment.rules.facts import Money
from services.payment.settings import PaymentSettings
from services.payment.store.rates import insert_quote, insert_rate, load_rate
from shared.clock import SECOND_US, Clock, from_us
from shared.db import Pool, transaction
from shared.errors import Refusal
from shared.ids import fact_id
from shared.settings import SharedSettings


@dataclass(frozen=True, slots=True)
class Rates:
    pool: Pool
    clock: Clock
    settings: PaymentSettings
    shared: SharedSettings

    async def publish(self, rate: Rate, actor: str) -> None:
        """Publish a rate for a day. Raises Refusal for a pair of one currency."""
        if rate.from_currency == rate.to_currency:
            raise Refusal("invalid-rate", "a rate is between two currencies", status=422)
        async with transaction(self.pool) as connection:
            await insert_rate(connection, rate, actor, self.clock.now_us())

    async def quote(self, region: str, money: Money) -> Quote:
        """Quote what `money` buys in a region, for a limited time. Raises Refusal without a rate that still holds."""
        currency = self.account_currency(region)
        now_us = self.clock.now_us()
        if currency == money.currency:
            raise Refusal("quote-not-needed", f"the region {region} is in {currency}: 1 credit costs 1", status=422)
        async with transaction(self.pool) as connection:
            rate = await load_rate(connection, money.currency, currency, from_us(now_us).date())
            if rate is None:
                raise Refusal("no-exchange-rate", f"no rate from {money.currency} to {currency} is published")
            check_rate_age(rate, now_us, self.settings.rate_age_seconds_max)
            credit_micros = convert(money, rate.rate_e12)
            named = (region, money.currency, money.amount_micros, rate.rate_e12, rate.valid_on.isoformat(), now_us)
            expires_at_us = now_us + self.settings.quote_seconds * SECOND_US
            quote = Quote(fact_id("quote", *named), region, money, rate, credit_micros, expires_at_us)
            await insert_quote(connection, quote, now_us)
        return quote

    def account_currency(self, region: str) -> str:
        """The currency of a region's accounts. Raises Refusal for a region of another deployment."""
        known = self.shared.regions.get(region)
        if known is None:
            raise Refusal("unknown-region", f"this deployment has no region {region}", status=404)
        return known.currency
