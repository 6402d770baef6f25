"""The rules of orders and reversals against random histories: repeats, disorder, wrong amounts, two payments, disputes.

The model keeps rows as the application does and sums what is told; what must hold is computed from the facts alone.
"""

from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from services.payment.rules.decision import (
    Captured,
    Decision,
    DisputeClosedTold,
    DisputeTold,
    OrderFailed,
    OrderState,
    Refund,
    RefundTold,
)
from services.payment.rules.facts import (
    Attempted,
    Declined,
    DisputeClosed,
    Disputed,
    Expired,
    Fact,
    Money,
    Paid,
    PaymentFact,
    Refunded,
    RefundFailed,
)
from services.payment.rules.orders import (
    Order,
    decide_order_fact,
    decide_paid,
    end_mismatch,
    follow_uncredited,
    settle_credit,
)
from services.payment.rules.reversals import Payment, decide_reversal, derive_state

ORDER_ID = "order-1"
ASKED = Money(1_000, "USD")
CREDIT = 25_400_333
PAYMENTS = ("stripe:pi_1", "stripe:pi_2")


@dataclass
class Model:
    """One order, its payments, and everything told of them; reversals of unknown payments wait as early facts."""

    order: Order = field(default_factory=lambda: Order(ORDER_ID, ASKED, CREDIT))
    payments: dict[str, Payment] = field(default_factory=dict)
    early: dict[str, list[PaymentFact]] = field(default_factory=dict)
    told: list[object] = field(default_factory=list)
    queued: set[tuple[str, str]] = field(default_factory=set)

    def apply(self, fact: Fact) -> None:
        if isinstance(fact, Paid):
            decision = decide_paid(self.order, fact, known=fact.payment_id in self.payments)
            if decision.capture is not None:
                credit_micros = decision.capture.credit_micros
                self.payments[fact.payment_id] = Payment(fact.payment_id, fact.money, credit_micros)
            self._save(decision)
            for early in self.early.pop(fact.payment_id, []):
                self.apply(early)
        elif isinstance(fact, PaymentFact):
            if fact.payment_id not in self.payments:
                self.early.setdefault(fact.payment_id, []).append(fact)
                return
            self._reverse(fact)
        else:
            self._save(decide_order_fact(self.order, fact))

    def acknowledge(self, payment_id: str) -> None:
        payment = self.payments.get(payment_id)
        if payment is not None and payment.credit_micros is not None:
            self.payments[payment_id] = replace(payment, credited=True)
            if self.order.payment_id == payment_id:
                self.order = replace(self.order, state=derive_state(self.payments[payment_id]))

    @property
    def state(self) -> str:
        return self.order.state

    def settle(self, payment_id: str, credit_micros: int) -> None:
        payment = self.payments[payment_id]
        self._save(settle_credit(self.order, payment_id, payment.paid, credit_micros))
        self.payments[payment_id] = replace(payment, credit_micros=credit_micros)

    def _reverse(self, fact: PaymentFact) -> None:
        payment = self.payments[fact.payment_id]
        decision = decide_reversal(payment, fact)
        if decision.refund is not None:
            payment = payment.with_refund(decision.refund)
        if decision.dispute is not None:
            payment = payment.with_dispute(decision.dispute)
        self.payments[fact.payment_id] = payment
        self._save(decision)
        if self.order.payment_id == fact.payment_id:
            self.order = replace(self.order, state=derive_state(payment))
        elif payment.credit_micros is None:
            self._save(follow_uncredited(self.order, payment))

    def _save(self, decision: Decision) -> None:
        self.told += decision.told
        self.queued |= {(item.kind, item.subject) for item in decision.queued}
        capture = decision.capture
        main = capture is not None and capture.credit_micros is not None and decision.state == "paid"
        self.order = replace(
            self.order,
            state=decision.state or self.order.state,
            attempted=self.order.attempted or decision.attempted,
            payment_id=capture.payment_id if main and capture is not None else self.order.payment_id,
            failure_told=self.order.failure_told or any(isinstance(item, OrderFailed) for item in decision.told),
        )

    def credited(self, payment_id: str) -> int:
        """What balance has credited for a payment, less what it took back, by the events alone."""
        total = 0
        for item in self.told:
            match item:
                case Captured(payment_id=own) if own == payment_id:
                    total += item.credit_micros
                case RefundTold(payment_id=own) if own == payment_id:
                    total += item.credit_micros if item.failed else -item.credit_micros
                case DisputeTold(payment_id=own) if own == payment_id:
                    total -= item.withdrawn_micros
                case DisputeClosedTold(payment_id=own) if own == payment_id:
                    total += item.returned_micros - item.withdrawn_micros
                case _:
                    pass
        return total


def usd(amount_micros: int) -> Money:
    return Money(amount_micros, "USD")


