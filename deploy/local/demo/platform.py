"""A simulated platform: publishes what its containers do, and obeys commands (`shared/events/commands.py`).

Before they expire, and only if balance still agrees right before they are carried out.
"""

import asyncio
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
import orjson
from aiokafka import AIOKafkaProducer

from deploy.local.demo.settings import REGION
from shared.clock import Clock, format_instant, parse_instant
from shared.topics import LIFECYCLE, USAGE

SOURCE = "demo/platform"
SERVICE_SOURCE = "demo/inference"


@dataclass(slots=True)
class Container:
    resource_id: str
    tenant_id: str
    events: int = 0
    run: str | None = None
    deleted: bool = False


class Platform:
    """The containers of one demo run; `run_name` keeps this run's ids apart from those of other days."""

    def __init__(
        self, producer: AIOKafkaProducer, balance: httpx.AsyncClient, prefix: str, clock: Clock, run_name: str
    ) -> None:
        self._producer = producer
        self._balance = balance
        self._prefix = prefix
        self._clock = clock
        self._run_name = run_name
        self._usage_records = 0
        self.containers: dict[str, Container] = {}
        self.deleted: list[str] = []
        self.changed = asyncio.Event()

    async def create(self, tenant_id: str, *, storage_gb: int) -> Container:
        container = Container(f"ctr-{tenant_id}", tenant_id)
        self.containers[container.resource_id] = container
        await self._publish(
            container, "container.created", {"gpu_sku": "a30", "gpu_count": 1, "persistent_storage_gb": storage_gb}
        )
        return container

    async def start(self, container: Container) -> None:
        container.run = await self._publish(container, "container.started", {})

    async def use_inference(self, tenant_id: str, tokens: int) -> None:
        """The second service of the cloud: it charges the same balance."""
        self._usage_records += 1
        now = format_instant(self._clock.now_us())
        event = {
            **self._envelope(f"{self._run_name}-usage-{self._usage_records}", SERVICE_SOURCE, "service.usage"),
            "data": {
                "region": REGION,
                "tenant_id": tenant_id,
                "sku": "inference-tokens",
                "quantity": tokens,
                "from": now,
                "to": now,
            },
        }
        await self._producer.send_and_wait(self._prefix + USAGE, orjson.dumps(event), key=tenant_id.encode())

    async def obey(self, command: dict[str, Any]) -> None:
        """Carry out a command for a container of this run, if it has not expired and balance still agrees."""
        container = self.containers.get(command["subject"])
        if container is None or container.deleted or self._has_expired(command):
            return
        if command["type"] == "container.stop":
            if container.run == command["data"]["run"]["event_id"] and await self._may_stop(container):
                container.run = None
                await self._publish(container, "container.stopped", {})
        elif command["type"] == "container.delete" and await self._may_delete(command):
            container.deleted = True
            await self._publish(container, "container.deleted", {})
            self.deleted.append(container.resource_id)
        self.changed.set()

    def _has_expired(self, command: dict[str, Any]) -> bool:
        return parse_instant(command["data"]["expires_at"]) <= self._clock.now_us()

    async def _may_stop(self, container: Container) -> bool:
        """Whether the account is still at or below zero; without an answer the command stands: a stop loses no data."""
        try:
            answer = await self._balance.get(f"/v1/accounts/{REGION}/{container.tenant_id}")
        except httpx.HTTPError:
            return True
        return not answer.is_success or answer.json()["state"] in {"exhausted", "negative"}

    async def _may_delete(self, command: dict[str, Any]) -> bool:
        """Whether the permit still holds; without an answer nothing is destroyed, and the command is repeated."""
        path = f"/v1/deletion-permits/{quote(command['data']['permit_id'], safe='')}/redemptions"
        try:
            answer = await self._balance.post(path, json={"resource_id": command["subject"]})
        except httpx.HTTPError:
            return False
        # The answer took its time, and the command may have expired in it.
        return answer.status_code == httpx.codes.OK and not self._has_expired(command)

    async def _publish(self, container: Container, kind: str, data: dict[str, object]) -> str:
        container.events += 1
        event_id = f"{container.resource_id}-{container.events}"
        event = {
            **self._envelope(event_id, SOURCE, kind),
            "subject": container.resource_id,
            "data": {"region": REGION, "tenant_id": container.tenant_id, "sequence": container.events, **data},
        }
        key = f"{REGION}/{container.tenant_id}".encode()
        await self._producer.send_and_wait(self._prefix + LIFECYCLE, orjson.dumps(event), key=key)
        return event_id

    def _envelope(self, event_id: str, source: str, kind: str) -> dict[str, object]:
        return {
            "specversion": "1.0",
            "id": event_id,
            "source": source,
            "type": kind,
            "time": format_instant(self._clock.now_us()),
            "datacontenttype": "application/json",
        }
