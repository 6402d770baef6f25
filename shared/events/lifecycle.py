"""`container.lifecycle.v1`: what platforms say of containers and volumes."""

from typing import Annotated, Any, Final, Literal, Self, get_args

import orjson
from pydantic import BaseModel, ConfigDict, Field, model_validator

from shared.events.cloudevents import (
    Identifier,
    Instant,
    JsonContentType,
    RegionName,
    Sku,
    TenantId,
    load_envelope,
)
from shared.events.reading import is_known_type, read_as
from shared.ids import content_hash
from shared.kafka import Record
from shared.topics import LIFECYCLE

ContainerType = Literal[
    "container.created", "container.started", "container.stopped", "container.resized", "container.deleted"
]
VolumeType = Literal["volume.created", "volume.resized", "volume.deleted"]
CONTAINER_TYPES: tuple[str, ...] = get_args(ContainerType)
VOLUME_TYPES: tuple[str, ...] = get_args(VolumeType)
INVENTORY_TYPE = "inventory.observed"
# Takes an earlier event out, of the lifecycle topic or of usage.
RETRACTED_TYPE: Final = "event.retracted"
LIFECYCLE_TYPES = frozenset((*CONTAINER_TYPES, *VOLUME_TYPES, INVENTORY_TYPE, RETRACTED_TYPE))

GPU_COUNT_MAX = 4096
STORAGE_GB_MAX = 100_000_000
GpuCount = Annotated[int, Field(strict=True, ge=0, le=GPU_COUNT_MAX)]
StorageGb = Annotated[int, Field(strict=True, ge=0, le=STORAGE_GB_MAX)]


class _Envelope(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    specversion: Literal["1.0"]
    id: Identifier
    source: Identifier
    time: Instant
    datacontenttype: JsonContentType | None = None


class EventReference(BaseModel):
    """An earlier event, by what makes it unique on its topic."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    source: Identifier
    id: Identifier

    @property
    def key(self) -> tuple[str, str]:
        return self.source, self.id


AmendmentReason = Annotated[str, Field(min_length=1, max_length=500)]


class LifecycleData(BaseModel):
    """What a lifecycle event states. Which fields a type needs is checked by LifecycleEvent.

    `sequence` counts per resource. `run_id` names the run that a `started` begins or a `stopped` ends. `replaces` takes
    an earlier event of the same resource and tenant out of its history and puts this one in; `reason` says why.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    region: RegionName
    tenant_id: TenantId
    sequence: Annotated[int, Field(strict=True, ge=0, le=2**62)] | None = None
    run_id: Identifier | None = None
    replaces: EventReference | None = None
    reason: AmendmentReason | None = None
    labels: dict[Identifier, Annotated[str, Field(max_length=200)]] | None = Field(default=None, max_length=64)
    admission_id: Identifier | None = None
    gpu_sku: Sku | None = None
    gpu_count: GpuCount | None = None
    persistent_storage_gb: StorageGb | None = None
    size_gb: StorageGb | None = None


class LifecycleEvent(_Envelope):
    """One fact in the life of a container or volume; `subject` is the resource's id, `time` when it happened."""

    type: ContainerType | VolumeType | Literal["event.retracted"]
    subject: Identifier
    data: LifecycleData

    @model_validator(mode="after")
    def _needs_what_its_type_needs(self) -> Self:
        data, kind = self.data, self.type
        if kind == "container.created" and data.gpu_count is None:
            raise ValueError("container.created needs data.gpu_count (0 for a CPU container)")
        if kind == "container.created" and data.gpu_count and data.gpu_sku is None:
            raise ValueError("container.created with GPUs needs data.gpu_sku")
        if kind == "container.resized" and (data.gpu_sku, data.gpu_count, data.persistent_storage_gb) == (None,) * 3:
            raise ValueError("container.resized needs what changed: gpu_sku, gpu_count or persistent_storage_gb")
        if kind in ("volume.created", "volume.resized") and data.size_gb is None:
            raise ValueError(f"{kind} needs data.size_gb")
        if kind == RETRACTED_TYPE and data.replaces is None:
            raise ValueError("event.retracted needs data.replaces: the event that it takes out")
        if data.replaces is not None and data.replaces.key == (self.source, self.id):
            raise ValueError("an event can't replace itself")
        return self

    @property
    def storage_gb(self) -> int | None:
        """The size that this event states, of a volume or of a container's persistent storage."""
        return self.data.size_gb if self.type.startswith("volume.") else self.data.persistent_storage_gb

    def fingerprint(self) -> bytes:
        """A hash of what the event says; two events with one (source, id) and different fingerprints conflict."""
        data = self.data
        return content_hash(
            orjson.dumps(
                [
                    *(self.type, self.subject, self.time, data.region, data.tenant_id, data.sequence),
                    *(data.gpu_sku, data.gpu_count, data.persistent_storage_gb, data.size_gb, data.admission_id),
                    *(data.run_id, None if data.replaces is None else data.replaces.key),
                ]
            )
        )


class InventoryItem(BaseModel):
    """A resource as its source sees it at the instant of the listing."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    resource_id: Identifier
    tenant_id: TenantId
    state: Literal["running", "stopped", "exists"]  # "exists" is a volume's only state
    gpu_sku: Sku | None = None
    gpu_count: GpuCount | None = None
    persistent_storage_gb: StorageGb | None = None
    size_gb: StorageGb | None = None


class InventoryData(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    region: RegionName
    snapshot: Identifier
    page: Annotated[int, Field(strict=True, ge=1, le=100_000)]
    pages: Annotated[int, Field(strict=True, ge=1, le=100_000)]
    resources: Annotated[list[InventoryItem], Field(max_length=5000)]

    @model_validator(mode="after")
    def _page_exists(self) -> Self:
        if self.page > self.pages:
            raise ValueError("page is beyond pages")
        return self


class InventoryObserved(_Envelope):
    """A page of a source's complete list of its resources at `time`."""

    type: Literal["inventory.observed"]
    data: InventoryData


def parse_lifecycle(record: Record) -> LifecycleEvent | InventoryObserved | None:
    """Read a record of the lifecycle topic; None for an event of an unknown type. Raises RecordError."""
    return read_lifecycle(load_envelope(record))


def read_lifecycle(envelope: dict[str, Any]) -> LifecycleEvent | InventoryObserved | None:
    """Validate a CloudEvent as a lifecycle event; None for one of an unknown type. Raises RecordError."""
    if not is_known_type(envelope, LIFECYCLE_TYPES, LIFECYCLE):
        return None
    if envelope["type"] == INVENTORY_TYPE:
        return read_as(InventoryObserved, envelope)
    return read_as(LifecycleEvent, envelope)
