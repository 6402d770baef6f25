"""`tollkeeper account`: open, show and credit an account, and give it promotional credit."""

from typing import Annotated, Any

import typer

from deploy.cli.faults import CommandError
from deploy.cli.output import JsonOption, print_json, print_table, remark, say
from deploy.cli.services import ProblemError, Services, open_services, segment, split_account
from shared.ids import fact_id
from shared.money import NotMoneyError, format_micros, parse_micros

account = typer.Typer(no_args_is_help=True)

AccountArgument = Annotated[str, typer.Argument(metavar="REGION/TENANT", help="An account, such as vn/acme.")]
NOT_FOUND = 404
SERVER_ERROR = 500


def account_path(region: str, tenant: str) -> str:
    return f"/v1/accounts/{segment(region)}/{segment(tenant)}"


@account.command("open")
def open_account(name: AccountArgument, *, json: JsonOption = False) -> None:
    """Open an account; one that is open stays as it is."""
    region, tenant = split_account(name)
    with open_services() as services:
        show_answer(services.put("balance", account_path(region, tenant), {}), json=json)


@account.command("show")
def show_account(name: AccountArgument, *, json: JsonOption = False) -> None:
    """Show an account's balance and state."""
    region, tenant = split_account(name)
    with open_services() as services:
        show_answer(services.get("balance", account_path(region, tenant)), json=json)


@account.command("credit")
def credit_account(
    name: AccountArgument,
    amount: Annotated[str, typer.Argument(help="A decimal amount in the region's currency, such as 25.00.")],
    *,
    reason: Annotated[str, typer.Option(help="Why; it stays in the ledger.")],
    actor: Annotated[str, typer.Option(help="Who decided it; it stays in the ledger.")],
    idempotency_key: Annotated[
        str | None, typer.Option(help="Repeat a credit whose answer was lost with the key that it printed.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Credit an account. Each call is a credit of its own, unless it repeats an --idempotency-key."""
    region, tenant = split_account(name)
    amount_micros = credit_micros(amount)
    with open_services() as services:
        key = idempotency_key or _next_key(services, region, tenant, amount_micros, reason, actor)
        body = {"amount_micros": amount_micros, "reason": reason, "actor": actor}
        try:
            answer = services.post(
                "balance", f"{account_path(region, tenant)}/adjustments", body, {"Idempotency-Key": key}
            )
        except (CommandError, KeyboardInterrupt) as error:
            if not isinstance(error, ProblemError) or error.status >= SERVER_ERROR:
                remark(f"whether the credit is in is not known: repeat it with --idempotency-key {key}")
            raise
    if json:
        print_json({"idempotency_key": key, **answer})
    else:
        say(f"credited {format_micros(amount_micros)} to {region}/{tenant}")


@account.command("grant")
def grant_account(
    name: AccountArgument,
    amount: Annotated[str, typer.Argument(help="A decimal amount in the region's currency, such as 25.00.")],
    *,
    expires_at: Annotated[str, typer.Option(help="When what is left of it is over, such as 2026-12-31T00:00:00Z.")],
    reason: Annotated[str, typer.Option(help="Why; it stays on record.")],
    actor: Annotated[str, typer.Option(help="Who decided it; it stays on record.")],
    idempotency_key: Annotated[str, typer.Option(help="Names this grant: the same key never gives twice.")],
    priority: Annotated[int, typer.Option(min=0, max=1000, help="Lower is burnt sooner.")] = 100,
    json: JsonOption = False,
) -> None:
    """Give promotional credit: burnt before bought credit, and its rest expires."""
    region, tenant = split_account(name)
    body = {
        "amount_micros": credit_micros(amount),
        "expires_at": expires_at,
        "priority": priority,
        "reason": reason,
        "actor": actor,
    }
    with open_services() as services:
        path = f"{account_path(region, tenant)}/grants"
        show_answer(services.post("balance", path, body, {"Idempotency-Key": idempotency_key}), json=json)


@account.command("grants")
def list_grants(name: AccountArgument, *, json: JsonOption = False) -> None:
    """List an account's promotional credit and what is left of it."""
    region, tenant = split_account(name)
    with open_services() as services:
        answer = services.get("balance", f"{account_path(region, tenant)}/grants")
    if json:
        print_json(answer)
        return
    rows = [
        (
            item["kind"],
            format_micros(item["amount_micros"]),
            format_micros(item["remaining_micros"]),
            item["priority"],
            item["expires_at"],
            item.get("state", ""),
        )
        for item in answer["grants"]
    ]
    print_table(("kind", "amount", "remaining", "priority", "expires at", "state"), rows)


def credit_micros(text: str) -> int:
    try:
        amount_micros = parse_micros(text)
    except NotMoneyError as error:
        raise CommandError(str(error)) from error
    if amount_micros <= 0:
        raise CommandError(f"a credit is more than 0, not {text}")
    return amount_micros


def _next_key(services: Services, region: str, tenant: str, amount_micros: int, reason: str, actor: str) -> str:
    """A key that a later credit of the same amount does not share: every credit raises the account's version."""
    try:
        version = int(services.get("balance", account_path(region, tenant))["version"])
    except ProblemError as error:
        if error.status != NOT_FOUND:
            raise
        version = 0
    return fact_id("credit", region, tenant, amount_micros, reason, actor, version + 1)


def show_answer(answer: dict[str, Any], *, json: bool) -> None:
    """An account as the balance service states it; amounts for people in units of its currency."""
    if json:
        print_json(answer)
        return
    rows = []
    for field, value in answer.items():
        if field.endswith("_micros") or "_micros_" in field:
            rows.append((field.replace("_micros", ""), format_micros(value)))
        else:
            rows.append((field, "-" if value is None else value))
    print_table(("field", "value"), rows)
