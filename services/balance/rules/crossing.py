"""When an account is low, exhausted, negative or recovered: a pure state machine over its entries.

Crossings are told entry by entry on the running balance. `negative_since` is posting time; one moment at or above zero
clears it, and a correction in the customer's favour that leaves the account below zero starts it anew; a top-up that
does not reach zero doesn't.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from shared.events.account import AccountEventType, AccountState, CreditKind

# New money, as against money that should not have been taken.
_TOP_UPS: frozenset[CreditKind] = frozenset({"payment", "voucher", "promotion"})


@dataclass(frozen=True, slots=True)
class Standing:
    """How an account stands. `low_told`: the present episode of `low` was told; `held_micros`: in open disputes."""

    state: AccountState = "opened"
    balance_micros: int = 0
    burn_micros_per_hour: int = 0
    account_version: int = 1
    negative_since_us: int | None = None
    low_told: bool = False
    low_told_at_us: int | None = None
    held_micros: int = 0

    @property
    def spendable_micros(self) -> int:
        return self.balance_micros - self.held_micros


@dataclass(frozen=True, slots=True)
class Movement:
    """One entry as the customer sees it: positive in the customer's favour. A credit to tell has id and kind."""

    delta_micros: int
    credit_id: str | None = None
    credit_kind: CreditKind | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """An event to publish, with the account as it was right after the entry that raised it."""

    type: AccountEventType
    standing: Standing
    movement: Movement | None = None


def cross(
    standing: Standing, movements: Sequence[Movement], burn_micros_per_hour: int, now_us: int, *, low_cooldown_us: int
) -> tuple[Standing, list[Told]]:
    """Move an account by entries posted at `now_us`, with the burn that holds from now on."""
    standing = replace(standing, burn_micros_per_hour=burn_micros_per_hour)
    told: list[Told] = []
    for movement in movements:
        standing, kinds = _move(standing, movement, now_us)
        if movement.credit_id is not None and movement.delta_micros > 0:
            kinds = ["account.credited", *kinds]
        for kind in kinds:
            standing = replace(standing, account_version=standing.account_version + 1)
            told.append(Told(kind, standing, movement if kind == "account.credited" else None))
        standing = _watch_burn(standing, now_us, low_cooldown_us, told)
    return _watch_burn(standing, now_us, low_cooldown_us, told), told


def raise_low(standing: Standing, now_us: int, *, low_cooldown_us: int) -> tuple[Standing, Told | None]:
    """Tell `low` because something was refused for want of credit; not again before the cool-down, nor at zero."""
    cooled = standing.low_told_at_us is None or now_us - standing.low_told_at_us >= low_cooldown_us
    if standing.state not in ("ok", "low") or not cooled:
        return standing, None
    version = standing.account_version + 1
    told = replace(standing, state="low", low_told=True, low_told_at_us=now_us, account_version=version)
    return told, Told("account.low", told)


def _move(standing: Standing, movement: Movement, now_us: int) -> tuple[Standing, list[AccountEventType]]:
    """The standing after one entry, and which crossings of zero it told, in order."""
    delta_micros = movement.delta_micros
    before, after = standing.balance_micros, standing.balance_micros + delta_micros
    moved = replace(standing, balance_micros=after)
    if after > 0:
        return _rise(standing, moved)
    if after == 0:
        if standing.state == "opened" and before == 0:
            return moved, []
        emptied = replace(moved, state="exhausted", negative_since_us=None, low_told=False)
        return emptied, ["account.exhausted"] if before != 0 else []
    if before < 0:
        if delta_micros <= 0 or movement.credit_kind in _TOP_UPS or standing.negative_since_us == now_us:
            return moved, []
        return replace(moved, negative_since_us=now_us), ["account.negative"]
    sunk = replace(moved, state="negative", negative_since_us=now_us, low_told=False)
    return sunk, ["account.negative"] if standing.state == "exhausted" else ["account.exhausted", "account.negative"]


def _rise(standing: Standing, moved: Standing) -> tuple[Standing, list[AccountEventType]]:
    """The standing after an entry that leaves the account above zero."""
    if standing.state in ("exhausted", "negative"):
        return replace(moved, state="ok", negative_since_us=None), ["account.recovered"]
    return (replace(moved, state="ok") if standing.state == "opened" else moved), []


def _watch_burn(standing: Standing, now_us: int, low_cooldown_us: int, told: list[Told]) -> Standing:
    """Enter or leave `low`: below an hour of the burn, until a quarter above it; told once, after the cool-down."""
    balance_micros, burn_micros = standing.balance_micros, standing.burn_micros_per_hour
    if standing.state == "ok" and balance_micros < burn_micros:
        standing = replace(standing, state="low", low_told=False)
    elif standing.state == "low" and balance_micros - burn_micros >= burn_micros // 4 and balance_micros >= burn_micros:
        return replace(standing, state="ok", low_told=False)
    told_at_us = standing.low_told_at_us
    cooled = told_at_us is None or now_us - told_at_us >= low_cooldown_us
    if standing.state != "low" or standing.low_told or not cooled:
        return standing
    version = standing.account_version + 1
    standing = replace(standing, low_told=True, low_told_at_us=now_us, account_version=version)
    told.append(Told("account.low", standing))
    return standing
