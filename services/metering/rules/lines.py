"""Lines: what is published of a charge. A line is always a difference of two values of the charge function."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal, NamedTuple

from services.metering.rules.segments import Segment
from shared.clock import SECOND_US

LineClass = Literal["charge", "credit_correction", "debit_correction"]


class Anchor(NamedTuple):
    """Where slot 0 begins, and how long each lasts; of service usage, which has no grid, when it began, and 0."""

    at_us: int
    slot_seconds: int

    def start_us(self, slot: int) -> int:
        return self.at_us + slot * self.slot_seconds * SECOND_US


@dataclass(frozen=True, slots=True)
class Line:
    """A published amount of one resource and kind.

    `price_micros` is unit price times quantity per hour. `slots` is the net number of slots, `amount_micros` the
    amount; both are signed, and a credit correction's amount is below zero.
    """

    kind: str
    class_: LineClass
    sku: str
    slot_from: int
    slots: int
    price_micros: int
    amount_micros: int


def tick_lines(before: tuple[Segment, ...], after: tuple[Segment, ...]) -> tuple[Line, ...]:
    """What a tick publishes: the growth of one history's charge from one `through` to a later one.

    One line of class `charge` for every segment that grew or is new. A dearer (or equal and later) configuration may
    still take over the slot that was being charged at the first `through`; the old segment then shrinks, and the kind
    is netted into one line. Its amount falls below zero by at most one micro, and only if rounding eats it: the slot
    leaves a segment whose other slots round down, for a price that is equal or dearer by next to nothing. Such a line
    is a credit correction, for a charge is never negative.
    """
    lines: list[Line] = []
    for kind in _kinds(before, after):
        old, new = _of(kind, before), _of(kind, after)
        if _grew(old, new):
            lines += _growth(old, new)
        else:
            lines += _net(kind, old, new, "charge")
    return tuple(lines)


def correction_lines(before: tuple[Segment, ...], after: tuple[Segment, ...]) -> tuple[Line, ...]:
    """What a changed history or price publishes at an unchanged `through`: at most one line per kind.

    The line has the net difference, so that no correction moves a balance up and down within itself; its slot, SKU and
    price are those of the first slot that differs (as it is now, or as it was where it is gone). A kind whose amount
    stays the same has no line.
    """
    lines: list[Line] = []
    for kind in _kinds(before, after):
        line = _net(kind, _of(kind, before), _of(kind, after), "debit_correction")
        lines += [correction for correction in line if correction.amount_micros != 0]
    return tuple(lines)


def _kinds(before: tuple[Segment, ...], after: tuple[Segment, ...]) -> list[str]:
    return sorted({segment.kind for segment in before} | {segment.kind for segment in after})


def _of(kind: str, segments: tuple[Segment, ...]) -> list[Segment]:
    return [segment for segment in segments if segment.kind == kind]


def _grew(old: list[Segment], new: list[Segment]) -> bool:
    """Whether nothing charged before has changed."""
    if not old:
        return True
    last = len(old) - 1
    if len(new) <= last or old[:last] != new[:last]:
        return False
    was, now = old[last], new[last]
    return was.value == now.value and was.slot_from == now.slot_from and was.slots <= now.slots


def _growth(old: list[Segment], new: list[Segment]) -> list[Line]:
    lines: list[Line] = []
    for was, now in zip_longest(old, new):
        slots, amount_micros, end = (was.slots, was.amount_micros, was.ranges[-1][1]) if was else (0, 0, 0)
        if now.slots > slots:
            # The first slot past the old ones, whether it carries their last range on or follows a gap.
            slot_from = next(max(start, end) for start, stop in now.ranges if stop > end)
            grown = now.slots - slots, now.price_micros, now.amount_micros - amount_micros
            lines.append(Line(now.kind, "charge", now.sku, slot_from, *grown))
    return lines


def _net(kind: str, old: list[Segment], new: list[Segment], gain: LineClass) -> list[Line]:
    """The difference as one line, if there is one: of class `gain`, or a credit correction if it is below zero."""
    differs = _first_difference(old, new)
    if differs is None:
        return []
    slot, segment = differs
    slots = sum(part.slots for part in new) - sum(part.slots for part in old)
    amount_micros = sum(part.amount_micros for part in new) - sum(part.amount_micros for part in old)
    if slots == 0 and amount_micros == 0:
        return []
    class_: LineClass = "credit_correction" if amount_micros < 0 else gain
    return [Line(kind, class_, segment.sku, slot, slots, segment.price_micros, amount_micros)]


class _Range(NamedTuple):
    slot_from: int
    slot_to: int
    segment: Segment


def _first_difference(old: list[Segment], new: list[Segment]) -> tuple[int, Segment] | None:
    """The first slot charged differently, with its segment as it is now (as it was, if now uncharged)."""
    for was, now in zip_longest(_ranges(old), _ranges(new)):
        if was is None or now is None:
            gone_or_new = now or was
            return gone_or_new.slot_from, gone_or_new.segment
        if was.slot_from != now.slot_from or was.segment.value != now.segment.value:
            first = now if now.slot_from <= was.slot_from else was
            return first.slot_from, first.segment
        if was.slot_to != now.slot_to:
            return _after_shorter(was, now, old, new)
    return None


def _ranges(segments: list[Segment]) -> Iterable[_Range]:
    return (_Range(start, stop, segment) for segment in segments for start, stop in segment.ranges)


def _after_shorter(was: _Range, now: _Range, old: list[Segment], new: list[Segment]) -> tuple[int, Segment]:
    """Where two ranges begin alike and one is shorter: the slot after it, as whoever charges it now (or did) has it."""
    slot = min(was.slot_to, now.slot_to)
    for segments in (new, old):
        for entry in _ranges(segments):
            if entry.slot_from <= slot < entry.slot_to:
                return slot, entry.segment
    raise AssertionError("the longer of two ranges holds the slot after the shorter")
