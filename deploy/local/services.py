"""The services of the local stack: one table, in one place."""

from collections.abc import Mapping
from dataclasses import dataclass

from deploy.local.settings import read_port


@dataclass(frozen=True, slots=True)
class Service:
    """One service: `python -m <module> migrate` prepares its database, `python -m <module> serve` runs it."""

    name: str
    module: str
    default_port: int

    @property
    def port_setting(self) -> str:
        return f"TOLLKEEPER_{self.name.upper()}_PORT"

    def port(self, environment: Mapping[str, str]) -> int:
        return read_port(environment, self.port_setting, self.default_port)


SERVICES = (
    Service("metering", "services.metering.main", 8083),
    Service("balance", "services.balance.main", 8081),
    Service("payment", "services.payment.main", 8082),
    Service("enforcement", "services.enforcement.main", 8084),
)
