"""Edges of payment's rules, each with the planted bug that its check sees.

A plant is the rule's own source with one piece replaced, as a module of its own.
"""

import inspect
import types
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest

from services.payment.rules import auto_top_up, conversion, orders, reconciliation, reversals, stripe_objects
from services.payment.rules import vnpay_messages as vnpay
from services.payment.rules.decision import Dispute, Refund
from services.payment.rules.facts import DisputeClosed, Disputed, Money, Refunded, RefundFailed
from shared.clock import DAY_US, HOUR_US
from shared.errors import Refusal
from shared.money import AMOUNT_MICROS_MAX
from tests.payment.stripe_api import intent

Check = Callable[[Any], None]
PAID = Money(100_000_000, "USD")


def payment(rules: Any, **changed: Any) -> Any:
    return rules.Payment("stripe:pi_1", PAID, **({"credit_micros": 100_000_000} | changed))


def a_refund_beyond_what_was_paid_is_queued(rules: Any) -> None:
    before = payment(rules, refunds=(Refund("stripe:re_1", 80_000_000, "succeeded"),))
    found = rules.decide_reversal(before, Refunded("stripe:pi_1", "stripe:re_2", Money(50_000_000, "USD"), "pending"))
    assert [(item.kind, item.subject, item.amount_micros) for item in found.queued] == [
        ("excess", "stripe:re_2", 30_000_000)
    ]


def a_dispute_in_another_currency_is_queued_by_its_step(rules: Any) -> None:
    yen = Money(5_000_000, "JPY")
    facts = (
        Disputed("stripe:pi_1", "stripe:dp_1", yen, withdrawn=False),
        Disputed("stripe:pi_1", "stripe:dp_1", yen, withdrawn=True),
        DisputeClosed("stripe:pi_1", "stripe:dp_1", "lost", yen, withdrawn=True),
        Refunded("stripe:pi_1", "stripe:re_1", yen, "pending"),
        RefundFailed("stripe:pi_1", "stripe:re_1", yen, "lost"),
    )
    decided = [rules.decide_reversal(payment(rules), fact) for fact in facts]
    subjects = [item.subject for decision in decided for item in decision.queued]
    names = ["dp_1/opened", "dp_1/withdrawn", "dp_1/lost", "re_1", "re_1/failed"]
    assert subjects == [f"stripe:{name}" for name in names]
    assert all(decision.told == () and decision.outcome == "queued" for decision in decided)


def no_dispute_is_told_of_a_payment_that_nobody_was_credited_for(rules: Any) -> None:
    kept = payment(rules, credit_micros=None)
    opened = Disputed("stripe:pi_1", "stripe:dp_1", PAID, withdrawn=False)
    lost = DisputeClosed("stripe:pi_1", "stripe:dp_1", "lost", PAID, withdrawn=True)
    for fact in (opened, Disputed("stripe:pi_1", "stripe:dp_1", PAID, withdrawn=True), lost):
        assert rules.decide_reversal(kept, fact).told == ()
    disputed = kept.with_dispute(Dispute("stripe:dp_1", PAID.amount_micros))
    assert rules.decide_reversal(disputed, lost).told == ()


def a_mismatched_order_is_asked_about_each_hour_of_its_first_day(rules: Any) -> None:
    order = rules.Asking("mismatched", 0, HOUR_US)
    assert rules.next_ask_us(order, DAY_US - 1) == DAY_US - 1 + HOUR_US
    assert rules.next_ask_us(order, DAY_US) == 2 * DAY_US


def the_least_and_the_most_can_be_paid(rules: Any) -> None:
    for amount in (10, 20):
        rules.check_limits(Money(amount, "USD"), 10, 20)
    for amount in (9, 21):
        with pytest.raises(Refusal, match="amount-outside-limits"):
            rules.check_limits(Money(amount, "USD"), 10, 20)


