"""Kafka and PostgreSQL of a test session: by address, else containers, else embedded servers in a folder of its own."""

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from deploy.local.infrastructure import docker
from deploy.local.infrastructure.kafka import EmbeddedKafka
from deploy.local.infrastructure.postgres import EmbeddedPostgres
from deploy.local.ports import find_free_port
from deploy.local.settings import LocalSettings


@contextlib.contextmanager
def temporary_home(prefix: str = "tollkeeper-test-") -> Iterator[Path]:
    """A data directory that PostgreSQL's unprivileged user can reach too (pytest's own folders are private)."""
    home = Path(tempfile.mkdtemp(prefix=prefix))
    home.chmod(0o711)
    try:
        yield home
    finally:
        shutil.rmtree(home)


def make_postgres(home: Path) -> EmbeddedPostgres:
    """One server of a test's own, to stop, kill and restart; a context manager."""
    return EmbeddedPostgres(home, port=find_free_port(), cache=LocalSettings.read().cache)


def make_kafka(home: Path) -> EmbeddedKafka:
    """One node of a test's own, to stop, kill and restart; a context manager."""
    return EmbeddedKafka(home, port=find_free_port(), cache=LocalSettings.read().cache)


class SessionInfrastructure:
    """Starts each server at its first use, once a session; a run of unit tests alone starts none."""

    def __init__(self) -> None:
        self._settings = LocalSettings.read()
        self._stops = contextlib.ExitStack()
        self._home: Path | None = None
        self._postgres = self._settings.postgres_url
        self._kafka = self._settings.kafka_bootstrap

    @property
    def postgres_url(self) -> str:
        """The administrator's address."""
        if self._postgres is None:
            self._postgres = self._start_postgres()
        return self._postgres

    @property
    def kafka_bootstrap(self) -> str:
        if self._kafka is None:
            self._kafka = self._start_kafka()
        return self._kafka

    def stop(self) -> None:
        self._stops.close()

    def _start_postgres(self) -> str:
        if self._engine_answers():
            from tests.support.containers import postgres_container  # noqa: PLC0415 - only where there is an engine

            if url := self._try_container(postgres_container):
                return url
        return self._stops.enter_context(make_postgres(self._embedded_home())).url

    def _start_kafka(self) -> str:
        if self._engine_answers():
            from tests.support.containers import kafka_container  # noqa: PLC0415 - only where there is an engine

            if bootstrap := self._try_container(kafka_container):
                return bootstrap
        return self._stops.enter_context(make_kafka(self._embedded_home())).bootstrap

    def _engine_answers(self) -> bool:
        return self._settings.docker and docker.engine_answers()

    def _try_container(self, start: Callable[[], contextlib.AbstractContextManager[str]]) -> str | None:
        try:
            return self._stops.enter_context(start())
        except Exception as error:  # noqa: BLE001 - whatever Docker's client raises for an image that can't be had
            sys.stderr.write(f"\nno container, going on with an embedded server: {error}\n")
            return None

    def _embedded_home(self) -> Path:
        if self._home is None:
            self._home = self._stops.enter_context(temporary_home())
        return self._home
