"""`kubectl get pods -o json`, with or without --watch and --output-watch-events: pods as lives.

A pod holds its GPUs from when its node has taken it (`status.startTime`) until its last container has ended, and exists
until it is deleted. Each fact is told once, however often the pod is seen.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deploy.cli.trace_events import EventWriter, TimedEvent, configure
from deploy.cli.trace_rows import read_whole
from deploy.cli.trace_times import RowError
from shared.clock import parse_instant

# GPU feature discovery labels nodes with it, and pods select them by it.
_SKU_LABEL = "nvidia.com/gpu.product"
_ENDED = ("Succeeded", "Failed")


@dataclass(slots=True)
class Pods:
    """Reads pods, lists of them and watch events; `tenant_label` None: the tenant is the namespace."""

    writer: EventWriter
    tenant_label: str | None
    gpu_sku: str | None
    _told: dict[str, set[str]] = field(default_factory=dict)

    def read(self, document: Mapping[str, Any]) -> Iterator[TimedEvent]:
        """The events that were not told yet. Raises RowError."""
        if document.get("type") in ("ADDED", "MODIFIED", "DELETED") and isinstance(document.get("object"), dict):
            yield from self._read_pod(document["object"], deleted=document["type"] == "DELETED")
        elif document.get("type") == "BOOKMARK":
            return
        elif document.get("kind") == "Pod":
            yield from self._read_pod(document, deleted=False)
        else:
            raise RowError("it is no pod: is this the output of `kubectl get pods -o json`?")

    def _read_pod(self, pod: Mapping[str, Any], *, deleted: bool) -> Iterator[TimedEvent]:
        metadata, status = _object(pod, "metadata"), _object(pod, "status")
        name = str(metadata.get("uid") or "")
        if not name:
            raise RowError("the pod has no metadata.uid")
        told = self._told.setdefault(name, set())
        tenant = self._tenant(metadata)
        facts = self._facts(pod, metadata, status, deleted=deleted)
        events = []
        for sequence, (verb, time_us, stated) in enumerate(facts, 1):
            # A place of its own for each: which of them are known depends on when one looked.
            data = {"tenant_id": tenant, "sequence": sequence, **stated}
            if time_us is not None and verb not in told:
                events.append(self.writer.write(f"{name}/{verb}", verb, name, time_us, data))
                told.add(verb)
        if deleted:
            del self._told[name]
        yield from events

    def _facts(
        self, pod: Mapping[str, Any], metadata: Mapping[str, Any], status: Mapping[str, Any], *, deleted: bool
    ) -> list[tuple[str, int | None, dict[str, Any]]]:
        created_us = _instant(metadata, "creationTimestamp")
        started_us = _instant(status, "startTime")
        ended_us = _ended(status) if status.get("phase") in _ENDED and started_us is not None else None
        gone_us = None
        if deleted:
            # The end of the grace period is the latest at which it can have gone.
            gone_us = ended_us if ended_us is not None else _instant(metadata, "deletionTimestamp")
            if gone_us is None:
                raise RowError(f"pod {metadata.get('name')} was deleted, and nothing in it says when")
            gone_us = max(gone_us, started_us or 0, created_us or 0)
        return [
            ("created", created_us, self._configuration(_object(pod, "spec"))),
            ("started", started_us, {}),
            ("stopped", ended_us, {}),
            ("deleted", gone_us, {}),
        ]

    def _tenant(self, metadata: Mapping[str, Any]) -> str:
        if self.tenant_label is None:
            return str(metadata.get("namespace") or "default")
        tenant = (metadata.get("labels") or {}).get(self.tenant_label)
        if tenant is None:
            raise RowError(f"pod {metadata.get('namespace')}/{metadata.get('name')} has no label {self.tenant_label}")
        return str(tenant)

    def _configuration(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        # Init containers run before the others, one after another.
        first = max((_gpus(container) for container in spec.get("initContainers") or ()), default=0)
        count = max(first, sum(_gpus(container) for container in spec.get("containers") or ()))
        sku = (spec.get("nodeSelector") or {}).get(_SKU_LABEL) or self.gpu_sku
        if count and sku is None:
            raise RowError(f"it has GPUs and selects no {_SKU_LABEL}; give --gpu-sku for such pods")
        return configure(count, sku if count else None, 0)


def _object(parent: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = parent.get(name) or {}
    if not isinstance(value, dict):
        raise RowError(f"the pod's {name} is no object")
    return value


def _instant(parent: Mapping[str, Any], name: str) -> int | None:
    text = parent.get(name)
    try:
        return None if text is None else parse_instant(str(text))
    except ValueError as error:
        raise RowError(f"{name}: {error}") from error


def _ended(status: Mapping[str, Any]) -> int | None:
    """When the last container ended; of a pod that was evicted before any ran, when its last condition changed."""
    states: Sequence[Mapping[str, Any]] = [
        (container.get("state") or {}).get("terminated") or {} for container in status.get("containerStatuses") or ()
    ]
    ends = [end for state in states if (end := _instant(state, "finishedAt")) is not None]
    if not ends:
        changes = [_instant(condition, "lastTransitionTime") for condition in status.get("conditions") or ()]
        ends = [change for change in changes if change is not None]
    return max(ends, default=None)


def _gpus(container: Mapping[str, Any]) -> int:
    count = 0
    for resource, quantity in ((container.get("resources") or {}).get("limits") or {}).items():
        if resource.startswith("nvidia.com/mig-"):
            raise RowError(f"{resource} is a slice of a GPU, which has no place in a GPU count")
        if resource.endswith("/gpu"):
            count += read_whole(str(quantity), resource)
    return count
