"""A full disk: what runs is watched on, and stopped, though nothing can be written about it."""

import errno
import io
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from deploy.local import processes
from deploy.local.launch import Launch
from deploy.local.processes import rotate_log
from deploy.local.progress import Progress
from deploy.local.settings import LocalSettings
from deploy.local.supervisor import StopRequest

FULL = OSError(errno.ENOSPC, "No space left on device")


class Full(io.StringIO):
    def write(self, _text: str) -> int:
        raise FULL


def fail(*_arguments: Any) -> Any:
    raise FULL


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    settings = LocalSettings.read({"TOLLKEEPER_HOME": str(tmp_path / "home")})
    return Launch(settings, {}, (), demo=False, console=Console(file=Full()), stop_request=StopRequest())


def test_what_runs_is_stopped_though_that_can_not_be_noted(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[str] = []
    monkeypatch.setattr(launch._home, "write_state", fail)
    monkeypatch.setattr(launch._supervisor, "stop", lambda: stopped.append("all"))
    launch._stop()
    assert stopped == ["all"]


def test_what_could_not_be_noted_is_noted_later(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = iter((False, False, False, True))
    answers = iter((False, True))
    monkeypatch.setattr(launch._stop_request, "wait", lambda _seconds: next(rounds))
    died = iter((True, False, False))
    supervisor = launch._supervisor
    supervisor._wards = [_Ward()]  # type: ignore[list-item]  # what `run` asks of one
    monkeypatch.setattr(supervisor, "_attend", lambda _ward: next(died))
    supervisor.run(lambda: next(answers))
    assert next(answers, "asked twice, and no more") == "asked twice, and no more"


class _Ward:
    dead = True

    def process(self) -> None:
        return None


def test_nobody_is_told_where_nothing_can_be_written() -> None:
    Progress(Console(file=Full())).warn("kafka ended by itself")


def test_a_log_is_emptied_without_a_predecessor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "metering.log"
    log.write_text("x" * 100)
    monkeypatch.setattr(processes, "LOG_BYTES_MAX", 10)
    monkeypatch.setattr(shutil, "copyfile", fail)
    rotate_log(log)
    assert (log.stat().st_size, list(tmp_path.iterdir())) == (0, [log])
