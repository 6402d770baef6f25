"""Payment providers behind one port. Only the modules of this package know a provider's names, units and signatures."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.payment.rules.facts import Fact, Money, Provider, Refunded, RefundFailed
from shared.errors import Refusal


class ProviderRefusal(Refusal):
    """The provider says no to what we asked. `detail` is fit for the caller: no secret and no personal detail."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(code, detail, status=422)


class BadSignatureError(Exception):
    """A callback that the provider did not sign, or signed too long ago: nobody's word."""


@dataclass(frozen=True, slots=True)
class PageOrder:
    """What a payment page is opened for. `return_url` is where the customer comes back to, for display only."""

    order_id: str
    region: str
    tenant_id: str
    money: Money
    created_at_us: int
    expires_at_us: int
    payer_ip: str
    return_url: str
    locale: str = "en"
    email: str = ""
    bank_code: str = ""
    save_method: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """Where the customer pays. `reference` is the provider's name of it (Stripe: session) or ours (VNPay: TxnRef)."""

    url: str
    reference: str


@dataclass(frozen=True, slots=True)
class AskedOrder:
    """An order that the provider is asked about. `payment_id` is set where one was captured."""

    order_id: str
    region: str
    reference: str
    created_at_us: int
    payment_id: str | None = None


@dataclass(frozen=True, slots=True)
class RefundRequest:
    """A refund to send, `whole` if nothing is left after it. `request_id` comes of the operator's idempotency key."""

    request_id: str
    payment_id: str
    order_id: str
    order_created_at_us: int
    money: Money
    whole: bool
    actor: str


@dataclass(frozen=True, slots=True)
class SavedCharge:
    """A charge of a saved card, without the customer there. `order_id` is the attempt's own order."""

    order_id: str
    region: str
    tenant_id: str
    money: Money
    customer: str
    payment_method: str


@dataclass(frozen=True, slots=True)
class NeedsCustomer:
    """The bank wants to see the customer."""

    order_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Notice:
    """A webhook that was verified and read. `marked` says that it carries our region and order; others are foreign.

    Facts about refunds and disputes carry no marks: whether the payment is ours is known by its id alone.
    """

    provider: Provider
    event_id: str
    event_type: str
    marked: bool
    region: str | None
    order_id: str | None
    facts: Sequence[Fact]


class PaymentProvider(Protocol):
    """What payment asks of a provider. Every call may raise ProviderRefusal or TransientFault, and nothing else."""

    name: Provider

    async def open_page(self, order: PageOrder) -> Page:
        """Open the page; the same order gets the same page again."""
        ...

    async def look_up(self, order: AskedOrder) -> list[Fact]:
        """Everything that the provider knows of an order now, refunds and disputes too; [] while it is open."""
        ...

    async def refund(self, request: RefundRequest) -> Refunded | RefundFailed:
        """Send a refund; the same `request_id` is one refund however often it is sent."""
        ...

    async def expire(self, order: AskedOrder) -> None:
        """Take no payment for this order any more, where the provider can promise that."""
        ...


class SavedMethodProvider(PaymentProvider, Protocol):
    """A provider that can charge a saved card and list what it told us."""

    async def charge_saved(self, charge: SavedCharge) -> list[Fact] | NeedsCustomer: ...

    def list_events(self, since_us: int) -> AsyncIterator[Notice]:
        """Events of the last days, oldest first, as webhooks would have brought them."""
        ...
