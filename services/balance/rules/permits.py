"""When balance consents to a deletion: pure checks on a locked account.

A permit is bound to `negative_since` and to the numbers of credits and of order registrations so far: charges leave it
alone, any credit or order voids it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from shared.clock import HOUR_US, format_instant
from shared.errors import Refusal


@dataclass(frozen=True, slots=True)
class Debtor:
    """A locked account, as far as a permit depends on it.

    `own_use_micros`: the balance without refunds, disputes and operators' debits, the highest since a grace period ago:
    only its own use for the whole grace period is a reason to delete.
    """

    balance_micros: int
    negative_since_us: int | None
    credits: int
    orders: int
    own_use_micros: int


@dataclass(frozen=True, slots=True)
class Permit:
    permit_id: str
    account_id: int
    negative_since_us: int
    credits: int
    orders: int
    expires_at_us: int


# Orders that nobody tried to pay delay a deletion by no more than this, all together.
UNATTEMPTED_DELAY_US = 2 * HOUR_US


@dataclass(frozen=True, slots=True)
class PendingOrder:
    """An order whose payment may still come. `attempted`: the customer tried at the provider."""

    order_id: str
    attempted: bool


def check_grant(debtor: Debtor, negative_since_us: int, due_at_us: int, grace_us: int, now_us: int) -> None:
    """Raise Refusal unless the account has been below zero since the named instant and the grace period is over."""
    _check_debt(debtor, negative_since_us)
    if due_at_us < negative_since_us + grace_us:
        earliest = format_instant(negative_since_us + grace_us)
        raise Refusal("grace-period", f"deletion is due no earlier than {earliest}", due_at=earliest)
    if now_us < due_at_us:
        raise Refusal("not-due", f"deletion is due at {format_instant(due_at_us)}", due_at=format_instant(due_at_us))
    _check_own_use(debtor)


def check_orders(pending: Iterable[PendingOrder], due_us: int, now_us: int) -> None:
    """Raise Refusal while a payment may be under way.

    `due_us` is since when nothing else stands in the deletion's way, as whoever asks for the permit says: no earlier
    than the end of the grace period.
    """
    for order in pending:
        if order.attempted or now_us < due_us + UNATTEMPTED_DELAY_US:
            raise Refusal("pending-order", f"order {order.order_id} may still be paid", order_id=order.order_id)


def keeps_back(
    *, attempted: bool, negative_since_us: int | None, grace_us: int, permit_due_us: int | None, now_us: int
) -> bool:
    """Whether an order that is registered now voids permits. One without an attempt does not once its time is spent.

    `permit_due_us` is from where the last permit of this debt counts.
    """
    if attempted or negative_since_us is None:
        return True
    return now_us < max(negative_since_us + grace_us, permit_due_us or 0) + UNATTEMPTED_DELAY_US


def is_live(permit: Permit, debtor: Debtor, now_us: int) -> bool:
    """Whether a permit granted before still holds."""
    return (
        now_us < permit.expires_at_us
        and permit.negative_since_us == debtor.negative_since_us
        and permit.credits == debtor.credits
        and permit.orders == debtor.orders
        and debtor.balance_micros < 0
    )


def check_redemption(permit: Permit, debtor: Debtor, now_us: int, *, redeemed: bool) -> None:
    """Raise Refusal unless the permit may be used now. One that was `redeemed` for the resource has not to be in time.

    A repeated question still asks after credits: the deletion that it stands for may not have happened yet.
    """
    _check_debt(debtor, permit.negative_since_us)
    if debtor.credits != permit.credits:
        raise Refusal("credited-since", "the account was credited after the permit was granted; the permit is void")
    if debtor.orders != permit.orders:
        raise Refusal("ordered-since", "a payment was ordered after the permit was granted; the permit is void")
    if not redeemed and now_us >= permit.expires_at_us:
        raise Refusal(
            "permit-expired", f"the permit expired at {format_instant(permit.expires_at_us)}; ask for another"
        )
    _check_own_use(debtor)


def _check_debt(debtor: Debtor, negative_since_us: int) -> None:
    if debtor.balance_micros >= 0 or debtor.negative_since_us is None:
        raise Refusal("not-negative", "the account is not below zero; nothing may be deleted")
    if debtor.negative_since_us != negative_since_us:
        since = format_instant(debtor.negative_since_us)
        raise Refusal("negative-since-differs", f"the account is below zero since {since}", negative_since=since)


def _check_own_use(debtor: Debtor) -> None:
    if debtor.own_use_micros >= 0:
        raise Refusal(
            "not-own-use",
            "without refunds, disputes and operators' debits the account was not below zero for the whole grace period",
            own_use_micros=debtor.own_use_micros,
        )
