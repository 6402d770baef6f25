"""The environment of the local services: short ticks, few shards, two regions; what the user sets wins."""

import importlib
import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.local.databases import APP, OWNER, role_url
from deploy.local.faults import StackError
from deploy.local.services import Service

DEFAULTS = {
    "TOLLKEEPER_HOST": "127.0.0.1",
    "TOLLKEEPER_SHARDS": "16",
    "TOLLKEEPER_TICK_SECONDS": "5",
    "TOLLKEEPER_SETTLE_DELAY_SECONDS": "3",
    "TOLLKEEPER_SANITY_LIMITS": "off",
    "TOLLKEEPER_TOPIC_PREFIX": "",
}
_REGION = {
    "slot_seconds": 60,
    "opened_at": "2020-01-01T00:00:00Z",
    "grace_seconds": 86_400,
    "declares_inventory": False,
}
REGIONS = {"vn": {"currency": "VND"} | _REGION, "jp": {"currency": "JPY"} | _REGION}
# An administrator's address and the owners' passwords are nothing that a running service needs.
_WITHHELD = ("TOLLKEEPER_POSTGRES_URL", "TOLLKEEPER_OWNER_PASSWORD", "TOLLKEEPER_APP_PASSWORD")
_DEMO_MODULE = "deploy.local.demo"


def demo_exists() -> bool:
    """Whether this installation has the demo."""
    package = importlib.util.find_spec("deploy.local")
    return package is not None and importlib.util.find_spec(_DEMO_MODULE) is not None


def apply_demo(environment: Mapping[str, str]) -> dict[str, str]:
    """The user's environment over the demo's short settings."""
    settings: dict[str, str] = importlib.import_module(f"{_DEMO_MODULE}.settings").DEMO_ENVIRONMENT
    return settings | dict(environment)


def service_environment(
    user: Mapping[str, str],
    services: Sequence[Service],
    *,
    admin_url: str,
    bootstrap: str,
    passwords: Mapping[str, str],
    test_clock: Path | None,
    runtime: str,
) -> dict[str, str]:
    """What every service gets; `user` is the caller's environment, which wins."""
    ours = DEFAULTS | {
        "TOLLKEEPER_KAFKA_BOOTSTRAP": bootstrap,
        "TOLLKEEPER_REGIONS": json.dumps(REGIONS),
        "TOLLKEEPER_RUNTIME": runtime,
    }
    if test_clock is not None:
        ours["TOLLKEEPER_TEST_CLOCK"] = str(test_clock)
    for service in services:
        name = service.name.upper().replace("-", "_")
        ours[service.port_setting] = str(service.port(user))
        ours[f"TOLLKEEPER_{name}_URL"] = f"http://127.0.0.1:{service.port(user)}"
        if not service.has_database:
            continue
        ours[f"TOLLKEEPER_{name}_DATABASE_URL"] = role_url(admin_url, APP, passwords[APP], database_name(service, user))
        if service.name == "payment":
            ours["TOLLKEEPER_PAYMENT_PUBLIC_URL"] = ours["TOLLKEEPER_PAYMENT_URL"]
    if "TOLLKEEPER_SHOP_URL" in ours:
        ours["TOLLKEEPER_BALANCE_TOP_UP_URL"] = ours["TOLLKEEPER_SHOP_URL"]
    kept = {name: value for name, value in user.items() if name not in _WITHHELD}
    return ours | kept


def owner_setting(
    service: Service, user: Mapping[str, str], *, admin_url: str, passwords: Mapping[str, str]
) -> dict[str, str]:
    """The owner's address of a service's database: for its migration alone."""
    name = f"TOLLKEEPER_{service.name.upper()}_OWNER_URL"
    ours = role_url(admin_url, OWNER, passwords[OWNER], database_name(service, user))
    return {name: user.get(name) or ours}


def database_name(service: Service, user: Mapping[str, str]) -> str:
    return f"{user.get('TOLLKEEPER_DATABASE_PREFIX') or 'tollkeeper_'}{service.name}"


def check_host(environment: Mapping[str, str]) -> None:
    """The stack asks its own services on the loopback interface, so they must listen there too."""
    host = environment.get("TOLLKEEPER_HOST", "127.0.0.1")
    if host not in {"127.0.0.1", "0.0.0.0", "localhost"}:  # noqa: S104 - compared, and only if the user asks for it
        raise StackError(
            f"TOLLKEEPER_HOST={host}: the local stack's services meet on 127.0.0.1. Use 127.0.0.1 (nobody else reaches "
            "them) or 0.0.0.0 (everybody does)."
        )
