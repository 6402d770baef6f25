"""What several tests of the shared code begin with."""

from collections.abc import AsyncIterator

import pytest

from shared.clock import SystemClock
from shared.db import Pool, ensure_partitions, open_pool, transaction
from shared.topics import ensure_topics
from tests.conftest import MakeDatabase


@pytest.fixture
async def consumer_pool(make_database: MakeDatabase, kafka_bootstrap: str, topic_prefix: str) -> AsyncIterator[Pool]:
    """A service's database with room for its outbox, and the topics."""
    await ensure_topics(kafka_bootstrap, topic_prefix)
    _, app_url = await make_database("balance")
    pool = await open_pool(app_url, application="test", size_max=8)
    async with transaction(pool) as connection:
        await ensure_partitions(connection, "outbox", SystemClock().now_us())
    yield pool
    await pool.close()
