"""The event file: which lines count, and which are left out and why."""

import gzip
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.oracle.instants import instant

FUTURE_US = 5 * 60 * 1_000_000
# The contract's limits: a longer event is refused, and so is a name of another shape.
LINE_BYTES_MAX = 256 * 1024
_COUNT_MAX = {"gpu_count": 4096, "persistent_storage_gb": 100_000_000, "size_gb": 100_000_000, "quantity": 10**15}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)

_FIRST_US, _LAST_US = instant("2000-01-01T00:00:00Z"), instant("2200-01-01T00:00:00Z")

CONTAINER = ("container.created", "container.started", "container.resized", "container.stopped", "container.deleted")
RETRACTED = "event.retracted"
VOLUME = ("volume.created", "volume.resized", "volume.deleted")


@dataclass(frozen=True)
class LeftOut:
    """A line of the file (1 is the first) that charges nothing, and why."""

    line: int
    reason: str
    what: str = ""


@dataclass(frozen=True)
class Fact:
    """One lifecycle event."""

    line: int
    source: str
    event_id: str
    family: str
    verb: str
    region: str
    subject: str
    tenant_id: str
    time_us: int
    sequence: int | None
    gpu_sku: str | None
    gpu_count: int | None
    storage_gb: int | None
    admission_id: str | None = None
    run_id: str | None = None
    replaces: tuple[str, str] | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.source, self.event_id

    def content(self) -> tuple[object, ...]:
        """What must be equal for a repeat to be a repeat."""
        return (
            *(self.family, self.verb, self.region, self.subject, self.tenant_id, self.time_us, self.sequence),
            *(self.gpu_sku, self.gpu_count, self.storage_gb, self.admission_id, self.run_id),
            self.replaces,
        )


@dataclass(frozen=True)
class Usage:
    """A quantity of a service's SKU; without a SKU it only takes out what it replaces."""

    line: int
    source: str
    event_id: str
    region: str
    tenant_id: str
    sku: str
    quantity: int
    from_us: int
    to_us: int
    time_us: int
    replaces: tuple[str, str] | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.source, self.event_id

    def content(self) -> tuple[object, ...]:
        return self.region, self.tenant_id, self.sku, self.quantity, self.from_us, self.to_us, self.replaces


@dataclass(frozen=True)
class Page:
    """One page of a source's complete listing of its resources."""

    line: int
    source: str
    region: str
    snapshot: str
    page: int
    pages: int
    time_us: int
    resource_ids: tuple[str, ...]


class UnreadableError(Exception):
    """The line is no event; the message is the reason."""


def _text(holder: Mapping[str, Any], name: str) -> str:
    value = holder.get(name)
    if not isinstance(value, str) or not value or len(value) > 200 or not value.isprintable():
        raise UnreadableError(f"{name} is missing or no text")
    return value


def _name(holder: Mapping[str, Any], name: str) -> str:
    value = _text(holder, name)
    if _NAME.fullmatch(value) is None:
        raise UnreadableError(f"{name} is no name")
    return value


def _count(holder: Mapping[str, Any], name: str) -> int | None:
    value = holder.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _COUNT_MAX.get(name, 2**62):
        raise UnreadableError(f"{name} is no whole number of at least 0")
    return value


def _moment(holder: Mapping[str, Any], name: str) -> int:
    try:
        found = instant(holder.get(name))
    except ValueError as error:
        raise UnreadableError(f"{name}: {error}") from error
    if not _FIRST_US <= found < _LAST_US:
        raise UnreadableError(f"{name} is not between the years 2000 and 2200")
    return found


def _one_of_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise UnreadableError("duplicate key")
    return found


def _holds_null(value: Any) -> bool:
    if isinstance(value, dict):
        return any("\0" in name or _holds_null(item) for name, item in value.items())
    if isinstance(value, list):
        return any(map(_holds_null, value))
    return isinstance(value, str) and "\0" in value


def read_line(number: int, text: str | bytes) -> Fact | Usage | Page:
    """Raises UnreadableError."""
    if len(text if isinstance(text, bytes) else text.encode()) > LINE_BYTES_MAX:
        raise UnreadableError("too large")
    try:
        event = json.loads(text, object_pairs_hook=_one_of_each)
    except (ValueError, RecursionError) as error:
        raise UnreadableError("not JSON") from error
    if _holds_null(event):
        raise UnreadableError("null character")
    if not isinstance(event, dict) or not isinstance(event.get("data"), dict) or event.get("specversion") != "1.0":
        raise UnreadableError("no CloudEvent")
    kind, data = event.get("type"), event["data"]
    if kind == "service.usage":
        return _usage(number, event, data)
    if kind == "inventory.observed":
        return _page(number, event, data)
    if kind == RETRACTED:
        if "replaces" not in data:
            raise UnreadableError("a retraction names what it takes out")
        return _fact(number, event, data) if "subject" in event else _usage(number, event, data)
    if kind in CONTAINER or kind in VOLUME:
        return _fact(number, event, data)
    raise UnreadableError("unknown type")


