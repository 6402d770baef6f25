"""Where the stack is: services, broker, home; from the environment, else from what the local stack left in its home."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.cli.faults import CommandError
from deploy.local.settings import read_port

PORTS = {"metering": 8083, "balance": 8081, "payment": 8082, "enforcement": 8084}
KAFKA_BOOTSTRAP = "127.0.0.1:9092"


@dataclass(frozen=True, slots=True)
class Addresses:
    """`services` has a URL without trailing slash per service."""

    services: Mapping[str, str]
    kafka_bootstrap: str
    topic_prefix: str
    home: Path

    @classmethod
    def read(cls, environment: Mapping[str, str] | None = None) -> "Addresses":
        """The environment wins over the settings with which the stack of this home was last started."""
        from deploy.local.state import find_home

        own = os.environ if environment is None else environment
        home = find_home(own).path
        # A port that was set here and now means another stack than the remembered addresses.
        ported = {f"TOLLKEEPER_{name.upper()}_URL" for name in PORTS if own.get(f"TOLLKEEPER_{name.upper()}_PORT")}
        remembered = {name: value for name, value in _remembered(home).items() if name not in ported}
        env = remembered | {name: value for name, value in own.items() if value}
        return cls(
            services={name: _service_url(env, name, port) for name, port in PORTS.items()},
            kafka_bootstrap=env.get("TOLLKEEPER_KAFKA_BOOTSTRAP", KAFKA_BOOTSTRAP),
            topic_prefix=env.get("TOLLKEEPER_TOPIC_PREFIX", ""),
            home=home,
        )


def _service_url(env: Mapping[str, str], name: str, port: int) -> str:
    variable = f"TOLLKEEPER_{name.upper()}"
    return (env.get(f"{variable}_URL") or f"http://127.0.0.1:{read_port(env, f'{variable}_PORT', port)}").rstrip("/")


def _remembered(home: Path) -> dict[str, str]:
    from deploy.local.state import Home

    try:
        return Home(home).read_environment()
    except ValueError as error:
        raise CommandError(
            f"what {home} remembers of its stack can't be read ({error}); start it anew with `tollkeeper up`, or set "
            "TOLLKEEPER_HOME to another folder"
        ) from error
