"""Random interleavings of all that can happen to orders, with crashes at named points: at the end all agree.

On PostgreSQL, payment's database and balance's, without processes: thousands of steps in seconds. The same is played
on processes and real Kafka in tests/standins.
"""

import contextlib
from dataclasses import dataclass, field
from dataclasses import replace as changed
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from deploy.local.infrastructure.probes import run_async
from services.payment.app.refunds import RefundWish
from services.payment.providers import ProviderName
from services.payment.rules.facts import (
    Attempted,
    Declined,
    DisputeClosed,
    Disputed,
    Fact,
    Money,
    Paid,
    Refunded,
    RefundFailed,
)
from services.payment.store.orders import StoredOrder
from shared.clock import MINUTE_US
from shared.errors import Refusal, TransientFault
from tests.balance.books import START_US
from tests.conftest import MakeDatabaseBlocking
from tests.payment.shop import vnd
from tests.payment.test_planted_bugs import (
    Plant,
    amounts_are_not_compared,
    dedupe_before_effect,
    order_key_per_attempt,
    refund_key_per_attempt,
    reversals_without_a_cap,
)
from tests.payment.world import CRASHES, Bank, Truth, World, crash_at, open_world

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


class Story:
    def __init__(self, world: World, name: str, providers: list[ProviderName]) -> None:
        self._world = world
        self._service = world.shop.service
        self.name = name
        self.met: set[str] = set()
        self.lives = [
            Life(f"{name}-{index}", world.banks[provider]) for index, provider in enumerate(providers, start=1)
        ]

    async def play(self, step: Step) -> None:
        """One step; what makes no sense now does nothing or is refused, as with people."""
        life = self.lives[step.life]
        with crash_at(step.crash) as met, contextlib.suppress(Refusal, TransientFault):
            if life.order is None and step.kind not in ("click", "to balance", "to payment", "time"):
                return
            await getattr(self, "_" + step.kind.replace(" ", "_"))(life)
        self.met.update(met)

    # A customer

    async def _click(self, life: Life) -> None:
        request = self._world.shop.request(
            "250000", tenant_id=life.tenant, provider=life.bank.name, idempotency_key=life.tenant
        )
        committed = await self._service.topups.commit_order(request)
        assert life.order is None or committed.order_id == life.order.order_id, "a repeated click made another order"
        life.order = committed
        await self._service.topups.create(request)

    def _tell(self, life: Life, fact: Fact) -> None:
        life.happened += 1
        life.waiting.append((f"{life.tenant}:{life.happened}", fact))

    def _is_open(self, life: Life) -> bool:
        """Whether there is a page that takes money. VNPay can't close one."""
        assert life.order is not None
        opened = any(page.order_id == life.order.order_id for page in life.bank.opened)
        closed = life.bank.name == "stripe" and life.order.order_id in life.bank.expired
        return opened and not closed and life.truth is None

    async def _capture(self, life: Life, money: Money) -> None:
        assert life.order is not None
        if self._is_open(life):
            now_us = self._world.shop.clock.now_us()
            paid = Paid(life.order.order_id, f"{life.bank.name}:pi_{life.tenant}", money, now_us, None, "ref")
            life.bank.truths[life.order.order_id] = Truth(paid)
            self._tell(life, paid)

    async def _pay(self, life: Life) -> None:
        await self._capture(life, PRICE)

    async def _pay_another_amount(self, life: Life) -> None:
        await self._capture(life, PART)

    async def _decline(self, life: Life) -> None:
        assert life.order is not None
        if self._is_open(life):
            self._tell(life, Declined(life.order.order_id, "declined", final=life.bank.name == "vnpay"))

    async def _attempt(self, life: Life) -> None:
        assert life.order is not None
        if self._is_open(life):
            self._tell(life, Attempted(life.order.order_id, "processing"))

    async def _return_page(self, life: Life) -> None:
        assert life.order is not None
        await self._service.topups.load(life.order.order_id)

    # The network

    async def _receive(self, life: Life, event_id: str, fact: Fact) -> None:
        answer = await self._world.shop.receive(event_id, fact, order=life.order, provider=life.bank.name)
        assert answer.completed
        # What was answered is in: nobody will send it again, and nobody has to be asked.
        if isinstance(fact, Paid):
            query = "select count(*) from payment where payment_id = $1"
            assert await self._world.shop.rows(query, fact.payment_id) == [(1,)], "a callback had no effect"

    async def _deliver_at(self, life: Life, place: int) -> None:
        if life.waiting:
            event = life.waiting[place]
            await self._receive(life, *event)
            life.delivered.append(life.waiting.pop(place))

    async def _deliver(self, life: Life) -> None:
        await self._deliver_at(life, 0)

    async def _deliver_last(self, life: Life) -> None:
        await self._deliver_at(life, -1)

    async def _repeat(self, life: Life) -> None:
        if life.delivered:
            await self._receive(life, *life.delivered[0])

    async def _lose(self, life: Life) -> None:
        if life.waiting:
            life.waiting.pop(0)

    async def _to_balance(self, _life: Life) -> None:
        await self._world.carry_to_balance(self.name)

    async def _to_payment(self, _life: Life) -> None:
        await self._world.carry_to_payment(self.name)

    # Operators and time

    async def _refund(self, life: Life, wish: RefundWish) -> None:
        truth = life.truth
        assert truth is not None
        known = set(truth.refunds)
        try:
            await self._service.refunds.refund(wish)
        finally:
            made = truth.refunds.keys() - known
            life.wishes.setdefault(wish, set()).update(made)
            for refund_id in made:
                self._tell(life, truth.refunds[refund_id])
        assert len(life.wishes[wish]) <= 1, "one wish made two refunds"

    async def _refund_some(self, life: Life, amount_micros: int | None) -> None:
        if life.truth is not None:
            key = f"wish-{len(life.wishes)}"
            await self._refund(life, RefundWish(life.truth.paid.payment_id, amount_micros, "asked for", "kim", key))

    async def _refund_again(self, life: Life) -> None:
        if life.wishes:
            await self._refund(life, list(life.wishes)[-1])

    async def _refund_part(self, life: Life) -> None:
        await self._refund_some(life, 30_000_000_000)

    async def _refund_all(self, life: Life) -> None:
        await self._refund_some(life, None)

    async def _reconcile(self, life: Life) -> None:
        assert life.order is not None
        await self._service.reconciler.reconcile(await self._service.topups.load(life.order.order_id))

    async def _time(self, _life: Life) -> None:
        """After two of these an order that nobody paid is over."""
        clock = self._world.shop.clock
        clock.set(clock.now_us() + 20 * MINUTE_US)

    async def _provider_down(self, life: Life) -> None:
        life.bank.down = not life.bank.down

    # A bank

    def _change_refund(self, life: Life, refund_id: str, fact: Refunded | RefundFailed) -> None:
        assert life.truth is not None
        life.truth.refunds[refund_id] = fact
        self._tell(life, fact)

    async def _refund_elsewhere(self, life: Life) -> None:
        truth = life.truth
        if truth is None:
            return
        left_micros = min(20_000_000_000, truth.paid.money.amount_micros - truth.gone_micros)
        if left_micros > 0:
            refund_id = f"{life.bank.name}:re_{life.tenant}_{len(truth.refunds)}"
            money = Money(left_micros, "VND")
            self._change_refund(life, refund_id, Refunded(truth.paid.payment_id, refund_id, money, "pending"))

    async def _settle_refund(self, life: Life) -> None:
        for refund_id, fact in [] if life.truth is None else list(life.truth.refunds.items()):
            if isinstance(fact, Refunded) and fact.state == "pending":
                self._change_refund(life, refund_id, changed(fact, state="succeeded"))

    async def _fail_refund(self, life: Life) -> None:
        for refund_id, fact in [] if life.truth is None else list(life.truth.refunds.items())[:1]:
            if isinstance(fact, Refunded):
                failed = RefundFailed(fact.payment_id, refund_id, fact.money, "lost_or_stolen_card")
                self._change_refund(life, refund_id, failed)

    def _change_dispute(self, life: Life, fact: Disputed | DisputeClosed) -> None:
        assert life.truth is not None
        life.truth.disputes[fact.dispute_id] = fact
        self._tell(life, fact)

    def _open_disputes(self, life: Life) -> list[Disputed]:
        found = [] if life.truth is None else list(life.truth.disputes.values())
        return [item for item in found if isinstance(item, Disputed)]

    def _contest(self, life: Life, money: Money) -> None:
        truth = life.truth
        if truth is not None and life.bank.name == "stripe":
            dispute_id = f"stripe:dp_{life.tenant}_{len(truth.disputes)}"
            self._change_dispute(life, Disputed(truth.paid.payment_id, dispute_id, money, withdrawn=False))

    async def _dispute_part(self, life: Life) -> None:
        self._contest(life, vnd(60_000))

    async def _dispute_all(self, life: Life) -> None:
        if life.truth is not None:
            self._contest(life, life.truth.paid.money)

    async def _withdraw(self, life: Life) -> None:
        for item in self._open_disputes(life):
            if not item.withdrawn:
                self._change_dispute(life, changed(item, withdrawn=True))

    async def _win(self, life: Life) -> None:
        for item in self._open_disputes(life):
            closed = DisputeClosed(item.payment_id, item.dispute_id, "won", item.money, withdrawn=False)
            self._change_dispute(life, closed)

    async def _lose_dispute(self, life: Life) -> None:
        for item in self._open_disputes(life):
            closed = DisputeClosed(item.payment_id, item.dispute_id, "lost", item.money, withdrawn=True)
            self._change_dispute(life, closed)

    # The end

    async def end(self) -> None:
        """Bad luck ends: what waits is delivered, latest first; everybody is asked; then nothing differs any more."""
        for life in self.lives:
            life.bank.down = False
            while life.waiting:
                await self._deliver_last(life)
        clock = self._world.shop.clock
        clock.set(clock.now_us() + 2 * MINUTE_US)
        await self._service.refunds.resume()
        differences: list[Any] = []
        for _ in range(3):
            differences = [item for life in self.lives for item in await self._ask_all(life)]
            await self._world.carry_to_balance(self.name)
            await self._world.carry_to_payment(self.name)
        assert differences == []

    async def _ask_all(self, life: Life) -> list[Any]:
        _, found = await self._service.reconciler.reconcile_all(0, "vn", life.tenant)
        return found

    async def check(self) -> None:
        """Provider, orders, payments, ledger and events agree; credited once, and nothing else ever was."""
        for life in self.lives:
            await self._check_life(life)
        assert self._world.books.dead == []
        assert await self._world.books.audit() == []

    async def _check_life(self, life: Life) -> None:
        right = [] if life.truth is None or not life.is_right else [life.truth.paid.payment_id]
        credited = [(f"captured/{payment_id}", PRICE.amount_micros) for payment_id in right]
        entries = await self._world.books.rows(
            "select class, fact_id, amount_micros, debit_account = 'customer' from entry join account using"
            " (account_id) where tenant_id = $1",
            life.tenant,
        )
        assert [(fact, amount) for kind, fact, amount, _ in entries if kind == "payment"] == credited
        balance_micros = sum(-int(str(amount)) if debit else int(str(amount)) for _, _, amount, debit in entries)
        assert balance_micros == life.expected_micros(), "the balance is not what is left"
        if life.order is None:
            return
        payments = await self._world.shop.rows(
            "select payment_id, credit_micros, credited_at is not null from payment where order_id = $1",
            life.order.order_id,
        )
        known = [] if life.truth is None else [life.truth.paid.payment_id]
        credit_micros = PRICE.amount_micros if right else None
        assert payments == [(payment_id, credit_micros, bool(right)) for payment_id in known]
        told = [value for value in await self._world.told(life.tenant) if b'"payment.captured"' in value]
        assert len(told) == len(right)
        order = await self._service.topups.load(life.order.order_id)
        assert order.state in life.expected_states(), (order.state, life)


