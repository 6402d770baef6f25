"""Bugs to plant in a service process: locks, caches, offsets, cursors, dedupe, thresholds."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from tests.system.plants_rules import Plant, SetAttribute

# How long a tick waits for the intake that its lock would have kept out.
OVERTAKEN_SECONDS = 0.5


def no_shard_lock(put: SetAttribute) -> None:
    """Transactions on a shard read its row without locking it, and intake overtakes ticks between read and write.

    The other way round the outbox's key would refuse the second writer: both take the same sequence number.
    """
    from services.metering.store import shards  # noqa: PLC0415 - a process has one service, and plants are of several

    async def read_shards(connection: Any, numbers: Sequence[int]) -> dict[int, shards.Shard]:
        rows = await connection.fetch("select * from shard where shard = any($1::int[]) order by shard", numbers)
        return {row["shard"]: shards.Shard(*row.values()) for row in rows}

    due: list[shards.Shard] = []

    async def read_due_shards(connection: Any, due_us: int, limit: int) -> list[shards.Shard]:
        rows = await connection.fetch(
            "select * from shard where metered_through <= $1 order by shard limit $2", due_us, limit
        )
        due[:] = [shards.Shard(*row.values()) for row in rows]
        return list(due)

    original = shards.upsert_burns

    async def upsert_when_overtaken(connection: Any, burns: Any) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(OVERTAKEN_SECONDS):
                while not await connection.fetchval(
                    "select bool_or(s.version > d.version) from shard s"
                    " join unnest($1::int[], $2::bigint[]) d(shard, version) using (shard)",
                    [shard.shard for shard in due],
                    [shard.version for shard in due],
                ):
                    await asyncio.sleep(0.01)
        await original(connection, burns)

    put(shards, "lock_shards", read_shards)
    put(shards, "lock_due_shards", read_due_shards)
    put(shards, "upsert_burns", upsert_when_overtaken)


def stale_cache(put: SetAttribute) -> None:
    """A worker's cache of a shard is used whatever version the shard's row has."""
    from services.metering.app import tick  # noqa: PLC0415

    original = tick.Ticker._fresh_cache

    async def cached(ticker: Any, connection: Any, shard: Any, tables: Any) -> Any:
        found = ticker._caches.get(shard.shard)
        return await original(ticker, connection, shard, tables) if found is None else found

    put(tick.Ticker, "_fresh_cache", cached)


def corrections_up_to_now(put: SetAttribute) -> None:
    """A correction goes up to the clock, not up to where the shard has been charged."""
    from services.metering.app import work  # noqa: PLC0415

    put(work.Work, "through_us", lambda found, _shard: found.now_us)


def corrections_without_lines(put: SetAttribute) -> None:
    """A changed history is stored, and nothing is published for it."""
    from services.metering.app import work  # noqa: PLC0415

    put(work.Work, "corrections", lambda *_arguments: ())


def usage_is_not_deduplicated(put: SetAttribute) -> None:
    """Repeated usage counts again."""
    from services.metering.store import usage  # noqa: PLC0415

    async def know_nothing(_connection: Any, _keys: Any) -> dict[tuple[str, str], usage.UsageRecord]:
        return {}

    async def insert_if_new(connection: Any, records: Sequence[usage.UsageRecord]) -> None:
        for item in records:
            await connection.execute(
                "insert into usage_record values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) on conflict do nothing",
                *(item.source, item.event_id, item.fingerprint, item.region, item.tenant_id),
                *(item.shard, item.sku, item.quantity, item.used_from_us, item.priced),
            )

    put(usage, "load_usage", know_nothing)
    put(usage, "insert_usage", insert_if_new)


def offset_first(put: SetAttribute) -> None:
    """Offsets are committed before the effect, in a transaction of their own."""
    from shared import consumer  # noqa: PLC0415
    from shared.db import transaction  # noqa: PLC0415

    async def apply_once(found: Any, records: Any) -> None:
        async with transaction(found._pool) as connection:
            fresh = await found._lock_offsets(connection, records)
            await found._move_offsets(connection, fresh)
        poll = consumer.Poll(fresh)
        async with transaction(found._pool) as connection:
            await found._apply(connection, poll)

    put(consumer.OffsetConsumer, "_apply_once", apply_once)


def cursor_before_acknowledgement(put: SetAttribute) -> None:
    """The relay marks batches as published before the broker has them."""
    from shared import outbox  # noqa: PLC0415

    async def publish(relay: Any, connection: Any) -> int:
        rows = await relay._load_unpublished(connection)
        if rows:
            await relay._mark(connection, rows, {})
            await relay._send(rows)
        return len(rows)

    put(outbox.Relay, "publish_batch", publish)


def clamped_balance(put: SetAttribute) -> None:
    """A balance never goes below zero."""
    from services.balance.store import posting  # noqa: PLC0415

    clamped = "balance_micros = greatest(a.balance_micros + m.delta, 0)"
    assert "balance_micros = a.balance_micros + m.delta" in posting._POST
    put(posting, "_POST", posting._POST.replace("balance_micros = a.balance_micros + m.delta", clamped))


def batches_are_posted_again(put: SetAttribute) -> None:
    """A repeated batch is posted like a new one."""
    from services.balance.app import post_charges  # noqa: PLC0415
    from services.balance.rules import stream  # noqa: PLC0415
    from services.balance.store.streams import insert_evidence  # noqa: PLC0415

    def take_all(seq: int, _stopped: Any, arrivals: Sequence[Any], *_rest: Any) -> stream.Verdict:
        ordered = sorted(arrivals, key=lambda arrival: int(arrival.batch.seq))
        return stream.Verdict(max([seq, *(arrival.batch.seq for arrival in ordered)]), posted=ordered)

    put(post_charges, "judge", take_all)

    async def insert_if_new(connection: Any, posted: Sequence[Any]) -> None:
        known = await connection.fetch("select shard, seq from evidence")
        there = {(row["shard"], row["seq"]) for row in known}
        await insert_evidence(
            connection, [item for item in posted if (item[0].batch.shard, item[0].batch.seq) not in there]
        )

    put(post_charges, "insert_evidence", insert_if_new)


def netted_crossings(put: SetAttribute) -> None:
    """Only where a posting ends decides what is told of an account, not what it went through."""
    from services.balance.rules import crossing  # noqa: PLC0415

    original: Callable[..., Any] = crossing.cross

    def netted(standing: Any, movements: Sequence[Any], *rest: Any, **options: Any) -> Any:
        net = crossing.Movement(sum(movement.delta_micros for movement in movements))
        return original(standing, [net] if movements else [], *rest, **options)

    put(crossing, "cross", netted)


SERVICE_PLANTS: dict[str, Plant] = {
    plant.__name__: plant
    for plant in (
        no_shard_lock,
        stale_cache,
        corrections_up_to_now,
        corrections_without_lines,
        usage_is_not_deduplicated,
        offset_first,
        cursor_before_acknowledgement,
        clamped_balance,
        batches_are_posted_again,
        netted_crossings,
    )
}
