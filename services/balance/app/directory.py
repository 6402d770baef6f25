"""Which account a batch means: ids that never change, so a process may keep them."""

from collections.abc import Iterable, Mapping, Sequence

from services.balance.rules.posting import Part
from services.balance.rules.stream import Arrival
from services.balance.store.accounts import Account, Opening, insert_accounts, load_account_ids
from services.balance.wire import WireBatch, check_names
from shared.db import Connection
from shared.errors import TransientFault
from shared.ids import shard_of
from shared.settings import Region

Key = tuple[str, str]
_KEPT_MAX = 4_000_000


class Directory:
    """Account ids by shard and (region, tenant_id). Holds only what was committed."""

    def __init__(self, regions: Mapping[str, Region], shards: int) -> None:
        self._regions = regions
        self.shards = shards
        self._ids: dict[int, dict[Key, int]] = {}
        self._kept = 0

    def check(self, batch: WireBatch) -> None:
        """Refuse a batch with a shard or names that can't be. Raises ValueError."""
        if batch.shard >= self.shards:
            raise ValueError(f"shard {batch.shard} is beyond the {self.shards} of this deployment")
        known = self._ids.get(batch.shard, {})
        for account in batch.accounts:
            if (account.region, account.tenant_id) not in known:
                check_names(account)

    def refuse(self, batch: WireBatch) -> str | None:
        """Why a batch may not be posted in this deployment, or None."""
        known = self._ids.get(batch.shard, {})
        for account in batch.accounts:
            key = account.region, account.tenant_id
            if key in known:
                continue
            if account.region not in self._regions:
                return f"batch {batch.seq} charges region {account.region}, which is not of this deployment"
            if shard_of(*key, self.shards) != batch.shard:
                return f"batch {batch.seq} charges {account.region}/{account.tenant_id}, an account of another shard"
        return None

    def find_unknown(self, arrivals: Iterable[Arrival]) -> list[Key]:
        """The accounts whose ids are not known, each once, in order."""
        unknown: set[Key] = set()
        for arrival in arrivals:
            known = self._ids.get(arrival.batch.shard, {})
            unknown.update(
                key for account in arrival.batch.accounts if (key := (account.region, account.tenant_id)) not in known
            )
        return sorted(unknown)

    async def resolve(
        self, connection: Connection, keys: Sequence[Key], instants: Mapping[int, int]
    ) -> tuple[dict[Key, int], list[Account]]:
        """The ids of accounts not known yet, and those opened now (at their shard's posting time)."""
        found = {key: account_id for key, (account_id, _) in (await load_account_ids(connection, keys)).items()}
        openings = [self.open_at(*key, instants) for key in keys if key not in found]
        opened = await insert_accounts(connection, openings) if openings else []
        found |= {(account.region, account.tenant_id): account.account_id for account in opened}
        if len(found) < len(keys):
            raise TransientFault("an account was opened by somebody else meanwhile")
        return found, opened

    def open_at(self, region: str, tenant_id: str, instants: Mapping[int, int]) -> Opening:
        shard = shard_of(region, tenant_id, self.shards)
        return Opening(region, tenant_id, shard, self._regions[region].currency, instants[shard])

    def remember(self, fresh: Mapping[Key, int]) -> None:
        """Keep ids; only after the transaction that read or made them is committed. Those beyond a bound are not kept.

        Nothing is ever forgotten: another posting may stand between having found an account here and using its id.
        """
        if self._kept + len(fresh) > _KEPT_MAX:
            return
        for key, account_id in fresh.items():
            self._ids.setdefault(shard_of(*key, self.shards), {})[key] = account_id
        self._kept += len(fresh)

    def parts(self, arrivals: Sequence[Arrival], fresh: Mapping[Key, int]) -> list[Part]:
        """Every account of every batch with its id; a batch's index is its cause's."""
        parts: list[Part] = []
        for index, arrival in enumerate(arrivals):
            known = self._ids.get(arrival.batch.shard, {})
            for account in arrival.batch.accounts:
                key = account.region, account.tenant_id
                account_id = known.get(key)
                parts.append((fresh[key] if account_id is None else account_id, index, account))
        return parts