Drawn = tuple[list[ProviderName], list[str | None], list[Step]]


def steps_of(story: Drawn) -> list[Step]:
    """A click per order, repeated where the first of them crashed, and then what was drawn."""
    _, crashes, steps = story
    return [Step("click", index, at) for index, crash in enumerate(crashes) for at in (crash, None)] + steps


NUMBERS = iter(range(10_000))


@dataclass(frozen=True)
class Databases:
    payment_url: str
    balance_owner_url: str
    balance_url: str

    def play(self, providers: list[ProviderName], steps: list[Step]) -> set[str]:
        """Play a story and check its end; answer the points at which it crashed."""
        return run_async(self._play(f"s{next(NUMBERS)}.", providers, steps))

    async def _play(self, name: str, providers: list[ProviderName], steps: list[Step]) -> set[str]:
        async with open_world(self.payment_url, self.balance_owner_url, self.balance_url) as world:
            world.shop.clock.set(START_US)
            story = Story(world, name, providers)
            for step in steps:
                await story.play(step)
            await story.end()
            await story.check()
            return story.met


@pytest.fixture(scope="module")
def played(make_module_database: MakeDatabaseBlocking) -> Databases:
    return make_databases(make_module_database)


@pytest.fixture
def spoilt(make_module_database: MakeDatabaseBlocking) -> Databases:
    """For stories with a planted bug: what one leaves behind is nobody else's."""
    return make_databases(make_module_database)


