"""`tollkeeper reconcile` and `tollkeeper rates`."""

from tests.cli.conftest import Fakes, Tollkeeper


def test_reconcile_asks_and_its_exit_code_tells_of_differences(tollkeeper: Tollkeeper, fakes: Fakes) -> None:
    fakes.payment.on("POST", "/v1/reconciliations", {"asked": 3, "differences": []})
    ended = tollkeeper("reconcile")
    assert (ended.code, "3 orders asked about, 0 differences" in ended.out) == (0, True)
    assert fakes.payment.asked[-1].body == {"days": 7}
    difference = {"order_id": "o-1", "kind": "healed", "detail": "the provider knew: Paid"}
    fakes.payment.on("POST", "/v1/reconciliations", {"asked": 1, "differences": [difference]})
    ended = tollkeeper("reconcile", "--account", "vn/acme", "--days", "1")
    assert (ended.code, "healed" in ended.out) == (1, True)
    assert fakes.payment.asked[-1].body == {"days": 1, "region": "vn", "tenant_id": "acme"}
    ended = tollkeeper("reconcile", "--json")
    assert (ended.code, ended.document["differences"]) == (1, [difference])


def test_rates_are_published_and_listed(tollkeeper: Tollkeeper, fakes: Fakes) -> None:
    rate = {"from": "USD", "to": "VND", "rate": "25400.5", "date": "2026-11-24", "actor": "kim"}
    fakes.payment.on("PUT", "/v1/exchange-rates", rate)
    ended = tollkeeper("rates", "publish", "USD/VND", "25400.5", "--date", "2026-11-24", "--actor", "kim")
    assert (ended.code, ended.out.strip()) == (0, "1 USD is 25400.5 VND from 2026-11-24 on")
    assert fakes.payment.asked[-1].body == rate
    listed = {**rate, "published_at": "2026-11-24T00:00:00Z"}
    fakes.payment.on("GET", "/v1/exchange-rates", {"exchange_rates": [listed]})
    assert tollkeeper("rates", "list", "--json").document == {"exchange_rates": [listed]}
    assert "25400.5" in tollkeeper("rates", "list").out


REQUEST = {
    "request_id": "5f" * 16,
    "payment_id": "stripe:pi_1",
    "refund_id": None,
    "amount_micros": 100_000,
    "reason": "asked",
    "actor": "kim",
    "requested_at": "2026-11-24T00:00:00Z",
    "sent_at": None,
    "answered_at": None,
    "failure": None,
}


def test_refunds_without_an_answer_are_listed_and_taken_back(tollkeeper: Tollkeeper, fakes: Fakes) -> None:
    pages = [{"refunds": [REQUEST], "next": "a/b"}, {"refunds": [REQUEST], "next": None}]
    fakes.payment.on("GET", "/v1/refunds", lambda _asked: (200, pages.pop(0)))
    ended = tollkeeper("refunds", "list", "--json")
    assert len(ended.document["refunds"]) == 2
    assert "after=a%2Fb" in fakes.payment.asked[-1].query
    fakes.payment.on("GET", "/v1/refunds", {"refunds": [REQUEST], "next": None})
    ended = tollkeeper("refunds", "list")
    assert ("5f" * 16 in ended.out, "1 refunds without an answer" in ended.out) == (True, True)
    fakes.payment.on("POST", f"/v1/refunds/{'5f' * 16}/withdraw", {**REQUEST, "failure": "withdrawn"})
    ended = tollkeeper("refunds", "withdraw", "5f" * 16, "--actor", "kim", "--reason", "typed units")
    assert (ended.code, "withdrew the refund of 100000 micros of stripe:pi_1" in ended.out) == (0, True)
    assert fakes.payment.asked[-1].body == {"actor": "kim", "reason": "typed units", "checked": False}


def test_callbacks_that_could_not_be_applied_are_listed_and_decided(tollkeeper: Tollkeeper, fakes: Fakes) -> None:
    event = {
        "provider": "stripe",
        "event_id": "evt_1",
        "type": "refund.created",
        "problem": "amount is no amount",
        "body_bytes": 500,
        "first_received_at": "2026-11-24T00:00:00Z",
    }
    fakes.payment.on("GET", "/v1/inbox", {"events": [event], "next": None})
    ended = tollkeeper("inbox", "list")
    assert (ended.code, ended.out.startswith("stripe/evt_1 refund.created: amount is no amount")) == (0, True)
    for what in ("apply", "dismiss"):
        fakes.payment.on("POST", f"/v1/inbox/stripe/evt_1/{what}", {"status": "done"})
        assert tollkeeper("inbox", what, "stripe/evt_1", "--actor", "kim", "--reason", "seen").code == 0
    assert tollkeeper("inbox", "apply", "evt_1", "--actor", "kim", "--reason", "seen").code == 1
