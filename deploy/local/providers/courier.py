"""Delivers a stand-in's callbacks: at once, again after a failure, and as badly as `/_control` asks."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import httpx

from deploy.local.providers.outage import Outage
from deploy.local.providers.store import Callback, Document, Store
from shared.clock import SECOND_US, Clock
from shared.log import get_logger

logger = get_logger(__name__)

_POLL_SECONDS = 1.0
_AT_ONCE_MAX = 64
# One attempt: None if it was accepted, else how it failed. A fault of the connection is raised.
Send = Callable[[httpx.AsyncClient, Callback], Awaitable[str | None]]


class Mischief:
    """What shall go wrong with the next callbacks; forgotten by a restart."""

    def __init__(self) -> None:
        self.lose = 0
        self.duplicate = 0
        self.copies = 1
        self.delay = 0
        self.delay_seconds = 0.0
        self.hold = False


class Courier:
    """`pauses` are the seconds between one attempt and the next; after the last the provider gives up."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        send: Send,
        outage: Outage,
        *,
        pauses: Sequence[float],
        timeout_seconds: float = 20,
    ) -> None:
        self.mischief = Mischief()
        self._store = store
        self._clock = clock
        self._send = send
        self._outage = outage
        self._pauses = tuple(pauses)
        self._client = httpx.AsyncClient(timeout=timeout_seconds, trust_env=False, follow_redirects=False)
        self._under_way: set[int] = set()
        self._news = asyncio.Event()

    async def close(self) -> None:
        await self._client.aclose()

    def enqueue(self, about: str, payload: str) -> None:
        """Plan one callback. Its delivery may be lost, late, doubled or held, if that was asked for."""
        state, at_us = "waiting", self._clock.now_us()
        mischief = self.mischief
        if mischief.lose:
            mischief.lose -= 1
            state = "lost"
        elif mischief.hold:
            state = "held"
        if mischief.delay:
            mischief.delay -= 1
            at_us += round(mischief.delay_seconds * SECOND_US)
        times = 1
        if mischief.duplicate and state != "lost":
            mischief.duplicate -= 1
            times += mischief.copies
        for _ in range(times):
            self._store.add_callback(about, payload, state, at_us)
        self._news.set()

    async def run(self) -> None:
        """Deliver what is due until cancelled; attempts of different callbacks run side by side."""
        async with asyncio.TaskGroup() as attempts:
            while True:
                self._news.clear()
                due = self._store.due_callbacks(self._clock.now_us()) if not self._outage.is_on else []
                for callback in due:
                    if callback.id not in self._under_way and len(self._under_way) < _AT_ONCE_MAX:
                        self._under_way.add(callback.id)
                        attempts.create_task(self._attempt_planned(callback))
                try:
                    await asyncio.wait_for(self._news.wait(), _POLL_SECONDS)
                except TimeoutError:
                    continue

    async def release(self, *, reverse: bool) -> list[Document]:
        """Deliver what was held, one after the other, and hold no longer."""
        self.mischief.hold = False
        held = self._store.callbacks("held")
        return [await self._attempt(callback) for callback in (reversed(held) if reverse else held)]

    async def repeat(self, callback_id: int) -> Document | None:
        """Deliver one callback now, whatever became of it before."""
        found = [callback for callback in self._store.callbacks() if callback.id == callback_id]
        return await self._attempt(found[0]) if found else None

    async def _attempt_planned(self, callback: Callback) -> None:
        try:
            await self._attempt(callback)
        finally:
            self._under_way.discard(callback.id)
            self._news.set()

    async def _attempt(self, callback: Callback) -> Document:
        try:
            failure = await self._send(self._client, callback)
        except httpx.HTTPError as error:
            failure = type(error).__name__
        if failure is None:
            state, pause = "delivered", 0.0
        elif callback.attempts < len(self._pauses):
            state, pause = "waiting", self._pauses[callback.attempts]
        else:
            state, pause = "given-up", 0.0
        if failure is not None:
            logger.warning("callback.failed", about=callback.about, attempt=callback.attempts + 1, failure=failure)
        next_at_us = self._clock.now_us() + round(pause * SECOND_US)
        self._store.note_attempt(callback.id, state, next_at_us, failure or "accepted")
        return {"id": callback.id, "about": callback.about, "state": state, "last": failure or "accepted"}
