"""`make` sets up .venv once, also when it is called twice at once, interrupted or moved."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.foreground import start_in_foreground

ROOT = Path(__file__).parents[2]
PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "tollkeeper"
version = "0.1.0"
"""
# Builds a wheel with one program in it: enough for `pip install -e .` without anything from elsewhere.
BACKEND = """
import pathlib, zipfile

def build_editable(folder, config_settings=None, metadata_directory=None):
    name, info = "tollkeeper-0.1.0-py3-none-any.whl", "tollkeeper-0.1.0.dist-info"
    with zipfile.ZipFile(pathlib.Path(folder) / name, "w") as wheel:
        wheel.writestr("hello.py", "def main(): print('hello')")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\\nName: tollkeeper\\nVersion: 0.1.0\\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{info}/entry_points.txt", "[console_scripts]\\nhello = hello:main\\n")
        wheel.writestr(f"{info}/RECORD", "")
    return name
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "D\u1ef1 \u00e1n # x"
    (folder / "deploy").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", folder)
    shutil.copy(ROOT / "deploy" / "set_up.py", folder / "deploy")
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "backend.py").write_text(BACKEND)
    (folder / "requirements.lock").write_text("# nothing\n")
    return folder


def start(checkout: Path) -> subprocess.Popen[str]:
    python = checkout.parent / "a Python" / "python"
    if not python.exists():
        python.parent.mkdir()
        python.symlink_to(sys.executable)
    command = ["make", f"PYTHON={python}", "setup"]
    # A newcomer's make is nobody's child, also where these tests were started by one.
    environment = {
        name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
    }
    return start_in_foreground(command, directory=checkout, environment=environment)


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def hello(checkout: Path) -> str:
    return subprocess.run([checkout / ".venv/bin/hello"], capture_output=True, text=True, check=True).stdout


def test_two_at_once_set_up_once(checkout: Path) -> None:
    first, second = start(checkout), start(checkout)
    ended = [end(first), end(second)]
    assert [code for code, _ in ended] == [0, 0], ended
    assert sum("waiting for it" in output for _, output in ended) == 1
    assert hello(checkout) == "hello\n"
    assert end(start(checkout)) == (0, "make: Nothing to be done for 'setup'.\n")


def leave_half(checkout: Path) -> None:
    """As if pip had been interrupted while it wrote itself."""
    for packages in checkout.glob(".venv/lib/*/site-packages/pip"):
        (packages / "__init__.py").write_text("half a file (")


async def test_an_interrupted_one_is_begun_anew(checkout: Path) -> None:
    interrupted = start(checkout)
    await eventually((checkout / ".venv" / "bin").exists, what="the set-up's first file")
    os.killpg(interrupted.pid, signal.SIGINT)
    code, output = end(interrupted)
    assert code != 0, output
    assert "was interrupted; the next make begins it anew" in output
    assert "Traceback" not in output
    leave_half(checkout)
    assert end(start(checkout))[0] == 0
    assert hello(checkout) == "hello\n"


def test_a_moved_folder_and_a_vanished_python_are_set_up_anew(checkout: Path) -> None:
    assert end(start(checkout))[0] == 0
    moved = checkout.rename(checkout.with_name("moved"))
    assert end(start(moved))[0] == 0
    assert hello(moved) == "hello\n"
    (moved / ".venv" / "bin" / "python").unlink()
    (moved / ".venv" / "bin" / "python").symlink_to("/gone/python3")
    assert end(start(moved))[0] == 0
    assert hello(moved) == "hello\n"


def test_a_set_up_that_fails_says_where(checkout: Path) -> None:
    (checkout / "requirements.lock").write_text("./missing-package\n")
    code, output = end(start(checkout))
    assert code == 2
    assert "the set-up of .venv failed at `-m pip install" in output
    assert "begins it anew" in output
