"""A batch that can't be posted stops its stream, once and alone; an operator mends or skips it, and it goes on."""

import asyncio

import orjson
import pytest

from services.balance.app.gaps import GapHealer
from services.balance.app.streams import Streams
from services.balance.store.reading import load_status
from shared.db import transaction
from shared.errors import Refusal
from shared.events.charges import compress
from shared.money import AMOUNT_MICROS_MAX
from tests.balance.batches import charges, encode, make_batch, simple, tenants_of
from tests.balance.books import Books
from tests.balance.test_streams import Metering

[TENANT], [NEIGHBOUR] = tenants_of(1, 1), tenants_of(2, 1)
WORD = ("an operator", "a test")


def beyond_bigint(seq: int) -> bytes:
    """A batch whose totals no ledger can hold."""
    document = make_batch(1, seq, [charges(TENANT, [("gpu", "charge", 5)])]).model_dump_json()
    return compress(document.replace('"charge",5]', f'"charge",{2**64}]').replace(":[5]", f":[{2**64}]").encode())


def streams_of(books: Books) -> Streams:
    return Streams(books.pool, books.clock, books.charge_poster)


async def stream(books: Books, shard: int = 1) -> tuple[object, object]:
    async with transaction(books.pool) as connection:
        found = {row["shard"]: row for row in (await load_status(connection))["streams"]}
    return found[shard]["seq"], found[shard]["stopped"]


async def test_a_batch_that_cannot_be_posted_stops_its_stream_once(books: Books) -> None:
    metering = Metering()
    healer = GapHealer(books.pool, books.clock, books.charge_poster, metering.client, pause_seconds=0)
    await books.consume(simple(1, {TENANT: 1}), beyond_bigint(2), simple(3, {TENANT: 3}), simple(1, {NEIGHBOUR: 7}))
    for _ in range(3):
        await healer.heal()
        await books.consume(beyond_bigint(2), simple(3, {TENANT: 3}))
    assert metering.asked == []
    assert await books.rows("select count(*) from dead_letter") == [(0,)]
    assert await books.rows("select seq from charge_waiting order by seq") == [(2,), (3,)]
    seq, stopped = await stream(books)
    assert seq == 1
    assert "batch 2 can't be posted" in str(stopped)
    assert (await books.balance(TENANT), await books.balance(NEIGHBOUR)) == (-1, -7)


async def test_two_bad_batches_are_mended_and_skipped_in_their_turn(books: Books) -> None:
    streams = streams_of(books)
    await books.consume(
        simple(1, {TENANT: 1}),
        beyond_bigint(2),
        simple(3, {TENANT: 3}),
        beyond_bigint(4),
        simple(5, {TENANT: 5}),
    )
    [(waiting, fault)] = (await streams.show(1)).next_batches
    assert waiting.value == beyond_bigint(2)
    assert fault is not None
    mended = make_batch(1, 2, [charges(TENANT, [("gpu", "charge", 2)])])
    after = await streams.mend(1, 2, mended.model_dump_json().encode(), *WORD)
    assert (after.seq, after.set_aside) == (3, 1)
    assert "batch 4 can't be posted" in str(after.stopped_reason)
    skipped = await streams.skip(1, 4, *WORD)
    assert (skipped.seq, skipped.stopped_reason, skipped.set_aside) == (5, None, 1)
    assert skipped.would_post[0][0]["totals"] == [["gpu", "charge", 2**64]]
    assert await books.balance(TENANT) == -11
    # The same bytes come again, as metering has them: they are known, and stop nothing.
    await books.consume(beyond_bigint(4), beyond_bigint(2), simple(6, {TENANT: 6}))
    assert await stream(books) == (6, None)
    kept = await books.rows("select kind, seq, actor, would_post from stream_decision order by 2")
    assert [row[:3] for row in kept] == [("mended", 2, "an operator"), ("skipped", 4, "an operator")]
    assert orjson.loads(str(kept[1][3])) == skipped.would_post
    assert await books.rows("select seq from charge_set_aside order by seq") == [(2,), (4,)]
    assert await books.audit() == []


async def test_a_good_batch_sent_again_waits_for_the_operator_and_is_taken(books: Books) -> None:
    await books.consume(simple(1, {TENANT: 1}), beyond_bigint(2), simple(3, {TENANT: 3}))
    await books.consume(simple(2, {TENANT: 2}))
    assert await books.rows("select count(*) from dead_letter") == [(0,)]
    after = await streams_of(books).resume(1, *WORD)
    assert (after.seq, after.stopped_reason, after.set_aside) == (3, None, 1)
    assert await books.balance(TENANT) == -6
    assert await books.audit() == []


