"""Operators' HTTP over charge streams."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter

from services.balance.api import Shard
from services.balance.app.streams import Streams
from shared.operators import OperatorWord


class StreamsApi:
    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self.router = APIRouter(prefix="/v1/streams", tags=["streams"])
        self.router.add_api_route("/{shard}/resume", self.resume, methods=["POST"])

    async def resume(self, shard: Shard, word: OperatorWord) -> dict[str, Any]:
        """Let a stopped stream go on (409 where it is not stopped); batches that contradict it are set aside."""
        return asdict(await self._streams.resume(shard, word.actor, word.reason))
