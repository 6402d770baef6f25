"""The parts of a running service, put together: what `main` runs and tests look into."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import httpx
from aiokafka import AIOKafkaProducer

from services.enforcement.app.charged_runs import ChargedRuns
from services.enforcement.app.deletions import Deletions
from services.enforcement.app.enforce import Enforce
from services.enforcement.app.gauges import run_gauges
from services.enforcement.app.stopping import Stopping
from services.enforcement.app.survey import Neighbours
from services.enforcement.app.sweep import Sweep
from services.enforcement.app.timers import Timers
from services.enforcement.clients.balance import BalanceClient
from services.enforcement.clients.metering import MeteringClient
from services.enforcement.clients.payment import PaymentClient
from services.enforcement.loops import run_passes
from services.enforcement.positions import Positions
from services.enforcement.settings import Settings
from shared.clock import Clock
from shared.consumer import OffsetConsumer
from shared.db import Pool
from shared.outbox import Relay
from shared.supervisor import Loop
from shared.topics import ACCOUNT_EVENTS, LIFECYCLE, SERVICE_EVENTS

# What is heard and answered does not hang on these; most of them wait while balance is out of reach.
OWN_LOOPS = (
    "parked",
    "stops",
    "stop-repeats",
    "runs",
    "deletions",
    "reminders",
    "abandonments",
    "sweep",
    "gauges",
)
CONSUMED = (LIFECYCLE, ACCOUNT_EVENTS, SERVICE_EVENTS)


@dataclass(frozen=True, slots=True)
class Resources:
    """What is opened outside and closed outside."""

    pool: Pool
    producer: AIOKafkaProducer
    balance: httpx.AsyncClient
    metering: httpx.AsyncClient
    payment: httpx.AsyncClient
    partitions: dict[str, int]


class Service:
    """Wires the loops; holds no rule."""

    def __init__(self, settings: Settings, clock: Clock, resources: Resources) -> None:
        self.settings = settings
        self.clock = clock
        self.pool = resources.pool
        self.relay = Relay(
            resources.pool,
            resources.producer,
            clock,
            topic_prefix=settings.topic_prefix,
            partitions=resources.partitions,
        )
        self.enforce = Enforce(resources.pool, clock, settings, self.relay.wake)
        self.consumer = OffsetConsumer(
            resources.pool,
            clock,
            self.enforce.apply,
            bootstrap=settings.kafka_bootstrap,
            topic_prefix=settings.topic_prefix,
            topics=CONSUMED,
            group="enforcement",
            records_max=200,
        )
        neighbours = Neighbours(
            BalanceClient(resources.balance), MeteringClient(resources.metering), PaymentClient(resources.payment)
        )
        self.stopping = Stopping(self.enforce, neighbours.balance, neighbours.metering)
        self.charged_runs = ChargedRuns(self.enforce, neighbours.metering)
        self.sweep = Sweep(self.enforce, neighbours.balance)
        self.positions = Positions(resources.pool, settings.kafka_bootstrap, settings.topic_prefix, CONSUMED)
        self.timers = Timers(self.enforce)
        self.deletions = Deletions(self.enforce, neighbours, self.positions)

    def loops(self) -> dict[str, Loop]:
        """Each kind of work has a loop of its own: none waits behind another."""
        settings, enforce, timers = self.settings, self.enforce, self.timers
        stop_seconds, deletion_seconds = (
            settings.enforcement_stop_poll_seconds,
            settings.enforcement_deletion_poll_seconds,
        )
        return {
            "consumer": self.consumer.run,
            "relay": self.relay.run,
            "parked": lambda: run_passes(enforce.apply_parked, stop_seconds),
            "stops": lambda: run_passes(self.stopping.send_first, stop_seconds, enforce.stops_wait),
            # At the least half a minute apart, as the deletions' work is: a look each second would find nothing.
            "stop-repeats": lambda: run_passes(self.stopping.repeat, deletion_seconds),
            "runs": lambda: run_passes(self.charged_runs.compare, settings.enforcement_runs_seconds),
            "deletions": self.deletions.run,
            "reminders": lambda: run_passes(timers.remind_due, deletion_seconds),
            "abandonments": lambda: run_passes(timers.abandon_expired, deletion_seconds),
            "sweep": lambda: self.sweep.run(settings.enforcement_sweep_seconds),
            "gauges": lambda: run_gauges(self.pool, self.clock),
        }

    def readiness(self, problems: Callable[[], Mapping[str, str]]) -> dict[str, str]:
        """What is not ready."""
        waiting = dict(problems())
        if not self.consumer.assigned.is_set():
            waiting["partitions"] = "none assigned yet"
        return waiting
