"""A trace through a cluster in two ways, whose totals must be equal: too late and in disorder, and just in time."""

import asyncio
import os
import random
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import orjson
from aiokafka import AIOKafkaProducer

from deploy.local.infrastructure.probes import run_async
from shared.clock import SECOND_US, parse_instant
from shared.events.charges import read_batch
from shared.kafka import open_producer
from shared.topics import CHARGES, LIFECYCLE
from tests.fleet.disorder import shuffled_with_repeats
from tests.fleet.making import Fleet
from tests.system.broker import outgoing
from tests.system.checking import check_totals
from tests.system.cluster import NAMES, REPOSITORY, Cluster
from tests.trace.enumeration import SLOT_SECONDS, TENANTS, enumerate_totals, read_rows

REGION = "vn"
START = "2026-01-01T00:00:00Z"
START_US = parse_instant(START)
GPU_MICROS, STORAGE_MICROS = 670_000, 130
REGIONS = {REGION: {"currency": "VND", "slot_seconds": SLOT_SECONDS, "opened_at": "2020-01-01T00:00:00Z"}}
BOOK: dict[str, Any] = {
    "region": REGION,
    "effective_from": "2020-01-01T00:00:00Z",
    "gpu": {"a30": "0.67"},
    "storage": {"persistent": "0.00013"},
}
SHARDS = 16
APPLY_SECONDS_MAX = 60
# Enough for any trace: nobody runs dry, so nothing is stopped.
CREDIT_MICROS = 10**15
COLUMNS = (
    *("--id-column", "name", "--created-column", "creation_time", "--started-column", "scheduled_time"),
    *("--deleted-column", "deletion_time", "--gpu-count-column", "num_gpu", "--gpu-sku", "a30"),
    *("--storage-column", "memory_mib", "--storage-unit", "mib", "--tenant-modulo", str(TENANTS)),
)


def cluster_options(settle_delay_seconds: int) -> dict[str, Any]:
    """A stack without demo: all services, and a plan in place of deletions."""
    return {
        "regions": REGIONS,
        "start_us": START_US,
        "names": NAMES,
        "shards": SHARDS,
        "settle_delay_seconds": settle_delay_seconds,
        "settings": {"TOLLKEEPER_RUNTIME": "plan"},
    }


