"""After a restore: what is still to publish where the topic says what was charged and the histories what it must be."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from services.metering.rules.lines import Line, LineClass
from services.metering.rules.segments import Segment, total


class ChargeKey(NamedTuple):
    """One resource and kind of an account; of service usage `resource_id` and `kind` are the SKU, as in its lines."""

    region: str
    tenant_id: str
    resource_id: str
    kind: str


@dataclass(frozen=True, slots=True)
class Charged:
    """All that was charged of one resource and kind; SKU, first slot and price are those of the last of it."""

    sku: str
    slot_from: int
    slots: int
    price_micros: int
    amount_micros: int

    def plus(self, further: "Charged") -> "Charged":
        return replace(
            further, slots=self.slots + further.slots, amount_micros=self.amount_micros + further.amount_micros
        )


def charged_of(segments: tuple[Segment, ...]) -> dict[str, Charged]:
    """What a charge says in all, by kind."""
    found: dict[str, Charged] = {}
    amounts = total(segments)
    for segment in segments:
        before = found.get(segment.kind)
        slots = segment.slots + (before.slots if before else 0)
        found[segment.kind] = Charged(
            segment.sku, segment.slot_from, slots, segment.price_micros, amounts[segment.kind]
        )
    return found


def settlement_lines(charged: Mapping[str, Charged], due: Mapping[str, Charged]) -> tuple[Line, ...]:
    """One correction per kind that makes `charged` what is `due`; none where the amounts are equal.

    Both are by kind. A line's SKU, slot and price are those of what is due, or of what was charged where nothing is.
    """
    lines: list[Line] = []
    for kind in sorted({*charged, *due}):
        was, now = charged.get(kind), due.get(kind)
        shape = now or was
        assert shape is not None
        amount_micros = (now.amount_micros if now else 0) - (was.amount_micros if was else 0)
        slots = (now.slots if now else 0) - (was.slots if was else 0)
        if amount_micros:
            class_: LineClass = "credit_correction" if amount_micros < 0 else "debit_correction"
            line = Line(kind, class_, shape.sku, shape.slot_from, slots, shape.price_micros, amount_micros)
            lines.append(line)
    return tuple(lines)
