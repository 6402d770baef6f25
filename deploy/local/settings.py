"""What a person can set about the local stack, read from the environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.local.faults import StackError, describe_path_fault

POSTGRES_PORT = 15433
KAFKA_PORT = 19192
# The demo shortens settings for good, so where nobody names a home it has one of its own.
HOME = ".tollkeeper"
DEMO_HOME = ".tollkeeper-demo"


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """`home` holds this stack's data, `cache` programs that all stacks share."""

    home: Path
    cache: Path
    postgres_url: str | None
    kafka_bootstrap: str | None
    postgres_port: int
    kafka_port: int
    docker: bool

    @classmethod
    def read(cls, environment: Mapping[str, str] | None = None, *, demo: bool = False) -> "LocalSettings":
        """`demo` says which home is meant where the environment names none."""
        env = os.environ if environment is None else environment
        return cls(
            home=Path(env.get("TOLLKEEPER_HOME") or (DEMO_HOME if demo else HOME)).absolute(),
            cache=Path(env.get("TOLLKEEPER_CACHE") or Path.home() / ".cache" / "tollkeeper").absolute(),
            postgres_url=env.get("TOLLKEEPER_POSTGRES_URL") or None,
            kafka_bootstrap=env.get("TOLLKEEPER_KAFKA_BOOTSTRAP") or None,
            postgres_port=read_port(env, "TOLLKEEPER_POSTGRES_PORT", POSTGRES_PORT),
            kafka_port=read_port(env, "TOLLKEEPER_KAFKA_PORT", KAFKA_PORT),
            docker=env.get("TOLLKEEPER_DOCKER", "auto") != "off",
        )


def tell_path_fault(error: OSError) -> str | None:
    """A sentence on a path that can't be used, with the settings of this process; None where it is no such error."""
    settings = LocalSettings.read()
    return describe_path_fault(error, settings.home, settings.cache)


def read_port(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name) or str(default)
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= 65_535:
        raise StackError(f"{name}={text!r} is no port: give a number from 1 to 65535.")
    return int(text)
