"""The measurement of intake itself, on a small fleet: what it times was taken in right."""

import pytest

from tests.bench.intake import measure, measure_hot
from tests.bench.inventory import measure_inventory
from tests.support.databases import Databases
from tests.support.standalone import Servers

pytestmark = pytest.mark.process


def test_a_small_fleet_is_taken_in_and_costs_what_the_oracle_says(databases: Databases, kafka_bootstrap: str) -> None:
    assert measure(Servers(databases, kafka_bootstrap), "anywhere", tenants=2, shards=8).wrong == 0


@pytest.mark.parametrize("reverse", [False, True])
def test_one_containers_many_events_are_taken_in_right(
    databases: Databases, kafka_bootstrap: str, *, reverse: bool
) -> None:
    hot = measure_hot(Servers(databases, kafka_bootstrap), events=40, shards=4, reverse=reverse)
    assert (hot.wrong, hot.first > 0, hot.last > 0) == (0, True, True)


def test_a_listed_fleet_is_confirmed_and_charged_on(databases: Databases, kafka_bootstrap: str) -> None:
    listed = measure_inventory(Servers(databases, kafka_bootstrap), tenants=12, shards=4)
    assert (listed.resources, listed.contradictions, listed.wrong) == (1200, 0, 0)
