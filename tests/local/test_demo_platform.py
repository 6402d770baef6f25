"""The demo's platform asks balance again right before it carries a command out."""

from collections.abc import AsyncIterator
from typing import Any, cast

import httpx
import orjson
import pytest
from fastapi import FastAPI, Response

from deploy.local.demo.platform import Container, Platform
from shared.clock import SECOND_US, FixedClock, format_instant, parse_instant

NOW_US = parse_instant("2026-11-01T08:00:00Z")


class Producer:
    """Keeps what the platform says."""

    def __init__(self) -> None:
        self.said: list[str] = []

    async def send_and_wait(self, _topic: str, value: bytes, key: bytes) -> None:
        assert key
        self.said.append(orjson.loads(value)["type"])


class Balance:
    """Answers redemptions with `status`, takes `seconds` for it, and has the account in `state`."""

    def __init__(self, clock: FixedClock) -> None:
        self.status = 200
        self.state = "negative"
        self.seconds = 0
        self.redeemed: list[tuple[str, str]] = []
        self.api = FastAPI()
        self.api.post("/v1/deletion-permits/{permit_id}/redemptions")(self.redeem)
        self.api.get("/v1/accounts/vn/acme")(lambda: {"state": self.state})
        self._clock = clock

    def redeem(self, permit_id: str, body: dict[str, str]) -> Response:
        self.redeemed.append((permit_id, body["resource_id"]))
        self._clock.set(self._clock.now_us() + self.seconds * SECOND_US)
        return Response(status_code=self.status)


class Town:
    def __init__(self, platform: Platform, producer: Producer, balance: Balance) -> None:
        self.platform = platform
        self.producer = producer
        self.balance = balance
        self.container = platform.containers["ctr-acme"] = Container("ctr-acme", "acme", run="run-1")

    async def command(self, kind: str, **data: Any) -> list[str]:
        data["expires_at"] = format_instant(NOW_US + 60 * SECOND_US)
        await self.platform.obey({"type": kind, "subject": "ctr-acme", "data": data})
        return self.producer.said


@pytest.fixture
async def town() -> AsyncIterator[Town]:
    clock, producer = FixedClock(NOW_US), Producer()
    balance = Balance(clock)
    transport = httpx.ASGITransport(balance.api)
    async with httpx.AsyncClient(transport=transport, base_url="http://balance") as client:
        yield Town(Platform(cast("Any", producer), client, "", clock, "run"), producer, balance)


async def test_a_delete_is_redeemed_right_before_it_destroys(town: Town) -> None:
    assert await town.command("container.delete", permit_id="p-1") == ["container.deleted"]
    assert town.balance.redeemed == [("p-1", "ctr-acme")]


@pytest.mark.parametrize("status", [409, 404, 500, 503])
async def test_a_delete_without_consent_destroys_nothing(town: Town, status: int) -> None:
    town.balance.status = status
    assert await town.command("container.delete", permit_id="p-1") == []
    town.balance.status = 200
    assert await town.command("container.delete", permit_id="p-2") == ["container.deleted"]


async def test_a_consent_that_came_after_the_command_expired_destroys_nothing(town: Town) -> None:
    town.balance.seconds = 60
    assert await town.command("container.delete", permit_id="p-1") == []


@pytest.mark.parametrize(("state", "said"), [("exhausted", ["container.stopped"]), ("ok", []), ("low", [])])
async def test_who_recovered_meanwhile_is_not_stopped(town: Town, state: str, said: list[str]) -> None:
    town.balance.state = state
    assert await town.command("container.stop", run={"event_id": "run-1"}) == said


async def test_a_stop_of_another_run_asks_nobody(town: Town) -> None:
    assert await town.command("container.stop", run={"event_id": "run-0"}) == []
