"""How a stack is doing: what its state file says, checked against the processes and their readiness."""

from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from deploy.local.launch import Readiness, ask_readiness
from deploy.local.ports import LOOPBACK
from deploy.local.settings import DEMO_HOME, HOME
from deploy.local.state import Home


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """`problem` is None if the service is ready; `failing` are its loops that fail. It runs if it has a process id."""

    name: str
    url: str
    process_id: int | None
    ready: bool
    problem: str | None
    failing: dict[str, str]
    restarts: int
    log: str


@dataclass(frozen=True, slots=True)
class StackStatus:
    """`phase` is stopped, starting, ready, stopping, or lost: its supervisor was killed and left things running."""

    home: str
    phase: str
    supervisor: int | None
    kafka_bootstrap: str
    infrastructure: dict[str, str]
    services: list[ServiceStatus]

    @property
    def ready(self) -> bool:
        return self.phase == "ready" and all(service.ready for service in self.services)

    def as_json(self) -> dict[str, object]:
        return asdict(self) | {"ready": self.ready}


def read_status(home: Home) -> StackStatus:
    state = home.read_state()
    if state is None:
        return StackStatus(str(home.path), "stopped", None, "", {}, [])
    alive = state.supervisor.alive
    services = []
    with httpx.Client(trust_env=False, timeout=5) as client:
        for name, service in state.services.items():
            url = f"http://{LOOPBACK}:{service.port}"
            runs = service.identity is not None and service.identity.alive
            found = ask_readiness(client, f"{url}/readyz") if runs else Readiness("not running")
            process_id = service.identity.pid if runs and service.identity else None
            services.append(
                ServiceStatus(
                    name,
                    url,
                    process_id,
                    found.problem is None,
                    found.problem,
                    dict(found.failing),
                    service.restarts,
                    service.log,
                )
            )
    return StackStatus(
        str(home.path),
        state.phase if alive else "lost",
        state.supervisor.pid if alive else None,
        state.kafka_bootstrap,
        state.infrastructure,
        services,
    )


def find_twin(home: Path) -> Path | None:
    """The demo's home, or the one beside it, if it exists."""
    names = {HOME: DEMO_HOME, DEMO_HOME: HOME}
    twin = home.with_name(names.get(home.name, home.name))
    return twin if twin != home and twin.exists() else None


def print_status(status: StackStatus, console: Console) -> None:
    console.print(f"{status.home}: {status.phase}", highlight=False, soft_wrap=True)
    if status.phase == "stopped" and (twin := find_twin(Path(status.home))):
        console.print(f"Beside it is {twin}: TOLLKEEPER_HOME={twin.name} asks about that one.", soft_wrap=True)
    if status.phase == "lost":
        console.print("Its supervisor was killed. `tollkeeper down` ends what is left, `tollkeeper up` starts anew.")
    if not status.services:
        return
    table = Table("service", "address", "process", "restarts", "state")
    for service in status.services:
        table.add_row(
            service.name,
            service.url,
            str(service.process_id or "-"),
            str(service.restarts),
            service.problem or "; ".join(["ready", *(f"{name} fails: {why}" for name, why in service.failing.items())]),
        )
    console.print(table)
