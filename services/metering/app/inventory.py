"""Inventories: a source's own complete listing, held against its events.

In a region that declares inventory a resource is charged no further than its last confirming listing plus a bound: a
lost `stopped` can't charge for ever. What a listing contradicts is an alarm, and no confirmation. A source speaks only
for the resources that it created. Pages are kept as they come; a complete listing is compared shard by shard.
"""

import asyncio
from collections.abc import Mapping
from functools import partial

from services.metering.app.lifecycle import Rules
from services.metering.app.work import Prices, Work, open_work
from services.metering.metrics import INVENTORY_OVERDUE
from services.metering.rules.timeline import State, build_timeline
from services.metering.store import contradictions as contradiction_store
from services.metering.store import inventory as inventory_store
from services.metering.store import resources as resource_store
from services.metering.store.contradictions import Contradiction
from services.metering.store.inventory import Item, Listing
from services.metering.store.resources import Resource, Unreadable
from shared.clock import SECOND_US, Clock
from shared.db import Connection, Pool, is_transient, past_races, transaction
from shared.events.lifecycle import InventoryObserved
from shared.ids import content_hash, shard_of
from shared.log import get_logger
from shared.set_aside import describe_error, load_held_back, release, set_aside

logger = get_logger(__name__)

# By (tenant, resource id): what a source lists under another tenant's name confirms nothing.
Items = Mapping[tuple[str, str], Item]

FUTURE_US_MAX = 300 * SECOND_US
# Kind of listings that can't be compared.
INVENTORY = "inventory"
# So many resources are compared before others have a turn in the event loop.
TURN_RESOURCES = 500


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
    await inventory_store.insert_parts(connection, page, _by_shard(page, rules.shards))
    count = await inventory_store.count_pages(connection, page)
    if count.pages < page.data.pages:
        return None
    if not count.agree:
        return "inconsistent_pages", "the pages of one snapshot differ in time or number; publish it again as a new one"
    cause = f"{page.source}/{page.id}"
    listing = Listing(page.data.region, page.source, page.data.snapshot, page.time, cause, 0, 0)
    await inventory_store.save_listing(connection, listing)
    return None


