"""HTTP as every service speaks it: problem+json errors (RFC 9457), health, metrics, dead letters."""

import asyncio
import base64
import binascii
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import Annotated, Any

import asyncpg
import uvicorn
from fastapi import APIRouter, Body, FastAPI, Query, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict
from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from shared.clock import Clock, format_instant
from shared.consumer import OffsetConsumer
from shared.cursors import After, Cursors
from shared.db import Pool, is_transient, transaction
from shared.dead_letters import close_dead_letter, load_dead_letter, load_dead_letters, load_dead_topic
from shared.errors import Refusal, TransientFault
from shared.http_limits import AnsweredFaults, LimitedRequests, TimedProtocol
from shared.log import get_logger
from shared.openapi import PROBLEM_TYPE, document_problems
from shared.operators import OperatorWord
from shared.reach import Reach
from shared.set_aside import list_set_aside, retry_now

logger = get_logger(__name__)

# Errors of a database, a network or a neighbour: `is_transient` tells which of them are worth another try.
MAYBE_TRANSIENT = (
    TransientFault,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)


def problem(status: int, code: str, detail: str, **extra: object) -> JSONResponse:
    """An RFC 9457 answer: `type` names the kind of problem, `detail` says what to do."""
    body = {
        "type": f"urn:tollkeeper:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        **extra,
    }
    return JSONResponse(jsonable_encoder(body), status_code=status, media_type=PROBLEM_TYPE)


def create_api(
    title: str,
    *,
    readiness: Callable[[], Mapping[str, str]],
    failing: Callable[[], Mapping[str, str]] = dict,
    reach: Reach | None = None,
) -> FastAPI:
    """An application with error handlers, `/healthz`, `/readyz` and `/metrics`.

    `readiness` answers what is not ready, by name; nothing means ready. `failing` answers what else fails, and `reach`
    finds what does not answer.
    """
    api = FastAPI(title=title, docs_url="/docs", redoc_url=None)
    _add_error_handlers(api)
    document_problems(api)
    # The last one added is the outermost.
    api.add_middleware(LimitedRequests, problem=problem)
    api.add_middleware(AnsweredFaults, answer=_answer_unexpected)

    @api.get("/healthz", include_in_schema=False)
    async def healthz() -> JSONResponse:
        return JSONResponse({"status": "ok"})

    @api.get("/readyz", include_in_schema=False)
    async def readyz() -> JSONResponse:
        silent = {} if reach is None else await reach.find_silent()
        waiting, fails = readiness(), {**failing(), **silent}
        if waiting:
            return problem(503, "not-ready", "some loops do not run", waiting=dict(waiting), failing=fails)
        return JSONResponse({"status": "ready", "failing": fails})

    @api.get("/metrics", include_in_schema=False)
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return api


