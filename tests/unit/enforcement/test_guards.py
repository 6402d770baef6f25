"""Each guard of a deletion by itself: all the others agree to delete, and without it nothing would have stopped it."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from services.enforcement.rules import guards
from services.enforcement.rules.account import Account, AccountKey
from services.enforcement.rules.deletion import Case
from services.enforcement.rules.guards import (
    COMMAND_GUARDS,
    EVIDENCE_US_MAX,
    GUARDS,
    UNATTEMPTED_DELAY_US,
    BalanceSeen,
    Evidence,
    MeteringSeen,
    OpenPayment,
    Order,
    PaymentsSeen,
    bounds_of,
    find_command_objection,
    find_objections,
    follow_deletable,
)
from shared.clock import HOUR_US, SECOND_US

ACME = AccountKey("vn", "acme")
SINCE_US = 1_000 * HOUR_US
DUE_US = SINCE_US + 24 * HOUR_US
NOW_US = DUE_US + HOUR_US
BOUNDS = bounds_of(60, 300)
LAG_US, SKEW_US = BOUNDS.lag_us_max, BOUNDS.skew_us_max

CASE = Case(ACME, SINCE_US, SINCE_US, DUE_US)
DEBTOR = Account(ACME, 7, "negative", -5, SINCE_US)
BALANCE = BalanceSeen(NOW_US, 3, None)
METERING = MeteringSeen(NOW_US, 3, NOW_US - LAG_US, None)
PAYMENTS = PaymentsSeen(NOW_US, ())
AGREED = Evidence(NOW_US, NOW_US, DEBTOR, 7, -1, BALANCE, METERING, PAYMENTS, 0, (), (), ())


def account(**changes: object) -> Callable[[Evidence], Evidence]:
    return lambda evidence: replace(evidence, account=replace(DEBTOR, **changes))  # type: ignore[arg-type]


def balance(**changes: object) -> Callable[[Evidence], Evidence]:
    return lambda evidence: replace(evidence, balance=replace(BALANCE, **changes))  # type: ignore[arg-type]


def metering(**changes: object) -> Callable[[Evidence], Evidence]:
    return lambda evidence: replace(evidence, metering=replace(METERING, **changes))  # type: ignore[arg-type]


def payments(**changes: object) -> Callable[[Evidence], Evidence]:
    return lambda evidence: replace(evidence, payments=replace(PAYMENTS, **changes))  # type: ignore[arg-type]


def evidence(**changes: object) -> Callable[[Evidence], Evidence]:
    return lambda seen: replace(seen, **changes)  # type: ignore[arg-type]


DOUBTS: list[tuple[str, Callable[[Evidence], Evidence]]] = [
    ("halted", evidence(halts=("metering was restored",))),
    ("unseen", evidence(unseen_records=1)),
    ("unseen", evidence(unseen_records=None)),
    ("balance-clock", evidence(balance=None)),
    ("balance-clock", balance(now_us=NOW_US + SKEW_US + 1)),
    ("balance-clock", balance(now_us=NOW_US - SKEW_US - 1)),
    ("posting-stopped", balance(stopped="batch 3 came again with other contents")),
    ("posting-lag", balance(seq=2)),
    ("metering-clock", evidence(metering=None)),
    ("metering-clock", metering(now_us=NOW_US - SKEW_US - 1)),
    ("metering-halted", metering(halted="the clock jumped")),
    ("metering-lag", metering(through_us=NOW_US - LAG_US - 1)),
    ("held-back", evidence(held_back=None)),
    ("held-back", evidence(held_back=("parked platform/vn/evt-9 (too_old) of ctr-1",))),
    ("charged", evidence(unknown=None)),
    ("charged", evidence(unknown=("ctr-9",))),
    ("payment-clock", evidence(payments=None)),
    ("payment-clock", payments(now_us=NOW_US - SKEW_US - 1)),
    ("open-payments", payments(open=(OpenPayment("payment stripe:pi_1", attempted=True, asked=True),))),
    ("open-payments", payments(open=(OpenPayment("order ord-1", attempted=False, asked=False),))),
    ("untried-orders", payments(open=(OpenPayment("order ord-1", attempted=False, asked=True),))),
    ("account", evidence(account=None)),
    ("version", evidence(known_version=8)),
    ("state", account(state="ok")),
    ("state", account(state="exhausted")),
    ("balance", account(balance_micros=0)),
    ("balance", account(balance_micros=1)),
    ("since", account(negative_since_us=SINCE_US + 1)),
    ("since", account(negative_since_us=None)),
    ("own-use", evidence(without_reversals_micros=0)),
    ("own-use", evidence(without_reversals_micros=None)),
]
CASES: list[tuple[str, Case]] = [
    ("due", replace(CASE, due_at_us=NOW_US + 1)),
    ("due", replace(CASE, state="cancelled")),
]


def objections(case: Case, seen: Evidence) -> list[str]:
    return [objection.guard for objection in find_objections(case, seen, BOUNDS)]


def switch_off(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A planted bug: the guard never objects."""
    monkeypatch.setattr(guards, "GUARDS", tuple(guard for guard in GUARDS if guard.name != name))
    left = tuple(guard for guard in COMMAND_GUARDS if guard.name != name)
    monkeypatch.setattr(guards, "COMMAND_GUARDS", left)