def _fact(number: int, event: Mapping[str, Any], data: Mapping[str, Any]) -> Fact:
    family, verb = event["type"].split(".")
    gpu_count = _count(data, "gpu_count")
    gpu_sku = None if data.get("gpu_sku") is None else _name(data, "gpu_sku")
    size = _count(data, "size_gb") if family == "volume" else _count(data, "persistent_storage_gb")
    if family == "container" and verb == "created" and (gpu_count is None or (gpu_count and not gpu_sku)):
        raise UnreadableError("a container is created with gpu_count and, if that is not 0, gpu_sku")
    if family == "volume" and verb != "deleted" and size is None:
        raise UnreadableError("size_gb is missing")
    if family == "container" and verb == "resized" and gpu_count is None and gpu_sku is None and size is None:
        raise UnreadableError("resized says nothing")
    configures = verb in ("created", "resized")
    return Fact(
        number,
        _text(event, "source"),
        _text(event, "id"),
        family,
        verb,
        _name(data, "region"),
        _text(event, "subject"),
        _name(data, "tenant_id"),
        _moment(event, "time"),
        _count(data, "sequence"),
        gpu_sku if configures and family == "container" else None,
        gpu_count if configures and family == "container" else None,
        size if configures else None,
        data.get("admission_id"),
        None if data.get("run_id") is None else _text(data, "run_id"),
        _replaced(event, data),
    )


def _replaced(event: Mapping[str, Any], data: Mapping[str, Any]) -> tuple[str, str] | None:
    target = data.get("replaces")
    if target is None:
        return None
    if not isinstance(target, dict):
        raise UnreadableError("replaces names a source and an id")
    key = _text(target, "source"), _text(target, "id")
    if key == (event.get("source"), event.get("id")):
        raise UnreadableError("an event can't replace itself")
    return key


def _usage(number: int, event: Mapping[str, Any], data: Mapping[str, Any]) -> Usage:
    if event["type"] == RETRACTED:
        at_us = _moment(event, "time")
        head = number, _text(event, "source"), _text(event, "id"), _name(data, "region"), _name(data, "tenant_id")
        return Usage(*head, "", 0, at_us, at_us, at_us, replaces=_replaced(event, data))
    quantity = _count(data, "quantity")
    from_us, to_us = _moment(data, "from"), _moment(data, "to")
    if quantity is None or to_us < from_us:
        raise UnreadableError("usage has a quantity and an interval that goes forward")
    return Usage(
        number,
        _text(event, "source"),
        _text(event, "id"),
        _name(data, "region"),
        _name(data, "tenant_id"),
        _name(data, "sku"),
        quantity,
        from_us,
        to_us,
        _moment(event, "time"),
        _replaced(event, data),
    )


def _page(number: int, event: Mapping[str, Any], data: Mapping[str, Any]) -> Page:
    page, pages, resources = _count(data, "page"), _count(data, "pages"), data.get("resources")
    if page is None or pages is None or not 1 <= page <= pages or not isinstance(resources, list):
        raise UnreadableError("a listing has resources and page 1 to pages")
    return Page(
        number,
        _text(event, "source"),
        _name(data, "region"),
        _text(data, "snapshot"),
        page,
        pages,
        _moment(event, "time"),
        tuple(_text(resource, "resource_id") for resource in resources),
    )


@dataclass
class Reading:
    """What a file says: lifecycle facts per (region, resource), usage, listings, and what was left out."""

    facts: dict[tuple[str, str], list[Fact]]
    usage: list[Usage]
    pages: list[Page]
    left_out: list[LeftOut]

    def take(self, item: Fact | Usage) -> None:
        if isinstance(item, Fact):
            self.facts.setdefault((item.region, item.subject), []).append(item)
        else:
            self.usage.append(item)


def read_lines(lines: Iterable[str | bytes], regions: Mapping[str, Mapping[str, Any]], now_us: int) -> Reading:
    """`regions` are a deployment's settings; what lies more than five minutes after `now_us` has not happened yet."""
    reading = Reading({}, [], [], [])
    known: dict[tuple[type, str, str], tuple[object, ...]] = {}
    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            item = read_line(number, text)
        except UnreadableError as error:
            reading.left_out.append(LeftOut(number, str(error)))
            continue
        reason = _misplaced(item, regions, now_us)
        if reason is not None:
            reading.left_out.append(LeftOut(number, reason))
        elif isinstance(item, Page):
            reading.pages.append(item)
        elif (name := (type(item), item.source, item.event_id)) in known:
            # The first use of a (source, id) gives it its meaning; the same again is nothing new.
            if known[name] != item.content():
                reading.left_out.append(LeftOut(number, "conflict: same id, other content"))
        else:
            known[name] = item.content()
            reading.take(item)
    return reading


def _misplaced(item: Fact | Usage | Page, regions: Mapping[str, Mapping[str, Any]], now_us: int) -> str | None:
    if item.region not in regions:
        return "unknown region"
    first_us, last_us = (item.from_us, item.to_us) if isinstance(item, Usage) else (item.time_us, item.time_us)
    if first_us < instant(regions[item.region]["opened_at"]):
        return "before the region opened"
    if last_us > now_us + FUTURE_US:
        return "in the future"
    return None


def lines_of(path: Path) -> Iterator[bytes]:
    """The lines of a file, which may be gzipped."""
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        yield from file
