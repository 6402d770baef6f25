"""What a service's own relay published, told from what a stranger put on the same topic.

Read at the start of a service, before any loop: nothing on a topic may keep it from starting. A stranger's record is
passed over whatever it holds, headers like the relay's included.
"""

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from shared.clock import parse_instant
from shared.events.charges import decompress
from shared.events.prices import PriceBookPublished
from shared.events.reading import read_json
from shared.events.service import SOURCES, ServiceName
from shared.outbox import SEQ_HEADER, STREAM_HEADER
from shared.topic_reader import FoundRecord, TopicReader
from shared.topics import CHARGES, PRICE_BOOKS

_NUMBER = re.compile(rb"-?[0-9]{1,19}", re.ASCII)
_STREAM_MAX, _SEQ_MAX = 2**31 - 1, 2**63 - 1


@dataclass(frozen=True, slots=True)
class OwnRecord:
    """A record of the service's own relay; `event` is its CloudEvent, None where the topic has none."""

    stream: int
    seq: int
    event: Mapping[str, Any] | None

    @property
    def time_us(self) -> int | None:
        return None if self.event is None else parse_instant(self.event["time"])


def find_own(service: ServiceName, topic: str, record: FoundRecord) -> OwnRecord | None:
    """The record as the relay wrote it; None for a stranger's."""
    place = _read_place(record)
    if place is None or record.value is None:
        return None
    try:
        if topic == CHARGES:
            batch = orjson.loads(decompress(record.value))
            return OwnRecord(*place, None) if (batch["shard"], batch["seq"]) == place else None
        if topic == PRICE_BOOKS:
            read_json(PriceBookPublished, record.value)
            return OwnRecord(*place, None)
        event = orjson.loads(record.value)
        if event["source"] != SOURCES[service]:
            return None
        parse_instant(event["time"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return OwnRecord(*place, event)


def _read_place(record: FoundRecord) -> tuple[int, int] | None:
    texts = [record.headers.get(name) or b"" for name in (STREAM_HEADER, SEQ_HEADER)]
    if not all(map(_NUMBER.fullmatch, texts)):
        return None
    stream, seq = map(int, texts)
    return (stream, seq) if abs(stream) <= _STREAM_MAX and 0 < seq <= _SEQ_MAX else None


async def read_own_events(
    reader: TopicReader, service: ServiceName, topic: str, starts: Mapping[int, int]
) -> AsyncIterator[Mapping[str, Any]]:
    """The CloudEvents that the service published to a topic, from `starts` (by partition) to its present end."""
    async for record in reader.read_records(topic, starts):
        own = find_own(service, topic, record)
        if own is not None and own.event is not None:
            yield own.event
