"""Stripe as the test plays it: answers what is laid ready, and checks every request by Stripe's own document."""

from typing import Any

import httpx
import stripe

from services.payment.providers.stripe import StripeProvider, open_stripe
from services.payment.settings import PaymentSettings
from tests.payment.stripe_rules import decode_form, find_endpoint, problems_of

KEY = "sk_test_51SecretKeyOfTheTest"

Answer = dict[str, Any]


class StripeApi:
    """`lay` puts answers ready for an endpoint; the last one is repeated."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, Any], httpx.Request]] = []
        self._wrong: list[str] = []
        self._ready: dict[str, list[Answer | httpx.Response | Exception]] = {}

    def lay(self, endpoint: str, *answers: Answer | httpx.Response | Exception) -> None:
        self._ready[endpoint] = list(answers)

    def sent(self, endpoint: str) -> list[dict[str, Any]]:
        return [form for name, form, _ in self.requests if name == endpoint]

    def keys(self) -> list[str]:
        return [request.headers["idempotency-key"] for _, _, request in self.requests if request.method == "POST"]

    def __call__(self, request: httpx.Request) -> httpx.Response:
        """Answer; what is wrong is kept for `check`: the library takes whatever is raised for a broken network."""
        try:
            answer = self._answer(request)
        except (AssertionError, KeyError) as wrong:
            self._wrong.append(repr(wrong))
            return httpx.Response(418, headers={"stripe-should-retry": "false"})
        if isinstance(answer, Exception):
            raise answer
        # A response can be read once; each request gets one of its own.
        if isinstance(answer, httpx.Response):
            return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)
        return httpx.Response(200, json=answer)

    def _answer(self, request: httpx.Request) -> Answer | httpx.Response | Exception:
        endpoint = find_endpoint(request.method, request.url.path)
        form = request.content.decode() if request.method == "POST" else request.url.query.decode()
        problems = problems_of(endpoint, form)
        assert problems == [], problems
        assert request.url.host == "stripe.test", request.url.host
        assert request.headers["authorization"] == f"Bearer {KEY}"
        self.requests.append((endpoint, decode_form(form), request))
        answers = self._ready[endpoint]
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def check(self) -> None:
        """Every request was one that Stripe's document allows."""
        assert self._wrong == []


def error(status: int, kind: str, code: str | None = None, **more: object) -> httpx.Response:
    """An error as Stripe answers it; not to be tried again, so that no test waits."""
    body = {"error": {"type": kind, "code": code, "message": "secret-of@customer.test is wrong", **more}}
    return httpx.Response(status, json=body, headers={"stripe-should-retry": "false"})


def open_provider(api: StripeApi) -> StripeProvider:
    """The provider as settings open it, with its connections led to `api`."""
    settings = PaymentSettings.model_validate(
        {"database_url": "postgresql://x", "stripe_secret_key": KEY, "stripe_api_base": "https://stripe.test"}
    )
    provider = open_stripe(settings)
    assert provider is not None
    http = provider._http
    assert isinstance(http, stripe.HTTPXClient)
    http._client_async = httpx.AsyncClient(transport=httpx.MockTransport(api))
    return provider


def session(**changed: object) -> Answer:
    return {
        "id": "cs_test_1",
        "object": "checkout.session",
        "url": "https://checkout.stripe.test/c/pay/cs_test_1",
        "status": "open",
        "payment_status": "unpaid",
        "amount_total": 5000,
        "currency": "usd",
        "created": 1_795_507_200,
        "payment_intent": None,
        "customer_details": None,
        "metadata": {},
        **changed,
    }


def intent(**changed: object) -> Answer:
    return {
        "id": "pi_1",
        "object": "payment_intent",
        "status": "succeeded",
        "amount": 5000,
        "amount_received": 5000,
        "currency": "usd",
        "created": 1_795_507_200,
        "metadata": {},
        "customer": None,
        "payment_method": None,
        "latest_charge": None,
        "setup_future_usage": None,
        **changed,
    }


def refund(**changed: object) -> Answer:
    return {
        "id": "re_1",
        "object": "refund",
        "amount": 2000,
        "currency": "usd",
        "payment_intent": "pi_1",
        "status": "succeeded",
        "metadata": {},
        **changed,
    }


def dispute(*moves: int, **changed: object) -> Answer:
    """`moves` are the amounts of its balance transactions, in the currency that Stripe settles in."""
    return {
        "id": "dp_1",
        "object": "dispute",
        "amount": 5000,
        "currency": "usd",
        "payment_intent": "pi_1",
        "status": "needs_response",
        "balance_transactions": [{"amount": units, "currency": "eur"} for units in moves],
        **changed,
    }


def listed(*items: Answer, has_more: bool = False) -> Answer:
    return {"object": "list", "url": "/v1/list", "has_more": has_more, "data": list(items)}
