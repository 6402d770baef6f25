"""What batches say of when their lines were used, and up to where a shard is charged."""

from shared.clock import HOUR_US, MINUTE_US, SECOND_US, Clock, minute_of
from shared.events.charges import ChargeBatch
from shared.ids import shard_of
from tests.metering.meter import SHARDS, START_US, Meter, book, lifecycle, usage

SHARD = shard_of("vn", "acme", SHARDS)
# The grid of slots begins within a minute.
CREATED_US = START_US + 7 * SECOND_US


async def begin(meter: Meter) -> None:
    await meter.put_book(book(START_US, gpu={"a30": "0.67"}, services={"tokens": {"unit": "token", "price": "1"}}))
    await meter.take(
        lifecycle("container.created", "ctr-1", CREATED_US, gpu_sku="a30", gpu_count=1),
        lifecycle("container.started", "ctr-1", CREATED_US),
    )
    for minute in (1, 2, 3):
        await meter.reach(START_US + minute * MINUTE_US)


async def of_shard(meter: Meter, shard: int = SHARD) -> list[ChargeBatch]:
    return [batch for batch in await meter.batches() if batch.shard == shard]


def minutes_of(batch: ChargeBatch) -> dict[int, int]:
    """The slots of a batch by the minute in which they begin, as its lines say."""
    assert batch.used_from is not None
    found: dict[int, int] = {}
    lines = batch.lines
    for index, slots in enumerate(lines.slots):
        start_us = batch.used_from if lines.starts is None else lines.starts[index] * SECOND_US
        slot_us = 0 if lines.slots_seconds is None else lines.slots_seconds[index] * SECOND_US
        for number in range(slots):
            minute = (minute_of(start_us + number * slot_us) - START_US) // MINUTE_US
            found[minute] = found.get(minute, 0) + 1
    return found


async def test_a_batch_of_a_minute_says_so_once_and_each_tick_how_far_it_came(meter: Meter) -> None:
    await begin(meter)
    ticks = [batch for batch in await of_shard(meter) if batch.lines.slots]
    assert [minutes_of(batch) for batch in ticks] == [{0: 1}, {1: 1}, {2: 1}]
    assert all(batch.lines.starts is None for batch in ticks)
    assert [batch.charged_through for batch in ticks] == [START_US + minute * MINUTE_US for minute in (1, 2, 3)]


async def test_lines_of_a_longer_tick_say_themselves_when_they_begin(meter: Meter) -> None:
    await begin(meter)
    await meter.reach(START_US + 9 * MINUTE_US)
    *_, last = await of_shard(meter)
    assert (last.used_from, last.used_until) == (START_US + 3 * MINUTE_US, START_US + 9 * MINUTE_US)
    assert minutes_of(last) == dict.fromkeys(range(3, 9), 1)
    assert last.lines.starts == [(CREATED_US + 3 * MINUTE_US) // SECOND_US]


async def test_a_price_that_cuts_a_tick_leaves_the_times_with_their_lines(meter: Meter) -> None:
    await begin(meter)
    await meter.put_book(book(START_US + 6 * MINUTE_US, gpu={"a30": "0.99"}))
    await meter.reach(START_US + 9 * MINUTE_US)
    *_, last = await of_shard(meter)
    assert len(last.lines.slots) == 2
    assert minutes_of(last) == dict.fromkeys(range(3, 9), 1)


async def test_corrections_and_usage_say_when_it_was_used(meter: Meter) -> None:
    await begin(meter)
    await meter.reach(START_US + 30 * MINUTE_US)
    await meter.take(
        lifecycle("container.created", "ctr-2", CREATED_US, gpu_sku="a30", gpu_count=1),
        lifecycle("container.started", "ctr-2", CREATED_US + 10 * MINUTE_US),
        lifecycle("container.stopped", "ctr-2", CREATED_US + 13 * MINUTE_US),
    )
    *_, late = await of_shard(meter)
    assert late.lines.classes == ["debit_correction"]
    assert sorted(minutes_of(late)) == [10, 11, 12]
    assert late.charged_through is None, "it says nothing of all the others"
    await meter.take(usage("u-1", START_US + 20 * MINUTE_US, 5))
    *_, used = await of_shard(meter)
    assert (used.used_from, used.lines.starts) == (START_US + 20 * MINUTE_US, None)


async def test_a_last_batch_alone_says_how_far_the_tick_came(meter: Meter) -> None:
    await begin(meter)
    # One that is not at rest yet, and one that is: two batches of one tick.
    await meter.take(
        lifecycle("container.created", "ctr-3", START_US + 3 * MINUTE_US, gpu_sku="a30", gpu_count=1),
        lifecycle("container.started", "ctr-3", START_US + 3 * MINUTE_US),
    )
    await meter.reach(START_US + 4 * MINUTE_US)
    first, last = (await of_shard(meter))[-2:]
    assert (first.charged_through, last.charged_through) == (None, START_US + 4 * MINUTE_US)


async def test_a_shard_without_charges_says_once_an_hour_how_far_it_is(meter: Meter) -> None:
    await begin(meter)
    idle = (SHARD + 1) % SHARDS
    for minute in (59, 60, 61, 119, 120, 300):
        await meter.reach(START_US + minute * MINUTE_US)
    batches = await of_shard(meter, idle)
    said = [(batch.charged_through or 0) - START_US for batch in batches]
    assert said == [MINUTE_US, HOUR_US, 2 * HOUR_US, 5 * HOUR_US]
    assert all(batch.accounts == [] for batch in batches)


class Running:
    """A clock that is not a test's."""

    is_test = False

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def now_us(self) -> int:
        return self._clock.now_us()


async def test_ticks_of_a_running_clock_end_with_full_minutes(meter: Meter) -> None:
    await begin(meter)
    meter.ticker._clock = Running(meter.clock)
    for second, minute in ((219, 3), (241, 4), (301, 5)):
        meter.clock.set(START_US + second * SECOND_US)
        while await meter.ticker.tick():
            pass
        through_us = max(through_us for (through_us,) in await meter.rows("select metered_through from shard"))
        assert through_us == START_US + minute * MINUTE_US
    assert all(batch.lines.starts is None for batch in await of_shard(meter))
