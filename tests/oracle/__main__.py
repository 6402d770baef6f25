"""`python -m tests.oracle EVENTS.jsonl --prices P.json --regions R.json --through T [--balances B.json]`."""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from tests.oracle.accounts import Account, Answer, answer, differences
from tests.oracle.instants import instant
from tests.oracle.reading import lines_of


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.oracle",
        description="What every account must have been charged, by enumeration. Exits 1 if balances differ.",
    )
    parser.add_argument("events", type=Path, help="CloudEvents, one a line; may be gzipped")
    parser.add_argument("--prices", type=Path, required=True, help="JSON: a price book or a list of them, in order")
    parser.add_argument("--regions", type=Path, required=True, help="JSON: settings by region, as the services get")
    parser.add_argument("--through", required=True, help="the instant up to which charges are made, RFC 3339")
    parser.add_argument("--now", help="the services' clock at the end, if it is not --through")
    parser.add_argument("--balances", type=Path, help='JSON: {"region/tenant": balance_micros}')
    parser.add_argument("--credits", type=Path, help='JSON: {"region/tenant": micros credited}; else nothing was')
    parser.add_argument("--commanded", type=Path, help='JSON: {"region/resource": instant of commanded deletion}')
    parser.add_argument("--slot-by-slot", action="store_true", help="no blocks: every slot by itself (slow)")
    parser.add_argument("--json", action="store_true", help="the whole answer as JSON")
    return parser.parse_args()


def _load(path: Path | None) -> Any:
    return {} if path is None else json.loads(path.read_text("utf-8"))


def _pairs(table: dict[str, Any]) -> dict[Account, Any]:
    return {(name.partition("/")[0], name.partition("/")[2]): value for name, value in table.items()}


def _print_answer(found: Answer, *, as_json: bool) -> None:
    if as_json:
        body = {
            "accounts": {"/".join(account): kinds for account, kinds in sorted(found.micros.items())},
            "slots": {"/".join(account): kinds for account, kinds in sorted(found.slots.items())},
            "left_out": [vars(item) for item in found.left_out],
            "unpriced": {"/".join(key): pieces for key, pieces in found.unpriced.items()},
        }
        print(json.dumps(body, indent=1))  # noqa: T201
        return
    slots = sum(sum(kinds.values()) for kinds in found.slots.values())
    micros = sum(found.totals().values())
    print(f"{found.resources} resources, {len(found.micros)} accounts, {slots} slots and units, {micros} micros")  # noqa: T201
    for reason, count in Counter(item.reason for item in found.left_out).most_common():
        print(f"left out: {count} x {reason}")  # noqa: T201
    for key, pieces in found.unpriced.items():
        print(f"unpriced: {'/'.join(key)} in {pieces} intervals")  # noqa: T201


def main() -> int:
    arguments = _arguments()
    books = _load(arguments.prices)
    commanded = {key: instant(value) for key, value in _pairs(_load(arguments.commanded)).items()}
    found = answer(
        lines_of(arguments.events),
        books if isinstance(books, list) else [books],
        _load(arguments.regions),
        instant(arguments.through),
        now_us=None if arguments.now is None else instant(arguments.now),
        commanded=commanded,
        slot_by_slot=arguments.slot_by_slot,
    )
    _print_answer(found, as_json=arguments.json)
    if arguments.balances is None:
        return 0
    wrong = differences(found.totals(), _pairs(_load(arguments.balances)), _pairs(_load(arguments.credits)))
    for account, must, has in wrong:
        print(f"{'/'.join(account)}: must be {must}, is {has}", file=sys.stderr)  # noqa: T201
    print(f"{len(wrong)} accounts differ" if wrong else "all balances are right to the micro", file=sys.stderr)  # noqa: T201
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
