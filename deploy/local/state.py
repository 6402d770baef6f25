"""What a home remembers: who runs on it, how its services are reached, the roles' passwords, whether it is a test."""

import fcntl
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deploy.local.databases import ROLES
from deploy.local.faults import StackError
from deploy.local.infrastructure.unprivileged import make_reachable
from deploy.local.processes import ProcessIdentity, write_private
from deploy.local.settings import DEMO_HOME, HOME
from shared.clock import SystemClock, format_instant, parse_instant


@dataclass(slots=True)
class ServiceState:
    """A child of the supervisor; `identity` is None while it is not running."""

    identity: ProcessIdentity | None
    port: int
    log: str
    restarts: int = 0


@dataclass(slots=True)
class StackState:
    """The running stack, as `stack.json` tells it. `phase` is starting, ready or stopping."""

    supervisor: ProcessIdentity
    phase: str
    kafka_bootstrap: str = ""
    services: dict[str, ServiceState] = field(default_factory=dict)
    infrastructure: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> "StackState":
        raw: dict[str, Any] = json.loads(text)
        services = {
            name: ServiceState(**(entry | {"identity": _identity(entry["identity"])}))
            for name, entry in raw["services"].items()
        }
        supervisor = ProcessIdentity(**raw["supervisor"])
        return cls(supervisor, raw["phase"], raw["kafka_bootstrap"], services, raw["infrastructure"])


def _identity(raw: dict[str, Any] | None) -> ProcessIdentity | None:
    return None if raw is None else ProcessIdentity(**raw)


class Home:
    """The data directory of one stack."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = path / "clock"
        self._state = path / "stack.json"
        self._environment = path / "environment.json"
        self._roles = path / "roles.json"
        self._test = path / "TEST"

    def logs(self, name: str) -> Path:
        return self.path / "logs" / f"{name}.log"

    @property
    def is_test(self) -> bool:
        return self._test.exists()

    def make(self, *, test_clock: bool = False, clock_start: str = "now") -> None:
        """Create the folder; as a test only if it is new. A test home stays one, and no other ever becomes one."""
        empty = not self.path.exists() or not any(self.path.iterdir())
        make_reachable(self.path)
        if test_clock and not self.is_test:
            if not empty:
                raise StackError(
                    f"{self.path} holds data that was not made as a test, and a test clock must never touch it. Choose "
                    "an empty folder: set TOLLKEEPER_HOME."
                )
            self._test.touch()
        if self.is_test and not self.clock.exists():
            now = format_instant(SystemClock().now_us()) if clock_start == "now" else clock_start
            try:
                write_private(self.clock, format_instant(parse_instant(now)))
            except ValueError as error:
                raise StackError(f"the test clock can't start at that time: {error}") from error

    def read_state(self) -> StackState | None:
        """The stack that was last started here and not stopped cleanly; its supervisor may be dead."""
        try:
            return StackState.parse(self._state.read_text("utf-8"))
        except FileNotFoundError:
            return None

    def write_state(self, state: StackState) -> None:
        write_private(self._state, json.dumps(asdict(state), indent=2))

    def forget_state(self) -> None:
        self._state.unlink(missing_ok=True)

    def read_environment(self) -> dict[str, str]:
        """The settings that the services were last started with: for programs that talk to the stack."""
        try:
            environment: dict[str, str] = json.loads(self._environment.read_text("utf-8"))
        except FileNotFoundError:
            return {}
        return environment

    def write_environment(self, environment: Mapping[str, str]) -> None:
        ours = {name: value for name, value in environment.items() if name.startswith("TOLLKEEPER_")}
        write_private(self._environment, json.dumps(ours, indent=2, sort_keys=True))

    def passwords(self, environment: Mapping[str, str]) -> dict[str, str]:
        """The roles' passwords: given in the environment, else made once and kept for this home's owner alone."""
        try:
            kept: dict[str, str] = json.loads(self._roles.read_text("utf-8"))
        except FileNotFoundError:
            kept = {role: secrets.token_urlsafe(24) for role in ROLES}
            write_private(self._roles, json.dumps(kept))
        given = {role: environment.get(f"{role.upper()}_PASSWORD") for role in ROLES}
        return {role: given[role] or kept[role] for role in ROLES}


def find_home(environment: Mapping[str, str]) -> Home:
    """The home that the environment names; else, of the two default ones, the one that runs, or the only one."""
    if named := environment.get("TOLLKEEPER_HOME"):
        return Home(Path(named).absolute())
    plain, demo = Home(Path(HOME).absolute()), Home(Path(DEMO_HOME).absolute())
    if plain.read_state() is not None:
        return plain
    return demo if demo.read_state() is not None or (not plain.path.exists() and demo.path.exists()) else plain


class HomeLock:
    """Held by the one supervisor of a home; the system lets go of it when the process ends, however it ends."""

    def __init__(self, home: Path) -> None:
        self._path = home / "stack.lock"
        self._descriptor = -1

    def acquire(self) -> bool:
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            return False
        return True

    def release(self) -> None:
        os.close(self._descriptor)
