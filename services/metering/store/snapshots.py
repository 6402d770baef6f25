"""SQL of the snapshots of shards' caches."""

from dataclasses import dataclass

from services.metering.snapshots import FORMAT
from services.metering.store.shards import Shard
from shared.db import Connection


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """Of which (version, through) of its shard it is, and its bytes."""

    version: int
    through_us: int
    value: bytes


async def load_snapshot(connection: Connection, shard: Shard, function_version: int) -> StoredSnapshot | None:
    """The shard's snapshot, if there is one that this code wrote and that is no further than the shard."""
    row = await connection.fetchrow(
        """
        select version, through, value from shard_snapshot
        where shard = $1 and format = $2 and function_version = $3 and version <= $4 and through <= $5
        """,
        shard.shard,
        FORMAT,
        function_version,
        shard.version,
        shard.metered_through_us,
    )
    return None if row is None else StoredSnapshot(*row)


async def save_snapshot(connection: Connection, shard: int, function_version: int, snapshot: StoredSnapshot) -> None:
    """Keep a snapshot, in place of any that is not further than it."""
    await connection.execute(
        """
        insert into shard_snapshot as s (shard, format, function_version, version, through, value)
        values ($1, $2, $3, $4, $5, $6)
        on conflict (shard) do update
        set format = excluded.format, function_version = excluded.function_version, version = excluded.version,
            through = excluded.through, value = excluded.value
        where (s.format, s.function_version) <> (excluded.format, excluded.function_version)
          or (s.version <= excluded.version and s.through <= excluded.through)
        """,
        shard,
        FORMAT,
        function_version,
        snapshot.version,
        snapshot.through_us,
        snapshot.value,
    )


async def delete_snapshots(connection: Connection) -> None:
    """Forget what workers knew: what is charged is being established anew."""
    await connection.execute("delete from shard_snapshot")
