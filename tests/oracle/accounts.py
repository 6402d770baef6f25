"""What every account must have been charged, out of a file of events."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.oracle.lives import Life, live
from tests.oracle.prices import Prices, Rate
from tests.oracle.reading import LeftOut, Page, Reading, Usage, read_lines
from tests.oracle.slots import KINDS, Grid, add_up, by_the_block, by_the_slot

Account = tuple[str, str]


@dataclass
class Answer:
    """Micros and charged slots by account and kind (`gpu`, `storage`, or a service's SKU), and what was left out."""

    micros: dict[Account, dict[str, int]] = field(default_factory=dict)
    slots: dict[Account, dict[str, int]] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)
    resources: int = 0
    unpriced: dict[tuple[str, str, str], int] = field(default_factory=dict)

    def total(self, account: Account) -> int:
        return sum(self.micros.get(account, {}).values())

    def totals(self) -> dict[Account, int]:
        """What each account was charged in all; accounts that owe nothing are absent."""
        return {account: self.total(account) for account in sorted(self.micros) if self.total(account)}

    def add(self, account: Account, kind: str, micros: int, slots: int) -> None:
        for table, value in ((self.micros, micros), (self.slots, slots)):
            kinds = table.setdefault(account, {})
            kinds[kind] = kinds.get(kind, 0) + value


def answer(
    lines: Iterable[str | bytes],
    books: Sequence[Mapping[str, Any]],
    regions: Mapping[str, Mapping[str, Any]],
    through_us: int,
    *,
    now_us: int | None = None,
    commanded: Mapping[tuple[str, str], int] | None = None,
    slot_by_slot: bool = False,
) -> Answer:
    """Charge everything in `lines` up to `through_us`.

    `books` in the order in which they were accepted; `regions` by name with `slot_seconds` and `opened_at`;
    `commanded` has the instants at which enforcement commanded deletions, by (region, resource id).
    """
    prices = Prices.from_books(books)
    reading = read_lines(lines, regions, through_us if now_us is None else now_us)
    result = Answer(left_out=reading.left_out)
    confirmed = _confirmations(reading.pages)
    for (region, resource_id), facts in sorted(reading.facts.items()):
        life = live(facts, result.left_out, (commanded or {}).get((region, resource_id)))
        if life is not None:
            grid = _grid(life, prices, regions[region], through_us, confirmed.get((region, resource_id), []))
            _charge_life(result, grid, slot_by_slot=slot_by_slot)
    _charge_usage(result, reading, prices)
    return result


def _grid(life: Life, prices: Prices, region: Mapping[str, Any], through_us: int, confirmed_us: Sequence[int]) -> Grid:
    unconfirmed_us = None
    if region.get("declares_inventory"):
        last_us = max([life.created_us, *confirmed_us])
        unconfirmed_us = last_us + int(region.get("inventory_bound_seconds", 1800)) * 1_000_000
    return Grid(life, prices, int(region.get("slot_seconds", 60)) * 1_000_000, through_us, unconfirmed_us)


def _charge_life(result: Answer, grid: Grid, *, slot_by_slot: bool) -> None:
    result.resources += 1
    account = (grid.life.region, grid.life.tenant_id)
    walk = by_the_slot if slot_by_slot else by_the_block
    for kind in KINDS:
        found = add_up(walk(grid, kind), grid.slot_us)
        if found.slots:
            result.add(account, kind, found.micros, found.slots)
    for piece in grid.life.pieces:
        if piece.running and piece.gpu_sku and piece.gpu_count and piece.from_us < grid.through_us:
            _note_unpriced(result, grid.prices, "gpu", piece.gpu_sku, grid.life.region, piece.from_us)
        if piece.storage_gb and piece.from_us < grid.through_us:
            _note_unpriced(result, grid.prices, "storage", "persistent", grid.life.region, piece.from_us)


def _note_unpriced(result: Answer, prices: Prices, kind: str, sku: str, region: str, at_us: int) -> None:
    if prices.at(region, kind, sku, at_us) is None:
        key = (region, kind, sku)
        result.unpriced[key] = result.unpriced.get(key, 0) + 1


def _charge_usage(result: Answer, reading: Reading, prices: Prices) -> None:
    """All quantities of one tenant, SKU and price are added up first and rounded down once."""
    sums: dict[tuple[Account, str, Rate], int] = {}
    for usage in _standing(reading.usage, result.left_out):
        rate = prices.at(usage.region, "service", usage.sku, usage.from_us)
        if rate is None:
            _note_unpriced(result, prices, "service", usage.sku, usage.region, usage.from_us)
            continue
        key = ((usage.region, usage.tenant_id), usage.sku, rate)
        sums[key] = sums.get(key, 0) + usage.quantity
    for (account, sku, rate), quantity in sorted(sums.items(), key=lambda item: (item[0][0], item[0][1])):
        result.add(account, sku, quantity * rate.price_micros // rate.unit_size, quantity)


def _standing(usage: Sequence[Usage], left_out: list[LeftOut]) -> list[Usage]:
    """The records that nobody replaced; who replaces one waits until it is there."""
    known: dict[tuple[str, str], Usage] = {}
    replaced: set[tuple[str, str]] = set()
    waiting: list[Usage] = []
    for item in usage:
        waiting.append(item)
        while ready := next((one for one in waiting if one.replaces is None or one.replaces in known), None):
            waiting.remove(ready)
            target = None if ready.replaces is None else known[ready.replaces]
            if target is not None and (target.region, target.tenant_id) != (ready.region, ready.tenant_id):
                left_out.append(LeftOut(ready.line, "conflict: other tenant"))
            elif target is not None and target.key in replaced:
                left_out.append(LeftOut(ready.line, "conflict: already replaced"))
            else:
                known[ready.key] = ready
                replaced |= {target.key} if target is not None else set()
    left_out.extend(LeftOut(item.line, "pending: what it replaces never came") for item in waiting)
    return [item for item in known.values() if item.key not in replaced and item.sku]


def _confirmations(pages: Sequence[Page]) -> dict[tuple[str, str], list[int]]:
    """The instants of complete listings by (region, resource id)."""
    listings: dict[tuple[str, str, str], dict[int, Page]] = {}
    for page in pages:
        listings.setdefault((page.source, page.region, page.snapshot), {})[page.page] = page
    confirmed: dict[tuple[str, str], list[int]] = {}
    for found in listings.values():
        one = next(iter(found.values()))
        if len(found) == one.pages:
            for page in found.values():
                for resource_id in page.resource_ids:
                    confirmed.setdefault((page.region, resource_id), []).append(page.time_us)
    return confirmed


def differences(
    expected: Mapping[Account, int], balances: Mapping[Account, int], credits_micros: Mapping[Account, int]
) -> list[tuple[Account, int, int | None]]:
    """(account, balance that it must have, balance that it has or None) where the two differ."""
    wrong: list[tuple[Account, int, int | None]] = []
    for account in sorted({*expected, *balances, *credits_micros}):
        must = credits_micros.get(account, 0) - expected.get(account, 0)
        has = balances.get(account)
        if has != must and not (has is None and must == 0):
            wrong.append((account, must, has))
    return wrong
