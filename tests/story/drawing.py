"""Stories: what happens to the platforms, the tenants and the machines over three days, drawn from one number.

The same seed draws the same story, whatever the machine does. A story is a value; `playing.py` carries it out.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.fleet.making import HOUR_US, SECOND_US, Event, make_books, timestamp
from tests.story.bad_rows import BAD_ROWS

MINUTE_US = 60 * SECOND_US
SERVICES = ("metering", "balance", "payment", "enforcement")
GPUS = ("h100-sxm", "a30", "l4")
TENANTS = 5
STEPS = 14

Account = tuple[str, str]
Trouble = Literal["pause", "kill", "cut", "garbage", "aborted", "repeat", "back up", "restore", "consent", "bad row"]


@dataclass(frozen=True)
class Credit:
    account: Account
    amount_micros: int
    key: str


@dataclass(frozen=True)
class TroubleAt:
    """`target` is a process ("metering-2") for pause and kill, a service for all else."""

    kind: Trouble
    target: str = ""


@dataclass(frozen=True)
class Step:
    """The platforms publish `events`, then the clock moves to `at_us`; troubles begin before and end after it."""

    at_us: int
    events: tuple[Event, ...]
    credits: tuple[Credit, ...]
    troubles: tuple[TroubleAt, ...]
    waits: bool


@dataclass(frozen=True)
class Story:
    seed: int
    start_us: int
    books: tuple[dict[str, Any], ...]
    steps: tuple[Step, ...]
    obedience: float


def draw_story(seed: int, start_us: int) -> Story:
    draw = random.Random(seed)
    clock = _draw_clock(draw, start_us)
    planned: dict[int, list[Event]] = {number: [] for number in range(len(clock))}
    for number in range(TENANTS):
        region = draw.choice(("vn", "jp"))
        # Two regions share names: `t0` of vn and `t0` of jp are two accounts.
        tenant = f"s{seed}-t{number // 2}"
        for event in _Life(draw, region, tenant, f"s{seed}-{number}", start_us, clock[-1]).events():
            planned[_step_of(draw, event, clock)].append(event)
    restores = _draw_restore(draw)
    # Drawn by itself, so that a story without it is the same story.
    consent = random.Random(seed + 1_000_003)
    withdrawn = [(consent.randrange(STEPS), TroubleAt("consent"))] if consent.random() < 0.5 else []
    besides = (*restores, *withdrawn, *_draw_bad_rows(random.Random(seed + 2_000_003)))
    steps = tuple(
        Step(
            at_us,
            tuple(planned[number]),
            tuple(_draw_credits(draw, seed, number)),
            (*_draw_troubles(draw), *(trouble for at, trouble in besides if at == number)),
            draw.random() < 0.6,
        )
        for number, at_us in enumerate(clock)
    )
    return Story(seed, start_us, make_books(start_us, 60), steps, draw.choice((1.0, 0.7, 0.3)))


def _draw_clock(draw: random.Random, start_us: int) -> list[int]:
    at_us, clock = start_us, []
    for _ in range(STEPS):
        at_us += draw.choice((7 * MINUTE_US, HOUR_US, 3 * HOUR_US, 9 * HOUR_US)) + draw.randrange(90) * SECOND_US
        clock.append(at_us)
    return clock


def _step_of(draw: random.Random, event: Event, clock: list[int]) -> int:
    """The step that delivers an event: the one that its time lies in, or for a late one a later step."""
    due = next((number for number, at_us in enumerate(clock) if event["time"] <= timestamp(at_us)), len(clock) - 1)
    late = draw.random() < 0.12
    return min(due + draw.randrange(1, 4), len(clock) - 1) if late else due


def _draw_credits(draw: random.Random, seed: int, step: int) -> Iterator[Credit]:
    for region in ("vn", "jp"):
        for number in range((TENANTS + 1) // 2):
            account = region, f"s{seed}-t{number}"
            if step == 0 or draw.random() < 0.08:
                amount = draw.choice((1_000_000, 20_000_000, 400_000_000)) + draw.randrange(1_000_000)
                yield Credit(account, amount, f"s{seed}-{step}-{region}-{number}")


def _draw_troubles(draw: random.Random) -> Iterator[TroubleAt]:
    for _ in range(draw.choice((0, 1, 1, 2))):
        kind: Trouble = draw.choice(("pause", "pause", "kill", "kill", "cut", "garbage", "aborted", "repeat"))
        if kind in ("pause", "kill"):
            yield TroubleAt(kind, draw.choice(SERVICES) + draw.choice(("", "-2")))
        else:
            yield TroubleAt(kind, draw.choice(SERVICES) if kind == "cut" else "")


def _draw_restore(draw: random.Random) -> list[tuple[int, TroubleAt]]:
    """Half of the stories lose a database: a dump is made in one step and takes its place some steps later."""
    if draw.random() < 0.5:
        return []
    service, dumped = draw.choice(SERVICES), draw.randrange(1, STEPS - 4)
    lost = dumped + draw.randrange(1, 4)
    return [(dumped, TroubleAt("back up", service)), (lost, TroubleAt("restore", service))]


def _draw_bad_rows(draw: random.Random) -> list[tuple[int, TroubleAt]]:
    """Rows that nothing can be done with, each in a step of its own; they stay until the end."""
    services = draw.sample(sorted(BAD_ROWS), draw.choice((0, 1, 2)))
    return [(draw.randrange(1, STEPS - 1), TroubleAt("bad row", service)) for service in services]


@dataclass
class _Life:
    """One container or volume and what its platform says of it, in the order of its own clock."""

    draw: random.Random
    region: str
    tenant: str
    subject: str
    start_us: int
    end_us: int
    number: int = 0
    run: int = 0
    made: list[Event] = field(default_factory=list)

    def events(self) -> list[Event]:
        at_us = self.start_us + self.draw.randrange(40) * MINUTE_US
        if self.draw.random() < 0.2:
            self._say("volume.created", at_us, {"size_gb": self.draw.choice((10, 500))})
            return self.made
        configuration = {
            "gpu_sku": self.draw.choice(GPUS),
            "gpu_count": self.draw.choice((1, 1, 2)),
            "persistent_storage_gb": self.draw.choice((0, 500)),
        }
        self.sequenced, self.named = self.draw.random() < 0.5, self.draw.random() < 0.5
        self._say("container.created", at_us, configuration)
        running = False
        for _ in range(self.draw.randrange(1, 9)):
            at_us += self.draw.choice((0, 1, 30, 600, 7200, 30_000)) * SECOND_US
            if at_us >= self.end_us:
                break
            if self.draw.random() < 0.15:
                self._say("container.resized", at_us, {"gpu_count": self.draw.choice((1, 2, 4))})
                continue
            self.run += not running
            named = {"run_id": f"{self.subject}-run-{self.run}"} if self.named else {}
            verb = "stopped" if running else "started"
            said_us = at_us - (self.draw.choice((2, 20)) * SECOND_US if self.draw.random() < 0.1 else 0)
            self._say(f"container.{verb}", said_us, named)
            if verb == "stopped" and self.draw.random() < 0.2:
                # A stop that was found out to be wrong: the true one takes its place.
                wrong = self.made[-1]
                self._say(
                    "container.stopped", at_us - self.draw.randrange(600) * SECOND_US, {**named, **_replaces(wrong)}
                )
            running = not running
        return self.made

    def _say(self, kind: str, at_us: int, data: dict[str, Any]) -> None:
        self.number += 1
        extra = {"sequence": self.number} if getattr(self, "sequenced", False) else {}
        self.made.append(
            {
                "specversion": "1.0",
                "id": f"{self.subject}-{self.number}",
                "source": f"platform/{self.region}",
                "type": kind,
                "subject": self.subject,
                "time": timestamp(at_us),
                "data": {"region": self.region, "tenant_id": self.tenant, **extra, **data},
            }
        )


def _replaces(event: Event) -> dict[str, Any]:
    return {"replaces": {"source": event["source"], "id": event["id"]}}
