"""Metering's HTTP: its status, price books, resources with their charges, what waits, and the operator's few levers."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from services.metering.app.books import publish_book
from services.metering.app.guard import ClockGuard
from services.metering.app.intake import Intake
from services.metering.app.tick import Ticker
from services.metering.app.work import NO_PRICES, Prices
from services.metering.rules.charge import charge
from services.metering.rules.timeline import build_timeline
from services.metering.store import events as event_store
from services.metering.store import inventory as inventory_store
from services.metering.store import prices as price_store
from services.metering.store import resources as resource_store
from services.metering.store import shards as shard_store
from services.metering.store import status as status_store
from services.metering.store import usage as usage_store
from services.metering.store.resources import Resource
from shared.clock import Clock, format_instant
from shared.db import Pool, transaction
from shared.errors import Refusal
from shared.events.prices import PriceBookFile, PriceBookPublished
from shared.operators import OperatorWord, Words
from shared.outbox import Relay, resend
from shared.settings import Region

WAITING_MAX = 1000


class ReleaseRequest(OperatorWord):
    source: Words
    event_id: Words


class ResendRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    from_seq: Annotated[int, Field(ge=1)]


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
        guard: ClockGuard,
        relay: Relay,
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._prices = prices
        self._regions = regions
        self._ticker = ticker
        self._intake = intake
        self._guard = guard
        self._relay = relay
        self.router = APIRouter(prefix="/v1", tags=["metering"])
        self._add_routes()

    def _add_routes(self) -> None:
        add = self.router.add_api_route
        add("/status", self.status, methods=["GET"])
        add("/price-books", self.publish, methods=["PUT"])
        add("/price-books/{region}", self.books, methods=["GET"])
        add("/resources/{region}/{resource_id:path}", self.resource, methods=["GET"])
        add("/pending", self.pending, methods=["GET"])
        add("/parked", self.parked, methods=["GET"])
        add("/parked/release", self.release, methods=["POST"])
        add("/inventory-alarms", self.inventory_alarms, methods=["GET"])
        add("/shards/{shard}/resend", self.resend, methods=["POST"])
        add("/resume", self.resume, methods=["POST"])

    async def status(self) -> dict[str, Any]:
        """Everything that `wait-settled` needs to know."""
        async with transaction(self._pool) as connection:
            status = await status_store.load_status(connection)
            waiting = await event_store.count_waiting(connection)
            unpriced = await usage_store.count_unpriced(connection)
        return {
            "now": format_instant(self._clock.now_us()),
            "test_clock": self._clock.is_test,
            "through_target": format_instant(self._ticker.through_us()),
            **status,
            **waiting,
            "unpriced_usage": unpriced,
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
            found = await resource_store.load_resources(connection, {(region, resource_id)})
            resource = found.get((region, resource_id))
            if resource is None:
                raise Refusal("resource-not-found", f"no resource {resource_id} is known in {region}", status=404)
            shard = (await shard_store.lock_shards(connection, [resource.shard]))[resource.shard]
        segments = charge(resource.history, tables.get(region, NO_PRICES), shard.metered_through_us)
        return {
            **_describe(resource),
            "book_version": version,
            "through": format_instant(shard.metered_through_us),
            "seq": shard.seq,
            "segments": [{**asdict(segment), "price_micros": segment.price_micros} for segment in segments],
        }

    async def pending(self) -> dict[str, Any]:
        return await self._waiting("pending")

    async def parked(self) -> dict[str, Any]:
        return await self._waiting("parked")

    async def _waiting(self, state: str) -> dict[str, Any]:
        async with transaction(self._pool) as connection:
            events = await event_store.list_waiting(connection, state, WAITING_MAX)
        return {
            state: [
                {
                    "source": item.source,
                    "event_id": item.event_id,
                    "reason": item.reason,
                    "due_at": None if item.due_at_us is None else format_instant(item.due_at_us),
                    "region": item.region,
                    "resource_id": item.resource_id,
                    "tenant_id": item.tenant_id,
                    "received_at": format_instant(item.received_at_us),
                }
                for item in events
            ]
        }

    async def release(self, request: ReleaseRequest) -> dict[str, str]:
        """Apply a parked event by an operator's word."""
        outcome = await self._intake.release(self._pool, (request.source, request.event_id))
        self._relay.wake()
        return {"outcome": outcome}

    async def inventory_alarms(self, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> dict[str, Any]:
        async with transaction(self._pool) as connection:
            alarms = await inventory_store.list_alarms(connection, limit)
        return {"alarms": [{**alarm, "observed_at": format_instant(alarm["observed_at"])} for alarm in alarms]}

    async def resend(self, shard: int, request: ResendRequest) -> dict[str, int]:
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
        "events": [{**asdict(event), "time": format_instant(event.time_us)} for event in history.events],
        "without_effect": [event.event_id for event in build_timeline(history).ignored],
    }
