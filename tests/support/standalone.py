"""Infrastructure of a program that is not pytest, tidied up where it outlives the program."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from deploy.local.infrastructure.probes import run_async
from deploy.local.settings import LocalSettings
from tests.support.databases import Databases
from tests.support.infrastructure import SessionInfrastructure
from tests.support.topics import delete_session_topics


@dataclass(frozen=True, slots=True)
class Servers:
    """What a cluster needs of them."""

    databases: Databases
    bootstrap: str


@contextlib.contextmanager
def open_servers() -> Iterator[Servers]:
    """Start Kafka and PostgreSQL, or use those of the environment; leave neither topics nor databases behind."""
    infrastructure = SessionInfrastructure()
    try:
        databases = Databases(infrastructure.postgres_url)
        yield Servers(databases, infrastructure.kafka_bootstrap)
        run_async(databases.drop_templates())
        if LocalSettings.read().kafka_bootstrap:
            run_async(delete_session_topics(infrastructure.kafka_bootstrap))
    finally:
        infrastructure.stop()
