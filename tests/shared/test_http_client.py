"""Answers that come a byte at a time, or without end, from a real server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx
import pytest

from shared.http_client import open_http_client

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n"
SECONDS = 0.5


@asynccontextmanager
async def served(answer: bytes, pause_seconds: float, size: int) -> AsyncIterator[str]:
    """A server that sends an answer in parts of `size` with pauses between them."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        with suppress(ConnectionError, asyncio.CancelledError):
            for first in range(0, len(answer), size):
                writer.write(answer[first : first + size])
                await writer.drain()
                await asyncio.sleep(pause_seconds)
        writer.close()

    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def body(size: int) -> bytes:
    return HEAD + b"content-length: %d\r\n\r\n" % size + b"x" * size


async def test_an_answer_in_time_is_whole() -> None:
    async with served(body(100_000), 0, 1000) as url, open_http_client(10, url) as client:
        assert (await client.get("/")).content == b"x" * 100_000


@pytest.mark.parametrize("trickles", ["its head", "its body"])
async def test_one_that_trickles_ends_in_time(trickles: str) -> None:
    """Each byte came sooner than a time-out of reads: it was listened to for as long as it liked."""
    size = 1 if trickles == "its head" else 100
    began = asyncio.get_running_loop().time()
    async with served(body(10_000), 0.1, size) as url, open_http_client(SECONDS, url) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.get("/")
    assert asyncio.get_running_loop().time() - began < 10 * SECONDS


async def test_one_without_end_is_given_up() -> None:
    async with served(body(100_000), 0, 1000) as url, open_http_client(10, url, bytes_max=50_000) as client:
        with pytest.raises(httpx.ReadError, match="too large"):
            await client.get("/")
