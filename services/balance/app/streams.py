"""Charge streams in trouble, as operators see them and decide over them: resume, mend, skip."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from pydantic import ValidationError

from services.balance.app.post_charges import ChargePoster
from services.balance.app.unit import unit_of_work
from services.balance.rules.stream import Arrival
from services.balance.store.streams import (
    Decision,
    StreamRow,
    StreamState,
    Waiting,
    insert_decision,
    insert_waiting,
    load_decisions,
    load_stream_state,
    load_stream_states,
    load_waiting_at,
    lock_streams,
    release_stream,
    set_aside_waiting,
    set_conflicts_aside,
)
from shared.clock import Clock
from shared.db import Connection, Pool, transaction
from shared.errors import Refusal
from shared.events.charges import ChargeBatch, compress, decompress
from shared.events.charges import Lines as ChargeLines
from shared.events.reading import describe
from shared.log import get_logger

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Decided:
    """How a stream stands after a decision; `stopped_reason` where it stopped again.

    `set_aside` batches will never be posted. `would_post`: what a skipped one would have.
    """

    shard: int
    seq: int
    stopped_reason: str | None
    set_aside: int
    would_post: Any = None


@dataclass(frozen=True, slots=True)
class StreamView:
    """A stream, what waits under its next number, and the last decisions."""

    state: StreamState
    next_batches: Sequence[tuple[Waiting, str | None]]
    decisions: Sequence[dict[str, Any]]


class Streams:
    """Use cases of operators on charge streams."""

    def __init__(self, pool: Pool, clock: Clock, poster: ChargePoster) -> None:
        self._pool = pool
        self._clock = clock
        self._poster = poster

    async def list(self, *, after: int, limit: int, in_trouble: bool) -> Sequence[StreamState]:
        """Streams by shard; `in_trouble`: only those that are stopped or in which something waits."""
        async with transaction(self._pool) as connection:
            return await load_stream_states(connection, after=after, limit=limit, in_trouble=in_trouble)

    async def show(self, shard: int) -> StreamView:
        """A stream with the bytes that wait under its next number, each with its fault. Raises Refusal."""
        async with transaction(self._pool) as connection:
            state = await load_stream_state(connection, shard)
            if state is None:
                raise Refusal("stream-not-found", f"shard {shard} has no charge stream", status=404)
            waiting = await load_waiting_at(connection, shard, state.seq + 1)
            decisions = await load_decisions(connection, shard)
        return StreamView(state, [(item, self._poster.read(item.value).fault) for item in waiting], decisions)

    async def resume(self, shard: int, actor: str, reason: str) -> Decided:
        """Let a stopped stream go on with its next batch; it stops again if that one can't be posted.

        What was posted stays: what contradicts it is set aside, and so is a faulty batch beside a good one of the same
        number. Money that a set-aside batch would have moved is an adjustment. Raises Refusal.
        """
        async with unit_of_work(self._pool) as (connection, after_commit):
            stream = (await lock_streams(connection, [shard]))[shard]
            if stream.stopped_reason is None or stream.stopped_seq is None:
                raise Refusal("stream-not-stopped", f"the charge stream of shard {shard} is not stopped")
            decision = Decision("resumed", stream.stopped_seq, stream.stopped_reason, actor, reason)
            decision_id = await insert_decision(connection, shard, decision, self._clock.now_us())
            aside = await set_conflicts_aside(connection, shard, decision_id)
            aside += await self._set_faulty_aside(connection, stream, decision_id)
            await release_stream(connection, shard)
            await self._poster.take_one(connection, shard, [], after_commit)
            after = (await lock_streams(connection, [shard]))[shard]
        logger.warning("stream.resumed", shard=shard, seq=after.seq, actor=actor, set_aside=aside)
        return Decided(shard, after.seq, after.stopped_reason, aside)

    async def mend(self, shard: int, seq: int, value: bytes, actor: str, reason: str) -> Decided:
        """Post another batch in place of the one that a stream stopped at or waits for. Raises Refusal."""
        batch = _read_mended(value, shard, seq)
        mended = self._read(batch)
        if mended.fault is not None:
            raise Refusal("batch-refused", mended.fault, status=422)
        return await self._replace("mended", mended, actor, reason)

    async def skip(self, shard: int, seq: int, actor: str, reason: str) -> Decided:
        """Post nothing for the batch that a stream stopped at or waits for; what it would have posted is kept."""
        async with transaction(self._pool) as connection:
            waiting = await load_waiting_at(connection, shard, seq)
        told = orjson.dumps([_would_post(item.value) for item in waiting]).decode()
        nothing = ChargeBatch(
            shard=shard,
            seq=seq,
            charged_at=self._clock.now_us(),
            function_version=1,
            book_version=0,
            accounts=[],
            lines=ChargeLines(**{name: [] for name in ChargeLines.model_fields}),
        )
        empty = self._read(nothing)
        return await self._replace("skipped", empty, actor, reason, told)

    def _read(self, batch: ChargeBatch) -> Arrival:
        try:
            return self._poster.read(compress(batch.model_dump_json(exclude_none=True).encode()))
        except ValueError as error:
            raise Refusal("batch-refused", str(error), status=422) from error

    async def _replace(
        self,
        kind: Literal["mended", "skipped"],
        arrival: Arrival,
        actor: str,
        reason: str,
        would_post: str | None = None,
    ) -> Decided:
        shard, seq = arrival.batch.shard, arrival.batch.seq
        async with unit_of_work(self._pool) as (connection, after_commit):
            stream = (await lock_streams(connection, [shard]))[shard]
            stopped_reason = await _require_trouble(connection, stream, seq)
            decision = Decision(kind, seq, stopped_reason, actor, reason, arrival.sha256, would_post)
            now_us = self._clock.now_us()
            decision_id = await insert_decision(connection, shard, decision, now_us)
            hashes = [item.sha256 for item in await load_waiting_at(connection, shard, seq)]
            others = [item for item in hashes if item != arrival.sha256]
            aside = await set_aside_waiting(connection, shard, seq, others, decision_id)
            await insert_waiting(connection, [arrival], now_us)
            await release_stream(connection, shard)
            await self._poster.take_one(connection, shard, [], after_commit)
            after = (await lock_streams(connection, [shard]))[shard]
            if after.seq < seq:
                raise Refusal("batch-refused", after.stopped_reason or "it is not posted", status=422)
        logger.warning(f"stream.{kind}", shard=shard, seq=seq, actor=actor, set_aside=aside, would_post=would_post)
        told = None if would_post is None else orjson.loads(would_post)
        return Decided(shard, after.seq, after.stopped_reason, aside, told)

    async def _set_faulty_aside(self, connection: Connection, stream: StreamRow, decision_id: int) -> int:
        """Set aside what is faulty under the next number, if something beside it is not."""
        waiting = await load_waiting_at(connection, stream.shard, stream.seq + 1)
        faulty = [item.sha256 for item in waiting if self._poster.read(item.value).fault is not None]
        if not faulty or len(faulty) == len(waiting):
            return 0
        return await set_aside_waiting(connection, stream.shard, stream.seq + 1, faulty, decision_id)


async def _require_trouble(connection: Connection, stream: StreamRow, seq: int) -> str:
    """Why a stream stands before batch `seq`. Raises Refusal where it does not."""
    if seq != stream.seq + 1:
        raise Refusal("not-the-next-batch", f"the stream of shard {stream.shard} waits for batch {stream.seq + 1}")
    if stream.stopped_reason is not None:
        if stream.stopped_seq != seq:
            raise Refusal("stopped-elsewhere", f"{stream.stopped_reason}; resume the stream first")
        return stream.stopped_reason
    if stream.has_waiting and not await load_waiting_at(connection, stream.shard, seq, 1):
        return f"batch {seq} is missing"
    raise Refusal("stream-not-stopped", f"the charge stream of shard {stream.shard} is not stopped")


def _read_mended(value: bytes, shard: int, seq: int) -> ChargeBatch:
    """A batch as an operator gives it: a JSON document, compressed or not. Raises Refusal."""
    try:
        document = value if value[:1] in (b"{", b" ", b"\n") else bytes(decompress(value))
        batch = ChargeBatch.model_validate_json(document)
    except ValidationError as error:
        raise Refusal("batch-refused", describe(error), status=422) from error
    except ValueError as error:
        raise Refusal("batch-refused", str(error), status=422) from error
    if (batch.shard, batch.seq) != (shard, seq):
        raise Refusal("batch-refused", f"it is batch {batch.seq} of shard {batch.shard}", status=422)
    return batch


def _would_post(value: bytes) -> Any:  # noqa: ANN401 - whatever the bytes say
    """The totals of a batch by account, as far as it can be read."""
    try:
        document = orjson.loads(decompress(value))
        return [
            {name: account.get(name) for name in ("region", "tenant_id", "burn_micros_per_hour", "totals")}
            for account in document["accounts"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
