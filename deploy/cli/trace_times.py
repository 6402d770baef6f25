"""Times of a trace's cells: RFC 3339, wall clock in a time zone, or counted from the trace's start."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from enum import StrEnum
from zoneinfo import ZoneInfo

from shared.clock import SECOND_US, parse_instant, to_us

# How tools write that there is no such time: sacct, pandas, SQL exports.
_ABSENT = frozenset({"", "unknown", "none", "null", "nan", "nat", "n/a", "-"})
_DECIMAL = re.compile(r"(\d{1,15})(?:\.(\d*))?", re.ASCII)
_WALL_CLOCK = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?", re.ASCII)
_ZONED = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d(?:\.\d{1,9})?) ?(Z|z|UTC|[+-]\d\d:?\d\d)", re.ASCII)
_FIXED_ZONE = re.compile(r"([+-])(\d\d):?(\d\d)", re.ASCII)
_SPAN = re.compile(r"(?:(\d{1,6})-)?(?:(\d{1,9}):)?(\d{1,9}):(\d{1,2})(?:\.(\d{1,9}))?", re.ASCII)
_OFFSET_US_MAX = 200 * 366 * 86_400 * SECOND_US


class RowError(ValueError):
    """The row makes no sense; says why."""


class MissingOptionError(ValueError):
    """No row can be read without an option that was not given; says which."""


class TimeUnit(StrEnum):
    """The unit in which a trace counts from its start."""

    SECONDS = "s"
    MILLISECONDS = "ms"
    MICROSECONDS = "us"

    @property
    def us(self) -> int:
        return {TimeUnit.SECONDS: SECOND_US, TimeUnit.MILLISECONDS: 1000, TimeUnit.MICROSECONDS: 1}[self]


@dataclass(frozen=True, slots=True)
class Times:
    """How times are read: `start_us` is the instant of `origin_us` (None: no counted times), `zone` the wall clock's.

    What is counted is in `unit`.
    """

    start_us: int | None
    origin_us: int = 0
    unit: TimeUnit = TimeUnit.SECONDS
    zone: tzinfo | None = None

    def read(self, text: str, what: str) -> int | None:
        """A cell as an instant; None where it says that there is none.

        Raises RowError that names `what`, MissingOptionError.
        """
        if is_absent(text):
            return None
        if found := _DECIMAL.fullmatch(text):
            return self._counted(found, text, what)
        if found := _ZONED.fullmatch(text):
            day, clock, zone = found.groups()
            return _possible(f"{day}T{clock}{_zone_of(zone)}", text, what)
        if _WALL_CLOCK.fullmatch(text):
            return self._wall_clock(text, what)
        raise RowError(f"{what} {text[:40]!r} is no time")

    def _counted(self, found: re.Match[str], text: str, what: str) -> int:
        if self.start_us is None:
            raise MissingOptionError(f"{what} {text[:40]!r} is counted from the trace's start: give --start")
        offset_us = _scaled(found.group(1), found.group(2) or "", self.unit.us) - self.origin_us
        if not 0 <= offset_us <= _OFFSET_US_MAX:
            raise RowError(f"{what} {text[:40]!r} is before the trace's start or centuries after it")
        return self.start_us + offset_us

    def _wall_clock(self, text: str, what: str) -> int:
        if self.zone is None:
            raise MissingOptionError(f"{what} {text[:40]!r} names no zone: give --time-zone, such as Asia/Ho_Chi_Minh")
        head, dot, digits = text.upper().replace(" ", "T").partition(".")
        try:
            moment = datetime.fromisoformat(f"{head}{dot}{digits[:6].ljust(6, '0') if dot else ''}")
            early, late = (to_us(moment.replace(tzinfo=self.zone, fold=fold)) for fold in (0, 1))
        except (ValueError, OverflowError) as error:
            raise RowError(f"{what} {text[:40]!r} is not a possible date and time: {error}") from error
        if early > late:
            raise RowError(f"{what} {text[:40]!r} never was in {self.zone}: the clocks went forward")
        if early < late:
            raise RowError(f"{what} {text[:40]!r} was twice in {self.zone}: the clocks went back")
        return early

    def read_span(self, text: str, what: str) -> int | None:
        """A duration, counted or as [days-][hours:]minutes:seconds. None where the cell says that there is none."""
        if is_absent(text):
            return None
        if found := _DECIMAL.fullmatch(text):
            return _scaled(found.group(1), found.group(2) or "", self.unit.us)
        if found := _SPAN.fullmatch(text):
            days, hours, minutes, seconds = (int(part or 0) for part in found.groups()[:4])
            whole = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
            return _scaled(str(whole), found.group(5) or "", SECOND_US)
        raise RowError(f"{what} {text[:40]!r} is no duration")


def is_absent(text: str) -> bool:
    return text.casefold() in _ABSENT


def _scaled(whole: str, digits: str, unit_us: int) -> int:
    """A decimal of a unit in microseconds; parts below one are cut off."""
    scale: int = 10 ** len(digits)
    return int(whole + digits) * unit_us // scale


def _zone_of(text: str) -> str:
    return "Z" if text in {"Z", "z", "UTC"} else f"{text[:3]}:{text[-2:]}"


def _possible(rfc3339: str, text: str, what: str) -> int:
    try:
        return parse_instant(rfc3339)
    except ValueError as error:
        raise RowError(f"{what} {text[:40]!r} is not a possible date and time: {error}") from error


def read_zone(text: str) -> tzinfo:
    """A zone by its name, such as Asia/Ho_Chi_Minh, or its offset, such as +07:00. Raises ValueError."""
    if text in {"UTC", "Z"}:
        return UTC
    if found := _FIXED_ZONE.fullmatch(text):
        offset = timedelta(hours=int(found.group(2)), minutes=int(found.group(3)))
        return timezone(-offset if found.group(1) == "-" else offset)
    try:
        return ZoneInfo(text)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{text!r} is no time zone: write a name such as Asia/Ho_Chi_Minh, or +07:00") from error
