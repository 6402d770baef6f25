"""The measurement of intake itself, on a small fleet: what it times was taken in right."""

import pytest

from tests.bench.intake import measure
from tests.support.databases import Databases
from tests.support.standalone import Servers

pytestmark = pytest.mark.process


def test_a_small_fleet_is_taken_in_and_costs_what_the_oracle_says(databases: Databases, kafka_bootstrap: str) -> None:
    assert measure(Servers(databases, kafka_bootstrap), "anywhere", tenants=2, shards=8).wrong == 0
