"""What Stripe's errors mean to us: for good, or to be asked again. Of an error only code and parameter are told.

Stripe's own message repeats what was sent, and its error object holds the whole answer: neither leaves this module.
"""

from collections.abc import Awaitable
from typing import Final, TypeVar

import stripe

from services.payment.providers import ProviderRefusal
from shared.errors import TransientFault

# Stripe's own limits depend on its rates of the day, so its answer is told as it is.
_LIMITS: Final = {
    "amount_too_small": ("amount-too-small", "the amount is below what Stripe takes in this currency"),
    "amount_too_large": ("amount-too-large", "the amount is above what Stripe takes in this currency"),
}

_Answer = TypeVar("_Answer")


class CardDeclined(ProviderRefusal):
    """The card was declined; `intent_id` is the intent that tried."""

    def __init__(self, code: str, intent_id: str) -> None:
        super().__init__(code, "the card was declined")
        self.intent_id = intent_id


async def call(question: Awaitable[_Answer]) -> _Answer:
    """Await an answer of Stripe. Raises ProviderRefusal or TransientFault, without what the caller must not see."""
    try:
        return await question
    except stripe.CardError as error:
        intent = error.error.payment_intent if error.error is not None else None
        raise CardDeclined(_code(error), "" if intent is None else intent.id) from None
    except (stripe.APIConnectionError, stripe.RateLimitError, stripe.APIError) as error:
        raise TransientFault(f"Stripe is out of reach: {type(error).__name__} {error.http_status or ''}") from None
    except (stripe.AuthenticationError, stripe.PermissionError):
        # An operator's to mend, no word about the customer: what was asked stays asked.
        raise TransientFault("Stripe refuses this deployment's key") from None
    except stripe.InvalidRequestError as error:
        limit = _LIMITS.get(error.code or "")
        if limit is not None:
            raise ProviderRefusal(limit[0], limit[1]) from None
        param = f" (parameter {error.param})" if error.param else ""
        raise ProviderRefusal("stripe-invalid-request", f"Stripe refuses: {_code(error)}{param}") from None
    except stripe.StripeError as error:
        raise ProviderRefusal("stripe-refused", f"Stripe refuses: {_code(error)}") from None


def _code(error: stripe.StripeError) -> str:
    return str(error.code or type(error).__name__)[:100]
