"""Hours against real PostgreSQL: closed from the evidence, exact to the entries, and read as if they were one table."""

import asyncio
import csv
import io
from collections.abc import Mapping

import pytest

from services.balance.app import close_hours
from services.balance.app.close_hours import HourCloser
from services.balance.app.hours import Hours
from services.balance.store.chain import lock_heads
from services.balance.store.hour_reading import HourRow
from shared.clock import DAY_US, HOUR_US, MINUTE_US
from shared.db import transaction
from shared.events.charges import LineClass
from tests.balance.batches import charges, encode, make_batch, simple, tenants_of
from tests.balance.books import START_US, Books
from tests.support.formula_names import FORMULA_NAMES

ROWS = "select hour, resource_id, kind, slots, amount_micros from resource_hour order by account_id, hour, 2, 3"

ASIDE = "select item, reason from set_aside where kind = 'hour' order by item"


class KilledError(BaseException):
    """Stands for the end of a process."""


async def close_all(books: Books) -> None:
    closer = HourCloser(books.pool, books.clock)
    while await closer.close():
        pass


def kinds_of(tenant: str, shard: int, seq: int, totals: Mapping[tuple[str, LineClass], int]) -> bytes:
    listed = [(kind, line_class, amount) for (kind, line_class), amount in totals.items()]
    return encode(make_batch(shard, seq, [charges(tenant, listed)]))


async def test_an_hour_is_one_row_per_resource_and_kind_once_it_is_over(books: Books) -> None:
    [tenant] = tenants_of(1, 1)
    await books.post(kinds_of(tenant, 1, 1, {("gpu", "charge"): 7, ("storage", "charge"): 5}))
    books.clock.set(START_US + HOUR_US - 1)
    await books.post(kinds_of(tenant, 1, 2, {("gpu", "charge"): 7, ("gpu", "credit_correction"): -3}))
    await close_all(books)
    assert await books.rows(ROWS) == []
    books.clock.set(START_US + HOUR_US)
    await close_all(books)
    name = f"ctr-{tenant}"
    assert await books.rows(ROWS) == [(START_US, name, "gpu", 1, 11), (START_US, name, "storage", 1, 5)]
    await close_all(books)
    assert await books.audit() == []


async def test_nothing_is_posted_into_a_closed_hour(books: Books) -> None:
    [tenant] = tenants_of(1, 1)
    await books.post(simple(1, {tenant: 5}))
    books.clock.set(START_US + HOUR_US + MINUTE_US)
    await close_all(books)
    books.clock.set(START_US + MINUTE_US)
    await books.post(simple(2, {tenant: 6}))
    await books.credit(tenant, 1, "k1")
    posted = await books.rows("select posted_at from entry order by entry_number")
    assert posted == [(START_US,), (START_US + HOUR_US,), (START_US + HOUR_US,)]
    books.clock.set(START_US + 3 * HOUR_US)
    await close_all(books)
    assert [row[0] for row in await books.rows(ROWS)] == [START_US, START_US + HOUR_US]
    assert await books.audit() == []


async def test_days_that_nobody_closed_are_closed_hour_by_hour(books: Books) -> None:
    [tenant, other], [neighbour] = tenants_of(1, 2), tenants_of(2, 1)
    posted_us = [START_US + number * 7 * HOUR_US for number in range(12)]
    for seq, instant_us in enumerate(posted_us, start=1):
        books.clock.set(instant_us)
        await books.post(simple(seq, {tenant: seq, other: 1}), simple(seq, {neighbour: 2 * seq}))
    books.clock.set(posted_us[-1] + 400 * DAY_US)
    await close_all(books)
    found = await books.rows(
        "select hour, tenant_id, amount_micros from resource_hour join account using (account_id) order by 1, 2"
    )
    charged = [
        (instant_us, name, amount)
        for seq, instant_us in enumerate(posted_us, start=1)
        for name, amount in sorted({tenant: seq, other: 1, neighbour: 2 * seq}.items())
    ]
    assert found == charged
    assert await books.audit() == []


