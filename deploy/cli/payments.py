"""`tollkeeper reconcile` and `tollkeeper rates`: what an operator does about payments."""

import re
from datetime import date as calendar_date
from typing import Annotated

import typer

from deploy.cli.faults import FOUND, USAGE, CommandError, EarlyExitError
from deploy.cli.output import JsonOption, print_json, print_table, say
from deploy.cli.services import open_services, split_account

_PAIR = re.compile(r"[A-Z]{3}/[A-Z]{3}")
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)

rates = typer.Typer(no_args_is_help=True)


def reconcile(
    *,
    days: Annotated[int, typer.Option(min=0, max=400, help="How far back settled orders are asked about.")] = 7,
    account: Annotated[str | None, typer.Option(metavar="REGION/TENANT", help="One account's orders only.")] = None,
    json: JsonOption = False,
) -> None:
    """Ask the payment providers and balance about orders now. Exits 1 if anything differed, healed or not."""
    body: dict[str, object] = {"days": days}
    if account is not None:
        body["region"], body["tenant_id"] = split_account(account)
    with open_services() as services:
        answer = services.post("payment", "/v1/reconciliations", body)
    if json:
        print_json(answer)
    else:
        rows = [(item["order_id"], item["kind"], item["detail"]) for item in answer["differences"]]
        if rows:
            print_table(("order", "difference", "detail"), rows)
        say(f"{answer['asked']} orders asked about, {len(rows)} differences")
    if answer["differences"]:
        raise EarlyExitError(FOUND)


@rates.command("publish")
def publish_rate(
    pair: Annotated[str, typer.Argument(metavar="FROM/TO", help="Two currencies, such as USD/VND.")],
    rate: Annotated[str, typer.Argument(help="Units of TO for one unit of FROM, such as 25400.5.")],
    *,
    date: Annotated[str, typer.Option(help="The day from which it holds (UTC), such as 2026-11-24.")],
    actor: Annotated[str, typer.Option(help="Who decided it; it stays on record.")],
    json: JsonOption = False,
) -> None:
    """Publish a dated exchange rate; quotes use the latest day's."""
    if _PAIR.fullmatch(pair) is None:
        raise CommandError(f"{pair!r} is no pair of currencies: write FROM/TO, such as USD/VND", USAGE)
    if not _is_day(date):
        raise CommandError(f"--date {date!r} is no day: write it as 2026-11-24", USAGE)
    from_currency, _, to_currency = pair.partition("/")
    body = {"from": from_currency, "to": to_currency, "rate": rate, "date": date, "actor": actor}
    with open_services() as services:
        answer = services.put("payment", "/v1/exchange-rates", body)
    if json:
        print_json(answer)
    else:
        say(f"1 {from_currency} is {rate} {to_currency} from {date} on")


def _is_day(text: str) -> bool:
    try:
        return _DAY.fullmatch(text) is not None and calendar_date.fromisoformat(text) is not None
    except ValueError:
        return False


@rates.command("list")
def list_rates(*, json: JsonOption = False) -> None:
    """List the published rates, newest first."""
    with open_services() as services:
        answer = services.get("payment", "/v1/exchange-rates")
    if json:
        print_json(answer)
        return
    names = ("from", "to", "rate", "date", "actor", "published_at")
    print_table(names, [tuple(item[name] for name in names) for item in answer["exchange_rates"]])
