"""`usage.charges.v1`: what metering charges, per shard and contiguous sequence number.

The value of a record is zstd-compressed JSON of one ChargeBatch; the same bytes are in metering's outbox, on the
topic and in the ledger's evidence. Lines are columns of one length: an account's `lines` counts its own, accounts in
order. An account with more lines than a batch has room for stands in several batches, each with the totals of its own
lines and the whole account's burn. `amounts_micros` are signed (a credit correction is negative) and add up to the
accounts' totals.

When what a batch charges was used is told by the minute, for the credit that only pays for use before its end: every
slot of it begins in `[used_from, used_until)`. Where these lie in more than one minute, the lines say it themselves by
`starts` and `slots_seconds`. `charged_through` comes with the last batch of a tick, empty or not: every resource of the
shard is charged up to it, as far as metering knows.
"""

from typing import Annotated, Final, Literal, Self

import cramjam
from pydantic import BaseModel, ConfigDict, Field, model_validator

from shared.events.cloudevents import Identifier, Micros, RegionName, SentInstant, TenantId
from shared.events.reading import read_json
from shared.money import AMOUNT_MICROS_MAX

CONTENT_TYPE = "application/json+zstd"
DOCUMENT_BYTES_MAX = 128 * 1024 * 1024
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_HEADER_BYTES_MIN = 6

LineClass = Literal["charge", "credit_correction", "debit_correction"]
# One entry: kind ("gpu", "storage" or a service's SKU), class, signed amount.
Total = tuple[str, LineClass, Micros]
Integer = Annotated[int, Field(strict=True)]
# The widest line: its amount fits the ledger's column, and an hour's sum of slots too.
LINE_AMOUNT_MICROS_MAX: Final = AMOUNT_MICROS_MAX
SLOTS_MAX: Final = 10**16
# Beyond every instant that an event may have.
SECONDS_MAX: Final = 10**11


def total_fault(total: tuple[str, LineClass, int]) -> str | None:
    """What is wrong with a total by itself, or None."""
    _, line_class, amount_micros = total
    if abs(amount_micros) > AMOUNT_MICROS_MAX:
        return "is beyond what the ledger can hold"
    if amount_micros and (amount_micros < 0) is not (line_class == "credit_correction"):
        return "has the wrong sign for its class"
    return None


def line_fault(line_class: LineClass, slots: int, price_micros: int, amount_micros: int) -> str | None:
    """What is wrong with a line by itself, or None. Only corrections take slots back, only credits money."""
    if abs(amount_micros) > LINE_AMOUNT_MICROS_MAX or abs(slots) > SLOTS_MAX:
        return "is out of bounds"
    if price_micros < 0 or (slots < 0 and line_class == "charge"):
        return "has a negative price or charges negative slots"
    if amount_micros and (amount_micros < 0) is not (line_class == "credit_correction"):
        return "has the wrong sign for its class"
    return None


class Lines(BaseModel):
    """The lines of a batch as columns of equal length.

    `slots_from` is the first slot (or 0 for service usage), `slots` their number (service usage: the quantity; in a
    correction the net change), `prices_micros` the price per hour of the whole configuration (service usage: of its
    unit), `causes` the event that made a correction or usage line ("" for the tick). `starts` is when the first slot
    begins, in seconds since 1970, and `slots_seconds` how long one lasts (0: all of the line begins with the first); a
    correction counts as slots that follow one another.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    resource_ids: list[str]
    kinds: list[str]
    classes: list[LineClass]
    skus: list[str]
    slots_from: list[Integer]
    slots: list[Integer]
    prices_micros: list[Integer]
    amounts_micros: list[Micros]
    causes: list[str]
    starts: list[Annotated[int, Field(strict=True, ge=0, le=SECONDS_MAX)]] | None = None
    slots_seconds: list[Annotated[int, Field(strict=True, ge=0, le=SECONDS_MAX)]] | None = None


class AccountCharges(BaseModel):
    """One account's part of a batch; `lines` is the number of its lines, `totals` one per kind and class."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    region: RegionName
    tenant_id: TenantId
    burn_micros_per_hour: Annotated[int, Field(strict=True, ge=0, le=AMOUNT_MICROS_MAX)]
    totals: list[Total]
    lines: Annotated[int, Field(ge=0)]
    admission_ids: list[Identifier] = []


