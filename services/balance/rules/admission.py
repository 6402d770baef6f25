"""Whether a balance pays for an hour of something new, and what it lacks otherwise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from shared.clock import HOUR_US
from shared.errors import Refusal
from shared.money import AMOUNT_MICROS_MAX

Action = Literal["create", "start", "restart", "create_volume", "grow_volume"]
PriceKind = Literal["gpu", "storage"]
# The one storage SKU; temporary storage is free.
PERSISTENT: Final = "persistent"


class PriceKey(NamedTuple):
    kind: PriceKind
    sku: str


class PriceStep(NamedTuple):
    """A unit price in micros an hour, from an instant on."""

    effective_from_us: int
    price_micros: int


@dataclass(frozen=True, slots=True)
class Need:
    """What would be charged for: GPUs of one SKU, and GB of persistent storage."""

    gpu_sku: str | None = None
    gpu_count: int = 0
    storage_gb: int = 0

    def quantities(self) -> dict[PriceKey, int]:
        """Units by (kind, SKU), without those of which there are none."""
        found: dict[PriceKey, int] = {}
        if self.gpu_sku is not None and self.gpu_count:
            found[PriceKey("gpu", self.gpu_sku)] = self.gpu_count
        if self.storage_gb:
            found[PriceKey("storage", PERSISTENT)] = self.storage_gb
        return found


@dataclass(frozen=True, slots=True)
class Funds:
    """How an account stands: `expiring_micros` of its credit ends within the hour, `held_micros` is admitted already.

    `burn_micros_per_hour` is what runs now; it counts where `counts_burn`.
    """

    spendable_micros: int
    expiring_micros: int = 0
    held_micros: int = 0
    burn_micros_per_hour: int = 0
    counts_burn: bool = False

    @property
    def free_micros(self) -> int:
        """What is left for something new."""
        burn_micros = self.burn_micros_per_hour if self.counts_burn else 0
        return self.spendable_micros - self.expiring_micros - self.held_micros - burn_micros


def require_hour(need: Need, prices: Mapping[PriceKey, Sequence[PriceStep]], now_us: int) -> int:
    """Micros for an hour of `need` at the dearest prices in force within the hour after `now_us`.

    Raises Refusal for a SKU without a price in that hour.
    """
    required_micros = 0
    for key, quantity in need.quantities().items():
        price_micros = find_dearest(prices.get(key, ()), now_us, now_us + HOUR_US)
        if price_micros is None:
            raise Refusal("unknown-sku", f"{key.kind} {key.sku} has no price in this region", status=422, sku=key.sku)
        required_micros += price_micros * quantity
    if required_micros > AMOUNT_MICROS_MAX:
        raise Refusal("out-of-range", "an hour of it costs more than a balance can hold", status=422)
    return required_micros


def find_dearest(steps: Sequence[PriceStep], from_us: int, to_us: int) -> int | None:
    """The highest price in force at any instant from `from_us` to before `to_us`; None where there is none.

    `steps` ascend.
    """
    before = [step.price_micros for step in steps if step.effective_from_us <= from_us][-1:]
    within = [step.price_micros for step in steps if from_us < step.effective_from_us < to_us]
    return max((*before, *within), default=None)


def find_shortfall(funds: Funds, required_micros: int) -> int:
    """The smallest credit with which it would be admitted; 0: it is admitted now. Equality passes."""
    # Nothing is admitted on an empty balance, also what costs nothing.
    return max(0, required_micros - funds.free_micros, 1 - funds.spendable_micros)


def lasts_seconds(spendable_micros: int, burn_micros_per_hour: int) -> int | None:
    """How long a balance lasts at a burn; None: for ever."""
    if burn_micros_per_hour <= 0:
        return None
    return max(0, spendable_micros) * 3600 // burn_micros_per_hour
