"""`tollkeeper`: the command line of a Tollkeeper deployment. One module per group of commands."""

import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Annotated

import typer

from deploy.cli.account import account
from deploy.cli.audit import anchors, audit
from deploy.cli.clock import clock
from deploy.cli.contradictions import contradictions, parked
from deploy.cli.dead import dead
from deploy.cli.explain import explain
from deploy.cli.faults import FOUND, INTERRUPTED, TIMEOUT, USAGE, CommandError, EarlyExitError
from deploy.cli.helping import document
from deploy.cli.output import remark, say
from deploy.cli.payments import rates, reconcile
from deploy.cli.prices import prices
from deploy.cli.publish import publish
from deploy.cli.refunds import inbox, refunds
from deploy.cli.restores import restores
from deploy.cli.set_aside import set_aside
from deploy.cli.settled import wait_settled
from deploy.cli.stack import stack_down, stack_status, stack_up
from deploy.cli.streams import streams
from deploy.cli.trace import import_trace
from deploy.cli.voucher import voucher
from deploy.local.faults import StackError
from deploy.local.settings import tell_path_fault

app = typer.Typer(
    name="tollkeeper",
    help="Prepaid billing for GPU clouds: run it, feed it, read it.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer's callback
    if wanted:
        say(f"tollkeeper {metadata.version('tollkeeper')}")
        raise typer.Exit


@app.callback()
def root(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Prepaid billing for GPU clouds: run it, feed it, read it."""
    assert not version, "its callback ends the program"


for command in (publish, import_trace, wait_settled, explain, reconcile, audit):
    app.command()(command)
app.command(name="up")(stack_up)
app.command(name="down")(stack_down)
app.command(name="status")(stack_status)
app.add_typer(prices, name="prices")
app.add_typer(account, name="account")
app.add_typer(voucher, name="voucher")
app.add_typer(rates, name="rates")
app.add_typer(refunds, name="refunds")
app.add_typer(inbox, name="inbox")
app.add_typer(dead, name="dead")
app.add_typer(parked, name="parked")
app.add_typer(contradictions, name="contradictions")
app.add_typer(streams, name="streams")
app.add_typer(restores, name="restores")
app.add_typer(set_aside, name="set-aside")
app.add_typer(anchors, name="anchors")
app.add_typer(clock, name="clock")
document(app)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and answer its exit code; expected faults are one line on standard error."""
    try:
        app(args=None if arguments is None else list(arguments), prog_name="tollkeeper")
    except SystemExit as end:
        if end.code == INTERRUPTED:
            remark("tollkeeper: interrupted")
        # The parser's own code for a wrong call is wait-settled's for a time-out.
        return USAGE if end.code == TIMEOUT else int(end.code or 0)
    except EarlyExitError as end:
        return end.exit_code
    except CommandError as fault:
        remark(f"tollkeeper: {fault.message}")
        return fault.exit_code
    except StackError as fault:
        remark(f"tollkeeper: {fault}")
        return FOUND
    except OSError as error:
        if (told := tell_path_fault(error)) is None:
            raise
        remark(f"tollkeeper: {told}")
        return FOUND
    return 0


def main() -> None:
    sys.exit(run())


if __name__ == "__main__":
    main()
