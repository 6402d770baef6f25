"""Reads topics from an offset to their present end, without a group: a service looks at what it published itself.

Ends are high watermarks, which only a `read_uncommitted` client is told; records are read as committed.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, TopicPartition

from shared.kafka import describe_topics
from shared.lenient_records import install_lenient_records

_POLL_MS = 1000


@dataclass(frozen=True, slots=True)
class FoundRecord:
    """A record with its header values by name; of a name that occurs twice the last one."""

    partition: int
    offset: int
    value: bytes | None
    headers: Mapping[str, bytes | None]


@dataclass(frozen=True, slots=True)
class Bounds:
    """The first offset that a partition still has, and the one that its next record will get."""

    first: int
    end: int


class TopicReader:
    """Topics of a deployment, named without its prefix."""

    def __init__(self, bootstrap: str, topic_prefix: str) -> None:
        install_lenient_records()
        self._bootstrap = bootstrap
        self._prefix = topic_prefix

    async def load_bounds(self, topics: Sequence[str]) -> dict[tuple[str, int], Bounds]:
        """The bounds of every partition of those topics that exist."""
        async with self._open(isolation="read_uncommitted") as consumer:
            return await self._bounds(consumer, topics)

    async def read(self, topic: str, starts: Mapping[int, int]) -> AsyncIterator[tuple[int, int, bytes | None]]:
        """(partition, offset, value) of every record; see `read_records`."""
        async for record in self.read_records(topic, starts):
            yield record.partition, record.offset, record.value

    async def read_records(self, topic: str, starts: Mapping[int, int]) -> AsyncIterator[FoundRecord]:
        """Every record from `starts` (by partition; absent: the first) to the present end.

        A start that lies beyond the end means that the topic was made anew or lost its tail: it is read from the first.
        """
        starting: dict[TopicPartition, int] = {}
        left: dict[TopicPartition, int] = {}
        for (_, number), bound in (await self.load_bounds([topic])).items():
            partition, start = TopicPartition(self._prefix + topic, number), starts.get(number, 0)
            starting[partition] = max(bound.first, start if start <= bound.end else 0)
            if starting[partition] < bound.end:
                left[partition] = bound.end
        if not left:
            return
        async with self._open(isolation="read_committed") as consumer:
            consumer.assign(list(left))
            for partition in left:
                consumer.seek(partition, starting[partition])
            while left:
                for batch in (await consumer.getmany(timeout_ms=_POLL_MS)).values():
                    for record in batch:
                        yield FoundRecord(record.partition, record.offset, record.value, dict(record.headers))
                for partition, end in list(left.items()):
                    if await consumer.position(partition) >= end:
                        del left[partition]

    async def _bounds(self, consumer: AIOKafkaConsumer, topics: Sequence[str]) -> dict[tuple[str, int], Bounds]:
        described = await describe_topics(self._bootstrap, [self._prefix + topic for topic in topics])
        wanted = [TopicPartition(name, number) for name, item in described.items() for number in range(item.partitions)]
        if not wanted:
            return {}
        firsts, ends = await consumer.beginning_offsets(wanted), await consumer.end_offsets(wanted)
        return {
            (item.topic.removeprefix(self._prefix), item.partition): Bounds(firsts[item], ends[item]) for item in wanted
        }

    @asynccontextmanager
    async def _open(self, *, isolation: str) -> AsyncIterator[AIOKafkaConsumer]:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level=isolation,
        )
        try:
            await consumer.start()
            yield consumer
        finally:
            await consumer.stop()
