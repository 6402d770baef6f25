"""Crossings by property: whatever is posted, in whatever transactions, accounts stand and say what a model says."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared.clock import HOUR_US, MINUTE_US
from shared.events.charges import LineClass
from shared.ids import shard_of
from tests.balance.batches import SHARDS, charges, encode, make_batch
from tests.balance.books import Books
from tests.conftest import MakeDatabaseBlocking

COOLDOWN_US = 6 * HOUR_US
CLASSES: tuple[LineClass, ...] = ("credit_correction", "debit_correction", "charge")


@dataclass
class Model:
    """An account in the design's own words: one entry at a time, nothing clever."""

    balance: int = 0
    burn: int = 0
    version: int = 1
    since: int | None = None
    fresh: bool = True
    emptied: bool = False
    low: bool = False
    low_told: bool = False
    low_told_at: int | None = None
    told: list[tuple[str, int, int, int | None]] = field(default_factory=lambda: [("opened", 1, 0, None)])

    @property
    def state(self) -> str:
        if self.fresh:
            return "opened"
        if self.balance <= 0:
            return "negative" if self.balance < 0 else "exhausted"
        return "low" if self.low else "ok"

    def post(self, deltas: Sequence[int], burn: int, now: int, *, by_operator: bool = False) -> None:
        self.burn = burn
        for delta in deltas:
            self._enter(delta, now, credited=by_operator and delta > 0)
            self._watch(now)
        self._watch(now)

    def _enter(self, delta: int, now: int, *, credited: bool) -> None:
        before, self.balance = self.balance, self.balance + delta
        kinds = ["credited"] if credited else []
        if self.balance > 0:
            kinds += ["recovered"] if self.emptied else []
            self.emptied, self.since = False, None
        elif self.balance == 0:
            kinds.append("exhausted")
            self.emptied, self.since = True, None
        elif before >= 0:
            kinds += ["negative"] if self.emptied else ["exhausted", "negative"]
            self.emptied, self.since = True, now
        elif delta > 0 and self.since != now:
            kinds.append("negative")
            self.since = now
        self.fresh = False
        if self.balance <= 0:
            self.low = self.low_told = False
        for kind in kinds:
            self._tell(kind)

    def _watch(self, now: int) -> None:
        if self.balance <= 0:
            return
        if not self.low:
            self.low = self.balance < self.burn
        elif self.balance >= self.burn + self.burn // 4:
            self.low = self.low_told = False
        cooled = self.low_told_at is None or now - self.low_told_at >= COOLDOWN_US
        if self.low and not self.low_told and cooled:
            self.low_told, self.low_told_at = True, now
            self._tell("low")

    def _tell(self, kind: str) -> None:
        self.version += 1
        self.told.append((kind, self.version, self.balance, self.since))


@dataclass(frozen=True)
class Batch:
    """What one charge batch says of the account: burn, and an amount per (kind, class)."""

    burn: int
    totals: dict[tuple[str, LineClass], int]

    def deltas(self) -> list[int]:
        """Credit corrections, debit corrections, charges; kinds by the alphabet; nothing is no entry."""
        ordered = [self.totals.get((kind, name), 0) for name in CLASSES for kind in ("gpu", "storage")]
        return [-amount for amount in ordered if amount]


@dataclass(frozen=True)
class Step:
    """One transaction, some time after the one before: a poll of batches, or an operator's adjustment."""

    wait_us: int
    batches: tuple[Batch, ...] = ()
    adjustment: int = 0


def amounts(name: LineClass) -> st.SearchStrategy[int]:
    return st.integers(-40, 0) if name == "credit_correction" else st.integers(0, 25)


