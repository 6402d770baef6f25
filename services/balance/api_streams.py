"""Operators' HTTP over charge streams."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from services.balance.api import Shard, Words
from services.balance.app.streams import Streams


class OperatorWord(BaseModel):
    """Who decides, and why."""

    model_config = ConfigDict(extra="forbid")

    actor: Annotated[Words, Field(max_length=200)]
    reason: Annotated[Words, Field(max_length=2000)]


class StreamsApi:
    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self.router = APIRouter(prefix="/v1/streams", tags=["streams"])
        self.router.add_api_route("/{shard}/resume", self.resume, methods=["POST"])

    async def resume(self, shard: Shard, word: OperatorWord) -> dict[str, Any]:
        """Let a stopped stream go on (409 where it is not stopped); batches that contradict it are set aside."""
        return asdict(await self._streams.resume(shard, word.actor, word.reason))
