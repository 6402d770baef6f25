"""Which credit a charge burns: a pure function of grants and entries in posting order.

Usage burns promotional credit first (by priority, then soonest expiry, then the earlier grant), bought credit last:
of grants those that were not over when it was used, whenever it is posted;
what no credit covers is debt, which the next credit pays first. A credit correction un-burns the latest burns first.
Money that goes back or is taken by an operator comes of bought credit alone: promotional credit never becomes cash, not
even by paying for what was refunded. At every entry: what is left of all grants + bought - debts = balance.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from services.balance.wire import UsedLine
from shared.clock import MINUTE_US, minute_of

BOUGHT = "bought"
DEBT = "debt"

# The source of usage that is told after the rest of its grant expired; the grant's id follows.
CLAIM = "claim/"

MoveKind = Literal["usage", "correction", "bought", "cash", "grant", "expiry", "return"]
# (a grant's id, BOUGHT, DEBT or a claim; how much), the latest last
Burn = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Grant:
    """Promotional credit. `number` is the order of granting."""

    grant_id: str
    number: int
    priority: int
    expires_at_us: int


@dataclass(frozen=True, slots=True)
class Move:
    """One entry, or the part of one that was used at one time, as burning sees it.

    `amount_micros` is positive whatever its direction. `at_us`: of usage when it was used, by the minute; of all else,
    and where metering does not say it, when it was posted.
    """

    kind: MoveKind
    amount_micros: int
    at_us: int
    grant_id: str | None = None


@dataclass(frozen=True, slots=True)
class Burning:
    """Where burning stands. `usage_debt` was used beyond all credit, `cash_debt` taken beyond bought credit.

    `expired` is what expired of each grant and did not return. `claims` is what was used within such a grant and told
    after that: it is owed until so much of it returns, and no other credit pays it.
    """

    remaining: Mapping[str, int] = field(default_factory=dict)
    bought_micros: int = 0
    usage_debt_micros: int = 0
    cash_debt_micros: int = 0
    burns: tuple[Burn, ...] = ()
    expired: Mapping[str, int] = field(default_factory=dict)
    claims: Mapping[str, int] = field(default_factory=dict)

    @property
    def balance_micros(self) -> int:
        credit = sum(self.remaining.values()) + self.bought_micros
        return credit - self.usage_debt_micros - self.cash_debt_micros - sum(self.claims.values())

    @classmethod
    def before_grants(cls, balance_micros: int) -> "Burning":
        """An account that never had a grant, at or above zero: all it has is bought, and it owes nothing.

        Below zero the balance alone does not say what was used and what was taken: burn the entries since it sank.
        """
        assert balance_micros >= 0, "an account in debt is worked out from where it was not"
        return cls(bought_micros=balance_micros)


def burn_entries(burning: Burning, moves: Iterable[Move], grants: Mapping[str, Grant]) -> Burning:
    """Where burning stands after entries in posting order; `grants` are all of the account's."""
    for move in moves:
        burning = _MOVES[move.kind](burning, move, grants)
    return burning


def _use(burning: Burning, move: Move, grants: Mapping[str, Grant]) -> Burning:
    left_micros = move.amount_micros
    remaining, claims, burns = dict(burning.remaining), dict(burning.claims), list(burning.burns)
    for grant in sorted(grants.values(), key=lambda grant: (grant.priority, grant.expires_at_us, grant.number)):
        if move.at_us >= grant.expires_at_us:
            continue
        name = grant.grant_id
        taken = min(left_micros, remaining.get(name, 0))
        if taken:
            remaining[name] -= taken
            _push(burns, name, taken)
        claimed = min(left_micros - taken, burning.expired.get(name, 0) - claims.get(name, 0))
        if claimed > 0:
            claims[name] = claims.get(name, 0) + claimed
            _push(burns, CLAIM + name, claimed)
            taken += claimed
        left_micros -= taken
    bought = min(left_micros, burning.bought_micros)
    _push(burns, BOUGHT, bought)
    _push(burns, DEBT, left_micros - bought)
    return replace(
        burning,
        remaining=remaining,
        claims=claims,
        bought_micros=burning.bought_micros - bought,
        usage_debt_micros=burning.usage_debt_micros + left_micros - bought,
        burns=tuple(burns),
    )


