"""What a network does to a file of events: it shuffles and repeats, and what it delivers comes late."""

import random
from collections.abc import Sequence
from typing import TypeVar

_Item = TypeVar("_Item")


def shuffled_with_repeats(items: Sequence[_Item], seed: int, *, repeats: float = 0.3) -> list[_Item]:
    """Every item at least once, `repeats` of them (as a share) again, some a third time, in any order."""
    draw = random.Random(seed)
    some = [item for item in items if draw.random() < repeats]
    again = [item for item in some if draw.random() < repeats]
    everything = [*items, *some, *again]
    draw.shuffle(everything)
    return everything


def delayed(items: Sequence[_Item], seed: int, *, places_max: int = 50) -> list[_Item]:
    """The items with some of them moved back by up to `places_max` places, as by a queue that stood still."""
    draw = random.Random(seed)
    places = [
        (position + (draw.randrange(places_max) if draw.random() < 0.3 else 0), position)
        for position in range(len(items))
    ]
    return [items[position] for _, position in sorted(places)]