def _by_shard(page: InventoryObserved, shards: int) -> dict[int, list[Item]]:
    parts: dict[int, list[Item]] = {}
    for item in page.data.resources:
        listed = Item(
            item.resource_id,
            item.tenant_id,
            item.state,
            item.gpu_sku,
            item.gpu_count,
            item.persistent_storage_gb,
            item.size_gb,
        )
        parts.setdefault(shard_of(page.data.region, item.tenant_id, shards), []).append(listed)
    return parts


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
        shard = listing.next_shard
        async with transaction(pool) as connection:
            # The source's row comes before those of shards, as in intake.
            if not await inventory_store.move_on(connection, listing, shard + 1):
                return
            work = await open_work(
                connection, self._prices, self._clock.now_us(), [shard], (), publishes=self._rules.publishes
            )
            items = await _load_items(connection, listing, shard)
            problems = await self._compare_shard(work, listing, items, shard)
            await contradiction_store.insert_contradictions(connection, problems)
            await work.save()
            await inventory_store.count_resources(connection, listing, len(items))
            if shard + 1 == self._rules.shards:
                await self._finish(connection, listing)
        if problems:
            logger.error("inventory.contradicts", region=listing.region, source=listing.source, resources=len(problems))

    async def _finish(self, connection: Connection, listing: Listing) -> None:
        await contradiction_store.delete_older_listings(connection, listing.region, listing.source, listing.snapshot)
        await inventory_store.delete_pages(connection, listing)
        await release(connection, INVENTORY, [f"{listing.region}/{listing.source}"])

    async def _compare_shard(self, work: Work, listing: Listing, items: Items, shard: int) -> list[Contradiction]:
        """Hold the shard's resources against the listing; others have a turn in between, the shard stays locked."""
        region = listing.region
        found = await resource_store.load_listed(work.connection, shard, region, listing.source, listing.observed_at_us)
        work.take(found)
        problems: dict[str, tuple[str, str]] = {}
        for number, resource in enumerate(found, start=1):
            problem = self._confirm_or_object(work, resource, items, listing)
            if problem is not None:
                problems[resource.resource_id] = resource.tenant_id, problem
            if not number % TURN_RESOURCES:
                await asyncio.sleep(0)
        known = {resource.resource_id for resource in found}
        others = {item.resource_id: item for item in items.values() if item.resource_id not in known}
        problems.update(await self._object_to_others(work, listing, others))
        return [
            Contradiction(region, name, INVENTORY, listing.source, listing.snapshot, tenant_id, problem, work.now_us)
            for name, (tenant_id, problem) in problems.items()
        ]

    def _confirm_or_object(
        self, work: Work, resource: Resource | Unreadable, items: Items, listing: Listing
    ) -> str | None:
        if isinstance(resource, Unreadable):
            return _unreadable(resource)
        item = items.get((resource.tenant_id, resource.resource_id))
        problem = contradiction(resource, item, listing.observed_at_us)
        region = self._rules.regions[listing.region]
        if problem is None and region.declares_inventory:
            bound_us = region.inventory_bound_seconds * SECOND_US
            _confirm(work, resource, listing.observed_at_us + bound_us, listing.listing_id)
        return problem

    async def _object_to_others(
        self, work: Work, listing: Listing, others: Mapping[str, Item]
    ) -> dict[str, tuple[str, str]]:
        """What is listed and is no open resource of the source in this shard."""
        if not others:
            return {}
        found = await resource_store.load_resources(work.connection, {(listing.region, name) for name in others})
        known = {resource.resource_id: resource for resource in found}
        problems: dict[str, tuple[str, str]] = {}
        for name, item in others.items():
            problem = _objection(known.get(name), item, listing)
            if problem is not None:
                problems[name] = item.tenant_id, problem
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


async def _load_items(connection: Connection, listing: Listing, shard: int) -> dict[tuple[str, str], Item]:
    items: dict[tuple[str, str], Item] = {}
    for number, item in enumerate(await inventory_store.load_items(connection, listing, shard), start=1):
        items[item.tenant_id, item.resource_id] = item
        if not number % TURN_RESOURCES:
            await asyncio.sleep(0)
    return items


def _objection(resource: Resource | Unreadable | None, item: Item, listing: Listing) -> str | None:
    """What speaks against listing what is no open resource of the source among the accounts of its shard."""
    if isinstance(resource, Unreadable):
        return _unreadable(resource)
    if resource is None:
        return "listed, but no event ever created it"
    if resource.source != listing.source:
        return f"listed by {listing.source}, but created by {resource.source}"
    if resource.tenant_id == item.tenant_id:
        return contradiction(resource, item, listing.observed_at_us)
    # Of one that is open its own account's shard says that it is not listed for that account.
    has_ended = resource.ends_at_us is not None and resource.ends_at_us <= listing.observed_at_us
    return "listed for another tenant" if has_ended else None


def _unreadable(resource: Unreadable) -> str:
    return f"its history can't be read: {resource.reason}"


def contradiction(resource: Resource, item: Item | None, at_us: int) -> str | None:
    """What a listing at `at_us` says of a tenant's resource against its events; None if they agree."""
    state = build_timeline(resource.history).state_at(at_us)
    if item is None:
        live = state.phase not in ("absent", "deleted")
        return f"not listed for its tenant, but {state.phase} by its events" if live else None
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
    changed = resource.with_history(before.confirmed(until_us), resource.version, resource.ends_at_us)
    # Confirmed beyond what is charged already, as most are: a longer confirmation changes nothing yet.
    ahead = before.confirmed_until_us >= work.charged_through(resource)
    work.put(changed, () if ahead else work.corrections(changed, before), cause)
