"""A transaction of a use case, with what is to happen once it is committed."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from services.balance.app.post import AfterCommit
from shared.db import Connection, Pool, transaction


@asynccontextmanager
async def unit_of_work(pool: Pool) -> AsyncIterator[tuple[Connection, AfterCommit]]:
    """One transaction; what is given to the second value runs after its commit, and not at all without one."""
    callbacks: list[Callable[[], None]] = []
    async with transaction(pool) as connection:
        yield connection, callbacks.append
    for callback in callbacks:
        callback()
