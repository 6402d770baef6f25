"""Rows of a cluster's job or pod trace as the lives of containers: pure reading, no files."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from shared.clock import SECOND_US, format_instant

NAME_BYTES_MAX = 190
_WHOLE = re.compile(r"(\d{1,15})(?:\.0*)?", re.ASCII)
_DECIMAL = re.compile(r"(\d{1,15})(?:\.(\d*))?", re.ASCII)
_LAST_NUMBER = re.compile(r"(\d+)\D*\Z", re.ASCII)
_SKU = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_TENANT = _SKU
_OFFSET_US_MAX = 200 * 366 * 86_400 * SECOND_US


class RowError(ValueError):
    """The row makes no sense; says why."""


class TimeUnit(StrEnum):
    """The unit in which a trace counts from its start."""

    SECONDS = "s"
    MILLISECONDS = "ms"
    MICROSECONDS = "us"

    @property
    def us(self) -> int:
        return {TimeUnit.SECONDS: SECOND_US, TimeUnit.MILLISECONDS: 1000, TimeUnit.MICROSECONDS: 1}[self]


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
    """Which column of the trace holds what; None where the trace has no such column."""

    id: str
    created: str
    started: str
    deleted: str
    gpu_count: str
    gpu_sku: str | None
    storage: str | None
    tenant: str | None

    def named(self) -> list[str]:
        """The columns that must be there."""
        names = (self.id, self.created, self.started, self.deleted, self.gpu_count)
        return [*names, *(name for name in (self.gpu_sku, self.storage, self.tenant) if name is not None)]


@dataclass(frozen=True, slots=True)
class Reading:
    """How a trace is read: `gpu_sku` stands where its column is blank; `tenant_modulo` where there is no tenant."""

    columns: Columns
    start_us: int
    origin_us: int
    time_unit: TimeUnit
    region: str
    source: str
    gpu_sku: str | None
    storage_unit: SizeUnit
    tenant_modulo: int | None


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


def read_life(row: Mapping[str | None, Any], reading: Reading) -> Life:
    """Read one row. Raises RowError with what makes no sense."""
    columns = reading.columns
    if None in row:
        raise RowError("the row has more fields than the header")
    name = _cell(row, columns.id)
    if not name or len(name.encode()) > NAME_BYTES_MAX or not name.isprintable():
        raise RowError(f"{columns.id} {name[:40]!r} is no name of a resource")
    created_us = _instant(row, columns.created, reading)
    if created_us is None:
        raise RowError(f"{columns.created} is empty: a container is created at some time")
    started_us = _instant(row, columns.started, reading)
    deleted_us = _instant(row, columns.deleted, reading)
    _check_order(columns, created_us, started_us, deleted_us)
    gpu_count = _whole(row, columns.gpu_count)
    return Life(
        name=name,
        tenant_id=_tenant(row, name, reading),
        gpu_sku=_sku(row, reading) if gpu_count else None,
        gpu_count=gpu_count,
        storage_gb=0 if columns.storage is None else reading.storage_unit.to_gb(_whole(row, columns.storage)),
        created_us=created_us,
        started_us=started_us,
        deleted_us=deleted_us,
    )


def _check_order(columns: Columns, created_us: int, started_us: int | None, deleted_us: int | None) -> None:
    if started_us is not None and started_us < created_us:
        raise RowError(f"{columns.started} is before {columns.created}")
    if deleted_us is not None and deleted_us < created_us:
        raise RowError(f"{columns.deleted} is before {columns.created}")
    if deleted_us is not None and started_us is not None and deleted_us < started_us:
        raise RowError(f"{columns.deleted} is before {columns.started}")


def _cell(row: Mapping[str | None, Any], column: str) -> str:
    value = row[column]
    if value is None:
        raise RowError(f"the row ends before {column}")
    return str(value).strip()


def _whole(row: Mapping[str | None, Any], column: str) -> int:
    text = _cell(row, column)
    found = _WHOLE.fullmatch(text)
    if found is None:
        raise RowError(f"{column} {text[:40]!r} is no whole number")
    return int(found.group(1))


def _instant(row: Mapping[str | None, Any], column: str, reading: Reading) -> int | None:
    """An offset in the trace's unit as an instant; parts below a microsecond are cut off; blank is None."""
    text = _cell(row, column)
    if not text:
        return None
    found = _DECIMAL.fullmatch(text)
    if found is None:
        raise RowError(f"{column} {text[:40]!r} is no time since the trace's start")
    digits = found.group(2) or ""
    offset_us: int = (int(found.group(1) + digits) * reading.time_unit.us) // 10 ** len(digits) - reading.origin_us
    if not 0 <= offset_us <= _OFFSET_US_MAX:
        raise RowError(f"{column} {text[:40]!r} is before the trace's start or centuries after it")
    return reading.start_us + offset_us


def _sku(row: Mapping[str | None, Any], reading: Reading) -> str:
    column = reading.columns.gpu_sku
    sku = (_cell(row, column) if column is not None else "") or reading.gpu_sku
    if sku is None:
        raise RowError(f"{column} is empty; give --gpu-sku for such rows")
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


def to_events(life: Life, reading: Reading) -> Iterator[tuple[int, dict[str, Any]]]:
    """The events of a life with their instants, in order. Ids follow from the row: a second import repeats them."""
    owner = {"region": reading.region, "tenant_id": life.tenant_id}
    configuration: dict[str, Any] = {"gpu_count": life.gpu_count, "persistent_storage_gb": life.storage_gb}
    if life.gpu_sku is not None:
        configuration["gpu_sku"] = life.gpu_sku
    facts: tuple[tuple[str, int | None, dict[str, Any]], ...] = (
        ("created", life.created_us, configuration),
        ("started", life.started_us, {}),
        ("deleted", life.deleted_us, {}),
    )
    sequence = 0
    for verb, time_us, stated in facts:
        if time_us is None:
            continue
        sequence += 1
        yield (
            time_us,
            {
                "specversion": "1.0",
                "id": f"{life.name}/{verb}",
                "source": reading.source,
                "type": f"container.{verb}",
                "subject": life.name,
                "time": format_instant(time_us),
                "datacontenttype": "application/json",
                "data": {**owner, "sequence": sequence, **stated},
            },
        )
