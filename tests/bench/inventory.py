"""How fast a source's listing is compared with its events: every resource of a fleet, listed and confirmed."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import orjson

from shared.clock import MINUTE_US, format_instant
from tests.bench.fleet import BOOK, REGION, REGIONS, BenchFleet
from tests.bench.intake import wrong_accounts
from tests.bench.pipeline import START_US, WAIT_SECONDS, open_cluster
from tests.support.standalone import Servers
from tests.system.cluster import Cluster
from tests.system.waiting import wait_for

DECLARED = {REGION: {**REGIONS[REGION], "declares_inventory": True, "inventory_bound_seconds": 600}}
PAGE_RESOURCES = 1000
OBSERVED_US = START_US + 2 * MINUTE_US
# Within the bound, which the listing moves on: the minutes after it are charged only because it came.
CHARGED_UNTIL_US = START_US + 11 * MINUTE_US


@dataclass(frozen=True, slots=True)
class Listed:
    """`seconds` from the first page's sending until the last shard is compared; accounts that differ."""

    resources: int
    seconds: float
    contradictions: int
    wrong: int

    @property
    def resources_per_second(self) -> float:
        return self.resources / self.seconds


def pages(fleet: BenchFleet) -> Iterator[bytes]:
    """The fleet's listing as its source publishes it."""
    count = -(-fleet.running // PAGE_RESOURCES)
    for page in range(1, count + 1):
        numbers = range((page - 1) * PAGE_RESOURCES, min(page * PAGE_RESOURCES, fleet.running))
        resources = [
            {
                "resource_id": f"ctr-{number}",
                "tenant_id": f"t{number // fleet.containers}",
                "state": "running",
                "gpu_sku": ("a30", "h100-sxm")[number % 2],
                "gpu_count": 1 + number % 3,
                "persistent_storage_gb": fleet.storage_gb,
            }
            for number in numbers
        ]
        yield orjson.dumps(
            {
                "specversion": "1.0",
                "id": f"listing-{page}",
                "source": "bench",
                "type": "inventory.observed",
                "time": format_instant(OBSERVED_US),
                "data": {"region": REGION, "snapshot": "s1", "page": page, "pages": count, "resources": resources},
            }
        )


def measure_inventory(servers: Servers, *, tenants: int, shards: int) -> Listed:
    """Take a fleet in, have it listed, charge beyond what was confirmed before; ask the oracle."""
    fleet = BenchFleet(tenants, 100, 500, START_US)
    lines, listing = list(fleet.lines()), list(pages(fleet))
    with open_cluster(servers, "inventory", shards=shards, names=("metering",), regions=DECLARED) as cluster:
        cluster.publish(lines)
        cluster.reach(OBSERVED_US)
        cluster.settle_metering(WAIT_SECONDS)
        began = time.monotonic()
        cluster.publish(listing)
        wait_for(lambda: _is_compared(cluster, shards), timeout_seconds=WAIT_SECONDS, what="every shard compared")
        seconds = time.monotonic() - began
        [(contradictions,)] = cluster.query("metering", "select count(*) from contradiction")
        cluster.reach(CHARGED_UNTIL_US)
        cluster.settle_metering(WAIT_SECONDS)
        wrong = wrong_accounts(cluster, [*lines, *listing], [BOOK])
    return Listed(fleet.running, seconds, contradictions, wrong)


def _is_compared(cluster: Cluster, shards: int) -> bool:
    found = cluster.query("metering", "select next_shard from inventory_source where snapshot = 's1'")
    return bool(found) and found[0][0] == shards
