"""Processes are known by pid and beginning, so that a recycled pid is never taken for them."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.local.faults import StackError
from deploy.local.processes import ManagedProcess, identify, open_log, read_identity, rotate_log, stop_leftover, tail
from tests.support.eventually import eventually

_SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
_PARENT = [
    *(sys.executable, "-c"),
    (
        "import subprocess, sys; "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True); "
        "print(child.pid, flush=True); child.wait()"
    ),
]


def test_a_process_is_itself_and_no_other() -> None:
    mine = identify(os.getpid())
    assert mine is not None
    assert mine.alive
    assert not replace(mine, began="another time").alive


def test_a_recycled_pid_gets_no_signal() -> None:
    process = subprocess.Popen(_SLEEPER, stdout=subprocess.DEVNULL)
    identity = identify(process.pid)
    assert identity is not None
    replace(identity, began="another time").signal(signal.SIGKILL)
    assert process.poll() is None
    identity.signal(signal.SIGKILL)
    assert process.wait(10) == -signal.SIGKILL
    assert not identity.alive


async def test_output_goes_to_the_log_and_the_record_goes_with_the_process(tmp_path: Path) -> None:
    process = ManagedProcess("sleeper", _SLEEPER, log=tmp_path / "logs" / "s.log", record=tmp_path / "record")
    process.start()
    await eventually(lambda: process.log_tail() == "up", what="the output")
    assert read_identity(tmp_path / "record") == process.identity
    with pytest.raises(StackError, match="runs already"):
        process.start()
    process.stop()
    assert process.exit_code == -signal.SIGTERM
    assert not (tmp_path / "record").exists()


async def test_kill_reaches_children_in_sessions_of_their_own(tmp_path: Path) -> None:
    process = ManagedProcess("parent", _PARENT, log=tmp_path / "p.log")
    process.start()
    child = identify(int(await eventually(process.log_tail, what="the child's pid")))
    assert child is not None
    process.kill()
    await eventually(lambda: not child.alive, what="the child's end")


async def test_a_leftover_is_stopped_by_its_record(tmp_path: Path) -> None:
    process = ManagedProcess("sleeper", _SLEEPER, log=tmp_path / "s.log", record=tmp_path / "record")
    process.start()
    await eventually(process.log_tail, what="the output")
    assert stop_leftover(tmp_path / "record", signal.SIGTERM)
    assert not process.running
    assert not stop_leftover(tmp_path / "record", signal.SIGTERM)


def test_a_large_log_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.local.processes.LOG_BYTES_MAX", 10)
    log = tmp_path / "s.log"
    log.write_text("0123456789 and more")
    open_log(log).close()
    assert log.read_text() == ""
    assert (tmp_path / "s.old.log").exists()


async def test_a_log_is_set_aside_while_its_process_writes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.local.processes.LOG_BYTES_MAX", 100)
    log = tmp_path / "s.log"
    writer = [sys.executable, "-uc", "import time\nfor i in range(9**9): print(i); time.sleep(0.01)"]
    process = ManagedProcess("writer", writer, log=log)
    process.start()
    try:
        await eventually(lambda: log.stat().st_size > 100, what="a large log")
        rotate_log(log)
        assert (tmp_path / "s.old.log").read_text().startswith("0\n1\n")
        await eventually(lambda: log.stat().st_size > 0, what="it goes on")
        assert log.read_bytes()[:1].isdigit(), "at the file's beginning"
    finally:
        process.kill()


def test_the_tail_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "s.log"
    log.write_text("".join(f"{number}\n" for number in range(100_000)))
    assert tail(log, 2) == "99998\n99999"
    assert tail(tmp_path / "none", 2) == ""
