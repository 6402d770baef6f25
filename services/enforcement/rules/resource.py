"""A resource of one tenant: a container or a volume, from what that tenant's events say of it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from services.enforcement.rules.account import AccountKey
from services.enforcement.rules.lifecycle import Life, RunKey

Family = Literal["container", "volume"]


class ResourceKey(NamedTuple):
    """Who says something of which resource. Only one key of a (region, resource_id) can have its `created`."""

    region: str
    resource_id: str
    tenant_id: str
    family: Family

    @property
    def account(self) -> AccountKey:
        return AccountKey(self.region, self.tenant_id)


@dataclass(frozen=True, slots=True)
class Resource:
    """`created`: its `created` was accepted. Before that it is remembered and nothing is done about it."""

    key: ResourceKey
    created: bool = False
    life: Life = field(default_factory=Life)

    @property
    def is_live(self) -> bool:
        return self.created and not self.life.deleted

    @property
    def running(self) -> RunKey | None:
        return self.life.running if self.created and self.key.family == "container" else None


def is_foreign(key: ResourceKey, others: Iterable[Resource]) -> bool:
    """Whether the resource id belongs to somebody else already: the first `created` fixes tenant and family."""
    return any(other.created and other.key != key for other in others)