def all_that_an_account_holds_can_be_bought_and_not_a_micro_more(rules: Any) -> None:
    one = rules.RATE_ONE_E12
    assert rules.convert(Money(AMOUNT_MICROS_MAX, "USD"), one) == AMOUNT_MICROS_MAX
    with pytest.raises(Refusal, match="invalid-amount"):
        rules.convert(Money(AMOUNT_MICROS_MAX, "USD"), one + 1)
    with pytest.raises(Refusal, match="invalid-amount"):
        rules.convert(Money(1, "USD"), one - 1)


def the_daily_cap_may_be_the_monthly_one(rules: Any) -> None:
    rules.check_agreement(rules.AutoTopUp(0, 100, 100, 100), 1, 1)
    with pytest.raises(Refusal, match="auto-top-up-caps"):
        rules.check_agreement(rules.AutoTopUp(0, 100, 101, 100), 1, 1)
    with pytest.raises(Refusal, match="auto-top-up-caps"):
        rules.check_agreement(rules.AutoTopUp(0, 100, 99, 100), 1, 1)


def an_attempt_is_too_old_at_the_hour(rules: Any) -> None:
    """And of several reasons against a charge any one suffices, where all the others agree to it."""
    agreed = rules.AutoTopUp(100, 300, 1000, 1000)
    attempt = rules.Attempt(0, 200, "open")

    def decide(terms: Any = agreed, others: Any = (), balance: int = 50, now_us: int = HOUR_US - 1) -> Any:
        bounds = {"unit_micros": 1, "minimum_micros": 1, "maximum_micros": 1000}
        return rules.decide_again(terms, attempt, others, balance, now_us, **bounds)

    assert decide() is None
    assert decide(balance=99) is None or decide(balance=99) == "amount"
    assert decide(now_us=HOUR_US) == "too old"
    assert decide(terms=None) == "consent withdrawn"
    assert decide(balance=100) == "balance"
    assert decide(terms=rules.AutoTopUp(100, 300, 1000, 1000, "declined")) == "suspended"
    assert decide(terms=rules.AutoTopUp(100, 240, 1000, 1000)) == "amount"
    assert decide(terms=rules.AutoTopUp(100, 300, 199, 1000)) == "amount"
    assert decide(others=[rules.Attempt(0, 900, "open")]) == "attempt open"


def nobody_is_credited_with_nothing(rules: Any) -> None:
    order = rules.Order("o-1", PAID, 100)
    for micros in (0, -1):
        with pytest.raises(Refusal, match="invalid-amount"):
            rules.settle_credit(order, "stripe:pi_1", PAID, micros)
    assert rules.settle_credit(order, "stripe:pi_1", PAID, 1).capture.credit_micros == 1


def a_transaction_of_noughts_is_none(rules: Any) -> None:
    fields = {"TxnRef": "x", "Amount": "100", "ResponseCode": "00", "TransactionStatus": "00"}
    for number in ("", "0", "000"):
        with pytest.raises(rules.NotVnpayMessageError):
            rules.read_result({f"vnp_{name}": value for name, value in {**fields, "TransactionNo": number}.items()})
    failed = {f"vnp_{name}": value for name, value in {**fields, "ResponseCode": "24"}.items()}
    assert rules.read_result(failed).transaction_no == "0"


def a_card_without_a_customer_is_not_saved(rules: Any) -> None:
    for missing in ("customer", "payment_method"):
        found = intent(setup_future_usage="off_session", customer="cus_1", payment_method="pm_1") | {missing: None}
        assert rules.intent_fact(found, "o-1", 0).saved_card is None
    whole = intent(setup_future_usage="off_session", customer="cus_1", payment_method="pm_1")
    assert rules.intent_fact(whole, "o-1", 0).saved_card.customer == "cus_1"


def a_rate_is_of_a_day(rules: Any) -> None:
    rate = rules.Rate("USD", "VND", 1, date(1970, 1, 1))
    rules.check_rate_age(rate, DAY_US - 1, 0)
    with pytest.raises(Refusal, match="exchange-rate-too-old"):
        rules.check_rate_age(rate, DAY_US, 0)


