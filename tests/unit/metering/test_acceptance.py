"""Which events join a history."""

from dataclasses import replace

import pytest
from hypothesis import given

from services.metering.rules.acceptance import (
    APPLY,
    DUPLICATE,
    NO_LIMITS,
    PENDING,
    Decision,
    Limits,
    admit,
    admit_correction,
)
from services.metering.rules.history import Draft, Event, History
from services.metering.rules.lines import Line
from tests.unit.metering.lives import histories

SECOND_US = 1_000_000
OPENED_US = 1_000 * SECOND_US
NOW_US = 10_000_000 * SECOND_US
CREATED = Event("p", "c", "container.created", NOW_US, gpu_sku="h100", gpu_count=1)
KNOWN = History((CREATED,), 60)
STARTED = Event("p", "s", "container.started", NOW_US)


def decide(event: Event, known: History | None = KNOWN, tenant: str = "acme", limits: Limits = NO_LIMITS) -> Decision:
    draft = None if known is None else Draft(known)
    return admit(draft, None if known is None else "acme", event, tenant, NOW_US, OPENED_US, limits)


def test_a_creation_begins_a_history_and_events_join_it() -> None:
    assert decide(CREATED, known=None) == APPLY
    assert decide(STARTED) == APPLY


def test_what_comes_before_its_creation_waits() -> None:
    assert decide(STARTED, known=None) == PENDING


@given(histories())
def test_every_event_of_a_history_is_a_duplicate_of_itself(history: History) -> None:
    for event in history.events:
        assert admit(Draft(history), "acme", event, "acme", 0, 2**62) == DUPLICATE


@pytest.mark.parametrize(
    ("event", "tenant", "reason"),
    [
        (replace(CREATED, gpu_count=2), "acme", "same_id_other_content"),
        (CREATED, "rival", "same_id_other_content"),
        (replace(CREATED, time_us=NOW_US + 1), "acme", "same_id_other_content"),
        (STARTED, "rival", "other_tenant"),
        (replace(CREATED, event_id="c2"), "acme", "second_created"),
        (replace(STARTED, type="volume.resized"), "acme", "wrong_family"),
        (replace(CREATED, event_id="c2", type="volume.created"), "acme", "wrong_family"),
    ],
)
def test_contradictions_are_conflicts(event: Event, tenant: str, reason: str) -> None:
    assert decide(event, tenant=tenant) == Decision("conflict", reason)


@pytest.mark.parametrize("known", [KNOWN, None])
@pytest.mark.parametrize(
    ("time_us", "expected"),
    [
        (OPENED_US - 1, Decision("dead", "before_region_opened")),
        (OPENED_US, None),
        (NOW_US + 300 * SECOND_US, None),
        (NOW_US + 300 * SECOND_US + 1, Decision("parked", "future", NOW_US + 300 * SECOND_US + 1)),
        (NOW_US + 86_400 * SECOND_US, Decision("parked", "future", NOW_US + 86_400 * SECOND_US)),
        (NOW_US + 86_400 * SECOND_US + 1, Decision("dead", "far_future")),
    ],
)
def test_times_that_cannot_be(known: History | None, time_us: int, expected: Decision | None) -> None:
    usual = PENDING if known is None else APPLY
    assert decide(replace(STARTED, time_us=time_us), known=known) == (expected or usual)


def test_a_negative_quantity_is_dead() -> None:
    for event in (replace(CREATED, gpu_count=-1), replace(CREATED, storage_gb=-5)):
        assert decide(event, known=None) == Decision("dead", "negative_quantity")


def test_an_old_event_is_parked_for_an_operator_if_the_region_says_so() -> None:
    limits = Limits(event_age_seconds_max=60)
    old = replace(STARTED, time_us=NOW_US - 60 * SECOND_US)
    assert decide(old, limits=limits) == APPLY
    assert decide(replace(old, time_us=old.time_us - 1), limits=limits) == Decision("parked", "too_old")
    assert decide(replace(old, time_us=old.time_us - 1)) == APPLY


def test_a_correction_beyond_the_limit_parks_its_event() -> None:
    def line(amount_micros: int) -> Line:
        return Line("gpu", "debit_correction", "h100", 0, 1, 100, amount_micros)

    limits = Limits(correction_hours_max=24)
    assert admit_correction((line(2400),), 100, limits) == APPLY
    assert admit_correction((line(2401),), 100, limits) == Decision("parked", "large_correction")
    assert admit_correction((line(2401), line(-1)), 100, limits) == APPLY
    assert admit_correction((line(-9999),), 100, limits) == APPLY
    assert admit_correction((line(2401),), 100, NO_LIMITS) == APPLY
