"""Making orders: each step resumed by a repeat, nothing attempted without registration, clear refusals."""

import asyncio
from dataclasses import replace
from datetime import date

import pytest

from services.payment.app.registrations import Registrations
from services.payment.providers import ProviderRefusal
from services.payment.rules.conversion import Rate, convert, format_rate, parse_rate
from services.payment.rules.facts import Attempted, Money
from services.payment.store.asking import UNTRIED_MAX
from services.payment.store.orders import StoredOrder
from services.payment.store.restores import mark_open_orders
from shared.clock import DAY_US, HOUR_US, SECOND_US
from shared.db import transaction
from shared.errors import Refusal, TransientFault
from tests.payment.shop import START_US, Shop, make_shared, open_shop, paid, vnd

TODAY = date(2027, 1, 15)
USD_VND = Rate("USD", "VND", parse_rate("25400.5"), TODAY)


async def refuses(shop: Shop, code: str, **changes: object) -> Refusal:
    with pytest.raises(Refusal) as caught:
        await shop.service.topups.create(shop.request(**changes))  # type: ignore[arg-type]  # the test names real fields
    assert caught.value.code == code
    return caught.value


async def test_nothing_is_attempted_without_registration(shop: Shop) -> None:
    request = shop.request()
    shop.balance.down = True
    with pytest.raises(TransientFault):
        await shop.service.topups.create(request)
    assert shop.stripe.opened == []
    shop.balance.down, shop.balance.refuses = False, True
    with pytest.raises(Refusal, match="registration-refused"):
        await shop.service.topups.create(request)
    assert shop.stripe.opened == []
    shop.balance.refuses = False
    order = await shop.service.topups.create(request)
    assert (order.state, len(shop.stripe.opened)) == ("pending", 1)


async def test_a_repeat_goes_on_where_the_provider_failed_and_answers_the_same(shop: Shop) -> None:
    request = shop.request()
    shop.stripe.down = True
    with pytest.raises(TransientFault):
        await shop.service.topups.create(request)
    assert await shop.rows("select state, page_url from payment_order") == [("pending", None)]
    shop.stripe.down = False
    first = await shop.service.topups.create(request)
    assert await shop.service.topups.create(replace(request, payer_ip="198.51.100.1")) == first
    assert len(shop.stripe.opened) == 1


async def test_one_key_at_once_is_one_order(shop: Shop) -> None:
    request = shop.request()
    orders = await asyncio.gather(*(shop.service.topups.create(request) for _ in range(30)))
    assert {order.order_id for order in orders} == {request.order_id}
    assert await shop.rows("select count(*) from payment_order") == [(1,)]
    assert {page.order_id for page in shop.stripe.opened} == {request.order_id}


async def test_a_key_used_with_another_body_is_refused(shop: Shop) -> None:
    await shop.order(idempotency_key="k")
    for changes in ({"amount": "250001"}, {"email": "a@example.com"}, {"provider": "vnpay"}):
        await refuses(shop, "idempotency-key-reused", idempotency_key="k", **changes)
    # Another tenant's key is another key.
    assert (await shop.order(idempotency_key="k", tenant_id="other")).state == "pending"


async def test_a_page_that_the_provider_refuses_ends_the_order_at_balance_too(shop: Shop) -> None:
    request = shop.request()
    shop.stripe.refuses = True
    with pytest.raises(ProviderRefusal):
        await shop.service.topups.create(request)
    assert await shop.told() == [f"failed/{request.order_id}"]
    shop.stripe.refuses = False
    with pytest.raises(Refusal, match="order-ended"):
        await shop.service.topups.create(request)


async def test_an_order_that_was_not_opened_in_time_opens_no_page(shop: Shop) -> None:
    request = shop.request()
    shop.stripe.down = True
    with pytest.raises(TransientFault):
        await shop.service.topups.create(request)
    shop.stripe.down = False
    shop.clock.set(START_US + 3600 * SECOND_US)
    with pytest.raises(Refusal, match="order-expired"):
        await shop.service.topups.create(request)
    assert shop.stripe.opened == []


