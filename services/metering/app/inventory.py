"""Inventories: a source's own complete listing, held against its events.

In a region that declares inventory a resource is charged no further than its last confirming listing plus a bound: a
lost `stopped` can't charge for ever. What a listing contradicts is an alarm, and no confirmation. A source speaks only
for the resources that it created. Pages are kept as they come; a complete listing is compared shard by shard.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import orjson

from services.metering.app.lifecycle import Rules
from services.metering.app.work import Prices, Work, open_work
from services.metering.metrics import INVENTORY_OVERDUE
from services.metering.rules.timeline import State, build_timeline
from services.metering.store import contradictions as contradiction_store
from services.metering.store import inventory as inventory_store
from services.metering.store import resources as resource_store
from services.metering.store.contradictions import Contradiction
from services.metering.store.inventory import Listing
from services.metering.store.resources import Resource, Unreadable
from shared.clock import SECOND_US, Clock
from shared.db import Connection, Pool, is_transient, past_races, transaction
from shared.events.lifecycle import InventoryObserved
from shared.ids import content_hash, shard_of
from shared.log import get_logger
from shared.set_aside import describe_error, load_held_back, release, set_aside

logger = get_logger(__name__)

FUTURE_US_MAX = 300 * SECOND_US
# Kind of listings that can't be compared.
INVENTORY = "inventory"
# So many resources are compared before others have a turn in the event loop.
TURN_RESOURCES = 500


@dataclass(frozen=True, slots=True)
class Item:
    """A resource as its source lists it; sizes are None where it says nothing of them."""

    tenant_id: str
    state: str
    gpu_sku: str | None
    gpu_count: int | None
    persistent_storage_gb: int | None
    size_gb: int | None


async def take_page(
    connection: Connection, rules: Rules, page: InventoryObserved, now_us: int
) -> tuple[str, str] | None:
    """Keep a page, and note when its snapshot is complete. Returns why a page is dead, or None."""
    misplaced = _against_time(rules, page, now_us)
    if misplaced is not None:
        return misplaced
    await inventory_store.lock_source(connection, page.data.region, page.source)
    last_us = await inventory_store.load_observed_at(connection, page.data.region, page.source)
    if last_us is not None and page.time <= last_us:
        return None
    content = content_hash(page.model_dump_json(exclude={"id"}).encode())
    if await inventory_store.insert_page(connection, page, content) != content:
        return "page_twice", "this page of the snapshot came with other content; publish the listing as a new snapshot"
    count = await inventory_store.count_pages(connection, page)
    if count.pages < page.data.pages:
        return None
    if not count.agree:
        return "inconsistent_pages", "the pages of one snapshot differ in time or number; publish it again as a new one"
    cause = f"{page.source}/{page.id}"
    listing = Listing(page.data.region, page.source, page.data.snapshot, page.time, cause, 0, 0)
    await inventory_store.save_listing(connection, listing)
    return None


def _against_time(rules: Rules, page: InventoryObserved, now_us: int) -> tuple[str, str] | None:
    if page.time > now_us + FUTURE_US_MAX:
        return "far_future", "the listing's time is ahead of now; correct the producer's clock"
    if page.time < rules.regions[page.data.region].opened_at_us:
        return "before_region_opened", "the region sold nothing at that time"
    return None


class Inventory:
    """Compares complete listings with what their sources' events say, and notices listings that do not come."""

    def __init__(self, clock: Clock, prices: Prices, rules: Rules) -> None:
        self._clock = clock
        self._prices = prices
        self._rules = rules
        # The listing in hand, read once for all shards.
        self._read: tuple[Listing, dict[str, Item]] | None = None
        self.overdue: tuple[Listing, ...] = ()

    async def compare_due(self, pool: Pool) -> int:
        """Compare one shard of each complete listing; return how many were. One that can't be is set aside."""
        async with transaction(pool) as connection:
            listings = await inventory_store.load_listings(connection)
            due = [item for item in listings if item.snapshot and item.next_shard < self._rules.shards]
            names = [f"{item.region}/{item.source}" for item in due]
            held = await load_held_back(connection, INVENTORY, names, self._clock.now_us())
        compared = 0
        for listing, name in zip(due, names, strict=True):
            if name not in held:
                compared += await self._compare_or_set_aside(pool, listing, name)
        return compared

    async def _compare_or_set_aside(self, pool: Pool, listing: Listing, name: str) -> bool:
        try:
            await past_races(partial(self._compare, pool, listing))
        except Exception as error:
            if is_transient(error):
                raise
            async with transaction(pool) as connection:
                await set_aside(connection, INVENTORY, name, describe_error(error), self._clock.now_us())
            return False
        return True

    async def _compare(self, pool: Pool, listing: Listing) -> None:
        items = await self._load_items(pool, listing)
        shard = listing.next_shard
        async with transaction(pool) as connection:
            # The source's row comes before those of shards, as in intake.
            if not await inventory_store.move_on(connection, listing, shard + 1):
                return
            work = await open_work(
                connection, self._prices, self._clock.now_us(), [shard], (), publishes=self._rules.publishes
            )
            problems = await self._compare_shard(work, listing, items, shard)
            await contradiction_store.insert_contradictions(connection, problems)
            await work.save()
            if shard + 1 == self._rules.shards:
                await self._finish(connection, listing, len(items))
        if problems:
            logger.error("inventory.contradicts", region=listing.region, source=listing.source, resources=len(problems))

    async def _finish(self, connection: Connection, listing: Listing, resources: int) -> None:
        await contradiction_store.delete_older_listings(connection, listing.region, listing.source, listing.snapshot)
        await inventory_store.delete_pages(connection, listing)
        await inventory_store.count_resources(connection, listing, resources)
        await release(connection, INVENTORY, [f"{listing.region}/{listing.source}"])
        self._read = None

    async def _load_items(self, pool: Pool, listing: Listing) -> dict[str, Item]:
        if self._read is not None and _same(self._read[0], listing):
            return self._read[1]
        async with transaction(pool) as connection:
            bodies = await inventory_store.load_page_bodies(connection, listing)
        items: dict[str, Item] = {}
        for body in bodies:
            for item in orjson.loads(body)["data"]["resources"]:
                items[item["resource_id"]] = Item(
                    *(item["tenant_id"], item["state"], item["gpu_sku"], item["gpu_count"]),
                    *(item["persistent_storage_gb"], item["size_gb"]),
                )
            await asyncio.sleep(0)
        self._read = listing, items
        return items

    async def _compare_shard(
        self, work: Work, listing: Listing, items: Mapping[str, Item], shard: int
    ) -> list[Contradiction]:
        region = listing.region
        found = await resource_store.load_listed(work.connection, shard, region, listing.source, listing.observed_at_us)
        work.take(found)
        known = {item.resource_id for item in found}
        others = [
            name
            for name, item in items.items()
            if name not in known and shard_of(region, item.tenant_id, self._rules.shards) == shard
        ]
        problems = {
            item.resource_id: (item.tenant_id if isinstance(item, Resource) else "", problem)
            for item in found
            if (problem := self._confirm_or_object(work, item, items.get(item.resource_id), listing)) is not None
        }
        problems.update(await self._object_to_others(work, listing, items, others))
        return [
            Contradiction(region, name, INVENTORY, listing.source, listing.snapshot, tenant_id, problem, work.now_us)
            for name, (tenant_id, problem) in problems.items()
        ]

    def _confirm_or_object(
        self, work: Work, resource: Resource | Unreadable, item: Item | None, listing: Listing
    ) -> str | None:
        if isinstance(resource, Unreadable):
            return _unreadable(resource)
        problem = contradiction(resource, item, listing.observed_at_us)
        region = self._rules.regions[listing.region]
        if problem is None and region.declares_inventory:
            bound_us = region.inventory_bound_seconds * SECOND_US
            _confirm(work, resource, listing.observed_at_us + bound_us, listing.listing_id)
        return problem

    async def _object_to_others(
        self, work: Work, listing: Listing, items: Mapping[str, Item], names: Sequence[str]
    ) -> dict[str, tuple[str, str]]:
        """What is listed and is no open resource of the source in this shard."""
        if not names:
            return {}
        found = await resource_store.load_resources(work.connection, {(listing.region, name) for name in names})
        known = {item.resource_id: item for item in found}
        problems: dict[str, tuple[str, str]] = {}
        for name in names:
            resource, tenant_id = known.get(name), items[name].tenant_id
            if isinstance(resource, Unreadable):
                problems[name] = tenant_id, _unreadable(resource)
            elif resource is None:
                problems[name] = tenant_id, "listed, but no event ever created it"
            elif resource.source != listing.source:
                problems[name] = tenant_id, f"listed by {listing.source}, but created by {resource.source}"
            elif resource.tenant_id == tenant_id:
                problem = contradiction(resource, items[name], listing.observed_at_us)
                if problem is not None:
                    problems[name] = tenant_id, problem
            elif resource.ends_at_us is not None and resource.ends_at_us <= listing.observed_at_us:
                problems[name] = tenant_id, "listed for another tenant"
        return problems

    async def check_overdue(self, pool: Pool) -> None:
        """Notice sources of which no listing has come for longer than their region's bound."""
        now_us = self._clock.now_us()
        overdue: list[Listing] = []
        async with transaction(pool) as connection:
            for listing in await inventory_store.load_listings(connection):
                region = self._rules.regions.get(listing.region)
                if region is None or not region.declares_inventory:
                    continue
                late = now_us - listing.observed_at_us > region.inventory_bound_seconds * SECOND_US
                if late and await inventory_store.has_open_resources(connection, listing.region, listing.source):
                    overdue.append(listing)
        new = {(item.region, item.source) for item in overdue} - {(item.region, item.source) for item in self.overdue}
        for region_name, source in sorted(new):
            logger.error("inventory.overdue", region=region_name, source=source)
        self.overdue = tuple(overdue)
        for name, region in self._rules.regions.items():
            if region.declares_inventory:
                INVENTORY_OVERDUE.labels(name).set(sum(item.region == name for item in overdue))