async def test_what_the_database_refuses_stops_its_shard_and_touches_no_other(books: Books) -> None:
    edge = encode(make_batch(1, 1, [charges(TENANT, [("gpu", "charge", AMOUNT_MICROS_MAX)])]))
    await books.consume(edge)
    await books.consume(
        simple(1, {NEIGHBOUR: 1}), simple(2, {TENANT: 5}), simple(2, {NEIGHBOUR: 2}), simple(3, {TENANT: 1})
    )
    assert await stream(books, 2) == (2, None)
    seq, stopped = await stream(books)
    assert (seq, stopped) == (
        1,
        f"batch 2 can't be posted: the balance of vn/{TENANT} would go beyond what the ledger can hold",
    )
    with pytest.raises(Refusal, match="would go beyond"):
        await streams_of(books).mend(
            1, 2, make_batch(1, 2, [charges(TENANT, [("gpu", "charge", 6)])]).model_dump_json().encode(), *WORD
        )
    assert await books.rows("select count(*) from stream_decision") == [(0,)]
    await books.credit(TENANT, 100, "room")
    assert (await streams_of(books).resume(1, *WORD)).seq == 3
    assert await books.balance(TENANT) == -AMOUNT_MICROS_MAX + 94
    assert await books.rows("select count(*) from dead_letter") == [(0,)]


async def test_what_waits_is_never_the_fault_of_what_arrives(books: Books) -> None:
    await books.consume(encode(make_batch(1, 1, [charges(TENANT, [("gpu", "charge", AMOUNT_MICROS_MAX)])])))
    waiting = [simple(seq, {TENANT: 0}) for seq in (3, 4, 5)]
    await books.consume(*waiting, simple(6, {TENANT: 7}), simple(7, {TENANT: 1}))
    await books.consume(simple(2, {TENANT: 0}))
    metering = Metering()
    healer = GapHealer(books.pool, books.clock, books.charge_poster, metering.client, pause_seconds=0)
    for _ in range(4):
        await healer.heal()
    assert metering.asked == []
    seq, stopped = await stream(books)
    assert seq == 5
    assert "batch 6 can't be posted" in str(stopped)
    assert await books.rows("select count(*) from dead_letter") == [(0,)]


async def test_a_gap_is_asked_for_ever_more_seldom_and_shown_as_stopped(books: Books) -> None:
    metering = Metering()
    await books.consume(simple(1, {TENANT: 1}), b"no batch", simple(3, {TENANT: 3}))
    eager = [GapHealer(books.pool, books.clock, books.charge_poster, metering.client, pause_seconds=0) for _ in "ab"]
    for number in range(6):
        await eager[number % 2].heal()
    assert len(metering.asked) == 6
    assert await stream(books) == (1, "batch 2 is missing; metering was asked for it 6 times")
    patient = GapHealer(books.pool, books.clock, books.charge_poster, metering.client, pause_seconds=0.5)
    for _ in range(3):
        await patient.heal()
    assert len(metering.asked) == 6
    # It goes on by itself if the batch comes, or by an operator's word.
    assert (await streams_of(books).skip(1, 2, *WORD)).seq == 3
    assert await stream(books) == (3, None)
    await eager[0].heal()
    assert await books.rows("select * from charge_gap") == []
    assert await books.audit() == []


async def test_only_the_next_batch_of_a_stream_in_trouble_is_mended_or_skipped(books: Books) -> None:
    streams = streams_of(books)
    await books.consume(simple(1, {TENANT: 1}))
    for seq in (1, 2):
        with pytest.raises(Refusal, match=r"waits for|not stopped"):
            await streams.skip(1, seq, *WORD)
    await books.consume(simple(1, {TENANT: 9}))
    with pytest.raises(Refusal, match="resume the stream first"):
        await streams.skip(1, 2, *WORD)
    with pytest.raises(Refusal, match="it is batch 3 of shard 1"):
        await streams.mend(1, 2, make_batch(1, 3, []).model_dump_json().encode(), *WORD)
    with pytest.raises(Refusal, match="batch-refused"):
        await streams.mend(1, 2, b"{}", *WORD)


async def test_two_processes_drain_and_resume_one_stream_and_post_nothing_twice(books: Books) -> None:
    await books.consume(beyond_bigint(1), *(simple(seq, {TENANT: seq}) for seq in range(2, 9)))
    other = Books.wire(books.owner_url, books.pool, books.clock)
    await books.consume(simple(1, {TENANT: 1}))
    metering = Metering()
    healers = [
        GapHealer(books.pool, books.clock, each.charge_poster, metering.client, pause_seconds=0)
        for each in (books, other)
    ]
    results = await asyncio.gather(
        streams_of(books).resume(1, *WORD),
        streams_of(other).resume(1, *WORD),
        *(healer.heal() for healer in healers),
        return_exceptions=True,
    )
    refused = [result for result in results if isinstance(result, BaseException)]
    assert [type(error) for error in refused] == [Refusal]
    assert await stream(books) == (8, None)
    assert await books.balance(TENANT) == -sum(range(1, 9))
    assert await books.audit() == []
