"""The benchmark's figures beside what is reached for, and what bounded them."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.latency import Latency, percentile
from tests.bench.pipeline import Measured
from tests.bench.webhooks import Webhooks

WIDTH = 120
# Used so far, a core or a loop is what the rest waits for.
FULL = 0.9


@dataclass(frozen=True, slots=True)
class Row:
    what: str
    target: str
    measured: str
    reached: bool | None = None


def print_report(
    found: Mapping[str, Measured], latency: Latency | None, webhooks: Webhooks | None, *, cores: int
) -> None:
    # Where no terminal has a say, rows stay whole.
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    table = Table("what", "reach for", "measured", "")
    for row in [*rows(found, latency), *webhook_rows(webhooks)]:
        table.add_row(row.what, row.target, row.measured, {True: "✓", False: "✗", None: ""}[row.reached])
    console.print(table)
    for name, measured in found.items():
        console.print(_where(name, measured))
        console.print(f"  bounded by {bound(measured, cores)}", highlight=False, soft_wrap=True)
        verdict = "every account right to the micro" if not measured.wrong else f"{measured.wrong} accounts are WRONG"
        console.print(f"  oracle: {verdict}", highlight=False)


def rows(found: Mapping[str, Measured], latency: Latency | None) -> list[Row]:
    made: list[Row] = []
    if (charges := found.get("charges")) is not None:
        rate, fleet = charges.charges_per_second, charges.fleet
        what = f"charges a second, {fleet.tenants:,} tenants x {fleet.containers} containers"
        made += [
            Row(what, "2,000,000 (floor 600,000)", f"{rate:,.0f}", rate >= 2_000_000),
            Row("a million containers, one minute, at this rate", "< 2 s", f"{2e6 / rate:.2f} s", rate > 1e6),
            _at_most("stored per charge, ledger and evidence", 4, charges.stored_per_charge, "B"),
            _at_most(f"metering's memory per container, at {fleet.running:,}", 400, charges.memory_per_container, "B"),
            _first_tick(charges),
            Row("lifecycle events applied a second", "", f"{charges.events_per_second:,.0f}"),
        ]
    if (accounts := found.get("accounts")) is not None:
        rate = accounts.accounts_per_second
        what = f"accounts debited a second, {accounts.fleet.tenants:,} with one container each"
        made.append(Row(what, "80,000 (floor 40,000)", f"{rate:,.0f}", rate >= 80_000))
    if latency is not None:
        load = f"{len(latency.to_command)} crossings at {latency.load:,.0f} charges a second"
        event, command = latency.to_event, latency.to_command
        made += [
            Row("zero crossing to account event, p50 and p99", "", _pair(percentile(event, 50), percentile(event, 99))),
            Row(f"zero crossing to stop command, p50, {load}", "", f"{percentile(command, 50):.0f} ms"),
            _at_most("zero crossing to stop command, p99", 250, round(percentile(command, 99)), "ms"),
        ]
    return made


def webhook_rows(webhooks: Webhooks | None) -> list[Row]:
    if webhooks is None:
        return []
    rate = f"{webhooks.a_second:,.0f}"
    verdict = "every account right" if not webhooks.wrong else f"{webhooks.wrong} accounts are WRONG"
    return [
        Row(f"webhooks answered a second, {verdict}", f"{webhooks.wanted:,.0f}", rate, webhooks.kept_up),
        _at_most("webhook due to its answer, p99", 50, round(percentile(webhooks.took_ms, 99), 1), "ms"),
    ]


def _first_tick(measured: Measured) -> Row:
    """Its target is at a million containers: fewer prove nothing."""
    reached = measured.first_tick_seconds <= 10 if measured.fleet.running >= 1_000_000 else None
    what = f"first tick of a new worker, at {measured.fleet.running:,}"
    return Row(what, "<= 10 s at 1,000,000", f"{measured.first_tick_seconds:.1f} s", reached)


def _pair(first: float, second: float) -> str:
    return f"{first:.0f} and {second:.0f} ms"


def _at_most(what: str, most: float, measured: float, unit: str) -> Row:
    return Row(what, f"<= {most:g} {unit}", f"{measured:.4g} {unit}", measured <= most)


def _where(name: str, measured: Measured) -> Table:
    """Processor time by process, a service's by loop, per thousand of what was counted and as a share of a core."""
    count = measured.charges if name == "charges" else measured.fleet.accounts * measured.rounds
    table = Table("processor time", f"us per {'charge' if name == 'charges' else 'account'}", "of one core", title=name)
    for process, seconds in sorted(measured.spent.by_process.items(), key=lambda item: -item[1]):
        table.add_row(process, f"{seconds / count * 1e6:.2f}", f"{seconds / measured.seconds:.0%}")
        for loop, part in measured.spent.by_loop.get(process, {}).items():
            if part >= seconds / 50:
                table.add_row(f"  {loop}", f"{part / count * 1e6:.2f}", f"{part / measured.seconds:.0%}")
    others = max(measured.spent.machine - measured.spent.total, 0.0)
    table.add_row("this program and others on the machine", "", f"{others / measured.seconds:.0%}")
    return table


def bound(measured: Measured, cores: int) -> str:
    """What kept it from going faster, in words: the machine, one process that fills a core, or waiting."""
    used = measured.spent.machine / (measured.seconds * cores)
    ours = measured.spent.total / (measured.seconds * cores)
    name, seconds = max(measured.spent.by_process.items(), key=lambda item: item[1])
    if used >= FULL:
        return f"the processor: {cores} cores {used:.0%} busy, {ours:.0%} of it with this pipeline"
    if seconds / measured.seconds >= FULL:
        return f"{name}, which fills a core; the machine is {used:.0%} busy"
    return f"waiting for commits and round trips: {cores} cores {used:.0%} busy, most of it {name}"


def as_json(found: Mapping[str, Measured], latency: Latency | None, webhooks: Webhooks | None = None) -> dict[str, Any]:
    cores = os.cpu_count() or 1
    document: dict[str, Any] = {
        "figures": [
            {"what": row.what, "target": row.target, "measured": row.measured, "reached": row.reached}
            for row in [*rows(found, latency), *webhook_rows(webhooks)]
        ],
        "shapes": {
            name: {
                "charges_per_second": round(measured.charges_per_second),
                "accounts_per_second": round(measured.accounts_per_second),
                "seconds": measured.seconds,
                "charges": measured.charges,
                "stored_bytes_per_charge": measured.stored_per_charge,
                "memory_bytes_per_container": measured.memory_per_container,
                "first_tick_seconds": measured.first_tick_seconds,
                "processor_seconds": measured.spent.by_process,
                "processor_seconds_by_loop": measured.spent.by_loop,
                "processor_seconds_of_machine": measured.spent.machine,
                "bounded_by": bound(measured, cores),
                "accounts_wrong": measured.wrong,
            }
            for name, measured in found.items()
        },
    }
    if latency is not None:
        document["crossing_to_command"] = {
            "p50_ms": percentile(latency.to_command, 50),
            "p99_ms": percentile(latency.to_command, 99),
            "event_p50_ms": percentile(latency.to_event, 50),
            "event_p99_ms": percentile(latency.to_event, 99),
            "crossings": len(latency.to_command),
            "charges_per_second": latency.load,
            "charges_per_second_wanted": latency.load_wanted,
        }
    return document
