"""VNPay's signatures, version 2.1.0: HMAC-SHA512 in lower-case hex over query strings, or over values between pipes.

Source: VNPay's integration guide. Every secret given may have signed (rotation); comparisons take constant time.
"""

import hmac
import re
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import parse_qsl, quote, quote_plus

SIGNATURE: Final = "vnp_SecureHash"
_UNSIGNED = {SIGNATURE, "vnp_SecureHashType"}
# Names go into the hash as they are: one with "=" or "&" in it would read as two fields.
_NAME = re.compile(r"vnp_[A-Za-z0-9_]+", re.ASCII)
_FIELDS_MAX = 100


class NotVnpayError(ValueError):
    """A query that no VNPay sends: a name twice, too many, or not text."""


def sign_query(fields: Mapping[str, str], secret: str) -> str:
    """The query string of `fields`, sorted and signed; empty values are left out."""
    joined = _join(fields, plus=True)
    return f"{joined}&{SIGNATURE}={sign_text(joined, secret)}"


def read_query(query: str) -> dict[str, str]:
    """The `vnp_*` fields of a raw query string, decoded. Raises NotVnpayError."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=_FIELDS_MAX)
    except ValueError:
        raise NotVnpayError("the query is too long or no text") from None
    own = [(name, value) for name, value in pairs if _NAME.fullmatch(name)]
    fields = dict(own)
    if len(fields) != len(own):
        raise NotVnpayError("a field stands twice")
    return fields


def is_signed(fields: Mapping[str, str], secrets: Sequence[str]) -> bool:
    """Whether one of `secrets` signed the fields of a callback, with either spelling of a space ("+" or "%20").

    An empty secret is none: anybody could sign with it.
    """
    signature = fields.get(SIGNATURE, "")
    texts = dict.fromkeys((_join(fields, plus=True), _join(fields, plus=False)))
    return _matches(signature, [sign_text(text, secret) for secret in secrets if secret for text in texts])


def sign_piped(fields: Mapping[str, object], names: Sequence[str], secret: str) -> str:
    """The signature over the values of `names` (without "vnp_"), in that order; a missing one keeps its pipe."""
    return sign_text(_join_piped(fields, names), secret)


def is_piped_signed(fields: Mapping[str, object], names: Sequence[str], secrets: Sequence[str]) -> bool:
    """Whether one of `secrets` signed the values of `names`."""
    text = _join_piped(fields, names)
    return _matches(str(fields.get(SIGNATURE, "")), [sign_text(text, secret) for secret in secrets if secret])


def sign_text(text: str, secret: str) -> str:
    return hmac.digest(secret.encode(), text.encode(), "sha512").hex()


def _join(fields: Mapping[str, str], *, plus: bool) -> str:
    spell = quote_plus if plus else quote
    return "&".join(
        f"{name}={spell(value, safe='')}" for name, value in sorted(fields.items()) if value and name not in _UNSIGNED
    )


def _join_piped(fields: Mapping[str, object], names: Sequence[str]) -> str:
    values = (fields.get(f"vnp_{name}") for name in names)
    return "|".join("" if value is None else str(value) for value in values)


def _matches(signature: str, expected: Sequence[str]) -> bool:
    given = signature.encode()
    # Every comparison is made, so that the time tells nothing of which secret signed.
    return sum(hmac.compare_digest(given, candidate.encode()) for candidate in expected) > 0
