"""A charge batch as posting reads it: the totals, and of the lines no more than what proves them.

The contract is `shared/events/charges.py`; this is its fast half. Both refuse the same batches: what is posted, Credit
History can read.

Lines at rest, of class charge and without causes, are nearly all there are. Their columns are checked as text, a whole
column at a time (`_Steady`); of any other batch every line is decoded and looked at (`_check_each`).
"""

import re
from itertools import islice
from typing import Annotated, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from shared.clock import SECOND_US
from shared.events.charges import (
    LINE_AMOUNT_MICROS_MAX,
    SECONDS_MAX,
    SLOTS_MAX,
    LineClass,
    decompress,
    line_fault,
    total_fault,
)
from shared.events.cloudevents import read_instant

Total = tuple[str, LineClass, int]
_Ints = NDArray[np.int64]
_NULL: Final = msgspec.Raw(b"null")

_REGION = re.compile(r"[a-z0-9][a-z0-9-]{0,31}", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)

_QUOTE, _COMMA, _ZERO, _NINE, _OPENING, _BRACKET, _BRACE, _BACKSLASH = map(np.uint8, b'",09[]{\\')
_ASCII_END: Final = 128
_PATTERNS_MAX: Final = 64
# Columns of fewer lines are looked at line by line sooner.
_STEADY_LINES_MIN: Final = 100


class WireAccount(msgspec.Struct, gc=False):
    region: str
    tenant_id: str
    burn_micros_per_hour: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    totals: list[Total]
    lines: Annotated[int, msgspec.Meta(ge=0)]
    admission_ids: list[str] = []


class WireLines(msgspec.Struct, gc=False):
    """The columns as text: they are looked at, but seldom decoded."""

    resource_ids: msgspec.Raw
    kinds: msgspec.Raw
    classes: msgspec.Raw
    skus: msgspec.Raw
    slots_from: msgspec.Raw
    slots: msgspec.Raw
    prices_micros: msgspec.Raw
    amounts_micros: msgspec.Raw
    causes: msgspec.Raw
    starts: msgspec.Raw = _NULL
    slots_seconds: msgspec.Raw = _NULL

    @property
    def is_timed(self) -> bool:
        """Whether lines say when they were used."""
        return bytes(self.starts) != b"null"


class WireBatch(msgspec.Struct, gc=False):
    shard: Annotated[int, msgspec.Meta(ge=0)]
    seq: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
    charged_at: str
    function_version: int
    book_version: int
    accounts: list[WireAccount]
    lines: WireLines
    used_from: str | None = None
    used_until: str | None = None
    charged_through: str | None = None

    @property
    def charged_at_us(self) -> int:
        return read_instant(self.charged_at)

    @property
    def used_from_us(self) -> int | None:
        return None if self.used_from is None else read_instant(self.used_from)

    @property
    def used_until_us(self) -> int | None:
        return None if self.used_until is None else read_instant(self.used_until)

    @property
    def charged_through_us(self) -> int | None:
        return None if self.charged_through is None else read_instant(self.charged_through)


class WireHead(msgspec.Struct, gc=False):
    """Of which stream a batch is, and where in it: all that is asked of one that can't be posted."""

    shard: Annotated[int, msgspec.Meta(ge=0)]
    seq: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]


class _EveryLine(msgspec.Struct, gc=False):
    resource_ids: list[str]
    kinds: list[str]
    classes: list[LineClass]
    skus: list[str]
    slots_from: list[int]
    slots: list[int]
    prices_micros: list[int]
    amounts_micros: list[int]
    causes: list[str]
    starts: list[int] | None = None
    slots_seconds: list[int] | None = None


class _EveryLineOf(msgspec.Struct, gc=False):
    lines: _EveryLine


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
_head_decoder = msgspec.json.Decoder(WireHead)
_lines_decoder = msgspec.json.Decoder(_EveryLineOf)
_shares_decoder = msgspec.json.Decoder(WireShares)
_columns_decoder = msgspec.json.Decoder(WireColumns)


