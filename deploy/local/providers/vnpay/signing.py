"""VNPay's hashes as the stand-in computes them, on its own: it must not agree with payment by sharing its code."""

import hashlib
import hmac
from urllib.parse import urlencode

HASH = "vnp_SecureHash"


def hash_text(secret: str, text: str) -> str:
    return hmac.new(secret.encode(), text.encode(), hashlib.sha512).hexdigest()


def query_hash(secret: str, fields: dict[str, str]) -> str:
    """Over the sorted, form-encoded fields that are not empty."""
    kept = {name: value for name, value in fields.items() if value and not name.startswith(HASH)}
    return hash_text(secret, urlencode(sorted(kept.items())))


def signed_query(secret: str, fields: dict[str, str]) -> str:
    kept = {name: value for name, value in fields.items() if value}
    return f"{urlencode(sorted(kept.items()))}&{HASH}={query_hash(secret, fields)}"


def piped_hash(secret: str, fields: dict[str, str], names: str) -> str:
    """Over the values of `names` (separated by pipes, without their prefix); a missing one keeps its pipe."""
    return hash_text(secret, "|".join(fields.get(f"vnp_{name}", "") for name in names.split("|")))
