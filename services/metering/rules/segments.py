"""Charged slots of one resource, gathered into segments of one price: the shape in which a charge is stated."""

from dataclasses import dataclass

from services.metering.rules.prices import Entry, entries_by
from shared.money import cumulative_charge

SlotRange = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of charged slots of one (SKU, quantity, unit price).

    `slot_from` is the first slot's index, `slots` how many were charged. There may be gaps where the container was
    stopped; `ranges` has the half-open index ranges without a gap, ascending and never touching. The amount is rounded
    once over the whole segment.
    """

    kind: str
    sku: str
    quantity: int
    unit_price_micros: int
    slot_from: int
    slots: int
    amount_micros: int
    ranges: tuple[SlotRange, ...]

    @property
    def price_micros(self) -> int:
        """Unit price times quantity, per hour."""
        return self.unit_price_micros * self.quantity

    @property
    def value(self) -> tuple[str, int, int]:
        """What ends the segment when it changes."""
        return self.sku, self.quantity, self.unit_price_micros


def total(segments: tuple[Segment, ...]) -> dict[str, int]:
    """Amount in micros by kind; kinds without a segment are absent."""
    amounts: dict[str, int] = {}
    for segment in segments:
        amounts[segment.kind] = amounts.get(segment.kind, 0) + segment.amount_micros
    return amounts


class _Open:
    """A segment that still grows."""

    __slots__ = ("quantity", "ranges", "sku", "slots", "unit_price_micros")

    def __init__(self, sku: str, quantity: int, unit_price_micros: int) -> None:
        self.sku = sku
        self.quantity = quantity
        self.unit_price_micros = unit_price_micros
        self.slots = 0
        self.ranges: list[SlotRange] = []


class Tally:
    """Charged slots of one kind, taken in ascending order and gathered into segments.

    Slots are half-open index ranges `[slot_from, slot_to)`. `end` is the slot after the last one taken, 0 at first.
    """

    __slots__ = ("_created_us", "_kind", "_open", "_slot_us", "end")

    def __init__(self, kind: str, created_us: int, slot_us: int) -> None:
        self._kind = kind
        self._created_us = created_us
        self._slot_us = slot_us
        self._open: list[_Open] = []
        self.end = 0

    @property
    def last_price_micros(self) -> int:
        """Unit price times quantity of the last slot taken. There must be one."""
        return self._open[-1].unit_price_micros * self._open[-1].quantity

    def take(self, sku: str, quantity: int, schedule: tuple[Entry, ...], slot_from: int, slot_to: int) -> None:
        """Charge slots, each at the price in force at its start; slots without a price are not charged."""
        start_us = self._created_us + slot_from * self._slot_us
        # The price in force at the first slot's start; before the first price of all, begin with that one.
        position = max(entries_by(schedule, start_us) - 1, 0)
        while slot_from < slot_to and position < len(schedule):
            effective_us, unit_price_micros = schedule[position]
            position += 1
            price_to = self._slot_at(schedule[position][0]) if position < len(schedule) else slot_to
            slot_from = max(slot_from, self._slot_at(effective_us))
            if slot_from < min(price_to, slot_to):
                self._append(sku, quantity, unit_price_micros, slot_from, min(price_to, slot_to))
            slot_from = max(slot_from, price_to)

    def give_back(self) -> None:
        """Take back the last slot."""
        segment = self._open[-1]
        slot_from, slot_to = segment.ranges.pop()
        if slot_from < slot_to - 1:
            segment.ranges.append((slot_from, slot_to - 1))
        segment.slots -= 1
        if segment.slots == 0:
            # The segment before it may go on: nothing but this slot parted it from what follows.
            self._open.pop()
        self.end -= 1

    def segments(self, slot_seconds: int) -> tuple[Segment, ...]:
        """The segments with their amounts, each rounded over all its slots."""
        return tuple(
            Segment(
                self._kind,
                part.sku,
                part.quantity,
                part.unit_price_micros,
                part.ranges[0][0],
                part.slots,
                cumulative_charge(part.slots, part.unit_price_micros * part.quantity, slot_seconds),
                tuple(part.ranges),
            )
            for part in self._open
        )

    def _slot_at(self, at_us: int) -> int:
        """The first slot that starts at or after an instant."""
        return -((self._created_us - at_us) // self._slot_us)

    def _append(self, sku: str, quantity: int, unit_price_micros: int, slot_from: int, slot_to: int) -> None:
        segment = self._open[-1] if self._open else None
        if segment is None or (segment.sku, segment.quantity, segment.unit_price_micros) != (
            sku,
            quantity,
            unit_price_micros,
        ):
            segment = _Open(sku, quantity, unit_price_micros)
            self._open.append(segment)
        if segment.ranges and segment.ranges[-1][1] == slot_from:
            segment.ranges[-1] = (segment.ranges[-1][0], slot_to)
        else:
            segment.ranges.append((slot_from, slot_to))
        segment.slots += slot_to - slot_from
        self.end = slot_to