def read_wire(value: bytes) -> WireBatch:
    """Read a record's value. Raises ValueError for bytes that are no consistent batch (msgspec's error is one)."""
    document = decompress(value)
    batch = _decoder.decode(document)
    _check_instants(batch)
    accounts = batch.accounts
    if len({(account.region, account.tenant_id) for account in accounts}) != len(accounts):
        raise ValueError("an account stands in the batch twice")
    if not _Steady(batch).agrees():
        _check_each(batch, document)
    return batch


def _check_instants(batch: WireBatch) -> None:
    for instant in (batch.charged_at, batch.used_from, batch.used_until, batch.charged_through):
        if instant is not None:
            read_instant(instant)
    timed = batch.lines.is_timed, bytes(batch.lines.slots_seconds) != b"null"
    if (batch.used_from is None) is not (batch.used_until is None) or timed[0] is not timed[1]:
        raise ValueError("half of when it was used is missing")


def read_head(value: bytes) -> WireHead | None:
    """Of which stream a batch is that `read_wire` refuses; None where not even that can be read."""
    try:
        return _head_decoder.decode(decompress(value))
    except ValueError:
        return None


def empty_batch(shard: int, seq: int) -> WireBatch:
    """A batch that charges nobody."""
    nothing = msgspec.Raw(b"[]")
    return WireBatch(shard, seq, "1970-01-01T00:00:00Z", 0, 0, [], WireLines(*[nothing] * 9))


class _Steady:
    """A batch of lines at rest, checked a column at a time. What it does not find right may be right all the same."""

    def __init__(self, batch: WireBatch) -> None:
        self._lines = batch.lines
        self._counts = [account.lines for account in batch.accounts]
        self._count = sum(self._counts)
        self._totals = [account.totals for account in batch.accounts]

    def agrees(self) -> bool:
        """Whether every column has its length and types, and each account's lines add up to its totals."""
        lines, count = self._lines, self._count
        return (
            count >= _STEADY_LINES_MIN
            and 0 not in self._counts
            and _is_repeated(lines.classes, b'"charge"', count)
            and _is_repeated(lines.causes, b'""', count)
            and _has_strings(lines.resource_ids, count)
            and _has_strings(lines.skus, count)
            and _has_counts(lines.slots_from, count)
            and _has_counts(lines.prices_micros, count)
            and _has_counts(lines.slots, count)
            and _has_counts(lines.amounts_micros, count)
            and self._slots_are_bounded()
            and (not lines.is_timed or self._times_agree())
            and self._adds_up()
        )

    def _times_agree(self) -> bool:
        columns = (self._lines.starts, self._lines.slots_seconds)
        return all(
            _has_counts(column, self._count) and int(_numbers(column).max()) <= SECONDS_MAX for column in columns
        )

    def _slots_are_bounded(self) -> bool:
        # So many digits beyond one for each: not even together are they enough for a number out of bounds.
        if len(memoryview(self._lines.slots)) - 2 * self._count - 1 < len(str(SLOTS_MAX)) - 1:
            return True
        return int(_numbers(self._lines.slots).max()) <= SLOTS_MAX

    def _adds_up(self) -> bool:
        amounts = _numbers(self._lines.amounts_micros)
        # No sum leaves 64 bits; a number that did is the largest of them here.
        if int(amounts.max()) * self._count >= LINE_AMOUNT_MICROS_MAX:
            return False
        totals = [total for totals in self._totals for total in totals]
        if {total[1] for total in totals} != {"charge"}:
            return False
        kinds = [total[0] for total in totals]
        if len(totals) == self._count and list(map(len, self._totals)) == self._counts:
            # A line for each total, as with one container per account.
            text = '["' + '","'.join(kinds) + '"]'
            if bytes(self._lines.kinds) == text.encode() and amounts.tolist() == [total[2] for total in totals]:
                return True
        edges = np.cumsum(self._counts, dtype=np.int64) - np.array(self._counts, dtype=np.int64)
        runs = self._runs_of_kinds(set(kinds), edges)
        if runs is None:
            return False
        names, starts = runs
        sums: list[int] = np.add.reduceat(amounts, starts).tolist()
        if names == kinds and sums == [total[2] for total in totals]:
            sizes = np.fromiter(map(len, self._totals), np.int64, len(self._totals))
            firsts = np.cumsum(sizes) - sizes
            if bool((sizes > 0).all()) and np.array_equal(starts[firsts], edges):
                return True
        return self._each_adds_up(names, starts.tolist(), sums)

    def _each_adds_up(self, names: list[str], starts: list[int], sums: list[int]) -> bool:
        """The same where an account's kinds come in another order than its totals, or in several runs."""
        run = end = 0
        for count, totals in zip(self._counts, self._totals, strict=True):
            end += count
            found: dict[str, int] = {}
            while run < len(starts) and starts[run] < end:
                found[names[run]] = found.get(names[run], 0) + sums[run]
                run += 1
            if len(found) != len(totals) or any(found.get(kind) != amount for kind, _, amount in totals):
                return False
        return True

    def _runs_of_kinds(self, kinds: set[str], edges: _Ints) -> tuple[list[str], _Ints] | None:
        """The kind and the first line of each run of lines of one account and kind; `edges` are the accounts' first."""
        column = self._lines.kinds
        if len(kinds) == 1:
            [name] = kinds
            known = _is_repeated(column, b'"%s"' % name.encode(), self._count)
            return ([name] * len(edges), edges) if known else None
        by_length = {len(name): name for name in kinds}
        array = np.frombuffer(column, np.uint8)
        commas = np.flatnonzero(array == _COMMA)
        if len(by_length) < len(kinds) or len(commas) != self._count - 1:
            return None
        lengths = np.empty(self._count, np.int64)
        lengths[0], lengths[-1] = commas[0] - 3, len(array) - commas[-1] - 4
        np.subtract(commas[1:], commas[:-1] + 3, out=lengths[1:-1])
        is_first = np.empty(self._count, np.bool_)
        np.not_equal(lengths[1:], lengths[:-1], out=is_first[1:])
        is_first[edges] = True
        starts = np.flatnonzero(is_first)
        names = [by_length.get(length, "") for length in lengths[starts].tolist()]
        sizes = np.diff(starts, append=self._count).tolist()
        quoted = {name: b'"%s",' % name.encode() for name in names}
        text = b"".join([quoted[name] * size for name, size in zip(names, sizes, strict=True)])
        return (names, starts) if bytes(column)[1:-1] == text[:-1] else None


