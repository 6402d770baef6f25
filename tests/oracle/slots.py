"""Every slot of a life, one after another: what it costs at which price, and the sum.

`by_the_slot` is the rule itself. `by_the_block` looks at one slot where a whole stretch of them is equal, and is shown
to give the same by a property test.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from tests.oracle.lives import Life
from tests.oracle.prices import Prices

KINDS = ("gpu", "storage")
# What makes a slot's price: (SKU, quantity, price of one per hour in micros). None: not charged.
Value = tuple[str, int, int] | None


@dataclass(frozen=True)
class Grid:
    """A life on its grid: slot i is [created + i s, created + (i + 1) s). Slots from `unconfirmed_us` on are free."""

    life: Life
    prices: Prices
    slot_us: int
    through_us: int
    unconfirmed_us: int | None = None

    def start(self, slot: int) -> int:
        return self.life.created_us + slot * self.slot_us

    def value(self, kind: str, slot: int) -> Value:
        if self.unconfirmed_us is not None and self.start(slot) >= self.unconfirmed_us:
            return None
        return self.gpu(slot) if kind == "gpu" else self.storage(slot)

    def gpu(self, slot: int) -> Value:
        """The dearest configuration that ran at any instant of the slot before `through`; of equals the latest."""
        start_us = self.start(slot)
        limit_us = min(start_us + self.slot_us, self.through_us, self.life.end_us)
        dearest: Value = None
        for piece in self.life.pieces:
            ran = piece.running and max(piece.from_us, start_us) < min(piece.to_us, limit_us)
            if not ran or piece.gpu_sku is None or piece.gpu_count == 0:
                continue
            rate = self.prices.at(self.life.region, "gpu", piece.gpu_sku, start_us)
            if rate is None:
                continue
            if dearest is None or rate.price_micros * piece.gpu_count >= dearest[1] * dearest[2]:
                dearest = (piece.gpu_sku, piece.gpu_count, rate.price_micros)
        return dearest

    def storage(self, slot: int) -> Value:
        """The size as the slot starts, if it starts before `through` and before the end."""
        start_us = self.start(slot)
        if start_us >= min(self.through_us, self.life.end_us):
            return None
        for piece in self.life.pieces:
            if piece.from_us <= start_us < piece.to_us and piece.storage_gb > 0:
                rate = self.prices.at(self.life.region, "storage", "persistent", start_us)
                return None if rate is None else ("persistent", piece.storage_gb, rate.price_micros)
        return None

    def count(self) -> int:
        """How many slots have begun."""
        last_us = min(self.through_us, self.life.end_us)
        slots = 0 if last_us <= self.life.created_us else (last_us - 1 - self.life.created_us) // self.slot_us + 1
        return max(slots, 0)

    def instants(self) -> list[int]:
        """Every instant at which anything changes."""
        found = [self.through_us, self.life.end_us]
        if self.unconfirmed_us is not None:
            found.append(self.unconfirmed_us)
        for piece in self.life.pieces:
            found += [piece.from_us, piece.to_us]
            if piece.gpu_sku is not None:
                found += self.prices.instants(self.life.region, "gpu", piece.gpu_sku)
        return found + self.prices.instants(self.life.region, "storage", "persistent")


def by_the_slot(grid: Grid, kind: str) -> Iterator[tuple[Value, int]]:
    """(value, 1) of each slot in order."""
    for slot in range(grid.count()):
        yield grid.value(kind, slot), 1


def by_the_block(grid: Grid, kind: str) -> Iterator[tuple[Value, int]]:
    """(value, number of slots) in order.

    A slot in which, or at an edge of which, anything changes is looked at alone. Between two such slots nothing
    changes at all, so the first slot's value is every slot's value; the last one is looked at to make sure.
    """
    count = grid.count()
    single: set[int] = set()
    for at_us in grid.instants():
        slot = (at_us - grid.life.created_us) // grid.slot_us
        single.update(near for near in (slot - 1, slot) if 0 <= near < count)
    done = 0
    for slot in [*sorted(single), count]:
        if done < slot:
            value = grid.value(kind, done)
            if grid.value(kind, slot - 1) != value:
                raise AssertionError(f"slots {done} to {slot - 1} of {grid.life.resource_id} are not alike")
            yield value, slot - done
        if slot < count:
            yield grid.value(kind, slot), 1
        done = slot + 1


@dataclass(frozen=True)
class Sum:
    """What a kind of one resource costs in all, and how many slots were charged."""

    micros: int
    slots: int


def add_up(values: Iterator[tuple[Value, int]], slot_us: int) -> Sum:
    """Of charged slots k at p an hour cost k p s / 3600, rounded down once; k restarts when the value changes.

    Slots that are not charged are passed over: what comes before and after them may be one stretch.
    """
    micros, slots = 0, 0
    present: Value = None
    k = 0
    for value, count in values:
        if value is None:
            continue
        if value != present:
            micros += _cost(present, k, slot_us)
            present, k = value, 0
        k += count
        slots += count
    return Sum(micros + _cost(present, k, slot_us), slots)


def _cost(value: Value, k: int, slot_us: int) -> int:
    return 0 if value is None else k * value[1] * value[2] * slot_us // 3_600_000_000
