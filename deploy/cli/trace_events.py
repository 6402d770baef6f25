"""Lifecycle events as an import writes them."""

from dataclasses import dataclass
from typing import Any

from deploy.cli.trace_times import RowError
from shared.clock import format_instant
from shared.events.lifecycle import LifecycleEvent

# An event with its instant, by which a file is sorted.
TimedEvent = tuple[int, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class EventWriter:
    """Writes the events of one region and source. Ids follow from the facts: a second import repeats them."""

    region: str
    source: str

    def write(self, event_id: str, verb: str, name: str, time_us: int, data: dict[str, Any]) -> TimedEvent:
        """One event of a container. Raises RowError where the contract refuses it."""
        event = {
            "specversion": "1.0",
            "id": event_id,
            "source": self.source,
            "type": f"container.{verb}",
            "subject": name,
            "time": format_instant(time_us),
            "datacontenttype": "application/json",
            "data": {"region": self.region, **data},
        }
        try:
            LifecycleEvent.model_validate(event)
        except ValueError as error:
            raise RowError(f"no valid event comes of it: {error}") from error
        return time_us, event


def configure(gpu_count: int, gpu_sku: str | None, storage_gb: int) -> dict[str, Any]:
    """What `created` states."""
    stated: dict[str, Any] = {"gpu_count": gpu_count, "persistent_storage_gb": storage_gb}
    return stated if gpu_sku is None else {**stated, "gpu_sku": gpu_sku}
