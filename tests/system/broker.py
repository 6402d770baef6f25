"""Producing and looking at records, in blocking code, as any producer might: keys and partitions mean nothing."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from deploy.local.infrastructure.probes import run_async
from shared.kafka import describe_topics
from shared.topics import LIFECYCLE, MESSAGE_BYTES_MAX, USAGE

# (topic without prefix, partition, offset)
Position = tuple[str, int, int]


@dataclass(frozen=True)
class Outgoing:
    """A record to produce; `partition` None lets a random one be chosen for each record."""

    topic: str
    value: bytes | None
    key: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    partition: int | None = None


def outgoing(line: str | bytes, partition: int | None = None) -> Outgoing:
    """A line of an event file as a record of the topic that its type belongs to."""
    value = line.encode() if isinstance(line, str) else line
    # A retraction without a subject takes out usage: only resources have one.
    is_usage = b'"service.usage"' in value or (b'"event.retracted"' in value and b'"subject"' not in value)
    return Outgoing(USAGE if is_usage else LIFECYCLE, value, partition=partition)


@dataclass(frozen=True)
class Broker:
    """A Kafka with a topic prefix of our own."""

    bootstrap: str
    prefix: str

    def produce(self, records: Sequence[Outgoing], seed: int = 0) -> list[Position]:
        """Send all and answer where the broker has them. Records without a partition go to random ones."""
        return run_async(self._produce(records, random.Random(seed)))

    async def _produce(self, records: Sequence[Outgoing], draw: random.Random) -> list[Position]:
        topics = sorted({self.prefix + record.topic for record in records})
        described = await describe_topics(self.bootstrap, topics)
        producer = AIOKafkaProducer(
            bootstrap_servers=self.bootstrap, acks="all", max_request_size=MESSAGE_BYTES_MAX, linger_ms=2
        )
        await producer.start()
        try:
            futures = []
            for record in records:
                topic, partition = self.prefix + record.topic, record.partition
                if partition is None:
                    partition = draw.randrange(described[topic].partitions)
                headers = list(record.headers)
                futures.append(
                    await producer.send(topic, record.value, key=record.key, partition=partition, headers=headers)
                )
            sent = [await future for future in futures]
        finally:
            await producer.stop()
        return [(record.topic, at.partition, at.offset) for record, at in zip(records, sent, strict=True)]

    def ends(self, *topics: str) -> dict[str, dict[int, int]]:
        """The end offset of every partition that has records, by topic without the prefix."""
        return run_async(self._ends(topics))

    async def _ends(self, topics: Sequence[str]) -> dict[str, dict[int, int]]:
        described = await describe_topics(self.bootstrap, [self.prefix + topic for topic in topics])
        consumer = AIOKafkaConsumer(bootstrap_servers=self.bootstrap, enable_auto_commit=False)
        await consumer.start()
        try:
            partitions = [
                TopicPartition(self.prefix + topic, number)
                for topic in topics
                for number in range(described[self.prefix + topic].partitions)
            ]
            ends = await consumer.end_offsets(partitions)
        finally:
            await consumer.stop()
        found: dict[str, dict[int, int]] = {topic: {} for topic in topics}
        for partition, end in ends.items():
            if end:
                found[partition.topic.removeprefix(self.prefix)][partition.partition] = end
        return found

    def read(self, topic: str) -> list[tuple[bytes | None, bytes | None]]:
        """(key, value) of every record of a topic up to now, by partition and offset."""
        return [(record.key, record.value) for record in run_async(self._read(topic))]

    def read_times(self, topic: str) -> list[tuple[int, bytes]]:
        """(instant at which the broker took it, value) of every record; the broker counts in milliseconds."""
        return [(record.timestamp * 1000, record.value) for record in run_async(self._read(topic))]

    async def _read(self, topic: str) -> list[Any]:
        ends = (await self._ends([topic]))[topic]
        if not ends:
            return []
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.bootstrap, enable_auto_commit=False, auto_offset_reset="earliest"
        )
        await consumer.start()
        try:
            consumer.assign([TopicPartition(self.prefix + topic, number) for number in sorted(ends)])
            await consumer.seek_to_beginning()
            records: list[Any] = []
            left = sum(ends.values())
            while len(records) < left:
                for batch in (await consumer.getmany(timeout_ms=1000)).values():
                    records += batch
        finally:
            await consumer.stop()
        records.sort(key=lambda record: (record.partition, record.offset))
        return records
