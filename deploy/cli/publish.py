"""`tollkeeper publish`: an event file to the broker, bad lines kept out."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.partitioner import murmur2
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from deploy.cli.addresses import Addresses
from deploy.cli.faults import FOUND, UNAVAILABLE, CommandError, EarlyExitError
from deploy.cli.lines import BadLine, EventFile, check_line, open_events
from deploy.cli.output import JsonOption, print_json, remark, say
from shared.events.incoming import IncomingEvent
from shared.kafka import describe_topics, open_producer
from shared.outbox import CLOUDEVENT_TYPE
from shared.topics import LIFECYCLE, USAGE

HEADERS = [("content-type", CLOUDEVENT_TYPE.encode())]
INCOMING = (LIFECYCLE, USAGE)
NEW_TOPIC_SECONDS = 6
BATCHES_IN_FLIGHT_MAX = 64
# So many lines that are no JSON, before any that is, are no event file.
OTHER_LINES = 5


@dataclass(slots=True)
class Tally:
    """What became of the lines, by topic; `bad` in the order of the file."""

    published: dict[str, int] = field(default_factory=lambda: {LIFECYCLE: 0, USAGE: 0})
    bad: list[BadLine] = field(default_factory=list)


class BatchWriter:
    """Gathers records into one batch per partition; a batch is one future, not one per record.

    Records of a key keep their order: they go to one partition, batch after batch, through an idempotent producer.
    """

    def __init__(self, producer: AIOKafkaProducer, prefix: str, partitions: dict[str, int]) -> None:
        self._producer = producer
        self._prefix = prefix
        self._partitions = partitions
        self._partition_of: dict[tuple[str, bytes], tuple[str, int]] = {}
        self._open: dict[tuple[str, int], Any] = {}
        self._sent: list[asyncio.Future[Any]] = []

    async def add(self, line: IncomingEvent) -> None:
        place = self._partition_of.get((line.topic, line.key))
        if place is None:
            # The partition that the default partitioner of Kafka's own clients chooses.
            partition = (murmur2(line.key) & 0x7FFFFFFF) % self._partitions[line.topic]
            place = self._partition_of[line.topic, line.key] = (line.topic, partition)
        batch = self._open.get(place)
        if batch is None:
            batch = self._open[place] = self._producer.create_batch()
        if batch.append(timestamp=None, key=line.key, value=line.value, headers=HEADERS) is None:
            await self._send(place)
            batch = self._open[place] = self._producer.create_batch()
            batch.append(timestamp=None, key=line.key, value=line.value, headers=HEADERS)

    async def flush(self) -> None:
        """Hand over what is gathered; wait only where too much is on its way."""
        for place in list(self._open):
            await self._send(place)
        if len(self._sent) > BATCHES_IN_FLIGHT_MAX:
            await self.settle()

    async def settle(self) -> None:
        """Wait until the broker has acknowledged everything handed over."""
        waiting, self._sent = self._sent, []
        await asyncio.gather(*waiting)

    async def _send(self, place: tuple[str, int]) -> None:
        topic, partition = place
        future = await self._producer.send_batch(self._open.pop(place), self._prefix + topic, partition=partition)
        self._sent.append(future)


async def publish_lines(events: EventFile, writer: BatchWriter, advance: "Advance") -> Tally:
    """Publish the good lines of a file in order and answer what became of each."""
    tally = Tally()
    pieces = events.pieces()
    while (lines := await asyncio.to_thread(next, pieces, None)) is not None:
        for line in lines:
            checked = check_line(line)
            if isinstance(checked, BadLine):
                _check_kind(checked, tally, live=events.live)
                remark(f"line {checked.number}: {checked.reason}: {checked.detail}")
                tally.bad.append(checked)
            else:
                await writer.add(checked)
                tally.published[checked.topic] += 1
        await writer.flush()
        advance(events.position)
    await writer.settle()
    return tally


def _check_kind(bad: BadLine, tally: Tally, *, live: bool) -> None:
    """Raise CommandError where a file begins with lines of something else: they are no mistakes in an event file."""
    begun = [*tally.bad, bad]
    if live or len(begun) < OTHER_LINES or any(tally.published.values()):
        return
    if all(line.reason == "not JSON" for line in begun):
        raise CommandError(
            f"none of the first {OTHER_LINES} lines is JSON: is this JSON lines? An event file holds one CloudEvent a "
            "line, such as samples/events.jsonl. Nothing was published"
        )


@asynccontextmanager
async def open_writer(addresses: Addresses) -> AsyncIterator[BatchWriter]:
    """A writer to the stack's broker. Raises CommandError if it does not answer or has no such topics."""
    bootstrap, prefix = addresses.kafka_bootstrap, addresses.topic_prefix
    try:
        described = await find_topics(bootstrap, prefix)
        producer = await open_producer(bootstrap, f"{prefix}tollkeeper-publish")
    except KafkaError as error:
        raise broker_fault(bootstrap, error) from error
    try:
        yield BatchWriter(producer, prefix, described)
    except KafkaError as error:
        raise CommandError(
            f"the broker at {bootstrap} stopped taking records ({error!r}); publish the file again when it is back: "
            "events that were taken are not charged twice",
            UNAVAILABLE,
        ) from error
    finally:
        await producer.stop()


