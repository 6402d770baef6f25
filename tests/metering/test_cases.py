"""Small inputs that real users' platforms sent, with what they must cost."""

from typing import Any

import pytest

from shared.clock import HOUR_US, MINUTE_US, SECOND_US
from tests.metering.meter import START_US, Meter, book, lifecycle

# 33.00 per GPU and hour: 550,000 micros a minute.
PRICE = "33.00"
CREATED = lifecycle("container.created", "c11a", START_US, gpu_sku="a100", gpu_count=1)
AT_US = START_US + HOUR_US


async def prepare(meter: Meter) -> None:
    await meter.put_book(book(START_US - HOUR_US, gpu={"a100": PRICE}))


def started(at_us: int, **data: Any) -> dict[str, Any]:
    return lifecycle("container.started", "c11a", at_us, **data)


def stopped(at_us: int, **data: Any) -> dict[str, Any]:
    return lifecycle("container.stopped", "c11a", at_us, **data)


DELETED = lifecycle("container.deleted", "c11a", START_US + 24 * HOUR_US)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
@pytest.mark.parametrize("polls", ["one", "several"])
async def test_a_clock_set_back_between_start_and_stop_of_a_named_run_is_an_empty_run(
    meter: Meter, order: tuple[int, ...], polls: str
) -> None:
    await prepare(meter)
    events = [
        CREATED,
        started(AT_US + 30 * SECOND_US, run_id="run-1"),
        stopped(AT_US + 10 * SECOND_US, run_id="run-1"),
        DELETED,
    ]
    arriving = [events[number] for number in order]
    await meter.reach(START_US + 30 * HOUR_US)
    if polls == "one":
        await meter.take(*arriving)
    else:
        for event in arriving:
            await meter.take(event)
    assert await meter.charged() == {}


async def test_a_restart_within_one_tick_of_the_producers_clock_runs_on(meter: Meter) -> None:
    await prepare(meter)
    again = {**started(AT_US), "id": "again"}
    await meter.take(CREATED, started(START_US), stopped(AT_US), again)
    await meter.reach(AT_US + 10 * MINUTE_US)
    assert await meter.charged() == {("vn", "acme"): 70 * 550_000}


async def test_events_of_two_sources_that_number_one_resource_together_form_one_chain(meter: Meter) -> None:
    await prepare(meter)
    agent = {**stopped(AT_US - MINUTE_US, sequence=3), "source": "agent"}
    await meter.take({**CREATED, "data": {**CREATED["data"], "sequence": 1}}, started(AT_US, sequence=2), agent)
    await meter.reach(AT_US + HOUR_US)
    assert await meter.charged() == {}
