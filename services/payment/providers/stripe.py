"""Stripe behind the port: Checkout pages, saved cards, refunds, and what its webhooks say.

No error tells a secret, a signature or a personal detail: of Stripe's own errors only code and parameter are told.
"""

import hmac
import json
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

import orjson
import stripe

from services.payment.providers import (
    AskedOrder,
    BadSignature,
    NeedsCustomer,
    Notice,
    Page,
    PageOrder,
    ProviderName,
    ProviderRefusal,
    RefundOrder,
    SavedCharge,
    UnreadableAnswer,
    unreadable_id,
)
from services.payment.providers.stripe_errors import CardDeclined, call
from services.payment.rules.currencies import to_stripe_units
from services.payment.rules.facts import Declined, Fact, Paid
from services.payment.rules.stripe_objects import (
    EVENT_TYPES,
    KIND_MARK,
    ORDER_MARK,
    REGION_MARK,
    REQUEST_MARK,
    SAVED_KIND,
    TENANT_MARK,
    NotStripeObjectError,
    created_us,
    intent_fact,
    look_up_facts,
    marks_of,
    payment_of,
    read_event_facts,
    read_id,
    read_type,
    refund_fact,
    reversal_facts,
)
from services.payment.settings import PaymentSettings
from shared.clock import HOUR_US, MINUTE_US, SECOND_US
from shared.errors import Refusal, TransientFault
from shared.http_client import bound_client

RETURN_PATH: Final = "/return/stripe"
ORDER_PATH: Final = "/orders"
# Stripe's own tolerance; here in both directions, for its library takes a signature from the future.
TOLERANCE_US: Final = 300 * SECOND_US
# Stripe keeps idempotency keys for a day at least; an hour less, for clocks and what is under way.
_KEY_KEPT_US: Final = 23 * HOUR_US
# Stripe puts the session's id in its place.
_SESSION_ID: Final = "{CHECKOUT_SESSION_ID}"
_NETWORK_RETRIES: Final = 2
_LISTED: Final = 100
# Stripe closes no session sooner than half an hour after it was opened; a few minutes for opening it come on top.
_SESSION_LEAST_US: Final = 35 * MINUTE_US
_Read = TypeVar("_Read")
# Of Checkout's languages those that we offer; it takes the browser's where none is named.
_LOCALES: Final = {"en", "vi", "ja", "ko", "th", "zh", "de", "fr", "es"}


def verify_webhook(body: bytes, signature: str, secrets: Sequence[str], now_us: int) -> None:
    """Raise BadSignature unless one of `secrets` signed the raw body within the last (or next) five minutes.

    Source: Stripe's guide to verifying signatures by hand; any matching v1 passes, so that secrets can be changed.
    """
    stamp, given = "", []
    for part in signature[:4096].split(","):
        name, _, value = part.strip().partition("=")
        if name == "t":
            stamp = value
        elif name == "v1":
            given.append(value.encode())
    if not stamp.isascii() or not stamp.isdecimal() or len(stamp) > 12 or not given:
        raise BadSignature("the header Stripe-Signature is missing or has no t and v1")
    signed = stamp.encode() + b"." + body
    # An empty secret in the settings is no secret: anybody could sign with it.
    expected = [hmac.digest(secret.encode(), signed, "sha256").hex().encode() for secret in secrets if secret]
    # Every comparison is made, so that the time tells nothing of which secret signed.
    if not sum(hmac.compare_digest(one, other) for one in expected for other in given):
        raise BadSignature("no signature of the header Stripe-Signature matches the body")
    if abs(now_us - int(stamp) * SECOND_US) > TOLERANCE_US:
        raise BadSignature("the signature is too old, or from the future: check the clock")


