"""Places of readers: so many at once, and one of each account, that what is written and others' pages do not wait."""

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from shared.errors import Refusal

WAIT_SECONDS_MAX = 10.0


class Readers:
    """`most` readers have a place at once; those of one account come one after another."""

    def __init__(self, most: int) -> None:
        self._places = asyncio.Semaphore(most)
        self._accounts: WeakValueDictionary[Hashable, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def one_of(self, account: Hashable) -> AsyncIterator[None]:
        """A place for a reader of an account. Raises Refusal where there is none for long."""
        lock = self._accounts.setdefault(account, asyncio.Lock())
        async with _waiting_for(lock), _waiting_for(self._places):
            yield


@asynccontextmanager
async def _waiting_for(place: asyncio.Lock | asyncio.Semaphore) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            await place.acquire()
    except TimeoutError as error:
        raise _busy() from error
    try:
        yield
    finally:
        place.release()


def _busy() -> Refusal:
    return Refusal("busy", "too many read this account's history at once; try again in a few seconds", status=503)
