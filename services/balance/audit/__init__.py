"""The books, audited: what the database holds against what its own entries, chain, evidence and hours say.

One pass per question, streamed; nothing here shares state with posting. An empty answer means that all agrees.
"""

from collections.abc import AsyncIterator, Callable, Sequence

from services.balance.audit.accounts import audit_accounts
from services.balance.audit.chain import Anchor, audit_anchors, audit_chain, audit_heads
from services.balance.audit.difference import Difference
from services.balance.audit.evidence import audit_evidence, audit_streams
from services.balance.audit.grants import audit_grants
from services.balance.audit.hours import audit_hours
from services.balance.audit.standings import audit_standings
from shared.db import Connection

# Told before each part, with the number of differences so far.
Progress = Callable[[str, int], None]


def _silent(part: str, found: int) -> None:
    """Tell nobody."""


async def audit(
    connection: Connection,
    account_id: int | None = None,
    *,
    anchors: Sequence[Anchor] = (),
    progress: Progress = _silent,
) -> list[Difference]:
    """The differences found in one account, or in all. Needs a transaction of its own with a stable snapshot.

    `anchors` are heads of the chain that were kept outside of the database.
    """
    parts: list[tuple[str, AsyncIterator[Difference]]] = [
        ("accounts", audit_accounts(connection, account_id)),
        ("standings", audit_standings(connection, account_id)),
        ("chain", audit_chain(connection, account_id)),
        ("evidence", audit_evidence(connection, account_id)),
        ("grants", audit_grants(connection, account_id)),
        ("hours", audit_hours(connection, account_id)),
    ]
    if account_id is None:
        parts += [("heads", audit_heads(connection)), ("streams", audit_streams(connection))]
    if anchors:
        parts.append(("anchors", audit_anchors(connection, anchors)))
    differences: list[Difference] = []
    for name, found in parts:
        progress(name, len(differences))
        differences += [difference async for difference in found]
    return differences
