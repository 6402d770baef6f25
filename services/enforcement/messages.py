"""Commands and events as they leave: ids are derived from the facts that they name."""

from dataclasses import dataclass

from services.enforcement.rules.account import AccountKey
from services.enforcement.rules.deletion import Case
from services.enforcement.rules.lifecycle import RunKey
from services.enforcement.rules.resource import Family
from shared.clock import format_instant
from shared.events.commands import DeleteCommand, DeleteData, Run, StopCommand, StopData
from shared.events.enforcement import EnforcementData, EnforcementEvent, EnforcementEventType
from shared.ids import fact_id, shard_of
from shared.outbox import Message
from shared.topics import COMMANDS, ENFORCEMENT_EVENTS

ID_LENGTH_MAX = 200


@dataclass(frozen=True, slots=True)
class StopOrder:
    """The `attempt`-th command to stop one run."""

    key: AccountKey
    resource_id: str
    run: RunKey
    account_version: int
    attempt: int
    sent_at_us: int
    expires_at_us: int


@dataclass(frozen=True, slots=True)
class DeleteOrder:
    """The `attempt`-th command to delete one resource, under a permit that was redeemed for it."""

    case: Case
    resource_id: str
    family: Family
    permit_id: str
    attempt: int
    sent_at_us: int
    expires_at_us: int


def derive_id(*parts: str | int) -> str:
    """The parts as a path; a hash of them where the path would be too long for an event's id."""
    path = "/".join(map(str, parts))
    return path if len(path) <= ID_LENGTH_MAX else fact_id(*parts)


class Messages:
    """Makes messages for a deployment's number of shards: events of one instant, commands of an instant of their own.

    Ids count what was done. After a restore the count may begin again, so the incarnation is part of them from then on.
    """

    def __init__(self, shards: int, now_us: int, incarnation: int = 0) -> None:
        self._shards = shards
        self._now_us = now_us
        self._incarnation = incarnation

    def _name(self, *parts: str | int) -> str:
        return derive_id(*parts, *([f"restore-{self._incarnation}"] if self._incarnation else []))

    def stop(self, order: StopOrder) -> Message:
        command = StopCommand(
            id=self._name(order.resource_id, order.run.source, order.run.event_id, "stop", order.attempt),
            subject=order.resource_id,
            time=order.sent_at_us,
            data=StopData(
                region=order.key.region,
                tenant_id=order.key.tenant_id,
                run=Run(source=order.run.source, event_id=order.run.event_id),
                account_version=order.account_version,
                attempt=order.attempt,
                expires_at=order.expires_at_us,
            ),
        )
        return self._message(order.key, COMMANDS, command.model_dump_json())

    def delete(self, order: DeleteOrder) -> Message:
        key = order.case.key
        command = DeleteCommand(
            id=self._name(order.case.case_id, order.resource_id, "delete", order.attempt),
            type="container.delete" if order.family == "container" else "volume.delete",
            subject=order.resource_id,
            time=order.sent_at_us,
            data=DeleteData(
                region=key.region,
                tenant_id=key.tenant_id,
                permit_id=order.permit_id,
                negative_since=order.case.negative_since_us,
                expires_at=order.expires_at_us,
            ),
        )
        return self._message(key, COMMANDS, command.model_dump_json())

    def stop_event(
        self, kind: EnforcementEventType, key: AccountKey, resource_id: str, run: RunKey, attempts: int
    ) -> Message:
        """`stop.requested` or `stop.confirmed`; `attempts` were sent before it."""
        data = EnforcementData(
            region=key.region,
            tenant_id=key.tenant_id,
            resource_id=resource_id,
            run=Run(source=run.source, event_id=run.event_id),
        )
        return self._event(kind, self._name(resource_id, *run, kind, attempts), resource_id, key, data)

    def case_event(self, kind: EnforcementEventType, case: Case, reason: str | None = None) -> Message:
        data = self._case_data(case, None, reason)
        event_id = self._name(case.case_id, kind, case.changes)
        return self._event(kind, event_id, f"{case.key.region}/{case.key.tenant_id}", case.key, data)

    def reminder(self, case: Case, planned_at_us: int) -> Message:
        """Named by when it was planned, so that a case never has two of one instant."""
        event_id = self._name(case.case_id, "deletion.reminder", format_instant(planned_at_us))
        data = self._case_data(case, None, None)
        return self._event("deletion.reminder", event_id, f"{case.key.region}/{case.key.tenant_id}", case.key, data)

    def target_event(
        self, kind: EnforcementEventType, case: Case, resource_id: str, attempt: int, reason: str | None = None
    ) -> Message:
        data = self._case_data(case, resource_id, reason)
        return self._event(kind, self._name(case.case_id, resource_id, kind, attempt), resource_id, case.key, data)

    def _case_data(self, case: Case, resource_id: str | None, reason: str | None) -> EnforcementData:
        return EnforcementData(
            region=case.key.region,
            tenant_id=case.key.tenant_id,
            resource_id=resource_id,
            case_id=case.case_id,
            negative_since=case.negative_since_us,
            due_at=case.due_at_us,
            permit_id=case.permit_id,
            reason=reason,
        )

    def _event(
        self, kind: EnforcementEventType, event_id: str, subject: str, key: AccountKey, data: EnforcementData
    ) -> Message:
        event = EnforcementEvent(id=event_id, type=kind, subject=subject, time=self._now_us, data=data)
        return self._message(key, ENFORCEMENT_EVENTS, event.model_dump_json())

    def _message(self, key: AccountKey, topic: str, body: str) -> Message:
        stream = shard_of(key.region, key.tenant_id, self._shards)
        return Message(stream, topic, f"{key.region}/{key.tenant_id}".encode(), body.encode())