def test_evidence_that_agrees_up_to_every_bound_deletes() -> None:
    assert objections(CASE, AGREED) == []
    late = replace(AGREED, asked_at_us=DUE_US + UNATTEMPTED_DELAY_US)
    for seen in (BALANCE, METERING, PAYMENTS):
        assert abs(seen.now_us - late.asked_at_us) > SKEW_US
    late = replace(
        late,
        balance=replace(BALANCE, now_us=late.asked_at_us - SKEW_US),
        metering=replace(METERING, now_us=late.asked_at_us + SKEW_US, through_us=late.asked_at_us - LAG_US),
        payments=PaymentsSeen(late.asked_at_us, (OpenPayment("order ord-1", attempted=False, asked=True),)),
    )
    spent = replace(CASE, deletable_at_us=DUE_US)
    assert objections(spent, late) == [], "an order that nobody tried to pay delays two hours at most"
    for since_us in (None, DUE_US + 1):
        assert objections(replace(CASE, deletable_at_us=since_us), late) == ["untried-orders"], "from when it could be"
    silent = replace(late, payments=PaymentsSeen(late.asked_at_us, (OpenPayment("order ord-1", False, asked=False),)))
    assert objections(spent, silent) == ["open-payments"], "unless its provider does not say that it is not paid"


def test_only_untried_orders_leave_a_case_deletable() -> None:
    untried = payments(open=(OpenPayment("order ord-1", attempted=False, asked=True),))(AGREED)
    behind = replace(untried, balance=replace(BALANCE, now_us=NOW_US - 7))
    for seen, at_us in ((AGREED, NOW_US), (untried, NOW_US), (behind, NOW_US - 7)):
        case = follow_deletable(CASE, seen, BOUNDS)
        assert case.deletable_at_us == at_us
        assert follow_deletable(case, replace(seen, asked_at_us=NOW_US - 1), BOUNDS) == case, "the first instant stays"
        for name, spoil in DOUBTS:
            if name != "untried-orders":
                assert follow_deletable(case, spoil(AGREED), BOUNDS).deletable_at_us is None, name


def test_every_guard_has_its_doubt() -> None:
    assert {name for name, _ in DOUBTS} | {name for name, _ in CASES} == {guard.name for guard in GUARDS}
    assert {name for name, _ in REFUSALS} == {guard.name for guard in COMMAND_GUARDS}


@pytest.mark.parametrize(("name", "spoil"), DOUBTS)
def test_each_guard_alone_keeps_everything(
    name: str, spoil: Callable[[Evidence], Evidence], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert objections(CASE, spoil(AGREED)) == [name]
    switch_off(monkeypatch, name)
    assert objections(CASE, spoil(AGREED)) == [], "only this guard saw it"


@pytest.mark.parametrize(("name", "case"), CASES)
def test_a_case_that_is_not_due_alone_keeps_everything(name: str, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    assert objections(case, AGREED) == [name]
    switch_off(monkeypatch, name)
    assert objections(case, AGREED) == []


def test_nothing_known_is_objected_to_by_everybody_who_asks() -> None:
    assert set(objections(CASE, Evidence(NOW_US, NOW_US))) == {
        "unseen",
        "balance-clock",
        "metering-clock",
        "payment-clock",
        "account",
        "own-use",
    }


BEGUN = replace(CASE, state="carrying_out", permit_id="permit-1")
ORDER = Order(BEGUN, CASE, DEBTOR, False, NOW_US, NOW_US, "permit-1", NOW_US + SECOND_US, (), NOW_US)
REFUSALS: list[tuple[str, Order]] = [
    ("case", replace(ORDER, case=None)),
    ("case", replace(ORDER, case=replace(BEGUN, state="cancelled"))),
    ("due", replace(ORDER, case=replace(BEGUN, due_at_us=NOW_US + 1))),
    ("negative", replace(ORDER, account=replace(DEBTOR, balance_micros=0))),
    ("negative", replace(ORDER, account=replace(DEBTOR, state="ok"))),
    ("since", replace(ORDER, account=replace(DEBTOR, negative_since_us=SINCE_US + 1))),
    ("changed", replace(ORDER, case=replace(BEGUN, state="frozen", reason="metering lags"))),
    ("changed", replace(ORDER, case=replace(BEGUN, permit_id="permit-2"))),
    ("evidence", replace(ORDER, evidence_from_us=NOW_US - EVIDENCE_US_MAX - 1)),
    ("evidence", replace(ORDER, evidence_from_us=NOW_US + 1)),
    ("done", replace(ORDER, is_done=True)),
    ("commanded", replace(ORDER, next_command_at_us=NOW_US + 1)),
    ("redemption", replace(ORDER, redemption_expires_at_us=NOW_US)),
    ("halted", replace(ORDER, halts=("balance was restored",))),
]


def test_an_order_that_everything_agrees_to_is_given() -> None:
    assert find_command_objection(ORDER) is None
    assert find_command_objection(replace(ORDER, next_command_at_us=None)) is None


@pytest.mark.parametrize(("name", "order"), REFUSALS)
def test_each_guard_alone_holds_back_a_command(name: str, order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    found = find_command_objection(order)
    assert found is not None
    assert (found.guard, found.of_target) == (name, name in {"done", "commanded"})
    switch_off(monkeypatch, name)
    assert find_command_objection(order) is None, "only this guard saw it"


@pytest.mark.parametrize(
    ("changes", "negative", "must_stop"),
    [
        ({}, True, True),
        ({"state": "exhausted"}, False, True),
        ({"state": "ok"}, False, False),
        ({"state": "unknown"}, False, False),
        ({"balance_micros": 0}, False, True),
        ({"balance_micros": 1}, False, False),
        ({"negative_since_us": None}, False, True),
    ],
)
def test_each_sign_of_a_debt_counts_by_itself(changes: dict[str, object], negative: bool, must_stop: bool) -> None:  # noqa: FBT001
    seen = replace(DEBTOR, **changes)  # type: ignore[arg-type]
    assert (seen.is_negative, seen.must_stop) == (negative, must_stop)
