"""Which Kafka and PostgreSQL: given by address, else a Docker engine's, else embedded. Each is chosen on its own."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Literal, Self

from deploy.local.faults import StackError
from deploy.local.infrastructure import docker
from deploy.local.infrastructure.jars import has_jars
from deploy.local.infrastructure.kafka import EmbeddedKafka
from deploy.local.infrastructure.postgres import EmbeddedPostgres
from deploy.local.infrastructure.probes import wait_for_kafka, wait_for_postgres
from deploy.local.settings import LocalSettings

Origin = Literal["address", "docker", "embedded"]
_ADDRESS_SECONDS = 5.0


class Infrastructure:
    """Kafka and PostgreSQL as one thing to start and stop; stops only what it started itself."""

    def __init__(self, settings: LocalSettings) -> None:
        self._settings = settings
        self._report: Callable[[str], None] = lambda _: None
        self._stops = contextlib.ExitStack()
        self.postgres_origin: Origin = "address"
        self.kafka_origin: Origin = "address"
        self.postgres: EmbeddedPostgres | None = None
        self.kafka: EmbeddedKafka | None = None
        self._url = settings.postgres_url
        self._bootstrap = settings.kafka_bootstrap

    @property
    def url(self) -> str:
        """PostgreSQL's administrator address."""
        assert self._url is not None, "start() gives the address"
        return self._url

    @property
    def bootstrap(self) -> str:
        assert self._bootstrap is not None, "start() gives the address"
        return self._bootstrap

    def start(self, report: Callable[[str], None] = lambda _: None) -> Self:
        """Start what is missing and return when both answer; on a fault nothing that was started stays.

        `report` is told what is being done.
        """
        self._report = report
        try:
            self._check_addresses()
            if self._missing():
                self._start_docker()
            if self._missing():
                self._start_embedded()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        self._stops.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _missing(self) -> list[str]:
        return [name for name, address in (("postgres", self._url), ("kafka", self._bootstrap)) if address is None]

    def _check_addresses(self) -> None:
        if self._url is not None:
            self._report("PostgreSQL by address")
            with _naming("TOLLKEEPER_POSTGRES_URL"):
                wait_for_postgres(self._url, timeout_seconds=_ADDRESS_SECONDS)
        if self._bootstrap is not None:
            self._report("Kafka by address")
            with _naming("TOLLKEEPER_KAFKA_BOOTSTRAP"):
                wait_for_kafka(self._bootstrap, timeout_seconds=_ADDRESS_SECONDS)

    def _start_docker(self) -> None:
        if not self._settings.docker or not docker.engine_answers():
            return
        compose = docker.ComposeInfrastructure(
            self._settings.home, postgres_port=self._settings.postgres_port, kafka_port=self._settings.kafka_port
        )
        missing = self._missing()
        self._report(f"Docker engine: {' and '.join(missing)} (the first time their images are fetched)")
        try:
            compose.start(missing)
        except StackError as fault:
            self._report(f"the Docker engine can't run them, going on with embedded servers: {fault}")
            # One of the two may run, on the port that its embedded brother needs.
            with contextlib.suppress(StackError):
                compose.stop()
            return
        self._stops.callback(compose.stop)
        if "postgres" in missing:
            self._url, self.postgres_origin = compose.url, "docker"
        if "kafka" in missing:
            self._bootstrap, self.kafka_origin = compose.bootstrap, "docker"

    def _start_embedded(self) -> None:
        missing = self._missing()
        first = "kafka" in missing and not has_jars(self._settings.cache)
        fetching = " (Kafka's jars are fetched, once)" if first else ""
        self._report(f"embedded {' and '.join(missing)}{fetching}")
        starts: list[Callable[[], object]] = []
        if "postgres" in missing:
            self.postgres = EmbeddedPostgres(
                self._settings.home, port=self._settings.postgres_port, cache=self._settings.cache
            )
            self._stops.callback(self.postgres.stop)
            starts.append(self.postgres.start)
        if "kafka" in missing:
            self.kafka = EmbeddedKafka(self._settings.home, port=self._settings.kafka_port, cache=self._settings.cache)
            self._stops.callback(self.kafka.stop)
            starts.append(self.kafka.start)
        with ThreadPoolExecutor(len(starts)) as threads:
            for result in [threads.submit(start) for start in starts]:
                result.result()
        if self.postgres is not None:
            self._url, self.postgres_origin = self.postgres.url, "embedded"
        if self.kafka is not None:
            self._bootstrap, self.kafka_origin = self.kafka.bootstrap, "embedded"


@contextlib.contextmanager
def _naming(setting: str) -> Iterator[None]:
    try:
        yield
    except StackError as fault:
        raise StackError(f"{fault} Its address is in {setting}: start that server, or unset {setting}.") from fault
