"""Random interleavings of all that can happen to orders, with crashes at named points: at the end all agree.

On PostgreSQL, payment's database and balance's, without processes: thousands of steps in seconds. The same is played
on processes and real Kafka in tests/standins.
"""

from dataclasses import dataclass

import pytest
from hypothesis import Phase, given, settings

from deploy.local.infrastructure.probes import run_async
from services.payment.providers import ProviderName
from tests.balance.books import START_US
from tests.conftest import MakeDatabaseBlocking
from tests.payment.lives import PRICE, STORIES, Drawn, Life, Step, steps_of
from tests.payment.story import Story
from tests.payment.test_planted_bugs import (
    Plant,
    amounts_are_not_compared,
    dedupe_before_effect,
    order_key_per_attempt,
    refund_key_per_attempt,
    reversals_without_a_cap,
)
from tests.payment.world import CRASHES, World, open_world


async def check(world: World, story: Story) -> None:
    """Provider, orders, payments, ledger and events agree; credited once, and nothing else ever was."""
    for life in story.lives:
        await check_life(world, life)
    assert world.books.dead == []
    assert await world.books.audit() == []


async def check_life(world: World, life: Life) -> None:
    right = [] if life.truth is None or not life.is_right else [life.truth.paid.payment_id]
    credited = [(f"captured/{payment_id}", PRICE.amount_micros) for payment_id in right]
    entries = await world.books.rows(
        "select class, fact_id, amount_micros, debit_account = 'customer' from entry join account using"
        " (account_id) where tenant_id = $1",
        life.tenant,
    )
    assert [(fact, amount) for kind, fact, amount, _ in entries if kind == "payment"] == credited
    balance_micros = sum(-int(str(amount)) if debit else int(str(amount)) for _, _, amount, debit in entries)
    assert balance_micros == life.expected_micros(), "the balance is not what is left"
    if life.order is None:
        return
    payments = await world.shop.rows(
        "select payment_id, credit_micros, credited_at is not null from payment where order_id = $1",
        life.order.order_id,
    )
    known = [] if life.truth is None else [life.truth.paid.payment_id]
    credit_micros = PRICE.amount_micros if right else None
    assert payments == [(payment_id, credit_micros, bool(right)) for payment_id in known]
    told = [value for value in await world.told(life.tenant) if b'"payment.captured"' in value]
    assert len(told) == len(right)
    order = await world.shop.service.topups.load(life.order.order_id)
    assert order.state in life.expected_states(), (order.state, life)


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
            await check(world, story)
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


@settings(max_examples=60, phases=[Phase.explicit, Phase.generate])
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
