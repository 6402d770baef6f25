"""`docker events --format json`: one object a line, as Docker tells it.

What Docker does not know of a container, its labels say: every event carries them as attributes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from deploy.cli.trace_events import EventWriter, TimedEvent, configure
from deploy.cli.trace_rows import read_whole
from deploy.cli.trace_times import RowError

# A container is paused with its GPU: only its end frees it.
_VERBS = {"create": "created", "start": "started", "die": "stopped", "destroy": "deleted"}


@dataclass(frozen=True, slots=True)
class DockerEvents:
    """Reads events one by one and remembers nothing, so a stream may begin and break off anywhere."""

    writer: EventWriter
    tenant_label: str
    gpu_sku: str | None

    def read(self, document: Mapping[str, Any]) -> Iterator[TimedEvent]:
        """The lifecycle event that comes of one of Docker's; none of most. Raises RowError."""
        kind = document.get("Type")
        if kind is None or "Action" not in document:
            raise RowError("it has no Type and Action: is this the output of `docker events --format json`?")
        verb = _VERBS.get(str(document["Action"]))
        if kind != "container" or verb is None:
            return
        actor = document.get("Actor")
        labels = actor.get("Attributes") if isinstance(actor, dict) else None
        nanoseconds = document.get("timeNano")
        if not isinstance(labels, dict) or not isinstance(actor, dict) or type(nanoseconds) is not int:
            raise RowError("it has no Actor with Attributes, or no timeNano")
        name = str(actor.get("ID") or document.get("id") or "")
        tenant = labels.get(self.tenant_label)
        if tenant is None:
            raise RowError(
                f"container {labels.get('name', name[:12])} has no label {self.tenant_label}: start it with "
                f"--label {self.tenant_label}=..., or name another label with --tenant-column"
            )
        data = {"tenant_id": tenant, "sequence": nanoseconds}
        if verb == "created":
            data |= self._configuration(labels)
        yield self.writer.write(f"{name}/{verb}/{nanoseconds}", verb, name, nanoseconds // 1000, data)

    def _configuration(self, labels: Mapping[str, Any]) -> dict[str, Any]:
        count = read_whole(str(labels.get("tollkeeper.gpu-count", "0")), "label tollkeeper.gpu-count")
        size_gb = read_whole(str(labels.get("tollkeeper.storage-gb", "0")), "label tollkeeper.storage-gb")
        sku = labels.get("tollkeeper.gpu-sku", self.gpu_sku)
        if count and sku is None:
            raise RowError("it has GPUs and no label tollkeeper.gpu-sku; give --gpu-sku for such containers")
        return configure(count, sku if count else None, size_gb)
