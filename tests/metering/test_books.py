"""Price books on real PostgreSQL: when they may take effect, what they catch up, and publishers beside ticks."""

import asyncio
from typing import Any

import pytest

from shared.clock import HOUR_US, MINUTE_US, SECOND_US
from shared.errors import Refusal
from tests.metering.meter import START_US, Meter, book, lifecycle, usage

BASE: dict[str, Any] = {
    "gpu": {"a30": "0.670007"},
    "storage": {"persistent": "0.000131"},
    "services": {"tokens": {"unit": "1000-tokens", "price": "0.000407"}},
}


async def run_container(meter: Meter, name: str, at_us: int, gpu_sku: str = "a30", tenant_id: str = "acme") -> None:
    shape: dict[str, Any] = {"tenant_id": tenant_id, "gpu_sku": gpu_sku, "gpu_count": 2, "persistent_storage_gb": 50}
    await meter.take(
        lifecycle("container.created", name, at_us, **shape),
        lifecycle("container.started", name, at_us + 5 * SECOND_US, tenant_id=tenant_id),
    )


async def test_a_price_changes_only_later_than_any_shard_is_charged(meter: Meter) -> None:
    await meter.put_book(book(START_US, **BASE))
    await run_container(meter, "ctr-1", START_US)
    through_us = START_US + 20 * MINUTE_US
    await meter.reach(through_us)
    for at_us in (START_US, through_us - 1, through_us):
        with pytest.raises(Refusal) as refused:
            await meter.put_book(book(at_us, gpu={"a30": "1"}))
        assert (refused.value.code, refused.value.status) == ("price-book-refused", 422)
        assert "gpu a30" in refused.value.detail
    # One shard further than the others is enough to refuse.
    await meter.rows("update shard set metered_through = $1 where shard = 0 returning 1", through_us + MINUTE_US)
    with pytest.raises(Refusal):
        await meter.put_book(book(through_us + MINUTE_US, gpu={"a30": "1"}))
    await meter.put_book(book(through_us + MINUTE_US + 1, gpu={"a30": "1"}))
    assert [row[0] for row in await meter.rows("select version from price_book order by 1")] == [1, 2]
    await meter.reach(through_us + HOUR_US)
    await meter.check()


async def test_a_first_price_is_back_dated_and_catches_up_what_waited(meter: Meter) -> None:
    await meter.put_book(book(START_US, storage=BASE["storage"]))
    for number in range(6):
        await run_container(meter, f"ctr-{number}", START_US + number * SECOND_US, tenant_id=f"tenant-{number}")
    await meter.take(*(usage(f"u-{number}", START_US + number * MINUTE_US, 333) for number in range(7)))
    await meter.take(lifecycle("container.deleted", "ctr-5", START_US + 3 * MINUTE_US, tenant_id="tenant-5"))
    await meter.reach(START_US + 10 * MINUTE_US)
    before = await meter.check()
    assert await meter.rows("select count(*) from unpriced_resource where sku = 'a30'") == [(6,)]

    # Two minutes after the first container's start, and before the third usage record: earlier ones stay free.
    from_us = START_US + 2 * MINUTE_US
    published = await meter.put_book(book(from_us, gpu=BASE["gpu"], services=BASE["services"]))
    after = await meter.check()
    assert all(after[account] > micros for account, micros in before.items())
    assert await meter.rows("select count(*) from unpriced_resource where sku = 'a30'") == [(0,)]
    causes = await meter.causes()
    assert causes[f"price-book/{published.version}"] > 0
    assert {f"inference/vn/u-{number}" for number in range(7)} & causes.keys() == {
        f"inference/vn/u-{number}" for number in range(2, 7)
    }
    catching_up = [batch for batch in await meter.batches() if f"price-book/{published.version}" in batch.lines.causes]
    assert {batch.book_version for batch in catching_up} == {published.version}

    await meter.reach(START_US + 30 * MINUTE_US)
    await meter.check()


async def test_the_same_book_again_is_answered_with_its_version_and_charges_nothing(meter: Meter) -> None:
    first = await meter.put_book(book(START_US, **BASE))
    await run_container(meter, "ctr-1", START_US)
    await meter.reach(START_US + 10 * MINUTE_US)
    batches = await meter.batches()
    assert await meter.put_book(book(START_US, **BASE)) == first
    assert await meter.batches() == batches
    assert await meter.rows("select count(*) from outbox where topic = 'price.books.v1'") == [(1,)]
    # What repeats the prices in force in a new book changes nothing either, wherever it begins.
    second = await meter.put_book(book(START_US + MINUTE_US, **BASE))
    assert second.version == first.version + 1
    assert await meter.batches() == batches
    await meter.reach(START_US + HOUR_US)
    await meter.check()


