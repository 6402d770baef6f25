"""Service usage in: priced at its interval's start, rounded over the sum of all of the tenant's of one price."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.metering.app.lifecycle import Rules
from services.metering.app.work import Work
from services.metering.rules.acceptance import FUTURE_SECONDS_DEAD, FUTURE_SECONDS_MAX
from services.metering.rules.lines import Line
from services.metering.rules.prices import ServiceRate
from services.metering.rules.usage import usage_amount
from services.metering.store import events as event_store
from services.metering.store import usage as usage_store
from services.metering.store.events import WaitingEvent
from services.metering.store.usage import TotalKey, UsageRecord
from shared.clock import SECOND_US
from shared.events.usage import UsageRecorded
from shared.ids import shard_of
from shared.kafka import Record


@dataclass(frozen=True, slots=True)
class IncomingUsage:
    """A usage record and the Kafka record that brought it."""

    usage: UsageRecorded
    record: Record
    waited: bool = False


async def apply_usage(work: Work, incoming: Sequence[IncomingUsage], rules: Rules) -> list[tuple[Record, str, str]]:
    """Store and charge usage records of the work's locked shards; answer what is dead, with reason and advice."""
    keys = {(item.usage.source, item.usage.id) for item in incoming}
    known = await usage_store.load_usage_fingerprints(work.connection, keys)
    fresh: list[UsageRecord] = []
    waiting: list[WaitingEvent] = []
    dead: list[tuple[Record, str, str]] = []
    for item in incoming:
        key = (item.usage.source, item.usage.id)
        fingerprint = item.usage.fingerprint()
        if key in known:
            if known[key] != fingerprint:
                detail = f"{key[0]}/{key[1]} was accepted with other content; give the new fact a new id"
                dead.append((item.record, "same_id_other_content", detail))
            continue
        misplaced = _against_time(work, item.usage, rules)
        if misplaced is not None and misplaced[0] == "dead":
            dead.append((item.record, misplaced[1], "mend the interval and replay it"))
            continue
        if misplaced is not None:
            waiting.append(_waiting(work, item.usage, misplaced[1], rules))
            continue
        known[key] = fingerprint
        fresh.append(_to_record(item.usage, fingerprint, work, rules))
    await usage_store.insert_usage(work.connection, fresh)
    await charge_usage(work, [record for record in fresh if record.priced])
    if waiting:
        await event_store.upsert_waiting(work.connection, waiting)
    waited = [(item.usage.source, item.usage.id) for item in incoming if item.waited]
    released = set(waited) - {(item.source, item.event_id) for item in waiting}
    if released:
        await event_store.delete_waiting(work.connection, released)
    return dead


def _against_time(work: Work, usage: UsageRecorded, rules: Rules) -> tuple[str, str] | None:
    from_us = usage.data.from_us
    if from_us < rules.regions[usage.data.region].opened_at_us:
        return "dead", "before_region_opened"
    ahead_us = usage.data.to_us - work.now_us
    if ahead_us > FUTURE_SECONDS_DEAD * SECOND_US:
        return "dead", "far_future"
    if ahead_us > FUTURE_SECONDS_MAX * SECOND_US:
        return "parked", "future"
    age = rules.limits.event_age_seconds_max
    if age is not None and work.now_us - from_us > age * SECOND_US:
        return "parked", "too_old"
    return None


def _to_record(usage: UsageRecorded, fingerprint: bytes, work: Work, rules: Rules) -> UsageRecord:
    data = usage.data
    return UsageRecord(
        *(usage.source, usage.id, fingerprint, data.region, data.tenant_id),
        shard_of(data.region, data.tenant_id, rules.shards),
        data.sku,
        data.quantity,
        data.from_us,
        work.table(data.region).service_rate(data.sku, data.from_us) is not None,
    )


def _waiting(work: Work, usage: UsageRecorded, reason: str, rules: Rules) -> WaitingEvent:
    data = usage.data
    return WaitingEvent(
        *(usage.source, usage.id, "parked", reason),
        data.to_us if reason == "future" else None,
        *(data.region, data.sku, data.tenant_id),
        shard_of(data.region, data.tenant_id, rules.shards),
        usage.model_dump_json(by_alias=True, exclude_none=True).encode(),
        work.now_us,
    )


async def charge_usage(work: Work, records: Sequence[UsageRecord]) -> None:
    """Publish one line per record: what its quantity adds to the price of the sum."""
    if not records:
        return
    rated: list[tuple[UsageRecord, ServiceRate, TotalKey]] = []
    for record in records:
        rate = work.table(record.region).service_rate(record.sku, record.used_from_us)
        assert rate is not None, "only priced usage is charged"
        key = (record.region, record.tenant_id, record.sku, rate.price_micros, rate.unit_size)
        rated.append((record, rate, key))
    totals = await usage_store.load_totals(work.connection, {key for _, _, key in rated})
    for record, rate, key in rated:
        used = totals.get(key, 0)
        amount = usage_amount(used, record.quantity, rate.unit_size, rate.price_micros)
        totals[key] = used + record.quantity
        line = Line(record.sku, "charge", record.sku, 0, record.quantity, rate.price_micros, amount)
        cause = f"{record.source}/{record.event_id}"
        work.publish(record.shard, (record.region, record.tenant_id), record.sku, [line], cause)
    await usage_store.upsert_totals(work.connection, totals)
