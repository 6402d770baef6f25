"""A charge batch as posting reads it: the totals, and of the lines no more than what proves them.

The contract is `shared/events/charges.py`; this is its fast half. Both refuse what does not add up.
"""

import re
from typing import Annotated, Literal

import msgspec

from shared.events.charges import decompress
from shared.events.cloudevents import read_instant

LineClass = Literal["charge", "credit_correction", "debit_correction"]
Total = tuple[str, LineClass, int]

_REGION = re.compile(r"[a-z0-9][a-z0-9-]{0,31}", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


class WireAccount(msgspec.Struct, gc=False):
    region: str
    tenant_id: str
    burn_micros_per_hour: int
    totals: list[Total]
    lines: Annotated[int, msgspec.Meta(ge=0)]
    admission_ids: list[str] = []


class WireLines(msgspec.Struct, gc=False):
    amounts_micros: list[int]


class WireBatch(msgspec.Struct, gc=False):
    shard: Annotated[int, msgspec.Meta(ge=0)]
    seq: Annotated[int, msgspec.Meta(ge=1)]
    charged_at: str
    function_version: int
    book_version: int
    accounts: list[WireAccount]
    lines: WireLines

    @property
    def charged_at_us(self) -> int:
        return read_instant(self.charged_at)


class WireColumns(msgspec.Struct, gc=False):
    """What the rows of an hour are made of."""

    resource_ids: list[str]
    kinds: list[str]
    slots: list[int]
    amounts_micros: list[int]


class WireShares(msgspec.Struct, gc=False):
    """A batch whose columns are decoded only if they are asked for."""

    seq: int
    accounts: list[WireAccount]
    lines: msgspec.Raw

    def columns(self) -> WireColumns:
        """The columns, of one length. Raises ValueError."""
        columns = _columns_decoder.decode(self.lines)
        count = sum(account.lines for account in self.accounts)
        found = [len(columns.resource_ids), len(columns.kinds), len(columns.slots), len(columns.amounts_micros)]
        if found != [count] * 4:
            raise ValueError(f"batch {self.seq} has {count} lines, its columns have {found}")
        return columns


_decoder = msgspec.json.Decoder(WireBatch)
_shares_decoder = msgspec.json.Decoder(WireShares)
_columns_decoder = msgspec.json.Decoder(WireColumns)


def read_wire(value: bytes) -> WireBatch:
    """Read a record's value. Raises ValueError for bytes that are no consistent batch (msgspec's error is one)."""
    batch = _decoder.decode(decompress(value))
    read_instant(batch.charged_at)
    amounts = batch.lines.amounts_micros
    first = 0
    for account in batch.accounts:
        last = first + account.lines
        total_micros = 0
        for _, line_class, amount_micros in account.totals:
            total_micros += amount_micros
            if (amount_micros < 0) is not (line_class == "credit_correction") and amount_micros:
                raise ValueError(f"a total of {account.region}/{account.tenant_id} has the wrong sign for its class")
        if sum(amounts[first:last]) != total_micros:
            raise ValueError(f"the lines of {account.region}/{account.tenant_id} do not add up to its totals")
        first = last
    if first != len(amounts):
        raise ValueError("columns and the accounts' line counts differ in length")
    return batch


def read_shares(value: bytes) -> WireShares:
    """Read a posted batch by accounts. Raises ValueError."""
    return _shares_decoder.decode(decompress(value))


def check_names(account: WireAccount) -> None:
    """Refuse names that the contract does not allow. Raises ValueError."""
    if _REGION.fullmatch(account.region) is None or _NAME.fullmatch(account.tenant_id) is None:
        raise ValueError(f"{account.region[:40]!r}/{account.tenant_id[:80]!r} is no account")


def check_kind(kind: str) -> None:
    """Refuse a kind that can't name a ledger account. Raises ValueError."""
    if _NAME.fullmatch(kind) is None:
        raise ValueError(f"{kind[:80]!r} is no kind")