@dataclass(frozen=True, slots=True)
class Trace:
    """An imported trace: `events` are (instant, line) in the order of time; `totals` are counted from its rows."""

    rows: int
    events: list[tuple[int, bytes]]
    totals: dict[str, int]

    @property
    def lines(self) -> list[bytes]:
        return [line for _, line in self.events]

    @property
    def end_us(self) -> int:
        return self.events[-1][0] + SECOND_US

    @property
    def fleet(self) -> Fleet:
        return Fleet(REGIONS, (BOOK,), (), START_US, self.end_us)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a replay came to. `lines` are charge lines by class; `steps` how often the clock was moved."""

    totals: dict[str, int]
    lines: dict[str, int]
    records: int
    steps: int
    seconds: float


def tollkeeper(*arguments: object, environment: dict[str, str] | None = None) -> str:
    """Run the command line; answer what it says. Raises CalledProcessError with its errors."""
    command = [sys.executable, "-m", "deploy.cli.main", *map(str, arguments)]
    answer = subprocess.run(
        command, env=environment or dict(os.environ), cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True
    )
    return answer.stdout


def import_trace(path: Path, folder: Path) -> Trace:
    """Import a trace with the command line, and count from its rows what it must cost."""
    out = folder / "trace.jsonl"
    tollkeeper("import-trace", path, "--start", START, "--region", REGION, "--out", out, *COLUMNS)
    lines = out.read_bytes().splitlines()
    events = [(parse_instant(orjson.loads(line)["time"]), line) for line in lines]
    rows = read_rows(path)
    return Trace(len(rows), events, enumerate_totals(rows, GPU_MICROS, STORAGE_MICROS))


def open_accounts(cluster: Cluster, trace: Trace) -> None:
    """Prices in force before anything happens, and money enough for everybody."""
    cluster.put_book(BOOK)
    for tenant in trace.totals:
        cluster.credit((REGION, tenant), CREDIT_MICROS, "prepaid")


def replay_late(cluster: Cluster, trace: Trace, folder: Path) -> Outcome:
    """All of it long after it happened, shuffled, a third of it repeated, a part through each partitioner."""
    open_accounts(cluster, trace)
    began = time.monotonic()
    cluster.reach(trace.end_us)
    lines = shuffled_with_repeats(trace.lines, 5, repeats=1 / 3)
    parts = [lines[number :: len(PARTITIONERS) + 1] for number in range(len(PARTITIONERS) + 1)]
    shuffled = folder / "shuffled.jsonl"
    shuffled.write_bytes(b"\n".join(parts[0]))
    environment = cluster.environment() | {"TOLLKEEPER_HOME": str(cluster.home)}
    tollkeeper("publish", shuffled, environment=environment)
    for part, partition_of in zip(parts[1:], PARTITIONERS, strict=True):
        cluster.produce([replace(outgoing(line), partition=partition_of(line, n)) for n, line in enumerate(part)])
    return _outcome(cluster, trace, records=len(lines), steps=1, began=began)


# Of eight partitions: any, always the same, one after the other, by the whole line's checksum.
PARTITIONERS: Sequence[Callable[[bytes, int], int | None]] = (
    lambda _line, _number: None,
    lambda _line, _number: 3,
    lambda _line, number: number % 8,
    lambda line, _number: zlib.crc32(line) % 8,
)


def replay_in_time(cluster: Cluster, trace: Trace, settle_delay_seconds: int) -> Outcome:
    """Each event when the clock has reached it, so that ticks bill it.

    The clock goes to a settle delay after the next event, never further: then every event is known before a tick may
    charge its instant, as on a real clock whose platforms deliver within the delay.
    """
    open_accounts(cluster, trace)
    began = time.monotonic()
    steps = run_async(_step_through(cluster, trace, settle_delay_seconds * SECOND_US))
    cluster.reach(trace.end_us)
    return _outcome(cluster, trace, records=len(trace.events), steps=steps, began=began)


async def _step_through(cluster: Cluster, trace: Trace, delay_us: int) -> int:
    producer = await open_producer(cluster.broker.bootstrap, f"{cluster.broker.prefix}trace")
    draw, steps, first = random.Random(7), 0, 0
    try:
        async with httpx.AsyncClient(base_url=cluster.url("metering"), timeout=30) as metering:
            while first < len(trace.events):
                now_us = trace.events[first][0] + delay_us
                last = first
                while last < len(trace.events) and trace.events[last][0] <= now_us:
                    last += 1
                cluster.set_clock(now_us)
                # Within a step events come in any order.
                lines = [line for _, line in trace.events[first:last]]
                draw.shuffle(lines)
                await _apply(producer, metering, cluster.broker.prefix + LIFECYCLE, lines, draw)
                first, steps = last, steps + 1
    finally:
        await producer.stop()
    return steps


async def _apply(
    producer: AIOKafkaProducer, metering: httpx.AsyncClient, topic: str, lines: Sequence[bytes], draw: random.Random
) -> None:
    """Publish lines and wait until metering has applied them."""
    sent = [await producer.send(topic, line, partition=draw.randrange(8)) for line in lines]
    ends: dict[int, int] = {}
    for future in sent:
        place = await future
        ends[place.partition] = max(ends.get(place.partition, 0), place.offset + 1)

    deadline = time.monotonic() + APPLY_SECONDS_MAX
    while not await _applied(metering, ends):
        assert time.monotonic() < deadline, f"{ends} not applied in {APPLY_SECONDS_MAX} s"
        await asyncio.sleep(0.005)


async def _applied(metering: httpx.AsyncClient, ends: dict[int, int]) -> bool:
    positions = (await metering.get("/v1/status")).raise_for_status().json()["positions"].get(LIFECYCLE, {})
    return all(positions.get(str(partition), 0) >= end for partition, end in ends.items())


def _outcome(cluster: Cluster, trace: Trace, *, records: int, steps: int, began: float) -> Outcome:
    """Wait until settled, and hold the ledger against the oracle and against what was counted from the rows."""
    environment = cluster.environment() | {"TOLLKEEPER_HOME": str(cluster.home)}
    settled = orjson.loads(tollkeeper("wait-settled", "--json", "--timeout", 900, environment=environment))
    seconds = time.monotonic() - began
    assert settled["state"] == "settled", settled
    assert not any(settled[name]["count"] for name in ("pending", "parked", "dead")), settled
    found = check_totals(cluster, trace.fleet, trace.lines, cluster.through_us())
    totals = {tenant: micros for (_, tenant), micros in found.totals().items()}
    assert totals == trace.totals, "the oracle and the enumeration of rows differ"
    return Outcome(totals, _lines_by_class(cluster), records, steps, seconds)


def _lines_by_class(cluster: Cluster) -> dict[str, int]:
    classes: Counter[str] = Counter()
    for _, value in cluster.broker.read(CHARGES):
        assert value is not None
        classes.update(read_batch(value).lines.classes)
    return dict(classes)
