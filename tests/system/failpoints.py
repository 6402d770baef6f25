"""Faults that a service process is started with: it kills itself at a named function, or holds its relay back.

The services have no fail points of their own: functions are wrapped from outside, in the process that they kill.
"""

import importlib
import inspect
import json
import os
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from shared.outbox import Relay

FAULTS = "SYSTEM_TEST_FAULTS"


@dataclass(frozen=True)
class Kill:
    """SIGKILL to the own process at the `call`-th call of `target` ("module:Class.function"), before or after it."""

    target: str
    when: Literal["before", "after"] = "before"
    call: int = 1


@dataclass(frozen=True)
class HoldRelay:
    """The relay sends nothing until so many messages wait: then that many are in flight at once."""

    messages: int


@dataclass(frozen=True)
class PlantBug:
    """A bug of the catalogue of plants, switched on."""

    name: str


Fault = Kill | HoldRelay | PlantBug
_KINDS: dict[str, type[Fault]] = {kind.__name__: kind for kind in (Kill, HoldRelay, PlantBug)}


def encode_faults(faults: tuple[Fault, ...]) -> str:
    return json.dumps([[type(fault).__name__, asdict(fault)] for fault in faults])


def decode_faults(text: str) -> list[Fault]:
    return [_KINDS[name](**fields) for name, fields in json.loads(text)]


def install(fault: Fault) -> None:
    if isinstance(fault, Kill):
        install_kill(fault)
    elif isinstance(fault, HoldRelay):
        hold_relay(fault.messages)
    else:
        from tests.system.plants import PLANTS  # noqa: PLC0415 - plants import the services, of which one process has one

        PLANTS[fault.name](setattr)


def find(target: str) -> tuple[Any, str, Callable[..., Any]]:
    """(owner, name, function) of "module:Class.function"."""
    module, _, path = target.partition(":")
    owner: Any = importlib.import_module(module)
    *outer, name = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    return owner, name, getattr(owner, name)


def install_kill(kill: Kill) -> None:
    owner, name, function = find(kill.target)
    calls = 0

    def reached(when: str) -> None:
        if kill.when == when and calls == kill.call:
            os.kill(os.getpid(), signal.SIGKILL)

    async def waiting(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        reached("before")
        answer = await function(*args, **options)
        reached("after")
        return answer

    def direct(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        reached("before")
        answer = function(*args, **options)
        reached("after")
        return answer

    setattr(owner, name, waiting if inspect.iscoroutinefunction(function) else direct)


def hold_relay(messages: int) -> None:
    load = Relay._load_unpublished
    opened = False

    async def load_if_enough(relay: Relay, connection: Any) -> Any:
        nonlocal opened
        rows = await load(relay, connection)
        opened = opened or len(rows) >= messages
        return rows if opened else []

    setattr(Relay, "_load_unpublished", load_if_enough)  # noqa: B010 - a class of somebody else's is changed on purpose
