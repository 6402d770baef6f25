"""Inventories on real PostgreSQL: pages, incomplete snapshots, the bound, and what a listing contradicts."""

from typing import Any

from services.metering.rules.history import decode_history
from shared.clock import HOUR_US, MINUTE_US, SECOND_US, format_instant, parse_instant
from tests.metering.meter import START_US, Meter, book, lifecycle

PRICES: dict[str, Any] = {"gpu": {"a30": "0.670007"}, "storage": {"persistent": "0.000131"}}
# As the region jp is declared in tests/metering/meter.py: slots of 7 s, confirmed for 600 s.
BOUND_US = 600 * SECOND_US
BEFORE_OPENING_US = parse_instant("2019-12-31T23:59:00Z")


def listing(
    snapshot: str, at_us: int, *resources: dict[str, Any], page: int = 1, pages: int = 1, source: str = "platform/jp"
) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": f"{snapshot}-{page}",
        "source": source,
        "type": "inventory.observed",
        "time": format_instant(at_us),
        "data": {"region": "jp", "snapshot": snapshot, "page": page, "pages": pages, "resources": list(resources)},
    }


def seen(resource_id: str, state: str = "running", **changes: Any) -> dict[str, Any]:
    shape = {"gpu_sku": "a30", "gpu_count": 2, "persistent_storage_gb": 50}
    return {"resource_id": resource_id, "tenant_id": "acme", "state": state, **shape, **changes}


async def begin(meter: Meter, *names: str) -> None:
    """Containers of region jp that run from the start on, at prices in force."""
    await meter.put_book(book(START_US, region="jp", **PRICES))
    for name in names:
        shape = {"gpu_sku": "a30", "gpu_count": 2, "persistent_storage_gb": 50}
        await meter.take(
            lifecycle("container.created", name, START_US, region="jp", **shape),
            lifecycle("container.started", name, START_US + SECOND_US, region="jp"),
        )


async def confirmed_until(meter: Meter, name: str) -> int:
    [(history,)] = await meter.rows("select history from resource where resource_id = $1", name)
    found = decode_history(history).confirmed_until_us
    assert found is not None
    return found


async def alarms(meter: Meter) -> dict[str, str]:
    rows = await meter.rows("select resource_id, detail from contradiction where kind = 'inventory' order by 1")
    return {row[0]: row[1] for row in rows}


async def test_a_complete_snapshot_confirms_its_resources_for_the_bound(meter: Meter) -> None:
    await begin(meter, "ctr-1", "ctr-2", "ctr-3")
    await meter.reach(START_US + 5 * MINUTE_US)
    at_us = START_US + 5 * MINUTE_US
    await meter.take(listing("s1", at_us, seen("ctr-2"), seen("ctr-3"), page=2, pages=2))
    assert await confirmed_until(meter, "ctr-2") == START_US + BOUND_US, "half a snapshot confirms nothing"
    await meter.take(listing("s1", at_us, seen("ctr-1"), page=1, pages=2))
    for name in ("ctr-1", "ctr-2", "ctr-3"):
        assert await confirmed_until(meter, name) == at_us + BOUND_US
    assert await meter.rows("select * from inventory_page") == []
    # A page that comes again, and a later listing that says less of an earlier time, take nothing back.
    await meter.take(listing("s1", at_us, seen("ctr-1"), page=1, pages=2))
    await meter.take(listing("s0", at_us - MINUTE_US, seen("ctr-1"), seen("ctr-2"), seen("ctr-3")))
    assert await confirmed_until(meter, "ctr-1") == at_us + BOUND_US
    assert await alarms(meter) == {}
    await meter.reach(START_US + HOUR_US)
    await meter.check()


async def test_nothing_is_charged_beyond_the_last_confirming_listing_and_the_bound(meter: Meter) -> None:
    await begin(meter, "ctr-1")
    await meter.reach(START_US + MINUTE_US)
    burn_query = "select burn_micros_per_hour from account_burn where region = 'jp'"
    assert await meter.rows(burn_query) == [(2 * 670_007 + 50 * 131,)]
    await meter.reach(START_US + BOUND_US)
    charged = await meter.check()
    await meter.reach(START_US + BOUND_US + 30 * MINUTE_US)
    # Of 600 s at 7 s a slot the last slot begins before the bound and is charged whole.
    assert await meter.check() == charged, "a lost stop charges no further than the bound"
    assert await meter.rows(burn_query) == [(0,)], "what is not confirmed burns nothing"
    # A listing that comes late confirms what was held back, and it is charged at once.
    at_us = START_US + BOUND_US + 20 * MINUTE_US
    await meter.take(listing("late", at_us, seen("ctr-1")))
    caught_up = await meter.check()
    assert caught_up["jp", "acme"] > charged["jp", "acme"]
    assert (await meter.causes())["platform/jp/late-1"] == caught_up["jp", "acme"] - charged["jp", "acme"]
    await meter.reach(at_us + 2 * HOUR_US)
    await meter.check()


async def test_an_incomplete_snapshot_says_nothing_and_is_forgotten_with_the_next(meter: Meter) -> None:
    await begin(meter, "ctr-1")
    await meter.take(listing("never-whole", START_US + MINUTE_US, seen("ctr-1"), page=1, pages=3))
    await meter.reach(START_US + HOUR_US)
    assert await confirmed_until(meter, "ctr-1") == START_US + BOUND_US
    await meter.check()
    await meter.take(listing("whole", START_US + HOUR_US, seen("ctr-1")))
    assert await meter.rows("select snapshot from inventory_page") == []
    await meter.reach(START_US + 2 * HOUR_US)
    await meter.check()


