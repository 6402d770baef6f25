"""Rows of a cluster's job or pod trace as the lives of containers: pure reading, no files."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from deploy.cli.trace_events import EventWriter, TimedEvent, configure
from deploy.cli.trace_times import RowError, Times, is_absent
from shared.clock import format_instant

NAME_BYTES_MAX = 190
CREATED_FIELD = "created"
_WHOLE = re.compile(r"(\d{1,15})(?:\.0*)?", re.ASCII)
_LAST_NUMBER = re.compile(r"(\d+)\D*\Z", re.ASCII)
_FIELD = re.compile(r"\{([^{}]*)\}")
_SKU = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_TENANT = _SKU


class SizeUnit(StrEnum):
    """The unit of a storage column. Binary units round up to whole GiB, decimal ones to whole GB."""

    KIB = "kib"
    MIB = "mib"
    GIB = "gib"
    TIB = "tib"
    KB = "kb"
    MB = "mb"
    GB = "gb"
    TB = "tb"

    def to_gb(self, size: int) -> int:
        """`size` of this unit in whole GB (or GiB), rounded up."""
        step = 1024 if "i" in self.value else 1000
        power = "kmgt".index(self.value[0]) - 2
        factor: int = step ** abs(power)
        return size * factor if power >= 0 else -(-size // factor)


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column of the trace holds what; None where the trace has no such column.

    A life ends at `deleted`, or `duration` after it began to run.
    """

    id: str
    created: str
    started: str
    deleted: str | None
    gpu_count: str
    gpu_sku: str | None
    storage: str | None
    tenant: str | None
    duration: str | None = None

    def named(self) -> list[str]:
        """The columns that must be there."""
        needed = [self.id, self.created, self.started, self.gpu_count]
        perhaps = (self.deleted, self.gpu_sku, self.storage, self.tenant, self.duration)
        return [*needed, *(name for name in perhaps if name is not None)]


@dataclass(frozen=True, slots=True)
class Gpus:
    """What a cell says of GPUs: None where it does not say how many, or which."""

    count: int | None
    sku: str | None = None


def read_count(text: str, what: str) -> Gpus:
    """A whole number of GPUs. Raises RowError."""
    return Gpus(None if is_absent(text) else read_whole(text, what))


@dataclass(frozen=True, slots=True)
class Reading:
    """How a trace is read: `gpu_sku` stands where its column is blank; `tenant_modulo` where there is no tenant.

    `id_template` makes a resource's name of columns in braces; `{created}` is when it was created, in UTC. `is_part`
    tells of an id whether its row is a part of another row's life.
    """

    columns: Columns
    times: Times
    region: str
    source: str
    gpu_sku: str | None
    storage_unit: SizeUnit
    tenant_modulo: int | None
    id_template: str | None = None
    read_gpus: Callable[[str, str], Gpus] = read_count
    is_part: Callable[[str], bool] = lambda _id: False

    def named(self) -> list[str]:
        """The columns that must be there."""
        fields = _FIELD.findall(self.id_template or "")
        return [*self.columns.named(), *(field for field in fields if field != CREATED_FIELD)]


@dataclass(frozen=True, slots=True)
class Life:
    """A container of the trace; instants in microseconds since the epoch, None for what the trace does not say."""

    name: str
    tenant_id: str
    gpu_sku: str | None
    gpu_count: int
    storage_gb: int
    created_us: int
    started_us: int | None
    deleted_us: int | None


def read_life(row: Mapping[str | None, Any], reading: Reading) -> Life | None:
    """Read one row; None for a part of another, and for one that waits and may still become anything.

    Raises RowError with what makes no sense, MissingOptionError.
    """
    columns, times = reading.columns, reading.times
    if None in row:
        raise RowError("the row has more fields than the header")
    if reading.is_part(_cell(row, columns.id)):
        return None
    created_us = times.read(_cell(row, columns.created), columns.created)
    if created_us is None:
        raise RowError(f"{columns.created} is empty: a container is created at some time")
    started_us = times.read(_cell(row, columns.started), columns.started)
    deleted_us = _read_end(row, reading, started_us)
    name = _read_name(row, reading, created_us)
    _check_order(columns, created_us, started_us, deleted_us)
    gpus = reading.read_gpus(_cell(row, columns.gpu_count), columns.gpu_count)
    if gpus.count is None:
        if started_us is None and deleted_us is None:
            return None
        if started_us is not None:
            raise RowError(f"{columns.gpu_count} is empty, and the container ran")
    return Life(
        name=name,
        tenant_id=_tenant(row, name, reading),
        gpu_sku=_sku(row, gpus, reading) if gpus.count else None,
        gpu_count=gpus.count or 0,
        storage_gb=0 if columns.storage is None else reading.storage_unit.to_gb(_storage(row, columns.storage)),
        created_us=created_us,
        started_us=started_us,
        deleted_us=deleted_us,
    )


