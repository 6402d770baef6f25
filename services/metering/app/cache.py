"""A worker's cache of one shard: what bills at rest as columns, the few others with their histories.

A resource that can't be computed is left out and charged up to where it was: it stands in nobody's way.
Valid only for the (version, through) of the shard's row as just locked; if that has moved on, the cache catches up:
columns by arithmetic, changed resources by reading them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from services.metering.batches import AccountPart, PartLine, Window
from services.metering.columns import EMPTY_ROWS, LineColumns, Rated, Rows, advance, build_rows, merge_rows, sort_rows
from services.metering.rules.charge import Cursor, burn_at, charge, steady
from services.metering.rules.lines import Line, tick_lines
from services.metering.rules.prices import PriceTable
from services.metering.snapshots import Snapshot, encode_snapshot
from services.metering.store.resources import Resource, Unreadable
from shared.money import AMOUNT_MICROS_MAX
from shared.set_aside import describe_error

Account = tuple[str, str]
Key = tuple[str, str]
Tables = Mapping[str, PriceTable]
NO_PRICES = PriceTable()
# A snapshot is worth its cost once a new worker would have to read so many resources, and this share of all: sooner
# where nothing else is to be done.
_UNSAVED_MIN = 256
_UNSAVED_SHARE = 4
_UNSAVED_MIN_IDLE = 16
_UNSAVED_SHARE_IDLE = 32


@dataclass(frozen=True, slots=True)
class TickPlan:
    """What a tick publishes, and the cache's state once that is committed."""

    through_us: int
    lines: LineColumns
    parts: list[AccountPart]
    burns: NDArray[np.int64]  # per account index
    changed_burns: dict[Account, int]
    rows: Rows
    hot: dict[Key, Resource]
    settled: list[Resource]  # came to rest with this tick
    failed: dict[Key, str]  # could not be computed, and why
    recovered: list[Key]  # were set aside and are charged with their shard again


