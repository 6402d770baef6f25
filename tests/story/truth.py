"""What was true at each point of a story, by the oracle, out of what had been published by then."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.oracle.accounts import answer
from tests.story.drawing import Account

ResourceKey = tuple[str, str]


@dataclass
class Truth:
    """Balances at the points at which `look` was called, in their order."""

    books: Sequence[Mapping[str, Any]]
    regions: Mapping[str, Mapping[str, Any]]
    credits: dict[Account, int] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    points: list[tuple[int, dict[Account, int]]] = field(default_factory=list)

    def look(self, through_us: int, now_us: int, commanded: Mapping[ResourceKey, int]) -> dict[Account, int]:
        """The balances now, by everything published and charged up to `through_us`."""
        totals = answer(self.lines, self.books, self.regions, through_us, now_us=now_us, commanded=commanded).totals()
        balances = {
            account: self.credits.get(account, 0) - totals.get(account, 0) for account in {*self.credits, *totals}
        }
        self.points.append((now_us, balances))
        return balances

    def least(self, account: Account) -> int:
        """The lowest balance that the account ever had."""
        return min(balances.get(account, 0) for _, balances in self.points)

    def below_zero_since(self, account: Account) -> int | None:
        """The clock's instant at the last point of an uninterrupted time below zero, up to now; None if above."""
        since_us = None
        for now_us, balances in self.points:
            if balances.get(account, 0) >= 0:
                since_us = None
            elif since_us is None:
                since_us = now_us
        return since_us
