"""What metering does about a database that was set back (shared/restores.py says when).

It adopts what the topics have, takes the lifecycle and usage records in again without publishing, and then publishes
per resource what `charge(history)` says less what was charged (docs/adr/0003).
"""

from services.metering.app.adoption import adopt, load_usage_due
from services.metering.app.intake import Intake
from services.metering.app.inventory import Inventory
from services.metering.app.work import Account, Prices, Work, open_work
from services.metering.rules.charge import charge
from services.metering.rules.restore import Charged, ChargeKey, charged_of, settlement_lines
from services.metering.settings import Settings
from services.metering.store import resources as resource_store
from services.metering.store import restore as restore_store
from shared.clock import Clock
from shared.consumer import OffsetConsumer
from shared.db import Connection, Pool
from shared.ids import shard_of
from shared.log import get_logger
from shared.restore_records import Restore
from shared.restores import Offsets, Recovery, consume_to_end
from shared.topic_reader import TopicReader
from shared.topics import CHARGES, ENFORCEMENT_EVENTS, LIFECYCLE, USAGE

logger = get_logger(__name__)

CAUSE = "restore"


class MeteringRecovery(Recovery):
    """`intake`, `inventory` and `consumer` are ones that publish nothing."""

    def __init__(
        self,
        pool: Pool,
        clock: Clock,
        prices: Prices,
        settings: Settings,
        *,
        reader: TopicReader,
        intake: Intake,
        inventory: Inventory,
        consumer: OffsetConsumer,
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._prices = prices
        self._settings = settings
        self._reader = reader
        self._intake = intake
        self._inventory = inventory
        self._consumer = consumer

    async def adopt(self, connection: Connection, restore: Restore, starts: Offsets) -> None:
        """Adopt the batches, burns and price books that were published since the backup."""
        await adopt(connection, self._reader, starts[CHARGES], restore.restored_at_us)

    async def catch_up(self, restore: Restore) -> None:  # noqa: ARG002 - the protocol's
        """Take in, without publishing, every record that there is now."""
        topics = (LIFECYCLE, USAGE, ENFORCEMENT_EVENTS)
        await consume_to_end(self._pool, self._reader, [self._consumer], topics)
        while await self._intake.release_due(self._pool):
            pass
        while await self._inventory.compare_due(self._pool):
            pass

    async def settle(self, connection: Connection, restore: Restore) -> None:  # noqa: ARG002 - the protocol's
        await settle(connection, self._prices, self._clock.now_us(), self._settings.shards)


async def settle(connection: Connection, prices: Prices, now_us: int, shards: int) -> None:
    """Publish what is due less what was charged, for every resource and service."""
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
            kinds = charged_of(charge(resource.history, table, work.charged_through(resource)))
            due[of_account] = due.get(of_account, {}) | kinds
            if kinds and of_account not in charged:
                work.announce_admission(resource)
        corrections += _publish_differences(work, number, charged, due)
    await work.save()
    await restore_store.delete_charged(connection)
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
