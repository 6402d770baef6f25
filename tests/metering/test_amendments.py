"""An event that replaces or retracts an earlier one: whatever the order of arrival, the truth is charged once."""

import itertools
from typing import Any

import pytest

from services.metering.rules.history import decode_history
from shared.clock import HOUR_US, MINUTE_US
from tests.metering.meter import START_US, Meter, book, lifecycle, usage

SOURCE = "platform/vn"
CREATED = lifecycle("container.created", "c1b", START_US, gpu_sku="a100", gpu_count=1, sequence=1)
STARTED = lifecycle("container.started", "c1b", START_US, sequence=2)
WRONG = lifecycle("container.stopped", "c1b", START_US + 5 * HOUR_US, sequence=3)


def replacing(event: dict[str, Any], *targets: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    [target] = targets
    named = {"replaces": {"source": target["source"], "id": target["id"]}}
    return {**event, "data": {**event["data"], **named, **({"reason": reason} if reason else {})}}


def retracting(target: dict[str, Any], name: str = "retraction", **changes: Any) -> dict[str, Any]:
    retraction = replacing(target, target)
    data = {key: retraction["data"][key] for key in ("region", "tenant_id", "replaces")}
    kept = {key: value for key, value in target.items() if key in ("specversion", "source", "subject", "time")}
    return {**kept, "id": name, "type": "event.retracted", "data": {**data, **changes}}


RIGHT = replacing(
    lifecycle("container.stopped", "c1b", START_US + 90 * MINUTE_US, sequence=4), WRONG, reason="the node had died"
)


async def prepare(meter: Meter) -> None:
    await meter.put_book(
        book(
            START_US - HOUR_US,
            gpu={"a100": "33.00", "a30": "3.00"},
            services={"tokens": {"unit": "1000-tokens", "price": "0.4"}, "images": {"unit": "image", "price": "0.07"}},
        )
    )


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (3, 0, 1, 2), (2, 3, 0, 1)])
@pytest.mark.parametrize("polls", ["one", "several", "with ticks"])
async def test_a_stop_that_is_replaced_by_the_true_one_settles_on_it(
    meter: Meter, order: tuple[int, ...], polls: str
) -> None:
    await prepare(meter)
    events = [(CREATED, STARTED, WRONG, RIGHT)[number] for number in order]
    await meter.reach(START_US + 6 * HOUR_US)
    if polls == "one":
        await meter.take(*events)
    for number, event in enumerate(events if polls != "one" else ()):
        await meter.take(event)
        if polls == "with ticks":
            await meter.reach(START_US + 6 * HOUR_US + number * MINUTE_US)
    await meter.reach(START_US + 7 * HOUR_US)
    assert meter.dead == []
    assert await meter.charged() == {("vn", "acme"): 49_500_000}
    await meter.check_m1()
    [(data,)] = await meter.rows("select history from resource")
    [replaced] = decode_history(data).replaced
    assert (replaced.event.event_id, replaced.by, replaced.reason) == (
        WRONG["id"],
        (SOURCE, RIGHT["id"]),
        "the node had died",
    )


async def test_a_correction_names_the_event_and_the_one_that_it_replaces(meter: Meter) -> None:
    await prepare(meter)
    await meter.take(CREATED, STARTED, WRONG)
    await meter.reach(START_US + 6 * HOUR_US)
    await meter.take(RIGHT)
    cause = f"{SOURCE}/{RIGHT['id']} replaces {SOURCE}/{WRONG['id']}"
    assert (await meter.causes())[cause] == -(165_000_000 - 49_500_000)


async def test_a_clock_set_back_is_mended_by_a_stop_at_its_true_time(meter: Meter) -> None:
    await prepare(meter)
    started = lifecycle("container.started", "c1b", START_US + 30_000_000)
    wrong = lifecycle("container.stopped", "c1b", START_US + 10_000_000)
    created = lifecycle("container.created", "c1b", START_US, gpu_sku="a100", gpu_count=1)
    await meter.take(created, started, wrong)
    await meter.reach(START_US + 2 * HOUR_US)
    assert await meter.contradictions() == [("c1b", "ends_no_run")]
    assert await meter.charged() == {("vn", "acme"): 66_000_000}
    await meter.take(replacing(lifecycle("container.stopped", "c1b", START_US + 50_000_000), wrong))
    assert await meter.charged() == {("vn", "acme"): 550_000}
    assert await meter.contradictions() == []
    await meter.check_m1()


async def test_a_retraction_takes_an_event_out_alone(meter: Meter) -> None:
    await prepare(meter)
    stop = lifecycle("container.stopped", "c1b", START_US + HOUR_US, sequence=3)
    await meter.take(retracting(stop), CREATED, STARTED, stop)
    await meter.reach(START_US + 2 * HOUR_US)
    assert await meter.charged() == {("vn", "acme"): 66_000_000}
    await meter.take(retracting(stop), stop)
    assert meter.dead == [], "both are known"
    await meter.take(retracting(STARTED, "never started"))
    assert await meter.charged() == {}
    await meter.check_m1()