async def test_an_unknown_region_and_a_reserved_name_are_refused(meter: Meter) -> None:
    for content, code in (
        (book(START_US, region="mars", gpu={"a30": "1"}), "unknown-region"),
        (book(START_US, services={"gpu": {"unit": "hour", "price": "1"}}), "price-book-refused"),
    ):
        with pytest.raises(Refusal) as refused:
            await meter.put_book(content)
        assert refused.value.code == code
    assert await meter.rows("select * from price_book") == []


async def test_publishers_and_ticks_at_once_price_every_slot_by_the_book_in_force(meter: Meter) -> None:
    """Two publishers race, each with books that begin soon, while another worker ticks and takes events in."""
    await meter.put_book(book(START_US, **BASE))
    for number in range(8):
        await run_container(meter, f"ctr-{number}", START_US + number * SECOND_US, tenant_id=f"tenant-{number}")
    accepted: dict[int, dict[str, Any]] = {}
    other = Meter.wire(meter.pool, meter.settings, meter.clock)

    async def publish(which: Meter, price: str) -> None:
        for number in range(6):
            content = book(meter.clock.now_us() + (1 + number % 2) * MINUTE_US, gpu={"a30": f"{price}{number}"})
            published = await which.put_book(content)
            accepted[published.version] = content

    async def tick() -> None:
        for number in range(12):
            meter.clock.set(meter.clock.now_us() + 10 * SECOND_US)
            await other.ticker.tick()
            await run_container(
                meter, f"late-{number}", START_US + number * SECOND_US, tenant_id=f"tenant-{number % 3}"
            )

    await asyncio.gather(publish(meter, "1.00000"), publish(other, "2.00000"), tick())
    assert sorted(accepted) == list(range(2, 14)), "every book has a version of its own"
    meter.books = [book(START_US, **BASE), *(accepted[version] for version in sorted(accepted))]
    await meter.reach(START_US + HOUR_US)
    await meter.check()
    versions: dict[int, list[int]] = {}
    for batch in await meter.batches():
        versions.setdefault(batch.shard, []).append(batch.book_version)
    assert all(found == sorted(found) for found in versions.values()), "a later batch has no earlier book"
    assert len({version for found in versions.values() for version in found}) > 2, "nothing met: this proves nothing"


@pytest.mark.parametrize("why", ["the clock of its source is ahead", "ticks stand"])
async def test_no_price_of_usage_changes_before_where_it_was_charged(meter: Meter, why: str) -> None:
    """Usage is charged when it comes in, however far the ticks are."""
    await meter.put_book(book(START_US, **BASE))
    through_us = START_US + HOUR_US
    await meter.reach(through_us)
    used_us = through_us + 4 * MINUTE_US
    if why == "ticks stand":
        used_us = through_us + 2 * HOUR_US
        meter.clock.set(used_us + HOUR_US)
    early = usage("early", used_us, 1_000_000)
    await meter.take(early)
    dearer: dict[str, Any] = {"services": {"tokens": {"unit": "1000-tokens", "price": "0.000814"}}}
    for at_us in (through_us + MINUTE_US, used_us):
        with pytest.raises(Refusal, match="service tokens"):
            await meter.put_book(book(at_us, **dearer))
    # What is not changed, what nobody used and what is no service may be said of that time.
    await meter.put_book(book(through_us + MINUTE_US, gpu={"a30": "0.7"}, services=BASE["services"]))
    await meter.put_book(book(used_us + 1, **dearer))
    await meter.take(usage("late", used_us + 1, 1_000_000))
    await meter.reach(used_us + 2 * HOUR_US)
    await meter.check()
    # It leaves the sum that it joined.
    named: dict[str, Any] = {"replaces": {"source": early["source"], "id": "early"}}
    await meter.take(usage("right", used_us, 600_000, **named))
    await meter.check()
    assert meter.dead == []


async def test_usage_that_came_before_a_sooner_first_price_is_charged_too(meter: Meter) -> None:
    """A SKU's first book takes effect next week; the next book brings that forward."""
    price: dict[str, Any] = {"services": {"images": {"unit": "image", "price": "0.07"}}}
    await meter.put_book(book(START_US + 7 * 24 * HOUR_US, **price))
    await meter.reach(START_US + HOUR_US)
    await meter.take(
        usage("free", START_US + 30 * MINUTE_US, 5, "images"),
        usage("ahead", START_US + HOUR_US + 4 * MINUTE_US, 11, "images"),
    )
    await meter.put_book(book(START_US + HOUR_US + MINUTE_US, **price))
    await meter.reach(START_US + 2 * HOUR_US)
    assert await meter.check() == {("vn", "acme"): 770_000}
