"""`tollkeeper refunds` and `tollkeeper inbox`: what payment could not carry out or read, and an operator's way out."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from deploy.cli.faults import CommandError
from deploy.cli.output import JsonOption, print_json, printable, say
from deploy.cli.services import Services, open_services, segment

refunds = typer.Typer(no_args_is_help=True)
inbox = typer.Typer(no_args_is_help=True)

PAGE = 500
ActorOption = Annotated[str, typer.Option(help="Who decides it; it stays on record.")]
ReasonOption = Annotated[str, typer.Option(help="Why; it stays on record.")]


def _pages(services: Services, path: str, name: str) -> Iterator[dict[str, Any]]:
    """Every item of a list that comes in pages."""
    after: str | None = None
    while True:
        answer = services.get("payment", path, {"limit": PAGE} if after is None else {"limit": PAGE, "after": after})
        yield from answer[name]
        after = answer["next"]
        if after is None:
            return


@refunds.command("list")
def list_refunds(*, json: JsonOption = False) -> None:
    """List refunds that were asked for and that no provider has answered, oldest first."""
    with open_services() as services:
        found = list(_pages(services, "/v1/refunds", "refunds"))
    if json:
        print_json({"refunds": found})
        return
    for item in found:
        # The id stands whole at the start of its line, to be copied into `refunds withdraw`.
        sent = f"sent {item['sent_at']}" if item["sent_at"] else "never sent"
        told = f"{item['request_id']} {item['amount_micros']} micros of {item['payment_id']}, {sent}"
        say(printable(f"{told}: asked {item['requested_at']} by {item['actor']}: {item['reason']}"))
    say(f"{len(found)} refunds without an answer")


@refunds.command("withdraw")
def withdraw_refund(
    request_id: Annotated[str, typer.Argument(metavar="REQUEST", help="The request's id, from `refunds list`.")],
    *,
    actor: ActorOption,
    reason: ReasonOption,
    checked: Annotated[
        bool, typer.Option("--checked", help="You saw at the provider that the refund was not made.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Take a refund request back. One that was sent is asked about first; what happened is not taken back."""
    body = {"actor": actor, "reason": reason, "checked": checked}
    with open_services() as services:
        answer = services.post("payment", f"/v1/refunds/{segment(request_id)}/withdraw", body)
    if json:
        print_json(answer)
    else:
        say(f"withdrew the refund of {answer['amount_micros']} micros of {answer['payment_id']}")


@inbox.command("list")
def list_inbox(*, json: JsonOption = False) -> None:
    """List callbacks that could not be read or applied, each with its reason."""
    with open_services() as services:
        found = list(_pages(services, "/v1/inbox", "events"))
    if json:
        print_json({"events": found})
        return
    for event in found:
        # The name stands whole at the start of its line, to be copied into `inbox apply`.
        told = f"{event['provider']}/{event['event_id']} {event['type']}: {event['problem']}"
        say(printable(f"{told} ({event['body_bytes']} bytes, {event['first_received_at']})"))
    say(f"{len(found)} callbacks")


Event = Annotated[str, typer.Argument(metavar="PROVIDER/EVENT", help="The callback, from `inbox list`.")]


@inbox.command("apply")
def apply_event(event: Event, *, actor: ActorOption, reason: ReasonOption) -> None:
    """Try a callback again now."""
    _decide(event, "apply", actor, reason)
    say(f"applied {event}")


@inbox.command("dismiss")
def dismiss_event(event: Event, *, actor: ActorOption, reason: ReasonOption) -> None:
    """Let a callback rest: it is tried no more."""
    _decide(event, "dismiss", actor, reason)
    say(f"dismissed {event}")


def _decide(event: str, what: str, actor: str, reason: str) -> None:
    provider, _, event_id = event.partition("/")
    if not event_id:
        raise CommandError(f"{event} names no callback: write PROVIDER/EVENT, as `tollkeeper inbox list` shows it")
    with open_services() as services:
        path = f"/v1/inbox/{segment(provider)}/{segment(event_id)}/{what}"
        services.post("payment", path, {"actor": actor, "reason": reason})