async def test_pages_that_differ_are_dead_and_confirm_nothing(meter: Meter) -> None:
    await begin(meter, "ctr-1")
    await meter.reach(START_US + 5 * MINUTE_US)
    await meter.take(listing("torn", START_US + MINUTE_US, seen("ctr-1"), page=1, pages=2))
    await meter.take(listing("torn", START_US + 2 * MINUTE_US, page=2, pages=2))
    await meter.take(listing("wild", START_US + 11 * MINUTE_US, seen("ctr-1")))
    await meter.take(listing("old", BEFORE_OPENING_US, seen("ctr-1")))
    assert meter.dead == ["inconsistent_pages", "far_future", "before_region_opened"]
    assert await confirmed_until(meter, "ctr-1") == START_US + BOUND_US
    assert await alarms(meter) == {}


async def test_what_contradicts_the_events_is_an_alarm_and_no_confirmation(meter: Meter) -> None:
    names = ("as-told", "missing", "resized", "stolen", "stopped")
    await begin(meter, *names)
    await meter.reach(START_US + 5 * MINUTE_US)
    at_us = START_US + 5 * MINUTE_US
    await meter.take(
        listing(
            "s1",
            at_us,
            seen("as-told"),
            seen("resized", gpu_count=8),
            seen("stolen", tenant_id="thief"),
            seen("stopped", "stopped"),
            seen("unheard-of"),
        )
    )
    assert await alarms(meter) == {
        "missing": "not listed for its tenant, but running by its events",
        "resized": "listed with 8 GPUs, but 2 by its events",
        "stolen": "not listed for its tenant, but running by its events",
        "stopped": "listed as stopped, but running by its events",
        "unheard-of": "listed, but no event ever created it",
    }
    assert await confirmed_until(meter, "as-told") == at_us + BOUND_US
    for name in names[1:]:
        assert await confirmed_until(meter, name) == START_US + BOUND_US
    assert await meter.charged() == meter.expected(), "an alarm changes nothing that was charged"


async def test_another_source_and_another_region_are_not_judged_by_a_listing(meter: Meter) -> None:
    await begin(meter, "ctr-1")
    await meter.put_book(book(START_US, **PRICES))
    await meter.take(
        lifecycle("container.created", "ctr-vn", START_US, gpu_sku="a30", gpu_count=1, persistent_storage_gb=1),
        lifecycle("container.started", "ctr-vn", START_US),
    )
    await meter.reach(START_US + 5 * MINUTE_US)
    # The second platform of jp lists what it has: nothing. Of the first platform's container that says nothing.
    await meter.take(listing("other", START_US + 5 * MINUTE_US, source="platform/jp-2"))
    assert await alarms(meter) == {}
    await meter.reach(START_US + HOUR_US)
    totals = await meter.check()
    # vn declares no inventory: it is charged without any.
    assert totals["vn", "acme"] > totals["jp", "acme"] // 2 * 3


async def test_a_tick_that_runs_past_the_bound_in_one_step_charges_the_same(meter: Meter) -> None:
    """The cache holds confirmed resources as resting ones; a window that passes their bound must not."""
    await begin(meter, "ctr-1", "ctr-2")
    await meter.reach(START_US + 2 * MINUTE_US)
    await meter.take(listing("s1", START_US + 2 * MINUTE_US, seen("ctr-1"), seen("ctr-2")))
    await meter.reach(START_US + 3 * MINUTE_US)
    await meter.reach(START_US + 3 * HOUR_US)
    await meter.check()
    await meter.take(lifecycle("container.deleted", "ctr-1", START_US + 4 * MINUTE_US, region="jp"))
    await meter.check()


async def test_a_source_speaks_only_for_its_own_resources(meter: Meter) -> None:
    await begin(meter, "ctr-1", "ctr-2")
    at_us = START_US + 5 * MINUTE_US
    await meter.reach(at_us)
    await meter.take(listing("own", at_us, seen("ctr-1")))
    await meter.take(listing("foreign", at_us, seen("ctr-2"), source="evil"))
    assert await confirmed_until(meter, "ctr-2") == START_US + BOUND_US, "another source can't confirm it"
    rows = await meter.rows("select source, resource_id, detail from contradiction order by 1")
    assert rows == [
        ("evil", "ctr-2", "listed by evil, but created by platform/jp"),
        ("platform/jp", "ctr-2", "not listed for its tenant, but running by its events"),
    ]
    # What the source's next listing says is all that counts.
    await meter.reach(at_us + MINUTE_US)
    await meter.take(listing("later", at_us + MINUTE_US, seen("ctr-1"), seen("ctr-2")))
    assert await alarms(meter) == {"ctr-2": "listed by evil, but created by platform/jp"}


async def test_a_page_sent_twice_with_other_content_is_dead(meter: Meter) -> None:
    await begin(meter, "ctr-1")
    at_us = START_US + MINUTE_US
    await meter.reach(at_us)
    first = listing("s1", at_us, seen("ctr-1"), page=1, pages=2)
    await meter.take(first)
    await meter.take({**first, "id": "again"})
    assert meter.dead == []
    await meter.take(listing("s1", at_us, seen("ctr-1", gpu_count=8), page=1, pages=2))
    assert meter.dead == ["page_twice"]


async def test_a_listing_that_does_not_come_is_noticed(meter: Meter) -> None:
    await begin(meter, "ctr-1")
    await meter.reach(START_US + BOUND_US)
    await meter.inventory.check_overdue(meter.pool)
    assert not meter.inventory.overdue
    await meter.reach(START_US + BOUND_US + 1)
    await meter.inventory.check_overdue(meter.pool)
    assert [(item.region, item.source) for item in meter.inventory.overdue] == [("jp", "platform/jp")]
    await meter.take(listing("late", START_US + BOUND_US, seen("ctr-1")))
    await meter.inventory.check_overdue(meter.pool)
    assert meter.inventory.overdue == ()
