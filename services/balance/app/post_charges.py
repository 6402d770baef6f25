"""Charges become entries: one transaction per poll, whatever it holds."""

from collections.abc import Callable, Sequence

import asyncpg

from services.balance import metrics
from services.balance.app.directory import Directory
from services.balance.app.post import AfterCommit, Poster, Steps
from services.balance.app.unit import unit_of_work
from services.balance.rules.crossing import Movement
from services.balance.rules.posting import Cause, Part, Posting, SideTable, lay_out, posting_order
from services.balance.rules.stream import Arrival, Stop, Verdict, find_late, judge
from services.balance.store.accounts import find_overflow
from services.balance.store.chain import lock_heads
from services.balance.store.grants import ask_to_work_out
from services.balance.store.holds import end_charged
from services.balance.store.posting import prefer_plans_by_size
from services.balance.store.streams import (
    StreamRow,
    count_waiting,
    delete_waiting,
    insert_evidence,
    insert_waiting,
    load_known_hashes,
    load_waiting,
    load_waiting_at,
    lock_streams,
    move_streams,
    stop_stream,
)
from services.balance.wire import WireBatch, check_kind, empty_batch, read_head, read_wire
from shared.clock import SECOND_US, Clock
from shared.consumer import Poll
from shared.db import Connection, Pool, is_transient
from shared.ids import content_hash
from shared.log import get_logger
from shared.set_aside import describe_error

logger = get_logger(__name__)

# How many waiting batches one transaction takes at most.
_DRAINED_MAX = 256
# A key that exists already is somebody else's doing at first; seen again under the stream's lock, it is the batch's.
_RACES_MAX = 3
_FAULT_LENGTH_MAX = 500


