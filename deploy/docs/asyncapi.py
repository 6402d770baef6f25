"""The AsyncAPI document of all topics, from the event models. The application it declares never runs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import yaml
from faststream.kafka import KafkaBroker
from faststream.specification import AsyncAPI
from pydantic import BaseModel, ConfigDict

from shared.events.account import AccountEvent
from shared.events.anchors import ChainHead
from shared.events.charges import ChargeBatch
from shared.events.cloudevents import Identifier, Instant
from shared.events.commands import DeleteCommand, StopCommand
from shared.events.enforcement import EnforcementEvent
from shared.events.lifecycle import InventoryObserved, LifecycleEvent
from shared.events.payments import PaymentEvent
from shared.events.prices import PriceBookPublished
from shared.events.service import ServiceEvent
from shared.events.usage import UsageRecorded, UsageRetracted
from shared.topics import (
    ACCOUNT_EVENTS,
    ANCHORS,
    CHARGES,
    COMMANDS,
    DEAD_SUFFIX,
    ENFORCEMENT_EVENTS,
    LIFECYCLE,
    PAYMENT_EVENTS,
    PRICE_BOOKS,
    SERVICE_EVENTS,
    TOPICS,
    USAGE,
)

VERSION = "1"


class DeadLetterAnnounced(BaseModel):
    """A record that could not be understood: where it is, why, and the hash of its bytes, which stay in the table."""

    model_config = ConfigDict(extra="forbid")

    dead_id: Identifier
    topic: str
    partition: int
    offset: int
    reason: str
    sha256: str
    died_at: Instant


@dataclass(frozen=True, slots=True)
class Contract:
    """What a topic carries. `direction` is seen from Tollkeeper: it receives what others publish, sends the rest."""

    topic: str
    direction: Literal["receive", "send"]
    model: Any
    description: str


CONTRACTS = (
    Contract(
        LIFECYCLE,
        "receive",
        LifecycleEvent | InventoryObserved,
        "What platforms say of containers and volumes. CloudEvents 1.0 as JSON, structured or binary, in any order; "
        "an event is identified by (source, id).",
    ),
    Contract(
        USAGE,
        "receive",
        UsageRecorded | UsageRetracted,
        "Quantities of priced SKUs that other services want charged, each unique by (source, id); and retractions.",
    ),
    Contract(
        PRICE_BOOKS,
        "send",
        PriceBookPublished,
        "Price books in force and to come, from metering. Key: region/version.",
    ),
    Contract(
        CHARGES,
        "send",
        ChargeBatch,
        "What metering charges: zstd-compressed JSON, contiguous seq per shard, which may repeat.",
    ),
    Contract(
        PAYMENT_EVENTS,
        "send",
        PaymentEvent,
        "What payment providers did with a customer's money; each fact has one id. Key: region/tenant.",
    ),
    Contract(
        ACCOUNT_EVENTS,
        "send",
        AccountEvent,
        "What balance says of an account. Each event raises account_version by one. Key: region/tenant.",
    ),
    Contract(
        COMMANDS,
        "send",
        StopCommand | DeleteCommand,
        "What enforcement asks of a platform, which obeys only before expires_at and asks balance again right before "
        "it carries a command out: a delete by POST /v1/deletion-permits/{permit_id}/redemptions (200: destroy, "
        "409 or no answer: do nothing), a stop by GET /v1/accounts/{region}/{tenant_id}. A platform confirms with "
        "container.stopped, container.deleted or volume.deleted. Key: region/tenant.",
    ),
    Contract(ENFORCEMENT_EVENTS, "send", EnforcementEvent, "What enforcement did or plans, and to whom."),
    Contract(
        SERVICE_EVENTS,
        "send",
        ServiceEvent,
        "That a service's database was set back to a backup, and that an operator confirmed it. Key: service/kind.",
    ),
    Contract(
        ANCHORS,
        "send",
        ChainHead,
        "Heads of the ledger's hash chain, every so often: keep them where nobody of the ledger can write. Key: shard.",
    ),
    *(
        Contract(topic.name, "send", DeadLetterAnnounced, "Records that could not be understood, without their bytes.")
        for topic in TOPICS
        if topic.name.endswith(DEAD_SUFFIX)
    ),
)


def declare_broker() -> KafkaBroker:
    """A broker that is never started, with one operation per topic."""
    broker = KafkaBroker("127.0.0.1:9092", description="Names carry the deployment's topic prefix, where it has one.")
    for contract in CONTRACTS:
        if contract.direction == "send":
            broker.publisher(contract.topic, schema=contract.model, description=contract.description)
        else:
            broker.subscriber(contract.topic, description=contract.description)(_receiver(contract))
    return broker


def _receiver(contract: Contract) -> Callable[[Any], None]:
    def receive(event: Any) -> None:  # noqa: ANN401 - its annotation is the contract's model
        raise AssertionError(f"this application only declares what is received, but got {event!r}")

    receive.__annotations__["event"] = contract.model
    # Unions have no name of their own: FastStream names them by who receives them.
    receive.__name__ = f"receive_{contract.topic.replace('.', '_')}"
    return receive


def write_asyncapi() -> str:
    """The document as YAML, the same for the same models."""
    document = AsyncAPI(
        declare_broker(),
        title="Tollkeeper topics",
        version=VERSION,
        description="Every event that Tollkeeper receives and sends, from the models in shared/events.",
        schema_version="3.0.0",
    )
    # FastStream keeps operations in a set: without sorting the document would differ from run to run.
    return yaml.safe_dump(document.to_specification().to_jsonable(), sort_keys=True, allow_unicode=True, width=120)