def read_event(body: bytes) -> Notice:
    """A verified event as a notice; one of a type that we have no use for has no facts.

    Marks are read first, so that an event of somebody else is known as such whatever else it holds. What can't be read
    is the notice's `problem`.
    """
    notice = Notice(unreadable_id(body), "unknown", None, None, ())
    try:
        event = orjson.loads(body)
        found, event_type = event["data"]["object"], read_type(event)
        notice = replace(notice, event_id=read_id(event), type=event_type)
        if event_type not in EVENT_TYPES:
            return notice
        region, order_id = marks_of(found)
        notice = replace(notice, region=region, order_id=order_id, marks_read=True)
        notice = replace(notice, payment_id=payment_of(event_type, found))
        return replace(notice, facts=read_event_facts(event_type, found, created_us(event)))
    except (NotStripeObjectError, Refusal) as error:
        return replace(notice, problem=str(error)[:300])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        return replace(notice, problem=f"not an event of Stripe: {type(error).__name__}")


def open_stripe(settings: PaymentSettings) -> "StripeProvider | None":
    """The provider, or None where settings hold no key for it. Call it within the event loop that will use it."""
    if settings.stripe_secret_key is None:
        return None
    # The library logs what Stripe says of a wrong parameter, and that repeats what was sent: an address, say.
    logging.getLogger("stripe").setLevel(logging.CRITICAL)
    http = stripe.HTTPXClient(timeout=settings.stripe_timeout_seconds)
    bound_client(http._client_async, settings.stripe_timeout_seconds)  # noqa: SLF001 - the library offers no other way
    client = stripe.StripeClient(
        settings.stripe_secret_key.get_secret_value(),
        base_addresses={"api": settings.stripe_api_base},
        http_client=http,
        # Without it the client makes one attempt; its global setting is ignored.
        max_network_retries=_NETWORK_RETRIES,
    )
    return StripeProvider(client, http)


