"""Fixtures of the command line's tests: fake services, and `tollkeeper(...)`."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from deploy.cli.main import run
from tests.cli.fakes import FakeService


@dataclass(frozen=True, slots=True)
class Ended:
    """How a call ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return orjson.loads(self.out)


Tollkeeper = Callable[..., Ended]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An environment without settings of ours, whose home is empty and whose services nobody runs."""
    for name in list(os.environ):
        if name.startswith("TOLLKEEPER_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TOLLKEEPER_HOME", str(tmp_path / "home"))
    # Port 9 is discard: nobody listens.
    for name in ("METERING", "BALANCE", "ENFORCEMENT"):
        monkeypatch.setenv(f"TOLLKEEPER_{name}_URL", "http://127.0.0.1:9")
    return monkeypatch


@pytest.fixture
def tollkeeper(environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tollkeeper:
    """Call the command line with arguments."""
    assert environment is not None

    def call(*arguments: object) -> Ended:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return call


@dataclass(frozen=True, slots=True)
class Fakes:
    metering: FakeService
    balance: FakeService
    enforcement: FakeService
    payment: FakeService


@pytest.fixture
def fakes(environment: pytest.MonkeyPatch) -> Iterator[Fakes]:
    """The services as fakes, where the command line finds them; none has dead letters."""
    with ExitStack() as stack:
        made = Fakes(*(stack.enter_context(FakeService()) for _ in range(4)))
        for name in ("metering", "balance", "enforcement", "payment"):
            service: FakeService = getattr(made, name)
            environment.setenv(f"TOLLKEEPER_{name.upper()}_URL", service.url)
            service.on("GET", "/v1/dead-letters", {"dead_letters": []})
        yield made
