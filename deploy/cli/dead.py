"""`tollkeeper dead`: records that could not be understood, over all services."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from deploy.cli.account import NOT_FOUND
from deploy.cli.faults import CommandError
from deploy.cli.lines import PIECE_BYTES
from deploy.cli.output import JsonOption, print_json, printable, remark, say
from deploy.cli.services import ProblemError, Services, open_services, segment

dead = typer.Typer(help="Dead letters: list them, mend and replay them.", no_args_is_help=True)

SERVICES = ("metering", "balance", "payment", "enforcement")


def load_dead(services: Services, names: Sequence[str] = SERVICES) -> list[dict[str, Any]]:
    """Open dead letters, each with its `service`; of each service as many as it lists (a thousand)."""
    return [
        {"service": name, **letter}
        for name in names
        for letter in services.get(name, "/v1/dead-letters")["dead_letters"]
    ]


@dead.command("list")
def list_dead(*, json: JsonOption = False) -> None:
    """List what could not be understood and was not replayed yet, oldest first per service."""
    with open_services() as services:
        letters = load_dead(services)
    if json:
        print_json({"dead_letters": letters})
        return
    for letter in letters:
        # The id stands whole at the start of its line, to be copied into `dead replay`.
        told = f"{letter['dead_id']} in {letter['service']}: {letter['reason']}: {letter['detail']}"
        say(printable(f"{told} ({letter['value_bytes']} bytes, {letter['died_at']})"))
    say(f"{len(letters)} dead letters")


@dead.command("replay")
def replay_dead(
    dead_id: Annotated[str, typer.Argument(metavar="ID", help="The dead letter's id, from `dead list`.")],
    *,
    body: Annotated[Path | None, typer.Option(help="A file with the mended record; without it as received.")] = None,
    service: Annotated[str | None, typer.Option(help="Only in this service; else wherever the id is open.")] = None,
    json: JsonOption = False,
) -> None:
    """Apply a dead letter again. One record can be dead in several services: it is replayed in each."""
    if service is not None and service not in SERVICES:
        raise typer.BadParameter(f"--service is one of {', '.join(SERVICES)}")
    content = _replay_body(body)
    done: list[str] = []
    refused: list[ProblemError] = []
    with open_services() as services:
        for name in (service,) if service is not None else SERVICES:
            try:
                services.post(name, f"/v1/dead-letters/{segment(dead_id)}/replay", content)
                done.append(name)
            except ProblemError as error:
                if error.status != NOT_FOUND:
                    refused.append(error)
    _report(dead_id, done, refused, json=json)


def _report(dead_id: str, done: list[str], refused: list[ProblemError], *, json: bool) -> None:
    if not done and not refused:
        raise CommandError(f"no service has an open dead letter {dead_id}; see `tollkeeper dead list`")
    if json:
        print_json({"dead_id": dead_id, "replayed_in": done, "refused": [error.message for error in refused]})
    elif done:
        say(f"replayed {dead_id} in {', '.join(done)}")
    for error in refused[1:]:
        remark(f"tollkeeper: {error.message}")
    if refused:
        raise refused[0]


def _replay_body(path: Path | None) -> dict[str, str]:
    """The mended record as it is sent: text where it is text."""
    if path is None:
        return {}
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CommandError(f"{path} can't be read: {error.strerror}") from error
    if len(data) > PIECE_BYTES:
        raise CommandError(f"{path} has {len(data)} bytes; a mended record has at most {PIECE_BYTES}")
    try:
        return {"text": data.decode("utf-8")}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode("ascii")}
