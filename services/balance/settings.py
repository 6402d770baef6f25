"""Settings of balance, read once from the environment (`TOLLKEEPER_BALANCE_…` beside the shared ones)."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.settings import SharedSettings


class BalanceSettings(BaseSettings):
    """What balance alone reads."""

    model_config = SettingsConfigDict(env_prefix="TOLLKEEPER_BALANCE_", frozen=True)

    database_url: str
    port: int = Field(default=8081, ge=1, le=65535)
    records_max: int = Field(default=256, ge=1)
    # Transactions that post at once, each with partitions of its own: while PostgreSQL works for one, we do for
    # another. More than two only take turns.
    posting_lanes: int = Field(default=2, ge=1, le=8)
    low_cooldown_seconds: int = Field(default=6 * 3600, ge=0)
    # How long what was admitted may take until its first charge.
    hold_seconds: int = Field(default=1800, ge=60, le=86_400)
    # Whether the balance must cover an hour of what already runs too.
    admission_counts_burn: bool = False
    # Where a customer whose balance is not enough is sent.
    top_up_url: str | None = None
    permit_seconds: int = Field(default=60, ge=1, le=600)
    # So many codes that are none, and a tenant has to wait for the next hour.
    voucher_guesses_max: int = Field(default=10, ge=1)
    # The books are audited so often, in a process of its own.
    audit_every_seconds: float = Field(default=86_400.0, ge=1)
    # The chain's heads are told outside so often.
    anchor_every_seconds: float = Field(default=3600.0, ge=1)
    # A gap is asked for again only after so long: metering may be busy with what was asked before.
    resend_pause_seconds: float = Field(default=5.0, gt=0)


class OwnerSettings(BaseSettings):
    """What migrating reads: the owner's address."""

    model_config = SettingsConfigDict(env_prefix="TOLLKEEPER_BALANCE_", frozen=True)

    owner_url: str


class MeteringSettings(BaseSettings):
    """Where metering answers."""

    model_config = SettingsConfigDict(env_prefix="TOLLKEEPER_METERING_", frozen=True)

    url: str = "http://127.0.0.1:8083"


__all__ = ["BalanceSettings", "MeteringSettings", "OwnerSettings", "SharedSettings"]