def _add_error_handlers(api: FastAPI) -> None:
    async def refused(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Refusal)
        return problem(error.status, error.code, error.detail, **error.extra)

    async def invalid(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        errors = [{"where": ".".join(map(str, item["loc"])), "what": item["msg"]} for item in error.errors()]
        return problem(422, "invalid-request", "the request does not have the documented shape", errors=errors)

    async def http_error(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return problem(error.status_code, "http", str(error.detail))

    async def faulty(_request: Request, error: Exception) -> JSONResponse:
        if not is_transient(error):
            return _answer_unexpected(error)
        logger.warning("http.unavailable", error=repr(error)[:500])
        return problem(503, "unavailable", "a part of the service is out of reach for the moment; try again")

    api.add_exception_handler(Refusal, refused)
    api.add_exception_handler(RequestValidationError, invalid)
    api.add_exception_handler(HTTPException, http_error)
    for kind in MAYBE_TRANSIENT:
        api.add_exception_handler(kind, faulty)


def _answer_unexpected(error: Exception) -> JSONResponse:
    logger.error("http.unexpected", exc_info=error)
    return problem(500, "internal", "an unexpected error; it is in the service's log")


class ReplayBody(BaseModel):
    """A mended record: `text` as UTF-8, or `base64`; neither replays the bytes as they were received."""

    model_config = ConfigDict(extra="forbid")

    text: str | None = None
    base64: str | None = None

    def to_bytes(self) -> bytes | None:
        if self.text is not None:
            return self.text.encode()
        if self.base64 is None:
            return None
        try:
            return base64.b64decode(self.base64, validate=True)
        except binascii.Error as error:
            raise Refusal("invalid-base64", f"the field base64 is not base64: {error}", status=422) from error


LISTED_MAX = 1000
_DEAD_LETTERS = Cursors("dead-letters", ("",))
_SET_ASIDE = Cursors("set-aside", ("", ""))
Limit = Annotated[int, Query(ge=1, le=LISTED_MAX)]


def dead_letter_routes(pool: Pool, *consumers: OffsetConsumer) -> APIRouter:
    """Dead letters: list, show, replay (by the consumer of the record's topic), close."""
    router = APIRouter(prefix="/v1/dead-letters", tags=["dead letters"])

    @router.get("")
    async def list_dead_letters(
        after: After = None, limit: Limit = LISTED_MAX, topic: str | None = None, reason: str | None = None
    ) -> dict[str, Any]:
        (dead_id,) = _DEAD_LETTERS.read(after)
        async with transaction(pool) as connection:
            found = await load_dead_letters(connection, after=dead_id or None, limit=limit, topic=topic, reason=reason)
        last = (str(found[-1]["dead_id"]),) if len(found) == limit else None
        return {"dead_letters": found, "next": _DEAD_LETTERS.write(last)}

    @router.get("/{dead_id}")
    async def show_dead_letter(dead_id: str) -> dict[str, Any]:
        async with transaction(pool) as connection:
            found = await load_dead_letter(connection, dead_id)
        if found is None:
            raise _no_dead_letter(dead_id)
        return found

    @router.post("/{dead_id}/replay")
    async def replay_dead_letter(dead_id: str, body: Annotated[ReplayBody | None, Body()] = None) -> dict[str, str]:
        async with transaction(pool) as connection:
            topic = await load_dead_topic(connection, dead_id)
        consumer = next((consumer for consumer in consumers if topic in consumer.topics), None)
        if consumer is None:
            raise _no_dead_letter(dead_id)
        await consumer.replay(dead_id, None if body is None else body.to_bytes())
        return {"dead_id": dead_id, "status": "replayed"}

    @router.post("/{dead_id}/close")
    async def close(dead_id: str, word: OperatorWord) -> dict[str, str]:
        async with transaction(pool) as connection:
            now_us = consumers[0].clock.now_us()
            if not await close_dead_letter(connection, dead_id, word.actor, word.reason, now_us):
                raise _no_dead_letter(dead_id)
        logger.warning("dead_letter.closed", dead_id=dead_id, actor=word.actor)
        return {"dead_id": dead_id, "status": "closed"}

    return router


def _no_dead_letter(dead_id: str) -> Refusal:
    return Refusal("dead-letter-not-found", f"there is no open dead letter {dead_id}", status=404)


def set_aside_routes(pool: Pool, clock: Clock) -> APIRouter:
    """Items that loops have set aside: list them, and end an item's pause."""
    router = APIRouter(prefix="/v1/set-aside", tags=["set aside"])

    @router.get("")
    async def list_items(kind: str | None = None, after: After = None, limit: Limit = 100) -> dict[str, Any]:
        place = _SET_ASIDE.read(after)
        async with transaction(pool) as connection:
            found = await list_set_aside(connection, kind=kind, after=place, limit=limit)
        items = [
            {
                "kind": item.kind,
                "item": item.item,
                "reason": item.reason,
                "attempts": item.attempts,
                "first_at": format_instant(item.first_at_us),
                "last_at": format_instant(item.last_at_us),
                "next_at": format_instant(item.next_at_us),
            }
            for item in found
        ]
        last = (found[-1].kind, found[-1].item) if len(found) == limit else None
        return {"set_aside": items, "next": _SET_ASIDE.write(last)}

    @router.post("/{kind}/{item:path}/retry")
    async def retry_item(kind: str, item: str, word: OperatorWord) -> dict[str, str]:
        async with transaction(pool) as connection:
            await retry_now(connection, kind, item, clock.now_us())
        logger.warning("item.retry_asked", kind=kind, item=item, actor=word.actor)
        return {"kind": kind, "item": item, "status": "will be tried"}

    return router


class QuietServer(uvicorn.Server):
    """Leaves the process's signals to its supervisor, and looks once a second, not ten times, whether to end."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.closing = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        """Renew the Date header until cancelled, or until `closing` is set."""
        while not self.closing.is_set():
            await self.on_tick(0)
            with suppress(TimeoutError):
                await asyncio.wait_for(self.closing.wait(), 1)


async def serve(api: Starlette, host: str, port: int) -> None:
    """Serve until cancelled."""
    config = uvicorn.Config(
        api, host=host, port=port, http=TimedProtocol, log_config=None, access_log=False, lifespan="off"
    )
    server = QuietServer(config)
    try:
        await server.serve()
    finally:
        for listening in getattr(server, "servers", ()):
            listening.close()
