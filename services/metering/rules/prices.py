"""Prices in force: an immutable table, and what a new price book may change in it."""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from shared.clock import format_instant
from shared.events.lifecycle import GPU_COUNT_MAX, STORAGE_GB_MAX
from shared.money import AMOUNT_MICROS_MAX, HOUR_SECONDS, format_micros

GPU = "gpu"
STORAGE = "storage"
SERVICE = "service"
# The one storage SKU; temporary storage is free.
PERSISTENT = "persistent"

# The price of one unit of a service; what its quantity makes of it is checked with each record.
SERVICE_PRICE_MICROS_MAX = 10**15
_QUANTITIES_MAX = {GPU: GPU_COUNT_MAX, STORAGE: STORAGE_GB_MAX}

_NOTHING_USED: Mapping[str, int] = {}

Key = tuple[str, str]
Entry = tuple[int, int]


def entries_by(entries: tuple[Entry, ...], at_us: int) -> int:
    """How many entries have taken effect by an instant, that instant included."""
    # No price is negative, so this sorts before all entries of the next microsecond; a key function costs far more.
    return bisect_left(entries, (at_us + 1, -1))


class ServiceRate(NamedTuple):
    """`price_micros` for every `unit_size` units called `unit_name` (1000 tokens)."""

    unit_size: int
    unit_name: str
    price_micros: int


@dataclass(frozen=True, slots=True)
class PriceBook:
    """What a region published: prices of the SKUs that it names, from an instant on.

    `gpu` is micros per GPU and hour, `storage` micros per GB and hour.
    """

    region: str
    version: int
    effective_from_us: int
    gpu: Mapping[str, int] = field(default_factory=dict)
    storage: Mapping[str, int] = field(default_factory=dict)
    services: Mapping[str, ServiceRate] = field(default_factory=dict)

    def prices(self) -> dict[Key, int]:
        """Unit price in micros by (kind, SKU)."""
        return {
            **{(GPU, sku): price for sku, price in self.gpu.items()},
            **{(STORAGE, sku): price for sku, price in self.storage.items()},
            **{(SERVICE, sku): ServiceRate(*rate).price_micros for sku, rate in self.services.items()},
        }


@dataclass(frozen=True, slots=True)
class PriceTable:
    """All prices of a region, past and to come: (kind, SKU) to ascending (effective from, unit price in micros).

    `version` is that of the last book that went in. Of services, `rates` also holds the unit in force.
    """

    entries: Mapping[Key, tuple[Entry, ...]] = field(default_factory=dict)
    version: int = 0
    rates: Mapping[str, tuple[tuple[int, ServiceRate], ...]] = field(default_factory=dict)

    def schedule(self, kind: str, sku: str) -> tuple[Entry, ...]:
        """Every (effective from, unit price in micros) of a SKU, ascending; empty if it never had a price."""
        return self.entries.get((kind, sku), ())

    def unit_price(self, kind: str, sku: str, at_us: int) -> int | None:
        """Micros per unit and hour in force at an instant (for a service, per unit size); None before the first."""
        entries = self.schedule(kind, sku)
        position = entries_by(entries, at_us)
        return entries[position - 1][1] if position else None

    def boundaries(self, kind: str, sku: str, from_us: int, to_us: int) -> tuple[int, ...]:
        """The instants strictly between `from_us` and `to_us` at which a price of the SKU takes effect."""
        entries = self.schedule(kind, sku)
        first = entries_by(entries, from_us)
        last = entries_by(entries, to_us - 1)
        return tuple(effective_us for effective_us, _ in entries[first:last])

    def service_rate(self, sku: str, at_us: int) -> ServiceRate | None:
        """Price and unit of a service in force at an instant, None before its first."""
        rates = self.rates.get(sku, ())
        position = bisect_right(rates, at_us, key=_rate_from_us)
        return rates[position - 1][1] if position else None

    def with_book(self, book: PriceBook) -> "PriceTable":
        """The table with a book's prices; other SKUs stay as they are. What a book may say is `check_book`'s matter."""
        entries = dict(self.entries)
        for key, price_micros in book.prices().items():
            merged = dict(entries.get(key, ()))
            merged[book.effective_from_us] = price_micros
            entries[key] = tuple(sorted(merged.items()))
        rates = dict(self.rates)
        for sku, rate in book.services.items():
            rated = dict(rates.get(sku, ()))
            rated[book.effective_from_us] = ServiceRate(*rate)
            rates[sku] = tuple(sorted(rated.items()))
        return PriceTable(entries, book.version, rates)


def _rate_from_us(entry: tuple[int, ServiceRate]) -> int:
    return entry[0]


def check_book(
    table: PriceTable,
    book: PriceBook,
    through_max_us: int,
    slot_seconds_max: int = 3600,
    used_until_us: Mapping[str, int] = _NOTHING_USED,
) -> list[str]:
    """What forbids a book, one sentence each; empty if it may take effect.

    `through_max_us` is the furthest instant to which any shard has charged. Service usage is charged when it comes in:
    of each SKU in `used_until_us` up to there. A book that changes a price takes effect later, for the past is mended
    by adjustments. A SKU that never had a price may get one from any instant on, and what waited unpriced is charged.
    Repeating the price that is in force anyway is no change. A price times the largest quantity times the longest slot
    fits a bigint, so that no resource can't be charged.
    """
    problems = _malformed(book) + _too_high(book, slot_seconds_max)
    if book.version <= table.version:
        problems.append(f"version {book.version} does not follow version {table.version}, which is in force")
    at_us = book.effective_from_us
    for (kind, sku), price_micros in book.prices().items():
        charged_us = through_max_us
        if kind == SERVICE:
            charged_us = max(charged_us, used_until_us.get(sku, charged_us))
        if at_us > charged_us or not table.schedule(kind, sku):
            continue
        unchanged = table.unit_price(kind, sku, at_us) == price_micros
        if kind == SERVICE and unchanged:
            unchanged = table.service_rate(sku, at_us) == ServiceRate(*book.services[sku])
        if not unchanged:
            problems.append(
                f"{kind} {sku}: the price would change at {format_instant(at_us)}, but charges are made up to "
                f"{format_instant(charged_us)}; "
                "a book takes effect later, a change of the past is an adjustment"
            )
    return problems


def _too_high(book: PriceBook, slot_seconds_max: int) -> list[str]:
    problems = []
    for (kind, sku), price_micros in book.prices().items():
        most = SERVICE_PRICE_MICROS_MAX
        if kind != SERVICE:
            most = AMOUNT_MICROS_MAX // (_QUANTITIES_MAX[kind] * max(slot_seconds_max, HOUR_SECONDS)) - 1
        if price_micros > most:
            problems.append(f"{kind} {sku}: the price exceeds {format_micros(most)}, the most that can be charged")
    return problems


def _malformed(book: PriceBook) -> list[str]:
    """Faults that a book has by itself."""
    problems = [f"{kind} {sku}: the price is negative" for (kind, sku), price in book.prices().items() if price < 0]
    problems += [
        f"{SERVICE} {sku}: the unit size {ServiceRate(*rate).unit_size} is not positive"
        for sku, rate in book.services.items()
        if ServiceRate(*rate).unit_size <= 0
    ]
    problems += [
        f"{STORAGE} {sku}: there is no such storage, only {PERSISTENT}" for sku in book.storage if sku != PERSISTENT
    ]
    if not (book.gpu or book.storage or book.services):
        problems.append("the book names no SKU")
    return problems
