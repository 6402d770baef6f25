"""Service usage in: priced at its interval's start, rounded over the sum of all of the tenant's of one price.

A record can replace an earlier one of the same tenant, or take it out: its quantity leaves the sum that it had joined.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from services.metering.app.lifecycle import ADVICE, Rules, waiting_record
from services.metering.app.work import Work
from services.metering.rules.acceptance import FUTURE_SECONDS_DEAD, FUTURE_SECONDS_MAX
from services.metering.rules.lines import Anchor, Line, LineClass
from services.metering.rules.prices import ServiceRate
from services.metering.rules.usage import usage_amount
from services.metering.store import contradictions as contradiction_store
from services.metering.store import events as event_store
from services.metering.store import usage as usage_store
from services.metering.store.contradictions import Contradiction
from services.metering.store.events import EventKey, WaitingEvent
from services.metering.store.usage import TotalKey, UsageRecord
from shared.clock import SECOND_US
from shared.events.usage import UsageRecorded, UsageRetracted, read_usage_json
from shared.ids import shard_of
from shared.kafka import Record
from shared.topics import USAGE


@dataclass(frozen=True, slots=True)
class IncomingUsage:
    """A usage record or a retraction, and the Kafka record that brought it."""

    usage: UsageRecorded | UsageRetracted
    record: Record
    waited: bool = False

    @property
    def key(self) -> EventKey:
        return self.usage.source, self.usage.id

    @property
    def target(self) -> EventKey | None:
        return None if self.usage.data.replaces is None else self.usage.data.replaces.key

    @property
    def sku(self) -> str:
        return self.usage.data.sku if isinstance(self.usage, UsageRecorded) else ""


def to_incoming_usage(waiting: WaitingEvent) -> IncomingUsage:
    return IncomingUsage(read_usage_json(waiting.body), waiting_record(waiting), waited=True)


async def apply_usage(work: Work, incoming: Sequence[IncomingUsage], rules: Rules) -> list[tuple[Record, str, str]]:
    """Store and charge usage records of the work's locked shards; return what is dead, with reason and advice."""
    if not incoming:
        return []
    taking = await _load(work, incoming, rules)
    queue = list(reversed(incoming))
    while queue:
        queue += reversed(taking.take(queue.pop()))
    await taking.save()
    return taking.dead


async def _load(work: Work, incoming: Sequence[IncomingUsage], rules: Rules) -> "_Taking":
    amendments: dict[EventKey, list[IncomingUsage]] = {}
    items, targets = list(incoming), {item.key for item in incoming}
    while targets:
        loaded = [
            to_incoming_usage(item) for item in await event_store.load_amendments(work.connection, USAGE, targets)
        ]
        for item in loaded:
            assert item.target is not None
            amendments.setdefault(item.target, []).append(item)
        items += loaded
        targets = {item.key for item in loaded} - amendments.keys()
    keys = {item.key for item in items} | {item.target for item in items if item.target is not None}
    records = await usage_store.load_usage(work.connection, keys)
    waiting = await event_store.load_waiting_fingerprints(work.connection, USAGE, keys)
    return _Taking(work, rules, records, waiting, amendments)


