"""JSON objects of a stream: one a line, or spread over lines as kubectl prints them; lists are taken apart."""

from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from deploy.cli.trace_times import RowError

Parsed = dict[str, Any] | RowError


def read_documents(lines: Iterable[str]) -> Iterator[tuple[int, Parsed]]:
    """Each object with the number of its first line, as soon as its last line is there.

    An object that is spread over lines begins and ends with a brace that stands alone at the start of its line.
    """
    begun, parts = 0, list[str]()
    for number, line in enumerate(lines, 1):
        text = line.rstrip()
        if not parts and not text:
            continue
        if not parts:
            begun = number
        parts.append(line)
        if (len(parts) == 1 and text != "{") or (len(parts) > 1 and text == "}"):
            yield from _parse(begun, "".join(parts))
            parts = []
    if parts:
        yield begun, RowError("the file ends within the object that begins here")


def _parse(number: int, text: str) -> Iterator[tuple[int, Parsed]]:
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        yield number, RowError(f"not JSON: {error}")
        return
    if not isinstance(document, dict):
        yield number, RowError("not a JSON object")
    elif isinstance(document.get("items"), list):
        for item in document["items"]:
            yield number, item if isinstance(item, dict) else RowError("an item of the list is no JSON object")
    else:
        yield number, document
