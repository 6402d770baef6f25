"""The catalogue of bugs that can be planted by name, in this process or in a service's."""

from tests.system.plants_rules import RULE_PLANTS, Plant
from tests.system.plants_services import SERVICE_PLANTS

PLANTS: dict[str, Plant] = {**RULE_PLANTS, **SERVICE_PLANTS}
