"""Balance's use cases wired to a database, with a clock that stands, for tests without Kafka."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import asyncpg
import orjson
from pydantic import BaseModel

from services.balance.app.accounts import Accounts, AdjustmentRequest
from services.balance.app.admissions import Admissions, AdmissionTerms
from services.balance.app.directory import Directory
from services.balance.app.grants import Grants
from services.balance.app.orders import Orders
from services.balance.app.payments import PaymentPoster
from services.balance.app.permits import Permits
from services.balance.app.post import Poster
from services.balance.app.post_charges import ChargePoster
from services.balance.app.price_books import apply_price_books
from services.balance.app.unit import unit_of_work
from services.balance.app.vouchers import Vouchers
from services.balance.audit import audit
from services.balance.audit.chain import Anchor
from services.balance.audit.difference import Difference
from services.balance.store.accounts import Account, load_account
from services.balance.store.adjustments import Adjustment
from shared.clock import SECOND_US, FixedClock
from shared.consumer import Apply, OffsetConsumer, Poll
from shared.db import Pool, open_pool, transaction
from shared.dead_letters import insert_dead_letters
from shared.events.prices import PriceBookPublished
from shared.kafka import Record
from shared.settings import Region, SharedSettings
from shared.topics import CHARGES
from tests.balance.batches import SHARDS, as_record

START_US = 1_800_000_000_000_000
GRACE_US = 86_400 * SECOND_US
PERMIT_US = 60 * SECOND_US
TERMS = AdmissionTerms(1800 * SECOND_US, counts_burn=False, low_cooldown_us=6 * 3600 * SECOND_US, top_up_url=None)


def make_settings() -> SharedSettings:
    region = Region(currency="VND", opened_at="2020-01-01T00:00:00Z")
    return SharedSettings(
        regions={"vn": region, "jp": Region(currency="JPY", opened_at="2020-01-01T00:00:00Z")}, shards=SHARDS
    )


@dataclass
class Books:
    """A ledger and the means to post to it and look into it."""

    owner_url: str
    pool: Pool
    clock: FixedClock
    charge_poster: ChargePoster
    payment_poster: PaymentPoster
    accounts: Accounts
    orders: Orders
    grants: Grants
    vouchers: Vouchers
    permits: Permits
    admissions: Admissions
    dead: list[str] = field(default_factory=list)
    _offset: int = 0

    @classmethod
    async def open(cls, owner_url: str, app_url: str) -> "Books":
        pool = await open_pool(app_url, application="balance-test", size_max=8)
        return cls.wire(owner_url, pool, FixedClock(START_US))

    @classmethod
    def wire(cls, owner_url: str, pool: Pool, clock: FixedClock) -> "Books":
        settings = make_settings()
        poster = Poster(low_cooldown_us=6 * 3600 * SECOND_US)
        accounts = Accounts(pool, clock, settings, poster)
        return cls(
            owner_url,
            pool,
            clock,
            ChargePoster(clock, Directory(settings.regions, settings.shards), poster),
            PaymentPoster(clock, settings, poster),
            accounts,
            Orders(pool, clock, settings, accounts),
            grants := Grants(pool, clock, accounts, poster),
            Vouchers(pool, clock, settings, grants, make_code=lambda: "MADE-CODE-0001", guesses_max=3),
            Permits(pool, clock, settings, permit_us=PERMIT_US),
            Admissions(pool, clock, settings, grants, TERMS),
        )

    async def close(self) -> None:
        await self.pool.close()

    async def post(self, *values: bytes | None) -> None:
        """Apply one poll of charge batches in one transaction, as the consumer does."""
        await self._apply(self.charge_poster.apply, values)

    async def consume(self, *values: bytes | None) -> None:
        """Apply charge batches as a consumer does: one that breaks its poll is found by halving it."""
        consumer = OffsetConsumer(
            self.pool, self.clock, self.charge_poster.apply, bootstrap="", topic_prefix="", topics=(CHARGES,), group="b"
        )
        records = [as_record(value, self._offset + number) for number, value in enumerate(values)]
        self._offset += len(records)
        await consumer._apply_until_done(records)

    async def pay(self, *events: BaseModel | bytes) -> None:
        """Apply one poll of payment events in one transaction."""
        values = [event if isinstance(event, bytes) else event.model_dump_json().encode() for event in events]
        await self._apply(self.payment_poster.apply, values)

    async def price(self, *books: PriceBookPublished | bytes) -> None:
        """Apply one poll of price books."""
        values = [book if isinstance(book, bytes) else book.model_dump_json().encode() for book in books]
        await self._apply(apply_price_books, values)

    async def _apply(self, apply: Apply, values: Sequence[bytes | None]) -> None:
        records: list[Record] = []
        for value in values:
            records.append(as_record(value, self._offset))
            self._offset += 1
        poll = Poll(records)
        async with unit_of_work(self.pool) as (connection, after_commit):
            await apply(connection, poll)
            await insert_dead_letters(connection, poll.dead, self.clock.now_us())
            for callback in poll.callbacks:
                after_commit(callback)
        self.dead += [dead.detail for dead in poll.dead]

    async def credit(self, tenant_id: str, amount_micros: int, key: str, *, region: str = "vn") -> Adjustment:
        request = AdjustmentRequest(key, amount_micros, "test", "operator")
        return await self.accounts.adjust(region, tenant_id, request)

    async def account(self, tenant_id: str, region: str = "vn") -> Account:
        async with self.pool.acquire() as connection:
            found = await load_account(connection, region, tenant_id)
        assert found is not None
        return found

    async def balance(self, tenant_id: str) -> int:
        return (await self.account(tenant_id)).standing.balance_micros

    async def rows(self, query: str, *arguments: object) -> list[tuple[object, ...]]:
        async with self.pool.acquire() as connection:
            return [tuple(row) for row in await connection.fetch(query, *arguments)]

    async def events(self, tenant_id: str) -> list[dict[str, object]]:
        """What was told of an account, in order: type and data in one."""
        rows = await self.rows(
            "select value from outbox where topic = 'account.events.v1' and key = $1 order by stream, seq",
            f"vn/{tenant_id}".encode(),
        )
        found = []
        for (value,) in rows:
            assert isinstance(value, bytes)
            event = orjson.loads(value)
            found.append({"type": event["type"].removeprefix("account."), **event["data"]})
        return found

    async def told(self, tenant_id: str) -> list[object]:
        return [event["type"] for event in await self.events(tenant_id)]

    async def audit(self, account_id: int | None = None, *, anchors: Sequence[Anchor] = ()) -> list[Difference]:
        async with transaction(self.pool) as connection:
            return await audit(connection, account_id, anchors=anchors)

    async def account_ids(self) -> list[int]:
        async with self.pool.acquire() as connection:
            return [row[0] for row in await connection.fetch("select account_id from account order by 1")]

    async def as_superuser(self, admin_url: str, *statements: str) -> None:
        """Do what nobody may, in this ledger's database."""
        name = self.owner_url.rsplit("/", 1)[1]
        connection = await asyncpg.connect(admin_url.rsplit("/", 1)[0] + "/" + name)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()


__all__: Sequence[str] = ["GRACE_US", "PERMIT_US", "START_US", "Books", "make_settings"]
