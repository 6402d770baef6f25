"""The topics, their partitions, and how they are made. Names carry the deployment's prefix on the broker only."""

from dataclasses import dataclass

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import TopicAlreadyExistsError, for_code

LIFECYCLE = "container.lifecycle.v1"
USAGE = "service.usage.v1"
PRICE_BOOKS = "price.books.v1"
CHARGES = "usage.charges.v1"
PAYMENT_EVENTS = "payment.events.v1"
ACCOUNT_EVENTS = "account.events.v1"
COMMANDS = "container.commands.v1"
ENFORCEMENT_EVENTS = "enforcement.events.v1"
SERVICE_EVENTS = "service.events.v1"
ANCHORS = "ledger.anchors.v1"

DEAD_SUFFIX = ".dead"
MESSAGE_BYTES_MAX = 16 * 1024 * 1024
# The broker's `transaction.max.timeout.ms`: an open transaction holds back all readers of its partitions.
TRANSACTION_TIMEOUT_MS_MAX = 60_000


@dataclass(frozen=True, slots=True)
class Topic:
    name: str
    partitions: int
    compacted: bool = False
    retention_days: int = 7


TOPICS = (
    Topic(LIFECYCLE, 8),
    Topic(USAGE, 4),
    Topic(PRICE_BOOKS, 1, compacted=True),
    Topic(CHARGES, 8),
    Topic(PAYMENT_EVENTS, 4),
    Topic(ACCOUNT_EVENTS, 4),
    Topic(COMMANDS, 4),
    Topic(ENFORCEMENT_EVENTS, 4),
    Topic(SERVICE_EVENTS, 1, compacted=True),
    # As long as books are kept: whoever asks whether they were rewritten asks late.
    Topic(ANCHORS, 1, retention_days=3653),
    Topic(LIFECYCLE + DEAD_SUFFIX, 1, retention_days=30),
    Topic(USAGE + DEAD_SUFFIX, 1, retention_days=30),
    Topic(PRICE_BOOKS + DEAD_SUFFIX, 1, retention_days=30),
    Topic(CHARGES + DEAD_SUFFIX, 1, retention_days=30),
    Topic(PAYMENT_EVENTS + DEAD_SUFFIX, 1, retention_days=30),
    Topic(ACCOUNT_EVENTS + DEAD_SUFFIX, 1, retention_days=30),
    Topic(ENFORCEMENT_EVENTS + DEAD_SUFFIX, 1, retention_days=30),
    Topic(SERVICE_EVENTS + DEAD_SUFFIX, 1, retention_days=30),
)


async def ensure_topics(bootstrap: str, prefix: str = "", *, replication_factor: int = 1) -> list[str]:
    """Create the topics that are missing; answer the names of those made now. Existing ones are left as they are."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        known = set(await admin.list_topics())
        missing = [topic for topic in TOPICS if prefix + topic.name not in known]
        if missing:
            response = await admin.create_topics([_new_topic(topic, prefix, replication_factor) for topic in missing])
            for name, code, message in response.topic_errors:
                error = for_code(code)
                if code and error is not TopicAlreadyExistsError:
                    raise error(f"topic {name}: {message}")
        return [prefix + topic.name for topic in missing]
    finally:
        await admin.close()


def _new_topic(topic: Topic, prefix: str, replication_factor: int) -> NewTopic:
    # Late events keep their own time: retention and compaction go by the broker's.
    configuration = {"message.timestamp.type": "LogAppendTime", "max.message.bytes": str(MESSAGE_BYTES_MAX)}
    if topic.compacted:
        configuration["cleanup.policy"] = "compact"
    else:
        configuration["retention.ms"] = str(topic.retention_days * 86_400_000)
    return NewTopic(
        name=prefix + topic.name,
        num_partitions=topic.partitions,
        replication_factor=replication_factor,
        topic_configs=configuration,
    )
