"""Settings that every service shares, read once from the environment (prefix `TOLLKEEPER_`)."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.clock import parse_instant


def _instant(text: str) -> str:
    parse_instant(text)
    return text


class Region(BaseModel):
    """One region: its currency and rules never change once it is open."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    currency: str = Field(pattern="^[A-Z]{3}$")
    slot_seconds: int = Field(default=60, ge=1, le=86400)
    opened_at: Annotated[str, AfterValidator(_instant)]
    grace_seconds: int = Field(default=86400, ge=1)
    declares_inventory: bool = False
    inventory_bound_seconds: int = Field(default=1800, ge=1)

    @property
    def opened_at_us(self) -> int:
        return parse_instant(self.opened_at)


class SharedSettings(BaseSettings):
    """What all services read; each service adds its own under its own prefix."""

    model_config = SettingsConfigDict(env_prefix="TOLLKEEPER_", frozen=True)

    kafka_bootstrap: str = "127.0.0.1:9092"
    topic_prefix: str = ""
    host: str = "127.0.0.1"
    regions: dict[str, Region]
    shards: int = Field(default=1024, ge=1, le=65536)
    test_clock: Path | None = None
    log_level: str = "INFO"