AMOUNTS = st.sampled_from([1, 333, 500, 999, 1_000])
PAYMENT_IDS = st.sampled_from(PAYMENTS)
NUMBERS = st.integers(1, 3)
PAID = st.builds(
    lambda payment_id, money: Paid(ORDER_ID, payment_id, money, 0, None, "ref"),
    PAYMENT_IDS,
    st.sampled_from([ASKED, ASKED, usd(999), Money(1_000, "EUR")]),
)
OUTCOMES: tuple[Fact, ...] = (
    Attempted(ORDER_ID, "processing"),
    Declined(ORDER_ID, "51", final=False),
    Declined(ORDER_ID, "24", final=True),
    Expired(ORDER_ID),
)
ORDER_FACTS = st.sampled_from(OUTCOMES)


def refund_facts(payment_id: str, number: int, amount: int) -> list[PaymentFact]:
    """Each refund has one amount, whoever tells of it."""
    refund_id = f"{payment_id}/re_{number}"
    return [
        Refunded(payment_id, refund_id, usd(amount), "pending"),
        Refunded(payment_id, refund_id, usd(amount), "succeeded"),
        RefundFailed(payment_id, refund_id, usd(amount), "lost"),
    ]


def dispute_facts(payment_id: str, number: int, amount: int, *, won: bool) -> list[PaymentFact]:
    dispute_id = f"{payment_id}/dp_{number}"
    return [
        Disputed(payment_id, dispute_id, usd(amount), withdrawn=False),
        Disputed(payment_id, dispute_id, usd(amount), withdrawn=True),
        DisputeClosed(payment_id, dispute_id, "won" if won else "lost", usd(amount), withdrawn=not won),
    ]


@st.composite
def reversals(draw: st.DrawFn) -> list[PaymentFact]:
    """A few refunds and disputes of both payments, each told of in part."""
    facts: list[PaymentFact] = []
    for payment_id in PAYMENTS:
        for number in range(draw(st.integers(0, 3))):
            facts += draw(st.lists(st.sampled_from(refund_facts(payment_id, number, draw(AMOUNTS))), max_size=3))
        for number in range(draw(st.integers(0, 2))):
            won = draw(st.booleans())
            told = dispute_facts(payment_id, number, draw(AMOUNTS), won=won)
            facts += draw(st.lists(st.sampled_from(told), max_size=3))
    return facts


@st.composite
def histories(draw: st.DrawFn) -> list[Fact]:
    """Facts in any order, some of them twice."""
    facts: list[Fact] = [
        *draw(st.lists(PAID, max_size=4)),
        *draw(st.lists(ORDER_FACTS, max_size=4)),
        *draw(reversals()),
    ]
    facts += draw(st.lists(st.sampled_from(facts), max_size=5)) if facts else []
    return draw(st.permutations(facts))


def check_always(model: Model) -> None:
    """What holds after every step."""
    for payment_id, payment in model.payments.items():
        credit_micros = payment.credit_micros or 0
        assert 0 <= payment.reversed_micros <= credit_micros
        assert 0 <= payment.held_micros <= credit_micros
        assert model.credited(payment_id) == credit_micros - payment.reversed_micros
    captured = [item.payment_id for item in model.told if isinstance(item, Captured)]
    assert len(captured) == len(set(captured)), "a payment was credited twice"
    assert sum(isinstance(item, OrderFailed) for item in model.told) <= 1
    if model.order.state in ("paid", "credited", "disputed", "refunded") and model.order.payment_id is not None:
        assert model.order.payment_id in captured


@settings(max_examples=400)
@given(histories(), st.data())
def test_each_payment_is_credited_once_and_nothing_else_ever(facts: list[Fact], data: st.DataObject) -> None:
    model = Model()
    for fact in facts:
        model.apply(fact)
        if data.draw(st.integers(0, 3)) == 0:
            model.acknowledge(data.draw(PAYMENT_IDS))
        check_always(model)
    seen: dict[str, Money] = {}
    for fact in facts:
        if isinstance(fact, Paid):
            seen.setdefault(fact.payment_id, fact.money)
    first_right = next((name for name, money in seen.items() if money == ASKED), None)
    credited = {item.payment_id: item.credit_micros for item in model.told if isinstance(item, Captured)}
    assert credited == ({} if first_right is None else {first_right: CREDIT})
    assert set(model.payments) == set(seen), "money was lost sight of"
    queued = {subject for kind, subject in model.queued if kind in ("mismatch", "duplicate")}
    assert queued == set(seen) - {first_right}


@settings(max_examples=200)
@given(reversals(), st.data())
def test_any_order_of_reversals_takes_the_same_in_the_end(facts: list[PaymentFact], data: st.DataObject) -> None:
    """What is gone at the end decides, not the order in which it was heard of."""
    own = [fact for fact in facts if fact.payment_id == PAYMENTS[0]]
    paid = Paid(ORDER_ID, PAYMENTS[0], ASKED, 0, None, "ref")
    totals = set()
    for _ in range(3):
        model = Model()
        for fact in data.draw(st.permutations([paid, *own])):
            model.apply(fact)
        totals.add(model.credited(PAYMENTS[0]))
        payment = model.payments[PAYMENTS[0]]
        gone = min(ASKED.amount_micros, payment.gone_micros)
        assert model.credited(PAYMENTS[0]) == CREDIT - CREDIT * gone // ASKED.amount_micros
    assert len(totals) == 1


