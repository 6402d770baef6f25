"""From a balance that reached zero to the command that stops the container, under a steady load."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from shared.topics import ACCOUNT_EVENTS, COMMANDS, LIFECYCLE
from tests.bench.fleet import REGION, BenchFleet, Crossers
from tests.bench.launch import crossings_file
from tests.bench.pipeline import MINUTE_US, START_US, WAIT_SECONDS, advance, count_wrong, open_cluster
from tests.support.standalone import Servers
from tests.system.cluster import Cluster
from tests.system.waiting import wait_for

FIRST_MINUTE = 4
RICH_MICROS = 10**13
LOAD_REACHED = 0.95


@dataclass(frozen=True, slots=True)
class Latency:
    """From the commit at balance to the broker's own time of the account's event, and of the command, in milliseconds.

    `load` in charges a second: it is below what was wanted where the pipeline could not keep up. `late` minutes began
    before metering had ticked the one before: what it then charges at once is no steady load. `wrong` accounts differ
    from the oracle.
    """

    load_wanted: float
    load: float
    to_event: list[float]
    to_command: list[float]
    fleet: BenchFleet
    minutes: int = 0
    late: int = 0
    wrong: int = 0

    @property
    def is_under_load(self) -> bool:
        """Whether the figures are what they say: measured under the load that was wanted, of right accounts."""
        return self.load >= self.load_wanted * LOAD_REACHED and self.late <= self.minutes // 20 and not self.wrong


def percentile(values: Sequence[float], percent: int) -> float:
    """The least value that so many percent do not exceed."""
    return sorted(values)[max(0, -(-len(values) * percent // 100) - 1)]


def measure_latency(
    servers: Servers, fleet: BenchFleet, *, charges_per_second: float, crossings: int, shards: int
) -> Latency:
    """Let a minute pass as often as the load asks for; in each some accounts reach zero."""
    minutes = 40
    crossers = Crossers(FIRST_MINUTE, minutes, max(crossings // minutes, 1), START_US)
    with open_cluster(servers, "latency", shards=shards, names=("metering", "balance", "enforcement")) as cluster:
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
        late = 0
        for number in range(minutes):
            time.sleep(max(0.0, began + number * pause_seconds - time.monotonic()))
            late += number > 0 and cluster.through_us() < START_US + (FIRST_MINUTE + number - 1) * MINUTE_US
            cluster.reach(START_US + (FIRST_MINUTE + number) * MINUTE_US)
        cluster.settle(WAIT_SECONDS)
        seconds = time.monotonic() - began
        to_event, to_command = _pair(cluster, crossers)
        wrong = count_wrong(cluster, [*fleet.lines(), *crossers.lines()])
    load = fleet.charges_per_minute * minutes / seconds
    return Latency(charges_per_second, load, to_event, to_command, fleet, minutes, late, wrong)


def _wait_for_enforcement(cluster: Cluster) -> None:
    """Return when enforcement knows every container: it can stop no others."""
    ends = cluster.broker.ends(LIFECYCLE)[LIFECYCLE]

    def known() -> bool:
        positions = cluster.status("enforcement").get("positions", {}).get(LIFECYCLE, {})
        return all(positions.get(str(partition), 0) >= end for partition, end in ends.items())

    wait_for(known, timeout_seconds=WAIT_SECONDS, what="enforcement knows the fleet")


def _pair(cluster: Cluster, crossers: Crossers) -> tuple[list[float], list[float]]:
    """How long after its crossing each account's event, and its first command, were at the broker."""
    tenants = {tenant for tenant, _ in crossers.tenants()}
    wait_for(
        lambda: tenants <= _taken(cluster, COMMANDS, "container.stop").keys(),
        timeout_seconds=60,
        what="every account that crossed is stopped",
    )
    lines = crossings_file(cluster.home).read_text().splitlines()
    crossed = {tenant: int(at_us) for tenant, at_us in map(str.split, lines)}
    to_event, to_command = (
        [(taken[tenant] - crossed[tenant]) / 1000 for tenant in sorted(tenants)]
        for taken in (
            _taken(cluster, ACCOUNT_EVENTS, "account.exhausted"),
            _taken(cluster, COMMANDS, "container.stop"),
        )
    )
    return to_event, to_command


def _taken(cluster: Cluster, topic: str, kind: str) -> dict[str, int]:
    """When the broker took the first message of a kind about each tenant."""
    found: dict[str, int] = {}
    for at_us, value in cluster.broker.read_times(topic):
        event = orjson.loads(value)
        if event["type"] == kind:
            found.setdefault(event["data"]["tenant_id"], at_us)
    return found
