"""When a provider is asked about an order, and when an unpaid one is given up.

An open order is asked about within minutes, so that a lost webhook is healed, and always before it expires and once
more after its page is closed. What is settled is asked about again, ever more seldom, for late successes, refunds and
disputes that nobody told us of.
"""

from dataclasses import dataclass

from services.payment.rules.decision import OrderState
from shared.clock import DAY_US, HOUR_US, MINUTE_US

FIRST_ASK_US = 2 * MINUTE_US
# A payment that began before the page closed may end after it.
CLOSING_US = 15 * MINUTE_US
_BEFORE_EXPIRY_US = MINUTE_US
_RECENT_US = (HOUR_US, 6 * HOUR_US, DAY_US, 3 * DAY_US, 7 * DAY_US, 14 * DAY_US, 30 * DAY_US)
# After a question without an answer.
RETRY_US = MINUTE_US


@dataclass(frozen=True, slots=True)
class Asking:
    """What decides when an order is asked about."""

    state: OrderState
    created_at_us: int
    expires_at_us: int


def closes_at_us(order: Asking) -> int:
    """From when on an order that the provider knows no payment of is given up."""
    return order.expires_at_us + CLOSING_US


def next_ask_us(order: Asking, now_us: int) -> int | None:
    """When to ask again after an answer at `now_us`; None for never."""
    age_us = now_us - order.created_at_us
    if order.state == "pending":
        pause_us = FIRST_ASK_US if age_us < 10 * MINUTE_US else 5 * MINUTE_US
        if now_us >= closes_at_us(order):
            pause_us = 15 * MINUTE_US
        due = now_us + pause_us
        for instant_us in (order.expires_at_us - _BEFORE_EXPIRY_US, closes_at_us(order)):
            if now_us < instant_us < due:
                due = instant_us
        return due
    if order.state == "mismatched":
        return now_us + (HOUR_US if age_us < DAY_US else DAY_US)
    return next((order.created_at_us + after_us for after_us in _RECENT_US if after_us > age_us), None)
