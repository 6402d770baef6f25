"""A home that can't be used gets a sentence, and commands find the home that is meant."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from deploy.local.faults import describe_path_fault
from deploy.local.settings import DEMO_HOME, HOME
from deploy.local.state import Home, find_home
from deploy.local.status import print_status, read_status
from tests.support.infrastructure import temporary_home

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "tests.local.fake_stack")


@pytest.fixture
def folder() -> Iterator[Path]:
    with temporary_home() as folder:
        folder.chmod(0o755)
        yield folder


# Root passes by rights; without these capabilities it is a user like others.
_WITHOUT_RIGHTS = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")


def run(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """As a user for whom rights count."""
    prefix: tuple[str, ...] = ()
    if os.geteuid() == 0:
        prefix = _WITHOUT_RIGHTS
        if shutil.which(prefix[0]) is None or subprocess.run([*prefix, "true"], check=False).returncode != 0:
            pytest.skip("root can't lay down its rights here")
    return subprocess.run(
        [*prefix, *COMMAND, *arguments],
        env=os.environ | {"TOLLKEEPER_HOME": str(home)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def expect_sentence(ended: subprocess.CompletedProcess[str], home: Path, reason: str) -> None:
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"tollkeeper: {home} can't be used for data: {reason}")
    assert "TOLLKEEPER_HOME" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_home_that_is_a_file(folder: Path) -> None:
    home = folder / "home"
    home.touch()
    for action in ("up", "status", "down"):
        expect_sentence(run(home, action), home, "it is a file where a folder must be")


def test_a_home_that_may_not_be_written(folder: Path) -> None:
    (folder / "home").mkdir(mode=0o555)
    expect_sentence(run(folder / "home", "up"), folder / "home", "no permission")
    expect_sentence(run(folder / "home" / "inner", "up"), folder / "home" / "inner", "no permission")


def test_a_home_that_may_not_be_entered(folder: Path) -> None:
    (folder / "home").mkdir(mode=0o000)
    for action in ("up", "status", "down"):
        expect_sentence(run(folder / "home", action), folder / "home", "no permission")


def test_a_fault_of_the_cache_names_its_setting() -> None:
    error = PermissionError(13, "Permission denied", "/cache/kafka/x.jar")
    told = describe_path_fault(error, Path("/home"), Path("/cache"))
    assert told is not None
    assert told.startswith(
        "/cache can't be used for programs: no permission (/cache/kafka/x.jar). Set TOLLKEEPER_CACHE"
    )
    assert describe_path_fault(OSError("no path"), Path("/home"), Path("/cache")) is None


def test_where_only_the_demo_was_run_its_home_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_home({}).path.name == HOME
    (tmp_path / DEMO_HOME).mkdir()
    assert find_home({}).path.name == DEMO_HOME
    (tmp_path / HOME).mkdir()
    assert find_home({}).path.name == HOME
    print_status(read_status(Home(tmp_path / HOME)), Console())
    assert f"TOLLKEEPER_HOME={DEMO_HOME} asks about that one" in capsys.readouterr().out
