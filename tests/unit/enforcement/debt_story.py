"""Drawn stories of an account in debt, and what may come of them by plain enumeration of its entries."""

from dataclasses import dataclass, field
from typing import Literal

from hypothesis import strategies as st

from shared.clock import HOUR_US

GRACE_US = 24 * HOUR_US

Kind = Literal["charge", "debit correction", "credit correction", "credit"]


@dataclass(frozen=True)
class Entry:
    """Something posted after a pause; `amount_micros` is positive. Small numbers meet zero often."""

    kind: Kind
    amount_micros: int
    pause_us: int

    @property
    def delta_micros(self) -> int:
        return self.amount_micros if self.kind in {"credit", "credit correction"} else -self.amount_micros


@dataclass(frozen=True)
class Hearing:
    """Enforcement hears some of what balance had told by then: an index into it, or how balance stands now."""

    index: int | None


@dataclass(frozen=True)
class Attempt:
    """Enforcement looks at its case after a pause; `between` is posted after the permit, before its redemption."""

    pause_us: int
    between: Entry | None


PAUSES = st.sampled_from([0, 1, HOUR_US, GRACE_US // 2, GRACE_US - 1, GRACE_US, GRACE_US + 1])
KINDS: tuple[Kind, ...] = ("charge", "debit correction", "credit correction", "credit")
ENTRIES = st.builds(Entry, st.sampled_from(KINDS), st.integers(1, 4), PAUSES)
STEPS = (
    ENTRIES
    | st.builds(Hearing, st.none() | st.integers(0, 20))
    | st.builds(Attempt, PAUSES, st.none() | st.builds(Entry, st.sampled_from(KINDS), st.integers(1, 4), st.just(0)))
)
STORIES = st.lists(STEPS, max_size=30)


@dataclass
class Postings:
    """Every entry that was posted, and when."""

    posted: list[tuple[int, int]] = field(default_factory=list)

    def add(self, at_us: int, delta_micros: int) -> None:
        self.posted.append((at_us, delta_micros))

    def balance_at(self, instant_us: int) -> int:
        return sum(delta for at_us, delta in self.posted if at_us <= instant_us)

    def may_delete(self, now_us: int) -> bool:
        """Below zero at every instant of the last grace period, and nothing in the customer's favour within it."""
        start_us = now_us - GRACE_US
        balance = self.balance_at(start_us)
        if balance >= 0:
            return False
        for at_us, delta in self.posted:
            if at_us > start_us:
                balance += delta
                if balance >= 0 or delta > 0:
                    return False
        return True
