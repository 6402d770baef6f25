"""Charge batches as bytes: encoded column by column, compressed once."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from services.metering.columns import LineColumns, Rated
from services.metering.rules.lines import Anchor, Line
from shared.clock import SECOND_US, format_instant, minute_of
from shared.events.charges import compress

# No batch has more lines: it stays far below the topic's largest message. An account with more of them has a part in
# several batches, each with the totals of its own lines.
BATCH_LINES_MAX = 50_000

_NUMPY = orjson.OPT_SERIALIZE_NUMPY


@dataclass(frozen=True, slots=True)
class BatchHead:
    """What a batch says of itself besides shard, sequence number and lines."""

    charged_at_us: int
    function_version: int
    book_version: int


class PartLine(NamedTuple):
    """A single line. Without an anchor nobody knows when it was used."""

    resource_id: str
    line: Line
    cause: str
    anchor: Anchor | None

    @property
    def starts_us(self) -> tuple[int, int]:
        """When its first and its last slot begin."""
        assert self.anchor is not None
        first_us = self.anchor.start_us(self.line.slot_from)
        slots = abs(self.line.slots) or 1
        return first_us, first_us + (slots - 1) * self.anchor.slot_seconds * SECOND_US


class Window(NamedTuple):
    """All slots of a batch begin at `from_us` or later, and before `until_us`."""

    from_us: int
    until_us: int

    @property
    def is_long(self) -> bool:
        """Whether it is more than a part of one minute, so that lines say themselves when they were used."""
        return minute_of(self.from_us) != minute_of(self.until_us - 1)


@dataclass(slots=True)
class AccountPart:
    """An account's single lines (corrections, usage, and the first lines of resources) in one batch."""

    region: str
    tenant_id: str
    burn_micros_per_hour: int
    lines: list[PartLine] = field(default_factory=list)
    admission_ids: list[str] = field(default_factory=list)

    def totals(self) -> list[tuple[str, str, int]]:
        sums: dict[tuple[str, str], int] = {}
        for _, line, _, _ in self.lines:
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

    def add(self, resource_id: str, line: Line, cause: str, _anchor: Anchor | None) -> None:
        self.resource_ids.append(resource_id)
        self.kinds.append(line.kind)
        self.classes.append(line.class_)
        self.skus.append(line.sku)
        self.slots_from.append(line.slot_from)
        self.slots.append(line.slots)
        self.prices_micros.append(line.price_micros)
        self.amounts_micros.append(line.amount_micros)
        self.causes.append(cause)


def encode_parts(
    shard: int,
    first_seq: int,
    head: BatchHead,
    parts: Iterable[AccountPart],
    charged_through_us: int | None = None,
) -> Iterator[tuple[int, bytes]]:
    """Batches of single lines, as (sequence number, compressed bytes); the last one says `charged_through_us`."""
    chunks = list(_chunks(parts))
    for seq, chunk in enumerate(chunks, first_seq):
        columns = _Columns()
        accounts = []
        for part in chunk:
            for line in part.lines:
                columns.add(*line)
            accounts.append(_account(part, part.totals(), len(part.lines)))
        lines = {name: getattr(columns, name) for name in _Columns.__slots__}
        window, times = _times(part.lines for part in chunk)
        through_us = charged_through_us if chunk is chunks[-1] else None
        said = _Said(shard, seq, head, window, through_us)
        yield seq, compress(_document(said, accounts, orjson.dumps(lines | times)))


def encode_empty(shard: int, seq: int, head: BatchHead, charged_through_us: int) -> bytes:
    """The batch of a shard in which there is nothing to charge, but up to where."""
    nothing: dict[str, list[int]] = {name: [] for name in _Columns.__slots__}
    return compress(_document(_Said(shard, seq, head, None, charged_through_us), [], orjson.dumps(nothing)))


