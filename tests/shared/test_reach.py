"""What a service stands on and does not answer is named where one asks whether it is ready."""

import asyncio

import httpx
import pytest

from shared import reach
from shared.http import create_api
from shared.reach import Reach


async def test_what_does_not_answer_is_named_in_time_and_what_does_is_not_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reach, "ANSWER_SECONDS", 0.05)
    asked: list[str] = []
    hangs = asyncio.Event()

    async def database() -> None:
        asked.append("database")

    async def broker() -> None:
        asked.append("broker")
        await hangs.wait()

    async def cache() -> None:
        raise ConnectionRefusedError

    found = Reach({"database": database, "broker": broker, "cache": cache})
    api = create_api("test", readiness=dict, failing=lambda: {"tick": "fails"}, reach=found)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://test") as client:
        answer = await client.get("/readyz")
        assert answer.status_code == 200
        assert answer.json()["failing"] == {
            "tick": "fails",
            "broker": "does not answer within 0.05 s",
            "cache": "does not answer: ConnectionRefusedError",
        }
        hangs.set()
        assert set((await client.get("/readyz")).json()["failing"]) == {"tick", "cache"}
        await client.get("/readyz")
    assert asked == ["database", "broker"]