async def test_what_is_more_than_a_process_should_hold_is_summed_up_all_the_same(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(close_hours, "_HELD_MAX", 1)
    monkeypatch.setattr(close_hours, "_ROWS_MAX", 1)
    [tenant], [neighbour] = tenants_of(1, 1), tenants_of(2, 1)
    for seq in range(1, 4):
        await books.post(simple(seq, {tenant: seq}), simple(seq, {neighbour: 10}))
    books.clock.set(START_US + HOUR_US)
    await close_all(books)
    assert {row[3:] for row in await books.rows(ROWS)} == {(3, 6), (3, 30)}
    assert await books.audit() == []


async def test_a_closer_that_dies_before_its_commit_leaves_nothing_undone(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    [tenant] = tenants_of(1, 1)
    await books.post(simple(1, {tenant: 5}))
    books.clock.set(START_US + HOUR_US)

    async def die(_connection: object, _moves: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(close_hours, "move_hour_heads", die)
        with pytest.raises(KilledError):
            await close_all(books)
    assert await books.rows("select seq from hour_head") == [(0,)]
    assert await books.rows(ROWS) == []
    await close_all(books)
    assert [row[4] for row in await books.rows(ROWS)] == [5]
    assert await books.audit() == []


async def test_a_clock_that_jumps_ahead_while_nothing_is_posted_closes_no_hour_to_come(books: Books) -> None:
    [tenant] = tenants_of(1, 1)
    await books.post(simple(1, {tenant: 5}))
    books.clock.set(START_US + 730 * DAY_US)
    await close_all(books)
    books.clock.set(START_US + HOUR_US + 1)
    await books.post(simple(2, {tenant: 5}))
    assert await books.rows("select posted_at from entry order by entry_number") == [
        (START_US,),
        (START_US + HOUR_US + 1,),
    ]


async def test_posting_and_several_closers_at_once_lose_nothing_and_write_nothing_twice(books: Books) -> None:
    names = {shard: tenants_of(shard, 2) for shard in range(4)}
    closers = [HourCloser(books.pool, books.clock) for _ in range(3)]
    for seq in range(1, 9):
        books.clock.set(START_US + seq * 25 * MINUTE_US)
        values = [simple(seq, dict.fromkeys(names[shard], seq + shard)) for shard in names]
        await asyncio.gather(*(books.post(value) for value in values), *(closer.close() for closer in closers))
    books.clock.set(START_US + DAY_US)
    await close_all(books)
    assert await books.rows("select sum(amount_micros)::bigint, count(distinct hour) from resource_hour") == [
        (sum(2 * (seq + shard) for seq in range(1, 9) for shard in names), 4)
    ]
    assert await books.audit() == []


async def test_a_shard_that_is_posted_to_is_closed_when_its_head_is_free(books: Books) -> None:
    [tenant], [neighbour] = tenants_of(1, 1), tenants_of(2, 1)
    await books.post(simple(1, {tenant: 5}), simple(1, {neighbour: 6}))
    books.clock.set(START_US + HOUR_US)
    closer = HourCloser(books.pool, books.clock)
    async with transaction(books.pool) as connection:
        await lock_heads(connection, [1])
        closing = asyncio.create_task(closer.close())
        while not await books.rows("select from chain_head where closed_through > $1", START_US):
            await asyncio.sleep(0)
        assert await books.rows("select shard from chain_head where closed_through > $1", START_US) == [(2,)]
    await closing
    await close_all(books)
    assert {row[4] for row in await books.rows(ROWS)} == {5, 6}


async def test_an_hour_that_is_not_its_entries_stops_its_shard_only(books: Books, postgres_admin_url: str) -> None:
    [tenant], [neighbour] = tenants_of(1, 1), tenants_of(2, 1)
    await books.post(simple(1, {tenant: 5}), simple(1, {neighbour: 6}))
    other = simple(1, {tenant: 4})
    kept = simple(1, {tenant: 5})
    forge = "set session_replication_role = replica; update evidence set value = '\\x{}' where shard = 1"
    await books.as_superuser(postgres_admin_url, forge.format(other.hex()))
    books.clock.set(START_US + HOUR_US)
    await close_all(books)
    assert [row[4] for row in await books.rows(ROWS)] == [6]
    [(shard, reason)] = await books.rows(ASIDE)
    assert shard == "1"
    assert "the lines of an hour are not its entries" in str(reason)
    # Mended, it goes on by itself: later, for a shard in trouble is not asked all the time.
    await books.as_superuser(postgres_admin_url, forge.format(kept.hex()))
    await close_all(books)
    assert [row[4] for row in await books.rows(ROWS)] == [6]
    books.clock.set(START_US + HOUR_US + 10 * MINUTE_US)
    await close_all(books)
    assert {row[4] for row in await books.rows(ROWS)} == {5, 6}
    assert await books.rows(ASIDE) == []
    assert await books.audit() == []


async def test_lost_evidence_holds_up_its_shard_alone(books: Books, postgres_admin_url: str) -> None:
    [other], [neighbour] = tenants_of(2, 1), tenants_of(3, 1)
    await books.post(simple(1, {other: 1}), simple(2, {other: 1}), simple(3, {other: 1}), simple(1, {neighbour: 7}))
    await books.as_superuser(
        postgres_admin_url,
        "set session_replication_role = replica; delete from evidence where shard = 2 and seq = 2",
    )
    books.clock.set(START_US + HOUR_US)
    await close_all(books)
    assert [row[4] for row in await books.rows(ROWS)] == [7]
    assert await books.rows(ASIDE) == [("2", "Corruption: shard 2: evidence of batch 2 is missing")]


async def test_pages_and_totals_go_over_closed_and_open_hours(books: Books) -> None:
    [tenant, other] = tenants_of(1, 2)
    hours = Hours(books.pool, books.clock)
    for seq in range(1, 6):
        books.clock.set(START_US + (seq - 1) * HOUR_US + MINUTE_US)
        await books.post(
            encode(
                make_batch(
                    1,
                    seq,
                    [
                        charges(other, [("gpu", "charge", 100)]),
                        charges(tenant, [("gpu", "charge", seq), ("storage", "charge", 10)]),
                    ],
                )
            )
        )
        if seq == 4:
            await close_all(books)
    whole = await hours.page("vn", tenant, None, None, None, 1000)
    assert [(row.hour_us, row.kind, row.amount_micros, row.is_open) for row in whole.rows] == [
        (START_US + (seq - 1) * HOUR_US, kind, amount, seq > 3)
        for seq in range(1, 6)
        for kind, amount in (("gpu", seq), ("storage", 10))
    ]
    assert whole.totals is not None
    assert [(total.kind, total.slots, total.amount_micros) for total in whole.totals] == [
        ("gpu", 5, 15),
        ("storage", 5, 50),
    ]
    assert await books.balance(tenant) == -sum(total.amount_micros for total in whole.totals)
    for limit in (1, 2, 3, 7):
        rows: list[HourRow] = []
        key = None
        while True:
            page = await hours.page("vn", tenant, None, None, key, limit)
            rows += page.rows
            assert (page.totals is None) == (key is not None)
            key = page.next
            if key is None:
                break
            # Closing goes on between two pages.
            await close_all(books)
        assert [row.amount_micros for row in rows] == [row.amount_micros for row in whole.rows]
    part = await hours.page("vn", tenant, START_US + HOUR_US, START_US + 2 * HOUR_US, None, 1000)
    assert [row.amount_micros for row in part.rows] == [2, 10]
    assert part.totals is not None
    assert sum(total.amount_micros for total in part.totals) == 12


async def test_all_that_a_resource_was_charged_is_summed_over_closed_and_open_hours(books: Books) -> None:
    [tenant, other] = tenants_of(1, 2)
    for seq in range(1, 5):
        books.clock.set(START_US + (seq - 1) * HOUR_US)
        await books.post(simple(seq, {tenant: seq, other: 100}))
        if seq == 3:
            await close_all(books)
    charged = await Hours(books.pool, books.clock).charged("vn", tenant, f"ctr-{tenant}")
    assert (charged.shard, charged.seq) == (1, 4)
    assert [(item.kind, item.slots, item.amount_micros) for item in charged.kinds] == [("gpu", 4, 10)]
    assert (await Hours(books.pool, books.clock).charged("vn", tenant, "unknown")).kinds == []


async def test_csv_is_the_whole_interval(books: Books) -> None:
    [tenant] = tenants_of(1, 1)
    for seq in (1, 2):
        books.clock.set(START_US + (seq - 1) * HOUR_US)
        await books.post(simple(seq, {tenant: seq}))
    await close_all(books)
    pieces = await Hours(books.pool, books.clock).open_csv("vn", tenant, None, None)
    text = b"".join([piece async for piece in pieces]).decode()
    assert text == (
        "hour,resource_id,kind,slots,amount_micros,open\r\n"
        f"2027-01-15T08:00:00Z,ctr-{tenant},gpu,1,1,false\r\n"
        f"2027-01-15T09:00:00Z,ctr-{tenant},gpu,1,2,true\r\n"
    )


@pytest.mark.parametrize("closes", [False, True])
async def test_pages_add_up_while_the_open_hour_grows_and_closes(books: Books, closes: bool) -> None:  # noqa: FBT001
    """A page names the moment of the first one: what is posted or closed after it is in no later page."""
    [tenant] = tenants_of(1, 1)
    lines: list[tuple[str, str, LineClass, int]] = [(f"ctr-{n}", "gpu", "charge", 10 + n) for n in range(5)]

    def batch(seq: int) -> bytes:
        total = sum(line[3] for line in lines)
        account, _ = charges(tenant, [("gpu", "charge", total)])
        return encode(make_batch(1, seq, [(account.model_copy(update={"lines": 5}), list(lines))]))

    await books.post(batch(1))
    books.clock.set(START_US + HOUR_US)
    await close_all(books)
    await books.post(batch(2))
    hours = Hours(books.pool, books.clock)
    first = page = await hours.page("vn", tenant, None, None, None, 2)
    rows = list(page.rows)
    for seq in range(3, 9):
        if page.next is None:
            break
        await books.post(batch(seq))
        if closes:
            books.clock.set(START_US + (seq - 1) * HOUR_US)
            await close_all(books)
        page = await hours.page("vn", tenant, None, None, page.next, 2)
        rows += page.rows
    assert page.next is None
    assert first.totals is not None
    assert [(row.hour_us, row.resource_id) for row in rows] == [
        (hour_us, line[0]) for hour_us in (START_US, START_US + HOUR_US) for line in lines
    ]
    assert sum(row.amount_micros for row in rows) == sum(total.amount_micros for total in first.totals)


async def test_csv_shows_names_that_spreadsheets_would_run_and_leaves_figures(books: Books) -> None:
    [tenant] = tenants_of(1, 1)
    names = [name for name in FORMULA_NAMES if name.isprintable()]
    lines: list[tuple[str, str, LineClass, int]] = [(name, "gpu", "credit_correction", -7) for name in names]
    account, _ = charges(tenant, [("gpu", "credit_correction", -7 * len(names))])
    await books.post(encode(make_batch(1, 1, [(account.model_copy(update={"lines": len(names)}), lines)])))
    pieces = await Hours(books.pool, books.clock).open_csv("vn", tenant, None, None, bom=True)
    content = b"".join([piece async for piece in pieces])
    assert content.startswith(b"\xef\xbb\xbfhour,")
    rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))
    assert {row["resource_id"] for row in rows} == {FORMULA_NAMES[name] for name in names}
    assert {(row["slots"], row["amount_micros"]) for row in rows} == {("-1", "-7")}


async def test_the_audit_finds_a_row_that_was_changed_added_or_lost(books: Books, postgres_admin_url: str) -> None:
    tenants = tenants_of(1, 2)
    await books.post(kinds_of(tenants[0], 1, 1, {("gpu", "charge"): 7, ("storage", "charge"): 5}))
    books.clock.set(START_US + HOUR_US)
    await close_all(books)
    assert await books.audit() == []
    row = f"vn/{tenants[0]}, 2027-01-15T08:00:00Z: the hour's row of ctr-{tenants[0]} (gpu)"
    unlock = "set session_replication_role = replica"

    async def differences(statement: str) -> list[str]:
        await books.as_superuser(postgres_admin_url, unlock, statement)
        return list(map(str, await books.audit()))

    assert await differences("update resource_hour set amount_micros = 8 where kind = 'gpu'") == [
        f"vn/{tenants[0]}, 2027-01-15T08:00:00Z: the hour's rows sum to 13, the entries to 12",
        f"{row} says (1, 8), its lines (1, 7)",
    ]
    assert await differences("update resource_hour set amount_micros = 7, slots = 2 where kind = 'gpu'") == [
        f"{row} says (2, 7), its lines (1, 7)"
    ]
    await books.as_superuser(postgres_admin_url, unlock, "update resource_hour set slots = 1")
    copied = "insert into resource_hour select day, account_id, hour + interval '1 hour', 'x', kind, 1, 0"
    assert await differences(f"{copied} from resource_hour where kind = 'gpu'") == [
        "all accounts, at no known time: 3 rows of hours are written, the evidence makes 2"
    ]
    lost = await differences("delete from resource_hour where resource_id <> 'x' and kind = 'gpu'")
    assert f"{row} says None, its lines (1, 7)" in lost