async def find_topics(bootstrap: str, prefix: str) -> dict[str, int]:
    """The number of partitions of the incoming topics. Raises CommandError if they do not exist, KafkaError."""
    deadline = time.monotonic() + NEW_TOPIC_SECONDS
    while True:
        described = await describe_topics(bootstrap, [prefix + topic for topic in INCOMING])
        missing = [prefix + topic for topic in INCOMING if prefix + topic not in described]
        if not missing:
            return {topic: described[prefix + topic].partitions for topic in INCOMING}
        # A broker tells of a topic a moment after it has agreed to make it.
        if time.monotonic() > deadline:
            raise CommandError(f"the broker at {bootstrap} has no topic {missing[0]}: `tollkeeper up` makes it")
        await asyncio.sleep(0.1)


def broker_fault(bootstrap: str, error: KafkaError) -> CommandError:
    return CommandError(
        f"no Kafka broker answers at {bootstrap} ({type(error).__name__}): start the stack with `tollkeeper up`, "
        "or set TOLLKEEPER_KAFKA_BOOTSTRAP to where it runs",
        UNAVAILABLE,
    )


class Advance:
    """Tells a progress bar how many bytes of the file have been read."""

    def __init__(self, progress: Progress | None, task: Any = None) -> None:  # noqa: ANN401 - rich's task id
        self._progress = progress
        self._task = task

    def __call__(self, position: int) -> None:
        if self._progress is not None:
            self._progress.update(self._task, completed=position)


@contextmanager
def show_progress(events: EventFile) -> Iterator[Advance]:
    """A bar on standard error, where that is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal or events.size is None:
        yield Advance(None)
        return
    columns = (TextColumn("publishing"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield Advance(progress, progress.add_task("publish", total=events.size))


def publish(
    file: Annotated[str, typer.Argument(metavar="FILE.jsonl", help="CloudEvents, one a line; .gz too; - is stdin.")],
    *,
    json: JsonOption = False,
) -> None:
    """Publish lifecycle and usage events. Bad lines are reported by number, kept out, and make the exit code 1."""
    started = time.monotonic()

    async def run() -> Tally:
        with open_events(file) as events:
            async with open_writer(Addresses.read()) as writer:
                with show_progress(events) as advance:
                    return await publish_lines(events, writer, advance)

    tally = asyncio.run(run())
    report(tally, time.monotonic() - started, json=json)
    if tally.bad:
        raise EarlyExitError(FOUND)


def report(tally: Tally, seconds: float, *, json: bool) -> None:
    count = sum(tally.published.values())
    rate = round((count + len(tally.bad)) / max(seconds, 1e-6))
    if json:
        print_json(
            {
                "published": count,
                "lifecycle": tally.published[LIFECYCLE],
                "usage": tally.published[USAGE],
                "bad": len(tally.bad),
                "bad_lines": [{"line": bad.number, "reason": bad.reason, "detail": bad.detail} for bad in tally.bad],
                "seconds": round(seconds, 3),
                "lines_per_second": rate,
            }
        )
        return
    say(
        f"published {count} events ({tally.published[LIFECYCLE]} lifecycle, {tally.published[USAGE]} usage) "
        f"in {seconds:.1f} s, {rate} lines/s; {len(tally.bad)} bad lines kept out"
    )
