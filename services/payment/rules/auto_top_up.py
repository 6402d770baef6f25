"""When a customer's card is charged by itself: a pure decision over the consent, the attempts so far and the balance.

At most one attempt an hour, whether it worked or not; never beyond the caps of the UTC day and month; never while an
attempt's outcome is open; suspended after repeated declines, when the bank wants to see the customer, and when a
payment was refunded or disputed since he agreed: the balance that this leaves is no reason to charge him again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from shared.clock import HOUR_US, from_us
from shared.errors import Refusal

# "withdrawn": given up before the card was charged, for it was no longer agreed to or no longer asked for.
AttemptState = Literal["open", "paid", "declined", "needs_customer", "withdrawn"]
SuspensionReason = Literal["declined", "authentication_required", "restored", "refunded", "disputed"]
Hold = Literal["suspended", "balance", "attempt open", "an hour", "daily cap", "monthly cap"]


# What was decided longer ago is decided anew. Far below the day for which a provider knows a repeated request.
ATTEMPT_AGE_MAX_US: Final = HOUR_US


@dataclass(frozen=True, slots=True)
class AutoTopUp:
    """What a customer agreed to. All amounts are micros of the account's currency, in which the card is charged."""

    threshold_micros: int
    target_micros: int
    daily_cap_micros: int
    monthly_cap_micros: int
    suspended_reason: SuspensionReason | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    at_us: int
    amount_micros: int
    state: AttemptState


@dataclass(frozen=True, slots=True)
class Charge:
    """Charge the card `amount_micros`."""

    amount_micros: int


def check_agreement(agreement: AutoTopUp, unit_micros: int, minimum_micros: int) -> None:
    """Raise Refusal unless the amounts make sense together. `unit_micros` is the least payable unit of the currency."""
    if agreement.target_micros - agreement.threshold_micros < max(minimum_micros, 1):
        raise Refusal(
            "auto-top-up-target",
            "the target must be above the threshold by at least the smallest payment",
            status=422,
            minimum_micros=minimum_micros,
        )
    if agreement.threshold_micros < 0:
        raise Refusal("auto-top-up-threshold", "the threshold is not below zero", status=422)
    largest = _round_up(agreement.target_micros - agreement.threshold_micros, unit_micros)
    if not largest <= agreement.daily_cap_micros <= agreement.monthly_cap_micros:
        raise Refusal(
            "auto-top-up-caps",
            "the daily cap covers at least one top-up, and the monthly cap at least the daily one",
            status=422,
            one_top_up_micros=largest,
        )


def decide_attempt(
    agreement: AutoTopUp,
    attempts: Sequence[Attempt],
    balance_micros: int,
    now_us: int,
    *,
    unit_micros: int,
    minimum_micros: int,
    maximum_micros: int,
) -> Charge | Hold:
    """What to charge now, or why nothing is. `attempts` are all of this month and the last hour, in any order.

    `balance_micros` includes what was paid and is not posted yet.

    The provider takes multiples of `unit_micros` from `minimum_micros` to `maximum_micros`.
    """
    if agreement.suspended_reason is not None:
        return "suspended"
    if balance_micros >= agreement.threshold_micros:
        return "balance"
    if any(attempt.state == "open" for attempt in attempts):
        return "attempt open"
    if any(attempt.at_us > now_us - HOUR_US and attempt.state != "withdrawn" for attempt in attempts):
        return "an hour"
    wanted = _round_up(agreement.target_micros - balance_micros, unit_micros)
    day = _left(agreement.daily_cap_micros, attempts, now_us, "%Y-%m-%d")
    month = _left(agreement.monthly_cap_micros, attempts, now_us, "%Y-%m")
    amount = min(wanted, *(bound // unit_micros * unit_micros for bound in (day, month, maximum_micros)))
    if amount < max(minimum_micros, 1):
        return "daily cap" if day <= month else "monthly cap"
    return Charge(amount)


def is_too_old(attempt: Attempt, now_us: int) -> bool:
    return now_us - attempt.at_us >= ATTEMPT_AGE_MAX_US


def decide_again(
    agreement: AutoTopUp | None,
    attempt: Attempt,
    others: Sequence[Attempt],
    balance_micros: int,
    now_us: int,
    *,
    unit_micros: int,
    minimum_micros: int,
    maximum_micros: int,
) -> str | None:
    """Why an attempt that is not charged yet must not be any more; None: charge it as it was decided.

    `agreement` is the one that the attempt was decided by, if it is still in force. Decided anew over what is true
    now, it must still be asked for, and at least as much.
    """
    if agreement is None:
        return "consent withdrawn"
    if is_too_old(attempt, now_us):
        return "too old"
    decision = decide_attempt(
        agreement,
        others,
        balance_micros,
        now_us,
        unit_micros=unit_micros,
        minimum_micros=minimum_micros,
        maximum_micros=maximum_micros,
    )
    if not isinstance(decision, Charge):
        return decision
    return None if decision.amount_micros >= attempt.amount_micros else "amount"


def decide_suspension(attempts: Sequence[Attempt], declines_max: int) -> SuspensionReason | None:
    """Why to suspend after the latest attempt: the bank wants the customer, or it declined `declines_max` in a row."""
    asked = [attempt for attempt in attempts if attempt.state != "withdrawn"]
    latest = sorted(asked, key=lambda attempt: attempt.at_us, reverse=True)
    if latest and latest[0].state == "needs_customer":
        return "authentication_required"
    last = latest[:declines_max]
    if len(last) == declines_max and all(attempt.state == "declined" for attempt in last):
        return "declined"
    return None


def _left(cap_micros: int, attempts: Sequence[Attempt], now_us: int, period: str) -> int:
    """What the cap leaves of the UTC day or month of `now_us`; an open attempt counts like a paid one."""
    current = from_us(now_us).strftime(period)
    spent = sum(
        attempt.amount_micros
        for attempt in attempts
        if attempt.state in ("open", "paid") and from_us(attempt.at_us).strftime(period) == current
    )
    return max(0, cap_micros - spent)


def _round_up(amount_micros: int, unit_micros: int) -> int:
    return -(-amount_micros // unit_micros) * unit_micros
