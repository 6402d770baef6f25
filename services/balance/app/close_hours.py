"""Closing hours: what was posted in an hour becomes one row per resource, once nothing can be posted in it any more.

Posting waits for no more than the statement that says so (`closed_through`, under the chain head); the rows are
computed afterwards from the evidence, which then stands, and are held against the entries before they are committed.
"""

import asyncio
from collections.abc import Sequence
from functools import partial

from services.balance import metrics
from services.balance.rules.hours import Sums, add_shares, hour_of
from services.balance.store.accounts import load_account_ids
from services.balance.store.hours import (
    HourHead,
    load_next_posting,
    load_unsealed,
    load_unwritten,
    lock_hour_heads,
    make_staging,
    move_hour_heads,
    read_evidence,
    seal_free_shards,
    seal_shard,
    stage,
    write_hour,
)
from services.balance.store.posting import prefer_plans_by_size
from services.balance.wire import read_shares
from shared.clock import HOUR_US, Clock
from shared.db import Connection, Pool, is_transient, past_races, transaction
from shared.each import do_each
from shared.errors import Corruption
from shared.set_aside import Pause, count_set_aside, release

POLL_SECONDS = 5.0
_SHARDS_MAX = 64
# Sums that a process holds before it stages them, and rows after which a transaction takes no further shard.
_HELD_MAX = 100_000
_ROWS_MAX = 200_000

# A shard whose hours can't be written is tried again after so long: it goes on by itself once its facts agree.
_PAUSE = Pause(600, 6 * 3600)
HOUR = "hour"


class HourCloser:
    """Closes every shard's hours that are over. Any number of processes may; each hour is written once."""

    def __init__(self, pool: Pool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock

    async def run(self) -> None:
        """Close hours until cancelled."""
        while True:
            if not await self.close():
                await asyncio.sleep(POLL_SECONDS)

    async def close(self) -> bool:
        """Close what is over and write one hour of some shards; answer whether there may be more to write.

        A shard whose facts contradict each other is set aside; the others go on.
        """
        now_us = self._clock.now_us()
        await self._seal(now_us)
        async with transaction(self._pool) as connection:
            metrics.STOPPED_HOURS.set((await count_set_aside(connection)).get(HOUR, 0))
            shards = await load_unwritten(connection, HOUR, now_us, _SHARDS_MAX)
        if not shards:
            return False
        try:
            return await past_races(partial(self._write, shards))
        except Exception as error:
            if is_transient(error):
                raise
        alone = {str(shard): [shard] for shard in shards}
        await do_each(self._pool, self._clock, HOUR, alone, self._write, pause=_PAUSE)
        return True

    async def _seal(self, now_us: int) -> None:
        """Let nothing be posted in hours that are over. A head is held for a statement, and alone if it is busy."""
        async with transaction(self._pool) as connection:
            if not await load_unsealed(connection, now_us):
                return
            await seal_free_shards(connection, now_us)
            busy = await load_unsealed(connection, now_us)
        for shard in busy:
            async with transaction(self._pool) as connection:
                await seal_shard(connection, now_us, shard)

    async def _write(self, shards: Sequence[int]) -> bool:
        """Write the earliest hour of those of `shards` that have it, all in one transaction."""
        async with transaction(self._pool) as connection:
            heads = await lock_hour_heads(connection, shards)
            await prefer_plans_by_size(connection)
            due: dict[int, list[HourHead]] = {}
            moves: list[tuple[int, int, int]] = []
            for head in heads:
                posted_at_us = await load_next_posting(connection, head)
                if posted_at_us is None:
                    moves.append((head.shard, head.seq, head.closed_through_us))
                else:
                    due.setdefault(hour_of(posted_at_us), []).append(head)
            if due:
                hour_us = min(due)
                moves += await self._write_hour(connection, hour_us, due[hour_us])
            await move_hour_heads(connection, moves)
            await release(connection, HOUR, [str(shard) for shard, _, _ in moves])
        return bool(moves)

    async def _write_hour(
        self, connection: Connection, hour_us: int, heads: Sequence[HourHead]
    ) -> list[tuple[int, int, int]]:
        """Write an hour of as many shards as a transaction should hold; answer how their heads move."""
        await make_staging(connection)
        moves: list[tuple[int, int, int]] = []
        rows = 0
        for head in heads:
            if rows >= _ROWS_MAX:
                break
            seq, staged = await self._stage_shard(connection, head, hour_us)
            moves.append((head.shard, seq, hour_us + HOUR_US))
            rows += staged
        differences = await write_hour(connection, hour_us, [shard for shard, _, _ in moves])
        if differences:
            raise Corruption(f"the lines of an hour are not its entries: {differences}")
        metrics.HOUR_ROWS.inc(rows)
        return moves

    async def _stage_shard(self, connection: Connection, head: HourHead, hour_us: int) -> tuple[int, int]:
        """Stage the sums of a shard's hour; answer its last batch and how many rows were staged."""
        seq, staged = head.seq, 0
        ids: dict[tuple[str, str], int] = {}
        sums: dict[tuple[str, str], Sums] = {}
        async for proof in read_evidence(connection, head.shard, head.seq, hour_us, hour_us + HOUR_US):
            if proof.seq != seq + 1:
                raise Corruption(f"shard {head.shard}: evidence of batch {seq + 1} is missing")
            seq = proof.seq
            add_shares(sums, read_shares(proof.value))
            if sum(map(len, sums.values())) >= _HELD_MAX:
                staged += await self._stage(connection, sums, ids)
                sums = {}
        staged += await self._stage(connection, sums, ids)
        return seq, staged

    async def _stage(
        self, connection: Connection, sums: dict[tuple[str, str], Sums], ids: dict[tuple[str, str], int]
    ) -> int:
        unknown = sorted(sums.keys() - ids.keys())
        ids |= {key: account_id for key, (account_id, _) in (await load_account_ids(connection, unknown)).items()}
        if missing := sums.keys() - ids.keys():
            raise Corruption(f"evidence charges accounts that are not there: {sorted(missing)[:5]}")
        await stage(
            connection,
            (
                (ids[key], resource_id, kind, slots, amount_micros)
                for key, own in sums.items()
                for (resource_id, kind), (slots, amount_micros) in own.items()
            ),
        )
        return sum(map(len, sums.values()))