class ShardCache:
    def __init__(self, version: int, through_us: int, burns: Mapping[Account, int]) -> None:
        self.version = version
        self.through_us = through_us
        self.accounts: list[Account] = []
        self._account_index: dict[Account, int] = {}
        self.rated: list[Rated] = []
        self._rated_index: dict[Rated, int] = {}
        self.rows = EMPTY_ROWS
        # Resources to which something is still to happen, or that wait for a price: charged by the pure function.
        self.hot: dict[Key, Resource] = {}
        # Set aside: charged up to an instant of its own until it can be computed again.
        self.aside: set[Key] = set()
        # What could not be taken in, and why: to be set aside by the tick.
        self.failed: dict[Key, str] = {}
        # Confirmed by inventory up to an instant; at rest only in windows that end by then.
        self.bounded: dict[Key, int] = {}
        # How many resources were taken in since the last snapshot.
        self._unsaved = 0
        self._published_burns = dict(burns)
        for account in burns:
            self._index_account(account)

    @classmethod
    def of_snapshot(
        cls, version: int, through_us: int, burns: Mapping[Account, int], snapshot: Snapshot
    ) -> "ShardCache":
        """The cache as it was when the snapshot was taken; what is unrested is still to be loaded."""
        cache = cls(version, through_us, {})
        for account in snapshot.accounts:
            cache._index_account(account)
        for rated in snapshot.rated:
            cache._index_rated(rated)
        for account in burns:
            cache._index_account(account)
        cache.rows, cache.bounded = snapshot.rows, dict(snapshot.bounded)
        cache._published_burns = dict(burns)
        return cache

    def is_worth_saving(self, *, idle: bool) -> bool:
        """Whether a new worker would have much to read that this one knows."""
        least, share = (_UNSAVED_MIN_IDLE, _UNSAVED_SHARE_IDLE) if idle else (_UNSAVED_MIN, _UNSAVED_SHARE)
        return self._unsaved >= max(least, len(self.rows) // share)

    def save(self) -> bytes:
        """A snapshot of this version and `through`. The rows are put in order on the occasion."""
        self._unsaved = 0
        self.rows = sort_rows(self.rows)
        unrested = sorted({*self.hot, *self.aside, *self.failed})
        return encode_snapshot(self.accounts, self.rated, self.rows, unrested, self.bounded)

    def _index_account(self, account: Account) -> int:
        index = self._account_index.get(account)
        if index is None:
            index = self._account_index[account] = len(self.accounts)
            self.accounts.append(account)
        return index

    def _index_rated(self, rated: Rated) -> int:
        index = self._rated_index.get(rated)
        if index is None:
            index = self._rated_index[rated] = len(self.rated)
            self.rated.append(rated)
        return index

    def catch_up(self, through_us: int, tables: Tables, burns: Mapping[Account, int]) -> None:
        """Move to where another worker's ticks have brought the shard, without publishing again what they did."""
        plan = self.plan(through_us, tables)
        self.commit(plan, tables)
        self.failed.update(plan.failed)
        self._published_burns = dict(burns)

    def load(self, resources: Sequence[Resource | Unreadable], tables: Tables, version: int) -> None:
        """Take resources as they are in the database at this cache's `through`, in place of what was known of them."""
        self.forget({resource.key for resource in resources})
        self._unsaved += len(resources)
        entries: list[tuple[int, int, str, int, Cursor]] = []
        for resource in resources:
            if resource.charged_through_us is not None:
                self.aside.add(resource.key)
            elif isinstance(resource, Unreadable):
                self.failed[resource.key] = resource.reason
            else:
                self._place_or_fail(resource, tables, self.through_us, entries)
        entries.sort(key=lambda entry: entry[2])
        self.rows = merge_rows(self.rows, self._build(entries))
        self.version = version

    def _build(self, entries: list[tuple[int, int, str, int, Cursor]]) -> Rows:
        """Rows of entries; a resource with a number that no column can hold is left out."""
        try:
            return build_rows(entries)
        except OverflowError as error:
            fitting = []
            for entry in entries:
                try:
                    build_rows([entry])
                except OverflowError:
                    self.failed[self.accounts[entry[0]][0], entry[2]] = describe_error(error)
                else:
                    fitting.append(entry)
            kept = [item for item in fitting if (self.accounts[item[0]][0], item[2]) not in self.failed]
            return build_rows(kept)

    def _place_or_fail(
        self,
        resource: Resource,
        tables: Tables,
        through_us: int,
        entries: list[tuple[int, int, str, int, Cursor]],
    ) -> None:
        placed = len(entries)
        try:
            self._place(resource, tables, through_us, entries)
        except Exception as error:  # noqa: BLE001 - whatever one resource breaks must not stop its neighbours
            del entries[placed:]
            self.failed[resource.key] = describe_error(error)

    def forget(self, keys: set[Key]) -> None:
        if not keys:
            return
        for key in keys:
            self.hot.pop(key, None)
            self.bounded.pop(key, None)
            self.aside.discard(key)
            self.failed.pop(key, None)
        self.rows = self._without(self.rows, keys)

    def _without(self, rows: Rows, keys: set[Key]) -> Rows:
        if not len(rows):
            return rows
        names = {resource_id for _, resource_id in keys}
        accounts = self.accounts
        gone = np.fromiter(
            (
                resource_id in names and (accounts[account][0], resource_id) in keys
                for resource_id, account in zip(rows.resource_ids.tolist(), rows.account.tolist(), strict=True)
            ),
            dtype=np.bool_,
            count=len(rows),
        )
        return rows.take(~gone) if gone.any() else rows

    def _place(
        self, resource: Resource, tables: Tables, through_us: int, entries: list[tuple[int, int, str, int, Cursor]]
    ) -> None:
        """Put a resource among the rows if it is at rest at `through_us`, else among the hot ones."""
        history, key = resource.history, (resource.region, resource.resource_id)
        account = self._index_account((resource.region, resource.tenant_id))
        bound_us = history.confirmed_until_us
        if bound_us is not None and bound_us > through_us:
            history = replace(history, confirmed_until_us=None)
        rest = steady(history, tables.get(resource.region, NO_PRICES), through_us)
        if rest is None or rest.unpriced:
            self.hot[key] = resource
            return
        if bound_us is not None and rest.cursors:
            self.bounded[key] = bound_us
        for cursor in rest.cursors:
            rated = self._index_rated(Rated(resource.region, cursor.kind, cursor.sku))
            entries.append((account, rated, resource.resource_id, resource.history.slot_seconds, cursor))

    def expired(self, through_us: int) -> list[Key]:
        """What inventory does not confirm up to `through_us`: load it and `heat` it before the tick."""
        return [key for key, bound_us in self.bounded.items() if bound_us < through_us]

    def heat(self, resources: Sequence[Resource | Unreadable]) -> None:
        """Charge these by the pure function in the next tick."""
        self.forget({resource.key for resource in resources})
        for resource in resources:
            if isinstance(resource, Unreadable):
                self.failed[resource.key] = resource.reason
            else:
                self.hot[resource.key] = resource

    def plan(self, through_us: int, tables: Tables, retried: Sequence[Resource | Unreadable] = ()) -> TickPlan:
        """Charge everything in `[self.through_us, through_us)`; changes nothing until `commit`.

        `retried` were set aside: each is charged from where it was.
        """
        failed: dict[Key, str] = dict(self.failed)
        rows, lines = self._advance(tables, through_us, failed)
        parts: dict[Account, AccountPart] = {}
        burns = np.zeros(len(self.accounts), dtype=np.int64)
        np.add.at(burns, rows.account, rows.price_micros)
        hot: dict[Key, Resource] = {}
        settled: list[Resource] = []
        for key, resource in self.hot.items():
            table = tables.get(resource.region, NO_PRICES)
            try:
                burn = burn_at(resource.history, table, through_us)
                added = charge_between(resource, table, self.through_us, through_us)
                rest = steady(resource.history, table, through_us)
                burns[self._account_index[resource.region, resource.tenant_id]] += np.int64(burn)
            except Exception as error:  # noqa: BLE001 - as above
                failed[key] = describe_error(error)
                continue
            add_lines(parts, resource, added)
            if rest is None or rest.unpriced:
                hot[key] = resource
            else:
                settled.append(resource)
        recovered = self._recover(retried, tables, through_us, parts, failed)
        changed = self._changed_burns(burns)
        for account in changed:
            parts.setdefault(account, AccountPart(*account, 0))
        for account, part in parts.items():
            index = self._account_index.get(account)
            part.burn_micros_per_hour = 0 if index is None else int(burns[index])
        return TickPlan(through_us, lines, list(parts.values()), burns, changed, rows, hot, settled, failed, recovered)

    def _recover(
        self,
        retried: Sequence[Resource | Unreadable],
        tables: Tables,
        through_us: int,
        parts: dict[Account, AccountPart],
        failed: dict[Key, str],
    ) -> list[Key]:
        recovered: list[Key] = []
        for resource in retried:
            if isinstance(resource, Unreadable):
                failed[resource.key] = resource.reason
                continue
            assert resource.charged_through_us is not None, "it was set aside"
            table = tables.get(resource.region, NO_PRICES)
            try:
                added = charge_between(resource, table, resource.charged_through_us, through_us)
            except Exception as error:  # noqa: BLE001 - as above
                failed[resource.key] = describe_error(error)
                continue
            add_lines(parts, resource, added)
            recovered.append(resource.key)
        return recovered

    def _advance(self, tables: Tables, through_us: int, failed: dict[Key, str]) -> tuple[Rows, LineColumns]:
        """Charge the rows; if a resource's can't be charged, those of all others."""
        try:
            return self._advance_rows(self.rows, tables, through_us)
        except (OverflowError, ArithmeticError, ValueError) as error:
            broken = self._find_broken(tables, through_us, self.rows)
            if not broken:
                raise
            failed.update(dict.fromkeys(broken, describe_error(error)))
            return self._advance_rows(self._without(self.rows, broken), tables, through_us)

    def _advance_rows(self, rows: Rows, tables: Tables, through_us: int) -> tuple[Rows, LineColumns]:
        timed = Window(self.through_us, through_us).is_long
        return advance(rows, self.rated, tables, self.through_us, through_us, timed=timed)

    def _find_broken(self, tables: Tables, through_us: int, rows: Rows) -> set[Key]:
        """The resources whose rows can't be charged, by halving."""
        try:
            advance(rows, self.rated, tables, self.through_us, through_us)
        except (OverflowError, ArithmeticError, ValueError):
            names = sorted({str(name) for name in rows.resource_ids})
            if len(names) == 1:
                return {(self.accounts[account][0], names[0]) for account in rows.account.tolist()}
            first = set(names[: len(names) // 2])
            mask = np.fromiter((name in first for name in rows.resource_ids.tolist()), dtype=np.bool_, count=len(rows))
            return self._find_broken(tables, through_us, rows.take(mask)) | self._find_broken(
                tables, through_us, rows.take(~mask)
            )
        return set()

    def _changed_burns(self, burns: NDArray[np.int64]) -> dict[Account, int]:
        return {
            account: burn
            for account, burn in zip(self.accounts, burns.tolist(), strict=True)
            if burn != self._published_burns.get(account, 0)
        }

    def commit(self, plan: TickPlan, tables: Tables) -> None:
        """The tick is in the database: be as it left the shard."""
        self.through_us, self.rows, self.hot, self.failed = plan.through_us, plan.rows, plan.hot, {}
        self._published_burns.update(plan.changed_burns)
        entries: list[tuple[int, int, str, int, Cursor]] = []
        for resource in plan.settled:
            self._place_or_fail(resource, tables, plan.through_us, entries)
        self.rows = merge_rows(self.rows, self._build(entries))


def charge_between(
    resource: Resource, table: PriceTable, from_us: int, through_us: int
) -> tuple[tuple[Line, ...], bool]:
    """What a resource costs in `[from_us, through_us)`, and whether that is the first of it.

    Raises OverflowError if it can't be published.
    """
    before = charge(resource.history, table, from_us)
    lines = tick_lines(before, charge(resource.history, table, through_us))
    if any(abs(line.amount_micros) > AMOUNT_MICROS_MAX or line.price_micros > AMOUNT_MICROS_MAX for line in lines):
        raise OverflowError("an amount exceeds what a ledger entry can hold")
    return lines, not before


def add_lines(parts: dict[Account, AccountPart], resource: Resource, added: tuple[tuple[Line, ...], bool]) -> None:
    """Put a resource's lines into its account's part of a batch."""
    lines, is_first = added
    if not lines:
        return
    account = (resource.region, resource.tenant_id)
    part = parts.setdefault(account, AccountPart(*account, 0))
    anchor = resource.history.anchor
    part.lines += [PartLine(resource.resource_id, line, "", anchor) for line in lines]
    if is_first and resource.admission_id is not None:
        part.admission_ids.append(resource.admission_id)
