"""A call imports only what it needs, and every shell completes it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.cli.commands import COMMANDS, load_command

ROOT = Path(__file__).parents[2]
# Each takes a command longer to load than its help takes to print.
HEAVY = (
    *("aiokafka", "asyncpg", "cramjam", "fastapi", "faststream", "httpx", "jinja2", "msgspec", "numpy", "orjson"),
    *("prometheus_client", "psutil", "pydantic", "pydantic_settings", "rich", "stripe", "structlog", "uvicorn", "yaml"),
    *("deploy.local.state", "services", "shared.events", "shared.kafka"),
)


def call(code: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | (environment or {}),
        capture_output=True,
        text=True,
        check=False,
    )


# The library reads a command's own parameters with it.
READS_PARAMETERS = {"pydantic"}


@pytest.mark.parametrize(
    "words",
    ["--help", "--version", "status --help", "up --help", "account --help", "account credit --help", "parked --help"],
)
def test_help_imports_nothing_that_only_work_needs(words: str) -> None:
    heavy = set(HEAVY) - (set() if words.startswith("--") else READS_PARAMETERS)
    ended = call(
        "import sys; from deploy.cli.main import run;"
        f"code = run({words.split()!r});"
        f"print('loaded:', *sorted({heavy!r} & set(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    assert (ended.returncode, ended.stderr) == (0, "loaded:\n")
    assert ended.stdout


def test_every_command_is_where_the_list_says() -> None:
    for name, place in COMMANDS.items():
        loaded = load_command(name)
        assert (loaded.name, bool(loaded.help)) == (name, True)
        if hasattr(loaded, "commands"):
            assert loaded.help == place.line


def complete(shell: str, line: str) -> set[str]:
    """What a shell offers after a line, as the library's script for it asks."""
    words = line.split(" ")
    environment = {
        "_TOLLKEEPER_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    ended = call("from deploy.cli.entry import main; main()", environment)
    assert ended.stderr == ""
    # zsh and fish are also given each word's help.
    words_of = {"bash": str.strip, "fish": lambda found: found.split("\t")[0]}
    if shell == "zsh":
        return set(re.findall(r'"([^":]+)":"', ended.stdout))
    return {words_of[shell](found) for found in ended.stdout.splitlines() if found}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_their_parts_and_options(shell: str) -> None:
    assert complete(shell, "tollkeeper st") == {"status", "streams"}
    assert complete(shell, "tollkeeper refunds ") == {"list", "withdraw"}
    assert "--idempotency-key" in complete(shell, "tollkeeper account credit --")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script(shell: str) -> None:
    ended = call("from deploy.cli.entry import main; main()", {"_TOLLKEEPER_COMPLETE": f"source_{shell}"})
    assert f"complete_{shell}" in ended.stdout
