"""The catalogue of bugs that can be planted in a service process by name."""

from tests.system.plants_rules import RULE_PLANTS, Plant

PLANTS: dict[str, Plant] = {**RULE_PLANTS}