@given(st.lists(st.integers(1, 400), min_size=1, max_size=12))
def test_parts_of_a_full_refund_add_up_to_the_credit_exactly(parts: list[int]) -> None:
    model = Model()
    model.apply(Paid(ORDER_ID, PAYMENTS[0], ASKED, 0, None, "ref"))
    model.acknowledge(PAYMENTS[0])
    left = ASKED.amount_micros
    for number, part in enumerate([*parts, ASKED.amount_micros]):
        amount = min(part, left)
        if amount:
            assert model.state == "credited"
            model.apply(Refunded(PAYMENTS[0], f"re_{number}", usd(amount), "succeeded"))
            left -= amount
    assert model.credited(PAYMENTS[0]) == 0
    assert model.state == "refunded"


def test_an_order_is_disputed_only_while_a_dispute_is_open_and_then_what_it_was() -> None:
    model = Model()
    model.apply(Paid(ORDER_ID, PAYMENTS[0], ASKED, 0, None, "ref"))
    model.acknowledge(PAYMENTS[0])
    opened, withdrawn, lost = dispute_facts(PAYMENTS[0], 1, 500, won=False)
    model.apply(opened)
    assert model.state == "disputed"
    assert model.payments[PAYMENTS[0]].held_micros == CREDIT // 2
    assert model.credited(PAYMENTS[0]) == CREDIT
    model.apply(withdrawn)
    assert model.payments[PAYMENTS[0]].held_micros == 0
    assert model.credited(PAYMENTS[0]) == CREDIT - CREDIT // 2
    model.apply(lost)
    assert model.state == "credited"
    assert model.credited(PAYMENTS[0]) == CREDIT - CREDIT // 2


def test_what_is_reversed_beyond_the_payment_is_queued() -> None:
    model = Model()
    model.apply(Paid(ORDER_ID, PAYMENTS[0], ASKED, 0, None, "ref"))
    model.apply(Refunded(PAYMENTS[0], "re_1", usd(600), "pending"))
    model.apply(Disputed(PAYMENTS[0], "dp_1", usd(1_000), withdrawn=True))
    assert model.credited(PAYMENTS[0]) == 0
    assert model.queued == {("excess", "dp_1")}
    # The refund fails: the dispute alone still takes the whole credit, and nothing comes back.
    model.apply(RefundFailed(PAYMENTS[0], "re_1", usd(600), "lost"))
    assert model.credited(PAYMENTS[0]) == 0
    model.apply(DisputeClosed(PAYMENTS[0], "dp_1", "won", usd(1_000), withdrawn=False))
    assert model.credited(PAYMENTS[0]) == CREDIT


def test_every_state_has_a_way_out() -> None:
    """From each state in which an order can wait, a fact or an operator leads on to another one."""
    right = Paid(ORDER_ID, PAYMENTS[0], ASKED, 0, None, "ref")
    waiting: tuple[OrderState, ...] = ("pending", "failed", "expired", "mismatched")
    for state in waiting:
        order = Order(ORDER_ID, ASKED, CREDIT, state=state)
        assert decide_paid(order, right, known=False).state == "paid"
        assert settle_credit(order, PAYMENTS[1], ASKED, 7).state == "paid"
    mismatched = Order(ORDER_ID, ASKED, CREDIT, state="mismatched")
    assert end_mismatch(mismatched, "failed", "dismissed").state == "failed"
    wrong = Payment(PAYMENTS[0], usd(999), None)
    gone = wrong.with_refund(Refund("re", 999, "pending"))
    assert follow_uncredited(mismatched, gone).state == "refunded"
    refunded = replace(mismatched, state="refunded")
    assert follow_uncredited(refunded, wrong).state == "mismatched", "a refund of it failed"
    payment = Payment(PAYMENTS[0], ASKED, CREDIT)
    assert derive_state(payment) == "paid"
    assert derive_state(replace(payment, credited=True)) == "credited"


def test_a_settled_payment_is_credited_once_under_its_own_id() -> None:
    model = Model()
    wrong = Paid(ORDER_ID, PAYMENTS[0], usd(999), 0, None, "ref")
    model.apply(wrong)
    assert model.state == "mismatched"
    model.settle(PAYMENTS[0], 5)
    model.apply(wrong)
    assert [item for item in model.told if isinstance(item, Captured)] == [Captured(PAYMENTS[0], ORDER_ID, 5, usd(999))]
    assert model.state == "paid"
    model.apply(Refunded(PAYMENTS[0], "re_1", usd(999), "succeeded"))
    assert model.credited(PAYMENTS[0]) == 0
