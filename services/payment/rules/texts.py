"""Texts that payers typed somewhere else, made fit to be kept and shown."""

import unicodedata
from typing import Final

NAME_MAX: Final = 200
EMAIL_MAX: Final = 254
CODE_MAX: Final = 100

# They join letters of one word in Persian, Hindi and emoji; other invisible characters turn a line's direction.
_JOINERS: Final = "\u200c\u200d"


def clean_text(value: object, length_max: int) -> str | None:
    """Text in one line without control characters, composed (NFC), cut to a length; None where nothing is left of it.

    What is no text is none: a payer's name never decides whether a payment is credited.
    """
    if not isinstance(value, str):
        return None
    shown = "".join(_clean_character(character) for character in unicodedata.normalize("NFC", value[: length_max * 4]))
    return " ".join(shown.split())[:length_max].strip() or None


def _clean_character(character: str) -> str:
    match unicodedata.category(character)[0]:
        case "Z":
            return " "
        case "C" if character in "\t\n\r":
            return " "
        case "C" if character not in _JOINERS:
            return ""
    return character
