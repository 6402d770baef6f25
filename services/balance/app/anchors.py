"""Anchoring: what the chain's heads are is told outside of the database, on a topic and to whoever asks."""

import asyncio

from services.balance.store.chain import Head, load_heads
from shared.clock import Clock
from shared.db import Connection, Pool, transaction
from shared.events.anchors import ChainHead
from shared.outbox import ANCHOR_STREAM, JSON_TYPE, Message, append_messages
from shared.topics import ANCHORS


class Anchoring:
    """Publishes the heads that moved. Telling one twice is harmless, so what was told is kept in memory alone."""

    def __init__(self, pool: Pool, clock: Clock, every_seconds: float) -> None:
        self._pool = pool
        self._clock = clock
        self._every_seconds = every_seconds
        self._told: dict[int, int] = {}

    async def run(self) -> None:
        """Anchor until cancelled."""
        while True:
            await self.anchor()
            await asyncio.sleep(self._every_seconds)

    async def anchor(self) -> int:
        """Publish the heads that moved; answer how many."""
        async with transaction(self._pool) as connection:
            known = await load_chain_heads(connection)
            heads = [head for head in known if self._told.get(head.shard) != head.link_number]
            messages = [
                Message(ANCHOR_STREAM, ANCHORS, str(head.shard).encode(), head.model_dump_json().encode(), JSON_TYPE)
                for head in heads
            ]
            await append_messages(connection, messages, self._clock.now_us())
        self._told.update({head.shard: head.link_number for head in heads})
        return len(heads)


async def load_chain_heads(connection: Connection) -> list[ChainHead]:
    """The heads of all shards that have posted, as committed now, by shard."""
    return [_tell(head) for head in await load_heads(connection)]


def _tell(head: Head) -> ChainHead:
    return ChainHead(
        shard=head.shard, link_number=head.link_number, link=head.link.hex(), posted_at=head.last_posted_at_us
    )
