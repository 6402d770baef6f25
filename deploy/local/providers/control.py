"""`/_control` as both stand-ins have it: callbacks that get lost, late, doubled or disordered, and outages."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deploy.local.providers.courier import Courier
from deploy.local.providers.outage import Outage
from deploy.local.providers.store import Document, Store

Handler = Callable[[Request], Awaitable[Response]]


class ControlError(Exception):
    """A control request that makes no sense; the message says why."""


async def read_json(request: Request) -> Document:
    """The JSON object of a control request; no body is an empty one."""
    text = await request.body()
    try:
        body = json.loads(text or b"{}")
    except ValueError as error:
        raise ControlError("the body is not JSON") from error
    if not isinstance(body, dict):
        raise ControlError("the body is no JSON object")
    return body


def route(path: str, handler: Handler, method: str = "POST") -> Route:
    """A control route whose ControlError is answered 400."""

    async def guarded(request: Request) -> Response:
        try:
            return await handler(request)
        except ControlError as error:
            return JSONResponse({"error": str(error)}, status_code=400)

    return Route(f"/_control{path}", guarded, methods=[method])


class CallbackControl:
    """`/_control/callbacks…`, `/_control/down`, `/_control/up`."""

    def __init__(self, store: Store, courier: Courier, outage: Outage) -> None:
        self._store = store
        self._courier = courier
        self._outage = outage
        self.routes = [
            route("/callbacks", self._list, "GET"),
            route("/callbacks/lose", self._lose),
            route("/callbacks/duplicate", self._duplicate),
            route("/callbacks/delay", self._delay),
            route("/callbacks/hold", self._hold),
            route("/callbacks/release", self._release),
            route("/callbacks/{callback_id:int}/repeat", self._repeat),
            route("/down", self._down),
            route("/up", self._up),
        ]

    async def _list(self, _request: Request) -> Response:
        return JSONResponse({"callbacks": [asdict(callback) for callback in self._store.callbacks()]})

    async def _lose(self, request: Request) -> Response:
        """{"times": 1}: the next callbacks are never sent; the provider still lists them as events."""
        self._courier.mischief.lose = int((await read_json(request)).get("times", 1))
        return JSONResponse({})

    async def _duplicate(self, request: Request) -> Response:
        """{"times": 1, "copies": 1}: the next callbacks are sent again, with the same content."""
        body = await read_json(request)
        self._courier.mischief.duplicate = int(body.get("times", 1))
        self._courier.mischief.copies = int(body.get("copies", 1))
        return JSONResponse({})

    async def _delay(self, request: Request) -> Response:
        """{"times": 1, "seconds": 2}: the next callbacks come later."""
        body = await read_json(request)
        self._courier.mischief.delay = int(body.get("times", 1))
        self._courier.mischief.delay_seconds = float(body.get("seconds", 2))
        return JSONResponse({})

    async def _hold(self, _request: Request) -> Response:
        """Callbacks wait until they are released."""
        self._courier.mischief.hold = True
        return JSONResponse({})

    async def _release(self, request: Request) -> Response:
        """{"reverse": true}: what was held is sent one after the other; answers how each went."""
        reverse = bool((await read_json(request)).get("reverse"))
        return JSONResponse({"sent": await self._courier.release(reverse=reverse)})

    async def _repeat(self, request: Request) -> Response:
        sent = await self._courier.repeat(request.path_params["callback_id"])
        return JSONResponse(sent or {"error": "no such callback"}, status_code=200 if sent else 404)

    async def _down(self, request: Request) -> Response:
        """{"seconds": 5, "how": "503"|"refuse"}: out of order; no callbacks are sent either."""
        body = await read_json(request)
        if (how := body.get("how", "503")) not in {"503", "refuse"}:
            raise ControlError("how is 503 or refuse")
        self._outage.begin(float(body.get("seconds", 5)), refuse=how == "refuse")
        return JSONResponse({})

    async def _up(self, _request: Request) -> Response:
        self._outage.end()
        return JSONResponse({})
