"""Credit History: closed hours from their rows, what is open from the evidence, as if they were one table."""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from services.balance.app.readers import Readers
from services.balance.rules.hours import Sums, add_share, hour_of
from services.balance.store.accounts import Account, load_account
from services.balance.store.hour_reading import (
    HourRow,
    OpenPart,
    RowKey,
    load_hours,
    load_open_part,
    sum_hours,
    sum_resource,
)
from services.balance.store.hours import read_evidence
from services.balance.store.streams import load_position
from services.balance.wire import read_shares
from shared.clock import HOUR_US, Clock, format_instant
from shared.csv_text import BYTE_ORDER_MARK, format_csv
from shared.db import Connection, Pool
from shared.errors import Refusal

# Reading a large account's history costs processor time and a connection, which postings need.
READERS_MAX = 2
_CSV_ROWS = 5000
_CSV_HEADER = ("hour", "resource_id", "kind", "slots", "amount_micros", "open")


@dataclass(frozen=True, slots=True)
class Interval:
    """Hours that begin in [from, to); both lie on full hours."""

    from_us: int
    to_us: int


@dataclass(frozen=True, slots=True)
class KindTotal:
    kind: str
    slots: int
    amount_micros: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where the next page begins: after a row, as of the moment at which the first page was read."""

    key: RowKey
    moment: OpenPart


@dataclass(frozen=True, slots=True)
class Page:
    """A page of rows; `next` is None after the last. Totals are of the whole interval, on its first page only.

    All pages are of one moment, so that they add up to the totals whatever is posted or closed meanwhile.
    """

    interval: Interval
    rows: Sequence[HourRow]
    next: Place | None
    totals: Sequence[KindTotal] | None


@dataclass(frozen=True, slots=True)
class Charged:
    """What batches up to `seq` of a shard charged for a resource, by kind."""

    shard: int
    seq: int
    kinds: Sequence[KindTotal]


class Hours:
    """Reads what an account was charged, by resource and hour."""

    def __init__(self, pool: Pool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock
        self._readers = Readers(READERS_MAX)

    async def page(
        self, region: str, tenant_id: str, from_us: int | None, to_us: int | None, after: Place | None, limit: int
    ) -> Page:
        """A page, as of the moment of the first one. Raises Refusal."""
        key = None if after is None else after.key
        async with self._snapshot(region, tenant_id) as connection:
            account = await _require(connection, region, tenant_id)
            interval = self._interval(account, from_us, to_us)
            part = await load_open_part(connection, account.shard) if after is None else after.moment
            closed_to_us = min(interval.to_us, part.from_us)
            # One row more than asked for tells whether there is a next page.
            rows = await load_hours(connection, account.account_id, interval.from_us, closed_to_us, key, limit + 1)
            live: list[HourRow] = []
            if len(rows) <= limit or after is None:
                live = await self._load_live(connection, account, part, interval)
            totals = None
            if after is None:
                closed = await sum_hours(connection, account.account_id, interval.from_us, closed_to_us)
                totals = _add_up(closed, live)
        rows += [row for row in live if key is None or _key(row) > key]
        following = Place(_key(rows[limit - 1]), part) if len(rows) > limit else None
        return Page(interval, rows[:limit], following, totals)

    async def charged(self, region: str, tenant_id: str, resource_id: str) -> Charged:
        """All that was posted of one resource, up to the last batch of its shard. Raises Refusal."""
        async with self._snapshot(region, tenant_id) as connection:
            account = await _require(connection, region, tenant_id)
            part = await load_open_part(connection, account.shard)
            seq = await load_position(connection, account.shard)
            closed = await sum_resource(connection, account.account_id, resource_id, part.from_us)
            to_us = max(self._clock.now_us(), account.last_posted_at_us) + HOUR_US
            live = await self._load_live(connection, account, part, Interval(0, to_us))
        return Charged(account.shard, seq, _add_up(closed, (row for row in live if row.resource_id == resource_id)))

    async def open_csv(
        self, region: str, tenant_id: str, from_us: int | None, to_us: int | None, *, bom: bool = False
    ) -> AsyncIterator[bytes]:
        """The whole interval as CSV, piece by piece. Raises Refusal before the first piece.

        What is closed stands for ever, and where it ends is read once: so no transaction stays open while a slow
        reader takes his time, and yet the rows are those of one moment.
        """
        async with self._snapshot(region, tenant_id) as connection:
            account = await _require(connection, region, tenant_id)
            part = await load_open_part(connection, account.shard)
        head = (BYTE_ORDER_MARK if bom else b"") + format_csv([_CSV_HEADER])
        return self._write_csv(head, account, self._interval(account, from_us, to_us), part)

    async def _write_csv(
        self, head: bytes, account: Account, interval: Interval, part: OpenPart
    ) -> AsyncIterator[bytes]:
        yield head
        after: RowKey | None = None
        closed_to_us = min(interval.to_us, part.from_us)
        while True:
            async with self._snapshot(account.region, account.tenant_id) as connection:
                rows = await load_hours(
                    connection, account.account_id, interval.from_us, closed_to_us, after, _CSV_ROWS
                )
            if rows:
                yield format_csv(_csv_rows(rows))
            if len(rows) < _CSV_ROWS:
                break
            after = _key(rows[-1])
        async with self._snapshot(account.region, account.tenant_id) as connection:
            live = await self._load_live(connection, account, part, interval)
        if live:
            yield format_csv(_csv_rows(live))

    @asynccontextmanager
    async def _snapshot(self, region: str, tenant_id: str) -> AsyncIterator[Connection]:
        """One moment of the database: an hour that is closed meanwhile must not be seen twice, or not at all."""
        async with (
            self._readers.one_of((region, tenant_id)),
            self._pool.acquire(timeout=30) as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            yield connection

    def _interval(self, account: Account, from_us: int | None, to_us: int | None) -> Interval:
        """By default all hours from the account's first to the present one, which posting may have moved ahead."""
        present_us = max(self._clock.now_us(), account.last_posted_at_us)
        interval = Interval(
            hour_of(account.opened_at_us) if from_us is None else from_us,
            hour_of(present_us) + HOUR_US if to_us is None else to_us,
        )
        if interval.from_us % HOUR_US or interval.to_us % HOUR_US:
            raise Refusal("not-on-the-hour", "`from` and `to` are full hours, such as 2026-11-01T08:00:00Z", status=422)
        return interval

    async def _load_live(
        self, connection: Connection, account: Account, part: OpenPart, interval: Interval
    ) -> list[HourRow]:
        """The account's rows in the open part, from the bytes of the batches."""
        from_us = max(part.from_us, interval.from_us)
        if from_us >= interval.to_us:
            return []
        hours: dict[int, Sums] = {}
        async for proof in read_evidence(connection, account.shard, part.seq, from_us, interval.to_us, part.last_seq):
            sums = hours.setdefault(hour_of(proof.posted_at_us), {})
            add_share(sums, read_shares(proof.value), account.region, account.tenant_id)
        return [
            HourRow(hour_us, resource_id, kind, slots, amount_micros, is_open=True)
            for hour_us, sums in sorted(hours.items())
            for (resource_id, kind), (slots, amount_micros) in sorted(sums.items())
        ]


async def _require(connection: Connection, region: str, tenant_id: str) -> Account:
    account = await load_account(connection, region, tenant_id)
    if account is None:
        raise Refusal("account-not-found", f"there is no account {region}/{tenant_id}", status=404)
    return account


def _key(row: HourRow) -> RowKey:
    return row.hour_us, row.resource_id, row.kind


def _add_up(closed: Iterable[tuple[str, int, int]], live: Iterable[HourRow]) -> list[KindTotal]:
    sums: dict[str, tuple[int, int]] = {}
    for kind, slots, amount_micros in (*closed, *((row.kind, row.slots, row.amount_micros) for row in live)):
        held = sums.get(kind, (0, 0))
        sums[kind] = held[0] + slots, held[1] + amount_micros
    return [KindTotal(kind, *sums[kind]) for kind in sorted(sums)]


def _csv_rows(rows: Iterable[HourRow]) -> Iterable[tuple[object, ...]]:
    text, last_us = "", None
    for row in rows:
        if row.hour_us != last_us:
            text, last_us = format_instant(row.hour_us), row.hour_us
        yield text, row.resource_id, row.kind, row.slots, row.amount_micros, "true" if row.is_open else "false"
