"""Whether a lifecycle event becomes part of a resource's history, waits, or is refused."""

from dataclasses import dataclass
from typing import Literal

from services.metering.rules.history import CREATED, Draft, Event, EventKey
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
# An amendment waits for the event that it replaces.
PENDING_TARGET = Decision("pending", "before the event that it replaces")

RETRACTED = "event.retracted"


@dataclass(frozen=True, slots=True)
class Amendment:
    """An event replaces `target`, or only takes it out if it is a retraction. `is_elsewhere`: of another resource."""

    target: EventKey
    reason: str | None = None
    is_elsewhere: bool = False


def admit(
    known: Draft | None,
    tenant_of_resource: str | None,
    event: Event,
    event_tenant: str,
    now_us: int,
    opened_at_us: int,
    limits: Limits = NO_LIMITS,
    amendment: Amendment | None = None,
) -> Decision:
    """Decide on one event of a resource whose history is `known` (None before its creation was accepted).

    `tenant_of_resource` is that of the accepted creation. `opened_at_us` is when the region opened: nothing before it
    was ever sold. An event that an operator releases is asked about again without limits.
    """
    if known is not None:
        contradiction = _against_history(known, tenant_of_resource, event, event_tenant)
        if contradiction is None and event.type in CREATED and amendment is None:
            contradiction = Decision("conflict", "second_created")
        if contradiction is not None:
            return contradiction
    misplaced = _against_time(event, now_us, opened_at_us, limits)
    if misplaced is not None:
        return misplaced
    if any(amount is not None and amount < 0 for amount in (event.gpu_count, event.storage_gb)):
        return Decision("dead", "negative_quantity")
    if amendment is not None:
        return _against_target(known, event, amendment)
    return PENDING if known is None and event.type not in CREATED else APPLY


def _against_history(known: Draft, tenant_of_resource: str | None, event: Event, event_tenant: str) -> Decision | None:
    accepted = known.find((event.source, event.event_id))
    if accepted is not None:
        same = accepted == event and event_tenant == tenant_of_resource
        return DUPLICATE if same else Decision("conflict", "same_id_other_content")
    if event_tenant != tenant_of_resource:
        return Decision("conflict", "other_tenant")
    if event.type != RETRACTED and known.created is not None and _family(event) != _family(known.created):
        return Decision("conflict", "wrong_family")
    return None


def _against_target(known: Draft | None, event: Event, amendment: Amendment) -> Decision:
    """Whether an event can take another one out of the history."""
    target = None if known is None else known.events.get(amendment.target)
    if target is None:
        if known is not None and amendment.target in known.replaced:
            return Decision("conflict", "already_replaced")
        return Decision("conflict", "replaces_another_resource") if amendment.is_elsewhere else PENDING_TARGET
    if (target.type in CREATED) != (event.type in CREATED):
        return Decision("conflict", "replaces_creation" if target.type in CREATED else "second_created")
    return APPLY


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