class _Taking:
    """Decides on records one after another, as they came."""

    def __init__(
        self,
        work: Work,
        rules: Rules,
        records: dict[EventKey, UsageRecord],
        waiting: Mapping[EventKey, bytes],
        amendments: dict[EventKey, list[IncomingUsage]],
    ) -> None:
        self._work = work
        self._rules = rules
        self._records = records
        self._claims = {**waiting, **{key: record.fingerprint for key, record in records.items()}}
        self._amendments = amendments
        self._fresh: dict[EventKey, UsageRecord] = {}
        self._replaced: dict[EventKey, UsageRecord] = {}
        self._changes: list[_Change] = []
        self._waiting: dict[EventKey, WaitingEvent] = {}
        self._done: list[EventKey] = []
        self._contradictions: list[Contradiction] = []
        self.dead: list[tuple[Record, str, str]] = []

    def take(self, item: IncomingUsage) -> list[IncomingUsage]:
        """Decide on a record; return those that waited for it."""
        fingerprint = item.usage.fingerprint()
        known = self._records.get(item.key)
        claimed = known.fingerprint if known is not None else None if item.waited else self._claims.get(item.key)
        if claimed is not None:
            if claimed != fingerprint:
                self._bury(item, "same_id_other_content", ADVICE["same_id_other_content"])
            elif item.waited:
                self._done.append(item.key)
            return []
        misplaced = _against_time(self._work, item.usage, self._rules) or self._against_target(item)
        if misplaced is not None and misplaced[0] != "dead":
            self._wait(item, *misplaced, fingerprint)
            return []
        if misplaced is not None:
            self._bury(item, misplaced[1], ADVICE.get(misplaced[1], "mend the interval and replay it"))
            return []
        self._apply(item, fingerprint)
        return self._amendments.pop(item.key, [])

    def _against_target(self, item: IncomingUsage) -> tuple[str, str] | None:
        if item.target is None:
            return None
        target, data = self._records.get(item.target), item.usage.data
        if target is None:
            return "pending", "before the event that it replaces"
        if (target.region, target.tenant_id) != (data.region, data.tenant_id):
            return "dead", "other_tenant"
        return ("dead", "already_replaced") if target.is_replaced else None

    def _apply(self, item: IncomingUsage, fingerprint: bytes) -> None:
        record = _to_record(item.usage, fingerprint, self._work, self._rules)
        self._records[record.key] = self._fresh[record.key] = record
        self._claims[item.key] = fingerprint
        out = None
        if item.target is not None:
            before = self._records[item.target]
            out = replace(before, replaced_source=record.source, replaced_id=record.event_id)
            self._records[item.target] = out
            if item.target in self._fresh:
                self._fresh[item.target] = out
            else:
                self._replaced[item.target] = out
        self._changes.append(_Change(record if item.sku and record.priced else None, out, _cause(item)))
        self._waiting.pop(item.key, None)
        if item.waited:
            self._done.append(item.key)

    def _wait(self, item: IncomingUsage, state: str, reason: str, fingerprint: bytes) -> None:
        self._claims[item.key] = fingerprint
        data, due_us = item.usage.data, None
        if reason == "future":
            due_us = data.to_us if isinstance(item.usage, UsageRecorded) else item.usage.time  # type: ignore[union-attr]
        target = item.target if state == "pending" else None
        target_source, target_id = target or (None, None)
        self._waiting[item.key] = WaitingEvent(
            *(USAGE, item.usage.source, item.usage.id, fingerprint, state, reason, due_us),
            *(data.region, item.sku, data.tenant_id),
            shard_of(data.region, data.tenant_id, self._rules.shards),
            target_source,
            target_id,
            item.usage.model_dump_json(by_alias=True, exclude_none=True).encode(),
            self._work.now_us,
        )
        if target is not None:
            self._amendments.setdefault(target, []).append(replace(item, waited=True))

    def _bury(self, item: IncomingUsage, reason: str, advice: str) -> None:
        self.dead.append((item.record, reason, f"{item.usage.source}/{item.usage.id}: {advice}"))
        if item.waited:
            # It gives its id back.
            self._claims.pop(item.key, None)
            self._waiting.pop(item.key, None)
            self._done.append(item.key)
        if reason in ADVICE:
            data = item.usage.data
            found = data.region, item.sku, reason, item.usage.source, item.usage.id, data.tenant_id
            self._contradictions.append(Contradiction(*found, f"{_cause(item)}: {advice}", self._work.now_us))

    async def save(self) -> None:
        connection = self._work.connection
        await usage_store.insert_usage(connection, list(self._fresh.values()))
        await usage_store.mark_replaced(connection, list(self._replaced.values()))
        await _charge(self._work, self._changes)
        if self._waiting:
            await event_store.upsert_waiting(connection, self._waiting.values())
        if self._done:
            await event_store.delete_waiting(connection, USAGE, self._done)
        if self._contradictions:
            await contradiction_store.insert_contradictions(connection, self._contradictions)


def _cause(item: IncomingUsage) -> str:
    name = f"{item.usage.source}/{item.usage.id}"
    if item.target is None:
        return name
    verb = "replaces" if isinstance(item.usage, UsageRecorded) else "retracts"
    return f"{name} {verb} {item.target[0]}/{item.target[1]}"


