"""The limits of every HTTP server: bytes and time of heads and bodies, and bodies that two readers could read apart.

A body is read whole, and bounded, before a route sees it: so chunked bodies are refused before they fill the memory,
and no route holds a connection of the database while it waits for a slow client.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from shared.errors import RecordError
from shared.events.cloudevents import load_json
from shared.log import get_logger

logger = get_logger(__name__)

BODY_BYTES_MAX: Final = 2 * 1024 * 1024
HEAD_BYTES_MAX: Final = 64 * 1024
HEAD_SECONDS: Final = 10
BODY_SECONDS: Final = 20
# A client that reads nothing of its answer for this long is gone.
WRITE_SECONDS: Final = 60

# `problem(status, code, detail)` of shared/http.py.
MakeProblem = Callable[[int, str, str], Response]


class LimitedRequests:
    """Refuses what is too large, too slow or ambiguous.

    Plain ASGI: Starlette's own base class starts tasks per request. What providers send under `raw_prefix` is signed
    and recorded as it came, whatever it holds: its bodies and queries are bounded and not judged.
    """

    def __init__(self, app: ASGIApp, problem: MakeProblem, raw_prefix: str = "/webhooks/") -> None:
        self._app = app
        self._problem = problem
        self._raw_prefix = raw_prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._judge_head(scope)
        if refusal is None and _has_body(headers := Headers(scope=scope)):
            refusal = _judge_length(headers, self._problem)
            if refusal is None:
                try:
                    async with asyncio.timeout(BODY_SECONDS):
                        body = await _read_body(receive)
                except TimeoutError:
                    refusal = _closing(self._problem(408, "body-too-slow", f"a body has {BODY_SECONDS} s to arrive"))
                else:
                    if body is None:
                        return
                    refusal = self._judge_body(scope, body)
                    receive = _replay(body, receive)
        await (refusal or self._app)(scope, receive, send)

    def _judge_head(self, scope: Scope) -> Response | None:
        is_raw = scope["path"].startswith(self._raw_prefix)
        if "\0" in scope["path"] or (not is_raw and b"%00" in scope["query_string"]):
            return self._problem(422, "invalid-request", "U+0000 is no character of a text")
        return None

    def _judge_body(self, scope: Scope, body: bytes) -> Response | None:
        if len(body) > BODY_BYTES_MAX:
            return _too_large(self._problem)
        if not body or scope["path"].startswith(self._raw_prefix):
            return None
        try:
            load_json(body)
        except (RecordError, UnicodeDecodeError) as error:
            return self._problem(422, "invalid-request", f"the body is no JSON document to trust: {error}")
        return None


class AnsweredFaults:
    """Answers an unexpected error with a 500 and keeps the connection: a pooled client finds it as it left it.

    The framework's own layer raises the error again after its answer, and the server then closes the connection
    without having announced it.
    """

    def __init__(self, app: ASGIApp, answer: Callable[[Exception], Response]) -> None:
        self._app = app
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_started = False

        async def sending(message: Message) -> None:
            nonlocal is_started
            is_started = True
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is logged and answered
            answer = self._answer(error)
            if is_started:
                # Half an answer can't be taken back: the closed connection tells the client that it is not whole.
                raise ConnectionAbortedError("the answer broke off; the error is logged") from None
            await answer(scope, receive, send)


class TimedProtocol(HttpToolsProtocol):
    """HTTP/1.1 that ends connections of clients who send no whole head, or read no answer."""

    _head_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._give_up, 408)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._awaits_head():
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self._give_up(431)
            elif self._head_timer is None and self.timeout_keep_alive_task is None:
                self._head_timer = self.loop.call_later(HEAD_SECONDS, self._give_up, 408)

    def on_headers_complete(self) -> None:
        self._end_head_timer()
        self._head_bytes = 0
        super().on_headers_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._end_write_timer()
        self._write_timer = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        self._end_write_timer()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head_timer()
        self._end_write_timer()
        super().connection_lost(exc)

    def _end_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
        self._head_timer = None

    def _end_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
        self._write_timer = None

    def _awaits_head(self) -> bool:
        # Before the first head there is no cycle, whatever the declared type says.
        cycle: RequestResponseCycle | None = self.cycle
        return not self.transport.is_closing() and (cycle is None or cycle.response_complete)

    def _give_up(self, status: int) -> None:
        self._head_timer = None
        if self._awaits_head():
            phrase = {408: "Request Timeout", 431: "Request Header Fields Too Large"}[status]
            head = f"HTTP/1.1 {status} {phrase}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            self.transport.write(head.encode())
            self.transport.close()


def _has_body(headers: Mapping[str, str]) -> bool:
    return "content-length" in headers or "transfer-encoding" in headers


def _judge_length(headers: Mapping[str, str], problem: MakeProblem) -> Response | None:
    length = headers.get("content-length", "0")
    is_bounded = length.isascii() and length.isdigit() and len(length) < 20 and int(length) <= BODY_BYTES_MAX
    return None if is_bounded else _too_large(problem)


def _too_large(problem: MakeProblem) -> Response:
    return _closing(problem(413, "body-too-large", f"the body may have at most {BODY_BYTES_MAX} bytes"))


def _closing(answer: Response) -> Response:
    """The rest of the body is not read, so that the connection can't carry another request."""
    MutableHeaders(raw=answer.raw_headers)["connection"] = "close"
    return answer


async def _read_body(receive: Receive) -> bytes | None:
    """The body, or a first part of it that is too large already; None if the client is gone."""
    parts: list[bytes] = []
    length = 0
    while length <= BODY_BYTES_MAX:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        length += len(parts[-1])
        if not message.get("more_body", False):
            break
    return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    waiting: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replaying() -> Message:
        return waiting.pop() if waiting else await receive()

    return replaying
