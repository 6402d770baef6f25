"""Reading RFC 3339, against the oracle's own reader."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.clock import parse_instant
from tests.oracle.instants import instant


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00Z"),
        ("2016-12-31T23:59:60.25Z", "2017-01-01T00:00:00.25Z"),
        ("1990-12-31T15:59:60-08:00", "1991-01-01T00:00:00Z"),
        ("2017-01-01T06:59:60+07:00", "2017-01-01T00:00:00Z"),
        ("2027-01-31t23:59:60z", "2027-02-01T00:00:00Z"),
    ],
)
def test_leap_seconds_are_read(text: str, same: str) -> None:
    """A `stopped` in a leap second was dead and its container charged on."""
    assert parse_instant(text) == parse_instant(same) == instant(text)


@pytest.mark.parametrize(
    "text",
    [
        "2016-12-31T23:58:60Z",
        "2016-12-30T23:59:60Z",
        "2016-12-31T23:59:61Z",
        "2016-12-31T22:59:60Z",
        "2016-12-31T23:59:60+07:00",
        "9999-12-31T23:59:60Z",
    ],
)
def test_a_second_sixty_elsewhere_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a possible date and time"):
        parse_instant(text)


@given(
    st.datetimes(),
    st.integers(0, 60),
    st.integers(-23 * 60 - 59, 23 * 60 + 59),
)
def test_both_readers_agree(moment: object, second: int, offset: int) -> None:
    zone = f"{'-' if offset < 0 else '+'}{abs(offset) // 60:02}:{abs(offset) % 60:02}"
    text = f"{str(moment)[:10]}T{str(moment)[11:17]}{second:02}{zone}"

    def read(reader: object) -> object:
        try:
            return reader(text)  # type: ignore[operator]
        except (ValueError, OverflowError):
            return None

    assert read(parse_instant) == read(instant)
