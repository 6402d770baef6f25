"""Before a service that was away, or whose database was set back, acts on what it missed.

Account events are taken in again one after another. An account that was empty for an hour yesterday must not be stopped
today, so the newest event of every account is learnt first; the older ones then change nothing.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import orjson

from services.enforcement.app.enforce import BATCH, Enforce
from services.enforcement.handlers import read_account
from services.enforcement.rules.account import Account, AccountKey
from shared.db import is_transient, past_races, transaction
from shared.errors import RecordError
from shared.log import get_logger
from shared.set_aside import describe_error
from shared.topic_reader import TopicReader
from shared.topics import ACCOUNT_EVENTS

logger = get_logger(__name__)


async def learn_newest(enforce: Enforce, reader: TopicReader) -> int:
    """Learn the newest event of each account past what was consumed; answer how many accounts moved."""
    async with transaction(enforce.pool) as connection:
        rows = await connection.fetch(
            "select partition, max(next_offset) from consumer_offset where topic = $1 group by 1", ACCOUNT_EVENTS
        )
    newest: dict[AccountKey, Account] = {}
    async for _, _, value in reader.read(ACCOUNT_EVENTS, {row[0]: row[1] for row in rows}):
        try:
            seen = read_account(orjson.loads(value or b""), enforce.settings.regions)
        except (RecordError, ValueError):
            # The consumer buries it, with its reason.
            continue
        known = newest.get(seen.key)
        if known is None or seen.version > known.version:
            newest[seen.key] = seen
    moved = 0
    for batch in _batches(list(newest.values())):
        moved += await _apply(enforce, batch)
    if moved:
        logger.info("accounts.caught_up", accounts=moved)
    return moved


async def _apply(enforce: Enforce, accounts: Sequence[Account]) -> int:
    """Apply them, without the single ones that can't be: the consumer buries those, and the service starts."""
    try:
        return await past_races(partial(enforce.apply_answers, accounts))
    except Exception as error:
        if is_transient(error):
            raise
        if len(accounts) > 1:
            middle = len(accounts) // 2
            return await _apply(enforce, accounts[:middle]) + await _apply(enforce, accounts[middle:])
        logger.error("accounts.not_caught_up", account="/".join(accounts[0].key), reason=describe_error(error))  # noqa: TRY400
        return 0


def _batches(accounts: Sequence[Account]) -> Iterator[Sequence[Account]]:
    return (accounts[first : first + BATCH] for first in range(0, len(accounts), BATCH))
