"""`tollkeeper restores`: databases that were set back to a backup, what they lost, and an operator's confirmation."""

from typing import Annotated, Any

import typer

from deploy.cli.dead import SERVICES
from deploy.cli.output import JsonOption, print_json, print_table, printable, say
from deploy.cli.services import Services, open_services
from shared.money import format_micros

restores = typer.Typer(no_args_is_help=True)

ServiceArgument = Annotated[str, typer.Argument(metavar="SERVICE", help=f"One of {', '.join(SERVICES)}.")]
IncarnationOption = Annotated[int | None, typer.Option(min=1, help="Which restore; the latest without it.")]


@restores.command("list")
def list_restores(*, json: JsonOption = False) -> None:
    """List every restore of every service, the latest first. Deletions are frozen until each is confirmed."""
    with open_services() as services:
        found = [
            {"service": name, **item} for name in SERVICES for item in services.get(name, "/v1/restores")["restores"]
        ]
    if json:
        print_json({"restores": found})
        return
    columns = ("service", "incarnation", "restored_at", "finished_at", "confirmed_at", "confirmed_by", "noticed")
    rows = [tuple("-" if item[name] is None else printable(str(item[name])) for name in columns) for item in found]
    print_table(tuple(name.replace("_", " ") for name in columns), rows)


@restores.command("lost")
def list_lost(service: ServiceArgument, *, incarnation: IncarnationOption = None, json: JsonOption = False) -> None:
    """List what a restore could not get back: what was last told, and what is known now."""
    _check(service)
    with open_services() as services:
        number = incarnation or _latest(services, service)
        lost = _load_lost(services, service, number)
    if json:
        print_json({"service": service, "incarnation": number, "lost": lost})
        return
    for item in lost:
        say(printable(f"{item['kind']} {item['item']} ({item['told_at']}): told {_words(item['told'])}"))
        if item["present"] is not None:
            say(printable(f"  now {_words(item['present'])}"))
    say(f"{len(lost)} items")


@restores.command("confirm")
def confirm_restore(
    service: ServiceArgument,
    *,
    reason: Annotated[str, typer.Option(help="What was looked at; it stays on record.")],
    actor: Annotated[str, typer.Option(help="Who decided it; it stays on record.")],
    incarnation: IncarnationOption = None,
    json: JsonOption = False,
) -> None:
    """Confirm a restore and those before it: deletions go on."""
    _check(service)
    with open_services() as services:
        number = incarnation or _latest(services, service)
        answer = services.post(service, f"/v1/restores/{number}/confirm", {"actor": actor, "reason": reason})
    if json:
        print_json(answer)
    else:
        say(f"confirmed restore {number} of {service}")


def _check(service: str) -> None:
    if service not in SERVICES:
        raise typer.BadParameter(f"SERVICE is one of {', '.join(SERVICES)}")


def _latest(services: Services, service: str) -> int:
    found = services.get(service, "/v1/restores")["restores"]
    if not found:
        raise typer.BadParameter(f"{service} was never restored")
    return int(found[0]["incarnation"])


def _load_lost(services: Services, service: str, incarnation: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    parameters: dict[str, str | int] = {}
    while True:
        page = services.get(service, f"/v1/restores/{incarnation}/lost", parameters)
        found += page["lost"]
        if page["next"] is None:
            return found
        parameters["after"] = page["next"]


def _words(values: dict[str, Any]) -> str:
    """Fields for people; amounts in units of their currency."""
    return ", ".join(
        f"{name.removesuffix('_micros')} {format_micros(value) if name.endswith('_micros') else value}"
        for name, value in values.items()
        if value is not None
    )
