"""Items set aside: one item that can't be done never stands before its neighbours.

Every loop that takes items one after another asks `load_held_back` which of them to leave out, does each remaining one
in a transaction of its own, and calls `set_aside` for one whose error is not transient (`shared.db.is_transient`).
The pause doubles with each attempt. `release` forgets an item once it is done or ended.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from prometheus_client import Gauge

from shared.clock import MINUTE_US, SECOND_US
from shared.db import Connection
from shared.errors import RecordError, Refusal
from shared.log import describe_safely, get_logger

logger = get_logger(__name__)

REASON_LENGTH_MAX: Final = 500
SET_ASIDE = Gauge("tollkeeper_set_aside", "Items set aside, by kind", ["kind"])


class Pause(NamedTuple):
    """Seconds to the first repeat, and the most that they grow to."""

    first_seconds: int = 30
    most_seconds: int = 3600

    def after(self, attempts: int) -> int:
        """Microseconds to wait after the `attempts`-th failure."""
        return min(self.first_seconds << min(attempts - 1, 20), self.most_seconds) * SECOND_US


# Of what a neighbour does not answer at the moment, while it answers for others: nobody has to look.
PASSING = Pause(2, 30)


@dataclass(frozen=True, slots=True)
class SetAside:
    kind: str
    item: str
    reason: str
    attempts: int
    first_at_us: int
    last_at_us: int
    next_at_us: int

    def is_held(self, now_us: int) -> bool:
        """Whether it is still to be left alone, as `still_held` says in SQL: not by a pause from the future."""
        return self.next_at_us > now_us and self.last_at_us <= now_us + MINUTE_US


def describe_error(error: BaseException) -> str:
    """The reason to keep for an error: never its arguments or DETAIL, which may hold a customer's data."""
    if isinstance(error, Refusal):
        return f"{error.code}: {error.detail}"[:REASON_LENGTH_MAX]
    if isinstance(error, RecordError):
        return f"{error.reason}: {error.detail}"[:REASON_LENGTH_MAX]
    return describe_safely(error).partition("\n")[0][:REASON_LENGTH_MAX].replace("\x00", "")


async def set_aside(
    connection: Connection,
    kind: str,
    item: str,
    reason: str,
    now_us: int,
    pause: Pause = Pause(),  # noqa: B008 - frozen
) -> SetAside:
    """Keep an item out of its loop until its pause is over; return it as it now stands."""
    attempts = await connection.fetchval(
        "select attempts from set_aside where kind = $1 and item = $2 for update", kind, item
    )
    attempts = (attempts or 0) + 1
    row = await connection.fetchrow(
        """
        insert into set_aside (kind, item, reason, attempts, first_at, last_at, next_at)
        values ($1, $2, $3, $4, $5, $5, $6)
        on conflict (kind, item) do update
        set reason = excluded.reason, attempts = excluded.attempts, last_at = excluded.last_at,
            next_at = excluded.next_at
        returning *
        """,
        kind,
        item,
        reason.replace("\x00", "")[:REASON_LENGTH_MAX],
        attempts,
        now_us,
        now_us + pause.after(attempts),
    )
    assert row is not None
    say = logger.warning if pause == PASSING else logger.error
    say("item.set_aside", kind=kind, item=item, attempts=attempts, reason=reason[:REASON_LENGTH_MAX])
    return SetAside(*row.values())


async def load_held_back(connection: Connection, kind: str, items: Collection[str], now_us: int) -> set[str]:
    """The items among `items` whose pause is not over."""
    rows = await connection.fetch(
        "select item from set_aside s where kind = $1 and item = any($2::text[]) and still_held(s, $3)",
        kind,
        list(items),
        now_us,
    )
    return {row["item"] for row in rows}


async def load_set_aside(connection: Connection, kind: str, items: Collection[str]) -> dict[str, SetAside]:
    """Those of `items` that are set aside, by id."""
    rows = await connection.fetch(
        "select * from set_aside where kind = $1 and item = any($2::text[])", kind, list(items)
    )
    return {row["item"]: SetAside(*row.values()) for row in rows}


async def release(connection: Connection, kind: str, items: Collection[str]) -> None:
    """Forget items that were done or have ended."""
    if items:
        await connection.execute("delete from set_aside where kind = $1 and item = any($2::text[])", kind, list(items))


async def retry_now(connection: Connection, kind: str, item: str, now_us: int) -> None:
    """End an item's pause by an operator's decision. Raises Refusal if it is not set aside."""
    found = await connection.fetchval(
        "update set_aside set next_at = $3 where kind = $1 and item = $2 returning item", kind, item, now_us
    )
    if found is None:
        raise Refusal("not-set-aside", f"no {kind} {item} is set aside", status=404)


async def list_set_aside(
    connection: Connection, *, kind: str | None = None, after: tuple[str, str] = ("", ""), limit: int = 100
) -> Sequence[SetAside]:
    """Items by kind and id, after a (kind, item)."""
    rows = await connection.fetch(
        """
        select * from set_aside where (kind, item) > ($1, $2) and ($3::text is null or kind = $3)
        order by kind, item limit $4
        """,
        *after,
        kind,
        limit,
    )
    return [SetAside(*row.values()) for row in rows]


async def count_set_aside(connection: Connection) -> dict[str, int]:
    """How many items are set aside, by kind; also shown as a metric."""
    rows = await connection.fetch("select kind, count(*) as items from set_aside group by kind order by kind")
    found = {row["kind"]: row["items"] for row in rows}
    for (kind,) in list(SET_ASIDE._metrics):  # noqa: SLF001 - kinds that have none left
        SET_ASIDE.labels(kind).set(0)
    for kind, items in found.items():
        SET_ASIDE.labels(kind).set(items)
    return found
