"""Cursors of pages: opaque to callers; to us the name of a list and the key after which its next page begins.

A cursor of another list, account or version of the list is refused: read as a place of this list, it would skip rows.
"""

import base64
import binascii
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Generic, TypeVar

import orjson
from fastapi import Query

from shared.clock import from_us
from shared.errors import Refusal

CURSOR_CHARS_MAX = 4000
INTEGER_MAX = 2**63 - 1

PLACE = "The `next` of the page before; none for the first."
After = Annotated[str | None, Query(description=PLACE)]

KeyT = TypeVar("KeyT", bound=tuple[int | str, ...])


@dataclass(frozen=True, slots=True)
class Cursors(Generic[KeyT]):
    """The cursors of one list. `first` is the place before all items; its parts are of the types of every key's.

    `instants` are the parts of a key that are instants, by position.
    """

    name: str
    first: KeyT
    instants: Collection[int] = ()

    def write(self, key: KeyT | None, *scope: str) -> str | None:
        """The cursor of the page after `key`, or None where there is none; `scope` is whose list it is."""
        if key is None:
            return None
        return base64.urlsafe_b64encode(orjson.dumps([self.name, *scope, *key])).decode()

    def read(self, cursor: str | None, *scope: str) -> KeyT:
        """The key after which the page begins. Raises Refusal for what is no cursor of this list."""
        if cursor is None:
            return self.first
        if len(cursor) > CURSOR_CHARS_MAX:
            raise not_of_this_list()
        try:
            found = orjson.loads(base64.b64decode(cursor, altchars=b"-_", validate=True))
        except (binascii.Error, ValueError) as error:
            raise not_of_this_list() from error
        prefix = [self.name, *scope]
        if not isinstance(found, list) or found[: len(prefix)] != prefix:
            raise not_of_this_list()
        key = tuple(found[len(prefix) :])
        if [type(part) for part in key] != [type(part) for part in self.first] or not all(map(_is_bounded, key)):
            raise not_of_this_list()
        try:
            for position in self.instants:
                from_us(key[position])
        except OverflowError as error:
            raise not_of_this_list() from error
        return key  # type: ignore[return-value]  # its parts were just held against those of `first`


def _is_bounded(part: int | str) -> bool:
    """Whether PostgreSQL takes a part of a key as a bigint or a text."""
    return "\0" not in part if isinstance(part, str) else -INTEGER_MAX - 1 <= part <= INTEGER_MAX


def not_of_this_list() -> Refusal:
    return Refusal("invalid-cursor", "`after` is the `next` of the page before, of this same list", status=422)
