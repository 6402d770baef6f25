"""PostgreSQL: pools, migrations, and which faults pass by themselves.

Instants cross this border as integers of microseconds: a codec turns timestamptz into them and back.
"""

import asyncio
import hashlib
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import asyncpg
from asyncpg.exceptions import _base as _client_errors

from shared.clock import DAY_US, from_us
from shared.errors import Corruption, TransientFault
from shared.log import describe_safely, get_logger

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
    Pool = asyncpg.Pool[asyncpg.Record]
else:
    Connection = asyncpg.Connection
    Pool = asyncpg.Pool

logger = get_logger(__name__)

_ResultT = TypeVar("_ResultT")

SHARED_MIGRATIONS = Path(__file__).parent / "migrations"
# The life of a lock's holder is bounded by the server: a process that is frozen or gone, or whose host is, holds nobody
# up for longer. A session of its own that holds a lock between statements is bounded by `bound_session`.
IDLE_IN_TRANSACTION_SECONDS = 8
HOLDER_IDLE_SECONDS = 8
_SESSION_BOUNDS = {
    "idle_in_transaction_session_timeout": f"{IDLE_IN_TRANSACTION_SECONDS}s",
    "tcp_keepalives_idle": "4",
    "tcp_keepalives_interval": "1",
    "tcp_keepalives_count": "4",
    "tcp_user_timeout": "8s",
}
# Two that take the same thing meet once; that a third comes between is rare.
RACES_MAX: Final = 3
# What a process ends with whose database was replaced.
REPLACED_EXIT = 70
# PostgreSQL counts its binary timestamps from 2000-01-01.
_EPOCH_2000_US = 946_684_800_000_000

# PostgreSQL's error classes that come from the data itself: 22 (data exception), 23 (integrity violation) and 54
# (program limit exceeded: a value too long for its index).
_DATA_CLASSES = ("22", "23", "54")


def is_transient(error: BaseException) -> bool:
    """Whether an error says nothing about the data: everything of a connection, a session or a server does not.

    Known by name or not: an error of asyncpg is transient unless PostgreSQL's class is 22, 23 or 54, or asyncpg could
    not encode an argument. A unique violation is a race until retries show otherwise: `past_races` retries.
    A group of errors is transient when each of them is.
    Source: PostgreSQL 18, appendix A, error codes.
    """
    if isinstance(error, BaseExceptionGroup):
        return all(is_transient(one) for one in error.exceptions)
    if isinstance(error, TransientFault | OSError | asyncio.TimeoutError | asyncpg.UniqueViolationError):
        return True
    if isinstance(error, _client_errors.DataError):
        return False
    if isinstance(error, asyncpg.CheckViolationError) and error.constraint_name is None:
        # A row for which there is no partition yet: the clock was moved, and housekeeping makes it in a moment.
        return True
    if isinstance(error, asyncpg.PostgresError):
        return not (error.sqlstate or "").startswith(_DATA_CLASSES)
    return isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError)


async def past_races(work: Callable[[], Awaitable[_ResultT]]) -> _ResultT:
    """Do work that another may do at the same moment, in its transaction: a unique violation is tried again.

    Raises Corruption, which is not transient, for one that comes each time: what is written is there already.
    """
    for left in reversed(range(RACES_MAX)):
        try:
            return await work()
        except asyncpg.UniqueViolationError as error:
            if not left:
                raise Corruption(f"it is there already: {describe_safely(error)}") from error
    raise AssertionError("the last try returns or raises")


async def prepare_connection(connection: Connection) -> None:
    """Give a connection the project's codecs."""
    await connection.set_type_codec(
        "timestamptz",
        schema="pg_catalog",
        encoder=lambda instant_us: (instant_us - _EPOCH_2000_US,),
        decoder=lambda parts: parts[0] + _EPOCH_2000_US,
        format="tuple",
    )


async def _keep_session(_connection: Connection) -> None:
    """Leave a session as it is, and spare a round trip: whoever used it changed nothing of it, or took it back."""


class _Recognised:
    """Ends the process when a new session finds another database than the first one did.

    What a process has in memory, positions and caches, holds for one life of its database. One that was frozen or out
    of reach while a backup took the database's place comes back through a new session, and must begin anew.
    """

    def __init__(self) -> None:
        self._first: tuple[object, ...] | None = None

    async def prepare(self, connection: Connection) -> None:
        await prepare_connection(connection)
        found = await connection.fetchrow(
            """
            select s.system_identifier, c.timeline_id, d.oid, to_regclass('database_mark')::oid
            from pg_control_system() s, pg_control_checkpoint() c, pg_database d where d.datname = current_database()
            """
        )
        assert found is not None, "a session has its database"
        self._first = self._first or tuple(found)
        if tuple(found) != self._first:
            logger.critical("database.replaced", was=str(self._first), found=str(tuple(found)))
            # As a kill would: nothing that it has in memory is worth an orderly end, which could wait for others.
            sys.stdout.flush()
            os._exit(REPLACED_EXIT)


