"""A second opinion on charges: every slot and every instant one by one, sharing no code with what it checks."""

from typing import NamedTuple

from services.metering.rules.history import Event, History
from tests.unit import naive_order

Prices = dict[tuple[str, str], list[tuple[int, int]]]


class Slot(NamedTuple):
    number: int
    sku: str
    quantity: int
    unit_price_micros: int


class Life(NamedTuple):
    """(effective instant, event) of events with an effect up to the earliest deletion, creation first."""

    facts: list[tuple[int, Event]]
    created_us: int
    deleted_us: int | None


def live(history: History) -> Life:
    steps = naive_order.order(history.events)
    facts = [(step.at_us, step.event) for step in steps if step.effect in ("", "after_the_end")]
    ends = [at_us for at_us, event in facts if event.type.endswith(".deleted")]
    counted = [(step.at_us, step.event) for step in steps if step.effect == "" and (not ends or step.at_us <= ends[0])]
    return Life(counted, counted[0][0], ends[0] if ends else None)


def price_at(prices: Prices, kind: str, sku: str, at_us: int) -> int | None:
    known = [(from_us, price) for from_us, price in prices.get((kind, sku), []) if from_us <= at_us]
    return max(known)[1] if known else None


def replay(life: Life, at_us: int) -> tuple[bool, str | None, int, int]:
    """(running, GPU SKU, GPU count, GB) at an instant, everything of that instant included."""
    running, sku, count, size_gb = False, None, 0, 0
    for effective_us, event in life.facts:
        if effective_us > at_us:
            break
        action = event.type.split(".")[1]
        if action == "started":
            running = True
        if action in ("stopped", "deleted"):
            running = False
        if action in ("created", "resized"):
            sku = event.gpu_sku if event.gpu_sku is not None else sku
            count = event.gpu_count if event.gpu_count is not None else count
            size_gb = event.storage_gb if event.storage_gb is not None else size_gb
    return running, sku, count, size_gb


def slots(history: History, prices: Prices, through_us: int) -> dict[str, list[Slot]]:
    """The charged slots by kind, ascending."""
    life = live(history)
    ends = [through_us]
    ends += [end for end in (life.deleted_us, history.commanded_us) if end is not None]
    length_us = history.slot_seconds * 1_000_000
    found: dict[str, list[Slot]] = {"gpu": [], "storage": []}
    number = 0
    while (start_us := life.created_us + number * length_us) < min(ends):
        if history.confirmed_until_us is not None and start_us >= history.confirmed_until_us:
            break
        instants = {start_us}
        instants |= {at_us for at_us, _ in life.facts if start_us < at_us < start_us + length_us}
        best: Slot | None = None
        for at_us in sorted(instants):
            running, sku, count, _ = replay(life, at_us)
            if at_us >= min(ends) or not running or sku is None or count <= 0:
                continue
            unit = price_at(prices, "gpu", sku, start_us)
            if unit is not None and (best is None or unit * count >= best.unit_price_micros * best.quantity):
                best = Slot(number, sku, count, unit)
        if best is not None:
            found["gpu"].append(best)
        size_gb = replay(life, start_us)[3]
        unit = price_at(prices, "storage", "persistent", start_us)
        if size_gb > 0 and unit is not None:
            found["storage"].append(Slot(number, "persistent", size_gb, unit))
        number += 1
    return found


def amount(charged: list[Slot], slot_seconds: int) -> int:
    """Cumulative rounding, counted anew whenever (SKU, quantity, unit price) changes value."""
    sum_micros = 0
    settled, count = 0, 0
    value: tuple[str, int, int] | None = None
    for slot in charged:
        if slot[1:] != value:
            value, settled, count = slot[1:], 0, 0
        count += 1
        due = slot.unit_price_micros * slot.quantity * slot_seconds * count // 3600
        sum_micros += due - settled
        settled = due
    return sum_micros