def make_databases(make_module_database: MakeDatabaseBlocking) -> Databases:
    _, payment_url = make_module_database("payment")
    owner_url, balance_url = make_module_database("balance")
    return Databases(payment_url, owner_url, balance_url)


@settings(
    max_examples=60,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(STORIES)
def test_whatever_happens_all_agree_in_the_end(played: Databases, story: Drawn) -> None:
    played.play(story[0], steps_of(story))


@pytest.mark.parametrize("point", CRASHES)
def test_a_crash_at_any_point_is_made_good(played: Databases, point: str) -> None:
    """A whole life of which every step meets the crash and is then repeated, without anybody asking."""
    kinds = ("click", "pay", "deliver", "to balance", "to payment", "refund part", "deliver", "to balance", "reconcile")
    steps = [step for kind in kinds for step in (Step(kind, crash=point), Step(kind))]
    assert played.play(["stripe", "vnpay"], steps) == {point}


_FIRST = [Step(kind) for kind in ("click", "pay", "deliver", "to balance")]
_REFUNDED = [*_FIRST, Step("refund part", crash="the provider took the refund"), Step("refund again")]
_REVERSED = [*_FIRST, *(Step(kind) for kind in ("refund all", "deliver", "dispute all", "withdraw", "deliver last"))]
CAUGHT: list[tuple[Plant, list[Step], str]] = [
    (
        dedupe_before_effect,
        [*_FIRST[:2], Step("deliver", crash="the order is changed"), Step("deliver")],
        "a callback had no effect",
    ),
    (
        order_key_per_attempt,
        [Step("click", crash="the order is registered"), Step("click")],
        "a repeated click made another order",
    ),
    (refund_key_per_attempt, _REFUNDED, "one wish made two refunds"),
    (amounts_are_not_compared, [Step("click"), Step("pay another amount"), Step("deliver")], "captured/"),
    (reversals_without_a_cap, _REVERSED, "the balance is not what is left"),
]


@pytest.mark.parametrize(("plant", "steps", "seen"), CAUGHT, ids=[item[0].__name__ for item in CAUGHT])
def test_a_planted_bug_is_caught(
    played: Databases, spoilt: Databases, plant: Plant, steps: list[Step], seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    played.play(["stripe", "vnpay"], steps)
    plant(monkeypatch)
    with pytest.raises(AssertionError, match=seen):
        spoilt.play(["stripe", "vnpay"], steps)
