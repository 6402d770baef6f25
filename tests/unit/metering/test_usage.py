"""Usage of other services: rounded over the sum, so that order and cutting do not matter."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.metering.rules.usage import usage_amount


@given(st.lists(st.integers(0, 10**9)), st.integers(1, 10**6), st.integers(0, 10**9))
def test_amounts_add_up_to_the_price_of_the_sum(quantities: list[int], unit_size: int, price_micros: int) -> None:
    used, amount_micros = 0, 0
    for quantity in quantities:
        line_micros = usage_amount(used, quantity, unit_size, price_micros)
        assert line_micros >= 0
        used, amount_micros = used + quantity, amount_micros + line_micros
    assert amount_micros == sum(quantities) * price_micros // unit_size


@pytest.mark.parametrize("wrong", [(0, 1, 0, 1), (-1, 1, 1, 1), (0, -1, 1, 1), (0, 1, 1, -1)])
def test_nonsense_is_refused(wrong: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"positive|negative"):
        usage_amount(*wrong)
