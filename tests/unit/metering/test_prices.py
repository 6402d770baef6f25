"""Price tables and what a price book may change."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.metering.rules.prices import PriceBook, PriceTable, ServiceRate, check_book

TABLE = PriceTable({("gpu", "h100"): ((100, 5), (200, 7)), ("storage", "persistent"): ((100, 1),)}, 3)


def book(effective_from_us: int, version: int = 4, **gpu: int) -> PriceBook:
    return PriceBook("vn", version, effective_from_us, gpu=gpu)


def test_a_price_holds_from_its_instant_on() -> None:
    prices = {at_us: TABLE.unit_price("gpu", "h100", at_us) for at_us in (99, 100, 199, 200, 10**18)}
    assert prices == {99: None, 100: 5, 199: 5, 200: 7, 10**18: 7}
    assert TABLE.unit_price("gpu", "unknown", 500) is None
    assert TABLE.unit_price("storage", "h100", 500) is None


def test_boundaries_lie_strictly_inside() -> None:
    assert TABLE.boundaries("gpu", "h100", 0, 1000) == (100, 200)
    assert TABLE.boundaries("gpu", "h100", 100, 200) == ()
    assert TABLE.boundaries("gpu", "h100", 99, 201) == (100, 200)
    assert TABLE.boundaries("gpu", "unknown", 0, 1000) == ()


POINTS = st.dictionaries(st.integers(0, 40), st.integers(0, 9), max_size=6)


@given(POINTS, st.integers(-5, 45), st.integers(-5, 45))
def test_lookups_agree_with_a_search(points: dict[int, int], at_us: int, to_us: int) -> None:
    table = PriceTable({("gpu", "x"): tuple(sorted(points.items()))})
    past = [instant for instant in points if instant <= at_us]
    assert table.unit_price("gpu", "x", at_us) == (points[max(past)] if past else None)
    inside = tuple(sorted(instant for instant in points if at_us < instant < to_us))
    assert table.boundaries("gpu", "x", at_us, to_us) == inside


@given(POINTS, st.integers(0, 40), st.integers(0, 9), st.integers(0, 40))
def test_an_admitted_book_changes_no_price_that_was_charged(
    points: dict[int, int], effective_from_us: int, price: int, through_us: int
) -> None:
    table = PriceTable({("gpu", "x"): tuple(sorted(points.items()))})
    new = book(effective_from_us, 1, x=price)
    problems = check_book(table, new, through_us)
    changed = table.with_book(new)
    charged = [
        at_us
        for at_us in range(through_us + 1)
        if changed.unit_price("gpu", "x", at_us) != table.unit_price("gpu", "x", at_us)
    ]
    if not problems:
        assert not (points and charged)
    elif price in points.values():
        assert effective_from_us <= through_us
    assert bool(problems) == bool(
        points and effective_from_us <= through_us and table.unit_price("gpu", "x", effective_from_us) != price
    )


def test_a_book_changes_only_what_it_names() -> None:
    changed = TABLE.with_book(book(300, h100=9, a30=2))
    assert changed.version == 4
    assert changed.schedule("gpu", "h100") == ((100, 5), (200, 7), (300, 9))
    assert changed.schedule("gpu", "a30") == ((300, 2),)
    assert changed.schedule("storage", "persistent") == ((100, 1),)
    assert TABLE.schedule("gpu", "a30") == ()


def test_a_change_takes_effect_later_than_what_is_charged() -> None:
    assert check_book(TABLE, book(301, h100=9), 300) == []
    for effective_from_us in (300, 150, 50):
        [problem] = check_book(TABLE, book(effective_from_us, h100=9), 300)
        assert problem.startswith("gpu h100: the price would change")


def test_a_first_price_may_reach_back_and_a_repeated_one_changes_nothing() -> None:
    assert check_book(TABLE, book(10, a30=2), 300) == []
    assert check_book(TABLE, book(250, h100=7), 300) == []
    assert len(check_book(TABLE, book(50, h100=5), 300)) == 1


def test_nonsense_is_refused() -> None:
    services = {"tokens": ServiceRate(0, "tokens", 4), "images": ServiceRate(1, "images", -1)}
    nonsense = PriceBook("vn", 3, 400, {"h100": -1}, {"tape": 1}, services)
    problems = check_book(TABLE, nonsense, 300)
    for part in ("gpu h100: the price is neg", "service images: the price is neg", "unit size 0", "tape", "version 3"):
        assert any(part in problem for problem in problems), part
    assert check_book(TABLE, PriceBook("vn", 4, 400), 300) == ["the book names no SKU"]


def test_a_service_has_a_unit_and_changing_it_changes_the_price() -> None:
    rate = ServiceRate(1000, "tokens", 400)
    table = TABLE.with_book(PriceBook("vn", 4, 400, services={"inference": rate}))
    assert table.service_rate("inference", 399) is None
    assert table.service_rate("inference", 400) == rate
    assert table.unit_price("service", "inference", 400) == 400
    assert check_book(table, PriceBook("vn", 5, 450, services={"inference": rate}), 500) == []
    other = PriceBook("vn", 5, 450, services={"inference": ServiceRate(1, "tokens", 400)})
    assert len(check_book(table, other, 500)) == 1


@pytest.mark.parametrize(("kind", "quantity_max"), [("gpu", 4096), ("storage", 100_000_000)])
@pytest.mark.parametrize("slot_seconds", [1, 60, 3600])
def test_the_highest_price_of_the_largest_resource_can_be_charged(
    kind: str, quantity_max: int, slot_seconds: int
) -> None:
    def problems(price_micros: int) -> list[str]:
        gpu, storage = ({"x": price_micros}, {}) if kind == "gpu" else ({}, {"persistent": price_micros})
        new = PriceBook("vn", 1, 1000, gpu=gpu, storage=storage)
        return check_book(PriceTable(), new, 0, slot_seconds)

    lowest, highest = 0, 2**63
    while lowest + 1 < highest:
        middle = (lowest + highest) // 2
        lowest, highest = (lowest, middle) if problems(middle) else (middle, highest)
    # An hour of it, or its longest slot, is an entry of the ledger.
    assert lowest * quantity_max * max(slot_seconds, 3600) < 2**63
    assert lowest > 10**7, "ten units of currency an hour are no odd price"
    [problem] = problems(highest)
    assert "the most that can be charged" in problem
