"""`tollkeeper`: the command line of a Tollkeeper deployment. One module per group of commands."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from deploy.cli.commands import HELP_OPTIONS, Commands
from deploy.cli.faults import EXIT_CODES, FOUND, INTERRUPTED, TIMEOUT, USAGE, CommandError, EarlyExitError
from deploy.cli.output import remark, say
from deploy.local.faults import StackError
from deploy.local.settings import tell_path_fault

app = typer.Typer(
    name="tollkeeper",
    cls=Commands,
    help="Prepaid billing for GPU clouds: run it, feed it, read it.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    context_settings=HELP_OPTIONS,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer's callback
    if wanted:
        from importlib import metadata

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
