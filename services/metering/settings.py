"""Metering's settings: `TOLLKEEPER_METERING_*`, and what a region's billing shares under `TOLLKEEPER_*`."""

from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.metering.rules.acceptance import NO_LIMITS, Limits
from shared.settings import SharedSettings


class Settings(SharedSettings):
    model_config = SettingsConfigDict(env_prefix="TOLLKEEPER_", frozen=True, extra="ignore")

    metering_database_url: str = ""
    metering_owner_url: str = ""
    metering_port: int = 8083
    tick_seconds: float = Field(default=60, ge=0)
    settle_delay_seconds: float = Field(default=5, ge=0)
    sanity_limits: Literal["on", "off"] = "on"
    # A tick advances at most this far at a time while the limits are on.
    metering_advance_seconds_max: int = 3600
    # An event that would debit more than so many hours of its resource's price waits for an operator.
    metering_correction_hours_max: int = 48
    metering_event_age_seconds_max: int = 7 * 86400
    metering_jump_seconds_max: int = 3600
    metering_gap_seconds_max: int = 86400
    metering_clock_error_seconds_max: float = 5
    metering_poll_records_max: int = 2000
    metering_tick_shards_max: int = 32
    metering_relays: int = 1

    @property
    def limits(self) -> Limits:
        if self.sanity_limits == "off":
            return NO_LIMITS
        return Limits(self.metering_correction_hours_max, self.metering_event_age_seconds_max)
