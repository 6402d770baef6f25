"""Stopped charge streams: an operator who has found out why lets one go on."""

from dataclasses import dataclass

from services.balance.store.streams import lock_streams, resume_stream, set_conflicts_aside
from shared.clock import Clock
from shared.db import Pool, transaction
from shared.errors import Refusal
from shared.log import get_logger

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Resumption:
    """A stream goes on after `seq`; `set_aside` batches contradicted what was posted and will never be."""

    shard: int
    seq: int
    stopped_reason: str
    set_aside: int


class Streams:
    def __init__(self, pool: Pool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock

    async def resume(self, shard: int, actor: str, reason: str) -> Resumption:
        """Let a stopped stream go on with its next batch; it stops again if that one may not be posted.

        What was posted stays: money that a set-aside batch would have moved is an adjustment. Raises Refusal.
        """
        async with transaction(self._pool) as connection:
            stream = (await lock_streams(connection, [shard]))[shard]
            if stream.stopped_reason is None:
                raise Refusal("stream-not-stopped", f"the charge stream of shard {shard} is not stopped")
            resumption_id = await resume_stream(connection, shard, actor, reason, self._clock.now_us())
            set_aside = await set_conflicts_aside(connection, shard, resumption_id)
        logger.warning("stream.resumed", shard=shard, seq=stream.seq, actor=actor, set_aside=set_aside)
        return Resumption(shard, stream.seq, stream.stopped_reason, set_aside)
