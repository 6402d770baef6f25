"""What a settlement publishes after a restore: exactly what is due less what was charged, and no more than that."""

from hypothesis import given
from hypothesis import strategies as st

from services.metering.rules.charge import charge, total
from services.metering.rules.lines import Line
from services.metering.rules.restore import Charged, charged_of, settlement_lines
from tests.unit.metering.lives import Case, cases

AMOUNTS = st.integers(-(10**12), 10**12)
CHARGED = st.builds(
    Charged, st.sampled_from(["a30", "h100"]), st.integers(0, 99), st.integers(-9, 99), st.integers(0, 10**9), AMOUNTS
)
BY_KIND = st.dictionaries(st.sampled_from(["gpu", "storage", "tokens"]), CHARGED)


@given(BY_KIND, BY_KIND)
def test_a_settlement_makes_what_was_charged_what_is_due(charged: dict[str, Charged], due: dict[str, Charged]) -> None:
    lines = settlement_lines(charged, due)
    assert len({line.kind for line in lines}) == len(lines)
    for kind in {*charged, *due}:
        moved = sum(line.amount_micros for line in lines if line.kind == kind)
        before = charged[kind].amount_micros if kind in charged else 0
        assert before + moved == (due[kind].amount_micros if kind in due else 0)
    assert all((line.class_ == "credit_correction") == (line.amount_micros < 0) for line in lines)
    assert all(line.amount_micros for line in lines), "what is right already is not corrected"


@given(BY_KIND)
def test_what_was_charged_right_publishes_nothing(charged: dict[str, Charged]) -> None:
    assert settlement_lines(charged, charged) == ()


@given(cases())
def test_what_is_due_by_kind_is_what_the_charge_says(case: Case) -> None:
    segments = charge(case.history, case.prices, case.through_us)
    due = charged_of(segments)
    assert {kind: item.amount_micros for kind, item in due.items()} == total(segments)
    for kind, item in due.items():
        assert item.slots == sum(segment.slots for segment in segments if segment.kind == kind)


@given(cases())
def test_a_backup_and_the_lines_since_settle_to_what_is_due_now(case: Case) -> None:
    """The backup's charge plus the lines adopted needs no correction; against the backup alone they are taken back."""
    now = charged_of(charge(case.history, case.prices, case.through_us))
    backup = charged_of(charge(case.history, case.prices, case.through_us - 3_600_000_000))
    adopted = settlement_lines(backup, now)
    charged = dict(backup)
    for line in adopted:
        item = _as_charged(line)
        charged[line.kind] = charged[line.kind].plus(item) if line.kind in charged else item
    assert settlement_lines(charged, now) == ()
    back = settlement_lines(charged, backup)
    assert sorted(line.amount_micros for line in back) == sorted(-line.amount_micros for line in adopted)


def _as_charged(line: Line) -> Charged:
    return Charged(line.sku, line.slot_from, line.slots, line.price_micros, line.amount_micros)