class ChargePoster:
    """Applies polls of charge batches.

    A batch that can't be posted is no dead letter: its stream stops at it, keeps it, and goes on by an operator's
    decision. Dead is only what does not even say of which stream it is.
    """

    def __init__(self, clock: Clock, directory: Directory, poster: Poster) -> None:
        self._clock = clock
        self._directory = directory
        self._poster = poster
        self._table = SideTable()

    async def apply(self, connection: Connection, poll: Poll) -> None:
        """Post a poll's batches; what can't be understood is buried.

        An error of one of several leaves this method: the consumer halves the poll. Of a single record it does not.
        """
        arrivals = []
        for record in poll.records:
            try:
                arrivals.append(self.read(record.value))
            except ValueError as error:
                poll.bury(record, "invalid charge batch", str(error))
        if len(poll.records) > 1 and arrivals:
            await self._take(connection, arrivals, poll.after_commit)
        elif arrivals:
            await self.take_one(connection, arrivals[0].batch.shard, arrivals, poll.after_commit)

    async def drain(self, pool: Pool, shard: int) -> None:
        """Post what waits in a stream and can be posted now."""
        async with unit_of_work(pool) as (connection, after_commit):
            await self.take_one(connection, shard, [], after_commit)

    def read(self, value: bytes | None, *, waited: bool = False) -> Arrival:
        """A batch as it arrives, with its fault if it has one. Raises ValueError for what names no stream."""
        if value is None:
            raise ValueError("the record has no value")
        try:
            batch, fault = self._decode(value), None
        except ValueError as error:
            head = read_head(value)
            if head is None or head.shard >= self._directory.shards:
                raise
            batch, fault = empty_batch(head.shard, head.seq), str(error)[:_FAULT_LENGTH_MAX]
        return Arrival(batch, value, content_hash(value), waited, fault)

    def _decode(self, value: bytes) -> WireBatch:
        batch = read_wire(value)
        self._directory.check(batch)
        indexes = self._table.indexes
        for account in batch.accounts:
            for kind, entry_class, _ in account.totals:
                if kind not in indexes[entry_class]:
                    check_kind(kind)
        return batch

    async def take_one(
        self, connection: Connection, shard: int, arrivals: Sequence[Arrival], after_commit: AfterCommit
    ) -> None:
        """Post of one stream what can be posted, and stop it at the batch that the database refuses.

        Ever fewer at a time, until that one is next.
        """
        posted_max, races = _DRAINED_MAX + len(arrivals), 0
        while True:
            callbacks: list[Callable[[], None]] = []
            try:
                async with connection.transaction():
                    await self._take(connection, arrivals, callbacks.append, [shard], posted_max=posted_max)
            except Exception as error:
                races += isinstance(error, asyncpg.UniqueViolationError)
                if is_transient(error) and not races:
                    raise
                if 0 < races < _RACES_MAX:
                    continue
                posted_max = min(posted_max, await count_waiting(connection, shard) + len(arrivals)) // 2
                if posted_max == 0:
                    await self._stop_at_next(connection, shard, arrivals, error)
                    return
            else:
                for callback in callbacks:
                    after_commit(callback)
                return

    async def _stop_at_next(
        self, connection: Connection, shard: int, arrivals: Sequence[Arrival], error: Exception
    ) -> None:
        """Stop a stream at its next batch, which the database refuses, and keep what arrived."""
        stream = (await lock_streams(connection, [shard]))[shard]
        number = stream.seq + 1
        await insert_waiting(connection, arrivals, self._clock.now_us())
        batches = [self.read(item.value).batch for item in await load_waiting_at(connection, shard, number)]
        if stream.stopped_reason is not None or not batches:
            raise error
        reason = await find_overflow(connection, batches[0]) or describe_error(error)
        await self._stop(connection, shard, Stop(number, f"batch {number} can't be posted: {reason}"))

    async def _stop(self, connection: Connection, shard: int, stop: Stop) -> None:
        logger.error("stream.stopped", shard=shard, seq=stop.seq, reason=stop.reason)
        await stop_stream(connection, shard, stop.seq, stop.reason, self._clock.now_us())

    async def _take(
        self,
        connection: Connection,
        arrivals: Sequence[Arrival],
        after_commit: AfterCommit,
        drained: Sequence[int] = (),
        *,
        posted_max: int | None = None,
    ) -> None:
        by_shard: dict[int, list[Arrival]] = {shard: [] for shard in drained}
        for arrival in arrivals:
            by_shard.setdefault(arrival.batch.shard, []).append(arrival)
        streams = await lock_streams(connection, sorted(by_shard))
        for shard, stream in streams.items():
            if stream.has_waiting:
                waiting = await load_waiting(connection, shard, _DRAINED_MAX)
                by_shard[shard] += [self.read(value, waited=True) for value in waiting]
        known = await self._load_known(connection, streams, by_shard)
        verdicts = {
            shard: judge(
                stream.seq,
                by_shard[shard],
                known.get(shard, {}),
                self._directory.refuse,
                is_stopped=stream.stopped_reason is not None,
                posted_max=posted_max,
            )
            for shard, stream in streams.items()
        }
        await self._settle(connection, streams, verdicts)
        posted = [arrival for shard in sorted(verdicts) for arrival in verdicts[shard].posted]
        if posted:
            await self._post(connection, posted, after_commit)
            through = {shard: stream.charged_through_us for shard, stream in streams.items()}
            if late := find_late(posted, through):
                await ask_to_work_out(connection, [(item.region, item.tenant_id) for item in late])
        if repeats := sum(verdict.repeats for verdict in verdicts.values()):
            after_commit(lambda: metrics.REPEATS.inc(repeats))

    async def _load_known(
        self, connection: Connection, streams: dict[int, StreamRow], by_shard: dict[int, list[Arrival]]
    ) -> dict[int, dict[int, set[bytes]]]:
        """The hashes of what was posted or set aside before under the numbers that arrive now."""
        repeats = [
            (shard, arrival.batch.seq)
            for shard, stream in streams.items()
            for arrival in by_shard[shard]
            if arrival.batch.seq <= stream.seq
        ]
        return await load_known_hashes(connection, repeats)

    async def _settle(
        self, connection: Connection, streams: dict[int, StreamRow], verdicts: dict[int, Verdict]
    ) -> None:
        """Write what was decided of streams: positions, what waits, what stops."""
        moved = {
            shard: (verdict.seq, verdict.charged_through_us)
            for shard, verdict in verdicts.items()
            if verdict.seq != streams[shard].seq
        }
        if moved:
            await move_streams(connection, moved)
        kept = [arrival for verdict in verdicts.values() for arrival in verdict.kept]
        if kept:
            await insert_waiting(connection, kept, self._clock.now_us())
        settled = [arrival for verdict in verdicts.values() for arrival in verdict.settled]
        if settled:
            await delete_waiting(connection, settled)
        for shard, verdict in verdicts.items():
            if verdict.stop is not None:
                await self._stop(connection, shard, verdict.stop)

    async def _post(self, connection: Connection, posted: Sequence[Arrival], after_commit: AfterCommit) -> None:
        shards = sorted({arrival.batch.shard for arrival in posted})
        heads = await lock_heads(connection, shards)
        # Asked only now: no time that was read before the lock can be earlier than what is posted.
        now_us = self._clock.now_us()
        instants = {head.shard: head.posting_time(now_us) for head in heads}
        await self._poster.ensure_days(connection, list(instants.values()), after_commit)
        unknown = self._directory.find_unknown(posted)
        fresh, opened = await self._directory.resolve(connection, unknown, instants) if unknown else ({}, [])
        places = {shard: place for place, shard in enumerate(shards)}
        causes = [Cause(places[item.batch.shard], item.batch.seq, sha256=item.sha256) for item in posted]
        parts = self._directory.parts(posted, fresh)
        posting = lay_out(parts, causes, self._table)
        await prefer_plans_by_size(connection)
        await insert_evidence(connection, [(arrival, instants[arrival.batch.shard]) for arrival in posted])
        await self._poster.post(connection, posting, heads, list(instants.values()), _StepsOf(parts).of_account, opened)
        admissions = [(account_id, name) for account_id, _, account in parts for name in account.admission_ids]
        if admissions:
            await end_charged(connection, admissions, now_us)
        if fresh:
            after_commit(lambda: self._directory.remember(fresh))
        after_commit(lambda: _count(posted[-1].batch, len(posted), posting, now_us))


class _StepsOf:
    """The movements of single accounts out of a transaction's sorted parts, indexed when first asked for."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts
        self._first: dict[int, int] = {}

    def of_account(self, account_id: int) -> Steps:
        if not self._first:
            for index in range(len(self._parts) - 1, -1, -1):
                self._first[self._parts[index][0]] = index
        steps = []
        for index in range(self._first[account_id], len(self._parts)):
            found_id, _, account = self._parts[index]
            if found_id != account_id:
                break
            totals = sorted(account.totals, key=posting_order)
            steps.append((account.burn_micros_per_hour, [Movement(-micros) for _, _, micros in totals if micros]))
        return steps


def _count(last: WireBatch, batches: int, posting: Posting, now_us: int) -> None:
    metrics.BATCHES.inc(batches)
    metrics.ACCOUNTS.inc(len(posting.accounts))
    metrics.ENTRIES.inc(len(posting.entries))
    metrics.LAG_SECONDS.set(max(0, now_us - last.charged_at_us) / SECOND_US)
