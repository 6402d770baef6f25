"""Whether a lifecycle event becomes part of a resource's history, waits, or is refused."""

from dataclasses import dataclass
from typing import Literal

from services.metering.rules.history import CREATED, Event, History
from services.metering.rules.lines import Line

SECOND_US = 1_000_000
FUTURE_SECONDS_MAX = 5 * 60
FUTURE_SECONDS_DEAD = 24 * 3600

Outcome = Literal["apply", "duplicate", "conflict", "pending", "parked", "dead"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Sanity limits of a region; None switches one off.

    `correction_hours_max`: how many hours of its resource's dearest price one event may debit.
    `event_age_seconds_max`: how old an event may be when it comes in.
    """

    correction_hours_max: int | None = None
    event_age_seconds_max: int | None = None


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of an event.

    - `apply`: it joins the history.
    - `duplicate`: it is in the history already, word for word; nothing is to be done.
    - `conflict`: it contradicts what is known: dead, with its reason and an alarm.
    - `dead`: it is refused for good, with its reason.
    - `pending`: its resource's creation has not come yet.
    - `parked`: it waits until `until_us`, or with None until an operator decides, and is no part of the history.
    """

    outcome: Outcome
    reason: str | None = None
    until_us: int | None = None


APPLY = Decision("apply")
DUPLICATE = Decision("duplicate")
PENDING = Decision("pending")


def admit(
    known: History | None,
    tenant_of_resource: str | None,
    event: Event,
    event_tenant: str,
    now_us: int,
    opened_at_us: int,
    limits: Limits = NO_LIMITS,
) -> Decision:
    """Decide on one event of a resource whose history is `known` (None before its creation was accepted).

    `tenant_of_resource` is that of the accepted creation. `opened_at_us` is when the region opened: nothing before it
    was ever sold. An event that an operator releases is asked about again without limits.
    """
    if known is not None:
        contradiction = _against_history(known, tenant_of_resource, event, event_tenant)
        if contradiction is not None:
            return contradiction
    misplaced = _against_time(event, now_us, opened_at_us, limits)
    if misplaced is not None:
        return misplaced
    if any(amount is not None and amount < 0 for amount in (event.gpu_count, event.storage_gb)):
        return Decision("dead", "negative_quantity")
    return PENDING if known is None and event.type not in CREATED else APPLY


def _against_history(
    known: History, tenant_of_resource: str | None, event: Event, event_tenant: str
) -> Decision | None:
    for accepted in known.events:
        if (accepted.source, accepted.event_id) == (event.source, event.event_id):
            same = accepted == event and event_tenant == tenant_of_resource
            return DUPLICATE if same else Decision("conflict", "same_id_other_content")
    if event_tenant != tenant_of_resource:
        return Decision("conflict", "other_tenant")
    if _family(event) != _family(known.created):
        return Decision("conflict", "wrong_family")
    if event.type in CREATED:
        return Decision("conflict", "second_created")
    return None


def _against_time(event: Event, now_us: int, opened_at_us: int, limits: Limits) -> Decision | None:
    if event.time_us < opened_at_us:
        return Decision("dead", "before_region_opened")
    ahead_us = event.time_us - now_us
    if ahead_us > FUTURE_SECONDS_DEAD * SECOND_US:
        return Decision("dead", "far_future")
    if ahead_us > FUTURE_SECONDS_MAX * SECOND_US:
        return Decision("parked", "future", event.time_us)
    if limits.event_age_seconds_max is not None and -ahead_us > limits.event_age_seconds_max * SECOND_US:
        return Decision("parked", "too_old")
    return None


def _family(event: Event) -> str:
    return event.type.partition(".")[0]


def admit_correction(lines: tuple[Line, ...], hourly_price_micros: int, limits: Limits) -> Decision:
    """Decide on an event by what applying it would publish.

    `lines` are the corrections, `hourly_price_micros` the resource's dearest price per hour with the event applied.
    A debit above the limit parks the event for an operator: neither history nor lines know of it until released.
    """
    if limits.correction_hours_max is None:
        return APPLY
    debit_micros = sum(line.amount_micros for line in lines)
    if debit_micros > limits.correction_hours_max * hourly_price_micros:
        return Decision("parked", "large_correction")
    return APPLY
