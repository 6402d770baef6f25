"""Stripe's objects in the shapes that its API answers. Pure: ids and instants (seconds) are arguments.

A key `_private` holds what only the stand-in knows; it never leaves.
"""

from deploy.local.providers.store import Document

# Test payment methods, as Stripe names them, and how a payment with each ends.
TEST_METHODS = {
    "pm_card_visa": "succeeds",
    "pm_card_mastercard": "succeeds",
    "pm_card_chargeDeclined": "card_declined",
    "pm_card_visa_chargeDeclined": "card_declined",
    "pm_card_chargeDeclinedInsufficientFunds": "insufficient_funds",
    "pm_card_authenticationRequired": "authentication_required",
    "pm_card_chargeCustomerFail": "card_declined",
}


def public(body: Document) -> Document:
    """An object as the API answers it."""
    return {key: value for key, value in body.items() if key != "_private"}


def session(session_id: str, parameters: Document, *, amount: int, currency: str, at: int, url: str) -> Document:
    return {
        "id": session_id,
        "object": "checkout.session",
        "after_expiration": None,
        "allow_promotion_codes": None,
        "amount_subtotal": amount,
        "amount_total": amount,
        "automatic_tax": {"enabled": False, "liability": None, "provider": None, "status": None},
        "billing_address_collection": parameters.get("billing_address_collection"),
        "cancel_url": parameters.get("cancel_url"),
        "client_reference_id": parameters.get("client_reference_id"),
        "client_secret": None,
        "consent": None,
        "consent_collection": None,
        "created": at,
        "currency": currency,
        "currency_conversion": None,
        "custom_fields": [],
        "custom_text": {
            "after_submit": None,
            "shipping_address": None,
            "submit": None,
            "terms_of_service_acceptance": None,
        },
        "customer": parameters.get("customer"),
        "customer_creation": parameters.get("customer_creation", "if_required"),
        "customer_details": None,
        "customer_email": parameters.get("customer_email"),
        "expires_at": int(parameters.get("expires_at", at + 86_400)),
        "invoice": None,
        "livemode": False,
        "locale": parameters.get("locale"),
        "metadata": parameters.get("metadata", {}),
        "mode": "payment",
        "payment_intent": None,
        "payment_link": None,
        "payment_method_collection": "if_required",
        "payment_method_options": {},
        "payment_method_types": ["card"],
        "payment_status": "unpaid",
        "phone_number_collection": {"enabled": False},
        "recovered_from": None,
        "saved_payment_method_options": None,
        "setup_intent": None,
        "shipping_address_collection": None,
        "shipping_cost": None,
        "shipping_options": [],
        "status": "open",
        "submit_type": parameters.get("submit_type"),
        "subscription": None,
        "success_url": parameters["success_url"],
        "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
        "ui_mode": parameters.get("ui_mode", "hosted_page"),
        "url": url,
    }


def payment_intent(intent_id: str, *, amount: int, currency: str, at: int, parameters: Document) -> Document:
    """`parameters` are an intent's own, or a session's `payment_intent_data`."""
    return {
        "id": intent_id,
        "object": "payment_intent",
        "amount": amount,
        "amount_capturable": 0,
        "amount_details": {"tip": {}},
        "amount_received": 0,
        "application": None,
        "application_fee_amount": None,
        "automatic_payment_methods": None,
        "canceled_at": None,
        "cancellation_reason": None,
        "capture_method": "automatic_async",
        "client_secret": f"{intent_id}_secret_standin",
        "confirmation_method": "automatic",
        "created": at,
        "currency": currency,
        "customer": parameters.get("customer"),
        "description": parameters.get("description"),
        "last_payment_error": None,
        "latest_charge": None,
        "livemode": False,
        "metadata": parameters.get("metadata", {}),
        "next_action": None,
        "on_behalf_of": None,
        "payment_method": parameters.get("payment_method"),
        "payment_method_options": {},
        "payment_method_types": ["card"],
        "processing": None,
        "receipt_email": parameters.get("receipt_email"),
        "review": None,
        "setup_future_usage": parameters.get("setup_future_usage"),
        "shipping": None,
        "statement_descriptor": None,
        "statement_descriptor_suffix": parameters.get("statement_descriptor_suffix"),
        "status": "requires_payment_method",
        "transfer_data": None,
        "transfer_group": None,
    }