def _same(first: Listing, second: Listing) -> bool:
    return (first.region, first.source, first.snapshot) == (second.region, second.source, second.snapshot)


def _unreadable(resource: Unreadable) -> str:
    return f"its history can't be read: {resource.reason}"


def contradiction(resource: Resource, item: Item | None, at_us: int) -> str | None:
    """What a listing at `at_us` says against a resource's events; None if they agree."""
    state = build_timeline(resource.history).state_at(at_us)
    if item is None:
        return None if state.phase in ("absent", "deleted") else f"not listed, but {state.phase} by its events"
    if item.tenant_id != resource.tenant_id:
        return "listed for another tenant"
    family = resource.history.created.type.partition(".")[0]
    expected = "exists" if family == "volume" and state.phase == "stopped" else state.phase
    if item.state != expected:
        return f"listed as {item.state}, but {expected} by its events"
    return _configuration_problem(state, item, family)


def _configuration_problem(state: State, item: Item, family: str) -> str | None:
    size = item.size_gb if family == "volume" else item.persistent_storage_gb
    pairs: tuple[tuple[str, object, object], ...] = (
        ("GPU SKU", item.gpu_sku, state.gpu_sku),
        ("GPUs", item.gpu_count, state.gpu_count),
        ("GB", size, state.storage_gb),
    )
    for name, seen, known in pairs:
        if seen is not None and seen != known:
            return f"listed with {seen} {name}, but {known} by its events"
    return None


def _confirm(work: Work, resource: Resource, until_us: int, cause: str) -> None:
    before = resource.history
    if before.confirmed_until_us is None or before.confirmed_until_us >= until_us:
        return
    changed = replace(resource, history=replace(before, confirmed_until_us=until_us))
    # Confirmed beyond what is charged already, as most are: a longer confirmation changes nothing yet.
    ahead = before.confirmed_until_us >= work.charged_through(resource)
    work.put(changed, () if ahead else work.corrections(changed, before), cause)
