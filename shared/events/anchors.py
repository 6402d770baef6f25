"""`ledger.anchors.v1`: the head of a shard's hash chain, told outside of the ledger's database.

Whoever rewrites the chain must also rewrite what readers of this topic have kept.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from shared.events.cloudevents import SentInstant


class ChainHead(BaseModel):
    """The last link of a shard's chain as it was. `link` is its SHA-256 in hex, `posted_at` when it was posted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shard: Annotated[int, Field(ge=0, le=2**31 - 1)]
    link_number: Annotated[int, Field(ge=1, le=2**63 - 1)]
    link: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    posted_at: SentInstant
