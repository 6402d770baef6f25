"""`tollkeeper dead`: records that could not be understood, over all services."""

import base64
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from deploy.cli.account import NOT_FOUND
from deploy.cli.faults import CommandError
from deploy.cli.lines import PIECE_BYTES
from deploy.cli.output import JsonOption, print_json, printable, remark, say
from deploy.cli.services import ProblemError, Services, open_services, segment

dead = typer.Typer(no_args_is_help=True)

SERVICES = ("metering", "balance", "payment", "enforcement")
PAGE = 500


def load_dead(
    services: Services,
    names: Sequence[str] = SERVICES,
    *,
    limit: int = 1000,
    topic: str | None = None,
    reason: str | None = None,
) -> list[dict[str, Any]]:
    """Open dead letters, each with its `service`; of each service at most `limit`, oldest first."""
    filters = {name: value for name, value in (("topic", topic), ("reason", reason)) if value is not None}
    found: list[dict[str, Any]] = []
    for name in names:
        after: dict[str, str | int] = {}
        left = limit
        while left > 0:
            page = services.get(name, "/v1/dead-letters", {**filters, **after, "limit": min(left, PAGE)})
            found += [{"service": name, **letter} for letter in page["dead_letters"]]
            left -= len(page["dead_letters"])
            if page.get("next") is None:
                break
            after = {"after": page["next"]}
    return found


@dead.command("list")
def list_dead(
    *,
    topic: Annotated[str | None, typer.Option(help="Only of this topic.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only where the reason holds this text.")] = None,
    service: Annotated[str | None, typer.Option(help="Only of this service.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many of each service.")] = 1000,
    json: JsonOption = False,
) -> None:
    """List what could not be understood and has not ended yet, oldest first per service."""
    with open_services() as services:
        letters = load_dead(services, _names(service), limit=limit, topic=topic, reason=reason)
    if json:
        print_json({"dead_letters": letters})
        return
    for letter in letters:
        # The id stands whole at the start of its line, to be copied into `dead replay`.
        told = f"{letter['dead_id']} in {letter['service']}: {letter['reason']}: {letter['detail']}"
        named = " ".join(f"{name} {letter[name]}" for name in ("source", "id", "tenant_id") if letter.get(name))
        about = f"{named}, " if named else ""
        say(printable(f"{told} ({about}{letter['value_bytes']} bytes, {letter['died_at']})"))
    counts = Counter(letter["service"] for letter in letters)
    if more := [name for name, count in counts.items() if count == limit]:
        say(f"the first {len(letters)} dead letters; there may be more in {', '.join(more)}: --limit {10 * limit}")
    else:
        say(f"{len(letters)} dead letters")


@dead.command("show")
def show_dead(
    dead_id: Annotated[str, typer.Argument(metavar="ID", help="The dead letter's id, from `dead list`.")],
    *,
    service: Annotated[str | None, typer.Option(help="Only in this service; else wherever the id is known.")] = None,
    json: JsonOption = False,
) -> None:
    """Show a dead letter with its reason, headers and bytes, whether it has ended or not."""
    found: list[dict[str, Any]] = []
    with open_services() as services:
        for name in _names(service):
            with suppress_not_found():
                letter = services.get(name, f"/v1/dead-letters/{segment(dead_id)}")
                found.append({"service": name, **letter})
    if not found:
        raise CommandError(f"no service knows a dead letter {dead_id}; see `tollkeeper dead list`")
    if json:
        print_json({"dead_letters": found})
        return
    for letter in found:
        for name, value in letter.items():
            say(printable(f"{name}: {_shown(value)}"))


def _shown(value: object) -> str:
    """A text as it is, other bytes by their base64."""
    if isinstance(value, dict):
        return str(value.get("text", f"(base64) {value.get('base64')}"))
    if isinstance(value, list):
        return ", ".join(f"{name}={_shown(content)}" for name, content in value) or "none"
    return "none" if value is None else str(value)


@dead.command("close")
def close_dead(
    dead_id: Annotated[str, typer.Argument(metavar="ID", help="The dead letter's id, from `dead list`.")],
    *,
    actor: Annotated[str, typer.Option(help="Who decided it; it stays on record.")],
    reason: Annotated[str, typer.Option(help="Why nobody will mend it.")],
    service: Annotated[str | None, typer.Option(help="Only in this service; else wherever the id is open.")] = None,
    json: JsonOption = False,
) -> None:
    """Close a dead letter that is garbage for good. Its bytes are kept, and it is counted no more."""
    done: list[str] = []
    with open_services() as services:
        for name in _names(service):
            with suppress_not_found():
                services.post(name, f"/v1/dead-letters/{segment(dead_id)}/close", {"actor": actor, "reason": reason})
                done.append(name)
    if not done:
        raise CommandError(f"no service has an open dead letter {dead_id}; see `tollkeeper dead list`")
    if json:
        print_json({"dead_id": dead_id, "closed_in": done})
    else:
        say(f"closed {dead_id} in {', '.join(done)}")


@contextmanager
def suppress_not_found() -> Iterator[None]:
    """A service that does not know the id is none of those asked for."""
    try:
        yield
    except ProblemError as error:
        if error.status != NOT_FOUND:
            raise


def _names(service: str | None) -> Sequence[str]:
    if service is not None and service not in SERVICES:
        raise typer.BadParameter(f"--service is one of {', '.join(SERVICES)}")
    return SERVICES if service is None else (service,)


@dead.command("replay")
def replay_dead(
    dead_id: Annotated[str, typer.Argument(metavar="ID", help="The dead letter's id, from `dead list`.")],
    *,
    body: Annotated[Path | None, typer.Option(help="A file with the mended record; without it as received.")] = None,
    service: Annotated[str | None, typer.Option(help="Only in this service; else wherever the id is open.")] = None,
    json: JsonOption = False,
) -> None:
    """Apply a dead letter again. One record can be dead in several services: it is replayed in each."""
    names = _names(service)
    content = _replay_body(body)
    done: list[str] = []
    refused: list[ProblemError] = []
    with open_services() as services:
        for name in names:
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
