"""What a test does to a running service: publish, move the clock, look at what came out."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from services.enforcement.handlers import LifecycleFact
from services.enforcement.rules.account import Account, AccountKey
from services.enforcement.rules.lifecycle import Fact
from services.enforcement.rules.resource import Family, ResourceKey
from services.enforcement.service import Service
from services.enforcement.store.cases import describe_cases
from shared.clock import SECOND_US, FixedClock, format_instant
from shared.topics import ACCOUNT_EVENTS, COMMANDS, ENFORCEMENT_EVENTS, LIFECYCLE, TOPICS
from tests.enforcement.fake_balance import FakeBalance
from tests.enforcement.fake_neighbours import FakeMetering, FakePayment
from tests.support.eventually import eventually

logger = logging.getLogger(__name__)

ACME = AccountKey("vn", "acme")
_TYPES = {"exhausted": "account.exhausted", "negative": "account.negative", "opened": "account.opened"}


def account(state: str, version: int, *, since_us: int | None = None, key: AccountKey = ACME) -> Account:
    """An account of a state, with a balance that fits it."""
    balances = {"negative": -5, "exhausted": 0, "opened": 0}
    return Account(key, version, state, balances.get(state, 7), since_us)


def account_event(seen: Account, time_us: int) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": f"{seen.key.region}/{seen.key.tenant_id}/{seen.version}",
        "source": "tollkeeper/balance",
        "type": _TYPES.get(seen.state, "account.recovered"),
        "subject": "/".join(seen.key),
        "time": format_instant(time_us),
        "datacontenttype": "application/json",
        "data": {
            "region": seen.key.region,
            "tenant_id": seen.key.tenant_id,
            "account_version": seen.version,
            "currency": "VND",
            "state": seen.state,
            "balance_micros": seen.balance_micros,
            "spendable_micros": seen.balance_micros,
            "burn_micros_per_hour": 0,
            "negative_since": None if seen.negative_since_us is None else format_instant(seen.negative_since_us),
        },
    }


def happened(
    verb: str,
    resource_id: str,
    at_us: int,
    event_id: str = "",
    *,
    key: AccountKey = ACME,
    source: str = "platform/vn",
    **told: Any,
) -> LifecycleFact:
    """A lifecycle fact; a resource whose id begins with "vol" is a volume. `told`: sequence, run_id, replaces."""
    family: Family = "volume" if resource_id.startswith("vol") else "container"
    fact = Fact(verb, at_us, source, event_id or f"{resource_id}-{verb}-{at_us}", **told)
    return LifecycleFact(ResourceKey(key.region, resource_id, key.tenant_id, family), fact)


def lifecycle_event(
    kind: str, resource_id: str, event_id: str, at_us: int, *, tenant: str = "acme", **data: object
) -> dict[str, Any]:
    """A lifecycle event as the platform publishes it."""
    extra: dict[str, object] = {"gpu_count": 1, "gpu_sku": "a30"} if kind == "container.created" else {}
    return {
        "specversion": "1.0",
        "id": event_id,
        "source": "platform/vn",
        "type": kind,
        "subject": resource_id,
        "time": format_instant(at_us),
        "data": {"region": "vn", "tenant_id": tenant, **extra, **data},
    }


class World:
    """One service with its loops, and the test's hands on everything around it."""

    def __init__(
        self,
        service: Service,
        producer: AIOKafkaProducer,
        clock: FixedClock,
        balance: FakeBalance,
        metering: FakeMetering,
        payment: FakePayment,
    ) -> None:
        self.service = service
        self.clock = clock
        self.balance = balance
        self.metering = metering
        self.payment = payment
        self._producer = producer
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ids = 0

    def start(self, *names: str) -> None:
        """Start loops by name."""
        for name in names:
            self._tasks[name] = asyncio.create_task(_keep(self.service.loops()[name]), name=name)

    async def stop(self, *names: str) -> None:
        tasks = [self._tasks.pop(name) for name in names]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        await self.stop(*self._tasks)

    async def learn(self, *facts: Account | LifecycleFact) -> None:
        """Let the service apply facts in one transaction, as a poll of records would; let balance say the same."""
        for fact in facts:
            if isinstance(fact, Account):
                self.balance.set(fact)
        told = [replace(fact, told_at_us=self.clock.now_us()) if isinstance(fact, Account) else fact for fact in facts]
        async with self.service.enforce.unit() as (_, unit):
            await unit.save(await unit.learn(told))

    def move(self, seconds: float) -> None:
        self.clock.set(self.clock.now_us() + round(seconds * SECOND_US))

    async def sent(self, topic: str, *kinds: str) -> list[dict[str, Any]]:
        """What was decided to be published on a topic, of these types or of all, in its order per account."""
        rows = await self.fetch("select value from outbox where topic = $1 order by stream, seq", topic)
        found = [orjson.loads(row["value"]) for row in rows]
        return [event for event in found if not kinds or event["type"] in kinds]

    async def told(self, *kinds: str) -> list[str]:
        """The types of the events of enforcement, of these or of all."""
        return [event["type"] for event in await self.sent(ENFORCEMENT_EVENTS, *kinds)]

    async def deleted(self) -> list[str]:
        """The resources whose deletion was commanded, once per command."""
        return [item["subject"] for item in await self.sent(COMMANDS, "container.delete", "volume.delete")]

    async def cases(self, key: AccountKey = ACME) -> list[dict[str, Any]]:
        """The account's deletion cases as the API describes them."""
        async with self.service.pool.acquire() as connection:
            return await describe_cases(connection, key, after="", limit=100)

    async def tell_account(self, seen: Account, *, also_balance: bool = True) -> None:
        """Publish what balance says, and let balance answer the same."""
        if also_balance:
            self.balance.set(seen)
        await self.publish(ACCOUNT_EVENTS, account_event(seen, self.clock.now_us()))

    async def tell(
        self,
        kind: str,
        resource_id: str,
        event_id: str = "",
        *,
        tenant: str = "acme",
        ago_seconds: int = 0,
        **data: object,
    ) -> str:
        """Publish a lifecycle event; answer its id."""
        self._ids += 1
        event_id = event_id or f"evt-{self._ids}"
        at_us = self.clock.now_us() - ago_seconds * SECOND_US
        await self.publish(LIFECYCLE, lifecycle_event(kind, resource_id, event_id, at_us, tenant=tenant, **data))
        return event_id

    async def publish(self, topic: str, event: dict[str, Any]) -> None:
        name = self.service.settings.topic_prefix + topic
        await self._producer.send_and_wait(name, orjson.dumps(event), key=event["subject"].encode(), partition=0)

    async def settle(self) -> None:
        """Wait until everything that was published is applied and everything that was decided is published."""
        ends = await self.service.positions.load_ends()

        unpublished = "select 1 from stream_head join outbox_cursor using (stream) where seq > published_seq"

        async def is_settled() -> bool:
            return not await self.service.positions.count_unseen(ends) and not await self.fetch(unpublished)

        settled: bool = await eventually(is_settled, what="everything applied and published")
        assert settled

    async def settle_intake(self) -> None:
        """Wait until everything that was published is applied."""
        ends = await self.service.positions.load_ends()

        async def is_applied() -> bool:
            return not await self.service.positions.count_unseen(ends)

        applied: bool = await eventually(is_applied, what="everything applied")
        assert applied

    async def eventually_commands(self, count: int) -> list[dict[str, Any]]:
        async def enough() -> list[dict[str, Any]]:
            commands = await self.commands()
            assert len(commands) >= count
            return commands

        return await eventually(enough, what=f"{count} commands")

    async def pass_stops(self) -> None:
        """Let the due stops be sent now, and published."""
        await self.send_due_stops()
        await self.settle()

    async def send_due_stops(self) -> None:
        while await self.service.stopping.send_first() or await self.service.stopping.repeat():
            pass

    async def fetch(self, query: str, *arguments: object) -> list[dict[str, Any]]:
        async with self.service.pool.acquire() as connection:
            return [dict(row) for row in await connection.fetch(query, *arguments)]

    async def execute(self, statement: str, *arguments: object) -> None:
        async with self.service.pool.acquire() as connection:
            await connection.execute(statement, *arguments)

    async def commands(self) -> list[dict[str, Any]]:
        return await self.read(COMMANDS)

    async def events(self) -> list[dict[str, Any]]:
        return await self.read(ENFORCEMENT_EVENTS)

    async def read(self, topic: str) -> list[dict[str, Any]]:
        """Everything on a topic, ordered by partition and offset."""
        settings = self.service.settings
        name = settings.topic_prefix + topic
        consumer = AIOKafkaConsumer(bootstrap_servers=settings.kafka_bootstrap, enable_auto_commit=False)
        await consumer.start()
        found: list[dict[str, Any]] = []
        try:
            counts = {item.name: item.partitions for item in TOPICS}
            partitions = [TopicPartition(name, number) for number in range(counts[topic])]
            consumer.assign(partitions)
            ends = await consumer.end_offsets(partitions)
            for partition in partitions:
                consumer.seek(partition, 0)
            while sum(ends.values()) > len(found):
                batches = await consumer.getmany(timeout_ms=200)
                found += [orjson.loads(item.value) for batch in batches.values() for item in batch]
        finally:
            await consumer.stop()
        return found


async def _keep(loop: Callable[[], Awaitable[None]]) -> None:
    """Start a loop again when it fails with a fault, as the supervisor does."""
    while True:
        try:
            await loop()
        except Exception:
            logger.exception("loop failed")
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def running(world: World, *names: str) -> AsyncIterator[World]:
    world.start(*names)
    try:
        yield world
    finally:
        await world.stop(*names)
