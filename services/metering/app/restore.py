"""What happens before anything else when metering starts: is this database older than what it published?

If so it was restored from a backup. It adopts what the topics have, takes the lifecycle and usage records in again
without publishing, and then publishes per resource what `charge(history)` says less what was charged (docs/adr/0003).
"""

import asyncio
from contextlib import suppress

from services.metering.app.adoption import adopt, load_usage_due
from services.metering.app.intake import Intake
from services.metering.app.work import Account, Prices, Work, open_work
from services.metering.rules.charge import charge
from services.metering.rules.restore import Charged, ChargeKey, charged_of, settlement_lines
from services.metering.settings import Settings
from services.metering.store import resources as resource_store
from services.metering.store import restore as restore_store
from services.metering.store import shards as shard_store
from services.metering.store.status import load_positions
from services.metering.topic_reader import TopicReader
from shared.clock import SECOND_US, Clock
from shared.consumer import OffsetConsumer
from shared.db import Connection, Pool, transaction
from shared.errors import Corruption
from shared.events.charges import read_batch
from shared.ids import shard_of
from shared.log import get_logger
from shared.topics import CHARGES, ENFORCEMENT_EVENTS, LIFECYCLE, USAGE

logger = get_logger(__name__)

CAUSE = "restore"
_POLL_SECONDS = 0.1


class Restore:
    """`intake` and `consumer` are ones that publish nothing."""

    def __init__(
        self,
        pool: Pool,
        clock: Clock,
        prices: Prices,
        settings: Settings,
        *,
        reader: TopicReader,
        intake: Intake,
        consumer: OffsetConsumer,
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._prices = prices
        self._settings = settings
        self._reader = reader
        self._intake = intake
        self._consumer = consumer

    async def run(self) -> None:
        """Return once this database knows all that it published; costs a look at the topic's ends if it always did.

        Other workers wait here too: none ticks or takes in before a restore is settled.
        """
        async with self._pool.acquire(timeout=30) as guard:
            while not await restore_store.try_lock_restore(guard):
                await asyncio.sleep(_POLL_SECONDS)
            try:
                await self._run()
            finally:
                await restore_store.unlock_restore(guard)

    async def _run(self) -> None:
        async with transaction(self._pool) as connection:
            unsettled = await restore_store.is_unsettled(connection)
        if not unsettled:
            if not await self._is_behind():
                return
            delay_us = round(self._settings.settle_delay_seconds * SECOND_US)
            async with transaction(self._pool) as connection:
                await adopt(connection, self._reader, self._clock.now_us(), delay_us)
        await self._catch_up()
        async with transaction(self._pool) as connection:
            await settle(connection, self._prices, self._clock.now_us(), self._settings.shards)

    async def _is_behind(self) -> bool:
        """Whether the charge topic has a sequence number that this database has not.

        Only what lies beyond the relay's last mark is read: after a kill a few batches, after a restore all since.
        """
        async with transaction(self._pool) as connection:
            starts = await restore_store.load_published_offsets(connection, CHARGES)
        heads: dict[int, int] = {}
        offsets: dict[int, int] = {}
        async for partition, offset, value in self._reader.read(CHARGES, starts):
            offsets[partition] = offset + 1
            try:
                batch = read_batch(value or b"")
            except ValueError as error:
                raise Corruption(f"{CHARGES}/{partition}/{offset} is no charge batch of ours: {error}") from error
            heads[batch.shard] = max(heads.get(batch.shard, 0), batch.seq)
        async with transaction(self._pool) as connection:
            # Read after the topic: whatever another worker had published by then, it had committed before.
            known = {item.shard: item.seq for item in await shard_store.load_shards(connection)}
            behind = {shard: seq for shard, seq in heads.items() if seq > known.get(shard, -1)}
            if not behind and offsets:
                await restore_store.save_published_offsets(connection, CHARGES, offsets)
        if behind:
            logger.error("restore.behind_own_topic", shards=len(behind))
        return bool(behind)

    async def _catch_up(self) -> None:
        """Take in, without publishing, every record that there is now."""
        bounds = await self._reader.load_bounds((LIFECYCLE, USAGE, ENFORCEMENT_EVENTS))
        wanted = {key: bound.end for key, bound in bounds.items() if bound.first < bound.end}
        consuming = asyncio.create_task(self._consumer.run())
        try:
            while not await self._has_reached(wanted):
                done, _ = await asyncio.wait({consuming}, timeout=_POLL_SECONDS)
                if done:
                    consuming.result()
        finally:
            consuming.cancel()
            with suppress(asyncio.CancelledError):
                await consuming
        while await self._intake.release_due(self._pool):
            pass

    async def _has_reached(self, wanted: dict[tuple[str, int], int]) -> bool:
        async with transaction(self._pool) as connection:
            positions = await load_positions(connection)
        return all(positions.get(key, 0) >= end for key, end in wanted.items())


async def settle(connection: Connection, prices: Prices, now_us: int, shards: int) -> None:
    """Publish what is due less what was charged, for every resource and service, and end the restore."""
    work = await open_work(connection, prices, now_us, range(shards), ())
    usage: dict[int, dict[ChargeKey, Charged]] = {}
    for key, item in (await load_usage_due(connection)).items():
        usage.setdefault(shard_of(key.region, key.tenant_id, shards), {})[key] = item
    corrections = 0
    for number in sorted(work.shards):
        charged = _by_resource(await restore_store.load_charged(connection, number))
        due = _by_resource(usage.get(number, {}))
        for resource in await resource_store.load_all(connection, number):
            table = work.table(resource.region)
            of_account = (resource.region, resource.tenant_id), resource.resource_id
            kinds = charged_of(charge(resource.history, table, work.through_us(number)))
            due[of_account] = due.get(of_account, {}) | kinds
            if kinds and of_account not in charged:
                work.announce_admission(resource)
        corrections += _publish_differences(work, number, charged, due)
    await work.save()
    await restore_store.end_restore(connection)
    logger.warning("restore.settled", corrections=corrections)


ByResource = dict[tuple[Account, str], dict[str, Charged]]


def _by_resource(charged: dict[ChargeKey, Charged]) -> ByResource:
    found: ByResource = {}
    for key, item in charged.items():
        found.setdefault(((key.region, key.tenant_id), key.resource_id), {})[key.kind] = item
    return found


def _publish_differences(work: Work, shard: int, charged: ByResource, due: ByResource) -> int:
    corrections = 0
    for account, resource_id in sorted({*charged, *due}):
        key = account, resource_id
        lines = settlement_lines(charged.get(key, {}), due.get(key, {}))
        work.publish(shard, account, resource_id, lines, CAUSE)
        corrections += len(lines)
    return corrections
