"""`tollkeeper audit`: the books against their own entries, chain, evidence and hours."""

import time
from typing import Any

from deploy.cli.faults import FOUND, UNAVAILABLE, CommandError, EarlyExitError
from deploy.cli.output import JsonOption, print_json, printable, remark, say
from deploy.cli.services import open_services

POLL_SECONDS = 0.5
TELL_SECONDS = 10


def audit(*, json: JsonOption = False) -> None:
    """Audit all accounts, and name each that differs.

    Exit code 1 names each account or shard, and the time, where something differs.
    """
    with open_services() as services:
        services.post("balance", "/v1/audits", {})
        started = told = time.monotonic()
        while (found := services.get("balance", "/v1/audits"))["state"] == "running":
            if time.monotonic() - told > TELL_SECONDS:
                told = time.monotonic()
                remark(f"auditing for {told - started:.0f} s")
            time.sleep(POLL_SECONDS)
    if found["state"] != "done":
        raise CommandError(f"the audit did not run to its end: {found.get('fault')}", UNAVAILABLE)
    _report(found, json=json)


def _report(found: dict[str, Any], *, json: bool) -> None:
    if json:
        print_json(found)
    else:
        for difference in found["differences"]:
            say(printable(difference))
        say("the books are in order" if not found["count"] else f"{found['count']} differences")
    if found["count"]:
        raise EarlyExitError(FOUND)
