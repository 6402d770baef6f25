"""Records that must charge nobody, stop nobody and not disappear; each with what becomes of it and how to mend it."""

import json
from dataclasses import dataclass
from typing import Any, Literal

from tests.fleet.making import SECOND_US, Event, timestamp

Fate = Literal["dead", "waits", "counts", "passed over"]
MESSAGE_BYTES = 10_000_000


@dataclass(frozen=True)
class Hostile:
    """A record as bytes.

    `fate`: it becomes a dead letter, waits (for its creation, for a price), counts like any other, or is passed over
    for its unknown type. `mended` replaces it so that all is as if it had come right in the first place; None if what
    it says is refused for good.
    """

    name: str
    value: bytes | None
    fate: Fate
    headers: tuple[tuple[str, bytes | None], ...] = ()
    key: bytes | None = None
    mended: Event | None = None
    usage: bool = False


def _encode(event: Event) -> bytes:
    return json.dumps(event).encode()


def hostile_records(region: str, tenant: str, now_us: int) -> list[Hostile]:
    """All of them, about containers of their own (`bad-…`) of one tenant, at an instant shortly before `now_us`.

    Every mended record creates a container that runs from a minute before `now_us` on.
    """

    def event(name: str, kind: str = "container.created", **data: Any) -> Event:
        configuration = {"gpu_sku": "a30", "gpu_count": 1, "persistent_storage_gb": 10}
        return {
            "specversion": "1.0",
            "id": f"bad-{name}-{kind}",
            "source": f"platform/{region}",
            "type": kind,
            "subject": f"bad-{name}",
            "time": timestamp(now_us - 60 * SECOND_US),
            "data": {"region": region, "tenant_id": tenant, **configuration, **data},
        }

    def changed(name: str, **attributes: Any) -> Event:
        return {**event(name), **attributes}

    names = ("cut", "negative", "region", "long-ago", "far", "huge", "binary", "latin", "twice", "grown")
    good = {name: event(name) for name in names}
    return [
        Hostile("cut short", _encode(good["cut"])[:-20], "dead", mended=good["cut"]),
        Hostile("not UTF-8", _encode(good["latin"]).replace(b"a30", b"a\xff\xfe0"), "dead", mended=good["latin"]),
        Hostile("no value", None, "dead", key=b"ctr-1"),
        Hostile("empty value", b"", "dead"),
        Hostile("an array", b"[1,2,3]", "dead"),
        Hostile("a bare number", b"17", "dead"),
        Hostile("deep", b"[" * 100_000, "dead"),
        Hostile("NUL in an id", _encode(changed("nul", id="a\x00b")), "dead"),
        Hostile("a float of GPUs", _encode(event("float", gpu_count=1.5)), "dead"),
        Hostile("GPUs beyond counting", _encode(event("many", gpu_count=2**70)), "dead"),
        Hostile("unknown type", _encode(changed("type", type="container.exploded")), "passed over"),
        Hostile("no tenant", _encode(event("tenant", tenant_id="")), "dead"),
        Hostile(
            "negative size", _encode(event("negative", persistent_storage_gb=-10)), "dead", mended=good["negative"]
        ),
        Hostile("another region", _encode(event("region", region="mars")), "dead", mended=good["region"]),
        Hostile("1970", _encode(changed("long-ago", time="1970-01-01T00:00:00Z")), "dead", mended=good["long-ago"]),
        Hostile("the year 3000", _encode(changed("far", time="3000-01-01T00:00:00Z")), "dead", mended=good["far"]),
        Hostile("no such day", _encode(changed("day", time="2026-02-30T00:00:00Z")), "dead"),
        Hostile("10 MB", _encode(event("huge", labels={"x": "y" * MESSAGE_BYTES})), "dead", mended=good["huge"]),
        Hostile("unknown SKU", _encode(event("sku", gpu_sku="unheard-of", persistent_storage_gb=0)), "waits"),
        Hostile("never created", _encode(event("orphan", kind="container.started")), "waits"),
        Hostile("null header", _encode(good["binary"]), "counts", headers=(("traceparent", None), ("x", b"\xff\xfe"))),
        Hostile("a key twice", _twice(good["twice"]), "dead", mended=good["twice"]),
        Hostile("NUL in a field that nobody knows", _encode(changed("note", note="a\x00b")), "dead"),
        Hostile("seconds for a time", _encode(changed("seconds", time=now_us // SECOND_US)), "dead"),
        Hostile("a later version's", _encode(grown_by_a_later_version(good["grown"])), "counts", headers=_STRUCTURED),
        Hostile("binary without id", b"{}", "dead", headers=(("ce_specversion", b"1.0"), ("ce_id", None))),
        Hostile("usage of less than nothing", _encode(_usage(region, tenant, now_us, -5)), "dead", usage=True),
        Hostile("usage backwards", _encode(_usage(region, tenant, now_us, 5, backwards=True)), "dead", usage=True),
    ]


# A relay's leftover: the content type says where the attributes are.
_STRUCTURED = (("content-type", b"application/cloudevents+json; charset=UTF-8"), ("ce_specversion", b"0.3"))


def _twice(event: Event) -> bytes:
    """An event that names its tenant twice: which one is charged, no two readers would agree."""
    return _encode(event).replace(b'"data": {', b'"data": {"tenant_id": "somebody-else", ')


def grown_by_a_later_version(event: Event) -> Event:
    """The same with fields and extensions that nobody knows yet."""
    data = {**event["data"], "zone": {"name": "a", "racks": [1, 2]}}
    return {**event, "data": data, "traceparent": "00-1-2-01", "datacontenttype": "application/json; charset=utf-8"}


def _usage(region: str, tenant: str, now_us: int, quantity: int, *, backwards: bool = False) -> Event:
    from_us = now_us - 60 * SECOND_US
    to_us = from_us - SECOND_US if backwards else from_us + SECOND_US
    data = {"sku": "tokens", "quantity": quantity, "from": timestamp(from_us), "to": timestamp(to_us)}
    return {
        "specversion": "1.0",
        "id": f"bad-usage-{quantity}",
        "source": f"inference/{region}",
        "type": "service.usage",
        "time": timestamp(from_us),
        "data": {"region": region, "tenant_id": tenant, **data},
    }
