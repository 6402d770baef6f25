"""Settings of payment, read once from the environment (`TOLLKEEPER_PAYMENT_…` beside the shared ones)."""

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.payment.rules.currencies import STRIPE_LEAST, VNPAY_LEAST, VNPAY_MOST, stripe_most
from shared.settings import SharedSettings


class Limit(BaseModel):
    """The least and the most that one order may be, as decimal amounts of the currency: "0.50"."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min: str
    max: str


# Providers' published limits; they move, so each is a setting. Where Stripe publishes no least amount, it is the least
# of the currency that it settles in, at its rate of the day: its own refusal tells.
_STRIPE_LIMITS = {
    **{code: Limit(min=least, max=stripe_most(code)) for code, least in STRIPE_LEAST.items()},
    "VND": Limit(min="15000", max=stripe_most("VND")),
}
_VNPAY_LIMITS = {"VND": Limit(min=VNPAY_LEAST, max=VNPAY_MOST)}


class PaymentSettings(BaseSettings):
    """What payment alone reads. A provider without a key is not offered.

    `stripe_webhook_secrets` and `vnpay_hash_secrets` are JSON lists: the first VNPay secret signs, all verify, so that
    a secret can be changed while callbacks are under way.
    """

    model_config = SettingsConfigDict(env_prefix="TOLLKEEPER_PAYMENT_", frozen=True)

    database_url: str
    port: int = Field(default=8082, ge=1, le=65535)
    pool_size: int = Field(default=16, ge=2, le=200)
    # Where customers and providers reach this service, without a trailing slash.
    public_url: str = "http://127.0.0.1:8082"

    stripe_secret_key: SecretStr | None = None
    stripe_webhook_secrets: tuple[SecretStr, ...] = ()
    stripe_api_base: str = "https://api.stripe.com"
    stripe_timeout_seconds: float = Field(default=10, gt=0)

    vnpay_tmn_code: str | None = None
    vnpay_hash_secrets: tuple[SecretStr, ...] = ()
    vnpay_pay_url: str = "https://sandbox.vnpayment.vn/paymentv2/vpcpay.html"
    vnpay_api_url: str = "https://sandbox.vnpayment.vn/merchant_webapi/api/transaction"
    vnpay_timeout_seconds: float = Field(default=10, gt=0)

    # Per provider and currency. A currency without a limit is left to the provider's own.
    limits: dict[str, dict[str, Limit]] = {"stripe": _STRIPE_LIMITS, "vnpay": _VNPAY_LIMITS}

    # Who sells, as receipts say it: name and address, a line each.
    seller: tuple[str, ...] = ("Tollkeeper",)

    order_seconds: int = Field(default=3600, ge=1800, le=86400)
    quote_seconds: int = Field(default=900, ge=60, le=86400)
    rate_age_seconds_max: int = Field(default=7 * 86400, ge=60)
    # How long a marked order may be unknown before its webhook goes to the queue.
    unknown_order_seconds: int = Field(default=600, ge=0)
    attempt_poll_seconds: float = Field(default=2, gt=0)
    auto_top_up_poll_seconds: float = Field(default=15, gt=0)
    # So many declines in a row, and the card is asked no more.
    auto_top_up_declines_max: int = Field(default=3, ge=1)
    early_fact_days: int = Field(default=90, ge=1)


class OwnerSettings(BaseSettings):
    """What migrating reads: the owner's address."""

    model_config = SettingsConfigDict(env_prefix="TOLLKEEPER_PAYMENT_", frozen=True)

    owner_url: str


class BalanceSettings(BaseSettings):
    """Where balance answers."""

    model_config = SettingsConfigDict(env_prefix="TOLLKEEPER_BALANCE_", frozen=True)

    url: str = "http://127.0.0.1:8081"


__all__ = ["BalanceSettings", "Limit", "OwnerSettings", "PaymentSettings", "SharedSettings"]
