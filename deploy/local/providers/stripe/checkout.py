"""Checkout sessions, saved cards and intents at the stand-in of Stripe."""

from deploy.local.providers.store import Document
from deploy.local.providers.stripe import objects
from deploy.local.providers.stripe.amounts import check_amount
from deploy.local.providers.stripe.errors import ApiError
from deploy.local.providers.stripe.payments import Payments

_LEAST_SECONDS, _MOST_SECONDS = 30 * 60, 24 * 3600
# The clocks of two processes, and the way between them.
_SLACK_SECONDS = 60


class Checkout:
    """Every method runs inside one transaction of the store, which its caller opens."""

    def __init__(self, payments: Payments, public_url: str, bank_seconds: float) -> None:
        self._payments = payments
        self._store = payments.store
        self._public_url = public_url
        self._bank_seconds = bank_seconds

    def create(self, parameters: Document) -> Document:
        """Open a session for one price. Raises ApiError."""
        if parameters.get("mode") != "payment":
            raise ApiError.invalid("This stand-in has the mode payment only.", param="mode")
        for name in ("line_items", "success_url"):
            if name not in parameters:
                raise ApiError.invalid(f"Missing required param: {name}.", param=name, code="parameter_missing")
        price = parameters["line_items"][0].get("price_data", {})
        currency = str(price.get("currency", "")).lower()
        amount = int(price.get("unit_amount", 0)) * int(parameters["line_items"][0].get("quantity", 1))
        check_amount(amount, currency, "line_items[0][price_data][unit_amount]")
        now = self._payments.now
        if "expires_at" in parameters:
            lasts = int(parameters["expires_at"]) - now
            if not _LEAST_SECONDS - _SLACK_SECONDS <= lasts <= _MOST_SECONDS + _SLACK_SECONDS:
                raise ApiError.invalid(
                    "The `expires_at` timestamp must be 30 minutes to 24 hours from Checkout Session creation.",
                    param="expires_at",
                )
        session_id = self._store.new_id("cs_test")
        url = f"{self._public_url}/pay/{session_id}"
        session = objects.session(session_id, parameters, amount=amount, currency=currency, at=now, url=url)
        session["_private"] = {
            "intent": parameters.get("payment_intent_data", {}),
            "what": price["product_data"]["name"],
        }
        self._payments.plan(session["expires_at"] - now, "expire-session", session_id)
        return self._payments.save(session)

    def expire(self, session_id: str) -> Document:
        """Close an open session. Raises ApiError for one that is not open."""
        session = self._payments.require("checkout.session", session_id, param="session")
        if session["status"] != "open":
            raise ApiError.invalid(
                f'Only Checkout Sessions with a status in ["open"] can be expired. This one is {session["status"]}.'
            )
        session |= {"status": "expired", "url": None}
        self._payments.save(session)
        self._payments.emit("checkout.session.expired", session)
        return session

    def expire_by_itself(self, session_id: str) -> None:
        if self._payments.require("checkout.session", session_id)["status"] == "open":
            self.expire(session_id)

    def pay(self, session_id: str, billing: Document, *, card: str = "succeeds", later: str | None = None) -> Document:
        """The customer pays, at once or (`later`: succeed or fail) by a bank that takes its time. Raises ApiError.

        A card that wants its owner asked (`authentication_required`) pays here, where he is, and not off session.
        """
        session = self._payments.require("checkout.session", session_id)
        if session["status"] != "open":
            raise ApiError.invalid(f"This Checkout Session is {session['status']}.")
        intent = self._intent_of(session, billing, card)
        charge = self._payments.begin_charge(intent, billing)
        session |= {"amount_total": intent["amount"], "currency": intent["currency"], "payment_intent": intent["id"]}
        if card not in {"succeeds", "authentication_required"}:
            self._payments.save(session)
            raise self._payments.decline(intent, charge, card)
        session |= {
            "status": "complete",
            "url": None,
            "customer": intent["customer"],
            "customer_details": {"address": {}, "phone": None, "tax_exempt": "none", "tax_ids": [], **billing},
        }
        if later is None:
            self._payments.succeed(intent, charge)
            session["payment_status"] = "paid"
        else:
            intent["status"] = "processing"
            self._payments.save(intent)
            self._payments.emit("payment_intent.processing", intent)
            self._payments.plan(self._bank_seconds, f"bank-{later}", session_id)
        self._payments.save(session)
        self._payments.emit("checkout.session.completed", session)
        return session

    def end_at_the_bank(self, session_id: str, *, succeeds: bool) -> None:
        session = self._payments.require("checkout.session", session_id)
        intent = self._payments.require("payment_intent", session["payment_intent"])
        charge = self._payments.require("charge", intent["latest_charge"])
        if intent["status"] != "processing":
            return
        if succeeds:
            self._payments.succeed(intent, charge)
            session["payment_status"] = "paid"
            self._payments.save(session)
        else:
            self._payments.decline(intent, charge, "card_declined")
        outcome = "succeeded" if succeeds else "failed"
        self._payments.emit(f"checkout.session.async_payment_{outcome}", session)

    def create_intent(self, parameters: Document) -> Document:
        """An intent, confirmed at once where asked for. Raises ApiError, for a declined card too."""
        for name in ("amount", "currency"):
            if name not in parameters:
                raise ApiError.invalid(f"Missing required param: {name}.", param=name, code="parameter_missing")
        amount, currency = int(parameters["amount"]), str(parameters["currency"]).lower()
        check_amount(amount, currency, "amount")
        intent_id = self._store.new_id("pi")
        intent = objects.payment_intent(
            intent_id, amount=amount, currency=currency, at=self._payments.now, parameters=parameters
        )
        self._payments.save(intent)
        self._payments.emit("payment_intent.created", intent)
        return self.confirm(intent_id, {}) if parameters.get("confirm") == "true" else intent

    def create_customer(self, parameters: Document) -> Document:
        return self._payments.save(objects.customer(self._store.new_id("cus"), parameters, at=self._payments.now))

    def confirm(self, intent_id: str, parameters: Document) -> Document:
        """Try an intent, with another method if one is named. Raises ApiError, for a declined card too."""
        intent = self._payments.require("payment_intent", intent_id, param="intent")
        intent["payment_method"] = parameters.get("payment_method", intent["payment_method"])
        if intent["status"] not in {"requires_payment_method", "requires_confirmation"} or not intent["payment_method"]:
            raise ApiError.invalid(
                f"This PaymentIntent's status is {intent['status']}.", code="payment_intent_unexpected_state"
            )
        method = self._method_of(intent)
        charge = self._payments.begin_charge(intent, {"name": None, "email": None})
        behaviour = method["_private"]["behaviour"]
        if behaviour != "succeeds":
            raise self._payments.decline(intent, charge, behaviour)
        self._payments.succeed(intent, charge)
        return intent

    def _method_of(self, intent: Document) -> Document:
        method_id = intent["payment_method"]
        if method_id in objects.TEST_METHODS:
            return objects.payment_method(
                method_id,
                at=self._payments.now,
                owner=intent["customer"],
                billing={},
                behaviour=objects.TEST_METHODS[method_id],
            )
        method = self._payments.require("payment_method", method_id, param="payment_method", status=400)
        if method["customer"] != intent["customer"]:
            raise ApiError.invalid("The payment method does not belong to this customer.", param="payment_method")
        return method

    def _intent_of(self, session: Document, billing: Document, behaviour: str) -> Document:
        """The session's intent, made at the first attempt, with the card that the customer tries."""
        parameters = session["_private"]["intent"]
        if session["payment_intent"] is not None:
            intent = self._payments.require("payment_intent", session["payment_intent"])
        else:
            intent = objects.payment_intent(
                self._store.new_id("pi"),
                amount=session["amount_total"],
                currency=session["currency"],
                at=self._payments.now,
                parameters=parameters,
            )
            if session["customer_creation"] == "always":
                customer = objects.customer(self._store.new_id("cus"), billing, at=self._payments.now)
                intent["customer"] = self._payments.save(customer)["id"]
            self._payments.save(intent)
            self._payments.emit("payment_intent.created", intent)
        keeps = parameters.get("setup_future_usage") == "off_session"
        method = objects.payment_method(
            self._store.new_id("pm"),
            at=self._payments.now,
            owner=intent["customer"] if keeps else None,
            billing=billing,
            behaviour=behaviour,
        )
        intent["payment_method"] = self._payments.save(method)["id"]
        return intent
