"""What metering's own rules say that a fleet costs, without any process: to be held against the oracle."""

from collections.abc import Sequence

from services.metering.rules.acceptance import RETRACTED, Amendment, admit
from services.metering.rules.charge import charge, total
from services.metering.rules.history import Draft, Event, History
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
    resources: dict[tuple[str, str], dict[tuple[str, str], LifecycleEvent]] = {}
    for raw in events:
        if "subject" in raw:
            event = read_lifecycle(dict(raw))
            assert isinstance(event, LifecycleEvent)
            resources.setdefault((event.data.region, event.subject), {}).setdefault((event.source, event.id), event)
    totals: Totals = {}
    for (region, _), by_key in resources.items():
        said = list(by_key.values())
        history = _history(said, fleet.regions[region]["slot_seconds"], fleet.end_us)
        kinds = totals.setdefault((region, said[0].data.tenant_id), {})
        for kind, micros in total(charge(history, tables[region], through_us)).items():
            kinds[kind] = kinds.get(kind, 0) + micros
    return totals


def _history(said: Sequence[LifecycleEvent], slot_seconds: int, now_us: int) -> History:
    """The history that metering's acceptance lets a resource's events make; what has to wait is asked again."""
    draft: Draft | None = None
    waiting = list(said)
    while waiting:
        left = []
        for item in waiting:
            event, target = _to_event(item), item.data.replaces
            tenant_id = item.data.tenant_id
            amendment = None if target is None else Amendment((target.source, target.id))
            decision = admit(draft, tenant_id, event, tenant_id, now_us, 0, amendment=amendment)
            if decision.outcome == "pending":
                left.append(item)
            elif decision.outcome == "apply":
                draft = Draft(None) if draft is None else draft
                if amendment is None:
                    draft.add(event)
                else:
                    taken = None if event.type == RETRACTED else event
                    draft.replace(amendment.target, event.key, taken, None)
            else:
                raise AssertionError(f"a fleet has no conflicts, but {event} is {decision}")
        if len(left) == len(waiting):
            raise AssertionError(f"nobody comes for whom {left} wait")
        waiting = left
    assert draft is not None
    return draft.history(History((), slot_seconds))


def _to_event(item: LifecycleEvent) -> Event:
    data = item.data
    return Event(
        *(item.source, item.id, item.type, item.time, data.sequence),
        *(data.gpu_sku, data.gpu_count, item.storage_gb, data.run_id),
    )


def without_usage(totals: Totals) -> Totals:
    """Only what containers and volumes cost; kinds and accounts of nothing are left out."""
    kept = {
        account: {kind: micros for kind, micros in kinds.items() if kind in ("gpu", "storage") and micros}
        for account, kinds in totals.items()
    }
    return {account: kinds for account, kinds in kept.items() if kinds}
