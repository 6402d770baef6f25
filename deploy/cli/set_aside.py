"""`tollkeeper set-aside`: items that a service's loops could not do, and try ever more seldom."""

from typing import Annotated, Any

import typer

from deploy.cli.dead import PAGE, SERVICES, suppress_not_found
from deploy.cli.faults import CommandError
from deploy.cli.output import JsonOption, print_json, printable, say
from deploy.cli.services import Services, open_services, segment

set_aside = typer.Typer(no_args_is_help=True)


def load_set_aside(services: Services, kind: str | None) -> list[dict[str, Any]]:
    """Every item set aside, each with its `service`."""
    found: list[dict[str, Any]] = []
    for name in SERVICES:
        parameters: dict[str, str | int] = {"limit": PAGE} | ({} if kind is None else {"kind": kind})
        while True:
            page = services.get(name, "/v1/set-aside", parameters)
            found += [{"service": name, **item} for item in page["set_aside"]]
            if page["next"] is None:
                break
            parameters["after"] = page["next"]
    return found


@set_aside.command("list")
def list_items(
    *, kind: Annotated[str | None, typer.Option(help="Only of this kind.")] = None, json: JsonOption = False
) -> None:
    """List what could not be done, why, and when it is tried again."""
    with open_services() as services:
        items = load_set_aside(services, kind)
    if json:
        print_json({"set_aside": items})
        return
    for item in items:
        told = f"{item['kind']} {item['item']} in {item['service']}: {item['reason']}"
        say(printable(f"{told} ({item['attempts']} attempts since {item['first_at']}, next at {item['next_at']})"))
    say(f"{len(items)} set aside")


@set_aside.command("retry")
def retry_item(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="Its kind, from `set-aside list`.")],
    item: Annotated[str, typer.Argument(metavar="ITEM", help="Its id, from `set-aside list`.")],
    *,
    actor: Annotated[str, typer.Option(help="Who decided it; it stays in the log.")],
    reason: Annotated[str, typer.Option(help="Why it is tried now.")],
    json: JsonOption = False,
) -> None:
    """Have an item tried at once, without waiting for the end of its pause."""
    done: list[str] = []
    body = {"actor": actor, "reason": reason}
    with open_services() as services:
        for name in SERVICES:
            with suppress_not_found():
                services.post(name, f"/v1/set-aside/{segment(kind)}/{segment(item)}/retry", body)
                done.append(name)
    if not done:
        raise CommandError(f"no {kind} {item} is set aside; see `tollkeeper set-aside list`")
    if json:
        print_json({"kind": kind, "item": item, "asked_of": done})
    else:
        say(f"{kind} {item} is tried again in {', '.join(done)}")
