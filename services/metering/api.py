"""Metering's HTTP: its status, price books, resources with their charges, what waits, and the operator's few levers."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from services.metering.app.books import publish_book
from services.metering.app.guard import ClockGuard
from services.metering.app.intake import Intake
from services.metering.app.inventory import Inventory
from services.metering.app.read_until import ReadUntil
from services.metering.app.tick import Ticker
from services.metering.app.work import NO_PRICES, Prices
from services.metering.rules.charge import charge
from services.metering.rules.history import Event, describe_without_effect
from services.metering.store import contradictions as contradiction_store
from services.metering.store import events as event_store
from services.metering.store import held_back as held_back_store
from services.metering.store import prices as price_store
from services.metering.store import resources as resource_store
from services.metering.store import shards as shard_store
from services.metering.store import status as status_store
from services.metering.store import usage as usage_store
from services.metering.store.events import WaitingFilter
from services.metering.store.resources import Resource, Unreadable
from shared.clock import Clock, format_instant
from shared.cursors import After, Cursors
from shared.db import Pool, transaction
from shared.errors import Refusal
from shared.events.cloudevents import Identifier, RegionName, TenantId
from shared.events.prices import PriceBookFile, PriceBookPublished
from shared.ids import shard_of
from shared.log import get_logger
from shared.operators import OperatorWord, Words
from shared.outbox import Relay, resend
from shared.set_aside import count_set_aside
from shared.settings import Region

logger = get_logger(__name__)

_WAITING = {state: Cursors(state, ("", "", "")) for state in ("pending", "parked")}
_CONTRADICTIONS = Cursors("contradictions", ("", "", "", "", ""))

Limit = Annotated[int, Query(ge=1, le=1000)]
Name = Annotated[str | None, Query(max_length=200)]
# Whoever asks wants to know whether there is any, and to name some.
HELD_BACK_MAX = 20
RUNS_MAX = 1000
ACCOUNTS_MAX = 100
# Where a page goes on: the `next` of the one before.


class ReleaseRequest(OperatorWord):
    source: Words
    event_id: Words


class CloseRequest(OperatorWord):
    """A contradiction that was looked into; those of a history end with it alone."""

    region: Words
    resource_id: Words
    kind: Words
    source: Words
    event_id: Words


class ResourceName(BaseModel):
    model_config = ConfigDict(extra="forbid")

    region: RegionName
    resource_id: Identifier


class RunsQuestion(BaseModel):
    model_config = ConfigDict(extra="forbid")

    resources: Annotated[list[ResourceName], Field(max_length=RUNS_MAX)]


class AccountName(BaseModel):
    model_config = ConfigDict(extra="forbid")

    region: RegionName
    tenant_id: TenantId


class ChargedQuestion(BaseModel):
    """`after`: the `next` of the page before. With `running` only containers that run."""

    model_config = ConfigDict(extra="forbid")

    accounts: Annotated[list[AccountName], Field(max_length=ACCOUNTS_MAX)]
    running: bool = False
    after: ResourceName | None = None


Shard = Annotated[int, Path(ge=0, le=2**31 - 1)]


class ResendRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    from_seq: Annotated[int, Field(ge=1, le=2**63 - 1)]


class MeteringApi:
    """The routes and what they need."""

    def __init__(
        self,
        pool: Pool,
        clock: Clock,
        prices: Prices,
        regions: Mapping[str, Region],
        *,
        ticker: Ticker,
        intake: Intake,
        inventory: Inventory,
        guard: ClockGuard,
        relay: Relay,
        reading: ReadUntil,
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._prices = prices
        self._regions = regions
        self._ticker = ticker
        self._intake = intake
        self._inventory = inventory
        self._guard = guard
        self._relay = relay
        self._reading = reading
        self.router = APIRouter(prefix="/v1", tags=["metering"])
        self._add_routes()

    def _add_routes(self) -> None:
        add = self.router.add_api_route
        add("/status", self.status, methods=["GET"])
        add("/price-books", self.publish, methods=["PUT"])
        add("/price-books/{region}", self.books, methods=["GET"])
        add("/resources/{region}/{resource_id:path}", self.resource, methods=["GET"])
        add("/accounts/{region}/{tenant_id}/held-back", self.held_back, methods=["GET"])
        add("/accounts/{region}/{tenant_id}/resources/{resource_id:path}", self.owned, methods=["GET"])
        add("/runs", self.runs, methods=["POST"])
        add("/charged-resources", self.charged_resources, methods=["POST"])
        add("/pending", self.pending, methods=["GET"])
        add("/unpriced", self.unpriced, methods=["GET"])
        add("/parked", self.parked, methods=["GET"])
        add("/parked/release", self.release, methods=["POST"])
        add("/contradictions", self.contradictions, methods=["GET"])
        add("/contradictions/close", self.close_contradiction, methods=["POST"])
        add("/shards/{shard}/resend", self.resend, methods=["POST"])
        add("/resume", self.resume, methods=["POST"])

    async def status(self) -> dict[str, Any]:
        """Everything that `wait-settled` needs to know."""
        async with transaction(self._pool) as connection:
            status = await status_store.load_status(connection)
            waiting = await event_store.count_waiting(connection)
            unpriced = await usage_store.count_unpriced(connection)
            unpriced_resources = await usage_store.count_unpriced_resources(connection)
            contradictions = await contradiction_store.count_contradictions(connection)
            aside = await count_set_aside(connection)
            reading = await self._reading.describe(connection)
        return {
            "now": format_instant(self._clock.now_us()),
            "test_clock": self._clock.is_test,
            "through_target": format_instant(self._ticker.through_us()),
            **status,
            **reading,
            **waiting,
            "unpriced_usage": unpriced,
            "unpriced_resources": unpriced_resources,
            "contradictions": contradictions,
            "set_aside": aside,
            "inventory_overdue": [
                {
                    "region": item.region,
                    "source": item.source,
                    "last_listing": format_instant(item.observed_at_us) if item.snapshot else None,
                }
                for item in self._inventory.overdue
            ],
        }

    async def publish(self, file: PriceBookFile) -> PriceBookPublished:
        """Put a price book in force (422 with what forbids it)."""
        published = await publish_book(self._pool, self._prices, self._regions, file, self._clock.now_us())
        self._relay.wake()
        return published

    async def books(self, region: str) -> dict[str, list[PriceBookPublished]]:
        async with transaction(self._pool) as connection:
            return {"books": await price_store.load_books(connection, region)}

    async def resource(self, region: str, resource_id: str) -> dict[str, Any]:
        """A resource's events and what they cost so far, by `charge()` as of its shard's `through`."""
        async with transaction(self._pool) as connection:
            version = await shard_store.share_prices(connection)
            tables = await self._prices.at(connection, version)
            resource = next(iter(await resource_store.load_resources(connection, {(region, resource_id)})), None)
            if resource is None:
                raise Refusal("resource-not-found", f"no resource {resource_id} is known in {region}", status=404)
            if isinstance(resource, resource_store.Unreadable):
                raise Refusal("resource-unreadable", f"resource {resource_id} of {region}: {resource.reason}")
            shard = (await shard_store.lock_shards(connection, [resource.shard]))[resource.shard]
        through_us = resource.charged_through_us or shard.metered_through_us
        segments = charge(resource.history, tables.get(region, NO_PRICES), through_us)
        return {
            **_describe(resource),
            "book_version": version,
            "through": format_instant(through_us),
            "seq": shard.seq,
            "segments": [{**asdict(segment), "price_micros": segment.price_micros} for segment in segments],
        }

    async def owned(self, region: RegionName, tenant_id: TenantId, resource_id: str) -> dict[str, Any]:
        """Whether a resource is the account's: it belongs to whoever is charged for it, and to nobody else."""
        async with transaction(self._pool) as connection:
            owner = await resource_store.load_owner(connection, region, resource_id)
        return {"resource_id": resource_id, "is_owner": owner == tenant_id}

    async def runs(self, body: RunsQuestion) -> dict[str, Any]:
        """Who is charged for resources, and by which run they run now; a question, which changes nothing.

        What is not known here, or can't be read, is left out. `run` is null for what does not run.
        """
        keys = {(item.region, item.resource_id) for item in body.resources}
        async with transaction(self._pool) as connection:
            found = await resource_store.load_resources(connection, sorted(keys))
        return {
            "now": format_instant(self._clock.now_us()),
            "resources": [_describe_run(item) for item in found if isinstance(item, resource_store.Resource)],
        }

    async def charged_resources(self, body: ChargedQuestion) -> dict[str, Any]:
        """What accounts are charged for and no end of which is known; a question, which changes nothing.

        What can't be read is named without a run, unless only what runs is asked for. `next` is null after the last.
        """
        after = ("", "") if body.after is None else (body.after.region, body.after.resource_id)
        accounts = {
            (item.region, item.tenant_id, shard_of(item.region, item.tenant_id, self._intake.rules.shards))
            for item in body.accounts
        }
        async with transaction(self._pool) as connection:
            found = await resource_store.load_open_of(connection, sorted(accounts), after, RUNS_MAX)
        resources = [_describe_run(item) for item in found]
        return {
            "now": format_instant(self._clock.now_us()),
            "resources": [item for item in resources if not body.running or item["run"] is not None],
            "next": _describe_name(found[-1]) if len(found) == RUNS_MAX else None,
        }

    async def held_back(self, region: RegionName, tenant_id: TenantId) -> dict[str, Any]:
        """What was said of an account and is not in its charges, until an operator has looked at it."""
        async with transaction(self._pool) as connection:
            items = await held_back_store.load_held_back(connection, region, tenant_id, HELD_BACK_MAX)
        return {
            "now": format_instant(self._clock.now_us()),
            "held_back": [
                {"kind": item.kind, "id": item.item_id, "resource_id": item.resource_id, "reason": item.reason}
                for item in items
            ],
        }

    async def pending(
        self,
        region: Name = None,
        tenant_id: Name = None,
        resource_id: Name = None,
        reason: Name = None,
        after: After = None,
        limit: Limit = 100,
    ) -> dict[str, Any]:
        """Events that wait for another one: for their resource's creation, or for the one that they replace."""
        return await self._waiting(WaitingFilter("pending", region, tenant_id, resource_id, reason), after, limit)

    async def unpriced(self, limit: Limit = 100) -> dict[str, Any]:
        """SKUs that are used and have no price, the most used first: charged from their first price on."""
        async with transaction(self._pool) as connection:
            found = await usage_store.load_unpriced_skus(connection, limit)
        return {
            "unpriced": [
                {
                    "region": item.region,
                    "kind": item.kind,
                    "sku": item.sku,
                    "items": item.items,
                    "tenant_id": item.tenant_id,
                    "since": None if item.since_us is None else format_instant(item.since_us),
                }
                for item in found
            ]
        }

    async def parked(
        self,
        region: Name = None,
        tenant_id: Name = None,
        resource_id: Name = None,
        reason: Name = None,
        after: After = None,
        limit: Limit = 100,
    ) -> dict[str, Any]:
        """Events that wait for their time, or for an operator."""
        return await self._waiting(WaitingFilter("parked", region, tenant_id, resource_id, reason), after, limit)

    async def _waiting(self, wanted: WaitingFilter, after: str | None, limit: int) -> dict[str, Any]:
        cursors = _WAITING[wanted.state]
        async with transaction(self._pool) as connection:
            events = await event_store.list_waiting(connection, wanted, cursors.read(after), limit + 1)
        last = events[limit - 1] if len(events) > limit else None
        return {
            wanted.state: [
                {
                    "topic": item.topic,
                    "source": item.source,
                    "event_id": item.event_id,
                    "reason": item.reason,
                    "due_at": None if item.due_at_us is None else format_instant(item.due_at_us),
                    "region": item.region,
                    "resource_id": item.resource_id,
                    "tenant_id": item.tenant_id,
                    "received_at": format_instant(item.received_at_us),
                }
                for item in events[:limit]
            ],
            "next": cursors.write(None if last is None else (last.topic, last.source, last.event_id)),
        }

    async def release(self, request: ReleaseRequest) -> dict[str, str]:
        """Apply a parked event by an operator's word."""
        outcome = await self._intake.release(self._pool, (request.source, request.event_id))
        self._relay.wake()
        return {"outcome": outcome}

    async def contradictions(
        self,
        kind: Name = None,
        region: Name = None,
        tenant_id: Name = None,
        resource_id: Name = None,
        after: After = None,
        limit: Limit = 100,
    ) -> dict[str, Any]:
        """What was said and can't be: events without effect, refused claims and amendments, listings against events."""
        async with transaction(self._pool) as connection:
            items = await contradiction_store.list_contradictions(
                connection,
                kind=kind,
                region=region,
                tenant_id=tenant_id,
                resource_id=resource_id,
                after=_CONTRADICTIONS.read(after),
                limit=limit + 1,
            )
        last = items[limit - 1] if len(items) > limit else None
        return {
            "contradictions": [
                {
                    "region": item.region,
                    "resource_id": item.resource_id,
                    "kind": item.kind,
                    "source": item.source,
                    "event_id": item.event_id,
                    "tenant_id": item.tenant_id,
                    "detail": item.detail,
                    "noted_at": format_instant(item.noted_at_us),
                }
                for item in items[:limit]
            ],
            "next": _CONTRADICTIONS.write(
                None if last is None else (last.region, last.resource_id, last.kind, last.source, last.event_id)
            ),
        }

    async def close_contradiction(self, request: CloseRequest) -> dict[str, str]:
        """Forget a refused claim or a listing's objection that was looked into."""
        key = (request.region, request.resource_id, request.kind, request.source, request.event_id)
        async with transaction(self._pool) as connection:
            closed = await contradiction_store.close_contradiction(connection, key)
        if not closed:
            raise Refusal("contradiction-not-found", "no such contradiction can be closed", status=404)
        logger.warning("contradiction.closed", kind=request.kind, resource=request.resource_id, actor=request.actor)
        return {"status": "closed"}

    async def resend(self, shard: Shard, request: ResendRequest) -> dict[str, int]:
        """Send a shard's stream again from a sequence number on."""
        async with transaction(self._pool) as connection:
            messages = await resend(connection, shard, request.from_seq)
        self._relay.wake()
        return {"messages": messages}

    async def resume(self, word: OperatorWord) -> dict[str, str]:
        await self._guard.resume(word.actor, word.reason)
        return {"status": "resumed"}