totals = st.fixed_dictionaries(
    {}, optional={(kind, name): amounts(name) for name in CLASSES for kind in ("gpu", "storage")}
)
batches = st.builds(Batch, st.sampled_from([0, 5, 8, 20]), totals)
waits = st.sampled_from([0, MINUTE_US, HOUR_US, COOLDOWN_US, 25 * HOUR_US])
polls = st.builds(Step, waits, st.lists(batches, min_size=1, max_size=3).map(tuple))
adjustments = st.builds(Step, waits, adjustment=st.integers(-30, 60).filter(bool))
NOTHING: dict[tuple[str, LineClass], int] = {}


@dataclass
class Story:
    """Accounts one after the other on one ledger, each with a name of its own."""

    runner: asyncio.Runner
    books: Books
    accounts: int = 0
    seqs: dict[int, int] = field(default_factory=dict)

    async def tell(self, steps: Sequence[Step]) -> None:
        self.accounts += 1
        name = f"s{self.accounts}"
        shard = shard_of("vn", name, SHARDS)
        await self.books.accounts.open("vn", name)
        model = Model()
        for number, step in enumerate(steps):
            self.books.clock.set(self.books.clock.now_us() + step.wait_us)
            now = self.books.clock.now_us()
            if step.adjustment:
                await self.books.credit(name, step.adjustment, f"k{number}")
                model.post([step.adjustment], model.burn, now, by_operator=True)
            else:
                await self.books.post(*(self._encode(shard, name, batch) for batch in step.batches))
                for batch in step.batches:
                    model.post(batch.deltas(), batch.burn, now)
            standing = (await self.books.account(name)).standing
            seen = standing.balance_micros, standing.state, standing.negative_since_us, standing.burn_micros_per_hour
            assert seen == (model.balance, model.state, model.since, model.burn)
            assert standing.account_version == model.version
        await self._compare_events(name, model)

    def _encode(self, shard: int, name: str, batch: Batch) -> bytes:
        self.seqs[shard] = self.seqs.get(shard, 0) + 1
        listed = [(kind, line_class, amount) for (kind, line_class), amount in batch.totals.items()]
        return encode(make_batch(shard, self.seqs[shard], [charges(name, listed, burn=batch.burn)]))

    async def _compare_events(self, name: str, model: Model) -> None:
        told = [
            (event["type"], event["account_version"], event["balance_micros"], event["negative_since"] is None)
            for event in await self.books.events(name)
        ]
        assert told == [(kind, version, balance, since is None) for kind, version, balance, since in model.told]


@pytest.fixture(scope="module")
def story(make_module_database: MakeDatabaseBlocking) -> Iterator[Story]:
    """A ledger that all examples share; at the end its books are audited."""
    with asyncio.Runner() as runner:
        books = runner.run(Books.open(*make_module_database("balance")))
        yield Story(runner, books)
        differences = runner.run(books.audit())
        runner.run(books.close())
    assert differences == []


@settings(max_examples=60)
@given(steps=st.lists(st.one_of(polls, adjustments), min_size=1, max_size=9))
@example(  # Burn that rises and falls within one transaction: `low` is told of what was between.
    steps=[Step(0, adjustment=10), Step(0, (Batch(20, NOTHING), Batch(0, NOTHING)))]
)
@example(  # Low, told; better and worse again within one transaction: a new episode, to be told when it has cooled.
    steps=[
        Step(0, adjustment=10),
        Step(0, (Batch(20, NOTHING),)),
        Step(0, (Batch(0, NOTHING), Batch(20, NOTHING))),
        Step(COOLDOWN_US, (Batch(20, {("gpu", "charge"): 1}),)),
    ]
)
@example(  # The same by one batch: the first entry still leaves it above, the second does not.
    steps=[
        Step(0, adjustment=100),
        Step(0, (Batch(120, NOTHING),)),
        Step(0, (Batch(8, {("gpu", "charge"): 1, ("storage", "charge"): 95}),)),
        Step(COOLDOWN_US, (Batch(8, {("gpu", "charge"): 1}),)),
    ]
)
def test_accounts_stand_and_say_what_the_model_says(story: Story, steps: list[Step]) -> None:
    story.runner.run(story.tell(steps))
