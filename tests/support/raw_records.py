"""Record batches that no producer library would make: header names that are not UTF-8."""

from collections.abc import Sequence
from dataclasses import dataclass

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import NotLeaderForPartitionError, for_code
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from aiokafka.structs import TopicPartition

from tests.support.eventually import eventually

UNCOMPRESSED, GZIP, SNAPPY, LZ4, ZSTD = range(5)


@dataclass(frozen=True)
class RawRecord:
    """A record with header names as bytes."""

    value: bytes | None
    headers: tuple[tuple[bytes, bytes | None], ...] = ()
    key: bytes | None = None


class _Name(str):
    """A header's name whose characters stand for bytes."""

    __slots__ = ()

    def encode(self, encoding: str = "latin-1", errors: str = "strict") -> bytes:  # noqa: ARG002 - str's signature
        return super().encode("latin-1", errors)


def make_batch(records: Sequence[RawRecord], compression: int = UNCOMPRESSED) -> bytes:
    builder = _DefaultRecordBatchBuilderPy(2, compression, 0, -1, -1, 0, 64 * 1024 * 1024)
    for number, record in enumerate(records):
        headers = [(_Name(name.decode("latin-1")), value) for name, value in record.headers]
        assert builder.append(number, 0, record.key, record.value, headers) is not None
    return bytes(builder.build())


async def produce_batch(
    bootstrap: str, topic: str, partition: int, records: Sequence[RawRecord], compression: int = UNCOMPRESSED
) -> int:
    """Send the records as one batch; answer the offset of the first. Raises what the broker answers."""
    batch = make_batch(records, compression)
    client = AIOKafkaClient(bootstrap_servers=bootstrap)
    await client.bootstrap()
    try:
        await client.set_topics([topic])
        # A topic made a moment ago has no leader yet.
        code, offset = await _when_led(client, topic, partition, batch)
    finally:
        await client.close()
    if code:
        raise for_code(code)
    return offset


async def _when_led(client: AIOKafkaClient, topic: str, partition: int, batch: bytes) -> tuple[int, int]:
    async def send() -> tuple[int, int]:
        return await _send(client, topic, partition, batch)

    return await eventually(send, what=f"a leader of {topic}")


async def _send(client: AIOKafkaClient, topic: str, partition: int, batch: bytes) -> tuple[int, int]:
    """The error code (0: none) and the offset that the partition's leader answers."""
    leader = client.cluster.leader_for_partition(TopicPartition(topic, partition))
    request = ProduceRequest(None, -1, 20_000, [(topic, [(partition, batch)])])
    response = await client.send(leader, request)
    [(_, [(_, code, offset, *_)])] = response.topics
    assert for_code(code) is not NotLeaderForPartitionError, "not led yet"
    answered: tuple[int, int] = code, offset
    return answered