def _times(parts: Iterable[Sequence[PartLine]]) -> tuple[Window | None, dict[str, list[int]]]:
    """When the slots of lines begin: the window of all, and where it is long the columns of each.

    Nothing is known where nobody knows it of one of them.
    """
    lines = [line for part in parts for line in part]
    if not lines or any(line.anchor is None for line in lines):
        return None, {}
    starts = [line.starts_us for line in lines]
    window = Window(min(first for first, _ in starts), max(last for _, last in starts) + 1)
    if not window.is_long:
        return window, {}
    seconds = [line.anchor.slot_seconds for line in lines if line.anchor is not None]
    return window, {"starts": [first // SECOND_US for first, _ in starts], "slots_seconds": seconds}


def _chunks(parts: Iterable[AccountPart]) -> Iterator[list[AccountPart]]:
    """The parts of one batch after another; an account stands in none twice."""
    chunk: list[AccountPart] = []
    size = 0
    for part in parts:
        for piece in _pieces(part):
            if chunk and size + len(piece.lines) > BATCH_LINES_MAX:
                yield chunk
                chunk, size = [], 0
            chunk.append(piece)
            size += len(piece.lines)
    if chunk:
        yield chunk


def _pieces(part: AccountPart) -> list[AccountPart]:
    """A part in pieces that each fit a batch. Its admissions come true with the last: all first lines are in then."""
    if len(part.lines) <= BATCH_LINES_MAX:
        return [part]
    pieces = [
        AccountPart(part.region, part.tenant_id, part.burn_micros_per_hour, part.lines[first : first + BATCH_LINES_MAX])
        for first in range(0, len(part.lines), BATCH_LINES_MAX)
    ]
    pieces[-1].admission_ids += part.admission_ids
    return pieces


def encode_tick(
    shard: int,
    first_seq: int,
    head: BatchHead,
    accounts: Sequence[tuple[str, str]],
    burns: NDArray[np.int64],
    rated: Sequence[Rated],
    lines: LineColumns,
    window: Window,
) -> Iterator[tuple[int, bytes]]:
    """A tick's batches of lines at rest, as (sequence number, compressed bytes); the last one says its end."""
    kinds = np.array([item.kind for item in rated] or [""], dtype=np.object_)
    skus = np.array([item.sku for item in rated] or [""], dtype=np.object_)
    starts = _part_starts(lines)
    ends = np.r_[starts[1:], len(lines)]
    totals = _totals(lines, kinds, starts)
    seq, first = first_seq, 0
    while first < len(starts):
        last = int(np.searchsorted(ends, starts[first] + BATCH_LINES_MAX, side="right"))
        span = slice(int(starts[first]), int(ends[last - 1]))
        described = [
            {
                "region": accounts[account][0],
                "tenant_id": accounts[account][1],
                "burn_micros_per_hour": burn,
                "totals": part_totals,
                "lines": count,
            }
            for account, burn, count, part_totals in zip(
                lines.account[starts[first:last]].tolist(),
                burns[lines.account[starts[first:last]]].tolist(),
                (ends[first:last] - starts[first:last]).tolist(),
                totals[first:last],
                strict=True,
            )
        ]
        through_us = window.until_us if last == len(starts) else None
        said = _Said(shard, seq, head, window, through_us)
        yield seq, compress(_document(said, described, _encode_lines(lines, span, kinds, skus)))
        seq, first = seq + 1, last


def _part_starts(lines: LineColumns) -> NDArray[np.intp]:
    """The first line of each account's part; a part fits a batch, so an account with more lines has several."""
    if not len(lines):
        return np.array([], np.intp)
    starts = np.flatnonzero(np.r_[True, lines.account[1:] != lines.account[:-1]])
    ends = np.r_[starts[1:], len(lines)]
    long = np.flatnonzero(ends - starts > BATCH_LINES_MAX)
    cuts = [np.arange(starts[part], ends[part], BATCH_LINES_MAX) for part in long]
    return np.unique(np.concatenate([starts, *cuts]))


def _totals(
    lines: LineColumns, kinds: NDArray[np.object_], part_starts: NDArray[np.intp]
) -> list[list[tuple[str, str, int]]]:
    """Per part the sum of each kind. Lines are sorted by account and rated SKU, so equal ones are neighbours."""
    if not len(lines):
        return []
    changes = np.r_[True, lines.rated[1:] != lines.rated[:-1]]
    changes[part_starts] = True
    starts = np.flatnonzero(changes)
    sums = np.add.reduceat(lines.amount_micros, starts).tolist()
    by_part: list[dict[str, int]] = [{} for _ in range(len(part_starts))]
    parts = (np.searchsorted(part_starts, starts, side="right") - 1).tolist()
    for part, kind, amount in zip(parts, kinds[lines.rated[starts]].tolist(), sums, strict=True):
        by_part[part][kind] = by_part[part].get(kind, 0) + amount
    return [[(kind, "charge", by_kind[kind]) for kind in sorted(by_kind)] for by_kind in by_part]


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
        b'"causes":[' + b",".join([b'""'] * count) + b"]",
    )
    return b",".join(columns) + _encode_times(lines, span) + b"}"


def _encode_times(lines: LineColumns, span: slice) -> bytes:
    if lines.starts is None or lines.slots_seconds is None:
        return b""
    starts, seconds = (np.ascontiguousarray(column[span]) for column in (lines.starts, lines.slots_seconds))
    dumped = orjson.dumps({"starts": starts, "slots_seconds": seconds}, option=_NUMPY)
    return b"," + dumped[1:-1]


def _account(part: AccountPart, totals: list[tuple[str, str, int]], lines: int) -> dict[str, object]:
    return {
        "region": part.region,
        "tenant_id": part.tenant_id,
        "burn_micros_per_hour": part.burn_micros_per_hour,
        "totals": totals,
        "lines": lines,
        "admission_ids": part.admission_ids,
    }


class _Said(NamedTuple):
    """What a batch says of itself."""

    shard: int
    seq: int
    head: BatchHead
    window: Window | None
    charged_through_us: int | None

    def times(self) -> dict[str, str]:
        found: dict[str, str] = {}
        if self.window is not None:
            found |= {
                "used_from": format_instant(self.window.from_us),
                "used_until": format_instant(self.window.until_us),
            }
        if self.charged_through_us is not None:
            found["charged_through"] = format_instant(self.charged_through_us)
        return found


def _document(said: _Said, accounts: Sequence[dict[str, object]], lines: bytes) -> bytes:
    start = orjson.dumps(
        {
            "shard": said.shard,
            "seq": said.seq,
            "charged_at": format_instant(said.head.charged_at_us),
            "function_version": said.head.function_version,
            "book_version": said.head.book_version,
            **said.times(),
            "accounts": accounts,
        }
    )
    return start[:-1] + b',"lines":' + lines + b"}"
