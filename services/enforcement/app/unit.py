"""One transaction of enforcement: lock accounts, learn facts, decide, write, append to the outbox."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final, TypeGuard

from services.enforcement import metrics
from services.enforcement.app.scene import Scene
from services.enforcement.handlers import LifecycleFact
from services.enforcement.messages import Messages
from services.enforcement.rules.account import Account, AccountKey
from services.enforcement.rules.deletion import Case, name_case
from services.enforcement.rules.lifecycle import CREATED
from services.enforcement.rules.resource import Resource, ResourceKey
from services.enforcement.rules.stops import is_news
from services.enforcement.settings import Settings
from services.enforcement.store.accounts import lock_accounts, save_accounts
from services.enforcement.store.breakers import take_allowance
from services.enforcement.store.cases import load_case, load_cases, save_cases
from services.enforcement.store.resources import load_live, load_resources, load_running, save_resources
from services.enforcement.store.stops import (
    STOP,
    StopRequest,
    StopTurn,
    load_metering_only,
    load_requests,
    name_stop,
    save_requests,
)
from services.enforcement.store.targets import load_targets, mark_done, mark_undone
from shared.clock import MINUTE_US, Clock
from shared.db import Connection, day_of, ensure_partitions
from shared.log import get_logger
from shared.outbox import append_messages
from shared.set_aside import describe_error, release, set_aside

logger = get_logger(__name__)

Fact = Account | LifecycleFact
# Containers whose row can't be read are set aside under it: a person mends the row, the others of the account stop.
UNREADABLE_KIND: Final = "resource"


class Unit:
    """Carries out one transaction's work on a connection that the caller began and will commit.

    `committed` must be called after the commit: it wakes the relay and counts.
    """

    def __init__(self, connection: Connection, clock: Clock, settings: Settings, incarnation: int = 0) -> None:
        self._connection = connection
        self._clock = clock
        self._settings = settings
        self.now_us = clock.now_us()
        self.make = Messages(settings.shards, self.now_us, incarnation)
        self.waiting_stops = 0  # opened, and not sent in this transaction
        self._on_commit: list[Callable[[], object]] = []

    async def later_us(self) -> int:
        return await later_us(self._connection, self._clock)

    async def begin(self, keys: Sequence[AccountKey]) -> Scene:
        """Lock the accounts, ascending."""
        return Scene(await lock_accounts(self._connection, keys), self.make, self.now_us)

    async def learn(self, facts: Sequence[Fact]) -> Scene:
        """Apply facts in their order and decide once, by where they have led."""
        scene = await self.begin([fact.key.account if isinstance(fact, LifecycleFact) else fact.key for fact in facts])
        news = [fact for fact in facts if isinstance(fact, Account) and fact.version > scene.accounts[fact.key].version]
        await self._load(scene, facts, news)
        for fact in facts:
            if isinstance(fact, LifecycleFact):
                scene.learn_lifecycle(fact)
            else:
                scene.learn_account(fact, self._settings.grace_of(fact.key.region))
        # What the events say of one container matters by itself; a moved account moves all of its containers.
        scene.touch_all()
        scene.decide_stops()
        await self.send_first_stops(scene)
        await self.finish_deletions(scene)
        scene.reopen_cases(self._settings.grace_of)
        return scene

    async def _load(self, scene: Scene, facts: Sequence[Fact], news: Sequence[Account]) -> None:
        ids = sorted({fact.key[:2] for fact in facts if isinstance(fact, LifecycleFact)})
        moving = sorted({seen.key for seen in news if seen.must_stop or scene.accounts[seen.key].must_stop})
        if moving:
            scene.add_resources(await self._load_running(moving))
            scene.add_requests(await load_metering_only(self._connection, moving))
        if ids:
            scene.add_resources(await load_resources(self._connection, ids))
        if scene.resource_ids:
            scene.add_requests(await load_requests(self._connection, scene.resource_ids))
        growing = [scene.accounts[fact.key.account] for fact in facts if _may_create(fact)]
        followed = [*news, *(account for account in growing if account.negative_since_us is not None)]
        if followed:
            case_ids = {
                name_case(seen.key, seen.negative_since_us) for seen in followed if seen.negative_since_us is not None
            }
            keys = sorted({seen.key for seen in followed})
            scene.add_cases(await load_cases(self._connection, keys, sorted(case_ids)))

    async def _load_running(self, keys: Sequence[AccountKey]) -> list[Resource]:
        """The running containers of accounts; those that can't be read are set aside, and the others are stopped."""
        running, unreadable = await load_running(self._connection, keys)
        for key, error in unreadable.items():
            await set_aside(self._connection, UNREADABLE_KIND, _name(key), describe_error(error), self.now_us)
        await release(self._connection, UNREADABLE_KIND, [_name(resource.key) for resource in running])
        return running

    async def send_first_stops(self, scene: Scene) -> None:
        """Send the first command of each opened request of which balance has just told, as far as the breaker allows.

        The others wait, due: for the breaker, for balance's answer whether the account is still to be stopped, or for
        metering's whose run it is.
        """
        # By the clock as it is now: the accounts' locks can have been waited for.
        now_us = self._clock.now_us()
        told = [
            request
            for request in scene.opened
            if is_news(scene.accounts[request.key], now_us) and not scene.is_doubtful(request)
        ]
        self.waiting_stops += len(scene.opened) - await self.send_stops(scene, "first", told)
        self.on_commit(lambda: metrics.STOPS_REQUESTED.inc(len(scene.opened)))

    async def send_stops(self, scene: Scene, turn: StopTurn, requests: Sequence[StopRequest]) -> int:
        """Send what the breaker of each region allows in this minute; return how many were sent."""
        name, most = {
            "first": ("stops", self._settings.enforcement_stops_per_minute_max),
            "repeat": ("stop_repeats", self._settings.enforcement_stop_repeats_per_minute_max),
        }[turn]
        sent = 0
        sent_at_us = await self.later_us() if requests else self.now_us
        for region in sorted({request.key.region for request in requests}):
            wanted = [request for request in requests if request.key.region == region]
            granted = await take_allowance(
                self._connection, f"{name}/{region}", self.now_us, *_window(most), len(wanted)
            )
            for request in wanted[:granted]:
                scene.send_stop(
                    request, sent_at_us, self._settings.enforcement_stop_expiry_seconds, self._settings.backoff
                )
                self.on_commit(metrics.STOP_COMMANDS.inc)
            sent += granted
            if granted < len(wanted):
                waiting = len(wanted) - granted
                logger.error("stops.held_back", turn=turn, region=region, waiting=waiting, per_minute_max=most)
                self.on_commit(partial(metrics.STOPS_HELD_BACK.inc, waiting))
        return sent

    async def finish_deletions(self, scene: Scene) -> None:
        """Resources that are gone end their targets, and a case whose targets are all gone is done.

        A resource that is there again, because its deletion was retracted, is a target again.
        """
        await mark_undone(self._connection, [key[:2] for key in scene.created])
        for case_id in await mark_done(self._connection, scene.deleted, self.now_us):
            scene_case = scene.changed_cases.get(case_id) or await load_case(self._connection, case_id)
            if scene_case is None or scene_case.state not in {"carrying_out", "frozen"}:
                continue
            await self.finish_case(scene, scene_case)

    async def finish_case(self, scene: Scene, case: Case) -> bool:
        """End a case that was carried out, if nothing of it is left."""
        gone = {key for key, resource in scene.changed_resources.items() if not resource.is_live}
        live = [item for item in await load_live(self._connection, case.key) if item.key not in gone]
        unfinished = [target for target in await load_targets(self._connection, case.case_id) if not target.done_at_us]
        if live or unfinished:
            return False
        done = scene.change_case(replace(case, state="done", reason=None))
        scene.messages.append(self.make.case_event("deletion.done", done))
        return True

    async def save(self, scene: Scene) -> None:
        """Write everything that changed and append the messages, whose streams are locked last."""
        connection, now_us = self._connection, self.now_us
        await save_accounts(connection, [scene.accounts[key] for key in sorted(scene.changed_accounts)], now_us)
        await save_resources(connection, [scene.changed_resources[key] for key in sorted(scene.changed_resources)])
        # What held back a request before, its run's or an earlier one's, is no reason to hold back a new one.
        await release(connection, STOP, [name_stop(request.key, request.resource_id) for request in scene.opened])
        await save_requests(connection, [scene.changed_requests[key] for key in sorted(scene.changed_requests)])
        if scene.changed_cases:
            await save_cases(connection, list(scene.changed_cases.values()), now_us)
        await append_messages(connection, scene.messages, now_us)
        confirmed = sum(request.outcome == "confirmed" for request in scene.changed_requests.values())
        self.on_commit(lambda: metrics.STOPS_CONFIRMED.inc(confirmed))
        self.on_commit(lambda: metrics.FOREIGN_EVENTS.inc(scene.foreign))

    def on_commit(self, callback: Callable[[], object]) -> None:
        self._on_commit.append(callback)

    def committed(self) -> None:
        for callback in self._on_commit:
            callback()


