"""Time, as an injected clock. An instant is an integer: microseconds since 1970-01-01T00:00:00Z.

The system clock is the operating system's; the test clock is a file that a whole stack reads, so that a test can
set and move the time of every service at once. Nothing outside this module asks the operating system for the time.
"""

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
HOUR_US = 3600 * SECOND_US
DAY_US = 24 * HOUR_US

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII)


def minute_of(instant_us: int) -> int:
    """The full minute of UTC in which an instant lies, by its beginning."""
    return instant_us - instant_us % MINUTE_US


class Clock(Protocol):
    """Where a service takes its time from."""

    @property
    def is_test(self) -> bool: ...

    def now_us(self) -> int: ...


class SystemClock:
    """The operating system's clock."""

    is_test = False

    def now_us(self) -> int:
        return time.time_ns() // 1000


class FixedClock:
    """A clock that stands until it is moved: for tests inside one process."""

    is_test = True

    def __init__(self, now_us: int) -> None:
        self._now_us = now_us

    def now_us(self) -> int:
        return self._now_us

    def set(self, now_us: int) -> None:
        self._now_us = now_us


class FileClock:
    """The test clock of a stack: the file holds one RFC 3339 instant and stands until somebody writes a later one."""

    is_test = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self.now_us()

    def now_us(self) -> int:
        return parse_instant(self._path.read_text("ascii").strip())

    def set(self, now_us: int) -> None:
        """Write the new time; readers see the old instant or the new one, never half of it."""
        fresh = self._path.with_suffix(".new")
        fresh.write_text(format_instant(now_us), "ascii")
        fresh.replace(self._path)


def open_clock(test_clock: Path | None) -> Clock:
    """The clock of a service: the test clock only where its folder was made as a test (it holds a file `TEST`)."""
    if test_clock is None:
        return SystemClock()
    if not (test_clock.parent / "TEST").exists():
        raise ValueError(
            f"{test_clock.parent} was not made as a test: a test clock works only beside a file named TEST"
        )
    return FileClock(test_clock)


def parse_instant(text: str) -> int:
    """Read an RFC 3339 timestamp with a zone as an instant; digits below a microsecond are cut off.

    A leap second, which only ends a month of UTC, is the second after it: so clocks count that know none (POSIX).
    """
    if _RFC3339.fullmatch(text) is None:
        raise ValueError(f"{text[:64]!r} is not an RFC 3339 timestamp with a zone, such as 2026-11-01T08:00:05Z")
    head, dot, rest = text.partition(".")
    if dot:
        digits = len(rest) - len(rest.lstrip("0123456789"))
        text = f"{head}.{rest[:digits][:6].ljust(6, '0')}{rest[digits:]}"
    try:
        if text[17:19] == "60":
            return _after_leap_second(to_us(datetime.fromisoformat(f"{text[:17]}59{text[19:]}".upper())))
        return to_us(datetime.fromisoformat(text.upper()))
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{text[:64]!r} is not a possible date and time: {error}") from error


def _after_leap_second(before_us: int) -> int:
    instant_us = before_us + SECOND_US
    if instant_us % DAY_US >= SECOND_US or from_us(instant_us).day != 1:
        raise ValueError("a leap second ends a month of UTC")
    return instant_us


def format_instant(instant_us: int) -> str:
    """Write an instant as RFC 3339 in UTC, with a fraction only where there is one."""
    moment = from_us(instant_us)
    return moment.replace(tzinfo=None).isoformat() + "Z"


def to_us(moment: datetime) -> int:
    delta = moment - _EPOCH
    return (delta.days * 86400 + delta.seconds) * SECOND_US + delta.microseconds


def from_us(instant_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=instant_us)


class JumpDetector:
    """Tells how far a clock has run away from monotonic time since it was last asked."""

    def __init__(self, clock: Clock, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._last = (clock.now_us(), monotonic())

    def jump_us(self) -> int:
        """How much more (or less, negative) the clock moved than monotonic time did, in microseconds."""
        now = (self._clock.now_us(), self._monotonic())
        moved_us = now[0] - self._last[0]
        passed_us = round((now[1] - self._last[1]) * SECOND_US)
        self._last = now
        return moved_us - passed_us


class ClockTrust:
    """Whether a clock ran as monotonic time did since this process began. One that jumped is not trusted again."""

    def __init__(self, clock: Clock) -> None:
        self._detector = JumpDetector(clock)
        self._holds = True

    def look(self) -> bool:
        """Whether nothing that only time allows, such as forgetting, has to wait for an operator and a restart."""
        self._holds = self._holds and abs(self._detector.jump_us()) <= HOUR_US
        return self._holds
