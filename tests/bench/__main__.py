"""`make bench`: fleets through the whole pipeline, charges counted at the ledger's commit and checked by the oracle.

A counted charge is one slot of one kind, settled by the tick in which it began. The clock moves a minute at a time, as
soon as metering has ticked the one before; the time stops when balance has posted the last batch. Kafka, PostgreSQL,
the services and this program share the machine. Takes about four minutes on two cores.
"""

import argparse
import os
import sys

import orjson

from tests.bench.fleet import BenchFleet
from tests.bench.latency import Latency, measure_latency
from tests.bench.pipeline import START_US, Measured, measure
from tests.bench.report import as_json, print_report
from tests.bench.webhooks import measure_webhooks
from tests.support.standalone import open_servers

# Latency is measured at this share of the charges a second that were measured just before.
LOAD_SHARE = 0.7


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--tenants", type=int, default=2000, help="tenants with 100 containers each")
    parser.add_argument("--accounts", type=int, default=40_000, help="accounts with one container each")
    parser.add_argument("--rounds", type=int, default=10, help="minutes that are measured")
    parser.add_argument(
        "--crossings", type=int, default=400, help="accounts that reach zero under load; 0 leaves it out"
    )
    parser.add_argument("--shards", type=int, default=64)
    parser.add_argument("--only", choices=("charges", "accounts", "latency", "webhooks"), help="one measurement alone")
    parser.add_argument(
        "--load", type=float, help="charges a second of the latency's load, else a share of those measured"
    )
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    return parser.parse_args()


def main() -> int:
    options = _arguments()
    shapes = {
        "charges": BenchFleet(options.tenants, 100, 500, START_US),
        "accounts": BenchFleet(options.accounts, 1, 0, START_US),
    }
    found: dict[str, Measured] = {}
    latency: Latency | None = None
    with open_servers() as servers:
        for name, fleet in shapes.items():
            if options.only in (None, name):
                found[name] = measure(servers, name, fleet, rounds=options.rounds, shards=options.shards)
        load = options.load or ("charges" in found and found["charges"].charges_per_second * LOAD_SHARE)
        if options.crossings and options.only in (None, "latency"):
            if not load:
                raise SystemExit("--only latency needs --load: nothing was measured to take a share of")
            latency = measure_latency(
                servers,
                BenchFleet(max(options.tenants // 4, 1), 100, 500, START_US),
                charges_per_second=load,
                crossings=options.crossings,
                shards=options.shards,
            )
        webhooks = measure_webhooks(servers, a_second=500, seconds=30) if options.only in (None, "webhooks") else None
    if options.json:
        sys.stdout.buffer.write(orjson.dumps(as_json(found, latency, webhooks), option=orjson.OPT_INDENT_2) + b"\n")
    else:
        print_report(found, latency, webhooks, cores=os.cpu_count() or 1)
    wrong = any(measured.wrong for measured in found.values()) or (webhooks is not None and webhooks.wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
