"""`tollkeeper wait-settled`: returns when all that was published before the call is charged, posted and announced."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import typer
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from pydantic import BaseModel, ValidationError

from deploy.cli.addresses import Addresses
from deploy.cli.dead import load_dead
from deploy.cli.faults import STOPPED, TIMEOUT, UNAVAILABLE, CommandError, EarlyExitError
from deploy.cli.output import JsonOption, print_json, printable, remark, say
from deploy.cli.publish import broker_fault, find_topics
from deploy.cli.services import Services, open_services
from deploy.cli.settled_rules import BalanceReport, MeteringReport, Offsets, StoppedLineError, Target, Wait
from shared.events.reading import describe

_Report = TypeVar("_Report", bound=BaseModel)
POLL_SECONDS = 0.2
LISTED_MAX = 20
STATES = {TIMEOUT: "timeout", STOPPED: "stopped"}


async def load_ends(bootstrap: str, prefix: str) -> dict[str, dict[int, int]]:
    """The end of each partition of the incoming topics, without those that hold nothing. Raises CommandError."""
    try:
        partitions = await find_topics(bootstrap, prefix)
        # High watermarks, which only a `read_uncommitted` client is told: an open transaction is waited for too.
        consumer = AIOKafkaConsumer(
            bootstrap_servers=bootstrap, client_id=f"{prefix}tollkeeper-wait", isolation_level="read_uncommitted"
        )
        try:
            await consumer.start()
            ends: dict[str, dict[int, int]] = {}
            for topic, count in partitions.items():
                places = [TopicPartition(prefix + topic, number) for number in range(count)]
                first = await consumer.beginning_offsets(places)
                last = await consumer.end_offsets(places)
                # What retention emptied has nothing left to apply.
                ends[topic] = {place.partition: last[place] for place in places if last[place] > first[place]}
        finally:
            await consumer.stop()
    except KafkaError as error:
        raise broker_fault(bootstrap, error) from error
    return ends


def load_reports(services: Services) -> tuple[MeteringReport, BalanceReport]:
    """Metering first: what it says must be compared with a later balance."""
    return _load(services, "metering", MeteringReport), _load(services, "balance", BalanceReport)


def _load(services: Services, name: str, model: type[_Report]) -> _Report:
    try:
        return model.model_validate(services.get(name, "/v1/status"))
    except ValidationError as error:
        raise CommandError(f"{name}'s status is not of this version: {describe(error)}", UNAVAILABLE) from error


# The services that lifecycle and usage events pass through.
SETTLING = ("metering", "balance", "enforcement")


def wait_until_settled(
    services: Services, offsets: Offsets, *, timeout_seconds: float, tell: Callable[[str], None]
) -> Wait:
    """Poll until settled; `tell` hears what is waited for whenever that changes.

    Raises CommandError with TIMEOUT or STOPPED as its exit code.
    """
    deadline = time.monotonic() + timeout_seconds
    first = load_reports(services)
    reports: tuple[MeteringReport, BalanceReport] | CommandError = first
    wait = Wait(Target.of(offsets, first[0]))
    told = ""
    while True:
        missing = _missing(wait, reports)
        if not missing:
            return wait
        text = "waiting for " + " and for ".join(missing)
        if text != told:
            tell(text)
            told = text
        if time.monotonic() > deadline:
            raise CommandError(f"not settled after {timeout_seconds:g} s: still {text}", TIMEOUT)
        time.sleep(POLL_SECONDS)
        reports = _try_reports(services)


def _try_reports(services: Services) -> tuple[MeteringReport, BalanceReport] | CommandError:
    """A service that answered before and does not now is being started again: that is waited for too."""
    try:
        return load_reports(services)
    except CommandError as error:
        if error.exit_code != UNAVAILABLE:
            raise
        return error


def _missing(wait: Wait, reports: tuple[MeteringReport, BalanceReport] | CommandError) -> list[str]:
    if isinstance(reports, CommandError):
        return [f"an answer ({reports.message})"]
    try:
        return wait.observe(*reports)
    except StoppedLineError as error:
        raise CommandError(str(error), STOPPED) from error


@dataclass(frozen=True, slots=True)
class KeptBack:
    """What counts as applied although it charges nobody yet: how many there are, and the first of them."""

    name: str
    count: int
    first: Sequence[dict[str, Any]]


def load_kept_back(services: Services) -> list[KeptBack]:
    """Pending and parked events and dead letters, of every service."""
    metering = _load(services, "metering", MeteringReport)
    dead = sum(int(services.get(name, "/v1/status")["dead"]) for name in SETTLING)
    found = (
        ("pending", metering.pending, services.get("metering", "/v1/pending")["pending"]),
        ("parked", metering.parked, services.get("metering", "/v1/parked")["parked"]),
        ("dead", dead, load_dead(services, SETTLING)),
    )
    return [KeptBack(name, count, items[:LISTED_MAX]) for name, count, items in found]


def wait_settled(
    *,
    timeout_seconds: Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait at most.")] = 600,
    json: JsonOption = False,
) -> None:
    """Wait until everything published before this call is applied, metered, posted and announced.

    Pending, parked and dead records count as applied and are listed.
    """
    addresses = Addresses.read()
    started = time.monotonic()
    with open_services(addresses) as services:
        fault: CommandError | None = None
        try:
            # The services first: without them there may be no broker either, and they say so better.
            load_reports(services)
            ends = asyncio.run(load_ends(addresses.kafka_bootstrap, addresses.topic_prefix))
            wait_until_settled(services, ends, timeout_seconds=timeout_seconds, tell=remark)
        except CommandError as error:
            if error.exit_code not in {STOPPED, TIMEOUT}:
                raise
            fault = error
        kept_back: list[KeptBack] = []
        try:
            kept_back = load_kept_back(services)
        except CommandError as error:
            # How the wait ended matters more than what can't be listed now.
            if fault is None:
                raise
            remark(f"tollkeeper: {error.message}")
    report(kept_back, fault, time.monotonic() - started, json=json)


def report(kept_back: Sequence[KeptBack], fault: CommandError | None, seconds: float, *, json: bool) -> None:
    if json:
        listed = {item.name: {"count": item.count, "first": list(item.first)} for item in kept_back}
        state = "settled" if fault is None else STATES[fault.exit_code]
        reason = None if fault is None else fault.message
        print_json({"state": state, "reason": reason, "seconds": round(seconds, 3), **listed})
    else:
        for item in kept_back:
            _list(item)
        if fault is None:
            say(f"settled after {seconds:.1f} s")
    if fault is not None:
        remark(f"tollkeeper: {fault.message}")
        raise EarlyExitError(fault.exit_code)


def _list(kept_back: KeptBack) -> None:
    say(f"{kept_back.count} {kept_back.name}")
    for item in kept_back.first:
        told = ", ".join(f"{key} {value}" for key, value in item.items() if value not in (None, ""))
        say("  " + printable(told))
    if kept_back.count > len(kept_back.first):
        say(f"  and {kept_back.count - len(kept_back.first)} more")
