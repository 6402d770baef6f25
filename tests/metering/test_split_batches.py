"""An account with more lines than a batch has room for: its parts are in several batches, and nothing else changes."""

from collections.abc import Iterator

import pytest

from services.metering import batches as batches_module
from shared.clock import HOUR_US, MINUTE_US
from tests.metering.meter import START_US, Meter, book, lifecycle

CONTAINERS = 11
LINES_MAX = 4


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches_module, "BATCH_LINES_MAX", LINES_MAX)


def events() -> Iterator[dict[str, object]]:
    for tenant, count in (("acme", CONTAINERS), ("bolt", 1), ("core", LINES_MAX)):
        for number in range(count):
            name = f"{tenant}-{number}"
            yield lifecycle(
                "container.created",
                name,
                START_US,
                tenant_id=tenant,
                gpu_sku="a30",
                gpu_count=1,
                persistent_storage_gb=10 * (number % 2),
                admission_id=f"adm-{name}",
            )
            yield lifecycle("container.started", name, START_US, tenant_id=tenant)


async def test_no_batch_is_too_large_and_all_of_them_add_up(meter: Meter) -> None:
    await meter.put_book(book(START_US - HOUR_US, gpu={"a30": "0.67"}, storage={"persistent": "0.13"}))
    await meter.take(*events())
    # First lines one by one, then at rest, then late corrections of everything.
    for minute in (1, 2, 90):
        await meter.reach(START_US + minute * MINUTE_US)
    await meter.take(
        *(lifecycle("container.stopped", f"acme-{number}", START_US + HOUR_US) for number in range(CONTAINERS))
    )
    await meter.check()
    await meter.check_m1()
    found = await meter.batches()
    by_shard: dict[int, list[int]] = {}
    admitted: dict[str, int] = {}
    for batch in found:
        assert len(batch.lines.resource_ids) <= LINES_MAX
        by_shard.setdefault(batch.shard, []).append(batch.seq)
        for account in batch.accounts:
            for admission_id in account.admission_ids:
                admitted[admission_id] = admitted.get(admission_id, 0) + 1
    assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in by_shard.values())
    assert set(admitted.values()) == {1}
    assert len(admitted) == CONTAINERS + 1 + LINES_MAX


async def test_the_whole_burn_stands_in_every_part(meter: Meter) -> None:
    await meter.put_book(book(START_US - HOUR_US, gpu={"a30": "0.67"}))
    await meter.take(*(event for event in events() if event["subject"].startswith("acme")))  # type: ignore[attr-defined]
    await meter.reach(START_US + 2 * MINUTE_US)
    await meter.reach(START_US + 3 * MINUTE_US)
    last = [batch for batch in await meter.batches() if batch.charged_at == START_US + 3 * MINUTE_US]
    burns = [account.burn_micros_per_hour for batch in last for account in batch.accounts]
    assert len(burns) >= -(-CONTAINERS // LINES_MAX)
    assert set(burns) == {CONTAINERS * 670_000}
