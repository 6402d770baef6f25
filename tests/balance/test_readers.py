"""Many readers of one account leave others their turn, and none waits for ever."""

import asyncio

import pytest

from services.balance.app import readers
from services.balance.app.readers import Readers
from shared.errors import Refusal


async def test_readers_of_one_account_come_one_after_another_and_leave_others_a_place() -> None:
    places, reading, done = Readers(2), asyncio.Event(), []

    async def read(account: str, name: str) -> None:
        async with places.one_of(account):
            if account == "large":
                await reading.wait()
            done.append(name)

    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(read("large", f"large-{number}"))
        await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await read("small", "small")
        assert done == ["small"]
        reading.set()
    assert len(done) == 21


async def test_there_are_no_more_than_places_and_who_waits_too_long_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "WAIT_SECONDS_MAX", 0.05)
    places, reading = Readers(1), asyncio.Event()

    async def read(account: str) -> None:
        async with places.one_of(account):
            await reading.wait()

    first = asyncio.create_task(read("one"))
    await asyncio.sleep(0)
    for account in ("one", "two"):
        with pytest.raises(Refusal, match="busy"):
            await read(account)
    reading.set()
    await first
    await read("two")
