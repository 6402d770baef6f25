"""CSV that spreadsheets open: names can't start a formula, and figures are the figures."""

import csv
import io

from hypothesis import given
from hypothesis import strategies as st

from shared.csv_text import format_csv
from tests.support.formula_names import FORMULA_NAMES


def read(content: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(content.decode(), newline="")))


def test_names_are_shown_and_not_run() -> None:
    for name, shown in FORMULA_NAMES.items():
        assert read(format_csv([(name, 1)])) == [[shown, "1"]]


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.integers())
def test_no_text_starts_a_formula_and_every_text_can_be_read_back(text: str, number: int) -> None:
    [[cell, figure]] = read(format_csv([(text, number)]))
    assert cell[0] not in "=+-@\t\r\n"
    assert cell in {text, f"'{text}"}
    assert figure == str(number)


def test_figures_stay_figures_also_where_they_are_text() -> None:
    assert format_csv([("-5", -5, "-12.50", None)], figures={2}) == b"'-5,-5,-12.50,\r\n"
