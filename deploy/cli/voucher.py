"""`tollkeeper voucher`: issue a code, and redeem one for an account."""

from typing import Annotated

import typer

from deploy.cli.account import AccountArgument, account_path, credit_micros, show_answer
from deploy.cli.output import JsonOption, print_json, say
from deploy.cli.services import open_services, split_account
from shared.money import format_micros

voucher = typer.Typer(no_args_is_help=True)


@voucher.command("create")
def create_voucher(
    region: Annotated[str, typer.Argument(help="The region in which it is valid, such as vn.")],
    amount: Annotated[str, typer.Argument(help="What each redemption gives, in the region's currency, such as 25.00.")],
    *,
    valid_days: Annotated[int, typer.Option(min=1, max=3650, help="How long the credit lasts once redeemed.")],
    redeem_until: Annotated[str, typer.Option(help="Until when it is redeemed, such as 2026-12-31T00:00:00Z.")],
    reason: Annotated[str, typer.Option(help="Why; it stays on record.")],
    actor: Annotated[str, typer.Option(help="Who decided it; it stays on record.")],
    idempotency_key: Annotated[str, typer.Option(help="Names this voucher: the same key never issues two.")],
    redemptions_max: Annotated[int, typer.Option(min=1, help="How many tenants redeem it at most.")] = 1,
    priority: Annotated[int, typer.Option(min=0, max=1000, help="Lower is burnt sooner.")] = 100,
    code: Annotated[str | None, typer.Option(help="8 to 64 letters and digits; without it, one is made.")] = None,
    json: JsonOption = False,
) -> None:
    """Issue a voucher and print its code, which is told this once and not kept."""
    amount_micros = credit_micros(amount)
    body = {
        "region": region,
        "amount_micros": amount_micros,
        "valid_days": valid_days,
        "redeem_until": redeem_until,
        "redemptions_max": redemptions_max,
        "priority": priority,
        "reason": reason,
        "actor": actor,
        **({} if code is None else {"code": code}),
    }
    with open_services() as services:
        answer = services.post("balance", "/v1/vouchers", body, {"Idempotency-Key": idempotency_key})
    if json:
        print_json(answer)
    elif answer["code"] is None:
        say(f"voucher {answer['voucher_id']} was issued before; its code was told then")
    else:
        say(f"code {answer['code']}: {format_micros(amount_micros)} in {region}, until {answer['redeem_until']}")


@voucher.command("redeem")
def redeem_voucher(
    name: AccountArgument,
    code: Annotated[str, typer.Argument(help="The code; case, blanks and dashes do not matter.")],
    *,
    json: JsonOption = False,
) -> None:
    """Redeem a code for an account, once; a repeat shows the same grant."""
    region, tenant = split_account(name)
    with open_services() as services:
        path = f"{account_path(region, tenant)}/voucher-redemptions"
        show_answer(services.post("balance", path, {"code": code}), json=json)
