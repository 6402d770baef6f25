"""Price books as a list of changes, looked up by going through all of them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.oracle.instants import instant


def micros(text: str) -> int:
    """A decimal string as millionths. Raises ValueError if it is not a whole number of them."""
    found = re.fullmatch(r"(\d+)(?:\.(\d+))?", text, re.ASCII)
    if found is None:
        raise ValueError(f"{text!r} is no price")
    decimals = (found.group(2) or "").rstrip("0")
    if len(decimals) > 6:
        raise ValueError(f"{text!r} has parts below a millionth")
    return int(found.group(1)) * 1_000_000 + int(decimals.ljust(6, "0") or "0")


@dataclass(frozen=True)
class Rate:
    """`price_micros` for every `unit_size` units (1 for hours of GPUs and gigabytes)."""

    price_micros: int
    unit_size: int = 1


@dataclass
class Prices:
    """Every change of price: (region, kind, sku) to a list of (instant, rate) in the order of the books."""

    changes: dict[tuple[str, str, str], list[tuple[int, Rate]]] = field(default_factory=dict)

    @classmethod
    def from_books(cls, books: Sequence[Mapping[str, Any]]) -> "Prices":
        prices = cls()
        for book in books:
            for kind in ("gpu", "storage"):
                for sku, price in book.get(kind, {}).items():
                    prices._add(book, kind, sku, Rate(micros(price)))
            for sku, entry in book.get("services", {}).items():
                digits = re.match(r"(\d+)-", entry["unit"])
                prices._add(book, "service", sku, Rate(micros(entry["price"]), int(digits.group(1)) if digits else 1))
        return prices

    def _add(self, book: Mapping[str, Any], kind: str, sku: str, rate: Rate) -> None:
        changes = self.changes.setdefault((book["region"], kind, sku), [])
        changes.append((instant(book["effective_from"]), rate))

    def at(self, region: str, kind: str, sku: str, at_us: int) -> Rate | None:
        """The rate in force at an instant: the latest change not after it; of two at one instant the last book's."""
        best: tuple[int, Rate] | None = None
        for from_us, rate in self.changes.get((region, kind, sku), ()):
            if from_us <= at_us and (best is None or from_us >= best[0]):
                best = (from_us, rate)
        return None if best is None else best[1]

    def instants(self, region: str, kind: str, sku: str) -> list[int]:
        return [from_us for from_us, _ in self.changes.get((region, kind, sku), ())]
