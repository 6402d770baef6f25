"""Charge streams in trouble: gaps are kept, asked for and drained; conflicts stop a shard, which the status shows."""

import httpx
import pytest

from services.balance.app import post_charges
from services.balance.app.gaps import GapHealer
from services.balance.app.streams import Decided, Streams
from services.balance.store.reading import load_status
from shared.db import transaction
from shared.errors import Refusal
from tests.balance.batches import simple, tenants_of
from tests.balance.books import Books


class Metering:
    """Answers re-send requests, or not."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.asked: list[tuple[str, bytes]] = []
        self.client = httpx.AsyncClient(transport=httpx.MockTransport(self._answer), base_url="http://metering")

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append((request.url.path, request.content))
        return httpx.Response(self.status, json={})


async def status(books: Books) -> dict[str, object]:
    async with transaction(books.pool) as connection:
        return await load_status(connection)


async def test_a_gap_is_asked_for_once_in_a_pause_and_again_after_it(books: Books) -> None:
    [tenant], [other] = tenants_of(1, 1), tenants_of(2, 1)
    metering = Metering()
    healer = GapHealer(books.pool, books.clock, books.charge_poster, metering.client, pause_seconds=3600)
    await healer.heal()
    assert metering.asked == []
    await books.post(simple(1, {tenant: 1}), simple(4, {tenant: 4}), simple(1, {other: 1}))
    await healer.heal()
    await healer.heal()
    assert metering.asked == [("/v1/shards/1/resend", b'{"from_seq":2}')]
    found = await status(books)
    assert found["waiting"] == 1
    assert found["streams"] == [{"shard": 1, "seq": 1, "stopped": None}, {"shard": 2, "seq": 1, "stopped": None}]
    impatient = GapHealer(books.pool, books.clock, books.charge_poster, metering.client, pause_seconds=0)
    await impatient.heal()
    await impatient.heal()
    assert len(metering.asked) == 3


async def test_metering_that_does_not_answer_is_asked_again(books: Books) -> None:
    [tenant] = tenants_of(1, 1)
    metering = Metering(status=503)
    healer = GapHealer(books.pool, books.clock, books.charge_poster, metering.client, pause_seconds=0)
    await books.post(simple(2, {tenant: 4}))
    await healer.heal()
    await healer.heal()
    assert len(metering.asked) == 2
    await books.post(simple(1, {tenant: 1}))
    await healer.heal()
    assert len(metering.asked) == 2
    assert await books.balance(tenant) == -5


async def test_more_than_a_transaction_takes_is_drained_by_and_by_and_in_order(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(post_charges, "_DRAINED_MAX", 2)
    [tenant] = tenants_of(1, 1)
    metering = Metering()
    healer = GapHealer(books.pool, books.clock, books.charge_poster, metering.client, pause_seconds=3600)
    for seq in (7, 3, 5, 2, 6, 4):
        await books.post(simple(seq, {tenant: seq}))
    await books.post(simple(1, {tenant: 1}))

    for _ in range(4):
        await healer.heal()
    assert metering.asked == []
    assert await books.rows("select seq from entry order by entry_number") == [(seq,) for seq in range(1, 8)]
    assert (await status(books))["waiting"] == 0
    assert await books.balance(tenant) == -28
    assert await books.audit() == []


async def test_a_conflict_stops_its_stream_for_good_and_the_status_shows_it(books: Books) -> None:
    [tenant], [neighbour] = tenants_of(1, 1), tenants_of(2, 1)
    await books.post(simple(1, {tenant: 5}), simple(2, {tenant: 5}))
    await books.post(simple(1, {tenant: 6}))
    metering = Metering()
    healer = GapHealer(books.pool, books.clock, books.charge_poster, metering.client, pause_seconds=0)
    # What is right by itself waits too, once the stream is stopped; nobody asks for it, and repeats are no news.
    await books.post(simple(3, {tenant: 1}), simple(1, {neighbour: 1}), simple(2, {tenant: 5}))
    await books.post(simple(3, {tenant: 1}), simple(1, {tenant: 6}))
    await healer.heal()
    assert metering.asked == []
    assert (await books.balance(tenant), await books.balance(neighbour)) == (-10, -1)
    found = await status(books)
    reason = "batch 1 came again with other contents"
    assert found["streams"] == [{"shard": 1, "seq": 2, "stopped": reason}, {"shard": 2, "seq": 1, "stopped": None}]
    assert found["waiting"] == 2
    # The account itself is not stopped: money may still come in.
    assert (await books.credit(tenant, 4, "k1")).balance_after_micros == -6
    assert await books.audit() == []


async def test_two_that_wait_under_one_number_stop_the_stream_when_their_turn_comes(books: Books) -> None:
    [tenant] = tenants_of(1, 1)
    await books.post(simple(2, {tenant: 5}))
    await books.post(simple(2, {tenant: 6}))
    assert (await status(books))["waiting"] == 2
    await books.post(simple(1, {tenant: 1}))
    reason = "batch 2 came again with other contents"
    assert (await status(books))["streams"] == [{"shard": 1, "seq": 2, "stopped": reason}]
    assert await books.rows("select count(*) from entry where seq = 2") == [(1,)]


async def test_a_stopped_stream_goes_on_by_an_operators_word_and_keeps_what_contradicts_it(books: Books) -> None:
    [tenant] = tenants_of(1, 1)
    streams = Streams(books.pool, books.clock, books.charge_poster)
    await books.post(simple(1, {tenant: 5}))
    await books.post(simple(1, {tenant: 6}))
    await books.post(simple(3, {tenant: 3}), simple(2, {tenant: 2}), simple(1, {tenant: 5}))
    reason = "batch 1 came again with other contents"
    assert await streams.resume(1, "an operator", "metering was restored twice") == Decided(1, 3, None, 1)
    metering = Metering()
    await GapHealer(books.pool, books.clock, books.charge_poster, metering.client, pause_seconds=3600).heal()
    assert metering.asked == []
    assert await books.balance(tenant) == -10
    # What was decided on once does not stop the stream again; anything else does.
    await books.post(simple(1, {tenant: 6}))
    assert (await status(books))["streams"] == [{"shard": 1, "seq": 3, "stopped": None}]
    await books.post(simple(1, {tenant: 7}))
    assert (await status(books))["streams"] == [{"shard": 1, "seq": 3, "stopped": reason}]
    kept = await books.rows(
        "select a.seq, actor, r.kind from charge_set_aside a join stream_decision r using (decision_id)"
    )
    assert kept == [(1, "an operator", "resumed")]
    assert await books.audit() == []


async def test_only_a_stopped_stream_is_resumed(books: Books) -> None:
    [tenant] = tenants_of(1, 1)
    await books.post(simple(1, {tenant: 5}))
    for shard in (1, 2):
        with pytest.raises(Refusal, match="not stopped"):
            await Streams(books.pool, books.clock, books.charge_poster).resume(shard, "an operator", "a guess")
    assert await books.rows("select count(*) from stream_decision") == [(0,)]
