"""`tollkeeper up`, `down`, `status`: the local stack."""

from typing import Annotated

import typer

from deploy.cli.faults import FOUND, EarlyExitError
from deploy.cli.output import JsonOption


def stack_up(
    *,
    detach: Annotated[bool, typer.Option("--detach", help="Return when it is ready and leave it running.")] = False,
    no_demo: Annotated[bool, typer.Option("--no-demo", help="Without the simulated platform and its story.")] = False,
    test_clock: Annotated[
        bool, typer.Option("--test-clock", help="Make a new home a test, whose time `tollkeeper clock` sets.")
    ] = False,
    clock_start: Annotated[str, typer.Option(help="Where a new test clock starts: RFC 3339, or now.")] = "now",
    change_settings: Annotated[
        bool, typer.Option("--change-settings", help="Start although the regions' settings are not those of this home.")
    ] = False,
) -> None:
    """Start Kafka, PostgreSQL and every service, and stay with them until Ctrl-C."""
    from deploy.local import stack

    stack.up(
        detach=detach, demo=not no_demo, test_clock=test_clock, clock_start=clock_start, change_settings=change_settings
    )


def stack_down() -> None:
    """Stop the stack of this home; its data stays."""
    from deploy.local import stack

    stack.down()


def stack_status(*, json: JsonOption = False) -> None:
    """Tell how the stack of this home is doing; exit code 1 unless all of it is ready."""
    from deploy.local import stack

    if not stack.status(as_json=json):
        raise EarlyExitError(FOUND)
