"""What balance does with the records of its topics."""

from collections.abc import Mapping

from shared.consumer import Apply, Poll
from shared.db import Connection


def by_topic(handlers: Mapping[str, Apply]) -> Apply:
    """One handler for several topics: each gets its own topic's records of a poll, in the order of `handlers`."""

    async def apply(connection: Connection, poll: Poll) -> None:
        for topic, handler in handlers.items():
            records = [record for record in poll.records if record.topic == topic]
            if records:
                await handler(connection, Poll(records, poll.dead, poll.callbacks))

    return apply
