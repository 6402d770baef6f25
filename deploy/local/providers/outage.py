"""A stand-in out of order: it answers 503, or nobody listens at all."""

import asyncio
import time
from collections.abc import Callable

import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from shared.http import QuietServer

_POLL_SECONDS = 0.02


class Outage:
    """Until when the provider is down, in monotonic time: an outage is of this process, not of the stack's clock."""

    def __init__(self) -> None:
        self._until = 0.0
        self._refuse_until = 0.0
        self.close_listener: Callable[[], None] | None = None

    @property
    def is_on(self) -> bool:
        return time.monotonic() < max(self._until, self._refuse_until)

    def is_refusing(self) -> bool:
        return time.monotonic() < self._refuse_until

    def begin(self, seconds: float, *, refuse: bool) -> None:
        if not refuse:
            self._until = time.monotonic() + seconds
            return
        self._refuse_until = time.monotonic() + seconds
        if self.close_listener is not None:
            self.close_listener()

    def end(self) -> None:
        self._until = self._refuse_until = 0.0


class OutageGate:
    """Answers 503 to everything but `/_control` while the outage lasts."""

    def __init__(self, app: ASGIApp, outage: Outage) -> None:
        self._app = app
        self._outage = outage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] == "http" and self._outage.is_on and not path.startswith("/_control"):
            await PlainTextResponse("out of order\n", status_code=503)(scope, receive, send)
            return
        await self._app(scope, receive, send)


async def serve_with_outages(app: ASGIApp, outage: Outage, host: str, port: int) -> None:
    """Serve until cancelled. While the outage refuses, the listener is closed and connections are refused."""
    while True:
        while outage.is_refusing():
            await asyncio.sleep(_POLL_SECONDS)
        config = uvicorn.Config(
            app, host=host, port=port, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=2
        )
        server = QuietServer(config)
        outage.close_listener = server.closing.set
        await server.serve()
        if not outage.is_refusing():
            return
