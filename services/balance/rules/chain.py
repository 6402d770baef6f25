"""The hash chain over a shard's entries: one link per transaction.

A link is sha256(previous link + heading + one line per entry, by account and entry number). Whoever changes an entry
must change every later link.
"""

import hashlib
from collections.abc import Iterable

CUSTOMER = "customer"


def seal(previous: bytes, shard: int, link_number: int, posted_at_us: int, lines: Iterable[str]) -> bytes:
    """The link over `lines` (see `entry_line`), 32 bytes."""
    text = "".join((f"{shard} {link_number} {posted_at_us}\n", *lines))
    return hashlib.sha256(previous + text.encode()).digest()


def entry_line(account_id: int, accounts_and_class: str, amount_micros: int, cause: str) -> str:
    """An entry as the chain sees it: account, debit, credit, class, amount, cause."""
    return f"{account_id} {accounts_and_class} {amount_micros} {cause}\n"


def charge_cause(seq: int, evidence_sha256: bytes) -> str:
    """A batch by its number and the bytes that are its evidence, in which accounts stand by their names."""
    return f"batch {seq} {evidence_sha256[:16].hex()}"


def fact_cause(account: str, fact_id: str) -> str:
    """A fact by its id, and by the "region/tenant" that it was posted to: an account's number says not whose it is."""
    return f"fact {account} {fact_id}"


def adjustment_cause(account: str, idempotency_key: str, request_sha256: bytes) -> str:
    """An adjustment by its account, its key and the hash of its amount, reason and actor."""
    return f"adjustment {account} {idempotency_key} {request_sha256.hex()}"
