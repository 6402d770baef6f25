"""A generated fleet at rest: `tenants` x `containers`, each with a GPU running and a disk since before the start."""

from collections.abc import Iterator
from dataclasses import dataclass

import orjson

from shared.clock import SECOND_US, format_instant

REGION = "vn"
REGIONS = {REGION: {"currency": "VND", "slot_seconds": 60, "opened_at": "2020-01-01T00:00:00Z"}}
BOOK = {
    "region": REGION,
    "effective_from": "2020-01-01T00:00:00Z",
    "gpu": {"a30": "0.67", "h100-sxm": "2.54"},
    "storage": {"persistent": "0.00013"},
}

A30_MICROS = 670_000


@dataclass(frozen=True, slots=True)
class BenchFleet:
    """`storage_gb` 0 leaves one charge per container and minute, else there are two."""

    tenants: int
    containers: int
    storage_gb: int
    start_us: int

    @property
    def accounts(self) -> int:
        return self.tenants

    @property
    def running(self) -> int:
        return self.tenants * self.containers

    @property
    def charges_per_minute(self) -> int:
        return self.running * (2 if self.storage_gb else 1)

    def lines(self) -> Iterator[bytes]:
        """Created and started events; creations spread over the minute before the start."""
        for number in range(self.running):
            created_us = self.start_us - 60 * SECOND_US + number * 7_919 % 59_000 * 1000
            data = {"region": REGION, "tenant_id": f"t{number // self.containers}", "sequence": 1}
            sku = ("a30", "h100-sxm")[number % 2]
            configuration = {"gpu_sku": sku, "gpu_count": 1 + number % 3, "persistent_storage_gb": self.storage_gb}
            yield _event(number, "container.created", created_us, {**data, **configuration})
            yield _event(number, "container.started", created_us, {**data, "sequence": 2})


@dataclass(frozen=True, slots=True)
class Crossers:
    """Tenants with one container each, whose money is gone to the micro at some minute: `per_minute` at each."""

    first_minute: int
    minutes: int
    per_minute: int
    start_us: int

    def tenants(self) -> Iterator[tuple[str, int]]:
        """(tenant, credit in micros); by the minute's end a slot more has begun than minutes have passed."""
        for number in range(self.minutes * self.per_minute):
            minute = self.first_minute + number // self.per_minute
            yield f"x{number}", (minute + 1) * A30_MICROS // 60

    def lines(self) -> Iterator[bytes]:
        for number, (tenant, _) in enumerate(self.tenants()):
            created_us = self.start_us - 60 * SECOND_US + number * 7_919 % 59_000 * 1000
            data = {"region": REGION, "tenant_id": tenant, "sequence": 1, "gpu_sku": "a30", "gpu_count": 1}
            yield _event(f"x{number}", "container.created", created_us, data)
            started = {"region": REGION, "tenant_id": tenant, "sequence": 2}
            yield _event(f"x{number}", "container.started", created_us, started)


def _event(number: int | str, kind: str, time_us: int, data: dict[str, object]) -> bytes:
    return orjson.dumps(
        {
            "specversion": "1.0",
            "id": f"{number}-{data['sequence']}",
            "source": "bench",
            "type": kind,
            "subject": f"ctr-{number}",
            "time": format_instant(time_us),
            "data": data,
        }
    )