class _Scratch:
    """Room for intermediate results, one batch after another: fresh memory costs more than the work."""

    def __init__(self) -> None:
        self._flags = np.empty(0, np.bool_)
        self._repeated: dict[bytes, bytes] = {}

    def flags(self, size: int) -> NDArray[np.bool_]:
        if len(self._flags) < size:
            self._flags = np.empty(2 * size, np.bool_)
        return self._flags[:size]

    def repeated(self, item: bytes, count: int) -> memoryview:
        """The JSON array of `count` times the same, without its closing bracket."""
        size = count * (len(item) + 1)
        if len(self._repeated.get(item, b"")) < size:
            if len(self._repeated) == _PATTERNS_MAX:
                self._repeated.clear()
            self._repeated[item] = b"[" + (item + b",") * (2 * count)
        return memoryview(self._repeated[item])[:size]


_scratch = _Scratch()


def _is_repeated(column: msgspec.Raw, item: bytes, count: int) -> bool:
    """Whether a JSON array has `count` times the same."""
    size = count * (len(item) + 1) + 1
    array = np.frombuffer(column, np.uint8)
    if len(array) != size or array[-1] != _BRACKET:
        return False
    known = np.frombuffer(_scratch.repeated(item, count), np.uint8)
    return bool(np.equal(array[:-1], known, out=_scratch.flags(size - 1)).all())


def _has_strings(column: msgspec.Raw, count: int) -> bool:
    """Whether a valid JSON array has `count` strings; unsure where one holds an escape, a comma or a bracket.

    Without escapes and letters beyond ASCII no string holds a control character.
    """
    array = np.frombuffer(column, np.uint8)
    return (
        int(array.max()) < _ASCII_END
        and _count(array, _QUOTE) == 2 * count
        and _count(array, _COMMA) == count - 1
        and _count(array, _OPENING) == 1
        and not _count(array, _BRACE)
        and not _count(array, _BACKSLASH)
    )


