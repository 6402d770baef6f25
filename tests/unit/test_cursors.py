"""A cursor takes its reader on in the list that gave it, and nowhere else."""

import base64
import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.cursors import INTEGER_MAX, Cursors
from shared.errors import Refusal

LIST = Cursors("entries", (0, ""), instants=())
DATED = Cursors("refunds", (0, ""), instants=(0,))

_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.just("a"), inner),
)


def _encode(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


@given(st.integers(-INTEGER_MAX - 1, INTEGER_MAX), _TEXT, st.sampled_from([(), ("vn", "acme")]))
def test_what_a_list_wrote_it_reads(number: int, name: str, scope: tuple[str, ...]) -> None:
    assert LIST.read(LIST.write((number, name), *scope), *scope) == (number, name)


def test_the_first_page_has_no_cursor_and_the_last_one_gives_none() -> None:
    assert LIST.read(None) == (0, "")
    assert LIST.write(None) is None


@pytest.mark.parametrize(
    ("name", "scope"),
    [("accounts", ("vn", "acme")), ("entries", ("vn", "other")), ("entries", ()), ("entries", ("vn",))],
)
def test_a_cursor_of_another_list_or_account_is_refused(name: str, scope: tuple[str, ...]) -> None:
    foreign = Cursors(name, (0, "")).write((7, "x"), *scope)
    with pytest.raises(Refusal, match="of this same list"):
        LIST.read(foreign, "vn", "acme")


@given(st.text() | st.binary().map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(Refusal):
        LIST.read(cursor)


@given(_JSON)
def test_a_key_that_no_list_wrote_is_refused_or_has_the_key_s_types(value: object) -> None:
    cursor = _encode(["refunds", *value] if isinstance(value, list) else value)
    with suppress(Refusal):
        number, name = DATED.read(cursor)
        assert (type(number), type(name)) == (int, str)


@pytest.mark.parametrize("key", [[True, ""], [2**63, ""], [0, "\0"], [2**62, ""], [0], [0, "", ""], ["0", ""]])
def test_keys_that_the_database_would_not_take_are_refused(key: list[object]) -> None:
    with pytest.raises(Refusal):
        DATED.read(_encode(["refunds", *key]))
