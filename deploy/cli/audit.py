"""`tollkeeper audit`: the books against their own entries, chain, evidence and hours, and against anchors."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from deploy.cli.faults import FOUND, UNAVAILABLE, CommandError, EarlyExitError
from deploy.cli.output import JsonOption, print_json, printable, remark, say
from deploy.cli.services import open_services, split_account
from shared.events.anchors import ChainHead
from shared.events.reading import describe

POLL_SECONDS = 0.5
TELL_SECONDS = 10

anchors = typer.Typer(no_args_is_help=True)


@anchors.command("export")
def export_anchors(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Written anew; one JSON document a line, by shard.")],
) -> None:
    """Write the chain's heads to a file that can be signed. The same heads give the same bytes."""
    with open_services() as services:
        heads = [ChainHead.model_validate(item) for item in services.get("balance", "/v1/chain-heads")["heads"]]
    file.write_text("".join(f"{head.model_dump_json()}\n" for head in heads), encoding="utf-8")
    say(f"{len(heads)} heads in {file}")


def audit(
    name: Annotated[
        str | None, typer.Argument(metavar="[REGION/TENANT]", help="An account, such as vn/acme; all without it.")
    ] = None,
    *,
    kept: Annotated[
        Path | None,
        typer.Option(
            "--anchors", metavar="FILE", help="What `anchors export` wrote, or the topic's values, a line each."
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Audit one account or all, and name what differs.

    Exit code 1 names each account, or shard, and the minute where something differs.
    """
    request: dict[str, Any] = {}
    if name is not None:
        region, tenant_id = split_account(name)
        request["account"] = {"region": region, "tenant_id": tenant_id}
    if kept is not None:
        request["anchors"] = [head.model_dump(mode="json") for head in read_anchors(kept)]
    with open_services() as services:
        services.post("balance", "/v1/audits", request)
        told = time.monotonic()
        while (found := services.get("balance", "/v1/audits"))["state"] == "running":
            if time.monotonic() - told > TELL_SECONDS:
                told = time.monotonic()
                remark(f"auditing {found.get('part') or 'soon'}; {found.get('found', 0)} differences so far")
            time.sleep(POLL_SECONDS)
    if found["state"] != "done":
        raise CommandError(f"the audit did not run to its end: {found.get('fault')}", UNAVAILABLE)
    _report(found, json=json)


def read_anchors(file: Path) -> list[ChainHead]:
    """The heads that a file has, a line each. Raises CommandError."""
    heads = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            try:
                heads.append(ChainHead.model_validate_json(line))
            except ValidationError as error:
                raise CommandError(f"{file}, line {number}: no head of a chain: {describe(error)}") from error
    return heads


def _report(found: dict[str, Any], *, json: bool) -> None:
    if json:
        print_json(found)
    else:
        for item in found["differences"]:
            say(printable(f"{item['account']}, {item['minute'] or 'at no known time'}: {item['what']}"))
        say("the books are in order" if not found["count"] else f"{found['count']} differences")
    if found["count"]:
        raise EarlyExitError(FOUND)
