"""Inventories: a source's own complete listing, held against its events.

In a region that declares inventory a resource is charged no further than its last confirming listing plus a bound: a
lost `stopped` can't charge for ever. What a listing contradicts is an alarm, and no confirmation.
"""

from collections.abc import Iterable
from dataclasses import replace

from services.metering.app.lifecycle import Rules
from services.metering.app.work import Prices, Work, open_work
from services.metering.rules.history import History
from services.metering.rules.timeline import State, build_timeline
from services.metering.store import inventory as inventory_store
from services.metering.store.resources import Resource
from shared.clock import SECOND_US
from shared.db import Connection
from shared.events.lifecycle import InventoryItem, InventoryObserved
from shared.log import get_logger

logger = get_logger(__name__)

FUTURE_US_MAX = 300 * SECOND_US


async def take_page(
    connection: Connection, prices: Prices, rules: Rules, page: InventoryObserved, now_us: int
) -> tuple[str, str] | None:
    """Keep a page; once the snapshot is complete, hold it against the events. Answers why a page is dead, or None."""
    if page.time > now_us + FUTURE_US_MAX:
        return "far_future", "the listing's time is ahead of now; correct the producer's clock"
    if page.time < rules.regions[page.data.region].opened_at_us:
        return "before_region_opened", "the region sold nothing at that time"
    await inventory_store.insert_page(connection, page)
    pages = await inventory_store.load_pages(connection, page)
    if len(pages) < page.data.pages:
        return None
    if {(item.time, item.data.pages) for item in pages} != {(page.time, page.data.pages)}:
        return "inconsistent_pages", "the pages of one snapshot differ in time or number; publish it again as a new one"
    await _compare(connection, prices, rules, page, [item for one in pages for item in one.data.resources], now_us)
    await inventory_store.delete_pages(connection, page)
    return None


async def _compare(
    connection: Connection,
    prices: Prices,
    rules: Rules,
    page: InventoryObserved,
    listed: list[InventoryItem],
    now_us: int,
) -> None:
    region, region_name = rules.regions[page.data.region], page.data.region
    keys = {(region_name, item.resource_id) for item in listed}
    keys |= await inventory_store.load_open_keys(connection, region_name, page.time)
    work = await open_work(connection, prices, now_us, range(rules.shards), keys, publishes=rules.publishes)
    items = {item.resource_id: item for item in listed}
    problems = {item.resource_id: "listed, but no event ever created it" for item in listed}
    for key, resource in sorted(work.resources.items()):
        if resource.history.created.source != page.source and key[1] not in items:
            continue
        problem = contradiction(resource, items.get(key[1]), page.time)
        if problem is not None:
            problems[key[1]] = problem
            continue
        problems.pop(key[1], None)
        if region.declares_inventory:
            _confirm(work, resource, page.time + region.inventory_bound_seconds * SECOND_US, page)
    await inventory_store.insert_alarms(connection, page, problems)
    if problems:
        logger.error("inventory.contradicts", region=region_name, source=page.source, resources=len(problems))
    await work.save()


def contradiction(resource: Resource, item: InventoryItem | None, at_us: int) -> str | None:
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


def _configuration_problem(state: State, item: InventoryItem, family: str) -> str | None:
    size = item.size_gb if family == "volume" else item.persistent_storage_gb
    pairs: Iterable[tuple[str, object, object]] = (
        ("GPU SKU", item.gpu_sku, state.gpu_sku),
        ("GPUs", item.gpu_count, state.gpu_count),
        ("GB", size, state.storage_gb),
    )
    for name, seen, known in pairs:
        if seen is not None and seen != known:
            return f"listed with {seen} {name}, but {known} by its events"
    return None


def _confirm(work: Work, resource: Resource, until_us: int, page: InventoryObserved) -> None:
    before = resource.history
    if before.confirmed_until_us is None or before.confirmed_until_us >= until_us:
        return
    after: History = replace(before, confirmed_until_us=until_us)
    lines = work.corrections(resource.shard, (resource.region, resource.resource_id), before, after)
    work.put(replace(resource, history=after), lines, f"{page.source}/{page.id}")
