"""Readiness as use: a statement answered, a record produced and consumed."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import asyncpg
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from deploy.local.faults import StackError

READINESS_TOPIC = "tollkeeper.readiness"
_PAUSE_SECONDS = 0.1
_Answer = TypeVar("_Answer")
_NOT_YET = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, KafkaError, asyncio.TimeoutError)


def run_async(work: Coroutine[Any, Any, _Answer]) -> _Answer:
    """Run a coroutine to its end from blocking code, also where the caller's thread already has a loop."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def wait_for_postgres(url: str, *, timeout_seconds: float, give_up: Callable[[], str | None] = lambda: None) -> None:
    """Return when `select 1` is answered. `give_up` tells why waiting is in vain (its server died), or None."""
    run_async(_wait("PostgreSQL", lambda: _select_one(url), timeout_seconds, give_up))


def wait_for_kafka(bootstrap: str, *, timeout_seconds: float, give_up: Callable[[], str | None] = lambda: None) -> None:
    """Return when a record was produced and consumed through a consumer group."""
    with _quiet_client():
        run_async(_wait("Kafka", lambda: _produce_and_consume(bootstrap), timeout_seconds, give_up))


async def _wait(
    name: str,
    attempt: Callable[[], Coroutine[Any, Any, None]],
    timeout_seconds: float,
    give_up: Callable[[], str | None],
) -> None:
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + max(1, deadline - time.monotonic())):
                await attempt()
        except _NOT_YET as error:
            if reason := give_up():
                raise StackError(reason) from error
            if time.monotonic() > deadline:
                raise StackError(f"{name} was not ready after {timeout_seconds:.0f} s: {error!r}") from error
            await asyncio.sleep(_PAUSE_SECONDS)
        else:
            return


async def _select_one(url: str) -> None:
    connection = await asyncpg.connect(url, timeout=5)
    try:
        await connection.fetchval("select 1")
    finally:
        await connection.close()


async def _produce_and_consume(bootstrap: str) -> None:
    host, _, port = bootstrap.partition(",")[0].rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.close()
    await _ensure_topic(bootstrap)
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True, acks="all")
    await producer.start()
    try:
        sent = await producer.send_and_wait(READINESS_TOPIC, b"ready")
    finally:
        await producer.stop()
    consumer = AIOKafkaConsumer(
        READINESS_TOPIC,
        bootstrap_servers=bootstrap,
        group_id=READINESS_TOPIC,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    await consumer.start()
    try:
        while (await consumer.getone()).offset < sent.offset:
            pass
    finally:
        await consumer.stop()


async def _ensure_topic(bootstrap: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        if READINESS_TOPIC in await admin.list_topics():
            return
        topic = NewTopic(READINESS_TOPIC, 1, 1, topic_configs={"retention.ms": "3600000"})
        response = await admin.create_topics([topic])
        for name, code, message in response.topic_errors:
            if code and for_code(code) is not TopicAlreadyExistsError:
                raise for_code(code)(f"topic {name}: {message}")
    finally:
        await admin.close()


@contextlib.contextmanager
def _quiet_client() -> Iterator[None]:
    """A server that starts refuses connections and has no coordinator yet: no news while waiting for it."""
    client = logging.getLogger("aiokafka")
    level = client.level
    client.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        client.setLevel(level)