def _against_time(work: Work, usage: UsageRecorded | UsageRetracted, rules: Rules) -> tuple[str, str] | None:
    from_us, to_us = (usage.data.from_us, usage.data.to_us) if isinstance(usage, UsageRecorded) else (usage.time,) * 2
    if from_us < rules.regions[usage.data.region].opened_at_us:
        return "dead", "before_region_opened"
    ahead_us = to_us - work.now_us
    if ahead_us > FUTURE_SECONDS_DEAD * SECOND_US:
        return "dead", "far_future"
    if ahead_us > FUTURE_SECONDS_MAX * SECOND_US:
        return "parked", "future"
    age = rules.limits.event_age_seconds_max
    if age is not None and work.now_us - from_us > age * SECOND_US:
        return "parked", "too_old"
    return None


def _to_record(usage: UsageRecorded | UsageRetracted, fingerprint: bytes, work: Work, rules: Rules) -> UsageRecord:
    data = usage.data
    shard = shard_of(data.region, data.tenant_id, rules.shards)
    head = usage.source, usage.id, fingerprint, data.region, data.tenant_id, shard
    if isinstance(usage, UsageRetracted):
        return UsageRecord(*head, "", 0, usage.time, priced=True)
    priced = work.table(data.region).service_rate(usage.data.sku, usage.data.from_us) is not None
    return UsageRecord(*head, usage.data.sku, usage.data.quantity, usage.data.from_us, priced)


@dataclass(frozen=True, slots=True)
class _Change:
    """A record joins its sum, one leaves its own, or both; what has no price does neither."""

    joins: UsageRecord | None
    leaves: UsageRecord | None
    cause: str


async def charge_usage(work: Work, records: Sequence[UsageRecord]) -> None:
    """Publish one line per record: what its quantity adds to the price of the sum."""
    await _charge(work, [_Change(record, None, f"{record.source}/{record.event_id}") for record in records])


async def _charge(work: Work, changes: Sequence[_Change]) -> None:
    used_until_us = _used_until(work, changes)
    totals = await usage_store.load_totals(work.connection, used_until_us.keys()) if used_until_us else {}
    for change in changes:
        for line in _lines(work, change, totals):
            record = change.joins or change.leaves
            assert record is not None
            account, anchor = (record.region, record.tenant_id), Anchor(record.used_from_us, 0)
            work.publish(record.shard, account, line.sku, [line], change.cause, anchor)
    if totals:
        await usage_store.upsert_totals(work.connection, totals, used_until_us)


def _lines(work: Work, change: _Change, totals: dict[TotalKey, int]) -> list[Line]:
    """What a change adds to the sums that it touches: a line for each, so that each can be worked out from its own."""
    before: dict[TotalKey, int] = {}
    for record, sign in ((change.leaves, -1), (change.joins, 1)):
        if record is not None and record.priced and record.sku:
            _, key = _rate(work, record)
            used = totals.get(key, 0)
            before.setdefault(key, used)
            totals[key] = used + sign * record.quantity
    lines = []
    for key, used in before.items():
        *_, sku, price_micros, unit_size = key
        quantity = totals[key] - used
        amount = usage_amount(min(used, totals[key]), abs(quantity), unit_size, price_micros)
        amount = amount if quantity > 0 else -amount
        class_: LineClass = "charge"
        if change.leaves is not None:
            class_ = "credit_correction" if amount < 0 else "debit_correction"
        if change.leaves is None or amount:
            lines.append(Line(sku, class_, sku, 0, quantity, price_micros, amount))
    return lines


def _used_until(work: Work, changes: Collection[_Change]) -> dict[TotalKey, int]:
    """The sums that changes touch, and where the latest usage of each begins."""
    found: dict[TotalKey, int] = {}
    for change in changes:
        for record in (change.joins, change.leaves):
            if record is not None and record.priced and record.sku:
                _, key = _rate(work, record)
                found[key] = max(found.get(key, record.used_from_us), record.used_from_us)
    return found


def _rate(work: Work, record: UsageRecord) -> tuple[ServiceRate, TotalKey]:
    rate = work.table(record.region).service_rate(record.sku, record.used_from_us)
    assert rate is not None, "only priced usage is charged"
    return rate, (record.region, record.tenant_id, record.sku, rate.price_micros, rate.unit_size)
