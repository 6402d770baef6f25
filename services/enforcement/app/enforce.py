"""The use cases: each is one transaction."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

from services.enforcement.app.isolation import Isolation
from services.enforcement.app.unit import Fact, OutboxDays, Unit
from services.enforcement.handlers import FutureFact, LifecycleFact, read_envelope, read_record
from services.enforcement.rules.account import Account, AccountKey
from services.enforcement.settings import Settings
from services.enforcement.store.accounts import set_back_version
from services.enforcement.store.halts import insert_halt
from services.enforcement.store.parked import ParkedKey, insert_parked, load_due_parked, take_parked
from services.enforcement.store.resources import load_resources
from services.enforcement.store.restores import save_service_events
from services.enforcement.store.stops import StopTurn, load_due_ids, load_requests
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
        self._days = OutboxDays()

    @asynccontextmanager
    async def unit(self) -> AsyncIterator[tuple[Connection, Unit]]:
        """A transaction with its unit; wakes the relay once it is in."""
        async with transaction(self.pool) as connection:
            unit = Unit(connection, self.clock, self.settings, self.incarnation)
            remember = await self._days.ensure(connection, unit.now_us)
            yield connection, unit
        remember()
        unit.committed()
        self._wake_relay()

    async def apply(self, connection: Connection, poll: Poll) -> None:
        """Apply a poll of lifecycle and account events in the consumer's transaction."""
        unit = Unit(connection, self.clock, self.settings, self.incarnation)
        poll.after_commit(await self._days.ensure(connection, unit.now_us))
        facts: list[Fact] = []
        future: list[FutureFact] = []
        restores: list[ServiceRestored | ServiceRestoreConfirmed] = []
        for record in poll.records:
            try:
                known = read_record(record, self.settings.regions, unit.now_us)
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
        poll.after_commit(unit.committed)
        poll.after_commit(self._wake_relay)

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

    async def send_held_back_stops(self) -> int:
        """Send first commands that the breaker made wait, as far as it allows them now; answer how many were sent."""
        return await self._send_due_stops("first")

    async def repeat_stops(self) -> int:
        """Send the due repeats, as far as their own breaker allows; answer how many were sent."""
        return await self._send_due_stops("repeat")

    async def _send_due_stops(self, turn: StopTurn) -> int:
        """Send up to BATCH due commands of one kind: neither kind waits behind the other, nor uses its allowance."""
        async with transaction(self.pool) as connection:
            due = await load_due_ids(connection, self.clock.now_us(), BATCH, turn)
        return await self.isolation.apply("stop", due, _name_stop, partial(self._send_stops, turn))

    async def _send_stops(self, turn: StopTurn, due: Sequence[tuple[AccountKey, str]]) -> int:
        """Decide again under the accounts' locks: who recovered meanwhile is not stopped."""
        async with self.unit() as (connection, unit):
            scene = await unit.begin([key for key, _ in due])
            ids = sorted({(key.region, resource_id) for key, resource_id in due})
            scene.add_resources(await load_resources(connection, ids))
            scene.add_requests(await load_requests(connection, ids))
            scene.touch_all()
            scene.decide_stops()
            requests = [request for request in scene.due_requests() if request.turn == turn][:BATCH]
            sent = await unit.send_stops(scene, turn, requests)
            await unit.save(scene)
        return sent

    async def apply_parked(self) -> int:
        """Apply lifecycle events whose time has come; return how many."""
        async with transaction(self.pool) as connection:
            due = await load_due_parked(connection, self.clock.now_us(), BATCH)
        return await self.isolation.apply("parked", due, " ".join, self._apply_parked)

    async def _apply_parked(self, keys: Sequence[ParkedKey]) -> int:
        """Read them again as if they came now: regions and what is known may have changed since."""
        async with self.unit() as (connection, unit):
            envelopes = await take_parked(connection, keys, unit.now_us)
            known = [read_envelope(envelope, self.settings.regions, unit.now_us) for envelope in envelopes]
            facts = [fact for fact in known if isinstance(fact, LifecycleFact)]
            if facts:
                await unit.save(await unit.learn(facts))
        return len(envelopes)


def _name_stop(due: tuple[AccountKey, str]) -> str:
    key, resource_id = due
    return f"{key.region}/{resource_id}"