def charge(charge_id: str, intent: Document, *, at: int, billing: Document) -> Document:
    return {
        "id": charge_id,
        "object": "charge",
        "amount": intent["amount"],
        "amount_captured": 0,
        "amount_refunded": 0,
        "balance_transaction": None,
        "billing_details": {"address": {}, "phone": None} | billing,
        "captured": False,
        "created": at,
        "currency": intent["currency"],
        "customer": intent["customer"],
        "description": intent["description"],
        "disputed": False,
        "failure_code": None,
        "failure_message": None,
        "livemode": False,
        "metadata": intent["metadata"],
        "outcome": None,
        "paid": False,
        "payment_intent": intent["id"],
        "payment_method": intent["payment_method"],
        "payment_method_details": {"card": {"brand": "visa", "country": "US", "last4": "4242"}, "type": "card"},
        "receipt_email": intent["receipt_email"],
        "receipt_url": None,
        "refunded": False,
        "status": "pending",
    }


def customer(customer_id: str, parameters: Document, *, at: int) -> Document:
    return {
        "id": customer_id,
        "object": "customer",
        "address": None,
        "balance": 0,
        "created": at,
        "currency": None,
        "default_source": None,
        "delinquent": False,
        "description": parameters.get("description"),
        "email": parameters.get("email"),
        "invoice_settings": {"default_payment_method": None},
        "livemode": False,
        "metadata": parameters.get("metadata", {}),
        "name": parameters.get("name"),
        "phone": parameters.get("phone"),
        "preferred_locales": [],
        "shipping": None,
        "tax_exempt": "none",
    }


def payment_method(method_id: str, *, at: int, owner: str | None, billing: Document, behaviour: str) -> Document:
    return {
        "id": method_id,
        "object": "payment_method",
        "allow_redisplay": "limited",
        "billing_details": {"address": {}, "phone": None, "name": None, "email": None} | billing,
        "card": {
            "brand": "visa",
            "country": "US",
            "exp_month": 12,
            "exp_year": 2034,
            "funding": "credit",
            "last4": "4242",
        },
        "created": at,
        "customer": owner,
        "livemode": False,
        "metadata": {},
        "type": "card",
        "_private": {"behaviour": behaviour},
    }


def refund(refund_id: str, paid: Document, *, amount: int, at: int, parameters: Document) -> Document:
    """`paid` is the charge that is refunded."""
    return {
        "id": refund_id,
        "object": "refund",
        "amount": amount,
        "balance_transaction": None,
        "charge": paid["id"],
        "created": at,
        "currency": paid["currency"],
        "destination_details": {"card": {"type": "refund", "reference_status": "pending"}, "type": "card"},
        "metadata": parameters.get("metadata", {}),
        "payment_intent": paid["payment_intent"],
        "reason": parameters.get("reason"),
        "receipt_number": None,
        "source_transfer_reversal": None,
        "status": "pending",
        "transfer_reversal": None,
    }


def dispute(dispute_id: str, paid: Document, *, amount: int, at: int, withdrawn: bool) -> Document:
    """An inquiry (`warning_needs_response`) leaves the money where it is."""
    return {
        "id": dispute_id,
        "object": "dispute",
        "amount": amount,
        "balance_transactions": [],
        "charge": paid["id"],
        "created": at,
        "currency": paid["currency"],
        "evidence_details": {
            "due_by": at + 7 * 86_400,
            "has_evidence": False,
            "past_due": False,
            "submission_count": 0,
        },
        "is_charge_refundable": not withdrawn,
        "livemode": False,
        "metadata": {},
        "payment_intent": paid["payment_intent"],
        "payment_method_details": {
            "card": {"brand": "visa", "case_type": "chargeback", "network_reason_code": "10"},
            "type": "card",
        },
        "reason": "fraudulent",
        "status": "needs_response" if withdrawn else "warning_needs_response",
    }


def balance_transaction(transaction_id: str, source: Document, *, amount: int, at: int, kind: str) -> Document:
    return {
        "id": transaction_id,
        "object": "balance_transaction",
        "amount": amount,
        "created": at,
        "currency": source["currency"],
        "fee": 0,
        "net": amount,
        "reporting_category": kind,
        "source": source["id"],
        "status": "available",
        "type": "adjustment",
    }


def event(event_id: str, kind: str, about: Document, *, at: int, version: str, request: Document) -> Document:
    return {
        "id": event_id,
        "object": "event",
        "account": None,
        "api_version": version,
        "created": at,
        "data": {"object": public(about)},
        "livemode": False,
        "pending_webhooks": 1,
        "request": request,
        "type": kind,
    }
