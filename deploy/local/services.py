"""The services of the local stack: one table, in one place."""

from collections.abc import Mapping
from dataclasses import dataclass

from deploy.local.settings import read_port


@dataclass(frozen=True, slots=True)
class Service:
    """One service: `python -m <module> migrate` prepares its database, where it has one, `… serve` runs it."""

    name: str
    module: str
    default_port: int
    has_database: bool = True

    @property
    def port_setting(self) -> str:
        return f"TOLLKEEPER_{self.name.upper().replace('-', '_')}_PORT"

    def port(self, environment: Mapping[str, str]) -> int:
        return read_port(environment, self.port_setting, self.default_port)


PAYMENT = Service("payment", "services.payment.main", 8082)
SERVICES = (
    Service("metering", "services.metering.main", 8083),
    Service("balance", "services.balance.main", 8081),
    PAYMENT,
    Service("enforcement", "services.enforcement.main", 8084),
)

# Stand-ins of the payment providers, where the environment has no keys of the real ones, and a shop to try them.
STRIPE_STANDIN = Service("stripe-standin", "deploy.local.providers.stripe", 8090, has_database=False)
VNPAY_STANDIN = Service("vnpay-standin", "deploy.local.providers.vnpay", 8091, has_database=False)
SHOP = Service("shop", "deploy.local.shop", 8092, has_database=False)
