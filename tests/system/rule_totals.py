"""What metering's own rules say that a fleet costs, without any process: to be held against the oracle."""

from collections.abc import Sequence

from services.metering.rules.charge import charge, total
from services.metering.rules.history import Event, History
from services.metering.rules.prices import PriceTable
from services.metering.store.prices import to_rules
from shared.events.lifecycle import LifecycleEvent, read_lifecycle
from shared.events.prices import PriceBookPublished
from tests.fleet.making import Event as FleetEvent
from tests.fleet.making import Fleet

Totals = dict[tuple[str, str], dict[str, int]]


def tables_of(fleet: Fleet) -> dict[str, PriceTable]:
    tables: dict[str, PriceTable] = {}
    for version, book in enumerate(fleet.books, start=1):
        published = PriceBookPublished(**book, version=version, published_at=fleet.start_us)
        tables[published.region] = tables.get(published.region, PriceTable()).with_book(to_rules(published))
    return tables


def rule_totals(fleet: Fleet, events: Sequence[FleetEvent], through_us: int) -> Totals:
    """Micros by account and kind of containers and volumes; `events` are the fleet's, in any order and repeated."""
    tables = tables_of(fleet)
    histories: dict[tuple[str, str], dict[str, Event]] = {}
    tenants: dict[tuple[str, str], str] = {}
    for raw in events:
        if raw["type"] == "service.usage":
            continue
        event = read_lifecycle(dict(raw))
        assert isinstance(event, LifecycleEvent)
        key, data = (event.data.region, event.subject), event.data
        tenants[key] = data.tenant_id
        histories.setdefault(key, {}).setdefault(
            event.id,
            Event(
                *(event.source, event.id, event.type, event.time, data.sequence),
                *(data.gpu_sku, data.gpu_count, event.storage_gb, data.run_id),
            ),
        )
    totals: Totals = {}
    for (region, resource_id), known in histories.items():
        history = History(tuple(known.values()), fleet.regions[region]["slot_seconds"])
        kinds = totals.setdefault((region, tenants[region, resource_id]), {})
        for kind, micros in total(charge(history, tables[region], through_us)).items():
            kinds[kind] = kinds.get(kind, 0) + micros
    return totals


def without_usage(totals: Totals) -> Totals:
    """Only what containers and volumes cost; kinds and accounts of nothing are left out."""
    kept = {
        account: {kind: micros for kind, micros in kinds.items() if kind in ("gpu", "storage") and micros}
        for account, kinds in totals.items()
    }
    return {account: kinds for account, kinds in kept.items() if kinds}
