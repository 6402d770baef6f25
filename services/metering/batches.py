"""Charge batches as bytes: encoded column by column, compressed once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import orjson
from numpy.typing import NDArray

from services.metering.columns import LineColumns, Rated
from services.metering.rules.lines import Line
from shared.clock import format_instant
from shared.events.charges import compress

# A batch ends at the next account once it has so many lines; it stays far below the topic's largest message.
BATCH_LINES_MAX = 50_000

_NUMPY = orjson.OPT_SERIALIZE_NUMPY


@dataclass(frozen=True, slots=True)
class BatchHead:
    """What a batch says of itself besides shard, sequence number and lines."""

    charged_at_us: int
    function_version: int
    book_version: int


@dataclass(slots=True)
class AccountPart:
    """An account's single lines (corrections, usage, and the first lines of resources) in one batch."""

    region: str
    tenant_id: str
    burn_micros_per_hour: int
    lines: list[tuple[str, Line, str]] = field(default_factory=list)  # (resource id, line, cause)
    admission_ids: list[str] = field(default_factory=list)

    def totals(self) -> list[tuple[str, str, int]]:
        sums: dict[tuple[str, str], int] = {}
        for _, line, _ in self.lines:
            sums[line.kind, line.class_] = sums.get((line.kind, line.class_), 0) + line.amount_micros
        return [(kind, class_, amount) for (kind, class_), amount in sorted(sums.items())]


@dataclass(slots=True)
class _Columns:
    """The documents' line columns, gathered piece by piece."""

    resource_ids: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    skus: list[str] = field(default_factory=list)
    slots_from: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    prices_micros: list[int] = field(default_factory=list)
    amounts_micros: list[int] = field(default_factory=list)
    causes: list[str] = field(default_factory=list)

    def add(self, resource_id: str, line: Line, cause: str) -> None:
        self.resource_ids.append(resource_id)
        self.kinds.append(line.kind)
        self.classes.append(line.class_)
        self.skus.append(line.sku)
        self.slots_from.append(line.slot_from)
        self.slots.append(line.slots)
        self.prices_micros.append(line.price_micros)
        self.amounts_micros.append(line.amount_micros)
        self.causes.append(cause)


def encode_parts(shard: int, seq: int, head: BatchHead, parts: Sequence[AccountPart]) -> bytes:
    """One batch of single lines, compressed."""
    columns = _Columns()
    accounts = []
    for part in parts:
        for resource_id, line, cause in part.lines:
            columns.add(resource_id, line, cause)
        accounts.append(_account(part, part.totals(), len(part.lines)))
    lines = {name: getattr(columns, name) for name in _Columns.__slots__}
    return compress(_document(shard, seq, head, accounts, orjson.dumps(lines)))


def encode_tick(
    shard: int,
    first_seq: int,
    head: BatchHead,
    accounts: Sequence[tuple[str, str]],
    burns: NDArray[np.int64],
    rated: Sequence[Rated],
    lines: LineColumns,
) -> Iterator[tuple[int, bytes]]:
    """A tick's batches of lines at rest, as (sequence number, compressed bytes), split between accounts."""
    starts = np.flatnonzero(np.r_[True, lines.account[1:] != lines.account[:-1]]) if len(lines) else np.array([], int)
    kinds = np.array([item.kind for item in rated] or [""], dtype=np.object_)
    skus = np.array([item.sku for item in rated] or [""], dtype=np.object_)
    ends = np.r_[starts[1:], len(lines)]
    totals = _totals(lines, kinds)
    seq, first = first_seq, 0
    while first < len(starts):
        last = int(np.searchsorted(ends, starts[first] + BATCH_LINES_MAX, side="right"))
        last = max(last, first + 1)
        span = slice(int(starts[first]), int(ends[last - 1]))
        described = [
            {
                "region": accounts[account][0],
                "tenant_id": accounts[account][1],
                "burn_micros_per_hour": burn,
                "totals": totals[account],
                "lines": count,
            }
            for account, burn, count in zip(
                lines.account[starts[first:last]].tolist(),
                burns[lines.account[starts[first:last]]].tolist(),
                (ends[first:last] - starts[first:last]).tolist(),
                strict=True,
            )
        ]
        yield seq, compress(_document(shard, seq, head, described, _encode_lines(lines, span, kinds, skus)))
        seq, first = seq + 1, last


def _totals(lines: LineColumns, kinds: NDArray[np.object_]) -> dict[int, list[tuple[str, str, int]]]:
    """Per account the sum of each kind. Lines are sorted by account and rated SKU, so equal ones are neighbours."""
    if not len(lines):
        return {}
    changes = (lines.account[1:] != lines.account[:-1]) | (lines.rated[1:] != lines.rated[:-1])
    starts = np.flatnonzero(np.r_[True, changes])
    sums = np.add.reduceat(lines.amount_micros, starts).tolist()
    sums_by_account: dict[int, dict[str, int]] = {}
    owners, of_kinds = lines.account[starts].tolist(), kinds[lines.rated[starts]].tolist()
    for account, kind, amount in zip(owners, of_kinds, sums, strict=True):
        by_kind = sums_by_account.setdefault(account, {})
        by_kind[kind] = by_kind.get(kind, 0) + amount
    return {
        account: [(kind, "charge", by_kind[kind]) for kind in sorted(by_kind)]
        for account, by_kind in sums_by_account.items()
    }


def _encode_lines(lines: LineColumns, span: slice, kinds: NDArray[np.object_], skus: NDArray[np.object_]) -> bytes:
    count = span.stop - span.start
    rated = lines.rated[span]
    columns = (
        b'{"resource_ids":' + orjson.dumps(lines.resource_ids[span].tolist()),
        b'"kinds":' + orjson.dumps(kinds[rated].tolist()),
        b'"classes":[' + b",".join([b'"charge"'] * count) + b"]",
        b'"skus":' + orjson.dumps(skus[rated].tolist()),
        b'"slots_from":' + orjson.dumps(np.ascontiguousarray(lines.slot_from[span]), option=_NUMPY),
        b'"slots":' + orjson.dumps(np.ascontiguousarray(lines.slots[span]), option=_NUMPY),
        b'"prices_micros":' + orjson.dumps(np.ascontiguousarray(lines.price_micros[span]), option=_NUMPY),
        b'"amounts_micros":' + orjson.dumps(np.ascontiguousarray(lines.amount_micros[span]), option=_NUMPY),
        b'"causes":[' + b",".join([b'""'] * count) + b"]}",
    )
    return b",".join(columns)


def _account(part: AccountPart, totals: list[tuple[str, str, int]], lines: int) -> dict[str, object]:
    return {
        "region": part.region,
        "tenant_id": part.tenant_id,
        "burn_micros_per_hour": part.burn_micros_per_hour,
        "totals": totals,
        "lines": lines,
        "admission_ids": part.admission_ids,
    }


def _document(shard: int, seq: int, head: BatchHead, accounts: Sequence[dict[str, object]], lines: bytes) -> bytes:
    start = orjson.dumps(
        {
            "shard": shard,
            "seq": seq,
            "charged_at": format_instant(head.charged_at_us),
            "function_version": head.function_version,
            "book_version": head.book_version,
            "accounts": accounts,
        }
    )
    return start[:-1] + b',"lines":' + lines + b"}"
