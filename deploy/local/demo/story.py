"""The story: one healthy customer, one that runs dry and comes back, one whose container is deleted in the end."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
from rich.console import Console

from deploy.local.demo.platform import Platform
from deploy.local.demo.settings import GRACE_SECONDS, REGION
from shared.clock import Clock, format_instant
from shared.events.account import AccountEvent
from shared.events.reading import read_as
from shared.money import MICROS, format_micros

PRICE_BOOK = {
    "region": REGION,
    "effective_from": "2020-01-01T00:00:00Z",
    "gpu": {"a30": "36"},
    "storage": {"persistent": "0.036"},
    "services": {"inference-tokens": {"unit": "1000-tokens", "price": "0.5"}},
}
STEP_SECONDS_MAX = 90


class DemoError(Exception):
    """The story took another turn than it says."""


class Story:
    """Plays the story and tells what balance and enforcement say of it."""

    def __init__(
        self, platform: Platform, metering: httpx.AsyncClient, balance: httpx.AsyncClient, clock: Clock, run_name: str
    ) -> None:
        self._platform = platform
        self._metering = metering
        self._balance = balance
        self._clock = clock
        self._console = Console()
        self._seen: dict[str, set[str]] = {}
        self._news = asyncio.Event()
        self.healthy, self.dry, self.gone = (f"{name}-{run_name}" for name in ("acme", "binh", "chi"))

    def tell(self, text: str) -> None:
        self._console.print(f"[dim]{format_instant(self._clock.now_us())[11:19]}[/] {text}", highlight=False)

    def hear(self, event: dict[str, Any]) -> None:
        """Take note of an event of balance or enforcement about one of our customers, and tell it."""
        tenant = event["data"]["tenant_id"]
        if tenant not in (self.healthy, self.dry, self.gone):
            return
        if event["type"] in self._seen.setdefault(tenant, set()) and event["type"] == "account.low":
            return
        self._seen[tenant].add(event["type"])
        detail = ""
        if event["type"].startswith("account."):
            account = read_as(AccountEvent, event).data
            detail = f" at {format_micros(account.balance_micros)} {account.currency}"
        elif event["data"].get("resource_id"):
            detail = f" of {event['data']['resource_id']}"
        self.tell(f"  {tenant}: [bold]{event['type']}[/]{detail}")
        self._news.set()

    async def play(self) -> None:
        """The whole story. Raises DemoError where it does not go as told."""
        await self._prepare()
        self.tell(f"{self.dry} now also uses the inference service, which charges the same balance")
        await self._until("the balance is low", lambda: self._heard(self.dry, "account.low"), self._drain)
        await self._until("the empty account's container is stopped", self._dry_is_stopped, self._drain)
        self.tell(f"{self.dry} is stopped at zero; its storage stays and is still billed")
        await self._until("storage is still billed", lambda: self._heard(self.dry, "account.negative"))
        await self._credit(self.dry, 60)
        await self._until("new credits bring it back", lambda: self._heard(self.dry, "account.recovered"))
        await self._platform.start(self._platform.containers[f"ctr-{self.dry}"])
        self.tell(f"{self.dry} started its container again; nothing restarts by itself")
        self.tell(f"{self.gone} stays below zero: deletion is due {GRACE_SECONDS} seconds after it went there")
        await self._until("the one container is deleted", lambda: bool(self._platform.deleted))
        await self._until("its deletion is done", lambda: self._heard(self.gone, "deletion.done"))
        await self._close()

    async def _prepare(self) -> None:
        answer = await self._metering.put("/v1/price-books", json=PRICE_BOOK)
        if not answer.is_success:
            raise DemoError(f"metering refused the demo's price book: {answer.json().get('detail')}")
        self.tell("a price book: an a30 for 36.00 an hour (0.01 a second), storage, inference tokens")
        for tenant, credit in ((self.healthy, 100), (self.dry, 38), (self.gone, 0)):
            if credit:
                await self._credit(tenant, credit)
            container = await self._platform.create(tenant, storage_gb=50)
            await self._platform.start(container)
            self.tell(f"{tenant} created and started {container.resource_id}: 1 x a30, 50 GB")

    async def _credit(self, tenant: str, units: int) -> None:
        key = f"demo-{tenant}-{units}"
        body = {"amount_micros": units * MICROS, "reason": "the demo's credit", "actor": "demo"}
        path = f"/v1/accounts/{REGION}/{tenant}/adjustments"
        answer = await self._balance.post(path, json=body, headers={"Idempotency-Key": key})
        answer.raise_for_status()
        self.tell(f"{tenant} got {units}.00 of credit")

    async def _drain(self) -> None:
        if self._platform.containers[f"ctr-{self.dry}"].run is not None:
            await self._platform.use_inference(self.dry, 4000)

    def _heard(self, tenant: str, kind: str) -> bool:
        return kind in self._seen.get(tenant, set())

    def _dry_is_stopped(self) -> bool:
        return self._platform.containers[f"ctr-{self.dry}"].run is None

    async def _until(self, what: str, holds: Callable[[], bool], step: Callable[[], Any] | None = None) -> None:
        deadline = asyncio.get_running_loop().time() + STEP_SECONDS_MAX
        while not holds():
            if asyncio.get_running_loop().time() > deadline:
                raise DemoError(f"waited {STEP_SECONDS_MAX} s in vain: {what}")
            if step is not None:
                await step()
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), 0.5)
            except TimeoutError:
                continue

    async def _close(self) -> None:
        expected = [f"ctr-{self.gone}"]
        if self._platform.deleted != expected:
            raise DemoError(f"the story deletes {expected}, but {self._platform.deleted} were deleted")
        for tenant in (self.healthy, self.dry, self.gone):
            account = (await self._balance.get(f"/v1/accounts/{REGION}/{tenant}")).raise_for_status().json()
            self.tell(f"{tenant}: {account['state']}, {format_micros(account['balance_micros'])} {account['currency']}")
        self.tell(f"deleted: exactly {expected[0]}. The end; the stack goes on running.")
