"""Operators' HTTP over charge streams: what is in trouble, and what becomes of it."""

import base64
import binascii
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Field

from services.balance.api import Limit, Shard
from services.balance.app.streams import Decided, Streams, StreamView
from services.balance.store.streams import StreamState
from shared.clock import format_instant
from shared.cursors import After, Cursors
from shared.errors import Refusal
from shared.operators import OperatorWord

_STREAMS = Cursors("streams", (-1,))
Number = Annotated[int, Field(strict=True, ge=1, le=2**63 - 1)]


class SkipBody(OperatorWord):
    """`seq`: the batch that the stream stopped at or waits for."""

    seq: Number


class MendBody(SkipBody):
    """What is posted in its stead: a batch as JSON `text`, or in `base64`, as JSON or compressed."""

    text: str | None = None
    base64: str | None = None

    def value(self) -> bytes:
        if (self.text is None) == (self.base64 is None):
            raise Refusal("invalid-request", "give the mended batch as text or as base64", status=422)
        if self.text is not None:
            return self.text.encode()
        try:
            return base64.b64decode(self.base64 or "", validate=True)
        except binascii.Error as error:
            raise Refusal("invalid-base64", f"the field base64 is not base64: {error}", status=422) from error


class StreamsApi:
    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self.router = APIRouter(prefix="/v1/streams", tags=["streams"])
        add = self.router.add_api_route
        add("", self.list, methods=["GET"])
        add("/{shard}", self.show, methods=["GET"])
        add("/{shard}/resume", self.resume, methods=["POST"])
        add("/{shard}/mend", self.mend, methods=["POST"])
        add("/{shard}/skip", self.skip, methods=["POST"])

    async def list(self, after: After = None, limit: Limit = 100, *, in_trouble: bool = True) -> dict[str, Any]:
        """Streams that are stopped or in which something waits, by shard; with `in_trouble=false` all of them."""
        (shard,) = _STREAMS.read(after)
        found = await self._streams.list(after=shard, limit=limit, in_trouble=in_trouble)
        return {
            "streams": [_describe(state) for state in found],
            "next": _STREAMS.write((found[-1].shard,) if len(found) == limit else None),
        }

    async def show(self, shard: Shard) -> dict[str, Any]:
        """A stream with what waits under its next number, bytes and faults, and the last decisions over it."""
        return _describe_view(await self._streams.show(shard))

    async def resume(self, shard: Shard, word: OperatorWord) -> dict[str, Any]:
        """Let a stopped stream go on (409 where it is not stopped); batches that contradict it are set aside."""
        return _describe_decided(await self._streams.resume(shard, word.actor, word.reason))

    async def mend(self, shard: Shard, body: MendBody) -> dict[str, Any]:
        """Post another batch in place of the one that the stream stopped at; 422 where that one can't be posted."""
        return _describe_decided(await self._streams.mend(shard, body.seq, body.value(), body.actor, body.reason))

    async def skip(self, shard: Shard, body: SkipBody) -> dict[str, Any]:
        """Post nothing for the batch that the stream stopped at; what it would have posted is kept and answered."""
        return _describe_decided(await self._streams.skip(shard, body.seq, body.actor, body.reason))


def _describe(state: StreamState) -> dict[str, Any]:
    missing = state.first_waiting is not None and state.first_waiting > state.seq + 1
    return {
        "shard": state.shard,
        "seq": state.seq,
        "stopped": state.stopped_reason,
        "stopped_seq": state.stopped_seq,
        "stopped_at": None if state.stopped_at_us is None else format_instant(state.stopped_at_us),
        "missing": state.seq + 1 if missing else None,
        "asked": state.asked,
        "waiting": state.waiting,
    }


def _describe_view(view: StreamView) -> dict[str, Any]:
    return {
        **_describe(view.state),
        "next_batches": [
            {
                "seq": item.seq,
                "sha256": item.sha256.hex(),
                "fault": fault,
                "arrived_at": format_instant(item.arrived_at_us),
                "value_base64": base64.b64encode(item.value).decode(),
            }
            for item, fault in view.next_batches
        ],
        "decisions": [
            {
                **row,
                "sha256": None if row["sha256"] is None else row["sha256"].hex(),
                "decided_at": format_instant(row["decided_at"]),
            }
            for row in view.decisions
        ],
    }


def _describe_decided(decided: Decided) -> dict[str, Any]:
    return asdict(decided)
