"""A stand-in as a process: its loops under the supervisor that services have, its readiness, its settings."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from deploy.local.providers.courier import Courier
from deploy.local.providers.outage import Outage, OutageGate, serve_with_outages
from deploy.local.settings import read_port
from shared.clock import Clock, open_clock
from shared.supervisor import Loop, Supervisor

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class StandinSettings:
    """Where a stand-in listens, keeps its file, and calls payment. With `speed` 60 its minutes are seconds."""

    port: int
    home: Path
    payment_url: str
    speed: float
    clock: Clock

    @classmethod
    def read(cls, name: str, default_port: int) -> "StandinSettings":
        clock_file = os.environ.get("TOLLKEEPER_TEST_CLOCK")
        return cls(
            read_port(os.environ, f"TOLLKEEPER_{name.upper()}_PORT", default_port),
            Path(os.environ["TOLLKEEPER_HOME"]),
            os.environ["TOLLKEEPER_PAYMENT_URL"].rstrip("/"),
            float(os.environ.get("TOLLKEEPER_STANDIN_SPEED") or 1),
            open_clock(Path(clock_file) if clock_file else None),
        )


async def run_standin(
    settings: StandinSettings, routes: Sequence[BaseRoute], courier: Courier, outage: Outage, work: Loop
) -> None:
    """Serve, deliver and work until a signal comes."""
    supervisor: Supervisor

    async def readyz(_request: Request) -> Response:
        waiting = supervisor.problems()
        return JSONResponse({"waiting": dict(waiting)}, status_code=503 if waiting else 200)

    app = OutageGate(Starlette(routes=[Route("/readyz", readyz), *routes]), outage)
    supervisor = Supervisor(
        {
            "callbacks": courier.run,
            "work": work,
            "http": lambda: serve_with_outages(app, outage, HOST, settings.port),
        }
    )
    try:
        await supervisor.run()
    finally:
        await courier.close()


def require_command(arguments: Sequence[str], module: str) -> None:
    if list(arguments) != ["serve"]:
        raise SystemExit(f"usage: python -m {module} serve")
