"""What an audit finds, and what it looks at."""

from dataclasses import dataclass
from typing import Any

from shared.clock import MINUTE_US, format_instant


@dataclass(frozen=True, slots=True)
class Difference:
    """`account` is "region/tenant", or the shard where no account can be named; `at_us` when it was posted."""

    account: str
    at_us: int | None
    what: str

    def __str__(self) -> str:
        return f"{self.account}, {self.minute or 'at no known time'}: {self.what}"

    @property
    def minute(self) -> str | None:
        return None if self.at_us is None else format_instant(self.at_us - self.at_us % MINUTE_US)

    def as_json(self) -> dict[str, str | None]:
        return {"account": self.account, "minute": self.minute, "what": self.what}


def difference_of(row: Any, what: str) -> Difference:  # noqa: ANN401 - a record of asyncpg
    """Of a row with `account` and `at`."""
    return Difference(row["account"] or "an account that is gone", row["at"], what)
