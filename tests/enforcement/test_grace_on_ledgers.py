"""The grace timer on real databases of balance and enforcement: the drawn stories of the rules, posted and carried out.

Enforcement asks the real balance over HTTP; what balance told reaches it late, in another order or not at all.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings

from services.balance.api import BalanceApi
from services.enforcement.clients.balance import BalanceClient, RedemptionAnswer
from services.enforcement.handlers import read_account
from services.enforcement.rules.account import Account, AccountKey
from services.enforcement.rules.deletion import is_due
from services.enforcement.store.cases import load_cases
from shared.clock import HOUR_US, FixedClock
from shared.db import open_pool
from shared.http import create_api
from shared.ids import shard_of
from tests.balance.batches import SHARDS, charges, encode, make_batch
from tests.balance.books import Books
from tests.conftest import MakeDatabase
from tests.enforcement.conftest import REGION, Open
from tests.enforcement.fake_balance import FakeBalance
from tests.enforcement.world import World, happened
from tests.unit.enforcement.debt_story import GRACE_US, STORIES, Attempt, Entry, Hearing, Postings

Story = list[Entry | Hearing | Attempt]


@pytest.fixture
async def books(make_database: MakeDatabase, clock: FixedClock) -> AsyncIterator[Books]:
    owner_url, app_url = await make_database("balance")
    pool = await open_pool(app_url, application="balance-test", size_max=4)
    yield Books.wire(owner_url, pool, clock)
    await pool.close()


@pytest.fixture
def balance(clock: FixedClock, books: Books) -> FakeBalance:
    """The real balance in the fake one's place."""
    balance = FakeBalance(clock)
    balance.api = create_api("Balance", readiness=dict)
    balance.api.include_router(BalanceApi(books.pool, clock, books.accounts, books.permits).router)
    return balance


class Ledgers:
    """One tenant's story on both databases."""

    def __init__(self, world: World, books: Books, tenant_id: str) -> None:
        self.world = world
        self.books = books
        self.key = AccountKey("vn", tenant_id)
        self.postings = Postings()
        self._entries = count(1)

    async def begin(self) -> None:
        await self.books.accounts.open(*self.key)
        created_us = self.world.clock.now_us()
        await self.world.learn(happened("created", f"ctr-{self.key.tenant_id}", created_us, key=self.key))

    async def post(self, entry: Entry) -> None:
        """Credits by an operator's hand, everything else as charge batches, as metering would send them."""
        self._pause(entry.pause_us)
        self.postings.add(self.world.clock.now_us(), entry.delta_micros)
        if entry.kind == "credit":
            await self.books.credit(
                self.key.tenant_id, entry.amount_micros, f"{self.key.tenant_id}-{next(self._entries)}"
            )
            return
        line_class = entry.kind.replace(" ", "_")
        part = charges(self.key.tenant_id, [("gpu", line_class, -entry.delta_micros)])  # type: ignore[list-item]
        await self.books.post(encode(make_batch(*await self._next_batch(), [part])))

    async def hear(self, index: int | None) -> None:
        if index is None:
            seen = await self._ask()
        else:
            rows = await self.books.rows(
                "select value from outbox where topic = 'account.events.v1' and key = $1 order by stream, seq",
                "/".join(self.key).encode(),
            )
            told = [read_account(orjson.loads(value), {"vn": REGION}) for (value,) in rows]  # type: ignore[arg-type]
            if index >= len(told):
                return
            seen = told[index]
        await self.world.service.enforce.apply_answers([seen])

    async def attempt(self, attempt: Attempt) -> list[str]:
        """Examine this tenant's case, if it is due; answer the resources whose deletion was commanded by that."""
        self._pause(attempt.pause_us)
        before = await self._commanded()
        async with self.world.service.pool.acquire() as connection:
            cases = await load_cases(connection, [self.key])
        self.world.service.deletions.survey.forget()
        with self._between(attempt.between):
            for case in cases:
                if is_due(case, self.world.clock.now_us()):
                    await self.world.service.deletions.examine(case)
        return (await self._commanded())[len(before) :]

    @contextmanager
    def _between(self, entry: Entry | None) -> Iterator[None]:
        """Post an entry after the permit is granted and before it is redeemed."""
        redeem = BalanceClient.redeem

        async def post_and_redeem(client: BalanceClient, permit_id: str, resource_id: str) -> RedemptionAnswer:
            if entry is not None:
                await self.post(entry)
            return await redeem(client, permit_id, resource_id)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(BalanceClient, "redeem", post_and_redeem)
            yield

    async def _ask(self) -> Account:
        seen = await self.world.service.deletions._balance.load_account(self.key)
        assert seen is not None
        return seen.to_account()

    async def _commanded(self) -> list[str]:
        rows = await self.world.fetch(
            "select value from outbox where topic = 'container.commands.v1' and key = $1 order by seq",
            "/".join(self.key).encode(),
        )
        commands: list[dict[str, Any]] = [orjson.loads(row["value"]) for row in rows]
        return [command["subject"] for command in commands if command["type"] == "container.delete"]

    async def _next_batch(self) -> tuple[int, int]:
        shard = shard_of(*self.key, SHARDS)
        [(seq,)] = await self.books.rows("select coalesce(max(seq), 0) + 1 from charge_stream where shard = $1", shard)
        assert isinstance(seq, int)
        return shard, seq

    def _pause(self, pause_us: int) -> None:
        self.world.clock.set(self.world.clock.now_us() + pause_us)


async def play(ledgers: Ledgers, story: Story) -> None:
    await ledgers.begin()
    for step in story:
        if isinstance(step, Entry):
            await ledgers.post(step)
        elif isinstance(step, Hearing):
            await ledgers.hear(step.index)
        elif await ledgers.attempt(step):
            assert ledgers.postings.may_delete(ledgers.world.clock.now_us()), "deleted too early"
            return


CHARGE = Entry("charge", 2, HOUR_US)
HEAR = Hearing(None)
DUE = Attempt(GRACE_US, None)


async def test_a_debtor_is_deleted_through_the_real_balance(open_world: Open, books: Books) -> None:
    world = await open_world(runtime="simulator", shards=SHARDS)
    ledgers = Ledgers(world, books, "debtor")
    await ledgers.begin()
    await ledgers.post(CHARGE)
    await ledgers.hear(None)
    assert await ledgers.attempt(Attempt(GRACE_US - 1, None)) == []
    assert await ledgers.attempt(Attempt(1, Entry("credit correction", 1, 0))) == [], "a favour before the redemption"
    await ledgers.hear(None)
    assert await ledgers.attempt(Attempt(GRACE_US, Entry("charge", 1, 0))) == ["ctr-debtor"]


async def test_no_story_deletes_who_was_not_below_zero_for_the_whole_grace_period(
    open_world: Open, books: Books
) -> None:
    world = await open_world(runtime="simulator", shards=SHARDS)
    tenants = count(1)
    drawn: list[Story] = []

    @settings(max_examples=30)
    @given(STORIES)
    @example([CHARGE, HEAR, Entry("credit correction", 1, GRACE_US // 2), HEAR, Attempt(GRACE_US // 2, None)])
    @example([CHARGE, HEAR, Entry("credit", 2, GRACE_US // 2), CHARGE, HEAR, Attempt(GRACE_US // 2, None)])
    @example([CHARGE, HEAR, Attempt(GRACE_US, Entry("credit", 1, 0))])
    def draw(story: Story) -> None:
        drawn.append(story)

    draw()
    for story in drawn:
        await play(Ledgers(world, books, f"tenant-{next(tenants)}"), story)
