"""Ids and hashes. Every id is derived from the fact that it names, never from the attempt."""

import hashlib
import uuid
from functools import lru_cache

_NAMESPACE = uuid.UUID("6f1d9a52-3c0e-5b7c-9a35-6d1f1f0c7e11")


@lru_cache(maxsize=65_536)
def shard_of(region: str, tenant_id: str, shards: int) -> int:
    """The shard of an account, out of `shards`: our own hash, so that broker keys mean nothing for money."""
    digest = hashlib.blake2b(f"{region}\x00{tenant_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % shards


def content_hash(data: bytes) -> bytes:
    """A 32-byte hash that names bytes."""
    return hashlib.sha256(data).digest()


def fact_id(*parts: str | int) -> str:
    """A stable id for the fact that `parts` name, in the form of a UUID (version 5)."""
    return str(uuid.uuid5(_NAMESPACE, "\x1f".join(map(str, parts))))
