"""What can happen to an order, drawn; and one order of a story, with what must have become of it."""

from dataclasses import dataclass, field

from hypothesis import strategies as st

from services.payment.app.refunds import RefundWish
from services.payment.providers import ProviderName
from services.payment.rules.facts import (
    Fact,
    Refunded,
)
from services.payment.store.orders import StoredOrder
from tests.payment.shop import vnd
from tests.payment.world import Bank, Truth

ORDERS = 2
PRICE, PART = vnd(250_000), vnd(90_000)
# What can happen, and the points that it can reach: a crash is drawn among those.
_CLICK = ("the order is committed", "the order is registered", "the provider opened the page")
_FACTS = ("the order is changed", "the payment is inserted", "the messages are appended")
_CALLBACK = ("the event is locked", *_FACTS, "the webhook is committed")
_REFUND = ("the provider took the refund", "the messages are appended")
_POSTING = (
    "balance is about to post",
    "balance has posted, and not noted the fact",
    "balance has applied the poll",
)
REACHED: dict[str, tuple[str, ...]] = {
    "click": _CLICK,
    "pay": (),
    "pay another amount": (),
    "decline": (),
    "attempt": (),
    "return page": (),
    "deliver": _CALLBACK,
    "deliver last": _CALLBACK,
    "repeat": _CALLBACK,
    "lose": (),
    "refund part": _REFUND,
    "refund all": _REFUND,
    "refund again": _REFUND,
    "refund elsewhere": (),
    "settle refund": (),
    "fail refund": (),
    "dispute part": (),
    "dispute all": (),
    "withdraw": (),
    "win": (),
    "lose dispute": (),
    "reconcile": ("the provider was asked", *_FACTS),
    "to balance": _POSTING,
    "to payment": ("the credit is marked",),
    "time": (),
    "provider down": (),
}
# Most of life is buying and being told, and money that goes back makes the most of what can go wrong.
OFTEN = ("pay", "pay", "deliver", "deliver", "refund all", "refund again", "refund again", "dispute all", "withdraw")


@dataclass(frozen=True)
class Step:
    """`crash`: the process ends there, if this step gets there."""

    kind: str
    life: int = 0
    crash: str | None = None


STEPS = st.sampled_from((*REACHED, *OFTEN)).flatmap(
    lambda kind: st.builds(Step, st.just(kind), st.integers(0, ORDERS - 1), st.sampled_from((None, *REACHED[kind])))
)
PROVIDERS: tuple[ProviderName, ...] = ("stripe", "vnpay")
STORIES = st.tuples(
    st.lists(st.sampled_from(PROVIDERS), min_size=ORDERS, max_size=ORDERS),
    st.lists(st.sampled_from((None, *_CLICK)), min_size=ORDERS, max_size=ORDERS),
    st.lists(STEPS, min_size=15, max_size=50),
)


Drawn = tuple[list[ProviderName], list[str | None], list[Step]]


def steps_of(story: Drawn) -> list[Step]:
    """A click per order, repeated where the first of them crashed, and then what was drawn."""
    _, crashes, steps = story
    return [Step("click", index, at) for index, crash in enumerate(crashes) for at in (crash, None)] + steps


@dataclass
class Life:
    """One order of a story: its tenant, and the callbacks that its provider has yet to deliver."""

    tenant: str
    bank: Bank
    order: StoredOrder | None = None
    waiting: list[tuple[str, Fact]] = field(default_factory=list)
    delivered: list[tuple[str, Fact]] = field(default_factory=list)
    wishes: dict[RefundWish, set[str]] = field(default_factory=dict)
    happened: int = 0

    @property
    def truth(self) -> Truth | None:
        return None if self.order is None else self.bank.truths.get(self.order.order_id)

    @property
    def is_right(self) -> bool:
        """Whether what was paid is what was asked for."""
        return self.truth is not None and self.truth.paid.money == PRICE

    def expected_micros(self) -> int:
        if self.truth is None or not self.is_right:
            return 0
        return PRICE.amount_micros - min(PRICE.amount_micros, self.truth.gone_micros)

    def expected_states(self) -> tuple[str, ...]:
        truth = self.truth
        if truth is None:
            return ("pending", "failed", "expired")
        refunded = sum(item.money.amount_micros for item in truth.refunds.values() if isinstance(item, Refunded))
        whole = refunded >= truth.paid.money.amount_micros
        if not self.is_right:
            return ("refunded",) if whole else ("mismatched",)
        if truth.is_disputed:
            return ("disputed",)
        return ("refunded",) if whole else ("credited",)
