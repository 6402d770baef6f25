"""`tollkeeper`: the command line of a Tollkeeper deployment. One module per group of commands."""

import sys
from collections.abc import Sequence

import typer

from deploy.cli.account import account
from deploy.cli.clock import clock
from deploy.cli.dead import dead
from deploy.cli.explain import explain
from deploy.cli.faults import EXIT_CODES, FOUND, INTERRUPTED, TIMEOUT, USAGE, CommandError, EarlyExitError
from deploy.cli.output import remark
from deploy.cli.payments import rates, reconcile
from deploy.cli.prices import prices
from deploy.cli.publish import publish
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
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def root() -> None:
    """Prepaid billing for GPU clouds: run it, feed it, read it."""


for command in (publish, import_trace, wait_settled, explain, reconcile):
    app.command(epilog=EXIT_CODES)(command)
app.command(name="up", epilog=EXIT_CODES)(stack_up)
app.command(name="down", epilog=EXIT_CODES)(stack_down)
app.command(name="status", epilog=EXIT_CODES)(stack_status)
app.add_typer(prices, name="prices")
app.add_typer(account, name="account")
app.add_typer(voucher, name="voucher")
app.add_typer(rates, name="rates")
app.add_typer(dead, name="dead")
app.add_typer(streams, name="streams")
app.add_typer(clock, name="clock")


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
