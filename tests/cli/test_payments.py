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
