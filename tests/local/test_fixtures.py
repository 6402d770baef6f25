"""The fixtures that every test of a service rests on."""

import asyncpg
import pytest

from shared.topics import TOPICS, ensure_topics
from tests.conftest import MakeDatabase


async def test_database_is_migrated_and_the_application_owns_nothing(make_database: MakeDatabase) -> None:
    owner_url, app_url = await make_database("metering")
    app = await asyncpg.connect(app_url)
    try:
        assert await app.fetchval("select current_user") == "tollkeeper_app"
        assert await app.fetchval("select count(*) from migration") > 0
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await app.execute("delete from outbox")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await app.execute("create table mine (a int)")
    finally:
        await app.close()
    assert owner_url != app_url


async def test_databases_are_separate(make_database: MakeDatabase) -> None:
    first, _ = await make_database("metering")
    second, _ = await make_database("metering")
    connection = await asyncpg.connect(first)
    try:
        await connection.execute("insert into topic_layout values ('a', 1)")
    finally:
        await connection.close()
    connection = await asyncpg.connect(second)
    try:
        assert await connection.fetchval("select count(*) from topic_layout") == 0
    finally:
        await connection.close()


async def test_topics_are_made_once(kafka_bootstrap: str, topic_prefix: str) -> None:
    made = await ensure_topics(kafka_bootstrap, topic_prefix)
    assert made == [topic_prefix + topic.name for topic in TOPICS]
    assert await ensure_topics(kafka_bootstrap, topic_prefix) == []
