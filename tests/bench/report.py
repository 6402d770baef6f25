"""The benchmark's figures beside what is reached for, and what bounded them."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.fleet import BenchFleet
from tests.bench.intake import Hot
from tests.bench.intake import Measured as Intake
from tests.bench.inventory import Listed
from tests.bench.latency import Latency, percentile
from tests.bench.pipeline import Measured
from tests.bench.webhooks import Webhooks

WIDTH = 120
# Used so far, a core or a loop is what the rest waits for.
FULL = 0.9
# The fleet of the design: tenants, containers each.
DESIGNED = (10_000, 100)
MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Row:
    what: str
    target: str
    measured: str
    reached: bool | None = None


@dataclass(frozen=True, slots=True)
class Figures:
    """All that was measured; what was left out is None or missing."""

    shapes: Mapping[str, Measured]
    latency: Latency | None = None
    webhooks: Webhooks | None = None
    intake: Intake | None = None
    hot: Mapping[str, Hot] = field(default_factory=dict)
    inventory: Listed | None = None
    durability: Mapping[str, str] = field(default_factory=dict)

    @property
    def wrong(self) -> int:
        """Accounts that differ from the oracle, and faults of the books, over all."""
        shapes = sum(measured.wrong + measured.faults for measured in self.shapes.values())
        others = (self.latency, self.webhooks, self.intake, self.inventory, *self.hot.values())
        return shapes + sum(part.wrong for part in others if part is not None)


def print_report(figures: Figures, *, cores: int) -> None:
    # Where no terminal has a say, rows stay whole.
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    table = Table("what", "reach for", "measured", "")
    for row in rows(figures):
        table.add_row(row.what, row.target, row.measured, {True: "✓", False: "✗", None: ""}[row.reached])
    console.print(table)
    told = ", ".join(f"{name} {value}" for name, value in figures.durability.items())
    console.print(f"PostgreSQL: {told}; Kafka: acks all", highlight=False)
    for name, measured in figures.shapes.items():
        console.print(_where(name, measured))
        console.print(f"  bounded by {bound(measured, cores)}", highlight=False, soft_wrap=True)
        verdict = "every account right to the micro" if not measured.wrong else f"{measured.wrong} accounts are WRONG"
        books = "the books agree" if not measured.faults else f"{measured.faults} FAULTS in the books"
        console.print(f"  oracle: {verdict}; audit: {books}", highlight=False)


def rows(figures: Figures) -> list[Row]:
    """A mark stands only where what was measured has the shape of its target."""
    return [
        *_charge_rows(figures.shapes),
        *_latency_rows(figures.latency),
        *_intake_rows(figures),
        *webhook_rows(figures.webhooks),
    ]


def _charge_rows(found: Mapping[str, Measured]) -> list[Row]:
    made: list[Row] = []
    charges, few, accounts = found.get("charges"), found.get("few"), found.get("accounts")
    if charges is not None:
        rate, fleet = charges.charges_per_second, charges.fleet
        designed = (fleet.tenants, fleet.containers) == DESIGNED
        what = f"charges a second, {fleet.tenants:,} tenants x {fleet.containers} containers"
        made += [
            Row(what, "3,000,000 at 10,000 x 100", f"{rate:,.0f}", rate >= 3_000_000 if designed else None),
            _at_a_million("a minute charged and settled", "< 2 s", charges.minute_seconds, "s", 2, fleet),
            _at_most("stored per charge, ledger and evidence", 4, charges.stored_per_charge, "B"),
            _at_a_million("metering's memory per container", "<= 400 B", charges.memory_per_container, "B", 400, fleet),
            _at_a_million("first tick of a new worker", "<= 10 s", charges.first_tick_seconds, "s", 10, fleet),
        ]
        if few is not None:
            ratio = charges.processor_per_charge_us / few.processor_per_charge_us
            what = f"cost per charge, {fleet.tenants:,} tenants over {few.fleet.tenants:,}"
            made.append(Row(what, "<= 1.2 at 10,000 over 100", f"{ratio:.2f}", ratio <= 1.2 if designed else None))
    if few is not None:
        what = f"charges a second, {few.fleet.tenants:,} tenants x {few.fleet.containers} containers"
        made.append(Row(what, "", f"{few.charges_per_second:,.0f}"))
    if accounts is not None:
        rate = accounts.accounts_per_second
        what = f"accounts debited a second, {accounts.fleet.tenants:,} with one container each"
        made.append(Row(what, "90,000", f"{rate:,.0f}", rate >= 90_000))
    return made


def _latency_rows(latency: Latency | None) -> list[Row]:
    if latency is None:
        return []
    load = f"{len(latency.to_command)} crossings at {latency.load:,.0f} charges a second"
    event, command = latency.to_event, latency.to_command
    worst = _at_most("zero crossing to stop command, p99", 250, round(percentile(command, 99)), "ms")
    if not latency.is_under_load:
        why = f"no mark: {latency.load_wanted:,.0f} wanted, {latency.late} minutes late, {latency.wrong} accounts wrong"
        worst = replace(worst, what=f"{worst.what} ({why})", reached=None)
    return [
        Row("zero crossing to account event, p50 and p99", "", _pair(percentile(event, 50), percentile(event, 99))),
        Row(f"zero crossing to stop command, p50, {load}", "", f"{percentile(command, 50):.0f} ms"),
        worst,
    ]


def _intake_rows(figures: Figures) -> list[Row]:
    made: list[Row] = []
    if (intake := figures.intake) is not None:
        made += [
            Row("lifecycle events applied a second", "30,000", f"{intake.new:,.0f}", intake.new >= 30_000),
            Row("of them, late ones that correct", "", f"{intake.late:,.0f}"),
        ]
    if (listed := figures.inventory) is not None:
        rate, is_million = listed.resources_per_second, listed.resources >= MILLION
        made.append(
            Row(
                f"a listing of {listed.resources:,} resources compared, resources a second",
                "a million in 60 s",
                f"{rate:,.0f} ({listed.seconds:.1f} s, {listed.contradictions} contradictions)",
                listed.seconds <= 60 if is_million else None,
            )
        )
    for order, hot in figures.hot.items():
        slowest = min(hot.first, hot.last)
        designed = hot.events >= 10_000
        what = f"one container's {hot.events:,} events a second, {order}"
        made += [
            Row(what, "5,000 at 10,000", f"{slowest:,.0f}", slowest >= 5000 if designed else None),
            Row(
                "  the first fifth over the last",
                "<= 2",
                f"{hot.slowdown:.2f}",
                hot.slowdown <= 2 if designed else None,
            ),
            Row(
                "  its longest answer to /healthz meanwhile, ms",
                "<= 50",
                f"{1000 * hot.longest:.0f}",
                hot.longest <= 0.05 if designed else None,
            ),
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


def _at_a_million(what: str, target: str, measured: float, unit: str, most: float, fleet: BenchFleet) -> Row:
    """Its target is at a million containers: fewer prove nothing."""
    reached = measured <= most if fleet.running >= MILLION else None
    return Row(f"{what}, at {fleet.running:,}", f"{target} at 1,000,000", f"{measured:.4g} {unit}", reached)


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


def as_json(figures: Figures) -> dict[str, Any]:
    latency = figures.latency
    cores = os.cpu_count() or 1
    document: dict[str, Any] = {
        "figures": [
            {"what": row.what, "target": row.target, "measured": row.measured, "reached": row.reached}
            for row in rows(figures)
        ],
        "durability": dict(figures.durability),
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
                "faults_in_books": measured.faults,
            }
            for name, measured in figures.shapes.items()
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
            "minutes_late": latency.late,
            "accounts_wrong": latency.wrong,
        }
    return document
