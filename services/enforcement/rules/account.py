"""What enforcement knows of an account. A version orders what balance said, however it arrived."""

from dataclasses import dataclass, field
from typing import NamedTuple


class AccountKey(NamedTuple):
    """One account; keys are locked in ascending order."""

    region: str
    tenant_id: str


@dataclass(frozen=True, slots=True)
class Account:
    """An account as of `version` of balance; version 0 with state "unknown" is one that balance never spoke of.

    `credited` names the credit that raised the event, where one did, and `told_at_us` is the event's time; neither is
    kept.
    """

    key: AccountKey
    version: int = 0
    state: str = "unknown"
    balance_micros: int = 0
    negative_since_us: int | None = None
    credited: str | None = field(default=None, compare=False)
    told_at_us: int | None = field(default=None, compare=False)

    @property
    def must_stop(self) -> bool:
        """Whether its containers must not run. A new account at zero that was never charged may run."""
        return self.state in {"exhausted", "negative"} and self.balance_micros <= 0

    @property
    def is_negative(self) -> bool:
        """Below zero by every sign that balance gives; any doubt says no."""
        return self.state == "negative" and self.balance_micros < 0 and self.negative_since_us is not None


def learn_account(known: Account, seen: Account) -> Account:
    """The newer of two sayings; a repeat or an older one changes nothing."""
    return seen if seen.version > known.version else known
