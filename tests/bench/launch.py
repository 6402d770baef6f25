"""`python -m tests.bench.launch SERVICE serve`: a service as it is, that also tells what its time went to.

Every few milliseconds of processor time a signal notes which task runs; another signal writes the counts down. Balance
also notes when a posting that exhausted accounts was committed: its own events carry the test clock's time, not ours.
"""

import asyncio
import importlib
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from shared.clock import SystemClock
from tests.system import launch

FOLDER = "TOLLKEEPER_BENCH_FOLDER"
SAMPLE_SECONDS = 0.005


def samples_file(folder: Path, service: str) -> Path:
    return folder / f"{service}.samples"


def crossings_file(folder: Path) -> Path:
    return folder / "crossings"


def _sample(path: Path) -> None:
    counts: Counter[str] = Counter()
    written = 0

    def note(_number: int, _frame: FrameType | None) -> None:
        counts[_running()] += 1

    def write(_number: int, _frame: FrameType | None) -> None:
        nonlocal written
        written += 1
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps({"written": written, "counts": counts}))
        fresh.replace(path)

    signal.signal(signal.SIGPROF, note)
    signal.signal(signal.SIGUSR1, write)
    signal.setitimer(signal.ITIMER_PROF, SAMPLE_SECONDS, SAMPLE_SECONDS)


def _running() -> str:
    """The supervisor's name of the loop that runs now, or what a client library's task or callback is."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return "start"
    if task is None:
        return "sockets"
    name = task.get_name()
    if name.startswith("Task-"):
        return "kafka client" if "aiokafka" in repr(task.get_coro()) else "others"
    return "http" if "starlette" in name else name.rstrip("0123456789 ")


def _note_crossings(path: Path) -> None:
    """Write (tenant, instant of the commit in microseconds) of every account that a posting exhausted."""
    post: Any = importlib.import_module("services.balance.app.post")
    from services.balance.app.post_charges import ChargePoster  # noqa: PLC0415 - balance alone has it

    make_message: Callable[..., Any] = post.account_message
    apply_posting: Callable[..., Any] = ChargePoster._post
    exhausted: dict[asyncio.Task[Any] | None, list[str]] = {}
    out = path.open("a", buffering=1)

    def account_message(shard: int, region: str, tenant_id: str, *more: Any) -> Any:
        if more[1].type == "account.exhausted":
            exhausted.setdefault(asyncio.current_task(), []).append(tenant_id)
        return make_message(shard, region, tenant_id, *more)

    async def _post(self: Any, connection: Any, posted: Any, after_commit: Any) -> None:
        exhausted.pop(asyncio.current_task(), None)
        await apply_posting(self, connection, posted, after_commit)
        tenants = exhausted.pop(asyncio.current_task(), [])
        if tenants:
            after_commit(lambda: write(tenants))

    def write(tenants: list[str]) -> None:
        now_us = SystemClock().now_us()
        out.writelines(f"{tenant} {now_us}\n" for tenant in tenants)

    post.account_message = account_message
    ChargePoster._post = _post  # type: ignore[method-assign]


def main() -> None:
    service, folder = sys.argv[1], Path(os.environ[FOLDER])
    _sample(samples_file(folder, service))
    if service == "balance":
        _note_crossings(crossings_file(folder))
    launch.main()


if __name__ == "__main__":
    main()
