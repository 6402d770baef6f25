"""What a careless or hostile HTTP client can't do: fill the memory, hold connections, be read in two ways."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import structlog
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from httpx import ASGITransport

from deploy.local.ports import find_free_port
from shared import http_limits
from shared.http import create_api, serve
from tests.support.eventually import eventually

HEAD = b"POST /v1/echo HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


def make_api() -> FastAPI:
    api = create_api("test", readiness=dict)

    @api.post("/v1/echo")
    async def echo(body: dict[str, Any]) -> dict[str, Any]:
        return body

    @api.get("/v1/named/{name}")
    async def named(name: str) -> str:
        return name

    @api.post("/webhooks/raw")
    async def raw(request: Request) -> int:
        return len(await request.body())

    @api.get("/v1/faulty")
    async def faulty() -> None:
        raise RuntimeError("a fault of the service")

    @api.get("/v1/broken")
    async def broken() -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"half"
            raise RuntimeError("a fault in the middle")

        return StreamingResponse(pieces())

    return api


@pytest.fixture(autouse=True)
def _logs() -> Iterator[None]:
    with structlog.testing.capture_logs():
        yield


@pytest.fixture
async def port() -> AsyncIterator[int]:
    free = find_free_port()
    serving = asyncio.create_task(serve(make_api(), "127.0.0.1", free))

    writer = await connect(free)
    writer.close()
    yield free
    serving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving


async def connect(port: int) -> asyncio.StreamWriter:
    opened: list[asyncio.StreamWriter] = []

    async def is_open() -> bool:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
            opened.append(writer)
        return bool(opened)

    is_there: bool = await eventually(is_open)
    assert is_there
    return opened[0]


async def talk(port: int, *pieces: bytes) -> bytes:
    """Send, never end, and return all that is answered until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.suppress(ConnectionError):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
    answered = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    return answered


async def test_a_chunked_body_is_refused_before_it_fills_the_memory(port: int) -> None:
    chunk = b"%x\r\n" % 65536 + b" " * 65536 + b"\r\n"
    answered = await talk(port, HEAD + b"transfer-encoding: chunked\r\n\r\n", *[chunk] * 33)
    assert answered.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answered


async def test_a_body_may_have_as_many_bytes_as_the_limit_chunked_too() -> None:
    async def chunks(length: int) -> AsyncIterator[bytes]:
        yield b'{"a": "'
        yield b"x" * (length - 9)
        yield b'"}'

    transport = ASGITransport(make_api(), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for length, status in ((http_limits.BODY_BYTES_MAX, 200), (http_limits.BODY_BYTES_MAX + 1, 413)):
            answer = await client.post("/v1/echo", content=chunks(length), headers={"content-type": "application/json"})
            assert answer.status_code == status


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"", b"HTTP/1.1 408 "),
        (b"\r\n", b"HTTP/1.1 408 "),
        (b"GET /healthz HT", b"HTTP/1.1 408 "),
        (b"GET /healthz HTTP/1.1\r\nhost: x\r\n", b"HTTP/1.1 408 "),
        (HEAD + b'content-length: 9\r\n\r\n{"a"', b"HTTP/1.1 408 "),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", b"HTTP/1.1 408 "),
        (b"GET / HTTP/1.1\r\nx: " + b"x" * 70_000, b"HTTP/1.1 431 "),
    ],
)
async def test_a_client_that_sends_half_is_told_and_its_connection_ends(
    port: int, monkeypatch: pytest.MonkeyPatch, sent: bytes, answer: bytes
) -> None:
    monkeypatch.setattr(http_limits, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(http_limits, "BODY_SECONDS", 0.3)
    assert (await talk(port, sent)).startswith(answer)


async def test_a_head_that_comes_byte_by_byte_has_no_more_time(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_limits, "HEAD_SECONDS", 0.5)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /healthz HTTP/1.1\r\n")

    async def drip() -> bool:
        writer.write(b"x")
        return reader.at_eof() or b"408" in bytes(reader._buffer)  # type: ignore[attr-defined]

    ended: bool = await eventually(drip, timeout_seconds=10)
    assert ended
    writer.close()


async def test_a_client_that_reads_no_answer_loses_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_limits, "WRITE_SECONDS", 0.3)
    api = make_api()
    ended = asyncio.Event()

    @api.get("/v1/endless")
    async def endless() -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"x" * 65536
                    await asyncio.sleep(0)
            finally:
                ended.set()

        return StreamingResponse(pieces())

    free = find_free_port()
    serving = asyncio.create_task(serve(api, "127.0.0.1", free))

    writer = await connect(free)
    writer.write(b"GET /v1/endless HTTP/1.1\r\nhost: x\r\n\r\n")
    await asyncio.wait_for(ended.wait(), 20)
    writer.close()
    serving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving


async def test_the_connection_of_an_answered_fault_serves_the_next_request(port: int) -> None:
    """The next pooled request got a ReadError."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", limits=httpx.Limits(max_connections=1)) as client:
        for _ in range(3):
            answer = await client.get("/v1/faulty")
            assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
            assert "connection" not in answer.headers
            assert (await client.get("/healthz")).status_code == 200


async def test_an_answer_that_breaks_off_is_not_taken_for_whole(port: int) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/v1/broken")
        assert (await client.get("/healthz")).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b'{"amount": 1, "amount": 2}',
        b'{"deep": [{"a": 1, "\\u0061": 2}]}',
        b'{"a": "x\\u0000"}',
        b'{"\\u0000": 1}',
        b'{"a": NaN}',
        b'{"a": "\\ud800"}',
        b'{"a": "\xff"}',
        '{"a": 1}'.encode("utf-16"),
        b"[" * 100_000,
        b"{",
    ],
)
async def test_what_two_readers_could_read_in_two_ways_is_refused(body: bytes) -> None:
    """Duplicate keys, U+0000, and what is no JSON: RFC 8259 leaves their meaning to the reader."""
    transport = ASGITransport(make_api(), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.post("/v1/echo", content=body, headers={"content-type": "application/json"})
        assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
        # What a provider signed is recorded as it came.
        assert (await client.post("/webhooks/raw", content=body)).json() == len(body)


@pytest.mark.parametrize("path", ["/v1/named/a%00b", "/v1/named/a?after=%00", "/webhooks/%00"])
async def test_null_characters_in_addresses_are_refused(port: int, path: str) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        answer = await client.get(path)
        assert (answer.status_code, answer.json()["type"]) == (422, "urn:tollkeeper:problem:invalid-request")
        # An escaped percent sign is text.
        assert (await client.get("/v1/named/a%2500b")).json() == "a%00b"
