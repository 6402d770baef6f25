"""A worker's cache of one shard: what bills at rest as columns, the few others with their histories.

Valid only for the (version, through) of the shard's row as just locked; if that has moved on, the cache catches up:
columns by arithmetic, changed resources by reading them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from services.metering.batches import AccountPart
from services.metering.columns import EMPTY_ROWS, LineColumns, Rated, Rows, advance, build_rows, merge_rows
from services.metering.rules.charge import Cursor, burn_at, charge, steady
from services.metering.rules.lines import tick_lines
from services.metering.rules.prices import PriceTable
from services.metering.store.resources import Resource

Account = tuple[str, str]
Key = tuple[str, str]
Tables = Mapping[str, PriceTable]
NO_PRICES = PriceTable()


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
        # Confirmed by inventory up to an instant; at rest only in windows that end by then.
        self.bounded: dict[Key, int] = {}
        self._published_burns = dict(burns)
        for account in burns:
            self._index_account(account)

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
        self._published_burns = dict(burns)

    def load(self, resources: Sequence[Resource], tables: Tables, version: int) -> None:
        """Take resources as they are in the database at this cache's `through`, in place of what was known of them."""
        self.forget({(resource.region, resource.resource_id) for resource in resources})
        entries: list[tuple[int, int, str, int, Cursor]] = []
        for resource in resources:
            self._place(resource, tables, self.through_us, entries)
        self.rows = merge_rows(self.rows, build_rows(entries))
        self.version = version

    def forget(self, keys: set[Key]) -> None:
        if not keys:
            return
        for key in keys:
            self.hot.pop(key, None)
            self.bounded.pop(key, None)
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

    def heat(self, resources: Sequence[Resource]) -> None:
        """Charge these by the pure function in the next tick."""
        keys = {(resource.region, resource.resource_id) for resource in resources}
        self.forget(keys)
        for resource in resources:
            self.hot[resource.region, resource.resource_id] = resource

    def plan(self, through_us: int, tables: Tables) -> TickPlan:
        """Charge everything in `[self.through_us, through_us)`; changes nothing until `commit`."""
        rows, lines = advance(self.rows, self.rated, tables, self.through_us, through_us)
        parts: dict[Account, AccountPart] = {}
        burns = np.zeros(len(self.accounts), dtype=np.int64)
        np.add.at(burns, rows.account, rows.price_micros)
        hot: dict[Key, Resource] = {}
        settled: list[Resource] = []
        for key, resource in self.hot.items():
            table = tables.get(resource.region, NO_PRICES)
            burns[self._account_index[resource.region, resource.tenant_id]] += burn_at(
                resource.history, table, through_us
            )
            self._charge_hot(resource, table, through_us, parts)
            rest = steady(resource.history, table, through_us)
            if rest is None or rest.unpriced:
                hot[key] = resource
            else:
                settled.append(resource)
        changed = self._changed_burns(burns)
        for account in changed:
            parts.setdefault(account, AccountPart(*account, 0))
        for account, part in parts.items():
            part.burn_micros_per_hour = int(burns[self._account_index[account]])
        return TickPlan(through_us, lines, list(parts.values()), burns, changed, rows, hot, settled)

    def _charge_hot(
        self, resource: Resource, table: PriceTable, through_us: int, parts: dict[Account, AccountPart]
    ) -> None:
        before = charge(resource.history, table, self.through_us)
        after = charge(resource.history, table, through_us)
        lines = tick_lines(before, after)
        if not lines:
            return
        account = (resource.region, resource.tenant_id)
        part = parts.setdefault(account, AccountPart(*account, 0))
        part.lines += [(resource.resource_id, line, "") for line in lines]
        if not before and resource.admission_id is not None:
            part.admission_ids.append(resource.admission_id)

    def _changed_burns(self, burns: NDArray[np.int64]) -> dict[Account, int]:
        return {
            account: burn
            for account, burn in zip(self.accounts, burns.tolist(), strict=True)
            if burn != self._published_burns.get(account, 0)
        }

    def commit(self, plan: TickPlan, tables: Tables) -> None:
        """The tick is in the database: be as it left the shard."""
        self.through_us, self.rows, self.hot = plan.through_us, plan.rows, plan.hot
        self._published_burns.update(plan.changed_burns)
        entries: list[tuple[int, int, str, int, Cursor]] = []
        for resource in plan.settled:
            self._place(resource, tables, plan.through_us, entries)
        self.rows = merge_rows(self.rows, build_rows(entries))