async def later_us(connection: Connection, clock: Clock) -> int:
    """The later of our clock and PostgreSQL's; a test clock is alone. For commands, and for what seems not to be due.

    By a clock that is behind a command would have expired before it arrives, and nobody would ever obey; a start would
    wait until that clock has come up to it. By one that is ahead a command is obeyed for longer, which harms nobody:
    whoever obeys asks balance first. What is decided of deletions goes by our own clock, and a difference halts them.
    """
    if clock.is_test:
        return clock.now_us()
    theirs_us: int = await connection.fetchval("select clock_timestamp()")
    return max(clock.now_us(), theirs_us)


def _may_create(fact: Fact) -> TypeGuard[LifecycleFact]:
    """Whether there may be one resource more after it: an amendment can take a deletion out."""
    return isinstance(fact, LifecycleFact) and (fact.fact.verb == CREATED or fact.fact.replaces is not None)


def _window(per_minute_max: int) -> tuple[int, int]:
    """Over which time how many: a tenth of the minute and of its allowance, where that leaves enough.

    Whoever uses it all up keeps the others of the region waiting for seconds, not for a minute.
    """
    parts = 10 if per_minute_max >= 1000 else 1
    return MINUTE_US // parts, per_minute_max // parts


class OutboxDays:
    """Makes the outbox's partition of a day before its first message: a test clock may jump to any day."""

    def __init__(self) -> None:
        self._day: object = None

    async def ensure(self, connection: Connection, now_us: int) -> Callable[[], None]:
        """Answer what to call once the transaction is in."""
        day = day_of(now_us)
        if day == self._day:
            return lambda: None
        await ensure_partitions(connection, "outbox", now_us)

        def remember() -> None:
            self._day = day

        return remember


def _name(key: ResourceKey) -> str:
    return f"{key.region}/{key.resource_id}"