class StripeProvider:
    """The port on Stripe. `http` is closed with it."""

    name: ProviderName = "stripe"

    def __init__(self, client: stripe.StripeClient, http: stripe.HTTPXClient) -> None:
        self._api = client.v1
        self._http = http

    async def open_page(self, order: PageOrder) -> Page:
        """A Checkout session; the order's id is its idempotency key, so the same order has the same session."""
        marks = _marks(order.region, order.tenant_id, order.order_id)
        intent: stripe.params.checkout.SessionCreateParamsPaymentIntentData = {"metadata": marks}
        params: stripe.params.checkout.SessionCreateParams = {
            "mode": "payment",
            "client_reference_id": order.order_id,
            "line_items": [
                {
                    "quantity": 1,
                    "price_data": {
                        "currency": order.money.currency.lower(),
                        "unit_amount": to_stripe_units(order.money),
                        "product_data": {"name": f"Credits for {order.tenant_id}"},
                    },
                }
            ],
            "metadata": marks,
            "payment_intent_data": intent,
            "success_url": f"{order.return_url}{RETURN_PATH}?order={order.page_token}&session_id={_SESSION_ID}",
            "cancel_url": f"{order.return_url}{ORDER_PATH}/{order.page_token}",
            "expires_at": max(order.expires_at_us, order.created_at_us + _SESSION_LEAST_US) // SECOND_US,
            # What is paid is what was asked, in the currency that was asked: Stripe converts nothing.
            "adaptive_pricing": {"enabled": False},
        }
        language = (order.locale or "")[:2]
        if language in _LOCALES:
            params["locale"] = language
        if order.email:
            params["customer_email"] = order.email
        if order.save_card:
            params["customer_creation"] = "always"
            intent["setup_future_usage"] = "off_session"
        options: stripe.RequestOptions = {"idempotency_key": f"page-{order.order_id}"}
        session = await call(self._api.checkout.sessions.create_async(params=params, options=options))
        if session.url is None:
            raise TransientFault("Stripe opened a session without a page")
        return Page(session.url, session.id)

    async def look_up(self, order: AskedOrder) -> Sequence[Fact]:
        """What session, intent, refunds and disputes of an order say now."""
        reference = order.reference or _intent_of(order.payment_id)
        if not reference:
            return []
        session: dict[str, Any] | None = None
        if reference.startswith("cs_"):
            expand = ["payment_intent", "payment_intent.latest_charge"]
            found = await call(self._api.checkout.sessions.retrieve_async(reference, params={"expand": expand}))
            session = found.to_dict(for_json=True)
            intent = session.get("payment_intent")
        else:
            answer = await call(
                self._api.payment_intents.retrieve_async(reference, params={"expand": ["latest_charge"]})
            )
            intent = answer.to_dict(for_json=True)
        facts: list[Fact] = [*_readable(lambda: look_up_facts(session, intent, order.order_id))]
        if any(isinstance(fact, Paid) for fact in facts) or order.payment_id is not None:
            facts += await self._look_up_reversals((intent or {}).get("id") or _intent_of(order.payment_id))
        return facts

    async def _look_up_reversals(self, intent_id: str) -> list[Fact]:
        refunds = await call(self._api.refunds.list_async(params={"payment_intent": intent_id, "limit": _LISTED}))
        disputes = await call(self._api.disputes.list_async(params={"payment_intent": intent_id, "limit": _LISTED}))
        return [
            *_readable(
                lambda: reversal_facts(
                    [item.to_dict(for_json=True) for item in refunds.data],
                    [item.to_dict(for_json=True) for item in disputes.data],
                )
            )
        ]

    async def refund(self, refund: RefundOrder) -> Fact:
        params: stripe.params.RefundCreateParams = {
            "payment_intent": _intent_of(refund.payment_id),
            "amount": to_stripe_units(refund.money),
            "metadata": _marks(refund.region, "", refund.order_id) | {REQUEST_MARK: refund.request_id},
        }
        options: stripe.RequestOptions = {"idempotency_key": f"refund-{refund.request_id}"}
        answer = await call(self._api.refunds.create_async(params=params, options=options))
        return _readable(lambda: refund_fact(answer.to_dict(for_json=True)))

    async def find_refund(self, refund: RefundOrder) -> Fact | None:
        """The payment's refund with our request's mark."""
        params: stripe.params.RefundListParams = {"payment_intent": _intent_of(refund.payment_id), "limit": _LISTED}
        while True:
            page = await call(self._api.refunds.list_async(params=params))
            for item in page.data:
                found = item.to_dict(for_json=True)
                if (found.get("metadata") or {}).get(REQUEST_MARK) == refund.request_id:
                    return _readable(lambda found=found: refund_fact(found))  # type: ignore[misc]
            if not page.has_more:
                return None
            params["starting_after"] = page.data[-1].id

    async def charge_saved(self, charge: SavedCharge) -> Fact | NeedsCustomer:
        """Charge a saved card off session. A decline is a fact, not an error; a repeat is not a second charge."""
        marks = _marks(charge.region, charge.tenant_id, charge.order_id) | {KIND_MARK: SAVED_KIND}
        params: stripe.params.PaymentIntentCreateParams = {
            "amount": to_stripe_units(charge.money),
            "currency": charge.money.currency.lower(),
            "customer": charge.card.customer,
            "payment_method": charge.card.method,
            "off_session": True,
            "confirm": True,
            "metadata": marks,
        }
        # The library repeats nothing by itself: before each repeat it is decided again whether to charge.
        options: stripe.RequestOptions = {
            "idempotency_key": f"charge-{charge.request_id}",
            "max_network_retries": 0,
        }
        try:
            answer = await call(self._api.payment_intents.create_async(params=params, options=options))
        except CardDeclined as declined:
            if declined.code == "authentication_required":
                return NeedsCustomer(charge.order_id, declined.intent_id, declined.code)
            return Declined(charge.order_id, declined.code, final=True)
        return self._charge_outcome(charge, answer.to_dict(for_json=True))

    def _charge_outcome(self, charge: SavedCharge, intent: dict[str, Any]) -> Fact | NeedsCustomer:
        error = intent.get("last_payment_error") or {}
        wants_customer = intent.get("status") in ("requires_action", "requires_confirmation")
        if wants_customer or (
            intent.get("status") == "requires_payment_method" and error.get("code") == "authentication_required"
        ):
            return NeedsCustomer(charge.order_id, str(intent["id"]), "authentication_required")
        fact = _readable(lambda: intent_fact(intent, charge.order_id, created_us(intent)))
        if fact is None:
            raise TransientFault(f"Stripe answered a charge with the status {intent.get('status')}")
        return fact

    async def find_charge(self, charge: SavedCharge, since_us: int) -> Fact | NeedsCustomer | None:
        """The customer's intent with our order's mark. Lists are current; Stripe's search lags behind."""
        params: stripe.params.PaymentIntentListParams = {
            "customer": charge.card.customer,
            "created": {"gte": (since_us - TOLERANCE_US) // SECOND_US},
            "limit": _LISTED,
        }
        found: list[dict[str, Any]] = []
        while True:
            page = await call(self._api.payment_intents.list_async(params=params))
            intents = [item.to_dict(for_json=True) for item in page.data]
            found += [item for item in intents if marks_of(item)[1] == charge.order_id]
            if not page.has_more:
                break
            params["starting_after"] = page.data[-1].id
        # There is one, by its key; if Stripe has several all the same, the one with the money counts.
        found.sort(key=lambda item: item.get("status") == "succeeded")
        return self._charge_outcome(charge, found[-1]) if found else None

    def remembers(self, sent_at_us: int, now_us: int) -> bool:
        """Stripe may forget an idempotency key after a day."""
        return now_us - sent_at_us < _KEY_KEPT_US

    async def expire(self, order: AskedOrder) -> None:
        """Close a session. One that is complete or expired already stays what it is; the next look-up tells."""
        if order.reference is None or not order.reference.startswith("cs_"):
            return
        try:
            await call(self._api.checkout.sessions.expire_async(order.reference))
        except ProviderRefusal as refusal:
            if refusal.code != "stripe-invalid-request":
                raise

    async def list_events(self, since_us: int) -> AsyncIterator[bytes]:
        """Events of the types that concern us, oldest first; Stripe lists them newest first."""
        params: stripe.params.EventListParams = {
            "created": {"gte": since_us // SECOND_US},
            "types": list(EVENT_TYPES),
            "limit": _LISTED,
        }
        bodies: list[bytes] = []
        page = await call(self._api.events.list_async(params=params))
        while True:
            # Not orjson, which refuses numbers beyond 64 bits: one such event would hide all others.
            bodies += [json.dumps(event.to_dict(for_json=True)).encode() for event in page.data]
            if not page.has_more:
                break
            params["starting_after"] = page.data[-1].id
            page = await call(self._api.events.list_async(params=params))
        for body in reversed(bodies):
            yield body

    async def close(self) -> None:
        await self._http.close_async()  # type: ignore[no-untyped-call]  # the library left it untyped


def _readable(read: Callable[[], _Read]) -> _Read:
    """What Stripe answered, read. Raises UnreadableAnswer, for whoever asked to set its question aside."""
    try:
        return read()
    except (NotStripeObjectError, Refusal) as error:
        raise UnreadableAnswer(f"Stripe answered something unreadable: {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnreadableAnswer(f"Stripe answered no object of its own: {type(error).__name__}") from None


def _marks(region: str, tenant_id: str, order_id: str) -> dict[str, str]:
    marks = {REGION_MARK: region, TENANT_MARK: tenant_id, ORDER_MARK: order_id}
    return {name: value for name, value in marks.items() if value}


def _intent_of(payment_id: str | None) -> str:
    return (payment_id or "").removeprefix("stripe:")
