"""`tollkeeper contradictions` and `tollkeeper parked`: what was said and can't be, and events that wait."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from deploy.cli.output import JsonOption, print_json, print_table, remark, say
from deploy.cli.services import open_services

contradictions = typer.Typer()
parked = typer.Typer()

RegionOption = Annotated[str | None, typer.Option(help="Only of this region.")]
TenantOption = Annotated[str | None, typer.Option(help="Only of this tenant.")]
ResourceOption = Annotated[str | None, typer.Option(help="Only of this container or volume.")]
LimitOption = Annotated[int, typer.Option(min=1, max=1000, help="How many at the most.")]
AfterOption = Annotated[str | None, typer.Option(help="Where to go on: `next` of the page before.")]
ActorOption = Annotated[str, typer.Option(help="Who decided it; it stays on record.")]
ReasonOption = Annotated[str, typer.Option(help="Why; it stays on record.")]


def _ask(path: str, wanted: Mapping[str, str | int | None]) -> dict[str, Any]:
    given = {name: value for name, value in wanted.items() if value is not None}
    with open_services() as services:
        return services.get("metering", path, given)


def _tell_next(answer: Mapping[str, Any]) -> None:
    if answer["next"] is not None:
        remark(f"there are more: --after '{answer['next']}'")


@contradictions.callback(invoke_without_command=True)
def list_contradictions(
    context: typer.Context,
    *,
    kind: Annotated[str | None, typer.Option(help="Only of this kind, such as ends_no_run or inventory.")] = None,
    region: RegionOption = None,
    tenant: TenantOption = None,
    resource: ResourceOption = None,
    limit: LimitOption = 100,
    after: AfterOption = None,
    json: JsonOption = False,
) -> None:
    """List events without effect, refused claims and amendments, and listings that contradict events."""
    if context.invoked_subcommand is not None:
        return
    wanted: dict[str, str | int | None] = {"kind": kind, "region": region, "tenant_id": tenant}
    answer = _ask("/v1/contradictions", {**wanted, "resource_id": resource, "limit": limit, "after": after})
    if json:
        print_json(answer)
        return
    columns = ("region", "resource_id", "kind", "source", "event_id", "detail", "noted_at")
    print_table(columns, [[item[name] for name in columns] for item in answer["contradictions"]])
    say(f"{len(answer['contradictions'])} contradictions")
    _tell_next(answer)


@contradictions.command("close")
def close_contradiction(
    region: Annotated[str, typer.Argument(help="As listed.")],
    resource: Annotated[str, typer.Argument(help="As listed.")],
    kind: Annotated[str, typer.Argument(help="As listed.")],
    source: Annotated[str, typer.Argument(help="As listed.")],
    event_id: Annotated[str, typer.Argument(help="As listed.")],
    *,
    actor: ActorOption,
    reason: ReasonOption,
    json: JsonOption = False,
) -> None:
    """Close one that was looked into. Those that a history makes end when the history changes."""
    body = {"region": region, "resource_id": resource, "kind": kind, "source": source, "event_id": event_id}
    with open_services() as services:
        answer = services.post("metering", "/v1/contradictions/close", {**body, "actor": actor, "reason": reason})
    if json:
        print_json(answer)
    else:
        say(f"closed {kind} of {region}/{resource}")


@parked.command("list")
def list_parked(
    *,
    pending: Annotated[bool, typer.Option("--pending", help="Those that wait for another event instead.")] = False,
    region: RegionOption = None,
    tenant: TenantOption = None,
    resource: ResourceOption = None,
    reason: Annotated[str | None, typer.Option(help="Only with this reason, such as future or too_old.")] = None,
    limit: LimitOption = 100,
    after: AfterOption = None,
    json: JsonOption = False,
) -> None:
    """List events that wait for their time or for an operator, or with --pending for another event."""
    state = "pending" if pending else "parked"
    wanted: dict[str, str | int | None] = {"region": region, "tenant_id": tenant, "resource_id": resource}
    answer = _ask(f"/v1/{state}", {**wanted, "reason": reason, "limit": limit, "after": after})
    if json:
        print_json(answer)
        return
    columns = ("topic", "source", "event_id", "region", "resource_id", "tenant_id", "reason", "due_at", "received_at")
    print_table(columns, [[item[name] for name in columns] for item in answer[state]])
    say(f"{len(answer[state])} {state} events")
    _tell_next(answer)


@parked.command("release")
def release_parked(
    source: Annotated[str, typer.Argument(help="The event's source, as listed.")],
    event_id: Annotated[str, typer.Argument(metavar="ID", help="The event's id, as listed.")],
    *,
    actor: ActorOption,
    reason: ReasonOption,
    json: JsonOption = False,
) -> None:
    """Apply a waiting event now, without sanity limits."""
    body = {"source": source, "event_id": event_id, "actor": actor, "reason": reason}
    with open_services() as services:
        answer = services.post("metering", "/v1/parked/release", body)
    if json:
        print_json(answer)
    else:
        say(f"{source}/{event_id}: {answer['outcome']}")
