"""Payment in the local stack: keys of the real providers if the user has them, else stand-ins with keys of the home."""

import json
import secrets
from collections.abc import Mapping
from pathlib import Path

from deploy.local.processes import write_private
from deploy.local.services import SHOP, STRIPE_STANDIN, VNPAY_STANDIN, Service

STRIPE_KEY = "TOLLKEEPER_PAYMENT_STRIPE_SECRET_KEY"
VNPAY_KEY = "TOLLKEEPER_PAYMENT_VNPAY_TMN_CODE"
_LOOPBACK = "http://127.0.0.1"


def choose_standins(user: Mapping[str, str]) -> tuple[Service, ...]:
    """The stand-ins to run: of each provider for which the environment has no key."""
    chosen = [(STRIPE_KEY, STRIPE_STANDIN), (VNPAY_KEY, VNPAY_STANDIN)]
    return (*(standin for key, standin in chosen if not user.get(key)), SHOP)


def payment_environment(home: Path, user: Mapping[str, str]) -> dict[str, str]:
    """Keys and addresses of the stand-ins that run; nothing for a provider whose keys the user has."""
    keys = _read_keys(home / "providers.json")
    settings: dict[str, str] = {}
    if not user.get(STRIPE_KEY):
        settings |= {
            STRIPE_KEY: keys["stripe"],
            "TOLLKEEPER_PAYMENT_STRIPE_WEBHOOK_SECRETS": json.dumps([keys["stripe_webhook"]]),
            "TOLLKEEPER_PAYMENT_STRIPE_API_BASE": f"{_LOOPBACK}:{STRIPE_STANDIN.port(user)}",
        }
    if not user.get(VNPAY_KEY):
        base = f"{_LOOPBACK}:{VNPAY_STANDIN.port(user)}"
        settings |= {
            VNPAY_KEY: "STANDIN1",
            "TOLLKEEPER_PAYMENT_VNPAY_HASH_SECRETS": json.dumps([keys["vnpay"]]),
            "TOLLKEEPER_PAYMENT_VNPAY_PAY_URL": f"{base}/paymentv2/vpcpay.html",
            "TOLLKEEPER_PAYMENT_VNPAY_API_URL": f"{base}/merchant_webapi/api/transaction",
        }
    return settings


def _read_keys(path: Path) -> dict[str, str]:
    """The home's keys, made at first; nobody else may read them."""
    if not path.exists():
        made = {
            "stripe": f"sk_test_{secrets.token_hex(16)}",
            "stripe_webhook": f"whsec_{secrets.token_hex(16)}",
            "vnpay": secrets.token_hex(16).upper(),
        }
        write_private(path, json.dumps(made))
    return dict(json.loads(path.read_text()))
