"""`--help`, `--version`, and what a call that makes no sense is told."""

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from deploy.cli.helping import examples
from deploy.cli.main import app
from tests.cli.conftest import Fakes, Tollkeeper


def test_every_example_is_a_call_as_documented() -> None:
    group = typer.main.get_group(app)
    for command, calls in examples().items():
        for call in calls:
            assert call.startswith(command)
            words = shlex.split(call)
            context: Any = group.make_context("tollkeeper", words, resilient_parsing=True)
            while hasattr(context.command, "commands"):
                node = context.command.commands[words.pop(0)]
                context = node.make_context(command, words, parent=context)


@pytest.mark.parametrize("command", ["", "account", "import-trace", "dead"])
def test_short_and_long_help_are_one(tollkeeper: Tollkeeper, command: str) -> None:
    short, long = (tollkeeper(*command.split(), option) for option in ("-h", "--help"))
    assert (short.code, short.out) == (0, long.out)
    assert "xit codes" in tollkeeper("account", "show", "-h").out


def test_no_line_of_the_list_is_cut(tollkeeper: Tollkeeper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for command in ("", "account", "prices", "rates", "voucher", "clock"):
        listed = tollkeeper(*command.split(), "--help").out.partition("Commands:")[2]
        assert "...\n" not in listed


def test_version(tollkeeper: Tollkeeper) -> None:
    assert tollkeeper("--version").out == "tollkeeper 0.1.0\n"


@pytest.mark.parametrize(
    ("call", "told"),
    [
        ("account show acme", "write REGION/TENANT, such as vn/acme"),
        ("account show Mars/acme", "no region"),
        ("account show vn/kh\u00e1ch", "is no tenant: up to 64 ASCII letters"),
        ("explain vn/a/b", "write REGION/TENANT"),
        ("reconcile --account vn", "write REGION/TENANT"),
        ("rates publish USDVND 1 --date 2026-11-24 --actor a", "such as USD/VND"),
        ("rates publish USD/VND 1 --date 24.11.2026 --actor a", "write it as 2026-11-24"),
        ("rates publish USD/VND 1 --date 2026-02-30 --actor a", "write it as 2026-11-24"),
    ],
)
def test_a_call_that_makes_no_sense_is_64_and_has_an_example(
    fakes: Fakes, tollkeeper: Tollkeeper, call: str, told: str
) -> None:
    ended = tollkeeper(*shlex.split(call))
    assert ended.code == 64
    assert told in ended.err
    assert fakes.balance.asked == fakes.payment.asked == []


def test_prices_are_a_table_and_a_region_without_any_is_told(fakes: Fakes, tollkeeper: Tollkeeper) -> None:
    book = {
        "region": "vn",
        "effective_from": "2026-01-01T00:00:00Z",
        "gpu": {"a30": "0.67"},
        "services": {"tokens": {"unit": "1000-tokens", "price": "0.0004"}},
        "version": 3,
        "published_at": "2026-01-01T00:00:00Z",
    }
    fakes.metering.on("GET", "/v1/price-books/vn", {"books": [book]})
    fakes.metering.on("GET", "/v1/price-books/mars", {"books": []})
    shown = tollkeeper("prices", "show", "vn")
    assert shown.code == 0
    assert [line.split() for line in shown.out.splitlines()[1:]] == [
        ["3", "2026-01-01T00:00:00Z", "gpu", "a30", "0.67", "GPU", "and", "hour"],
        ["3", "2026-01-01T00:00:00Z", "services", "tokens", "0.0004", "1000-tokens"],
    ]
    assert tollkeeper("prices", "show", "vn", "--json").document == {"books": [book]}
    missing = tollkeeper("prices", "show", "mars")
    assert (missing.code, "region mars has no price book" in missing.err) == (1, True)


def test_a_key_is_told_only_where_it_is_needed(fakes: Fakes, tollkeeper: Tollkeeper) -> None:
    path = "/v1/accounts/vn/acme"
    fakes.balance.on("GET", path, {"version": 1})
    call = ("account", "credit", "vn/acme", "1", "--reason", "r", "--actor", "a")
    refusal = {"type": "urn:tollkeeper:problem:unknown-region", "detail": "no such region"}
    for status, told in ((201, False), (404, False), (503, True)):
        fakes.balance.on("POST", f"{path}/adjustments", refusal, status)
        ended = tollkeeper(*call)
        assert ("--idempotency-key" in ended.err) is told
        assert "key" not in ended.out


def test_ctrl_c_while_modules_are_loaded_is_no_traceback() -> None:
    code = (
        "import sys, types; m = types.ModuleType('deploy.cli.main');"
        "m.__getattr__ = lambda name: (_ for _ in ()).throw(KeyboardInterrupt);"
        "sys.modules['deploy.cli.main'] = m; import deploy.cli.entry; deploy.cli.entry.main()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (130, "tollkeeper: interrupted\n")