async def test_what_is_replaced_already_cant_be_replaced_again_but_its_replacement_can(meter: Meter) -> None:
    await prepare(meter)
    second = replacing(lifecycle("container.stopped", "c1b", START_US + HOUR_US, sequence=5), WRONG)
    third = replacing(lifecycle("container.stopped", "c1b", START_US + 2 * HOUR_US, sequence=6), RIGHT)
    await meter.reach(START_US + 6 * HOUR_US)
    await meter.take(CREATED, STARTED, WRONG, RIGHT, second)
    assert meter.dead == ["already_replaced"]
    assert await meter.contradictions() == [("c1b", "already_replaced")]
    await meter.take(third)
    assert await meter.charged() == {("vn", "acme"): 66_000_000}
    await meter.check_m1()


async def test_a_chain_of_amendments_may_come_in_any_order(meter: Meter) -> None:
    await prepare(meter)
    third = replacing(lifecycle("container.stopped", "c1b", START_US + 2 * HOUR_US, sequence=6), RIGHT)
    await meter.reach(START_US + 6 * HOUR_US)
    for events in itertools.islice(itertools.permutations([CREATED, STARTED, WRONG, RIGHT, third]), 3, None, 17):
        name = f"c-{'-'.join(event['id'][-4:] for event in events)}"
        for event in events:
            renamed = {**event, "subject": name, "id": f"{name}/{event['id']}"}
            if "replaces" in event["data"]:
                target = event["data"]["replaces"]
                renamed["data"] = {**event["data"], "replaces": {**target, "id": f"{name}/{target['id']}"}}
            await meter.take(renamed)
        await meter.check_m1()
        rows = await meter.rows("select history from resource where resource_id = $1", name)
        ends = [item.at_us for item in decode_history(rows[0][0]).order.placed if item.event.type.endswith("stopped")]
        assert ends == [START_US + 2 * HOUR_US]


@pytest.mark.parametrize(
    ("amendment", "reason"),
    [
        (
            replacing(lifecycle("container.stopped", "c1b", START_US + HOUR_US, tenant_id="rival"), WRONG),
            "other_tenant",
        ),
        (replacing(lifecycle("container.stopped", "c1b", START_US + HOUR_US), CREATED), "replaces_creation"),
        (retracting(CREATED), "replaces_creation"),
        (replacing(lifecycle("container.created", "c1b", START_US + 1, gpu_count=0), STARTED), "second_created"),
        (retracting({**WRONG, "subject": "other"}), "replaces_another_resource"),
    ],
)
async def test_what_an_amendment_cant_replace(meter: Meter, amendment: dict[str, Any], reason: str) -> None:
    await prepare(meter)
    await meter.reach(START_US + 6 * HOUR_US)
    other = lifecycle("container.created", "other", START_US, gpu_count=0)
    await meter.take(CREATED, STARTED, WRONG, other)
    await meter.take(amendment)
    assert meter.dead == [reason]
    assert await meter.charged() == {("vn", "acme"): 165_000_000}


async def test_a_creation_is_replaced_by_a_creation_and_its_grid_moves(meter: Meter) -> None:
    await prepare(meter)
    await meter.take(CREATED, STARTED, WRONG)
    await meter.reach(START_US + 6 * HOUR_US)
    smaller = lifecycle("container.created", "c1b", START_US + 1, gpu_sku="a30", gpu_count=1, sequence=1)
    await meter.take(replacing({**smaller, "id": "mended"}, CREATED))
    assert await meter.charged() == {("vn", "acme"): 15_000_000}
    await meter.check_m1()


USED = usage("u-1", START_US, 5_000)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("polls", ["one", "two"])
async def test_usage_is_replaced_in_any_order(meter: Meter, order: tuple[int, ...], polls: str) -> None:
    await prepare(meter)
    less = usage("u-2", START_US, 1_500, replaces={"source": USED["source"], "id": USED["id"]})
    events = [(USED, less)[number] for number in order]
    await meter.take(usage("u-0", START_US, 1))
    for poll in [events] if polls == "one" else [[event] for event in events]:
        await meter.take(*poll)
    assert await meter.charged() == {("vn", "acme"): 600_400}
    assert meter.dead == []


async def test_a_usage_correction_names_both_and_may_change_the_sku(meter: Meter) -> None:
    await prepare(meter)
    await meter.take(USED)
    reference = {"source": USED["source"], "id": USED["id"]}
    await meter.take(usage("u-2", START_US, 10, sku="images", replaces=reference))
    assert await meter.charged() == {("vn", "acme"): 700_000}
    causes = await meter.causes()
    assert causes["inference/vn/u-2 replaces inference/vn/u-1"] == 700_000 - 2_000_000
    await meter.take(usage("u-3", START_US, 10, replaces=reference))
    assert meter.dead == ["already_replaced"]


async def test_usage_is_retracted_and_only_by_its_tenant(meter: Meter) -> None:
    await prepare(meter)
    await meter.take(USED, retracting(USED, tenant_id="rival"))
    assert meter.dead == ["other_tenant"]
    await meter.take(retracting(USED, "true retraction"))
    assert await meter.charged() == {}
    await meter.take(USED, retracting(USED, "true retraction"))
    assert await meter.charged() == {}


async def test_unpriced_usage_that_was_retracted_is_never_charged(meter: Meter) -> None:
    await prepare(meter)
    new = usage("u-1", START_US, 5, sku="new")
    await meter.take(new, retracting(new))
    await meter.put_book(book(START_US - HOUR_US, services={"new": {"unit": "image", "price": "1"}}))
    assert await meter.charged() == {}
