"""One town for all tests of this folder; each has tenants of its own."""

from collections.abc import Iterator

import pytest

from tests.standins.town import Town
from tests.support.databases import Databases
from tests.support.infrastructure import temporary_home
from tests.support.topics import prefix_of


@pytest.fixture(scope="module")
def town(request: pytest.FixtureRequest, databases: Databases, kafka_bootstrap: str) -> Iterator[Town]:
    with temporary_home() as home, Town(home, databases, kafka_bootstrap, prefix_of(request.node.nodeid)) as made:
        yield made
