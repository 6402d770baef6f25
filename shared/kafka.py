"""The typed edge of aiokafka: records, producers, and what its own API leaves out (topic ids)."""

import asyncio
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Any, ClassVar

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError
from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Boolean, CompactArray, CompactString, Int16, Int32, Int64, Schema, TaggedFields

from shared.topics import MESSAGE_BYTES_MAX


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it was read: `topic` without the deployment's prefix, header values as bytes or None."""

    topic: str
    topic_id: uuid.UUID
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()

    @property
    def dead_id(self) -> str:
        """The id of its dead letter: its position in the topic's one incarnation."""
        return f"{self.topic_id.hex[:12]}-{self.topic}-{self.partition}-{self.offset}"


class RenewableProducer(AIOKafkaProducer):  # type: ignore[misc]  # aiokafka is untyped
    """A producer that can begin again in place.

    An idempotent producer that lost a batch, as behind a broker that stood still for longer than the batch lives, has a
    hole in its sequence numbers: the broker refuses all that it sends from then on (OutOfOrderSequenceNumber).
    """

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - those of aiokafka
        super().__init__(**options)
        self._options = options

    async def renew(self) -> None:
        """Drop what is not sent and begin under a new producer id. Raises KafkaError; then it must be renewed again."""
        if self._sender is not None and self._sender.sender_task is not None:
            self._sender.sender_task.cancel()
        with suppress(KafkaError, asyncio.CancelledError):
            await self.stop()
        super().__init__(**self._options)
        try:
            await self.start()
        except BaseException:
            await self.client.close()
            raise


async def open_producer(bootstrap: str, client_id: str, *, linger_ms: int = 2) -> RenewableProducer:
    """An idempotent producer with acks=all; records of a partition stay in order and are never doubled by a retry."""
    producer = RenewableProducer(
        bootstrap_servers=bootstrap,
        client_id=client_id,
        enable_idempotence=True,
        acks="all",
        linger_ms=linger_ms,
        max_batch_size=1024 * 1024,
        max_request_size=MESSAGE_BYTES_MAX,
        request_timeout_ms=20_000,
    )
    await producer.start()
    return producer


class _Uuid(AbstractType[uuid.UUID]):  # type: ignore[misc]  # aiokafka is untyped
    @classmethod
    def encode(cls, value: uuid.UUID) -> bytes:
        return value.bytes

    @classmethod
    def decode(cls, data: BytesIO) -> uuid.UUID:
        return uuid.UUID(bytes=data.read(16))


class _MetadataResponse(Response):  # type: ignore[misc]  # aiokafka is untyped
    API_KEY = 3
    API_VERSION = 12
    SCHEMA: ClassVar[Schema] = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("topic", CompactString("utf-8")),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _MetadataRequestStruct(RequestStruct):  # type: ignore[misc]  # aiokafka is untyped
    """Metadata version 12, the first with a nullable name: aiokafka's own stops at 5, before topic ids (version 10)."""

    API_KEY = 3
    API_VERSION = 12
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _MetadataResponse
    SCHEMA: ClassVar[Schema] = Schema(
        (
            "topics",
            CompactArray(("topic_id", _Uuid), ("topic", CompactString("utf-8")), ("tags", TaggedFields)),
        ),
        ("allow_auto_topic_creation", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class _MetadataRequest(Request[_MetadataRequestStruct]):  # type: ignore[misc]  # aiokafka is untyped
    API_KEY = 3

    def __init__(self, topics: list[str]) -> None:
        self._topics = topics

    def build(self, request_struct_class: type[_MetadataRequestStruct]) -> _MetadataRequestStruct:
        return request_struct_class([(uuid.UUID(int=0), name, {}) for name in self._topics], False, False, {})


@dataclass(frozen=True, slots=True)
class TopicDescription:
    """A topic's incarnation and the node that leads each of its partitions, from 0 on."""

    topic_id: uuid.UUID
    leaders: tuple[int, ...]

    @property
    def partitions(self) -> int:
        return len(self.leaders)


async def describe_topics(bootstrap: str, topics: list[str]) -> dict[str, TopicDescription]:
    """Every topic of these that exists."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        return await describe_with(admin._client, topics)  # noqa: SLF001 - its client sends what it has no method for
    finally:
        await admin.close()


async def describe_with(client: AIOKafkaClient, topics: list[str]) -> dict[str, TopicDescription]:
    """The same over a connection that is there."""
    response: Any = await client.send(client.get_random_node(), _MetadataRequest(topics))
    return {
        name: TopicDescription(topic_id, tuple(leader for _, _, leader, *_ in sorted(partitions, key=_number)))
        for error, name, topic_id, _internal, partitions, _operations, _tags in response.topics
        if error == 0
    }


def _number(partition: tuple[int, int]) -> int:
    return partition[1]


class _DescribeProducersResponse(Response):  # type: ignore[misc]  # aiokafka is untyped
    API_KEY = 61
    API_VERSION = 0
    SCHEMA: ClassVar[Schema] = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("name", CompactString("utf-8")),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("error_code", Int16),
                        ("error_message", CompactString("utf-8")),
                        (
                            "producers",
                            CompactArray(
                                ("producer_id", Int64),
                                ("producer_epoch", Int32),
                                ("last_sequence", Int32),
                                ("last_timestamp", Int64),
                                ("coordinator_epoch", Int32),
                                ("transaction_start", Int64),
                                ("tags", TaggedFields),
                            ),
                        ),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _DescribeProducersRequestStruct(RequestStruct):  # type: ignore[misc]  # aiokafka is untyped
    API_KEY = 61
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _DescribeProducersResponse
    SCHEMA: ClassVar[Schema] = Schema(
        (
            "topics",
            CompactArray(("name", CompactString("utf-8")), ("partitions", CompactArray(Int32)), ("tags", TaggedFields)),
        ),
        ("tags", TaggedFields),
    )


class _DescribeProducersRequest(Request[_DescribeProducersRequestStruct]):  # type: ignore[misc]  # aiokafka is untyped
    API_KEY = 61

    def __init__(self, topics: list[tuple[str, list[int], dict[int, bytes]]]) -> None:
        self._topics = topics

    def build(self, request_struct_class: type[_DescribeProducersRequestStruct]) -> _DescribeProducersRequestStruct:
        return request_struct_class(self._topics, {})


async def describe_producers(
    client: AIOKafkaClient, places: Sequence[tuple[str, int]]
) -> dict[tuple[str, int], list[int]]:
    """Producer ids with an open transaction, by topic and partition; of other partitions nothing."""
    described = await describe_with(client, sorted({topic for topic, _ in places}))
    by_leader: dict[int, dict[str, list[int]]] = {}
    for topic, number in places:
        if topic in described:
            by_leader.setdefault(described[topic].leaders[number], {}).setdefault(topic, []).append(number)
    found: dict[tuple[str, int], list[int]] = {}
    for leader, topics in by_leader.items():
        request = _DescribeProducersRequest([(topic, numbers, {}) for topic, numbers in topics.items()])
        response: Any = await client.send(leader, request)
        for name, partitions, _tags in response.topics:
            for number, _error, _message, producers, _ in partitions:
                # Before its first record a producer has no transaction here: -1.
                ids = [producer_id for producer_id, *_, start, _ in producers if start >= 0]
                if ids:
                    found[name, number] = ids
    return found
