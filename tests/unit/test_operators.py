"""An operator's word is short enough to read, and can be written."""

import pytest
from pydantic import ValidationError

from shared.operators import OperatorWord


def test_a_name_and_a_reason() -> None:
    assert OperatorWord(actor="An", reason="đã tìm ra").reason == "đã tìm ra"


@pytest.mark.parametrize(
    "word",
    [
        {"actor": "", "reason": "x"},
        {"actor": "An"},
        {"actor": "An", "reason": "x\0"},
        {"actor": "An\0", "reason": "x"},
        {"actor": "An", "reason": "x" * 2001},
        {"actor": "An", "reason": "x", "force": True},
    ],
)
def test_what_is_none_is_refused(word: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        OperatorWord.model_validate(word)
