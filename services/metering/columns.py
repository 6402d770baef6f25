"""A shard's billing at rest, as columns: what the tick computes with, without a read or write per resource.

A row is a kind of a resource that goes on billing (rules.charge.Cursor). Rows are sorted by account, kind and resource.
Nothing here is the truth: it is valid for one (version, through) of the shard's row and can be thrown away any time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from services.metering.rules.charge import Cursor
from services.metering.rules.prices import PriceTable
from shared.clock import SECOND_US
from shared.money import HOUR_SECONDS

Ints = NDArray[np.int64]
# Products stay below 2**63; what might not is computed with Python's integers.
_SAFE = 2**62
NO_TABLE = PriceTable()


class Rated(NamedTuple):
    """A SKU of a region: rows name it by its index."""

    region: str
    kind: str
    sku: str


@dataclass(frozen=True, slots=True)
class Rows:
    """Columns of equal length; `resource_ids` are Python strings shared between a resource's kinds."""

    account: NDArray[np.int32]
    rated: NDArray[np.int32]
    resource_ids: NDArray[np.object_]
    quantity: Ints
    price_micros: Ints
    slot_seconds: Ints
    next_slot: Ints
    next_due_us: Ints
    last_price_micros: Ints
    remainder: Ints

    def __len__(self) -> int:
        return len(self.account)

    def take(self, index: "NDArray[np.bool_] | NDArray[np.intp]") -> "Rows":
        return Rows(*(getattr(self, name)[index] for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class LineColumns:
    """Lines of class `charge`, sorted by account.

    `starts` (in seconds, of the first slot) and `slots_seconds` are there where lines say themselves when they begin.
    """

    account: NDArray[np.int32]
    rated: NDArray[np.int32]
    resource_ids: NDArray[np.object_]
    slot_from: Ints
    slots: Ints
    price_micros: Ints
    amount_micros: Ints
    starts: Ints | None = None
    slots_seconds: Ints | None = None

    def __len__(self) -> int:
        return len(self.account)


def _ints(values: Sequence[int]) -> Ints:
    return np.array(values, dtype=np.int64)


def build_rows(entries: Sequence[tuple[int, int, str, int, Cursor]]) -> Rows:
    """Rows of (account index, rated index, resource id, slot seconds, cursor), in any order."""
    resource_ids = np.empty(len(entries), dtype=np.object_)
    resource_ids[:] = [entry[2] for entry in entries]
    cursors = [entry[4] for entry in entries]
    return Rows(
        np.array([entry[0] for entry in entries], dtype=np.int32),
        np.array([entry[1] for entry in entries], dtype=np.int32),
        resource_ids,
        _ints([cursor.quantity for cursor in cursors]),
        _ints([cursor.price_micros for cursor in cursors]),
        _ints([entry[3] for entry in entries]),
        _ints([cursor.next_slot for cursor in cursors]),
        _ints([cursor.next_due_us for cursor in cursors]),
        _ints([cursor.last_price_micros for cursor in cursors]),
        _ints([cursor.remainder for cursor in cursors]),
    )


def merge_rows(first: Rows, second: Rows) -> Rows:
    """Both, sorted by account and rated SKU; the order of the resources in `first` is kept."""
    if not len(second):
        return first
    merged = Rows(*(np.concatenate((getattr(first, name), getattr(second, name))) for name in Rows.__slots__))
    return merged.take(np.lexsort((merged.rated, merged.account)))


def sort_rows(rows: Rows) -> Rows:
    """Rows by account, rated SKU and resource: neighbours whose names are alike take half the room in a batch."""
    names = rows.resource_ids.tolist()
    named = rows.take(np.array(sorted(range(len(rows)), key=names.__getitem__), dtype=np.intp))
    return named.take(np.lexsort((named.rated, named.account)))


EMPTY_ROWS = build_rows([])
_UNTIMED = LineColumns.__slots__[:-2]


def advance(
    rows: Rows,
    rated: Sequence[Rated],
    tables: Mapping[str, PriceTable],
    from_us: int,
    through_us: int,
    *,
    timed: bool = False,
) -> tuple[Rows, LineColumns]:
    """Charge what falls due in `[from_us, through_us)`; answer the rows as they are then, and the lines.

    A price that takes effect inside the window cuts it there. `timed`: lines say when they begin.
    """
    cuts = _cuts(rated, tables, from_us, through_us)
    pieces = []
    for cut_us, changed in cuts:
        rows, lines = _charge_due(rows, cut_us, timed=timed)
        pieces.append(lines)
        if changed:
            rows = _reprice(rows, rated, tables, changed, cut_us)
    rows, lines = _charge_due(rows, through_us, timed=timed)
    if not pieces:
        return rows, lines
    pieces.append(lines)
    names = LineColumns.__slots__ if timed else _UNTIMED
    joined = LineColumns(*(np.concatenate([getattr(p, name) for p in pieces]) for name in names))
    order = np.lexsort((joined.rated, joined.account))
    return rows, LineColumns(*(getattr(joined, name)[order] for name in names))


def _cuts(
    rated: Sequence[Rated], tables: Mapping[str, PriceTable], from_us: int, through_us: int
) -> list[tuple[int, list[int]]]:
    """The instants in `[from_us, through_us)` at which prices change, with the rated SKUs that do."""
    cuts: dict[int, list[int]] = {}
    for index, (region, kind, sku) in enumerate(rated):
        for at_us in tables.get(region, NO_TABLE).boundaries(kind, sku, from_us - 1, through_us):
            cuts.setdefault(at_us, []).append(index)
    return sorted(cuts.items())


def _reprice(
    rows: Rows, rated: Sequence[Rated], tables: Mapping[str, PriceTable], changed: Sequence[int], at_us: int
) -> Rows:
    """Rows that fall due at `at_us` or later cost the price that is in force from then on."""
    price_micros = rows.price_micros.copy()
    for index in changed:
        region, kind, sku = rated[index]
        unit_price = tables[region].unit_price(kind, sku, at_us)
        assert unit_price is not None, "a price takes effect here"
        # A row that is due later has the price of its own due time already, unless a cut comes in between.
        mask = rows.rated == index
        price_micros[mask] = rows.quantity[mask] * unit_price
    return replace(rows, price_micros=price_micros)


def _charge_due(rows: Rows, through_us: int, *, timed: bool) -> tuple[Rows, LineColumns]:
    slot_us = rows.slot_seconds * SECOND_US
    slots = np.maximum((through_us - 1 - rows.next_due_us) // slot_us + 1, 0)
    index = np.nonzero(slots)[0]
    if not len(index):
        return rows, _lines(rows, index, slots[index], slots[index], timed=timed)
    due = slots[index]
    price, seconds = rows.price_micros[index], rows.slot_seconds[index]
    carried = np.where(rows.last_price_micros[index] == price, rows.remainder[index], 0)
    amount, remainder = _divide(due, price, seconds, carried)
    lines = _lines(rows, index, due, amount, timed=timed)
    next_slot, next_due_us = rows.next_slot.copy(), rows.next_due_us.copy()
    last_price, remainders = rows.last_price_micros.copy(), rows.remainder.copy()
    next_slot[index] += due
    next_due_us[index] += due * slot_us[index]
    last_price[index] = price
    remainders[index] = remainder
    fresh = replace(
        rows, next_slot=next_slot, next_due_us=next_due_us, last_price_micros=last_price, remainder=remainders
    )
    return fresh, lines


def _divide(due: Ints, price: Ints, seconds: Ints, carried: Ints) -> tuple[Ints, Ints]:
    """Amounts and remainders of `due` slots, exact: where 64 bits might not do, with Python's integers."""
    if int(due.max()) * int(price.max()) * int(seconds.max()) + HOUR_SECONDS < _SAFE:
        amount, remainder = np.divmod(due * price * seconds + carried, HOUR_SECONDS)
        return amount, remainder
    columns = (due.tolist(), price.tolist(), seconds.tolist(), carried.tolist())
    exact = [divmod(n * p * s + r, HOUR_SECONDS) for n, p, s, r in zip(*columns, strict=True)]
    return _ints([pair[0] for pair in exact]), _ints([pair[1] for pair in exact])


def _lines(rows: Rows, index: NDArray[np.intp], slots: Ints, amount: Ints, *, timed: bool) -> LineColumns:
    return LineColumns(
        rows.account[index],
        rows.rated[index],
        rows.resource_ids[index],
        rows.next_slot[index],
        slots,
        rows.price_micros[index],
        amount,
        rows.next_due_us[index] // SECOND_US if timed else None,
        rows.slot_seconds[index] if timed else None,
    )
