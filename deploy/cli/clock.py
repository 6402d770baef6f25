"""`tollkeeper clock`: the time of a stack that was made with a test clock. Time only goes forward."""

import re
from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.addresses import Addresses
from deploy.cli.faults import CommandError
from deploy.cli.output import JsonOption, print_json, say
from shared.clock import SECOND_US, FileClock, format_instant, parse_instant

clock = typer.Typer(no_args_is_help=True)

_DURATION = re.compile(r"(\d{1,9})(s|m|h|d)", re.ASCII)
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def open_test_clock(home: Path) -> FileClock:
    """The clock of the stack in `home`. Raises CommandError where the stack was not made as a test."""
    if not (home / "TEST").exists():
        raise CommandError(
            f"{home} was not made as a test, so its time can't be set; "
            "`tollkeeper up --test-clock` makes one in an empty TOLLKEEPER_HOME"
        )
    try:
        return FileClock(home / "clock")
    except (OSError, ValueError) as error:
        raise CommandError(f"{home / 'clock'} holds no time ({error}); write an RFC 3339 instant into it") from error


def parse_duration_us(text: str) -> int:
    """Read 90s, 15m, 2h or 1d as microseconds. Raises CommandError."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise CommandError(f"{text!r} is no duration: write 90s, 15m, 2h or 1d")
    return int(found.group(1)) * _UNIT_SECONDS[found.group(2)] * SECOND_US


@clock.command("show")
def show_clock(*, json: JsonOption = False) -> None:
    """Print the stack's time."""
    _say(open_test_clock(Addresses.read().home).now_us(), json=json)


@clock.command("set")
def set_clock(
    instant: Annotated[str, typer.Argument(help="An RFC 3339 instant, such as 2026-01-01T00:00:00Z.")],
    *,
    json: JsonOption = False,
) -> None:
    """Set the stack's time to a later instant."""
    try:
        target_us = parse_instant(instant)
    except ValueError as error:
        raise CommandError(str(error)) from error
    _move(open_test_clock(Addresses.read().home), target_us, json=json)


@clock.command("advance")
def advance_clock(
    duration: Annotated[str, typer.Argument(help="How far: 90s, 15m, 2h, 1d.")], *, json: JsonOption = False
) -> None:
    """Move the stack's time on."""
    test_clock = open_test_clock(Addresses.read().home)
    _move(test_clock, test_clock.now_us() + parse_duration_us(duration), json=json)


def _move(test_clock: FileClock, target_us: int, *, json: bool) -> None:
    now_us = test_clock.now_us()
    if target_us < now_us:
        raise CommandError(f"the stack's time is {format_instant(now_us)} already; it only goes forward")
    test_clock.set(target_us)
    _say(target_us, json=json)


def _say(now_us: int, *, json: bool) -> None:
    if json:
        print_json({"now": format_instant(now_us)})
    else:
        say(format_instant(now_us))
