"""Settings of enforcement, read once from the environment (`TOLLKEEPER_…`)."""

from typing import Annotated, Literal

from pydantic import Field

from services.enforcement.rules.deletion import Grace
from services.enforcement.rules.stops import Backoff
from shared.settings import SharedSettings


class Settings(SharedSettings):
    """`runtime` names who carries out commands; deletion happens in the simulator only, elsewhere it is a plan."""

    enforcement_database_url: str = ""
    enforcement_owner_url: str = ""
    enforcement_port: int = Field(default=8084, ge=0, le=65535)
    balance_url: str = "http://127.0.0.1:8081"
    payment_url: str = "http://127.0.0.1:8082"
    metering_url: str = "http://127.0.0.1:8083"
    runtime: str = "plan"
    sanity_limits: Literal["on", "off"] = "on"

    enforcement_sweep_seconds: float = Field(default=60, gt=0)
    enforcement_stop_poll_seconds: float = Field(default=1, gt=0)
    enforcement_stop_repeat_seconds: int = Field(default=30, ge=1)
    enforcement_stop_repeat_seconds_max: int = Field(default=300, ge=1)
    enforcement_metering_wait_seconds_max: int = Field(default=900, ge=0)
    enforcement_runs_seconds: float = Field(default=300, gt=0)
    enforcement_stop_expiry_seconds: int = Field(default=60, ge=1)
    enforcement_stops_per_minute_max: int = Field(default=10_000, ge=0)
    enforcement_stop_repeats_per_minute_max: int = Field(default=10_000, ge=0)
    enforcement_deletion_poll_seconds: float = Field(default=5, gt=0)
    enforcement_deletion_retry_seconds: float = Field(default=15, gt=0)
    enforcement_deletion_retry_seconds_max: float = Field(default=300, gt=0)
    enforcement_deletion_expiry_seconds: int = Field(default=60, ge=1)
    enforcement_deletion_repeat_seconds: int = Field(default=60, ge=1)
    enforcement_deletion_repeat_seconds_max: int = Field(default=3600, ge=1)
    # Each region's own, as the stops' above: what can't be stopped or deleted in one holds up nothing in another.
    enforcement_deletions_per_hour_max: int = Field(default=1000, ge=0)
    enforcement_deletion_repeats_per_hour_max: int = Field(default=1000, ge=0)
    enforcement_reminder_percents: tuple[Annotated[int, Field(ge=1, le=99)], ...] = (50, 90)
    enforcement_abandon_seconds: int = Field(default=300, ge=0)
    enforcement_clock_jump_seconds_max: int = Field(default=3600, ge=1)
    enforcement_gap_seconds_max: int = Field(default=86_400, ge=1)
    enforcement_clock_error_seconds_max: int = Field(default=60, ge=1)
    enforcement_clock_skew_seconds_max: int = Field(default=60, ge=0)
    enforcement_lag_seconds_max: int = Field(default=300, ge=1)
    enforcement_catch_up_seconds_max: float = Field(default=5, gt=0)

    @property
    def backoff(self) -> Backoff:
        return Backoff(self.enforcement_stop_repeat_seconds, self.enforcement_stop_repeat_seconds_max)

    @property
    def deletion_backoff(self) -> Backoff:
        return Backoff(self.enforcement_deletion_repeat_seconds, self.enforcement_deletion_repeat_seconds_max)

    def grace_of(self, region: str) -> Grace:
        return Grace(self.regions[region].grace_seconds, self.enforcement_reminder_percents)
