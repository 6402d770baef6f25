"""What a trace must cost, counted from its rows; imports nothing of ours, and nothing of the oracle either.

Read as in the trace's own description: created at `creation_time`, running from `scheduled_time` (blank: never) until
`deletion_time`, `num_gpu` GPUs, tenant `t` + (number in the name modulo `TENANTS`), a disk of whole GiB of memory.
"""

import csv
import gzip
from collections.abc import Iterable, Mapping
from pathlib import Path

SLOT_SECONDS = 60
HOUR_SECONDS = 3600
TENANTS = 100


def read_rows(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as stream:
        return list(csv.DictReader(stream))


def enumerate_totals(
    rows: Iterable[Mapping[str, str]], gpu_price_micros: int, storage_price_micros: int
) -> dict[str, int]:
    """Micros by tenant, at prices per GPU (or GB) and hour; every life has one configuration and at most one run."""
    totals: dict[str, int] = {}
    for row in rows:
        created, deleted = int(row["creation_time"]), int(row["deletion_time"])
        size_gb = -(-int(row["memory_mib"]) // 1024)
        micros = _cost(_slots(created, created, deleted), size_gb * storage_price_micros)
        if row["scheduled_time"]:
            slots = _slots(created, int(row["scheduled_time"]), deleted)
            micros += _cost(slots, int(row["num_gpu"]) * gpu_price_micros)
        tenant = f"t{int(row['name'].rpartition('-')[2]) % TENANTS}"
        totals[tenant] = totals.get(tenant, 0) + micros
    return {tenant: micros for tenant, micros in totals.items() if micros}


def _slots(created: int, begun: int, ended: int) -> int:
    """The slots of the grid from `created` on of which [begun, ended) holds an instant, looked at one by one."""
    return sum(
        max(at, begun) < min(at + SLOT_SECONDS, ended)
        for at in range(created + (begun - created) // SLOT_SECONDS * SLOT_SECONDS, ended, SLOT_SECONDS)
    )


def _cost(slots: int, price_micros: int) -> int:
    return slots * price_micros * SLOT_SECONDS // HOUR_SECONDS