def _unburn(burning: Burning, move: Move, _grants: Mapping[str, Grant]) -> Burning:
    """Give back to where the latest burns came from; beyond all that is known, to bought credit."""
    left_micros = move.amount_micros
    remaining, claims, burns = dict(burning.remaining), dict(burning.claims), list(burning.burns)
    bought = debt = 0
    while left_micros and burns:
        source, burnt = burns.pop()
        back = min(burnt, left_micros)
        left_micros -= back
        _push(burns, source, burnt - back)
        if source == DEBT:
            debt += back
        elif source == BOUGHT:
            bought += back
        elif source.startswith(CLAIM):
            claims[source.removeprefix(CLAIM)] -= back
        else:
            remaining[source] = remaining.get(source, 0) + back
    unburnt = replace(
        burning,
        remaining=remaining,
        claims=claims,
        usage_debt_micros=burning.usage_debt_micros - debt,
        burns=tuple(burns),
    )
    return _credit(unburnt, bought + left_micros)


def _buy(burning: Burning, move: Move, _grants: Mapping[str, Grant]) -> Burning:
    return _credit(burning, move.amount_micros)


def _credit(burning: Burning, amount_micros: int) -> Burning:
    """Bought credit pays what was used, then what was taken, and the rest is left."""
    burning, left_micros = _pay_usage(burning, BOUGHT, amount_micros)
    cash = min(left_micros, burning.cash_debt_micros)
    return replace(
        burning,
        cash_debt_micros=burning.cash_debt_micros - cash,
        bought_micros=burning.bought_micros + left_micros - cash,
    )


def _give(burning: Burning, move: Move, _grants: Mapping[str, Grant]) -> Burning:
    """A grant pays what was used beyond all credit, and the rest is left; what was refunded it does not pay."""
    assert move.grant_id is not None
    burning, left_micros = _pay_usage(burning, move.grant_id, move.amount_micros)
    remaining = {**burning.remaining, move.grant_id: burning.remaining.get(move.grant_id, 0) + left_micros}
    return replace(burning, remaining=remaining)


def _pay_usage(burning: Burning, source: str, amount_micros: int) -> tuple[Burning, int]:
    """Pay usage debt, which is always the latest of the burns; answer also what is left of the amount."""
    paid = min(amount_micros, burning.usage_debt_micros)
    if not paid:
        return burning, amount_micros
    burns = list(burning.burns)
    kept, debt = DEBT, 0
    if burns and burns[-1][0] == DEBT:
        kept, debt = burns.pop()
    _push(burns, source, paid)
    _push(burns, kept, debt - paid)
    after = replace(burning, usage_debt_micros=burning.usage_debt_micros - paid, burns=tuple(burns))
    return after, amount_micros - paid


def _take(burning: Burning, move: Move, _grants: Mapping[str, Grant]) -> Burning:
    bought = min(move.amount_micros, burning.bought_micros)
    return replace(
        burning,
        bought_micros=burning.bought_micros - bought,
        cash_debt_micros=burning.cash_debt_micros + move.amount_micros - bought,
    )


def _expire(burning: Burning, move: Move, _grants: Mapping[str, Grant]) -> Burning:
    assert move.grant_id is not None
    left_micros = burning.remaining.get(move.grant_id, 0) - move.amount_micros
    assert left_micros >= 0, "no more expires than is left"
    expired_micros = burning.expired.get(move.grant_id, 0) + move.amount_micros
    return replace(
        burning,
        remaining={**burning.remaining, move.grant_id: left_micros},
        expired={**burning.expired, move.grant_id: expired_micros},
    )


def _return(burning: Burning, move: Move, _grants: Mapping[str, Grant]) -> Burning:
    """What expired returns to its grant, and pays what was claimed of it."""
    name = move.grant_id
    assert name is not None
    claimed = burning.claims.get(name, 0)
    paid = min(move.amount_micros, claimed)
    remaining = {**burning.remaining, name: burning.remaining.get(name, 0) + move.amount_micros - paid}
    return replace(
        burning,
        remaining=remaining,
        expired={**burning.expired, name: burning.expired.get(name, 0) - move.amount_micros},
        claims={**burning.claims, name: claimed - paid},
        burns=_rename(burning.burns, CLAIM + name, name, paid),
    )


def _rename(burns: Sequence[Burn], source: str, name: str, amount_micros: int) -> tuple[Burn, ...]:
    """The burns with so much of the latest of one source as another's."""
    left_micros, found = amount_micros, list[Burn]()
    for burnt_from, burnt in reversed(burns):
        renamed = min(burnt, left_micros) if burnt_from == source else 0
        left_micros -= renamed
        found += [(name, renamed), (burnt_from, burnt - renamed)]
    renamed_burns: list[Burn] = []
    for burnt_from, burnt in reversed(found):
        _push(renamed_burns, burnt_from, burnt)
    return tuple(renamed_burns)


