"""Adopting from the charge topic on real PostgreSQL: what it refuses, what it costs, and that a half leaves nothing."""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import orjson
import pytest

from services.metering.app.adoption import adopt
from services.metering.app.restore import settle
from shared.clock import HOUR_US, MINUTE_US, SECOND_US
from shared.db import transaction
from shared.errors import Corruption
from shared.events.charges import compress, decompress
from shared.outbox import SEQ_HEADER, STREAM_HEADER
from shared.topic_reader import FoundRecord, TopicReader
from shared.topics import CHARGES, PRICE_BOOKS
from tests.conftest import MakeDatabase
from tests.metering.meter import START_US, Meter, book, lifecycle, usage

PRICES: dict[str, Any] = {
    "gpu": {"a30": "0.670007"},
    "storage": {"persistent": "0.000131"},
    "services": {"tokens": {"unit": "1000-tokens", "price": "0.000407"}},
}


class Topics(TopicReader):
    """What a lost database had published, as records of one partition per topic."""

    def __init__(self, records: Mapping[str, list[bytes | None]]) -> None:
        super().__init__("", "")
        self.records = records

    async def read_records(self, topic: str, starts: Mapping[int, int]) -> AsyncIterator[FoundRecord]:
        for offset, value in enumerate(self.records[topic]):
            if offset >= starts.get(0, 0):
                yield FoundRecord(0, offset, value, _place_of(topic, offset, value or b""))

    @classmethod
    async def of(cls, meter: Meter) -> "Topics":
        """Everything in a meter's outbox."""
        found: dict[str, list[bytes | None]] = {}
        for topic in (CHARGES, PRICE_BOOKS):
            rows = await meter.rows("select value from outbox where topic = $1 order by stream, seq", topic)
            found[topic] = [value for (value,) in rows]
        return cls(found)


def _place_of(topic: str, offset: int, value: bytes) -> dict[str, bytes | None]:
    """The headers that a relay gives a record."""
    stream, seq = 0, offset + 1
    if topic == CHARGES:
        batch = orjson.loads(decompress(value))
        stream, seq = batch["shard"], batch["seq"]
    return {STREAM_HEADER: str(stream).encode(), SEQ_HEADER: str(seq).encode()}


async def live(meter: Meter) -> None:
    await meter.put_book(book(START_US, **PRICES))
    for number in range(6):
        tenant = {"tenant_id": f"tenant-{number}"}
        shape: dict[str, Any] = {**tenant, "gpu_sku": "a30", "gpu_count": 1, "persistent_storage_gb": 5}
        await meter.take(
            lifecycle("container.created", f"ctr-{number}", START_US, **shape),
            lifecycle("container.started", f"ctr-{number}", START_US + SECOND_US, **tenant),
            usage(f"u-{number}", START_US, 1234 + number, tenant_id=f"tenant-{number}"),
        )
    await meter.reach(START_US + 10 * MINUTE_US)
    await meter.take(lifecycle("container.deleted", "ctr-0", START_US + 5 * MINUTE_US, tenant_id="tenant-0"))
    await meter.reach(START_US + HOUR_US)


async def take_over(meter: Meter, topics: Topics) -> None:
    async with transaction(meter.pool) as connection:
        await adopt(connection, topics, {}, meter.clock.now_us())


@pytest.fixture
async def empty(make_database: MakeDatabase) -> AsyncIterator[Meter]:
    """A database from before anything happened."""
    _, app_url = await make_database("metering")
    made = await Meter.open(app_url)
    yield made
    await made.close()


