"""Topic prefixes of tests, and tidying up on a broker that outlives the session."""

import hashlib
import os

from aiokafka.admin import AIOKafkaAdminClient


def prefix_of(node_id: str) -> str:
    """A prefix that no other test, and no other run, has."""
    return f"{session_prefix()}{hashlib.sha256(node_id.encode()).hexdigest()[:8]}."


def session_prefix() -> str:
    return f"tk-{os.getpid()}-"


async def delete_session_topics(bootstrap: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        if names := [name for name in await admin.list_topics() if name.startswith(session_prefix())]:
            await admin.delete_topics(names)
    finally:
        await admin.close()
