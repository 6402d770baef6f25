"""Bugs planted in a function's source, to show that a test sees them."""

import inspect
import textwrap
from collections.abc import Callable
from typing import Any

import pytest


def plant(monkeypatch: pytest.MonkeyPatch, target: Callable[..., Any], right: str, wrong: str) -> None:
    """Run `target` with `wrong` in place of `right`, whoever has imported it. The text must stand there once."""
    function: Any = inspect.unwrap(target)
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(right) == 1, f"{right!r} stands {source.count(right)} times in {function.__qualname__}"
    made: dict[str, Any] = {}
    code = compile(source.replace(right, wrong), f"<planted in {function.__qualname__}>", "exec")
    exec(code, function.__globals__, made)
    monkeypatch.setattr(function, "__code__", made[function.__name__].__code__)