def _push(burns: list[Burn], source: str, amount_micros: int) -> None:
    """Put a burn on top, but under what is debt; one of the same source grows, so that the stack stays short."""
    if amount_micros <= 0:
        return
    debt = burns.pop() if source != DEBT and burns and burns[-1][0] == DEBT else None
    if burns and burns[-1][0] == source:
        amount_micros += burns.pop()[1]
    burns.append((source, amount_micros))
    if debt is not None:
        burns.append(debt)


_MOVES = {
    "usage": _use,
    "correction": _unburn,
    "bought": _buy,
    "cash": _take,
    "grant": _give,
    "expiry": _expire,
    "return": _return,
}


def read_move(entry_class: str, delta_micros: int, at_us: int, fact_id: str | None) -> Move:
    """An entry of the ledger as burning sees it; `delta_micros` is positive in the customer's favour."""
    grant_id = fact_id.split("/")[1] if fact_id is not None and entry_class in ("grant", "expiry") else None
    kind: MoveKind
    if entry_class in ("charge", "debit_correction"):
        kind = "usage"
    elif entry_class == "credit_correction":
        kind = "correction"
    elif entry_class == "grant":
        kind = "grant"
    elif entry_class == "expiry":
        kind = "expiry" if delta_micros < 0 else "return"
    else:
        kind = "bought" if delta_micros > 0 else "cash"
    return Move(kind, abs(delta_micros), at_us, grant_id)


def find_expiries(burning: Burning, over: Iterable[str]) -> dict[str, int]:
    """What is to be posted of grants, in the customer's favour: of those that are `over` the rest leaves.

    What is claimed of an expired rest comes back first; whatever then is left of the grant goes the next time.
    """
    rests = {grant_id: -rest for grant_id in over if (rest := burning.remaining.get(grant_id, 0))}
    return rests | {grant_id: claimed for grant_id, claimed in burning.claims.items() if claimed}


def put_in_place(moves: Sequence[Move], granted_at_us: Mapping[str, int]) -> list[Move]:
    """Moves in posting order, but grants that were posted after they were given where they would have been posted.

    That is before the first usage of the minute in which they were given, or of a later one.
    """
    late = {
        move.grant_id: move
        for move in moves
        if move.kind == "grant" and move.grant_id is not None and granted_at_us[move.grant_id] < move.at_us
    }
    waiting = sorted(late, key=granted_at_us.__getitem__, reverse=True)
    placed: list[Move] = []
    for move in moves:
        if move.kind == "grant" and move.grant_id in late:
            if move.grant_id in waiting:
                waiting.remove(move.grant_id)
                placed.append(move)
            continue
        while move.kind == "usage" and waiting and minute_of(granted_at_us[waiting[-1]]) <= move.at_us:
            placed.append(late[waiting.pop()])
        placed.append(move)
    return placed


def split_by_use(move: Move, lines: Iterable[UsedLine], ends_us: Sequence[int]) -> list[Move]:
    """A usage as its parts before and after each of `ends_us` (ascending), by when the slots of its lines begin.

    An amount is spread evenly over its slots. A slot counts by the minute in which it begins: that is as much as a
    batch of a single minute says.
    """
    amounts = [0] * (len(ends_us) + 1)
    for line in lines:
        before_micros = 0
        for place, end_us in enumerate(ends_us):
            until_micros = line.amount_micros * _slots_before(line, end_us) // max(line.slots, 1)
            amounts[place] += until_micros - before_micros
            before_micros = until_micros
        amounts[-1] += line.amount_micros - before_micros
    parts = zip((move.at_us, *ends_us), amounts, strict=True)
    return [replace(move, at_us=at_us, amount_micros=amount) for at_us, amount in parts if amount]


def _slots_before(line: UsedLine, end_us: int) -> int:
    """How many of a line's slots begin in a minute that begins before `end_us`; of one without slots, 0 or 1 in all."""
    minutes_end_us = minute_of(end_us + MINUTE_US - 1)
    if line.slots < 1 or not line.slot_us:
        return max(line.slots, 1) if line.start_us < minutes_end_us else 0
    return min(max(0, -((line.start_us - minutes_end_us) // line.slot_us)), line.slots)
