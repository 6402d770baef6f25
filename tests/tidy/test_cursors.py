"""Every list that is read by pages takes the one kind of cursor: see `shared/cursors.py`."""

from pathlib import Path

import orjson
import pytest

from shared.cursors import PLACE

DOCUMENTS = sorted((Path(__file__).parents[2] / "docs").glob("openapi-*.json"))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_every_place_of_a_page_is_a_cursor(path: Path) -> None:
    paths = orjson.loads(path.read_bytes())["paths"]
    places = {
        (route, parameter["name"]): parameter.get("description")
        for route, methods in paths.items()
        for operation in methods.values()
        for parameter in operation.get("parameters", [])
        if parameter["name"].startswith(("after", "cursor", "offset", "page"))
    }
    assert places
    assert [place for place, description in places.items() if (place[1], description) != ("after", PLACE)] == []
