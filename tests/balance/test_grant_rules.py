"""Burning, against a model that moves one micro at a time."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from hypothesis import given
from hypothesis import strategies as st

from services.balance.rules.grants import Burning, Grant, Move, burn_entries, read_move

GRANTS = {
    "a": Grant("a", 1, 100, 50),
    "b": Grant("b", 2, 100, 30),
    "c": Grant("c", 3, 10, 70),
}


@dataclass
class Model:
    """Every micro on its own: what is left, what was burnt in order, what is owed."""

    left: dict[str, int] = field(default_factory=dict)
    bought: int = 0
    owed_cash: int = 0
    burnt: list[str] = field(default_factory=list)  # sources, the latest last; "debt" while nobody paid, at the end
    expired: dict[str, int] = field(default_factory=dict)

    def apply(self, move: Move) -> None:
        for _ in range(move.amount_micros):
            getattr(self, f"_{move.kind}")(move)

    def _usage(self, move: Move) -> None:
        live = [
            (grant.priority, grant.expires_at_us, grant.number, name)
            for name, grant in GRANTS.items()
            if (self.left.get(name) or self.expired.get(name, 0) > self.burnt.count(f"claim/{name}"))
            and move.at_us < grant.expires_at_us
        ]
        if live:
            name = min(live)[-1]
            if self.left.get(name):
                self.left[name] -= 1
            else:
                name = f"claim/{name}"
            self._burn(name)
        elif self.bought:
            self.bought -= 1
            self._burn("bought")
        else:
            self.burnt.append("debt")

    def _burn(self, source: str) -> None:
        self.burnt.insert(len(self.burnt) - self.burnt.count("debt"), source)

    def _correction(self, move: Move) -> None:
        source = self.burnt.pop() if self.burnt else "bought"
        if source == "bought":
            self._bought(move)
        elif source != "debt" and not source.startswith("claim/"):
            self.left[source] = self.left.get(source, 0) + 1

    def _bought(self, _move: Move) -> None:
        if "debt" in self.burnt:
            self.burnt[self.burnt.index("debt")] = "bought"
        elif self.owed_cash:
            self.owed_cash -= 1
        else:
            self.bought += 1

    def _cash(self, _move: Move) -> None:
        if self.bought:
            self.bought -= 1
        else:
            self.owed_cash += 1

    def _grant(self, move: Move) -> None:
        assert move.grant_id is not None
        self.left.setdefault(move.grant_id, 0)
        if "debt" in self.burnt:
            self.burnt[self.burnt.index("debt")] = move.grant_id
        else:
            self.left[move.grant_id] += 1

    def _expiry(self, move: Move) -> None:
        assert move.grant_id is not None
        self.left[move.grant_id] -= 1
        self.expired[move.grant_id] = self.expired.get(move.grant_id, 0) + 1

    def _return(self, move: Move) -> None:
        assert move.grant_id is not None
        self.expired[move.grant_id] -= 1
        claim = f"claim/{move.grant_id}"
        if claim in self.burnt:
            last = len(self.burnt) - 1 - self.burnt[::-1].index(claim)
            self.burnt[last] = move.grant_id
        else:
            self.left[move.grant_id] += 1

    @property
    def balance(self) -> int:
        owed = sum(source == "debt" or source.startswith("claim/") for source in self.burnt)
        return sum(self.left.values()) + self.bought - owed - self.owed_cash


KINDS = st.sampled_from(["usage", "usage", "late", "late", "correction", "bought", "cash", "grant", "return"])
STEPS = st.lists(st.tuples(KINDS, st.integers(1, 9), st.integers(1, 12), st.sampled_from("abc")), max_size=25)


def open_model(opening: int) -> Model:
    return Model(bought=opening)


def make_moves(steps: Sequence[tuple[str, int, int, str]], opening: int = 0) -> list[Move]:
    """Moves with rising times; a grant is given once, and its rest expires at the first step after its time.

    What is `late` was used some time before; a `return` takes back half of what expired, or what is claimed of it.
    """
    model, moves, given_grants, now_us = open_model(opening), list[Move](), set[str](), 0
    for kind, amount, pause_us, name in steps:
        now_us += pause_us
        for grant in GRANTS.values():
            rest = model.left.get(grant.grant_id, 0)
            if rest and grant.expires_at_us <= now_us:
                moves.append(Move("expiry", rest, now_us, grant.grant_id))
                model.apply(moves[-1])
        if kind == "grant" and (name in given_grants or GRANTS[name].expires_at_us <= now_us):
            continue
        if kind == "late":
            moves.append(Move("usage", amount, now_us - 5 * amount))
            model.apply(moves[-1])
            continue
        if kind == "return":
            back = model.burnt.count(f"claim/{name}") or model.expired.get(name, 0) // 2
            if back:
                moves.append(Move("return", back, now_us, name))
                model.apply(moves[-1])
            continue
        if kind == "grant":
            given_grants.add(name)
        moves.append(Move(kind, amount, now_us, name if kind == "grant" else None))  # type: ignore[arg-type]  # drawn
        model.apply(moves[-1])
    return moves


@given(STEPS, st.integers(0, 6))
def test_burning_is_what_happens_to_each_micro(steps: list[tuple[str, int, int, str]], opening: int) -> None:
    model = open_model(opening)
    burning = Burning.before_grants(opening)
    balance = opening
    for move in make_moves(steps, opening):
        model.apply(move)
        burning = burn_entries(burning, [move], GRANTS)
        balance += -move.amount_micros if move.kind in ("usage", "cash", "expiry") else move.amount_micros
        assert burning.balance_micros == balance == model.balance
        assert {name: left for name, left in burning.remaining.items() if left} == {
            name: left for name, left in model.left.items() if left
        }
        assert (burning.bought_micros, burning.cash_debt_micros) == (model.bought, model.owed_cash)
        assert [source for source, amount in burning.burns for _ in range(amount)] == model.burnt
        assert min([burning.bought_micros, burning.usage_debt_micros, burning.cash_debt_micros]) >= 0
        assert min([*burning.claims.values(), *burning.expired.values()], default=0) >= 0


@given(STEPS, st.integers(0, 25))
def test_a_checkpoint_anywhere_changes_nothing(steps: list[tuple[str, int, int, str]], cut: int) -> None:
    moves = make_moves(steps)
    whole = burn_entries(Burning(), moves, GRANTS)
    assert burn_entries(burn_entries(Burning(), moves[:cut], GRANTS), moves[cut:], GRANTS) == whole


@given(STEPS)
def test_without_grants_an_account_that_is_not_below_zero_owes_nothing(steps: list[tuple[str, int, int, str]]) -> None:
    burning = Burning()
    for move in make_moves([step for step in steps if step[0] != "grant"]):
        burning = burn_entries(burning, [move], {})
        if burning.balance_micros >= 0:
            assert replace(burning, burns=()) == Burning.before_grants(burning.balance_micros)


def test_promotional_credit_is_burnt_first_and_never_pays_for_a_refund() -> None:
    moves = [
        Move("bought", 10, 1),
        Move("grant", 10, 2, "a"),
        Move("usage", 5, 3),
        Move("cash", 10, 4),
    ]
    burning = burn_entries(Burning(), moves, GRANTS)
    assert (burning.remaining, burning.bought_micros, burning.cash_debt_micros) == ({"a": 5}, 0, 0)
    # A refund of what was used up already is owed, and promotional credit does not pay it.
    burning = burn_entries(burning, [Move("cash", 3, 5)], GRANTS)
    assert (burning.remaining, burning.cash_debt_micros, burning.balance_micros) == ({"a": 5}, 3, 2)


def test_what_a_correction_gives_back_to_an_expired_grant_is_left_there_to_expire() -> None:
    moves = [Move("grant", 10, 1, "b"), Move("usage", 8, 2), Move("expiry", 2, 31, "b"), Move("correction", 5, 40)]
    burning = burn_entries(Burning(), moves, GRANTS)
    assert burning.remaining == {"b": 5}
    assert burn_entries(burning, [Move("usage", 1, 41)], GRANTS).usage_debt_micros == 1


def test_what_was_used_within_an_expired_grant_and_is_told_late_takes_it_back() -> None:
    moves = [
        Move("bought", 20, 1),
        Move("grant", 10, 1, "b"),
        Move("usage", 2, 2),
        Move("expiry", 8, 31, "b"),
        Move("usage", 5, 32),
    ]
    burning = burn_entries(Burning(), [*moves, Move("usage", 9, 29)], GRANTS)
    # One more than it had: that is of bought credit.
    assert (burning.claims, burning.bought_micros, burning.balance_micros) == ({"b": 8}, 14, 6)
    burning = burn_entries(burning, [Move("return", 8, 33, "b")], GRANTS)
    assert (burning.claims, burning.expired, burning.remaining) == ({"b": 0}, {"b": 0}, {"b": 0})
    assert (burning.bought_micros, burning.balance_micros) == (14, 14)
    assert burn_entries(burning, [Move("correction", 9, 34)], GRANTS).remaining == {"b": 8}


def test_entries_are_read_by_their_class() -> None:
    kinds = {
        ("charge", -5): "usage",
        ("debit_correction", -5): "usage",
        ("credit_correction", 5): "correction",
        ("adjustment", 5): "bought",
        ("adjustment", -5): "cash",
        ("payment", 5): "bought",
        ("refund", -5): "cash",
        ("refund", 5): "bought",
        ("dispute", -5): "cash",
        ("grant", 5): "grant",
        ("expiry", -5): "expiry",
        ("expiry", 5): "return",
    }
    for (entry_class, delta), kind in kinds.items():
        move = read_move(entry_class, delta, 7, "grant/g-1")
        assert (move.kind, move.amount_micros, move.at_us) == (kind, 5, 7)
        assert move.grant_id == ("g-1" if kind in ("grant", "expiry", "return") else None)
