"""`tollkeeper voucher` and `tollkeeper account grant`: what they ask of balance and print."""

from tests.cli.conftest import Fakes, Tollkeeper

PATH = "/v1/accounts/vn/acme"
ENDS = "2026-12-31T00:00:00Z"
GRANT = {
    "grant_id": "g-1",
    "kind": "promotion",
    "amount_micros": 25_500_000,
    "priority": 5,
    "expires_at": ENDS,
    "granted_at": "2026-11-24T00:00:00Z",
}
WHY = ("--reason", "fair", "--actor", "kim", "--idempotency-key", "k-1")


def test_a_grant_is_given_under_its_key_and_what_is_left_listed(fakes: Fakes, tollkeeper: Tollkeeper) -> None:
    fakes.balance.on("POST", f"{PATH}/grants", GRANT, 201)
    call = ("account", "grant", "vn/acme", "25.5", "--expires-at", ENDS, "--priority", "5", *WHY)
    assert tollkeeper(*call, "--json").document == GRANT
    asked = fakes.balance.asked[-1]
    assert asked.headers["idempotency-key"] == "k-1"
    assert asked.body == {
        "amount_micros": 25_500_000,
        "expires_at": ENDS,
        "priority": 5,
        "reason": "fair",
        "actor": "kim",
    }
    assert "25.50" in tollkeeper(*call).out
    assert tollkeeper("account", "grant", "vn/acme", "0", "--expires-at", ENDS, *WHY).code == 1
    fakes.balance.on("GET", f"{PATH}/grants", {"grants": [{**GRANT, "state": "ended", "remaining_micros": 1_250_000}]})
    listed = tollkeeper("account", "grants", "vn/acme")
    assert (listed.code, "1.25" in listed.out, "ended" in listed.out) == (0, True, True)


def test_a_voucher_is_created_and_its_code_told_once(fakes: Fakes, tollkeeper: Tollkeeper) -> None:
    issued = {"voucher_id": "v-1", "code": "SPRING2027", "region": "vn", "redeem_until": ENDS}
    fakes.balance.on("POST", "/v1/vouchers", issued, 201)
    call = ("voucher", "create", "vn", "50", "--valid-days", "30", "--redeem-until", ENDS, *WHY)
    ended = tollkeeper(*call, "--redemptions-max", "3", "--code", "spring-2027")
    assert (ended.code, ended.out.strip()) == (0, f"code SPRING2027: 50.00 in vn, until {ENDS}")
    terms = {"region": "vn", "amount_micros": 50_000_000, "valid_days": 30, "redeem_until": ENDS, "priority": 100}
    assert fakes.balance.asked[-1].headers["idempotency-key"] == "k-1"
    assert fakes.balance.asked[-1].body == {
        **terms,
        "redemptions_max": 3,
        "reason": "fair",
        "actor": "kim",
        "code": "spring-2027",
    }
    fakes.balance.on("POST", "/v1/vouchers", {**issued, "code": None}, 201)
    again = tollkeeper(*call)
    assert "code" not in (fakes.balance.asked[-1].body or {})
    assert "v-1 was issued before" in again.out
    assert tollkeeper(*call, "--json").document == {**issued, "code": None}


def test_a_code_is_redeemed_or_refused(fakes: Fakes, tollkeeper: Tollkeeper) -> None:
    path = f"{PATH}/voucher-redemptions"
    fakes.balance.on("POST", path, {**GRANT, "kind": "voucher"}, 201)
    ended = tollkeeper("voucher", "redeem", "vn/acme", "spring-2027")
    assert (ended.code, "voucher" in ended.out) == (0, True)
    assert fakes.balance.asked[-1].body == {"code": "spring-2027"}
    problem = {"type": "urn:tollkeeper:problem:voucher-invalid", "detail": "this code is not valid here"}
    fakes.balance.on("POST", path, problem, 422)
    refused = tollkeeper("voucher", "redeem", "vn/acme", "wrong-code")
    assert (refused.code, "voucher-invalid" in refused.err, "wrong-code" in refused.err) == (1, True, False)
