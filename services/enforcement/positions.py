"""How far this service has read, and how far that is behind what is published."""

import uuid
from collections.abc import Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from shared.db import Connection, Pool, transaction
from shared.errors import TransientFault
from shared.kafka import TopicDescription, describe_topics

Ends = dict[tuple[str, int], int]


class Positions:
    """Compares the positions kept in the database with the ends that the broker tells."""

    def __init__(self, pool: Pool, bootstrap: str, topic_prefix: str, topics: Sequence[str]) -> None:
        self._pool = pool
        self._bootstrap = bootstrap
        self._prefix = topic_prefix
        self._topics = tuple(topics)
        self._topic_ids: dict[str, uuid.UUID] = {}

    async def load_ends(self) -> Ends:
        """The present end of every partition that holds records. Raises TransientFault when one can't be known."""
        described = await self._describe()
        partitions = [
            TopicPartition(self._prefix + name, number)
            for name, topic in described.items()
            for number in range(topic.partitions)
        ]
        # High watermarks, which only a `read_uncommitted` client is told: an open transaction counts as unread.
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap, enable_auto_commit=False, isolation_level="read_uncommitted"
        )
        try:
            await consumer.start()
            ends = await consumer.end_offsets(partitions)
            begins = await consumer.beginning_offsets(partitions)
        except KafkaError as error:
            raise TransientFault(f"the broker does not tell its ends: {error!r}") from error
        finally:
            await consumer.stop()
        return {
            (item.topic.removeprefix(self._prefix), item.partition): end
            for item, end in ends.items()
            if end > begins[item]
        }

    async def count_unseen(self, ends: Ends) -> int:
        """How many records before `ends` are not applied yet."""
        positions = await self.load()
        return sum(max(0, end - positions.get(topic, {}).get(partition, 0)) for (topic, partition), end in ends.items())

    async def load(self) -> dict[str, dict[int, int]]:
        """The next offset to apply, per topic and partition, of the topics' present incarnations."""
        if not self._topic_ids:
            await self._describe()
        async with transaction(self._pool) as connection:
            return await load_positions(connection, list(self._topic_ids.values()))

    async def _describe(self) -> dict[str, TopicDescription]:
        try:
            found = await describe_topics(self._bootstrap, [self._prefix + topic for topic in self._topics])
        except KafkaError as error:
            raise TransientFault(f"the broker does not describe its topics: {error!r}") from error
        described = {name.removeprefix(self._prefix): topic for name, topic in found.items()}
        if len(described) < len(self._topics):
            raise TransientFault(f"topics do not exist yet: {sorted(set(self._topics) - set(described))}")
        self._topic_ids = {name: topic.topic_id for name, topic in described.items()}
        return described


async def load_positions(connection: Connection, topic_ids: Sequence[uuid.UUID]) -> dict[str, dict[int, int]]:
    rows = await connection.fetch(
        "select topic, partition, next_offset from consumer_offset where topic_id = any($1::uuid[]) order by 1, 2",
        list(topic_ids),
    )
    positions: dict[str, dict[int, int]] = {}
    for row in rows:
        positions.setdefault(row["topic"], {})[row["partition"]] = row["next_offset"]
    return positions
