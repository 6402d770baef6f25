"""A Docker engine: is there one, and Kafka and PostgreSQL on it through the project's compose file."""

import hashlib
import os
import secrets
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from deploy.local.faults import StackError
from deploy.local.infrastructure.probes import wait_for_kafka, wait_for_postgres
from deploy.local.ports import LOOPBACK
from deploy.local.processes import run_apart, write_private

COMPOSE_FILE = Path(__file__).parents[3] / "docker-compose.yml"
_START_SECONDS = 120


def engine_answers() -> bool:
    """Whether a Docker engine takes commands; a client without an engine does not count."""
    client = shutil.which("docker")
    if client is None:
        return False
    try:
        answer = run_apart([client, "version", "--format", "{{.Server.Version}}"], timeout_seconds=10)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0


class ComposeInfrastructure:
    """The services `postgres` and `kafka` of the compose file, under a project name of this home's own."""

    def __init__(self, home: Path, *, postgres_port: int, kafka_port: int) -> None:
        self._home = home.absolute()
        self._ports = {"postgres": postgres_port, "kafka": kafka_port}
        digest = hashlib.sha256(str(self._home).encode()).hexdigest()[:8]
        self._project = f"tollkeeper-{digest}"
        self._password_file = self._home / "docker.password"

    @property
    def url(self) -> str:
        return f"postgresql://postgres:{quote(self._password())}@{LOOPBACK}:{self._ports['postgres']}/postgres"

    @property
    def bootstrap(self) -> str:
        return f"{LOOPBACK}:{self._ports['kafka']}"

    def start(self, services: Sequence[str]) -> None:
        """Bring the named services up and return when they answer; StackError with Docker's words if they can't.

        What was brought up stays after a StackError, for `stop` to stop.
        """
        self._compose("up", "--detach", *services)
        if "postgres" in services:
            wait_for_postgres(self.url, timeout_seconds=_START_SECONDS, give_up=lambda: self._death("postgres"))
        if "kafka" in services:
            wait_for_kafka(self.bootstrap, timeout_seconds=_START_SECONDS, give_up=lambda: self._death("kafka"))

    def stop(self) -> None:
        """Stop the containers; their volumes keep the data."""
        self._compose("stop")

    def _compose(self, *arguments: str) -> None:
        command = [*_compose_command(), "--project-name", self._project, "--file", str(COMPOSE_FILE), *arguments]
        environment = os.environ | {
            "TOLLKEEPER_POSTGRES_PORT": str(self._ports["postgres"]),
            "TOLLKEEPER_KAFKA_PORT": str(self._ports["kafka"]),
            "TOLLKEEPER_POSTGRES_PASSWORD": self._password(),
        }
        answer = run_apart(command, environment=environment)
        if answer.returncode != 0:
            raise StackError(f"`{' '.join(command)}` failed:\n{answer.stderr.strip()[-1500:]}")

    def _death(self, service: str) -> str | None:
        """What the service's container said last, if it has ended."""
        filters = (
            f"label=com.docker.compose.project={self._project}",
            f"label=com.docker.compose.service={service}",
            "status=exited",
        )
        command = ["docker", "ps", "--all", "--quiet", *(part for name in filters for part in ("--filter", name))]
        ended = run_apart(command).stdout.split()
        if not ended:
            return None
        told = run_apart(["docker", "logs", "--tail", "20", ended[0]])
        words = (told.stdout + told.stderr).strip()[-1500:]
        return f"the container of {service} ended. Its last words:\n{words}"

    def _password(self) -> str:
        if not self._password_file.exists():
            self._home.mkdir(parents=True, exist_ok=True)
            write_private(self._password_file, secrets.token_urlsafe(24))
        return self._password_file.read_text("ascii")


def _compose_command() -> list[str]:
    """`docker compose` (the plug-in), else `docker-compose` (the older program)."""
    probe = run_apart(["docker", "compose", "version"])
    if probe.returncode == 0:
        return ["docker", "compose"]
    if older := shutil.which("docker-compose"):
        return [older]
    raise StackError("there is a Docker engine, but neither `docker compose` nor `docker-compose` is installed")