async def test_what_can_not_be_taken_is_refused_before_anything_is_kept(shop: Shop) -> None:
    await refuses(shop, "invalid-amount", amount="-5")
    await refuses(shop, "invalid-amount", amount="0")
    await refuses(shop, "invalid-amount", amount="many")
    await refuses(shop, "amount-not-payable", amount="250000.5")
    await refuses(shop, "amount-outside-limits", amount="100")
    await refuses(shop, "amount-outside-limits", amount="4000", provider="vnpay")
    await refuses(shop, "currency-not-supported", currency="USD", provider="vnpay")
    await refuses(shop, "currency-not-supported", currency="XYZ")
    await refuses(shop, "unknown-region", region="de")
    await refuses(shop, "quote-needed", currency="USD", amount="50")
    await refuses(shop, "quote-needed", currency="USD", amount="50", quote_id="nonsense")
    assert await shop.rows("select count(*) from payment_order") == [(0,)]
    assert shop.balance.registered == {}


async def test_a_provider_without_keys_is_not_offered(shop: Shop) -> None:
    del shop.service.topups._providers["vnpay"]  # type: ignore[attr-defined]  # the shop's own dictionary
    await refuses(shop, "provider-not-configured", provider="vnpay")


async def test_a_quote_holds_for_its_time_and_its_money_only(shop: Shop) -> None:
    with pytest.raises(Refusal, match="no-exchange-rate"):
        await shop.service.rates.quote("vn", Money(50_000_000, "USD"))
    await shop.service.rates.publish(USD_VND, "treasury")
    quote = await shop.service.rates.quote("vn", Money(50_000_000, "USD"))
    assert quote.credit_micros == 1_270_025_000_000
    bought = await shop.order("50", currency="USD", quote_id=quote.quote_id)
    # A newer rate changes nothing of what was agreed.
    await shop.service.rates.publish(replace(USD_VND, rate_e12=parse_rate("1")), "treasury")
    await refuses(shop, "quote-differs", amount="51", currency="USD", quote_id=quote.quote_id)
    shop.clock.set(START_US + 900 * SECOND_US)
    await refuses(shop, "quote-expired", amount="50", currency="USD", quote_id=quote.quote_id)
    await shop.receive("evt_1", paid(bought), order=bought)
    [event] = await shop.events()
    assert (event["data"]["amount_micros"], event["data"]["paid_micros"]) == (1_270_025_000_000, 50_000_000)
    assert (event["data"]["currency"], event["data"]["paid_currency"]) == ("VND", "USD")
    order = await shop.service.topups.load(bought.order_id)
    assert (format_rate(order.rate_e12), order.rate_date) == ("25400.5", TODAY)


async def test_rates_are_dated_and_grow_old(shop: Shop) -> None:
    rates = shop.service.rates
    await rates.publish(replace(USD_VND, valid_on=date(2027, 1, 16), rate_e12=parse_rate("9")), "treasury")
    await rates.publish(USD_VND, "treasury")
    await rates.publish(USD_VND, "treasury")
    assert await shop.rows("select count(*) from exchange_rate") == [(2,)]
    assert (await rates.quote("vn", Money(1_000_000, "USD"))).rate == USD_VND
    shop.clock.set(START_US + DAY_US)
    assert (await rates.quote("vn", Money(1_000_000, "USD"))).credit_micros == 9_000_000
    shop.clock.set(START_US + 9 * DAY_US)
    with pytest.raises(Refusal, match="exchange-rate-too-old"):
        await rates.quote("vn", Money(1_000_000, "USD"))
    with pytest.raises(Refusal, match="quote-not-needed"):
        await rates.quote("vn", vnd(1))