EDGES: list[tuple[types.ModuleType, Check, str, str]] = [
    (
        reversals,
        a_refund_beyond_what_was_paid_is_queued,
        "queued=_excess(payment, after, refund.refund_id)",
        "queued=_excess(after, payment, refund.refund_id)",
    ),
    (
        reversals,
        a_dispute_in_another_currency_is_queued_by_its_step,
        "subject = _name_step(fact)",
        "subject = fact.refund_id",
    ),
    (
        reversals,
        a_dispute_in_another_currency_is_queued_by_its_step,
        'return f"{dispute_id}/{outcome}"',
        'return f"{dispute_id}/opened"',
    ),
    (
        reversals,
        no_dispute_is_told_of_a_payment_that_nobody_was_credited_for,
        "if payment.credit_micros is not None:\n        told = (\n            DisputeClosedTold",
        "if True:\n        told = (\n            DisputeClosedTold",
    ),
    (
        reconciliation,
        a_mismatched_order_is_asked_about_each_hour_of_its_first_day,
        "HOUR_US if age_us < DAY_US",
        "HOUR_US if age_us < 0",
    ),
    (conversion, the_least_and_the_most_can_be_paid, "least_micros <= money", "least_micros < money"),
    (conversion, the_least_and_the_most_can_be_paid, "amount_micros <= most_micros", "amount_micros < most_micros"),
    (
        conversion,
        all_that_an_account_holds_can_be_bought_and_not_a_micro_more,
        "0 < credit_micros <= AMOUNT_MICROS_MAX",
        "0 < credit_micros < AMOUNT_MICROS_MAX",
    ),
    (conversion, a_rate_is_of_a_day, "if age_us > age", "if age_us >= age"),
    (
        auto_top_up,
        the_daily_cap_may_be_the_monthly_one,
        "agreement.daily_cap_micros <= agreement.monthly_cap_micros",
        "agreement.daily_cap_micros < agreement.monthly_cap_micros",
    ),
    (auto_top_up, an_attempt_is_too_old_at_the_hour, "attempt.at_us >= ATTEMPT_AGE", "attempt.at_us > ATTEMPT_AGE"),
    (
        auto_top_up,
        an_attempt_is_too_old_at_the_hour,
        "if agreement is None:\n        return",
        "if False:\n        return",
    ),
    (
        auto_top_up,
        an_attempt_is_too_old_at_the_hour,
        "return None if decision.amount_micros >= attempt.amount_micros else",
        "return None if True else",
    ),
    (auto_top_up, an_attempt_is_too_old_at_the_hour, "        others,\n", "        (),\n"),
    (orders, nobody_is_credited_with_nothing, "if credit_micros <= 0", "if credit_micros < 0"),
    (vnpay, a_transaction_of_noughts_is_none, 'not number.strip("0")', "not number"),
    (vnpay, a_transaction_of_noughts_is_none, 'transaction_no=number or "0"', "transaction_no=number"),
    (stripe_objects, a_card_without_a_customer_is_not_saved, "not isinstance(customer, str) or", "False or"),
]
NAMES = [f"{check.__name__}-{number}" for number, (_, check, _, _) in enumerate(EDGES)]


@pytest.mark.parametrize("check", dict.fromkeys(check for _, check, _, _ in EDGES), ids=lambda check: check.__name__)
def test_the_rule_keeps_its_edge(check: Check) -> None:
    [rules] = {module for module, named, _, _ in EDGES if named is check}
    check(rules)


@pytest.mark.parametrize(("module", "check", "piece", "instead"), EDGES, ids=NAMES)
def test_a_planted_bug_is_seen(module: types.ModuleType, check: Check, piece: str, instead: str) -> None:
    source = inspect.getsource(module)
    assert source.count(piece) == 1, "the plant replaces one piece"
    planted = types.ModuleType(module.__name__)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, module.__name__, planted)  # dataclasses look their module up
        exec(compile(source.replace(piece, instead), module.__file__ or "", "exec"), planted.__dict__)
        with pytest.raises((AssertionError, AttributeError, pytest.fail.Exception, Refusal, TypeError, ValueError)):
            check(planted)
