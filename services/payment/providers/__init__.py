"""The port to payment providers: what payment asks of one, and what one says.

`stripe.py` and `vnpay.py` implement it; nothing else imports a provider's library or knows its units, codes and clocks.
Each of the two also reads what its provider sends by itself:

    stripe.verify_webhook(body: bytes, signature: str, secrets: Sequence[str], now_us: int) -> None
    stripe.read_event(body: bytes) -> Notice
    vnpay.read_callback(query: str, secrets: Sequence[str], received_at_us: int) -> Notice   # raw; IPN and return page

`verify_webhook` and `read_callback` raise BadSignature; a genuine message without the fields that it must have is a
notice with a `problem`. `open_stripe(settings)` and `open_vnpay(settings, clock)` give
the Provider, or None where settings hold no key for it.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol, get_args

from services.payment.rules.facts import Fact, Money, SavedCard
from shared.errors import Refusal
from shared.ids import content_hash

ProviderName = Literal["stripe", "vnpay"]
PROVIDER_NAMES: Final[tuple[ProviderName, ...]] = get_args(ProviderName)


def provider_of(payment_id: str) -> ProviderName:
    """Whose payment it is: its id begins with the provider's name."""
    return "vnpay" if payment_id.startswith("vnpay:") else "stripe"


class ProviderRefusal(Refusal):
    """The provider refused for good; `detail` is its own reason, without secrets and without personal details."""

    def __init__(self, code: str, detail: str, **extra: object) -> None:
        super().__init__(code, detail, status=422, **extra)


class BadSignature(Refusal):
    """A callback that its provider did not sign, or signed too long ago."""

    def __init__(self, detail: str) -> None:
        super().__init__("invalid-signature", detail, status=400)


class UnreadableAnswer(Refusal):
    """A provider's answer that lacks what it must have: asking again at once would not help."""

    def __init__(self, detail: str) -> None:
        super().__init__("unreadable-answer", detail, status=502)


def unreadable_id(body: bytes) -> str:
    """The name of a message whose own name can't be read: of its bytes."""
    return f"unreadable:{content_hash(body).hex()[:32]}"


@dataclass(frozen=True, slots=True)
class Notice:
    """One callback, read. `event_id` names it for ever: the same result delivered again has the same id.

    Stripe: `event_id` is the Event's; `region` and `order_id` are the marks of our metadata, None where it has none.
    Facts about a payment (refunds, disputes) need no marks: they name it by id. Facts that name an order name this one.
    VNPay: `event_id` is "<TxnRef>:<TransactionNo>:<ResponseCode>:<TransactionStatus>", `region` is None, `order_id`
    comes from TxnRef (None where it is none of ours) and `money` is the amount it states, also where nothing was paid.

    `problem` says why a genuine message could not be read: it then has no facts, only its marks and what payment it is
    about, as far as they could be read (`marks_read`). Whose it is is decided before anything else of it.
    """

    event_id: str
    type: str
    region: str | None
    order_id: str | None
    facts: tuple[Fact, ...]
    money: Money | None = None
    payment_id: str | None = None
    problem: str | None = None
    marks_read: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class PageOrder:
    """An order whose page is to be opened. `bank_code` is VNPay's, `save_card` Stripe's (consent was given).

    `return_url` is payment's public address without a trailing slash; the provider's return path is added to it, with
    `page_token`, which names the order's own page.
    """

    order_id: str
    region: str
    tenant_id: str
    money: Money
    created_at_us: int
    expires_at_us: int
    return_url: str
    page_token: str
    payer_ip: str
    locale: str | None = None
    email: str | None = None
    bank_code: str | None = None
    save_card: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """Where the customer pays, and what the provider calls it (a session's id; VNPay: TxnRef)."""

    url: str
    reference: str


@dataclass(frozen=True, slots=True)
class AskedOrder:
    """An order to ask about. `reference` as in Page, or an intent's id; None when no page was opened."""

    order_id: str
    region: str
    tenant_id: str
    money: Money
    created_at_us: int
    reference: str | None
    payment_id: str | None = None


@dataclass(frozen=True, slots=True)
class RefundOrder:
    """A refund to send. `request_id` is derived from the refund's fact: [A-Za-z0-9]{1,32}, the same at every attempt.

    Stripe takes it as idempotency key, VNPay as RequestId: the refund's id is "vnpay:<request_id>" there.
    `paid` is what the payment brought in all: the whole of it is a full refund. `is_only`: no other refund of this
    payment is of the same amount. `known` are the ids of the payment's refunds that we know.
    """

    request_id: str
    region: str
    order_id: str
    payment_id: str
    money: Money
    paid: Money
    order_created_at_us: int
    at_us: int
    actor: str
    is_only: bool = True
    known: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class SavedCharge:
    """A charge to a saved card without the customer (automatic top-up). `request_id` as in RefundOrder."""

    request_id: str
    order_id: str
    region: str
    tenant_id: str
    money: Money
    card: SavedCard


@dataclass(frozen=True, slots=True)
class NeedsCustomer:
    """The bank wants the customer present; `reference` is the intent that waits."""

    order_id: str
    reference: str
    reason: str


class Provider(Protocol):
    """A payment provider. Every method raises ProviderRefusal (for good) or TransientFault (ask again)."""

    @property
    def name(self) -> ProviderName: ...

    async def open_page(self, order: PageOrder) -> Page:
        """Open the page where the order is paid; repeated for the same order it answers the same page."""
        ...

    async def look_up(self, order: AskedOrder) -> Sequence[Fact]:
        """What the provider knows of an order now; nothing means still open."""
        ...

    async def refund(self, refund: RefundOrder) -> Fact:
        """Send money back: Refunded (pending or succeeded) or RefundFailed."""
        ...

    async def find_refund(self, refund: RefundOrder) -> Fact | None:
        """What became of a refund that was sent before and whose answer was lost; None: it was not made.

        Raises TransientFault also where the provider can't tell: then it is a person's to look.
        """
        ...

    async def charge_saved(self, charge: SavedCharge) -> Fact | NeedsCustomer:
        """Charge a saved card: Paid, Declined, Attempted, or the customer is needed."""
        ...

    async def find_charge(self, charge: SavedCharge, since_us: int) -> Fact | NeedsCustomer | None:
        """What became of a charge first sent at `since_us`, whose answer was lost; None: it was not made."""
        ...

    def remembers(self, sent_at_us: int, now_us: int) -> bool:
        """Whether a request first sent then would still be recognised as the same one, and not be carried out again."""
        ...

    async def expire(self, order: AskedOrder) -> None:
        """Close the order's page, so that nothing can be paid on it any more."""
        ...

    def list_events(self, since_us: int) -> AsyncIterator[bytes]:
        """Events since an instant, oldest first, as the bodies that a webhook would carry."""
        ...

    async def close(self) -> None: ...
