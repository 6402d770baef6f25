"""From a balance that reached zero to the command that stops the container, under a steady load."""

import time
from dataclasses import dataclass

import orjson

from shared.topics import COMMANDS, LIFECYCLE
from tests.bench.fleet import REGION, BenchFleet, Crossers
from tests.bench.launch import crossings_file
from tests.bench.pipeline import MINUTE_US, START_US, WAIT_SECONDS, advance, open_cluster
from tests.support.infrastructure import SessionInfrastructure
from tests.system.cluster import NAMES, Cluster
from tests.system.waiting import wait_for

FIRST_MINUTE = 4
RICH_MICROS = 10**13


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds from the commit at balance to the broker's own time of the command; `load` in charges a second."""

    load_wanted: float
    load: float
    milliseconds: list[float]
    fleet: BenchFleet

    def percentile(self, percent: int) -> float:
        """The least latency that so many percent do not exceed."""
        ordered = sorted(self.milliseconds)
        return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def measure_latency(
    servers: SessionInfrastructure, fleet: BenchFleet, *, charges_per_second: float, crossings: int, shards: int
) -> Latency:
    """Let a minute pass as often as the load asks for; in each some accounts reach zero."""
    minutes = 40
    crossers = Crossers(FIRST_MINUTE, minutes, crossings // minutes, START_US)
    with open_cluster(servers, "latency", shards=shards, names=NAMES) as cluster:
        prepaid = [(f"t{number}", RICH_MICROS) for number in range(fleet.tenants)]
        for tenant, micros in [*crossers.tenants(), *prepaid]:
            cluster.credit((REGION, tenant), micros, "prepaid")
        cluster.publish([*fleet.lines(), *crossers.lines()])
        cluster.settle(WAIT_SECONDS)
        _wait_for_enforcement(cluster)
        # One minute warms the caches.
        advance(cluster, FIRST_MINUTE - 1)
        cluster.settle(WAIT_SECONDS)
        began = time.monotonic()
        pause_seconds = fleet.charges_per_minute / charges_per_second
        for number in range(minutes):
            time.sleep(max(0.0, began + number * pause_seconds - time.monotonic()))
            cluster.reach(START_US + (FIRST_MINUTE + number) * MINUTE_US)
        cluster.settle(WAIT_SECONDS)
        seconds = time.monotonic() - began
        found = _pair(cluster, crossers)
    return Latency(charges_per_second, fleet.charges_per_minute * minutes / seconds, found, fleet)


def _wait_for_enforcement(cluster: Cluster) -> None:
    """Return when enforcement knows every container: it can stop no others."""
    ends = cluster.broker.ends(LIFECYCLE)[LIFECYCLE]

    def known() -> bool:
        positions = cluster.status("enforcement").get("positions", {}).get(LIFECYCLE, {})
        return all(positions.get(str(partition), 0) >= end for partition, end in ends.items())

    wait_for(known, timeout_seconds=WAIT_SECONDS, what="enforcement knows the fleet")


def _pair(cluster: Cluster, crossers: Crossers) -> list[float]:
    """The latency of every crosser's first command."""
    tenants = {tenant for tenant, _ in crossers.tenants()}
    commanded: dict[str, int] = {}

    def all_commanded() -> bool:
        for at_us, value in cluster.broker.read_times(COMMANDS):
            event = orjson.loads(value)
            if event["type"] == "container.stop":
                commanded.setdefault(event["data"]["tenant_id"], at_us)
        return tenants <= commanded.keys()

    wait_for(all_commanded, timeout_seconds=60, what=lambda: f"{sorted(tenants - commanded.keys())[:5]} stopped")
    lines = crossings_file(cluster.home).read_text().splitlines()
    crossed = {tenant: int(at_us) for tenant, at_us in map(str.split, lines)}
    return [(commanded[tenant] - crossed[tenant]) / 1000 for tenant in sorted(tenants)]
