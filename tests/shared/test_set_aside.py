"""Items set aside: out of the loop for a growing pause, listed, tried again by an operator, forgotten when done."""

import asyncpg
import pytest
from asyncpg.exceptions import _base

from shared.clock import SECOND_US
from shared.db import is_transient, open_pool, transaction
from shared.errors import Refusal, TransientFault
from shared.set_aside import (
    Pause,
    count_set_aside,
    list_set_aside,
    load_held_back,
    release,
    retry_now,
    set_aside,
)
from tests.conftest import MakeDatabase

NOW_US = 1_800_000_000_000_000


async def test_the_pause_doubles_and_ends(make_database: MakeDatabase) -> None:
    _, url = await make_database("payment")
    pool = await open_pool(url, application="test")
    pause = Pause(10, 35)
    async with transaction(pool) as connection:
        ends = [(await set_aside(connection, "refund", "a", "no", NOW_US, pause)).next_at_us for _ in range(4)]
        assert [(end - NOW_US) // SECOND_US for end in ends] == [10, 20, 35, 35]
        assert await load_held_back(connection, "refund", ["a", "b"], NOW_US) == {"a"}
        assert await load_held_back(connection, "refund", ["a"], ends[-1]) == set()
        assert await load_held_back(connection, "tick", ["a"], NOW_US) == set()
        # By a clock that went back the pause began in the future: it is not for as long as the clock was wrong.
        for now_us, is_held in ((NOW_US - SECOND_US, True), (NOW_US - 3600 * SECOND_US, False)):
            assert (await load_held_back(connection, "refund", ["a"], now_us) == {"a"}) is is_held
            assert [item.is_held(now_us) for item in await list_set_aside(connection)] == [is_held]
        await retry_now(connection, "refund", "a", NOW_US)
        assert await load_held_back(connection, "refund", ["a"], NOW_US) == set()
        assert await count_set_aside(connection) == {"refund": 1}
        assert [(item.kind, item.item, item.attempts) for item in await list_set_aside(connection)] == [
            ("refund", "a", 4)
        ]
        await release(connection, "refund", ["a"])
        assert await count_set_aside(connection) == {}
        with pytest.raises(Refusal):
            await retry_now(connection, "refund", "a", NOW_US)
    await pool.close()


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.InternalClientError("cannot switch to state 15"),
        asyncpg.IdleInTransactionSessionTimeoutError("idle"),
        asyncpg.ReadOnlySQLTransactionError("read only"),
        asyncpg.AdminShutdownError("57P01"),
        asyncpg.InterfaceError("closed"),
        asyncpg.UniqueViolationError("a race"),
        ConnectionResetError(),
        TimeoutError(),
        TransientFault("later"),
        ExceptionGroup("two providers", [TimeoutError(), TransientFault("later")]),
    ],
)
def test_what_a_connection_session_or_server_says_is_transient(error: Exception) -> None:
    assert is_transient(error)


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.CharacterNotInRepertoireError("U+0000"),
        asyncpg.NumericValueOutOfRangeError("bigint out of range"),
        asyncpg.CheckViolationError("a check"),
        asyncpg.ProgramLimitExceededError("index row size 8024 exceeds btree version 4 maximum 2704"),
        _base.DataError("value out of int64 range"),
        ValueError("ours"),
        OverflowError("ours"),
        ExceptionGroup("two providers", [TimeoutError(), ValueError("ours")]),
    ],
)
def test_what_comes_of_the_data_is_not(error: Exception) -> None:
    if isinstance(error, asyncpg.CheckViolationError):
        # Without a name it is a row for whose day there is no partition yet.
        assert is_transient(error)
        error.constraint_name = "amount_is_positive"
    assert not is_transient(error)
