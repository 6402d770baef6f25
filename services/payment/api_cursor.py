"""Cursors of pages: opaque to callers, a number to us."""

import base64
import binascii

from shared.errors import Refusal


def write_cursor(number: int | None) -> str | None:
    return None if number is None else base64.urlsafe_b64encode(str(number).encode()).decode()


def read_cursor(cursor: str | None) -> int | None:
    """The number of a cursor. Raises Refusal for what is none."""
    if cursor is None:
        return None
    try:
        number = int(base64.urlsafe_b64decode(cursor).decode("ascii"))
    except (binascii.Error, ValueError) as error:
        raise Refusal("invalid-cursor", "`after` is the `next` of the page before", status=422) from error
    if not 0 <= number < 2**63:
        raise Refusal("invalid-cursor", "`after` is the `next` of the page before", status=422)
    return number
