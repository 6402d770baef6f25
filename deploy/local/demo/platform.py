"""A simulated platform: publishes what its containers do, and obeys commands for them, before they expire."""

import asyncio
from dataclasses import dataclass
from typing import Any

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

    def __init__(self, producer: AIOKafkaProducer, prefix: str, clock: Clock, run_name: str) -> None:
        self._producer = producer
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
        """Carry out a command for a container of this run, if it has not expired."""
        container = self.containers.get(command["subject"])
        data = command["data"]
        if container is None or container.deleted or parse_instant(data["expires_at"]) <= self._clock.now_us():
            return
        if command["type"] == "container.stop" and container.run == data["run"]["event_id"]:
            container.run = None
            await self._publish(container, "container.stopped", {})
        elif command["type"] == "container.delete":
            container.deleted = True
            await self._publish(container, "container.deleted", {})
            self.deleted.append(container.resource_id)
        self.changed.set()

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
