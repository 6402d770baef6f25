"""Records that the broker takes and that a client library may choke on: each is applied or a dead letter, in its place
among neighbours of which none is lost, and no partition waits for another's.
"""

import asyncio
from contextlib import suppress

import pytest

from shared.clock import SystemClock
from shared.consumer import OffsetConsumer, Poll
from shared.db import Connection, ensure_partitions, open_pool, transaction
from shared.dead_letters import load_dead_letters, lock_dead_letter
from shared.lenient_records import unpacks_within
from shared.topics import CHARGES, ensure_topics
from tests.conftest import MakeDatabase
from tests.support.consuming import consuming
from tests.support.raw_records import GZIP, LZ4, SNAPPY, UNCOMPRESSED, ZSTD, RawRecord, make_batch, produce_batch

LATIN = b"caf\xe9"
TEN_MEGABYTES = b"m" * 10_000_000
HUGE = [RawRecord(b"\0" * 900_000) for _ in range(40)]

# Partition: batches of records. Each bad one stands at another place of its batch: first, last, alone, in the middle.
BATCHES = {
    0: [
        [RawRecord(b"0"), RawRecord(b"1", ((LATIN, b"x"),)), RawRecord(b"2")],
        [RawRecord(b"3", ((b"\xff\xfe", None), (b"plain", b"\xff"))), RawRecord(b"4")],
        [RawRecord(b"5"), RawRecord(b"6", ((LATIN, b""),))],
    ],
    1: [[RawRecord(b"0", ((b"", None),)), RawRecord(None), RawRecord(b"2", ((LATIN, None),), b"\xff")]],
    2: [[RawRecord(b"0")], [RawRecord(TEN_MEGABYTES)], [RawRecord(b"2", ((LATIN, b"y"),))], [RawRecord(b"3")]],
    3: [[RawRecord(b"%d" % number) for number in range(50)]],
}


async def produce_all(bootstrap: str, topic: str) -> int:
    sent = 0
    for partition, batches in BATCHES.items():
        for number, batch in enumerate(batches):
            compression = (UNCOMPRESSED, GZIP, ZSTD)[number % 3]
            assert await produce_batch(bootstrap, topic, partition, batch, compression) >= 0
            sent += len(batch)
    return sent


async def test_odd_records_are_read_in_their_place_and_stop_nobody(
    make_database: MakeDatabase, kafka_bootstrap: str, topic_prefix: str
) -> None:
    await ensure_topics(kafka_bootstrap, topic_prefix)
    sent = await produce_all(kafka_bootstrap, topic_prefix + CHARGES)
    _, app_url = await make_database("balance")
    pool = await open_pool(app_url, application="odd", size_max=4)
    clock = SystemClock()
    async with transaction(pool) as connection:
        await ensure_partitions(connection, "outbox", clock.now_us())
    found: dict[int, list[tuple[int, bytes | None]]] = {}
    names: dict[tuple[int, int], tuple[str, ...]] = {}
    done = asyncio.Event()

    async def apply(_connection: Connection, poll: Poll) -> None:
        for record in poll.records:
            found.setdefault(record.partition, []).append((record.offset, record.value))
            names[record.partition, record.offset] = tuple(name for name, _ in record.headers)
            if record.value is None or record.headers:
                poll.bury(record, "odd", "kept to see that it can be")
        if sum(map(len, found.values())) == sent:
            poll.after_commit(done.set)

    consumer = OffsetConsumer(
        pool,
        clock,
        apply,
        bootstrap=kafka_bootstrap,
        topic_prefix=topic_prefix,
        topics=(CHARGES,),
        group="odd",
        records_max=3,
    )
    running = asyncio.create_task(consumer.run())
    waiting = asyncio.create_task(done.wait())
    try:
        await asyncio.wait({running, waiting}, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        assert done.is_set(), running.exception() if running.done() else f"read so far: {names}"
        assert found == {
            partition: list(enumerate(record.value for batch in batches for record in batch))
            for partition, batches in BATCHES.items()
        }
        assert names[0, 1] == ("caf\\xe9",)
        assert names[0, 3] == ("\\xff\\xfe", "plain")
        async with pool.acquire() as connection:
            dead = await load_dead_letters(connection)
            records = [await lock_dead_letter(connection, str(item["dead_id"])) for item in dead]
        kept = {(record.partition, record.offset): record for record in records if record is not None}
        assert set(kept) == {(0, 1), (0, 3), (0, 6), (1, 0), (1, 1), (1, 2), (2, 2)}
        assert kept[0, 3].headers == (("\\xff\\xfe", None), ("plain", b"\xff"))
    finally:
        for task in (running, waiting):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await pool.close()


@pytest.mark.parametrize("codec", [GZIP, SNAPPY, LZ4, ZSTD])
def test_what_a_batch_unpacks_to_is_known_before_it_is_unpacked(codec: int) -> None:
    small, large = make_batch([RawRecord(b"x" * 1000)], codec), make_batch(HUGE, codec)
    assert len(large) < 2_000_000
    assert unpacks_within(small, 2000)
    assert unpacks_within(large, 40_000_000)
    assert not unpacks_within(large, 30_000_000)
    assert not unpacks_within(small, 900)


def test_what_is_not_compressed_is_as_large_as_it_is() -> None:
    assert unpacks_within(make_batch(HUGE, UNCOMPRESSED), 10)


async def test_a_batch_that_unpacks_to_too_much_is_one_dead_letter_and_its_neighbours_are_read(
    make_database: MakeDatabase, kafka_bootstrap: str, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.lenient_records.UNPACKED_BYTES_MAX", 1_000_000)
    await ensure_topics(kafka_bootstrap, topic_prefix)
    for batch in ([RawRecord(b"before")], HUGE, [RawRecord(b"after")]):
        await produce_batch(kafka_bootstrap, topic_prefix + CHARGES, 0, batch, ZSTD)
    _, app_url = await make_database("balance")
    pool = await open_pool(app_url, application="huge", size_max=4)
    found: list[tuple[int, bytes | None]] = []
    done = asyncio.Event()

    async def apply(_connection: Connection, poll: Poll) -> None:
        found.extend((record.offset, record.value) for record in poll.records)
        if found[-1][1] == b"after":
            poll.after_commit(done.set)

    async with consuming(pool, kafka_bootstrap, topic_prefix, apply, records_max=3), asyncio.timeout(60):
        await done.wait()
    await pool.close()
    assert [offset for offset, _ in found] == [0, 40, 41]
    assert (found[0][1], found[2][1]) == (b"before", b"after")
    assert b"would unpack to too many" in (found[1][1] or b"")