class ChargeBatch(BaseModel):
    """One message of a shard's charge stream."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shard: Annotated[int, Field(ge=0)]
    seq: Annotated[int, Field(ge=1)]
    charged_at: SentInstant
    function_version: int
    book_version: int
    used_from: SentInstant | None = None
    used_until: SentInstant | None = None
    charged_through: SentInstant | None = None
    accounts: list[AccountCharges]
    lines: Lines

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        timed = (self.lines.starts, self.lines.slots_seconds)
        if (self.used_from is None) is not (self.used_until is None) or (timed[0] is None) is not (timed[1] is None):
            raise ValueError("half of when it was used is missing")
        columns = {name: column for name in Lines.model_fields if (column := getattr(self.lines, name)) is not None}
        count = sum(account.lines for account in self.accounts)
        if any(len(column) != count for column in columns.values()):
            raise ValueError("columns and the accounts' line counts differ in length")
        if len({(account.region, account.tenant_id) for account in self.accounts}) != len(self.accounts):
            raise ValueError("an account stands in the batch twice")
        for name in ("resource_ids", "kinds", "skus", "causes"):
            if not "".join(columns[name]).isprintable():
                raise ValueError(f"{name} hold control characters")
        if any(slot < 0 for slot in self.lines.slots_from):
            raise ValueError("a line begins before the first slot")
        first = 0
        for account in self.accounts:
            self._check_account(account, first)
            first += account.lines
        return self

    def _check_account(self, account: AccountCharges, first: int) -> None:
        name, lines = f"{account.region}/{account.tenant_id}", self.lines
        sums: dict[tuple[str, LineClass], int] = {}
        for index in range(first, first + account.lines):
            line_class, amount_micros = lines.classes[index], lines.amounts_micros[index]
            fault = line_fault(line_class, lines.slots[index], lines.prices_micros[index], amount_micros)
            if fault is not None:
                raise ValueError(f"a line of {name} {fault}")
            key = lines.kinds[index], line_class
            sums[key] = sums.get(key, 0) + amount_micros
        for total in account.totals:
            if (fault := total_fault(total)) is not None:
                raise ValueError(f"a total of {name} {fault}")
        totals = {(kind, line_class): amount for kind, line_class, amount in account.totals}
        if len(totals) != len(account.totals) or totals != sums:
            raise ValueError(f"the lines of {name} do not add up to its totals")


def compress(document: bytes) -> bytes:
    """Compress an encoded batch. Level 3 costs its columns hardly more time than level 1, and a third less room."""
    return bytes(cramjam.zstd.compress(document, level=3))


def decompress(value: bytes) -> bytearray:
    """The document of a record's value. Raises ValueError for bytes that are no zstd frame of a bounded size.

    The frame must state the size of its contents: so nothing larger than the bound is ever unpacked.
    """
    size = _content_size(value)
    if size > DOCUMENT_BYTES_MAX:
        raise ValueError(f"{size} bytes; a document may have {DOCUMENT_BYTES_MAX}")
    document = bytearray(size)
    try:
        found = cramjam.zstd.decompress_into(value, document)
    except cramjam.DecompressionError as error:
        raise ValueError(f"not a zstd frame: {error}") from error
    if found != size:
        raise ValueError(f"the frame states {size} bytes and holds {found}")
    return document


def _content_size(value: bytes) -> int:
    """What a zstd frame says that it holds. Source: RFC 8878, section 3.1.1.1."""
    if value[:4] != _ZSTD_MAGIC or len(value) < _ZSTD_HEADER_BYTES_MIN:
        raise ValueError("not a zstd frame")
    flags = value[4]
    single_segment = flags >> 5 & 1
    width = (single_segment, 2, 4, 8)[flags >> 6]
    start = 5 + (not single_segment) + (0, 1, 2, 4)[flags & 3]
    if not width:
        raise ValueError("the zstd frame does not state the size of its contents")
    return int.from_bytes(value[start : start + width], "little") + (256 if width == 2 else 0)


def read_batch(value: bytes) -> ChargeBatch:
    """Read and check a record's value. Raises ValueError (pydantic's ValidationError is one)."""
    return read_json(ChargeBatch, bytes(decompress(value)))
