"""A container with many events, or with one that can't be believed, is no burden to its neighbours."""

import threading
from dataclasses import replace
from typing import Any

import pytest

from services.metering.app import off_loop
from services.metering.app import work as work_module
from services.metering.rules.acceptance import Limits
from services.metering.rules.charge import charge
from services.metering.store import resources as resource_store
from shared.clock import DAY_US, HOUR_US, MINUTE_US, SECOND_US
from tests.metering.meter import START_US, Meter, book, lifecycle


def life(name: str, created_us: int, turns: int) -> list[dict[str, Any]]:
    """Created, and then started and stopped by turns, each twice a second apart."""
    kinds = ("container.started", "container.stopped")
    return [
        lifecycle("container.created", name, created_us, gpu_sku="a30", gpu_count=1),
        *(lifecycle(kinds[turn % 2], name, created_us + (turn + 1) * SECOND_US) for turn in range(turns)),
    ]


def record_threads(monkeypatch: pytest.MonkeyPatch, module: Any, function: str) -> set[int]:
    """The threads in which a module calls a function from now on."""
    original, threads = getattr(module, function), set[int]()

    def recorded(*arguments: Any) -> Any:
        threads.add(threading.get_ident())
        return original(*arguments)

    monkeypatch.setattr(module, function, recorded)
    return threads


@pytest.mark.parametrize("turns", [40, 1200])
async def test_long_histories_leave_the_event_loop(meter: Meter, monkeypatch: pytest.MonkeyPatch, turns: int) -> None:
    monkeypatch.setattr(off_loop, "EVENTS_ON_LOOP_MAX", 500)
    monkeypatch.setattr(resource_store, "DECODED_ON_LOOP_BYTES", 20_000)
    events = life("busy", START_US, turns)
    await meter.put_book(book(START_US - HOUR_US, gpu={"a30": "0.6"}))
    await meter.take(*events[: turns // 2])
    await meter.reach(START_US + HOUR_US)
    charged = record_threads(monkeypatch, work_module, "charge")
    decoded = record_threads(monkeypatch, resource_store, "decode_history")
    await meter.take(*events[turns // 2 :])
    here = {threading.get_ident()}
    assert (charged == here, decoded == here) == (turns == 40, turns == 40)
    assert charged
    assert decoded
    await meter.reach(START_US + 2 * HOUR_US)
    await meter.check()


async def test_an_unbelievable_event_lets_its_neighbours_be_charged_once(
    meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter.intake.rules = replace(meter.intake.rules, limits=Limits(correction_hours_max=48))
    now_us = START_US + 10 * DAY_US
    await meter.put_book(book(START_US - HOUR_US, gpu={"a30": "0.6"}))
    await meter.reach(now_us)
    counted: list[str] = []

    def counting(history: Any, *arguments: Any) -> Any:
        counted.append(history.created.event_id.partition("-")[0])
        return charge(history, *arguments)

    monkeypatch.setattr(work_module, "charge", counting)
    late = [
        lifecycle("container.created", "late", START_US, gpu_sku="a30", gpu_count=1),
        lifecycle("container.started", "late", START_US),
    ]
    await meter.take(*late, *life("busy", now_us - HOUR_US, 30))
    assert counted.count("busy") <= 4
    assert await meter.rows("select resource_id, state, reason from waiting_event") == [
        ("late", "parked", "large_correction")
    ]
    await meter.reach(now_us + MINUTE_US)
    assert await meter.rows("select resource_id from resource order by 1") == [("busy",), ("late",)]


@pytest.mark.parametrize("creation_first", [True, False])
async def test_many_events_of_a_new_container_leave_the_event_loop_too(
    meter: Meter, monkeypatch: pytest.MonkeyPatch, *, creation_first: bool
) -> None:
    monkeypatch.setattr(off_loop, "EVENTS_ON_LOOP_MAX", 500)
    created, *rest = life("busy", START_US, 1200)
    await meter.put_book(book(START_US - HOUR_US, gpu={"a30": "0.6"}))
    await meter.reach(START_US + HOUR_US)
    charged = record_threads(monkeypatch, work_module, "charge")
    if creation_first:
        await meter.take(created, *rest)
    else:
        await meter.take(*rest)
        await meter.take(created)
    assert charged
    assert threading.get_ident() not in charged
    await meter.check()