async def test_an_empty_backup_adopts_everything_and_owes_it_until_it_is_settled(meter: Meter, empty: Meter) -> None:
    await live(meter)
    empty.clock.set(meter.clock.now_us())
    await take_over(empty, await Topics.of(meter))
    assert await empty.charged() == await meter.charged(), "the adopted batches are in the outbox, to be sent again"
    heads = "select shard, seq, metered_through from shard where seq > 0 order by 1"
    assert await empty.rows(heads) == await meter.rows(heads)
    burns = "select * from account_burn order by 1, 2"
    assert await empty.rows(burns) == await meter.rows(burns)
    assert await empty.rows("select body from price_book") == await meter.rows("select body from price_book")
    charged = dict(await empty.rows("select tenant_id, sum(amount_micros)::bigint from restore_charged group by 1"))
    assert charged == {account[1]: micros for account, micros in (await meter.charged()).items()}


async def test_a_correction_while_ticks_are_behind_moves_nothing_on(meter: Meter, empty: Meter) -> None:
    """What it says of itself is when it was made, not up to where its shard was charged by then."""
    await live(meter)
    meter.clock.set(START_US + 2 * HOUR_US)
    for number in range(1, 6):
        name, tenant = f"ctr-{number}", {"tenant_id": f"tenant-{number}"}
        await meter.take(lifecycle("container.deleted", name, START_US + 5 * MINUTE_US, **tenant))
    empty.clock.set(meter.clock.now_us())
    await take_over(empty, await Topics.of(meter))
    heads = "select shard, seq, metered_through from shard where seq > 0 order by 1"
    assert await empty.rows(heads) == await meter.rows(heads)


@pytest.mark.parametrize("lost", ["a batch", "a price book", "sense"])
async def test_what_the_topics_no_longer_tell_stops_the_restore_and_changes_nothing(
    meter: Meter, empty: Meter, lost: str
) -> None:
    await live(meter)
    topics = await Topics.of(meter)
    if lost == "a batch":
        # One with another after it: that an idle shard's only one is gone, nobody can see.
        shards = [orjson.loads(decompress(value or b""))["shard"] for value in topics.records[CHARGES]]
        del topics.records[CHARGES][next(n for n, shard in enumerate(shards) if shards.count(shard) > 1)]
    elif lost == "a price book":
        topics.records[PRICE_BOOKS].clear()
    else:
        topics.records[CHARGES].append(compress(b'{"shard": 0, "seq": 1}'))
    empty.clock.set(meter.clock.now_us())
    with pytest.raises(Corruption):
        await take_over(empty, topics)
    assert await empty.rows("select * from outbox") == []
    assert await empty.rows("select * from restore_charged") == []
    assert await empty.rows("select distinct seq from shard") == [(0,)]


async def test_repeats_on_the_topic_count_once(meter: Meter, empty: Meter) -> None:
    await live(meter)
    topics = await Topics.of(meter)
    topics.records[CHARGES].extend(topics.records[CHARGES][-3:])
    empty.clock.set(meter.clock.now_us())
    await take_over(empty, topics)
    assert await empty.charged() == await meter.charged()


async def test_a_resource_stays_its_owners_whoever_is_read_first_after_the_restore(meter: Meter, empty: Meter) -> None:
    """Of two claims the first one wins, and topics that are read again have them in another order."""
    await live(meter)
    claims = [
        lifecycle("container.created", f"ctr-{number}", START_US, tenant_id="stranger", gpu_sku="a30", gpu_count=8)
        | {"id": f"claim-{number}"}
        for number in range(6)
    ]
    await meter.take(*claims)
    assert len(await meter.contradictions()) == 6
    empty.clock.set(meter.clock.now_us())
    await take_over(empty, await Topics.of(meter))
    empty.intake.rules = replace(empty.intake.rules, publishes=False)
    told = [json.loads(line) for line in meter.lines]
    await empty.take(*reversed(told))
    async with transaction(empty.pool) as connection:
        await settle(connection, empty.prices, empty.clock.now_us(), empty.settings.shards)
    assert await empty.charged() == await meter.charged()
    owners = "select resource_id, tenant_id from resource order by 1"
    assert await empty.rows(owners) == await meter.rows(owners)
    assert sorted(await empty.contradictions()) == sorted(await meter.contradictions())
