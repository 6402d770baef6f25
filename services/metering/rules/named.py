"""Which names a record that nobody can read may mean: whoever is named in it is in doubt until somebody has looked."""

import re
from collections.abc import Iterable

_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")
_QUOTED = re.compile(r'"([^"]{1,200})"?')
_WORD = re.compile(r"[^\s\"'\\,:;{}\[\]()<>/]{1,200}")


def find_names(parts: Iterable[bytes | None]) -> frozenset[str]:
    """Every word and every quoted text in a record's parts, escapes of JSON undone, cut off or not.

    The parts of an id with separators are names as well: the key `vn/acme` names `acme`.
    """
    found: set[str] = set()
    for part in parts:
        text = (part or b"").decode("utf-8", "replace")
        for version in {text, _ESCAPE.sub(lambda escape: chr(int(escape.group(1), 16)), text)}:
            found.update(name.strip() for name in _QUOTED.findall(version))
            found.update(_WORD.findall(version))
    found.discard("")
    return frozenset(found)