async def open_pool(
    url: str,
    *,
    application: str,
    size_max: int = 10,
    command_timeout_seconds: float = 60,
    ends_when_replaced: bool = False,
) -> Pool:
    """A pool whose commands time out, so that a task never hangs under a failover.

    Sessions are not reset when they are released: who locks, listens or sets something outside a transaction takes
    that back, or ends the session. An open transaction is rolled back. With `ends_when_replaced` the process ends
    at once when its database was set back, or failed over, behind its back.
    """
    return await asyncpg.create_pool(
        url,
        min_size=1,
        max_size=size_max,
        command_timeout=command_timeout_seconds,
        timeout=10,
        init=_Recognised().prepare if ends_when_replaced else prepare_connection,
        reset=_keep_session,
        server_settings={"application_name": application, "jit": "off", "timezone": "UTC", **_SESSION_BOUNDS},
    )


_after_commit: dict[int, dict[Callable[[], None], None]] = {}


@asynccontextmanager
async def transaction(pool: Pool, *, idle_seconds: int = IDLE_IN_TRANSACTION_SECONDS) -> AsyncIterator[Connection]:
    """One connection, one transaction (READ COMMITTED: rows are fenced by locks, not by snapshots).

    The server ends it when nothing is asked for `idle_seconds`: give more where a statement waits for long work here.
    """
    async with pool.acquire(timeout=30) as connection:
        callbacks = _after_commit[id(connection)] = {}
        try:
            async with connection.transaction():
                if idle_seconds != IDLE_IN_TRANSACTION_SECONDS:
                    await connection.execute(f"set local idle_in_transaction_session_timeout = '{idle_seconds}s'")
                yield connection
        finally:
            del _after_commit[id(connection)]
    for callback in callbacks:
        callback()


def call_after_commit(connection: Connection, callback: Callable[[], None]) -> None:
    """Run each callback once when the transaction of `connection` is in. Only for hints: a kill in between loses it."""
    callbacks = _after_commit.get(id(connection))
    if callbacks is not None:
        callbacks[callback] = None


async def bound_session(connection: Connection) -> None:
    """Let the server end this session, and free its locks, when it is idle for `HOLDER_IDLE_SECONDS`."""
    await connection.execute(f"set idle_session_timeout = '{HOLDER_IDLE_SECONDS}s'")


async def unbound_session(connection: Connection) -> None:
    await connection.execute("reset idle_session_timeout")


async def migrate(url: str, folders: Sequence[Path]) -> list[str]:
    """Apply the numbered SQL files of `folders` in order, each once; answer the names that were applied.

    A file that was applied with other contents is a Corruption: migrations are append-only. So is an applied one that
    this code does not have: a newer version has used the database, and what it wrote may mean something else here.
    """
    bounds = {**_SESSION_BOUNDS, "idle_session_timeout": f"{HOLDER_IDLE_SECONDS}s"}
    connection = await asyncpg.connect(url, timeout=10, server_settings=bounds)
    try:
        return await _apply_migrations(connection, folders)
    finally:
        await connection.close()


async def _apply_migrations(connection: Connection, folders: Sequence[Path]) -> list[str]:
    await connection.execute("select pg_advisory_lock(hashtext('tollkeeper.migrate'))")
    await connection.execute(
        "create table if not exists migration "
        "(name text primary key, hash text not null, applied_at timestamptz not null)"
    )
    done = {row["name"]: row["hash"] for row in await connection.fetch("select name, hash from migration")}
    files = {f"{folder.parent.name}/{path.name}": path for folder in folders for path in sorted(folder.glob("*.sql"))}
    _refuse_newer(set(done), list(files))
    applied: list[str] = []
    for name, path in files.items():
        body = path.read_text("utf-8")
        digest = hashlib.sha256(body.encode()).hexdigest()
        if name in done:
            if done[name] != digest:
                raise Corruption(f"migration {name} was applied with other contents; add a new file instead")
            continue
        async with connection.transaction():
            await connection.execute("set local lock_timeout = '5s'")
            await connection.execute(body)
            await connection.execute("insert into migration values ($1, $2, clock_timestamp())", name, digest)
        applied.append(name)
    return applied


def _refuse_newer(done: set[str], known: Sequence[str]) -> None:
    if newer := sorted(done - set(known)):
        raise Corruption(
            f"a newer version has used this database: it has the migration {newer[-1]}, and this version ends with "
            f"{known[-1]}. Start the newer version, or put this one elsewhere"
        )


def day_of(instant_us: int) -> date:
    return from_us(instant_us).date()


async def ensure_partitions(connection: Connection, table: str, now_us: int, *, days_ahead: int = 2) -> None:
    """Make the daily partitions of `table` from yesterday to `days_ahead`.

    The function is the owner's (security definer): the application's role owns no table.
    """
    first, last = day_of(now_us - DAY_US), day_of(now_us + days_ahead * DAY_US)
    await connection.execute("select ensure_day_partitions($1, $2, $3)", table, first, last)


async def drop_partitions(connection: Connection, table: str, before_us: int, *, keep_days: int) -> list[str]:
    """Drop the daily partitions of `table` that end before an instant; answer their names.

    The newest `keep_days` that hold rows stay, whatever the instant: a wrong clock empties nothing.
    """
    rows = await connection.fetch(
        "select drop_old_day_partitions($1, $2, $3) as name", table, day_of(before_us), keep_days
    )
    return [row["name"] for row in rows]
