"""How far this service has read, and how far that is behind what is published."""

import uuid
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from shared.db import Connection, Pool, transaction
from shared.errors import TransientFault
from shared.kafka import TopicDescription, describe_topics

Ends = dict[tuple[str, int], int]
# So many earlier ends are remembered.
MARKS_MAX = 100


class Mark(NamedTuple):
    """The ends of a moment, in the topics' incarnations of then."""

    at_us: int
    ends: Ends
    topic_ids: Mapping[str, uuid.UUID]


class Positions:
    """Compares the positions kept in the database with the ends that the broker tells."""

    def __init__(self, pool: Pool, bootstrap: str, topic_prefix: str, topics: Sequence[str]) -> None:
        self._pool = pool
        self._bootstrap = bootstrap
        self._prefix = topic_prefix
        self._topics = tuple(topics)
        self._topic_ids: dict[str, uuid.UUID] = {}
        self._marks = deque[Mark](maxlen=MARKS_MAX)

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

    def remember(self, ends: Ends, at_us: int) -> None:
        """Keep the ends of a moment for `is_read_since`."""
        self._marks.append(Mark(at_us, ends, dict(self._topic_ids)))

    async def is_read_since(self, ends: Ends, since_us: int, now_us: int, lagging: Collection[str]) -> bool:
        """Whether all before `ends` is applied, but of the `lagging` topics only what was there at a moment since then.

        Somebody who writes in long transactions, one begun before the other ends, keeps a reader from the end for ever.
        """
        own = {place: end for place, end in ends.items() if place[0] not in lagging}
        if await self.count_unseen(own):
            return False
        for mark in reversed(self._marks):
            if not since_us <= mark.at_us <= now_us or mark.topic_ids != self._topic_ids:
                return False
            if not await self.count_unseen({place: end for place, end in mark.ends.items() if place[0] in lagging}):
                return True
        return False

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
