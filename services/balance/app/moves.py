"""The entries of an account as burning sees them: usage by when it was used, as the evidence says."""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import replace

from services.balance.rules.grants import Move, read_move, split_by_use
from services.balance.store.grants import BurningEntry, load_burning_entries
from services.balance.store.streams import load_evidence
from services.balance.wire import UsedLine, read_used
from shared.clock import minute_of
from shared.db import Connection


async def load_moves(
    connection: Connection, account_id: int, after_number: int, ends_us: Iterable[int]
) -> list[tuple[int, Move]]:
    """The moves of an account after an entry, by the entry's number; what was used is cut at `ends_us` (of grants).

    What gives back counts when it was posted, and so does all that is no usage.
    """
    reading = _Reading(connection, sorted(set(ends_us)))
    return [
        (entry.entry_number, move)
        for entry in await load_burning_entries(connection, account_id, after_number)
        for move in await reading.read(entry)
    ]


class _Reading:
    def __init__(self, connection: Connection, ends_us: list[int]) -> None:
        self._connection = connection
        self._ends_us = ends_us
        # Of the last batch that was unpacked: its kinds come one after another.
        self._lines: tuple[tuple[int, int | None], list[UsedLine]] | None = None

    async def read(self, entry: BurningEntry) -> list[Move]:
        move = read_move(entry.entry_class, entry.delta_micros, entry.posted_at_us, entry.fact_id)
        if move.kind != "usage" or entry.used_from_us is None or entry.used_until_us is None:
            return [move]
        from_us, last_us = minute_of(entry.used_from_us), minute_of(entry.used_until_us - 1)
        move = replace(move, at_us=from_us)
        inside = self._ends_us[bisect_right(self._ends_us, from_us) : bisect_right(self._ends_us, last_us)]
        if not inside:
            return [move]
        of_entry = entry.kind, entry.entry_class
        lines = [line for line in await self._load_lines(entry) if (line.kind, line.line_class) == of_entry]
        return split_by_use(move, lines, inside) if lines else [move]

    async def _load_lines(self, entry: BurningEntry) -> list[UsedLine]:
        batch = entry.shard, entry.seq
        if self._lines is None or self._lines[0] != batch:
            value = await load_evidence(self._connection, entry.shard, entry.seq or 0)
            assert value is not None, "what was posted has its evidence"
            self._lines = batch, read_used(value, entry.region, entry.tenant_id)
        return self._lines[1]
