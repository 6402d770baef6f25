"""Fixtures of the system tests: clusters on the session's Kafka and PostgreSQL."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Protocol

import pytest

from tests.fleet.making import REGIONS
from tests.support.databases import Databases
from tests.support.infrastructure import temporary_home
from tests.support.topics import prefix_of
from tests.system.cluster import Cluster

# A Thursday, at midnight: days and months change within some of the stories.
START_US = 1_767_225_600_000_000


class MakeCluster(Protocol):
    def __call__(self, **options: Any) -> Cluster: ...


@pytest.fixture
def make_cluster(
    request: pytest.FixtureRequest, databases: Databases, kafka_bootstrap: str
) -> Iterator[Callable[..., Cluster]]:
    """Start clusters (options as those of Cluster) that end with the test, the logs of a failed test on its output."""
    with ExitStack() as stack:
        made: list[Cluster] = []

        def make(**options: Any) -> Cluster:
            cluster = Cluster(
                stack.enter_context(temporary_home()),
                **{
                    "databases": databases,
                    "bootstrap": kafka_bootstrap,
                    "prefix": f"{prefix_of(request.node.nodeid)}{len(made)}.",
                    "regions": REGIONS,
                    "start_us": START_US,
                    **options,
                },
            )
            made.append(stack.enter_context(cluster))
            return cluster

        yield make
