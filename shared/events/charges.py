"""`usage.charges.v1`: what metering charges, per shard and contiguous sequence number.

The value of a record is zstd-compressed JSON of one ChargeBatch; the same bytes are in metering's outbox, on the
topic and in the ledger's evidence. Lines are columns of one length: an account's `lines` counts its own, accounts in
order. `amounts_micros` are signed (a credit correction is negative) and add up to the accounts' totals.
"""

from typing import Annotated, Literal, Self

import cramjam
from pydantic import BaseModel, ConfigDict, Field, model_validator

from shared.events.cloudevents import Identifier, Micros, RegionName, SentInstant, TenantId
from shared.events.reading import read_json

CONTENT_TYPE = "application/json+zstd"
DOCUMENT_BYTES_MAX = 128 * 1024 * 1024

LineClass = Literal["charge", "credit_correction", "debit_correction"]
# One entry: kind ("gpu", "storage" or a service's SKU), class, signed amount.
Total = tuple[str, LineClass, Micros]


class Lines(BaseModel):
    """The lines of a batch as columns of equal length.

    `slots_from` is the first slot (or 0 for service usage), `slots` their number (service usage: the quantity; in a
    correction the net change), `prices_micros` the price per hour of the whole configuration (service usage: of its
    unit), `causes` the event that made a correction or usage line ("" for the tick).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    resource_ids: list[str]
    kinds: list[str]
    classes: list[LineClass]
    skus: list[str]
    slots_from: list[int]
    slots: list[int]
    prices_micros: list[int]
    amounts_micros: list[Micros]
    causes: list[str]


class AccountCharges(BaseModel):
    """One account's part of a batch; `lines` is the number of its lines, `totals` one per kind and class."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    region: RegionName
    tenant_id: TenantId
    burn_micros_per_hour: Micros
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
    accounts: list[AccountCharges]
    lines: Lines

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        columns = [getattr(self.lines, name) for name in Lines.model_fields]
        count = sum(account.lines for account in self.accounts)
        if any(len(column) != count for column in columns):
            raise ValueError("columns and the accounts' line counts differ in length")
        first = 0
        for account in self.accounts:
            amounts = self.lines.amounts_micros[first : first + account.lines]
            if sum(amounts) != sum(total[2] for total in account.totals):
                raise ValueError(f"the lines of {account.region}/{account.tenant_id} do not add up to its totals")
            first += account.lines
        return self


def compress(document: bytes) -> bytes:
    """Compress an encoded batch, at the level that costs least per line."""
    return bytes(cramjam.zstd.compress(document, level=1))


def decompress(value: bytes) -> bytes:
    """The document of a record's value. Raises ValueError for bytes that are no zstd frame."""
    try:
        return bytes(cramjam.zstd.decompress(value))
    except cramjam.DecompressionError as error:
        raise ValueError(f"not a zstd frame: {error}") from error


def read_batch(value: bytes) -> ChargeBatch:
    """Read and check a record's value. Raises ValueError (pydantic's ValidationError is one)."""
    return read_json(ChargeBatch, decompress(value))
