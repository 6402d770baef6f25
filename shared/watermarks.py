"""High watermarks: what the topics hold at an instant, asked over one lasting connection."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError, for_code
from aiokafka.protocol.offset import OffsetRequest, OffsetResetStrategy

from shared.errors import TransientFault
from shared.kafka import describe_producers, describe_with

_READ_UNCOMMITTED = 0
_REQUEST_TIMEOUT_MS = 10_000

Place = tuple[str, int]


@dataclass(frozen=True, slots=True)
class TopicEnds:
    """A topic's present incarnation and the high watermark of each of its partitions, from 0 on."""

    topic_id: uuid.UUID
    ends: Sequence[int]


class Watermarks:
    """Asks for topics named without the deployment's prefix. One caller at a time.

    An open transaction counts: its records lie below the high watermark and above what a consumer can read.
    """

    def __init__(self, bootstrap: str, topic_prefix: str) -> None:
        self._bootstrap = bootstrap
        self._prefix = topic_prefix
        self._client: AIOKafkaClient | None = None

    async def load(self, topics: Sequence[str]) -> dict[str, TopicEnds]:
        """The topics as they are now. Raises TransientFault if one is missing or the broker does not answer."""
        try:
            return await self._load(topics)
        except KafkaError as error:
            await self.close()
            raise TransientFault(f"the broker does not tell its ends: {error!r}") from error

    async def load_open_transactions(self, places: Sequence[Place]) -> dict[Place, list[int]]:
        """Producer ids with an open transaction, by topic and partition."""
        try:
            client = await self._open()
            found = await describe_producers(client, [(self._prefix + topic, number) for topic, number in places])
        except KafkaError as error:
            await self.close()
            raise TransientFault(f"the broker does not describe producers: {error!r}") from error
        return {(topic.removeprefix(self._prefix), number): ids for (topic, number), ids in found.items()}

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _open(self) -> AIOKafkaClient:
        if self._client is None:
            client = AIOKafkaClient(bootstrap_servers=self._bootstrap, request_timeout_ms=_REQUEST_TIMEOUT_MS)
            try:
                await client.bootstrap()
            except BaseException:
                await client.close()
                raise
            self._client = client
        return self._client

    async def _load(self, topics: Sequence[str]) -> dict[str, TopicEnds]:
        client = await self._open()
        described = await describe_with(client, [self._prefix + topic for topic in topics])
        missing = [topic for topic in topics if self._prefix + topic not in described]
        if missing:
            raise TransientFault(f"topics do not exist: {missing}")
        by_leader: dict[int, dict[str, list[tuple[int, int]]]] = {}
        for name, topic in described.items():
            for number, leader in enumerate(topic.leaders):
                asked = by_leader.setdefault(leader, {}).setdefault(name, [])
                asked.append((number, OffsetResetStrategy.LATEST))
        ends: dict[Place, int] = {}
        for leader, wanted in by_leader.items():
            response = await client.send(leader, OffsetRequest(-1, _READ_UNCOMMITTED, list(wanted.items())))
            ends |= _read_offsets(response.topics)
        return {
            name.removeprefix(self._prefix): TopicEnds(
                topic.topic_id, [ends[name, number] for number in range(topic.partitions)]
            )
            for name, topic in described.items()
        }


def _read_offsets(topics: Sequence[tuple[str, Sequence[tuple[int, int, int, int]]]]) -> Mapping[Place, int]:
    ends: dict[Place, int] = {}
    for name, partitions in topics:
        for number, code, _timestamp, offset in partitions:
            if code:
                raise for_code(code)(f"{name}/{number}")
            ends[name, number] = offset
    return ends
