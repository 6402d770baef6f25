"""`price.books.v1` and the price-book file: prices per SKU from an instant on."""

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from shared.events.cloudevents import Instant, RegionName, SentInstant, Sku
from shared.money import parse_micros

_UNIT = re.compile(r"(?:(\d{1,12})-)?([a-z][a-z0-9_-]{0,63})", re.ASCII)


def _price(text: str) -> str:
    if parse_micros(text) < 0:
        raise ValueError("a price is not negative")
    return text


def _unit(text: str) -> str:
    found = _UNIT.fullmatch(text)
    if found is None or (found.group(1) is not None and int(found.group(1)) < 1):
        raise ValueError("a unit is a name such as image, or a number and a name such as 1000-tokens")
    return text


# A decimal string in the region's currency, a whole number of micros. YAML must quote it: a bare 2.54 is a float.
Price = Annotated[str, Field(strict=True), AfterValidator(_price)]


class ServicePrice(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    unit: Annotated[str, AfterValidator(_unit)]
    price: Price

    @property
    def unit_size(self) -> int:
        """How many counted units the price is for: 1000 for `1000-tokens`, 1 for `image`."""
        found = _UNIT.fullmatch(self.unit)
        assert found is not None
        return int(found.group(1) or 1)

    @property
    def price_micros(self) -> int:
        return parse_micros(self.price)


class PriceBookFile(BaseModel):
    """Prices that change at `effective_from`; SKUs that it does not name keep theirs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    region: RegionName
    effective_from: Instant
    gpu: dict[Sku, Price] = {}
    storage: dict[Sku, Price] = {}
    services: dict[Sku, ServicePrice] = {}


class PriceBookPublished(PriceBookFile):
    """A book in force or to come, with the version that metering gave it."""

    effective_from: SentInstant
    version: Annotated[int, Field(ge=1)]
    published_at: SentInstant