def _describe(resource: Resource) -> dict[str, Any]:
    history = resource.history
    return {
        "region": resource.region,
        "resource_id": resource.resource_id,
        "tenant_id": resource.tenant_id,
        "shard": resource.shard,
        "slot_seconds": history.slot_seconds,
        "function_version": history.function_version,
        "commanded_at": None if history.commanded_us is None else format_instant(history.commanded_us),
        "confirmed_until": None if history.confirmed_until_us is None else format_instant(history.confirmed_until_us),
        "charged_through": None if resource.charged_through_us is None else format_instant(resource.charged_through_us),
        "events": [_describe_event(event) for event in history.events],
        "replaced": [
            {
                **_describe_event(item.event),
                "replaced_by": {"source": item.by[0], "event_id": item.by[1]},
                "replaced_because": item.reason,
            }
            for item in history.replaced
        ],
        "without_effect": [
            {"source": source, "event_id": event_id, "effect": effect}
            for (source, event_id), effect in describe_without_effect(history).items()
        ],
        "sequences_conflict": history.order.sequences_conflict,
    }


def _describe_name(resource: Resource | Unreadable) -> dict[str, str]:
    return {"region": resource.region, "resource_id": resource.resource_id}


def _describe_run(resource: Resource | Unreadable) -> dict[str, Any]:
    running = None if isinstance(resource, Unreadable) else resource.history.order.running
    return {
        "region": resource.region,
        "resource_id": resource.resource_id,
        "tenant_id": resource.tenant_id,
        "run": None if running is None else {"source": running.source, "event_id": running.event_id},
    }


def _describe_event(event: Event) -> dict[str, Any]:
    return {**asdict(event), "time": format_instant(event.time_us)}
