"""Writes the rules of the requests that we send to Stripe, out of its published OpenAPI document.

    python -m tests.payment.stripe_excerpt spec3.json

The document is in stripe/openapi on GitHub and in the Go module github.com/stripe/stripe-mock. Only rules are kept:
names, types, lengths, values. Descriptions go; so do large subtrees that we never send, marked "cut": sending into one
is an error of the excerpt, not of the request.
"""

import json
import sys
from pathlib import Path
from typing import Any

EXCERPT = Path(__file__).parent / "data" / "stripe_requests.json"
ENDPOINTS = (
    "POST /v1/checkout/sessions",
    "GET /v1/checkout/sessions/{session}",
    "POST /v1/checkout/sessions/{session}/expire",
    "POST /v1/payment_intents",
    "GET /v1/payment_intents",
    "GET /v1/payment_intents/{intent}",
    "POST /v1/refunds",
    "GET /v1/refunds",
    "GET /v1/disputes",
    "GET /v1/events",
)
_KEPT = ("type", "enum", "maxLength", "format", "required")
_CUT = {
    "after_expiration",
    "custom_fields",
    "custom_text",
    "branding_settings",
    "invoice_creation",
    "mandate_data",
    "optional_items",
    "payment_details",
    "payment_method_data",
    "payment_method_options",
    "radar_options",
    "setup_intent_data",
    "shipping",
    "shipping_address_collection",
    "shipping_options",
    "subscription_data",
    "transfer_data",
}


def excerpt(schema: dict[str, Any], name: str = "") -> dict[str, Any]:
    """A schema with its rules alone."""
    if name in _CUT:
        return {"cut": True}
    kept: dict[str, Any] = {key: schema[key] for key in _KEPT if key in schema}
    if "properties" in schema:
        kept["properties"] = {key: excerpt(value, key) for key, value in schema["properties"].items()}
    if isinstance(schema.get("additionalProperties"), dict):
        kept["additionalProperties"] = excerpt(schema["additionalProperties"])
    if "items" in schema:
        kept["items"] = excerpt(schema["items"])
    if "anyOf" in schema:
        kept["anyOf"] = [excerpt(option) for option in schema["anyOf"]]
    return kept


def endpoint_rules(document: dict[str, Any], endpoint: str) -> dict[str, Any]:
    """What may be sent to one endpoint, as one object: its form's fields, or for GET its query's."""
    method, path = endpoint.split(" ")
    operation = document["paths"][path][method.lower()]
    if method == "POST":
        return excerpt(operation["requestBody"]["content"]["application/x-www-form-urlencoded"]["schema"])
    asked = [parameter for parameter in operation.get("parameters", ()) if parameter["in"] == "query"]
    return {
        "type": "object",
        "properties": {parameter["name"]: excerpt(parameter["schema"]) for parameter in asked},
        "required": [parameter["name"] for parameter in asked if parameter.get("required")],
    }


def main() -> None:
    document = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    rules = {
        "version": document["info"]["version"],
        "endpoints": {endpoint: endpoint_rules(document, endpoint) for endpoint in ENDPOINTS},
    }
    EXCERPT.write_text(json.dumps(rules, separators=(",", ":"), sort_keys=True) + "\n", "utf-8")


if __name__ == "__main__":
    main()
