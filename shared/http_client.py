"""HTTP clients whose whole answer comes within a time and a size, or not at all.

A time-out of httpx is one of each read: whoever sends a byte every few seconds would be listened to for ever, and a
neighbour or a provider could fill the memory.
"""

import asyncio
from collections.abc import AsyncIterator

import httpx

ANSWER_BYTES_MAX = 16 * 1024 * 1024


class BoundedTransport(httpx.AsyncBaseTransport):
    """Ends a request `seconds` after it began with a ReadTimeout, and one with a larger answer with a ReadError."""

    def __init__(self, inner: httpx.AsyncBaseTransport, seconds: float, bytes_max: int) -> None:
        self._inner = inner
        self._seconds = seconds
        self._bytes_max = bytes_max

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        deadline = asyncio.get_running_loop().time() + self._seconds
        try:
            async with asyncio.timeout_at(deadline):
                response = await self._inner.handle_async_request(request)
        except TimeoutError as error:
            raise httpx.ReadTimeout(f"no answer within {self._seconds} s", request=request) from error
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _BoundedStream(response.stream, request, deadline, self._bytes_max)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class _BoundedStream(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream, request: httpx.Request, deadline: float, bytes_max: int) -> None:
        self._stream = stream
        self._request = request
        self._deadline = deadline
        self._bytes_left = bytes_max

    async def __aiter__(self) -> AsyncIterator[bytes]:
        parts = aiter(self._stream)
        while True:
            try:
                async with asyncio.timeout_at(self._deadline):
                    part = await anext(parts, None)
            except TimeoutError as error:
                raise httpx.ReadTimeout("the answer did not end in time", request=self._request) from error
            if part is None:
                return
            self._bytes_left -= len(part)
            if self._bytes_left < 0:
                raise httpx.ReadError("the answer is too large", request=self._request)
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()


def open_http_client(seconds: float, base_url: str = "", *, bytes_max: int = ANSWER_BYTES_MAX) -> httpx.AsyncClient:
    """A client of one neighbour or provider, `seconds` at most a question."""
    client = httpx.AsyncClient(base_url=base_url, timeout=seconds)
    bound_client(client, seconds, bytes_max=bytes_max)
    return client


def bound_client(client: httpx.AsyncClient, seconds: float, *, bytes_max: int = ANSWER_BYTES_MAX) -> None:
    """Bound each request of a client.

    Around what the client has made, since a transport that is given to it takes the environment's proxies away.
    """

    def bound(inner: httpx.AsyncBaseTransport) -> httpx.AsyncBaseTransport:
        return BoundedTransport(inner, seconds, bytes_max)

    client._transport = bound(client._transport)  # noqa: SLF001
    mounts = client._mounts  # noqa: SLF001
    client._mounts = {name: None if inner is None else bound(inner) for name, inner in mounts.items()}  # noqa: SLF001