def _has_counts(column: msgspec.Raw, count: int) -> bool:
    """Whether a valid JSON array has `count` integers, none below zero."""
    array = np.frombuffer(column, np.uint8)[1:-1]
    commas = _count(array, _COMMA)
    flags = _scratch.flags(len(array))
    # Apart from commas there is nothing below "0" but signs, points and blanks, and nothing above "9" but exponents.
    digits = np.count_nonzero(np.greater_equal(array, _ZERO, out=flags))
    return bool(commas == count - 1 and digits + commas == len(array) and len(array) and int(array.max()) <= _NINE)


def _count(array: NDArray[np.uint8], letter: np.uint8) -> int:
    return int(np.count_nonzero(np.equal(array, letter, out=_scratch.flags(len(array)))))


def _numbers(column: msgspec.Raw) -> _Ints:
    """The integers of a column that `_has_counts`, those beyond 64 bits as the largest of them."""
    return np.fromstring(bytes(column)[1:-1].decode("ascii"), dtype=np.int64, sep=",")


def _check_each(batch: WireBatch, document: bytes | bytearray) -> None:
    """Look at every line. Raises ValueError."""
    lines = _lines_decoder.decode(document).lines
    columns = [column for name in _EveryLine.__struct_fields__ if (column := getattr(lines, name)) is not None]
    count = sum(account.lines for account in batch.accounts)
    if any(len(column) != count for column in columns):
        raise ValueError(f"the accounts have {count} lines, the columns {[len(column) for column in columns]}")
    if not "".join((*lines.resource_ids, *lines.kinds, *lines.skus, *lines.causes)).isprintable():
        raise ValueError("a text holds control characters")
    if any(slot < 0 for slot in lines.slots_from):
        raise ValueError("a line begins before the first slot")
    if any(not 0 <= seconds <= SECONDS_MAX for seconds in (*(lines.starts or ()), *(lines.slots_seconds or ()))):
        raise ValueError("a line begins or lasts beyond bounds")
    rows = zip(lines.kinds, lines.classes, lines.slots, lines.prices_micros, lines.amounts_micros, strict=True)
    for account in batch.accounts:
        _check_totals(account)
        name = f"{account.region}/{account.tenant_id}"
        sums: dict[tuple[str, LineClass], int] = {}
        for kind, line_class, slots, price_micros, amount_micros in islice(rows, account.lines):
            if (fault := line_fault(line_class, slots, price_micros, amount_micros)) is not None:
                raise ValueError(f"a line of {name} {fault}")
            sums[kind, line_class] = sums.get((kind, line_class), 0) + amount_micros
        if sums != {(kind, line_class): amount for kind, line_class, amount in account.totals}:
            raise ValueError(f"the lines of {name} do not add up to its totals")


def _check_totals(account: WireAccount) -> None:
    for total in account.totals:
        if (fault := total_fault(total)) is not None:
            raise ValueError(f"a total of {account.region}/{account.tenant_id} {fault}")
    if len({total[:2] for total in account.totals}) != len(account.totals):
        raise ValueError(f"a kind and class of {account.region}/{account.tenant_id} has two totals")


class UsedLine(NamedTuple):
    """A line with when it was used: `slots` of `slot_us` each, from `start_us` on."""

    kind: str
    line_class: LineClass
    amount_micros: int
    slots: int
    start_us: int
    slot_us: int


def read_used(value: bytes, region: str, tenant_id: str) -> list[UsedLine]:
    """An account's lines of a posted batch that says when they were used; none of one that does not."""
    document = decompress(value)
    lines = _lines_decoder.decode(document).lines
    if lines.starts is None or lines.slots_seconds is None:
        return []
    first = 0
    for account in _decoder.decode(document).accounts:
        if (account.region, account.tenant_id) == (region, tenant_id):
            return [
                UsedLine(
                    lines.kinds[index],
                    lines.classes[index],
                    lines.amounts_micros[index],
                    lines.slots[index],
                    lines.starts[index] * SECOND_US,
                    lines.slots_seconds[index] * SECOND_US,
                )
                for index in range(first, first + account.lines)
            ]
        first += account.lines
    return []


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