@pytest.mark.parametrize("text", ["0", "-1", "1e3", "", "1.0000000000001", "9300000", "٣", "nan"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(Refusal, match="invalid-rate"):
        parse_rate(text)


def test_rates_are_exact_and_conversion_rounds_down() -> None:
    assert parse_rate("0.000000000001") == 1
    assert format_rate(parse_rate("0.0000393701")) == "0.0000393701"
    assert convert(Money(3, "USD"), parse_rate("0.5")) == 1
    with pytest.raises(Refusal):
        convert(Money(1, "USD"), parse_rate("0.5"))


async def test_balance_is_told_of_an_attempt_once(shop: Shop) -> None:
    order, other = await shop.order(), await shop.order()
    await shop.receive("evt_1", Attempted(order.order_id, "processing"), order=order)
    await shop.receive("evt_2", paid(other), order=other)
    shop.balance.down = True
    with pytest.raises(TransientFault):
        await shop.service.upkeep.register_attempts()
    shop.balance.down = False
    assert await shop.service.upkeep.register_attempts() == 1
    assert await shop.service.upkeep.register_attempts() == 0
    assert shop.balance.registered[order.order_id]["attempted"] is True
    assert shop.balance.registered[other.order_id]["attempted"] is False


async def test_limits_are_settings(shop: Shop) -> None:
    url = shop.service.rates.settings.database_url
    async with open_shop(url, limits={"stripe": {"VND": {"min": "1", "max": "99"}}}) as other:
        assert (await other.order("50")).credit_micros == 50_000_000
        await refuses(other, "amount-outside-limits", amount="100")


@pytest.mark.parametrize("status", [500, 503])
async def test_an_order_that_balance_fails_over_holds_up_no_other_attempt(shop: Shop, status: int) -> None:
    shop.balance.fails_with = status
    first, second = await shop.order(), await shop.order()
    for number, order in enumerate((first, second)):
        await shop.receive(f"evt_{number}", Attempted(order.order_id, "processing"), order=order)
    shop.balance.fails_over = {first.order_id}
    assert await shop.service.upkeep.register_attempts() == 1
    assert shop.balance.registered[second.order_id]["attempted"] is True
    shop.balance.fails_over = set()
    shop.clock.set(START_US + HOUR_US)
    assert await shop.service.upkeep.register_attempts() == 1


@pytest.mark.parametrize("status", [500, 503])
async def test_an_order_that_balance_fails_over_holds_up_no_registration_after_a_restore(
    shop: Shop, status: int
) -> None:
    """503: its account's row is locked by somebody who does not let go."""
    shop.balance.fails_with = status
    orders = sorted([(await shop.order()).order_id, (await shop.order()).order_id])
    shop.balance.registered.clear()
    registrations = Registrations(shop.service.pool, shop.clock, shop.service.reconciler.balance, make_shared())
    async with transaction(shop.service.pool) as connection:
        assert await mark_open_orders(connection) == 2
    shop.balance.fails_over = {orders[0]}
    while await registrations.register_due():
        pass
    assert list(shop.balance.registered) == orders[1:]
    shop.balance.fails_over = set()
    shop.clock.set(START_US + HOUR_US)
    while await registrations.register_due():
        pass
    assert sorted(shop.balance.registered) == orders


async def test_no_more_orders_wait_than_can_be_asked_about(shop: Shop) -> None:
    """21 orders that nobody tried to pay held up a deletion for ever: the last ones were never asked about."""
    made = await asyncio.gather(*(shop.order() for _ in range(UNTRIED_MAX + 10)), return_exceptions=True)
    orders = [order for order in made if isinstance(order, StoredOrder)]
    refused = [error for error in made if isinstance(error, Refusal)]
    assert (len(orders), {(error.code, error.status) for error in refused}) == (
        UNTRIED_MAX,
        {("too-many-open-orders", 429)},
    )
    assert (await shop.order(tenant_id="other")).state == "pending"
    await shop.receive("evt_1", paid(orders[0]), order=orders[0])
    await shop.order()
    await refuses(shop, "too-many-open-orders")


async def test_balance_is_told_of_a_payment_that_it_does_not_hear_of(shop: Shop) -> None:
    """What we publish is late: a deletion must not be consented to meanwhile."""
    order, credited = await shop.order(), await shop.order()
    for number, each in enumerate((order, credited)):
        await shop.receive(f"evt_{number}", paid(each, f"stripe:pi_{number}"), order=each)
    assert await shop.service.upkeep.register_attempts() == 0, "it has a second to tell of its credit"
    payment_id = (await shop.service.topups.load(credited.order_id)).payment_id
    assert payment_id is not None
    await shop.acknowledge(payment_id)
    shop.clock.set(shop.clock.now_us() + SECOND_US)
    assert await shop.service.upkeep.register_attempts() == 1
    assert shop.balance.registered[order.order_id]["attempted"] is True
    assert shop.balance.registered[credited.order_id]["attempted"] is False
    assert await shop.service.upkeep.register_attempts() == 0
