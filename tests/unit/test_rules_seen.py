"""Holes that planted bugs found in the tests of pure rules: each has a check here, and the bug that proves it."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.balance.rules.payments import effect_of
from services.balance.rules.posting import Cause, SideTable, lay_out
from services.balance.wire import WireAccount
from services.metering import columns
from services.metering.columns import Rated, advance, build_rows
from services.metering.rules.acceptance import APPLY, admit
from services.metering.rules.charge import charge, steady, total
from services.metering.rules.history import Event, History
from services.metering.rules.lines import _growth, tick_lines
from shared.errors import RecordError
from shared.money import parse_micros
from tests.balance.facts import dispute_closed
from tests.support.planting import plant
from tests.unit.metering.lives import CREATED_US, SECOND_US, UNIT_PRICES, Case, resting_cases

KINDS = ("gpu", "storage")


def bill_by_columns(case: Case, offsets_us: list[int], changes: dict[tuple[int, int], int], factor: int) -> None:
    """The columns of a tick bill what the charge function bills, window by window, whatever prices change in them."""
    points = {key: [(at_us, price * factor) for at_us, price in entries] for key, entries in case.points.items()}
    for (which, offset_us), price in changes.items():
        key = sorted(points)[which % len(points)]
        if points[key]:
            changed = dict(points[key]) | {case.through_us + offset_us: price * factor}
            points[key] = sorted(changed.items())
    prices = Case(case.history, points, 0).prices
    rest = steady(case.history, prices, case.through_us)
    if rest is None:
        return
    rated = [Rated("vn", cursor.kind, cursor.sku) for cursor in rest.cursors]
    entries = [(0, place, "ctr-1", case.history.slot_seconds, cursor) for place, cursor in enumerate(rest.cursors)]
    rows, through_us = build_rows(entries), case.through_us
    before = total(charge(case.history, prices, through_us))
    for offset_us in offsets_us:
        rows, lines = advance(rows, rated, {"vn": prices}, through_us, through_us + offset_us)
        through_us += offset_us
        after = total(charge(case.history, prices, through_us))
        billed = dict.fromkeys(KINDS, 0)
        for index, amount in zip(lines.rated.tolist(), lines.amount_micros.tolist(), strict=True):
            billed[rated[index].kind] += amount
        grown = {kind: after.get(kind, 0) - before.get(kind, 0) for kind in KINDS}
        unpriced = {kind for kind, _ in rest.unpriced}
        assert {kind: billed[kind] for kind in KINDS if kind not in unpriced} == {
            kind: grown[kind] for kind in KINDS if kind not in unpriced
        }
        before = after


# A container of two GPUs and storage at rest, whose slots of seven seconds leave a remainder of each kind.
RESTING = Case(
    History(
        (
            Event("p", "e0", "container.created", CREATED_US, gpu_sku="h100", gpu_count=2, storage_gb=7),
            Event("p", "e1", "container.started", CREATED_US),
        ),
        7,
    ),
    {("gpu", "a30"): [(0, 1)], ("gpu", "h100"): [(0, 2_540_001)], ("storage", "persistent"): [(0, 131)]},
    CREATED_US + 3 * 7 * SECOND_US,
)
FEW_SLOTS_US = [7 * SECOND_US] * 3


@given(
    resting_cases(),
    st.lists(st.integers(0, 3000 * SECOND_US), min_size=1, max_size=4),
    st.dictionaries(st.tuples(st.integers(0, 2), st.integers(0, 4000 * SECOND_US)), UNIT_PRICES, max_size=3),
    st.sampled_from([1, 1, 10**6, 10**9]),
)
@example(RESTING, FEW_SLOTS_US, {}, 1)
@example(RESTING, [7 * SECOND_US, 0, 2**20 * 7 * SECOND_US], {}, 10**6)
@example(RESTING, FEW_SLOTS_US, {(1, 8 * SECOND_US): 59, (2, 9 * SECOND_US): 3}, 10**9)
def test_columns_bill_what_the_charge_bills(
    case: Case, offsets_us: list[int], changes: dict[tuple[int, int], int], factor: int
) -> None:
    slot_us = case.history.slot_seconds * SECOND_US
    # Amounts must fit 64 bits: at the greatest prices only a few slots are asked for at once.
    bounded = [min(offset_us, 4 * slot_us) if factor == 10**9 else offset_us for offset_us in offsets_us]
    bill_by_columns(case, bounded, changes, factor)


@given(st.integers(-(10**12), 10**12), st.integers(0, 5))
def test_a_decimal_is_read_the_same_with_zeros_behind_it(micros: int, zeros: int) -> None:
    sign, whole, fraction = "-" * (micros < 0), *divmod(abs(micros), 10**6)
    assert parse_micros(f"{sign}{whole}.{fraction:06d}{'0' * zeros}") == micros


totals = st.lists(
    st.tuples(
        st.sampled_from(["gpu", "storage", "tokens"]),
        st.sampled_from(["charge", "debit_correction", "credit_correction"]),
        st.integers(1, 9),
    ),
    unique_by=lambda item: item[:2],
    max_size=5,
)


@given(totals)
@example([("gpu", "charge", 5), ("gpu", "credit_correction", 3)])
def test_an_accounts_entries_begin_with_what_is_in_its_favour(drawn: list[tuple[str, Any, int]]) -> None:
    signed = [(kind, name, -amount if name == "credit_correction" else amount) for kind, name, amount in drawn]
    account = WireAccount("vn", "acme", 0, signed, len(signed))
    posting = lay_out([(1, 0, account)], [Cause(0, seq=1)], SideTable())
    sides = [posting.sides[entry[4]] for entry in posting.entries]
    order = ["credit_correction", "debit_correction", "charge"]
    ranks = [(order.index(side.entry_class), f"{side.debit_account} {side.credit_account}") for side in sides]
    assert len(ranks) == len(drawn)
    assert ranks == sorted(ranks)


def test_a_container_without_gpus_and_a_volume_of_nothing_are_taken() -> None:
    for event in (
        Event("p", "c", "container.created", CREATED_US, gpu_count=0, storage_gb=0),
        Event("p", "v", "volume.created", CREATED_US, storage_gb=0),
    ):
        assert admit(None, None, event, "acme", CREATED_US, 0) == APPLY


def test_a_line_after_a_gap_begins_behind_the_last_range() -> None:
    moments = [("started", 0), ("stopped", 60), ("started", 180)]
    events = [
        Event("p", f"e{number}", f"container.{verb}", CREATED_US + seconds * SECOND_US)
        for number, (verb, seconds) in enumerate(moments, start=1)
    ]
    history = History((RESTING.history.events[0], *events), 60)
    upto = [charge(history, RESTING.prices, CREATED_US + minutes * 60 * SECOND_US) for minutes in (4, 5)]
    [gpu] = [line for line in tick_lines(*upto) if line.kind == "gpu"]
    assert (gpu.slot_from, gpu.slots) == (4, 1)


def test_a_closed_dispute_gives_or_takes_but_not_both() -> None:
    with pytest.raises(RecordError, match="not both"):
        effect_of(dispute_closed("stripe:pi_1", "d1", returned=5, withdrawn=3))
    for moved, event in (
        (5, dispute_closed("stripe:pi_1", "d1", returned=5)),
        (-3, dispute_closed("stripe:pi_1", "d1", withdrawn=3)),
    ):
        effect = effect_of(event)
        assert effect is not None
        assert (effect.moved_micros, effect.hold) == (moved, ("d1", 0))


PLANTS: dict[str, tuple[Callable[[], None], Callable[..., Any], str, str]] = {
    "the big numbers' remainder is the amount": (
        test_columns_bill_what_the_charge_bills,
        columns._divide,
        "divmod(n * p * s + r, HOUR_SECONDS)",
        "divmod(HOUR_SECONDS, n * p * s + r)",
    ),
    "big numbers are computed in 64 bits": (
        test_columns_bill_what_the_charge_bills,
        columns._divide,
        "< _SAFE",
        "< 2**80",
    ),
    "a cursor takes another kind's remainder": (
        test_columns_bill_what_the_charge_bills,
        steady,
        " if segment.kind == kind",
        "",
    ),
    "a new price is forgotten": (
        test_columns_bill_what_the_charge_bills,
        columns._reprice,
        "mask = rows.rated == index",
        "mask = rows.rated == -1",
    ),
    "seven decimals are read": (
        test_a_decimal_is_read_the_same_with_zeros_behind_it,
        parse_micros,
        "fraction[:6].ljust",
        "fraction[:7].ljust",
    ),
    "two totals are not sorted": (
        test_an_accounts_entries_begin_with_what_is_in_its_favour,
        lay_out,
        "len(totals) > 1",
        "len(totals) > 2",
    ),
    "nothing is less than nothing": (
        test_a_container_without_gpus_and_a_volume_of_nothing_are_taken,
        admit,
        "amount < 0",
        "amount <= 0",
    ),
    "the first range ends the slots": (
        test_a_line_after_a_gap_begins_behind_the_last_range,
        _growth,
        "was.ranges[-1]",
        "was.ranges[0]",
    ),
    "a dispute gives and takes": (
        test_a_closed_dispute_gives_or_takes_but_not_both,
        effect_of.__globals__["_money_effect"],
        "closed.returned_micros and closed.withdrawn_micros",
        "closed.returned_micros and not closed.returned_micros",
    ),
}


@pytest.mark.parametrize("name", PLANTS)
def test_the_bug_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check, target, right, wrong = PLANTS[name]
    plant(monkeypatch, target, right, wrong)
    with pytest.raises((Exception, pytest.fail.Exception)):
        check()
