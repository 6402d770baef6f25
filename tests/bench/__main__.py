"""`make bench`: fleets through the whole pipeline, charges counted at the ledger's commit and checked by the oracle.

A counted charge is one slot of one kind, settled by the tick in which it began. The clock moves a minute at a time, as
soon as metering has ticked the one before; the time stops when balance has posted the last batch. Kafka, PostgreSQL,
the services and this program share the machine. The default is the design's fleet, a million containers; `--tenants`
makes it smaller, and then no row has a mark whose target is of that shape.
"""

import argparse
import os
import sys
from collections.abc import Sequence

import asyncpg
import orjson

from deploy.local.infrastructure.probes import run_async
from tests.bench.fleet import BenchFleet
from tests.bench.intake import measure as measure_intake
from tests.bench.intake import measure_hot
from tests.bench.inventory import measure_inventory
from tests.bench.latency import Latency, measure_latency
from tests.bench.pipeline import START_US, Measured, measure
from tests.bench.report import Figures, as_json, print_report
from tests.bench.webhooks import measure_webhooks
from tests.support.standalone import Servers, open_servers

# Latency is measured at this share of the charges a second that were measured just before.
LOAD_SHARE = 0.7


PARTS = ("charges", "few", "accounts", "latency", "intake", "hot", "inventory", "webhooks")
_DURABILITY = ("server_version", "fsync", "synchronous_commit", "full_page_writes")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--tenants", type=int, default=10_000, help="tenants with 100 containers each")
    parser.add_argument("--accounts", type=int, default=40_000, help="accounts with one container each")
    parser.add_argument("--rounds", type=int, default=10, help="minutes that are measured")
    parser.add_argument(
        "--crossings", type=int, default=400, help="accounts that reach zero under load; 0 leaves it out"
    )
    parser.add_argument("--shards", type=int, default=64)
    parser.add_argument("--only", choices=PARTS, action="append", help="this measurement alone; may be repeated")
    parser.add_argument(
        "--load", type=float, help="charges a second of the latency's load, else a share of those measured"
    )
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    return parser.parse_args()


def _measure_shapes(servers: Servers, options: argparse.Namespace, parts: Sequence[str]) -> dict[str, Measured]:
    few = min(options.tenants, 100)
    shapes = {
        "charges": (BenchFleet(options.tenants, 100, 500, START_US), options.rounds),
        # So few are over in no time: more minutes, for as many charges as count.
        "few": (BenchFleet(few, 100, 500, START_US), options.rounds * 10),
        "accounts": (BenchFleet(options.accounts, 1, 0, START_US), options.rounds),
    }
    return {
        name: measure(servers, name, fleet, rounds=rounds, shards=options.shards)
        for name, (fleet, rounds) in shapes.items()
        if name in parts
    }


def _measure_latency(servers: Servers, options: argparse.Namespace, charges: Measured | None) -> Latency:
    load = options.load or (charges is not None and charges.charges_per_second * LOAD_SHARE)
    if not load:
        raise SystemExit("--only latency needs --load: nothing was measured to take a share of")
    return measure_latency(
        servers,
        BenchFleet(max(options.tenants // 4, 1), 100, 500, START_US),
        charges_per_second=load,
        crossings=options.crossings,
        shards=options.shards,
    )


async def _load_durability(admin_url: str) -> dict[str, str]:
    """The settings on which it rests that nothing committed is lost: a server of the environment may have others."""
    connection = await asyncpg.connect(admin_url)
    try:
        return {name: str(await connection.fetchval(f"show {name}")) for name in _DURABILITY}
    finally:
        await connection.close()


def main() -> int:
    options = _arguments()
    parts = options.only or PARTS
    with open_servers() as servers:
        shapes = _measure_shapes(servers, options, parts)
        has_latency = options.crossings and "latency" in parts
        orders = {"in order": False, "the last first": True} if "hot" in parts else {}
        figures = Figures(
            shapes,
            _measure_latency(servers, options, shapes.get("charges")) if has_latency else None,
            measure_webhooks(servers, a_second=500, seconds=30) if "webhooks" in parts else None,
            measure_intake(servers, "keyed", tenants=400, shards=options.shards) if "intake" in parts else None,
            {
                order: measure_hot(servers, events=10_000, shards=options.shards, reverse=reverse)
                for order, reverse in orders.items()
            },
            measure_inventory(servers, tenants=options.tenants, shards=options.shards)
            if "inventory" in parts
            else None,
            run_async(_load_durability(servers.databases.admin_url)),
        )
    if options.json:
        sys.stdout.buffer.write(orjson.dumps(as_json(figures), option=orjson.OPT_INDENT_2) + b"\n")
    else:
        print_report(figures, cores=os.cpu_count() or 1)
    return 1 if figures.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