def _read_end(row: Mapping[str | None, Any], reading: Reading, started_us: int | None) -> int | None:
    columns = reading.columns
    if columns.deleted is not None:
        return reading.times.read(_cell(row, columns.deleted), columns.deleted)
    assert columns.duration is not None, "a life has a column of its end or of its duration"
    span_us = reading.times.read_span(_cell(row, columns.duration), columns.duration)
    return None if span_us is None or started_us is None else started_us + span_us


def _read_name(row: Mapping[str | None, Any], reading: Reading, created_us: int) -> str:
    what = reading.columns.id
    if reading.id_template is None:
        name = _cell(row, what)
    else:
        what = "--id-template"
        name = _FIELD.sub(lambda field: _template_field(row, field.group(1), created_us), reading.id_template)
    if not name or len(name.encode()) > NAME_BYTES_MAX or not name.isprintable():
        raise RowError(f"{what} {name[:40]!r} is no name of a resource")
    return name


def _template_field(row: Mapping[str | None, Any], field: str, created_us: int) -> str:
    return format_instant(created_us) if field == CREATED_FIELD and field not in row else _cell(row, field)


def _check_order(columns: Columns, created_us: int, started_us: int | None, deleted_us: int | None) -> None:
    ended = columns.deleted or columns.duration
    if started_us is not None and started_us < created_us:
        raise RowError(f"{columns.started} is before {columns.created}")
    if deleted_us is not None and deleted_us < created_us:
        raise RowError(f"{ended} is before {columns.created}")
    if deleted_us is not None and started_us is not None and deleted_us < started_us:
        raise RowError(f"{ended} is before {columns.started}")


def _cell(row: Mapping[str | None, Any], column: str) -> str:
    value = row[column]
    if value is None:
        raise RowError(f"the row ends before {column}")
    return str(value).strip()


def read_whole(text: str, what: str) -> int:
    """Raises RowError."""
    found = _WHOLE.fullmatch(text)
    if found is None:
        raise RowError(f"{what} {text[:40]!r} is no whole number")
    return int(found.group(1))


def _storage(row: Mapping[str | None, Any], column: str) -> int:
    text = _cell(row, column)
    return 0 if is_absent(text) else read_whole(text, column)


def _sku(row: Mapping[str | None, Any], gpus: Gpus, reading: Reading) -> str:
    column = reading.columns.gpu_sku
    sku = (_cell(row, column) if column is not None else "") or gpus.sku or reading.gpu_sku
    if sku is None:
        raise RowError(f"{column or reading.columns.gpu_count} names no GPU SKU; give --gpu-sku for such rows")
    if _SKU.fullmatch(sku) is None:
        raise RowError(f"{column or 'gpu sku'} {sku[:40]!r} is no SKU: letters, digits, dot, dash and underscore")
    return sku


def _tenant(row: Mapping[str | None, Any], name: str, reading: Reading) -> str:
    if reading.columns.tenant is not None:
        tenant = _cell(row, reading.columns.tenant)
        if _TENANT.fullmatch(tenant) is None:
            raise RowError(f"{reading.columns.tenant} {tenant[:40]!r} is no tenant's id")
        return tenant
    assert reading.tenant_modulo is not None
    found = _LAST_NUMBER.search(name)
    if found is None:
        raise RowError(f"{name[:40]!r} has no number to derive a tenant from")
    return f"t{int(found.group(1)[-18:]) % reading.tenant_modulo}"


def to_events(life: Life, reading: Reading) -> Iterator[TimedEvent]:
    """The events of a life with their instants, in order. Ids follow from the row: a second import repeats them."""
    writer = EventWriter(reading.region, reading.source)
    configuration = configure(life.gpu_count, life.gpu_sku, life.storage_gb)
    facts: tuple[tuple[str, int | None, dict[str, Any]], ...] = (
        ("created", life.created_us, configuration),
        ("started", life.started_us, {}),
        ("deleted", life.deleted_us, {}),
    )
    told = [fact for fact in facts if fact[1] is not None]
    for sequence, (verb, time_us, stated) in enumerate(told, 1):
        assert time_us is not None
        data = {"tenant_id": life.tenant_id, "sequence": sequence, **stated}
        yield writer.write(f"{life.name}/{verb}", verb, life.name, time_us, data)
