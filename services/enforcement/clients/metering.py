"""Questions to metering: how far everything is charged, and what it keeps back."""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx

from services.enforcement.clients.asking import Answer, Asker, OutOfReachError
from services.enforcement.rules.account import AccountKey
from services.enforcement.rules.guards import MeteringSeen
from services.enforcement.rules.lifecycle import RunKey
from services.enforcement.rules.stops import Charged
from shared.events.cloudevents import Instant


class _ShardStatus(Answer):
    shard: int
    seq: int
    through: Instant


class MeteringStatus(Answer):
    """`through` never passes what metering has read (`read_until`): a shard that is charged is read."""

    now: Instant
    halted: str | None
    shards: list[_ShardStatus]

    def seen_of(self, shard: int) -> MeteringSeen | None:
        """How it stands with a shard; None where metering does not name it."""
        found = next((item for item in self.shards if item.shard == shard), None)
        return None if found is None else MeteringSeen(self.now, found.seq, found.through, self.halted)


class _HeldBack(Answer):
    kind: str
    id: str
    resource_id: str | None
    reason: str


class _HeldBackAnswer(Answer):
    held_back: list[_HeldBack]


class _Owned(Answer):
    resource_id: str
    is_owner: bool


class _Run(Answer):
    source: str
    event_id: str


class _Charged(Answer):
    region: str
    resource_id: str
    tenant_id: str
    run: _Run | None


class _ChargedAnswer(Answer):
    resources: list[_Charged]


class _ResourceName(Answer):
    region: str
    resource_id: str


class _ChargedPage(_ChargedAnswer):
    next: _ResourceName | None


class ChargedRun(NamedTuple):
    """A container that runs, and whom metering charges for it."""

    key: AccountKey
    resource_id: str
    run: RunKey


class MeteringClient:
    """`client` has metering's address as its base."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._asker = Asker("metering", client)

    async def load_status(self) -> MeteringStatus:
        """Raises OutOfReachError."""
        return await self._asker.ask(MeteringStatus, "GET", "/v1/status")

    async def is_owner(self, key: AccountKey, resource_id: str) -> bool:
        """Whether the account is charged for a resource. Raises OutOfReachError."""
        path = f"/v1/accounts/{quote(key.region, safe='')}/{quote(key.tenant_id, safe='')}/resources"
        answer = await self._asker.ask(_Owned, "GET", f"{path}/{quote(resource_id, safe='')}")
        if answer.resource_id != resource_id:
            raise OutOfReachError("metering answered for another resource than asked")
        return answer.is_owner

    async def load_charged(self, resources: Collection[tuple[str, str]]) -> dict[tuple[str, str], Charged]:
        """Whom metering charges for these (region, resource id), and for which run; what it does not know is left out.

        Raises OutOfReachError.
        """
        body: dict[str, Any] = {"resources": [{"region": key[0], "resource_id": key[1]} for key in sorted(resources)]}
        answer = await self._asker.ask(_ChargedAnswer, "POST", "/v1/runs", body=body)
        return {
            (item.region, item.resource_id): Charged(
                item.tenant_id, None if item.run is None else RunKey(item.run.source, item.run.event_id)
            )
            for item in answer.resources
        }

    async def list_running(self, keys: Sequence[AccountKey]) -> list[ChargedRun]:
        """The containers that accounts are charged for and that run. Raises OutOfReachError."""
        return [
            ChargedRun(
                AccountKey(item.region, item.tenant_id), item.resource_id, RunKey(item.run.source, item.run.event_id)
            )
            for item in await self._list_charged(keys, running=True)
            if item.run is not None
        ]

    async def list_charged(self, key: AccountKey) -> frozenset[str]:
        """The resources that an account is charged for. Raises OutOfReachError."""
        return frozenset(item.resource_id for item in await self._list_charged([key], running=False))

    async def _list_charged(self, keys: Sequence[AccountKey], *, running: bool) -> list[_Charged]:
        body: dict[str, Any] = {"accounts": [key._asdict() for key in keys], "running": running}
        found: list[_Charged] = []
        while True:
            page = await self._asker.ask(_ChargedPage, "POST", "/v1/charged-resources", body=body)
            found += page.resources
            if page.next is None:
                return found
            body["after"] = page.next.model_dump()

    async def load_held_back(self, key: AccountKey) -> tuple[str, ...]:
        """What was said of an account and is not in its charges, in words. Raises OutOfReachError."""
        path = f"/v1/accounts/{quote(key.region, safe='')}/{quote(key.tenant_id, safe='')}/held-back"
        answer = await self._asker.ask(_HeldBackAnswer, "GET", path)
        return tuple(
            f"{item.kind} {item.id} ({item.reason})" + (f" of {item.resource_id}" if item.resource_id else "")
            for item in answer.held_back
        )
