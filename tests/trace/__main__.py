"""`python -m tests.trace FILE.csv[.gz]`: a cluster's trace through the whole system, late and in time, to the micro.

Once imported long after it happened, shuffled, a third repeated, through several partitioners; and once on the test
clock, each event published when the clock has reached it, so that ticks bill it. Either total must be what the oracle
counts from the events and what is counted from the trace's rows, for every tenant.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.support.infrastructure import temporary_home
from tests.support.standalone import Servers, open_servers
from tests.support.topics import session_prefix
from tests.system.cluster import Cluster
from tests.trace.replaying import Outcome, Trace, cluster_options, import_trace, replay_in_time, replay_late


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.trace", description=__doc__)
    parser.add_argument("trace", type=Path, metavar="FILE.csv[.gz]")
    parser.add_argument(
        "--settle-delay-seconds",
        type=int,
        default=300,
        help="how late an event may be known on the test clock; a step goes so far beyond an event",
    )
    options = parser.parse_args()
    with open_servers() as servers, temporary_home() as folder:
        trace = import_trace(options.trace, folder)
        outcomes = _replay(servers, trace, folder, options.settle_delay_seconds)
    return _report(trace, outcomes)


def _replay(servers: Servers, trace: Trace, folder: Path, delay_seconds: int) -> dict[str, Outcome]:
    outcomes: dict[str, Outcome] = {}
    for name in ("late", "in time"):
        with (
            temporary_home() as home,
            Cluster(
                home,
                databases=servers.databases,
                bootstrap=servers.bootstrap,
                prefix=f"{session_prefix()}trace-{len(outcomes)}.",
                **cluster_options(delay_seconds),
            ) as cluster,
        ):
            outcomes[name] = (
                replay_late(cluster, trace, folder) if name == "late" else replay_in_time(cluster, trace, delay_seconds)
            )
    return outcomes


def _report(trace: Trace, outcomes: dict[str, Outcome]) -> int:
    """Print the figures; answer 1 if the totals differ (a replay that is wrong by itself has failed before)."""
    table = Table("", *outcomes)
    figures: dict[str, Callable[[Outcome], str]] = {
        "records published": lambda outcome: f"{outcome.records:,}",
        "moves of the clock": lambda outcome: f"{outcome.steps:,}",
        "tenants": lambda outcome: f"{len(outcome.totals):,}",
        "micros charged": lambda outcome: f"{sum(outcome.totals.values()):,}",
        "lines: charges": lambda outcome: f"{outcome.lines.get('charge', 0):,}",
        "lines: debit corrections": lambda outcome: f"{outcome.lines.get('debit_correction', 0):,}",
        "lines: credit corrections": lambda outcome: f"{outcome.lines.get('credit_correction', 0):,}",
        "seconds": lambda outcome: f"{outcome.seconds:.0f}",
    }
    for name, figure in figures.items():
        table.add_row(name, *(figure(outcome) for outcome in outcomes.values()))
    console = Console()
    console.print(
        f"{trace.rows:,} rows, {len(trace.events):,} events, every tenant right to the micro", highlight=False
    )
    console.print(table)
    totals = [outcome.totals for outcome in outcomes.values()]
    equal = all(found == trace.totals for found in totals)
    corrected = sum(count for kind, count in outcomes["in time"].lines.items() if kind != "charge")
    console.print(f"totals are {'equal' if equal else 'NOT equal'}; {corrected} corrections on the test clock")
    return 0 if equal and not corrected else 1


if __name__ == "__main__":
    sys.exit(main())
