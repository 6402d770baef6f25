"""The check of requests by Stripe's document finds what is wrong: else every request would pass it."""

import pytest

from tests.payment.stripe_excerpt import ENDPOINTS
from tests.payment.stripe_rules import _RULES, decode_form, find_endpoint, problems_of

SESSIONS = "POST /v1/checkout/sessions"
INTENTS = "POST /v1/payment_intents"
GOOD = (
    "mode=payment&line_items[0][quantity]=1&line_items[0][price_data][currency]=usd"
    "&line_items[0][price_data][unit_amount]=500&line_items[0][price_data][product_data][name]=Credits"
    "&metadata[a]=b&expires_at=1795510800&adaptive_pricing[enabled]=false"
)


@pytest.mark.parametrize(
    ("endpoint", "form", "problem"),
    [
        (SESSIONS, GOOD, None),
        (SESSIONS, GOOD + "&colour=red", "colour is unknown"),
        (SESSIONS, GOOD + "&line_items[0][colour]=red", "line_items[0].colour is unknown"),
        (SESSIONS, GOOD + "&payment_intent_data[metdata][a]=b", "payment_intent_data.metdata is unknown"),
        (SESSIONS, GOOD.replace("mode=payment", "mode=gift"), "mode is none of its values"),
        (SESSIONS, GOOD.replace("=usd", "=USD"), "line_items[0].price_data.currency is no currency in lower case"),
        (SESSIONS, GOOD.replace("=500", "=5.00"), "line_items[0].price_data.unit_amount is no integer"),
        (SESSIONS, GOOD.replace("enabled]=false", "enabled]=no"), "adaptive_pricing.enabled is no boolean"),
        (SESSIONS, GOOD.replace("[name]=Credits", "[name][a]=1"), "line_items[0].price_data.product_data.name"),
        (SESSIONS, GOOD + "&client_reference_id=" + "x" * 201, "client_reference_id is too long"),
        (SESSIONS, GOOD + "&metadata[" + "k" * 41 + "]=v", "is too long"),
        (SESSIONS, GOOD + "&metadata[k]=" + "v" * 501, "metadata.k is too long"),
        (SESSIONS, GOOD + "&line_items[2][quantity]=1", "line_items is no list"),
        (SESSIONS, GOOD + "&payment_method_options[card][x]=1", "is cut from the excerpt"),
        (SESSIONS, GOOD.replace("[product_data][name]=Credits", "[product_data][description]=C"), "name is missing"),
        (INTENTS, "amount=5", "currency is missing"),
        (INTENTS, "amount=5&currency=usd&off_session=true&confirm=true", None),
        ("GET /v1/refunds", "payment_intent=pi_1&limit=many", "limit is no integer"),
        ("GET /v1/events", "created[gte]=1&types[0]=a", None),
        ("GET /v1/events", "created[since]=1", "created.since is unknown"),
    ],
)
def test_a_wrong_request_is_found(endpoint: str, form: str, problem: str | None) -> None:
    found = problems_of(endpoint, form)
    if problem is None:
        assert found == []
    else:
        assert any(problem in one for one in found), found


def test_a_form_is_a_tree() -> None:
    assert decode_form("a[b][c]=1&d[]=2&d[]=3&e=%26") == {"a": {"b": {"c": "1"}}, "d": {"0": "2", "1": "3"}, "e": "&"}
    with pytest.raises(AssertionError, match="twice"):
        decode_form("a=1&a=2")


def test_only_known_endpoints_are_called() -> None:
    assert find_endpoint("POST", "/v1/checkout/sessions/cs_1/expire") == "POST /v1/checkout/sessions/{session}/expire"
    for method, path in (("POST", "/v1/customers"), ("GET", "/v1/checkout/sessions"), ("DELETE", "/v1/refunds")):
        with pytest.raises(AssertionError):
            find_endpoint(method, path)


def test_the_excerpt_is_of_what_is_used() -> None:
    assert sorted(_RULES["endpoints"]) == sorted(ENDPOINTS)
    assert _RULES["version"] >= "2026"
