"""A loop that ends is started again, whatever ended it, until the service stops."""

import asyncio
import os
import signal

import pytest
from prometheus_client import REGISTRY

from shared.supervisor import STEADY_SECONDS, Supervisor
from tests.support.eventually import eventually


class UnspeakableError(Exception):
    def __repr__(self) -> str:
        raise RecursionError("maximum recursion depth exceeded")


async def test_a_loop_whose_error_cannot_be_written_down_is_started_again() -> None:
    """Behind a frozen broker all consumers stayed away for good, for their error's traceback was a circle."""
    starts = 0

    async def consume() -> None:
        nonlocal starts
        starts += 1
        if starts == 1:
            raise UnspeakableError
        await asyncio.sleep(3600)

    supervisor = Supervisor({"consumer": consume})
    running = asyncio.create_task(supervisor.run())
    await eventually(lambda: starts == 2, timeout_seconds=5, what="the loop is started again")
    assert supervisor.states["consumer"].error == "UnspeakableError"
    os.kill(os.getpid(), signal.SIGTERM)
    await running


async def test_a_loop_of_its_own_that_fails_is_told_and_leaves_the_service_ready() -> None:
    """One grant that could not expire took all of balance out of the load balancer."""
    starts, mended = 0, asyncio.Event()

    async def expire() -> None:
        nonlocal starts
        starts += 1
        await asyncio.sleep(0)
        if not mended.is_set():
            raise ValueError("one grant can't expire")
        await asyncio.sleep(3600)

    async def consume() -> None:
        await asyncio.sleep(3600)

    supervisor = Supervisor({"grants": expire, "consumer": consume}, own=("grants",))
    running = asyncio.create_task(supervisor.run())
    await eventually(lambda: starts > 1, timeout_seconds=5, what="the loop is started again")
    assert supervisor.problems() == {}
    assert supervisor.failing() == {"grants": 'ValueError("one grant can\'t expire")'}
    failures = REGISTRY.get_sample_value("tollkeeper_loop_failures_total", {"loop": "grants"})
    assert failures == supervisor.states["grants"].failures
    mended.set()
    await eventually(lambda: supervisor.states["grants"].running, timeout_seconds=5, what="the loop runs")
    assert supervisor.failing() != {}, "until it has run for a while"
    supervisor.states["grants"].began -= STEADY_SECONDS + 1
    assert supervisor.failing() == {}
    os.kill(os.getpid(), signal.SIGTERM)
    await running


@pytest.mark.parametrize("what", ["something awaited", "the task itself"])
async def test_a_loop_that_is_cancelled_from_within_is_started_again(what: str) -> None:
    """A CancelledError that a library's own task ends with comes out of the loop like any error."""
    starts = 0

    async def consume() -> None:
        nonlocal starts
        starts += 1
        if starts == 1:
            inner = asyncio.ensure_future(asyncio.sleep(3600))
            task = inner if what == "something awaited" else asyncio.current_task()
            assert task is not None
            task.cancel()
            await inner
        await asyncio.sleep(3600)

    supervisor = Supervisor({"consumer": consume})
    running = asyncio.create_task(supervisor.run())
    await eventually(lambda: starts == 2, timeout_seconds=5, what="the loop is started again")
    assert supervisor.states["consumer"].failures == 1
    os.kill(os.getpid(), signal.SIGTERM)
    await running
    assert starts == 2, "a service that stops starts nothing again"
