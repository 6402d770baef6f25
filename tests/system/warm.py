"""Service processes that are forked from one which has imported everything already: a start costs no second of imports.

Each is an ordinary process of its own session and environment, and a child of ours: the process that forks it ends at
once, and Linux gives its orphans to the nearest ancestor that asked for them. Where that can't be asked for, and where
a fault is to be installed before anything is imported, programs are started as usual.
"""

import atexit
import ctypes
import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from deploy.local.processes import ManagedProcess, RunningProgram

REPOSITORY = Path(__file__).parents[2]
# prctl(2)
_PR_SET_CHILD_SUBREAPER = 36


class _Nursery:
    """Forks one service's processes; its program is `nurse`."""

    def __init__(self, launcher: str, service: str) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("TOLLKEEPER_")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.system.nurse", launcher, service],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=REPOSITORY,
            # Numeric libraries start threads as they are imported, and those do not survive a fork.
            env=kept | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        atexit.register(self._process.kill)

    def fork(self, environment: Mapping[str, str], log: int) -> int:
        """The id of a new process, which writes to the open file `log`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"environment": dict(environment), "log": f"/proc/{os.getpid()}/fd/{log}"}
        # No longer than for this: other tests' orphans would stay with us as well, and nobody would bury them.
        _adopt_orphans(True)
        try:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        finally:
            _adopt_orphans(False)
        assert answer, f"the nursery ended with {self._process.wait()}"
        return int(answer)


@functools.cache
def _nursery(launcher: str, service: str) -> _Nursery:
    return _Nursery(launcher, service)


@functools.cache
def can_adopt() -> bool:
    """Whether we can become the parent of what our children leave behind."""
    return sys.platform.startswith("linux") and _adopt_orphans(False)


def _adopt_orphans(adopts: bool) -> bool:  # noqa: FBT001 - prctl's own argument
    refused: int = ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(adopts), 0, 0, 0)
    return not refused


class _Adopted:
    """A child that we did not start, with what `subprocess.Popen` says of its own."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._status: int | None = None

    def poll(self) -> int | None:
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            time.sleep(0.005)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.Signals(number))


class WarmProcess(ManagedProcess):
    """A service's process, forked from one that has imported everything."""

    def __init__(self, name: str, launcher: str, service: str, environment: Mapping[str, str], log: Path) -> None:
        super().__init__(name, [launcher, service], log=log)
        self._variables = environment

    def _spawn(self, log: BinaryIO | None) -> RunningProgram:
        assert log is not None
        return _Adopted(_nursery(*self._command).fork(self._variables, log.fileno()))
