"""Fleets: what the platforms of two regions say of their containers and volumes over some hours."""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

SECOND_US = 1_000_000
HOUR_US = 3600 * SECOND_US

Event = dict[str, Any]

REGIONS: dict[str, dict[str, Any]] = {
    "vn": {"currency": "VND", "slot_seconds": 60, "opened_at": "2020-01-01T00:00:00Z", "grace_seconds": 86400},
    "jp": {"currency": "JPY", "slot_seconds": 7, "opened_at": "2020-01-01T00:00:00Z", "grace_seconds": 86400},
}
GPUS = ("h100-sxm", "a30", "l4", "never-priced")
SERVICES = ("tokens", "images")


def timestamp(instant_us: int) -> str:
    """RFC 3339 with a fraction only where there is one."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=instant_us)
    return moment.replace(tzinfo=None).isoformat() + "Z"


@dataclass(frozen=True)
class Fleet:
    """`events` in the order of their times; `books` in the order in which they are to be published."""

    regions: dict[str, dict[str, Any]]
    books: tuple[dict[str, Any], ...]
    events: tuple[Event, ...]
    start_us: int
    end_us: int

    @property
    def accounts(self) -> list[tuple[str, str]]:
        return sorted({(event["data"]["region"], event["data"]["tenant_id"]) for event in self.events})

    def lines(self) -> list[str]:
        return lines_of(self.events)


def lines_of(events: Sequence[Event]) -> list[str]:
    return [json.dumps(event, separators=(",", ":")) for event in events]


def make_books(start_us: int, hours: int) -> tuple[dict[str, Any], ...]:
    """Prices with awkward micros; while the fleet lives one book repeats prices, one changes some, one changes back."""
    base: dict[str, Any] = {
        "gpu": {"h100-sxm": "2.541007", "a30": "0.67", "l4": "0.335"},
        "storage": {"persistent": "0.000131"},
        "services": {
            "tokens": {"unit": "1000-tokens", "price": "0.000407"},
            "images": {"unit": "image", "price": "0.03"},
        },
    }
    books: list[dict[str, Any]] = []
    for region in REGIONS:
        books.append({"region": region, "effective_from": timestamp(start_us - HOUR_US), **base})
        quarter_us = hours * HOUR_US // 4
        repeated = {"gpu": {"h100-sxm": "2.541007"}, "storage": base["storage"]}
        changed = {"gpu": {"h100-sxm": "2.6", "a30": "0.5"}, "services": {"images": {"unit": "image", "price": "0.04"}}}
        back = {"gpu": {"h100-sxm": "2.541007"}, "storage": {"persistent": "0.0002"}}
        for number, prices in enumerate((repeated, changed, back), start=1):
            # Odd seconds: prices change within slots, and slots go by their start.
            effective_us = start_us + number * quarter_us + number * 17 * SECOND_US
            books.append({"region": region, "effective_from": timestamp(effective_us), **prices})
    return tuple(books)


class Teller:
    """What a platform says of one container: from which source, at which instant, with which number and run."""

    def __init__(self, draw: random.Random, platform: str, *, careless: bool) -> None:
        self._draw = draw
        self._sources = [platform, f"{platform}/agent"] if careless and draw.random() < 0.5 else [platform]
        ways = ("together", "never", "apart", "now and then") if careless else ("together", "never")
        self._numbers = draw.choice(ways)
        self._names_runs = careless and draw.random() < 0.5
        self._steps = careless and draw.random() < 0.3
        self._offset_us = 0
        self._runs = 0
        self._next: dict[str, int] = {}

    def tell(self, position: int, verb: str, at_us: int) -> tuple[str, int, dict[str, Any]]:
        """(source, what its clock says, data beyond the configuration)."""
        draw = self._draw
        source = draw.choice(self._sources)
        extra: dict[str, Any] = {}
        if self._numbers == "together" or (self._numbers == "now and then" and draw.random() < 0.5):
            extra["sequence"] = position
        elif self._numbers == "apart":
            extra["sequence"] = self._next[source] = self._next.get(source, 0) + 1
        # Now and then a platform gives a run the name of the one before.
        self._runs += verb == "started" and draw.random() < 0.9
        if self._names_runs and verb in ("started", "stopped") and draw.random() < 0.9:
            extra["run_id"] = f"run-{self._runs if draw.random() < 0.95 else 99}"
        if self._steps and draw.random() < 0.3:
            self._offset_us = -draw.choice([0, 1, 90, 3000]) * SECOND_US
        if draw.random() < 0.1 and position:
            # A producer's clock that runs behind: before its creation, or before what it followed.
            at_us -= draw.choice([1, 30, 90]) * SECOND_US
        return source, at_us + self._offset_us, extra


def amending(event: Event, target: Event) -> Event:
    """The event, in place of an earlier one."""
    reference = {"source": target["source"], "id": target["id"]}
    return {**event, "data": {**event["data"], "replaces": reference}}


def retracting(target: Event) -> Event:
    """The word that an event never was."""
    data = {name: target["data"][name] for name in ("region", "tenant_id")}
    return amending({**target, "id": f"{target['id']}-retracted", "type": "event.retracted", "data": data}, target)


@dataclass(frozen=True)
class Maker:
    """Draws the lives of a fleet in [start_us, end_us)."""

    draw: random.Random
    start_us: int
    end_us: int
    tenants: int
    careless: float = 0.5

    def owner(self) -> tuple[str, str]:
        return self.draw.choice(list(REGIONS)), f"tenant-{self.draw.randrange(self.tenants)}"

    def instant(self, from_us: int) -> int:
        """An instant from then on: mostly whole seconds, sometimes microseconds, sometimes the same one again."""
        span_us = max(self.end_us - from_us, 1)
        step_us = self.draw.choice(
            [0, 1, 250_000, SECOND_US, 7 * SECOND_US, 60 * SECOND_US, span_us // 9, span_us // 3]
        )
        at_us = from_us + (self.draw.randrange(step_us) if step_us > 1 else step_us)
        return at_us if self.draw.random() < 0.2 else at_us // SECOND_US * SECOND_US

    def container(self, number: int) -> Iterator[Event]:
        """Created, then started, stopped and resized a few times, often within one slot; then perhaps deleted.

        Half of the platforms are careless: restarts within one tick of their clock, clocks that are set back, several
        sources that number their events together, apart, now and then or never, runs with names and without, stops
        that end no run, and news of what is deleted.
        """
        region, tenant = self.owner()
        subject, gpu_count = f"ctr-{number}", self.draw.choice([0, 1, 1, 2, 8])
        configuration: dict[str, Any] = {"gpu_count": gpu_count, "persistent_storage_gb": self.draw.choice([0, 1, 500])}
        if gpu_count:
            configuration["gpu_sku"] = self.draw.choices(GPUS, (4, 4, 3, 1))[0]
        careless = self.draw.random() < self.careless
        made = [("created", self.instant(self.start_us), configuration), *self._later(careless=careless)]
        made = [made[0], *((verb, max(at_us, made[0][1]), data) for verb, at_us, data in made[1:])]
        teller = Teller(self.draw, f"platform/{region}", careless=careless)
        for position, (verb, at_us, data) in enumerate(made):
            source, said_us, extra = teller.tell(position, verb, at_us)
            name = f"{subject}-{position}"
            made_event = self.event(f"container.{verb}", name, subject, region, tenant, said_us, {**data, **extra})
            yield from self.said({**made_event, "source": source}, amends=careless)

    def said(self, event: Event, *, amends: bool) -> Iterator[Event]:
        """An event, or a wrong one and what was said later to put it right, once or twice."""
        if not amends or self.draw.random() > 0.15:
            yield event
            return
        wrong = {**event, "id": f"{event['id']}-wrong", "time": self.draw.choice([event["time"], self._other_time()])}
        if "gpu_count" in event["data"]:
            wrong["data"] = {**event["data"], "gpu_count": event["data"]["gpu_count"] ^ 1}
            wrong["data"].setdefault("gpu_sku", "a30")
        yield wrong
        if self.draw.random() < 0.3:
            worse = amending({**wrong, "id": f"{event['id']}-worse", "time": self._other_time()}, wrong)
            yield worse
            wrong = worse
        yield amending(event, wrong)
        if self.draw.random() < 0.3 and event["type"] != "container.created":
            stray = {**event, "id": f"{event['id']}-stray", "time": self._other_time()}
            stray["data"] = {name: value for name, value in event["data"].items() if name != "sequence"}
            yield stray
            yield retracting(stray)

    def _other_time(self) -> str:
        return timestamp(self.instant(self.start_us))

    def _later(self, *, careless: bool) -> list[tuple[str, int, dict[str, Any]]]:
        """What happens after the creation: (verb, instant, data) in the order in which it really happens."""
        at_us = self.instant(self.start_us)
        later: list[tuple[str, int, dict[str, Any]]] = []
        for _ in range(self.draw.randrange(9)):
            at_us = max(self.instant(at_us), at_us)
            if careless and self.draw.random() < 0.3:
                at_us = at_us // SECOND_US * SECOND_US
                later += [("stopped", at_us, {}), ("started", at_us, {})]
                continue
            verb = self.draw.choices(("started", "stopped", "resized"), (4, 3, 2))[0]
            later.append((verb, at_us, self.resize() if verb == "resized" else {}))
        if self.draw.random() < 0.5:
            later.append(("deleted", max(self.instant(at_us), at_us), {}))
            if careless and self.draw.random() < 0.3:
                later.append(("started", at_us + 90 * SECOND_US, {}))
        return later

    def resize(self) -> dict[str, Any]:
        change: dict[str, Any] = {}
        if self.draw.random() < 0.6:
            change["gpu_count"] = self.draw.choice([0, 1, 2, 4])
        if self.draw.random() < 0.4:
            change["gpu_sku"] = self.draw.choice(GPUS)
        if self.draw.random() < 0.4 or not change:
            change["persistent_storage_gb"] = self.draw.choice([0, 3, 40, 500])
        return change

    def volume(self, number: int) -> Iterator[Event]:
        region, tenant = self.owner()
        subject, at_us = f"vol-{number}", self.instant(self.start_us)
        yield self.event("volume.created", f"{subject}-0", subject, region, tenant, at_us, {"size_gb": 100})
        for position in range(1, self.draw.randrange(1, 4)):
            at_us = max(self.instant(at_us), at_us)
            size = {"size_gb": self.draw.choice([0, 10, 250])}
            yield self.event("volume.resized", f"{subject}-{position}", subject, region, tenant, at_us, size)
        if self.draw.random() < 0.5:
            yield self.event(
                "volume.deleted", f"{subject}-9", subject, region, tenant, max(self.instant(at_us), at_us), {}
            )

    def usage(self, number: int) -> Event:
        region, tenant = self.owner()
        from_us = self.instant(self.start_us)
        data = {
            "sku": self.draw.choice(SERVICES),
            "quantity": self.draw.choice([1, 7, 333, 12_345]),
            "from": timestamp(from_us),
            "to": timestamp(from_us + SECOND_US),
        }
        event = self.event("service.usage", f"usage-{number}", "", region, tenant, from_us, data)
        del event["subject"]
        return event

    def usages(self, event: Event) -> Iterator[Event]:
        """A record, which may have been wrong at first, or be taken out again."""
        if self.draw.random() < 0.4 * self.careless:
            wrong = {**event, "id": f"{event['id']}-wrong", "data": {**event["data"], "quantity": 999}}
            yield from (wrong, amending(event, wrong))
        else:
            yield event
        if self.draw.random() < 0.2 * self.careless:
            stray = {**event, "id": f"{event['id']}-stray"}
            yield from (stray, retracting(stray))

    def event(
        self, kind: str, event_id: str, subject: str, region: str, tenant: str, at_us: int, data: dict[str, Any]
    ) -> Event:
        return {
            "specversion": "1.0",
            "id": event_id,
            "source": f"platform/{region}",
            "type": kind,
            "subject": subject,
            "time": timestamp(at_us),
            "datacontenttype": "application/json",
            "data": {"region": region, "tenant_id": tenant, **data},
        }


def make_fleet(
    seed: int,
    start_us: int,
    *,
    hours: int = 4,
    tenants: int = 4,
    containers: int = 40,
    volumes: int = 8,
    usages: int = 30,
    careless: float = 0.5,
) -> Fleet:
    """A fleet that lives for `hours` from `start_us` on; no conflicts in it, so any order gives the same totals.

    `careless` is the share of platforms whose events come wrong, twice numbered, unordered, and are amended.
    """
    maker = Maker(random.Random(seed), start_us, start_us + hours * HOUR_US, tenants, careless)
    events: list[Event] = []
    for number in range(containers):
        events += maker.container(number)
    for number in range(volumes):
        events += maker.volume(number)
    for number in range(usages):
        events += maker.usages(maker.usage(number))
    events.sort(key=lambda event: (event["time"].ljust(27, "0"), event["id"]))
    return Fleet(REGIONS, make_books(start_us, hours), tuple(events), start_us, maker.end_us)
