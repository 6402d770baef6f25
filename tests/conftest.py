"""Fixtures of all tests: real Kafka and PostgreSQL, fresh databases, topic prefixes."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
from hypothesis import HealthCheck, settings

from deploy.local.infrastructure.probes import run_async
from deploy.local.settings import LocalSettings
from tests.support.databases import Databases
from tests.support.infrastructure import SessionInfrastructure
from tests.support.topics import delete_session_topics, prefix_of

# How long an example takes says what else the machine is doing, and nothing of the rule: speed lives in the benchmark.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

MakeDatabase = Callable[[str], Awaitable[tuple[str, str]]]
MakeDatabaseBlocking = Callable[[str], tuple[str, str]]


@pytest.fixture(scope="session")
def infrastructure() -> Iterator[SessionInfrastructure]:
    """Kafka and PostgreSQL, each started at its first use."""
    servers = SessionInfrastructure()
    yield servers
    servers.stop()


@pytest.fixture(scope="session")
def postgres_admin_url(infrastructure: SessionInfrastructure) -> str:
    """The administrator's address of the session's PostgreSQL."""
    return infrastructure.postgres_url


@pytest.fixture(scope="session")
def kafka_bootstrap(infrastructure: SessionInfrastructure) -> Iterator[str]:
    """The address of the session's Kafka. On one that outlives the session, the session's topics are deleted."""
    yield infrastructure.kafka_bootstrap
    if LocalSettings.read().kafka_bootstrap:
        run_async(delete_session_topics(infrastructure.kafka_bootstrap))


@pytest.fixture(scope="session")
def databases(postgres_admin_url: str) -> Iterator[Databases]:
    made = Databases(postgres_admin_url)
    yield made
    run_async(made.drop_templates())


@pytest.fixture
async def make_database(databases: Databases) -> AsyncIterator[MakeDatabase]:
    """Give fresh migrated databases, dropped after the test: `owner_url, app_url = await make(...)` with a service."""
    names: list[str] = []

    async def make(service: str) -> tuple[str, str]:
        name, owner_url, app_url = await databases.make(service)
        names.append(name)
        return owner_url, app_url

    yield make
    for name in names:
        await databases.drop(name)


@pytest.fixture(scope="module")
def make_module_database(databases: Databases) -> Iterator[MakeDatabaseBlocking]:
    """Give databases that a module's tests share, without await."""
    names: list[str] = []

    def make(service: str) -> tuple[str, str]:
        name, owner_url, app_url = run_async(databases.make(service))
        names.append(name)
        return owner_url, app_url

    yield make
    for name in names:
        run_async(databases.drop(name))


@pytest.fixture
def topic_prefix(request: pytest.FixtureRequest) -> str:
    """A topic prefix that no other test, and no other run, has."""
    return prefix_of(request.node.nodeid)
