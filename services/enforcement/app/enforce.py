"""The use cases: each is one transaction."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

from services.enforcement.app.isolation import Isolation
from services.enforcement.app.unit import Fact, OutboxDays, Unit, later_us
from services.enforcement.handlers import FutureFact, LifecycleFact, read_envelope, read_record
from services.enforcement.rules.account import Account
from services.enforcement.settings import Settings
from services.enforcement.store.accounts import set_back_version
from services.enforcement.store.halts import insert_halt
from services.enforcement.store.parked import ParkedKey, insert_parked, load_due_parked, take_parked
from services.enforcement.store.restores import save_service_events
from services.enforcement.store.sweep_turns import give_sweep_back
from shared.clock import Clock
from shared.consumer import Poll
from shared.db import Connection, Pool, transaction
from shared.errors import RecordError
from shared.events.service import ServiceRestoreConfirmed, ServiceRestored

BATCH = 500


class Enforce:
    """What the loops and the consumer call. `wake_relay` hints that messages were appended."""

    def __init__(self, pool: Pool, clock: Clock, settings: Settings, wake_relay: Callable[[], None]) -> None:
        self.pool = pool
        self.clock = clock
        self.settings = settings
        self._wake_relay = wake_relay
        self.isolation = Isolation(pool, clock)
        # Of this database: part of every id that counts what it did, for it may have been set back.
        self.incarnation = 0
        # A hint that first stops wait to be sent.
        self.stops_wait = asyncio.Event()
        self._days = OutboxDays()

    @asynccontextmanager
    async def unit(self) -> AsyncIterator[tuple[Connection, Unit]]:
        """A transaction with its unit; wakes the relay once it is in."""
        async with transaction(self.pool) as connection:
            unit = Unit(connection, self.clock, self.settings, self.incarnation)
            remember = await self._days.ensure(connection, unit.now_us)
            yield connection, unit
        remember()
        self._committed(unit)

    def _committed(self, unit: Unit) -> None:
        unit.committed()
        self._wake_relay()
        if unit.waiting_stops:
            self.stops_wait.set()

    async def apply(self, connection: Connection, poll: Poll) -> None:
        """Apply a poll of lifecycle and account events in the consumer's transaction."""
        unit = Unit(connection, self.clock, self.settings, self.incarnation)
        poll.after_commit(await self._days.ensure(connection, unit.now_us))
        present_us = await unit.later_us()
        facts: list[Fact] = []
        future: list[FutureFact] = []
        restores: list[ServiceRestored | ServiceRestoreConfirmed] = []
        for record in poll.records:
            try:
                known = read_record(record, self.settings.regions, present_us)
            except RecordError as error:
                poll.bury(record, error.reason, error.detail)
                continue
            if isinstance(known, FutureFact):
                future.append(known)
            elif isinstance(known, ServiceRestored | ServiceRestoreConfirmed):
                restores.append(known)
            elif known is not None:
                facts.append(known)
        await insert_parked(connection, future)
        if restores:
            await save_service_events(connection, restores)
            # What was believed of accounts is to be asked again at once.
            await give_sweep_back(connection)
        if facts:
            await unit.save(await unit.learn(facts))
        poll.after_commit(partial(self._committed, unit))

    async def apply_answers(self, answers: Sequence[Account]) -> int:
        """Apply what balance answered like events, by version; answer how many were news."""
        if not answers:
            return 0
        async with self.unit() as (_, unit):
            scene = await unit.learn(answers)
            await unit.save(scene)
        return len(scene.changed_accounts)

    async def take_back(self, answer: Account) -> None:
        """Believe what balance answers although it had published a newer version: its ledger was set back.

        Nobody is deleted before an operator has looked.
        """
        async with self.unit() as (connection, unit):
            reason = f"balance answers version {answer.version} of {'/'.join(answer.key)} and had published a newer one"
            await insert_halt(connection, "balance", answer.key.region, reason, unit.now_us)
            await set_back_version(connection, answer.key, answer.version - 1)
            await unit.save(await unit.learn([answer]))

    async def apply_parked(self) -> int:
        """Apply lifecycle events whose time has come; return how many."""
        async with transaction(self.pool) as connection:
            due = await load_due_parked(connection, await later_us(connection, self.clock), BATCH)
        return await self.isolation.apply("parked", due, " ".join, self._apply_parked)

    async def _apply_parked(self, keys: Sequence[ParkedKey]) -> int:
        """Read them again as if they came now: regions and what is known may have changed since."""
        async with self.unit() as (connection, unit):
            envelopes = await take_parked(connection, keys, unit.now_us)
            present_us = await unit.later_us()
            known = [read_envelope(envelope, self.settings.regions, present_us) for envelope in envelopes]
            facts = [fact for fact in known if isinstance(fact, LifecycleFact)]
            if facts:
                await unit.save(await unit.learn(facts))
        return len(envelopes)
