"""`tollkeeper import-trace`: what a cluster recorded of its jobs, pods or containers, to an event file."""

import csv
import gzip
import io
import itertools
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import tzinfo
from enum import StrEnum
from pathlib import Path
from typing import IO, Annotated, Any, TextIO

import orjson
import typer

from deploy.cli import trace_sacct
from deploy.cli.faults import FOUND, USAGE, CommandError, EarlyExitError
from deploy.cli.output import print_json, remark
from deploy.cli.trace_docker import DockerEvents
from deploy.cli.trace_events import EventWriter, TimedEvent
from deploy.cli.trace_json import read_documents
from deploy.cli.trace_pods import Pods
from deploy.cli.trace_rows import Columns, Reading, SizeUnit, read_life, to_events
from deploy.cli.trace_times import MissingOptionError, RowError, Times, TimeUnit, read_zone
from shared.clock import parse_instant

TENANT_LABEL = "tollkeeper.tenant"


class Format(StrEnum):
    """What a file is. All but `csv` know their columns."""

    CSV = "csv"
    SACCT = "sacct"
    DOCKER = "docker-events"
    PODS = "kubernetes-pods"


@dataclass(slots=True)
class Import:
    """`events` are (instant, line) sorted by time; `bad` are rows left out, by line number of the file.

    `skipped` rows are parts of others, or of what has not begun and may still become anything.
    """

    rows: int = 0
    skipped: int = 0
    events: list[tuple[int, bytes]] = field(default_factory=list)
    bad: list[tuple[int, str]] = field(default_factory=list)
    written: int = 0

    @property
    def count(self) -> int:
        return self.written + len(self.events)

    def sort(self) -> None:
        """Stably: of one instant, the order of the file and of each life."""
        self.events.sort(key=lambda event: event[0])


def read_trace(
    stream: TextIO, reading: Reading, adapt: Callable[[Reading, list[str]], Reading] | None = None
) -> Import:
    """Read a CSV with a header line, which may also be separated by bars. Raises CommandError.

    `adapt` gives the reading that a header asks for.
    """
    result, names = Import(), set[str]()
    number = 0
    try:
        first = stream.readline()
        rows = csv.DictReader(itertools.chain([first], stream), strict=True, delimiter="|" if "|" in first else ",")
        header = list(rows.fieldnames or ())
        reading = reading if adapt is None else adapt(reading, header)
        _check_header(header, reading)
        for row in rows:
            number = rows.line_num
            result.rows += 1
            try:
                _take_row(row, reading, names, result)
            except RowError as error:
                result.bad.append((number, str(error)))
    except MissingOptionError as error:
        raise CommandError(f"line {number}: {error}", USAGE) from error
    except (csv.Error, UnicodeDecodeError, EOFError, OSError, zlib.error) as error:
        raise CommandError(f"the trace can't be read at line {number + 1}: {error}") from error
    result.sort()
    return result


def _check_header(header: list[str], reading: Reading) -> None:
    missing = [name for name in reading.named() if name not in header]
    if missing:
        raise CommandError(
            f"the trace has no column {', '.join(missing)}; it has {', '.join(header)}: "
            "name its columns with --id-column, --created-column and so on"
        )


def _take_row(row: dict[str | Any, str | Any], reading: Reading, names: set[str], result: Import) -> None:
    life = read_life(row, reading)
    if life is None:
        result.skipped += 1
        return
    if life.name in names:
        raise RowError(
            f"{life.name!r} has a row already: a resource has one life. If these are attempts of one job, give them "
            "names of their own with --id-template"
        )
    events = [(time_us, orjson.dumps(event)) for time_us, event in to_events(life, reading)]
    names.add(life.name)
    result.events += events


def read_objects(
    stream: TextIO, read: Callable[[dict[str, Any]], Iterator[TimedEvent]], write: Callable[[bytes], object] | None
) -> Import:
    """Read JSON objects; `write` takes each event at once, without it they are sorted. Raises CommandError."""
    result = Import()
    number = 0
    try:
        for number, document in read_documents(stream):
            result.rows += 1
            try:
                if isinstance(document, RowError):
                    raise document
                events = [(time_us, orjson.dumps(event)) for time_us, event in read(document)]
            except RowError as error:
                result.bad.append((number, str(error)))
                if write is not None:
                    remark(f"line {number}: {error}")
                continue
            if write is None:
                result.events += events
                continue
            for _, line in events:
                write(line + b"\n")
                result.written += 1
    except (UnicodeDecodeError, EOFError, OSError, zlib.error) as error:
        raise CommandError(f"the trace can't be read at line {number + 1}: {error}") from error
    result.sort()
    return result


@contextmanager
def open_trace(path: Path) -> Iterator[TextIO]:
    """Open FILE, FILE.gz or `-` (standard input). Raises CommandError."""
    if str(path) == "-":
        yield io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8-sig", newline="")
        return
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8-sig", newline="")
            if path.suffix == ".gz"
            else path.open(encoding="utf-8-sig", newline="") as stream
        ):
            yield stream
    except OSError as error:
        raise CommandError(f"{path} can't be read: {error}") from error


def write_events(result: Import, out: Path | None) -> None:
    """Write the lines to a file, whole or not at all, or to standard output."""
    if out is None:
        _write(sys.stdout.buffer, result)
        return
    part = out.with_name(out.name + ".part")
    try:
        with part.open("wb") as raw:
            if out.suffix == ".gz":
                with gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed:
                    _write(packed, result)
            else:
                _write(raw, result)
        part.replace(out)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise CommandError(f"{out} can't be written: {error}") from error


def _write(stream: IO[bytes] | gzip.GzipFile, result: Import) -> None:
    stream.writelines(line + b"\n" for _, line in result.events)
    stream.flush()


def _option(help_text: str) -> Any:  # noqa: ANN401 - typer's parameter
    return typer.Option(help=help_text)


def import_trace(  # the options are the command's parameters
    file: Annotated[Path, typer.Argument(metavar="FILE[.gz]", help="What the cluster recorded; - is standard input.")],
    *,
    region: Annotated[str, _option("The region in which its containers ran.")],
    file_format: Annotated[
        Format, typer.Option("--format", help="What the file is; all but csv need no options for columns.")
    ] = Format.CSV,
    time_zone: Annotated[
        str | None, _option("The zone of times that name none, such as Asia/Ho_Chi_Minh or +07:00.")
    ] = None,
    start: Annotated[
        str | None, _option("The instant of the trace's time 0, if it counts time; of sacct, 1970 without it.")
    ] = None,
    out: Annotated[Path | None, _option("Write here (.gz is compressed) instead of to standard output.")] = None,
    source: Annotated[str, _option("The events' source; with their ids it makes a second import harmless.")] = "trace",
    id_column: Annotated[str, _option("Column of the container's id, unique in the trace.")] = "id",
    id_template: Annotated[
        str | None, _option("The id of columns, such as {job}-{attempt}; {created} is when it was created.")
    ] = None,
    created_column: Annotated[str, _option("Column of when it was created.")] = "created",
    started_column: Annotated[str, _option("Column of when it began to run; blank if it never did.")] = "started",
    deleted_column: Annotated[
        str | None, _option("Column of when it was deleted (deleted); blank if it exists.")
    ] = None,
    duration_column: Annotated[
        str | None, _option("Column of how long it ran, instead of when it was deleted.")
    ] = None,
    gpu_count_column: Annotated[str, _option("Column of its number of GPUs.")] = "gpu_count",
    gpu_sku_column: Annotated[str | None, _option("Column of its GPU SKU.")] = None,
    gpu_sku: Annotated[str | None, _option("The GPU SKU where nothing else says one.")] = None,
    storage_column: Annotated[
        str | None, _option("Column of its persistent storage; without it there is none.")
    ] = None,
    storage_unit: Annotated[SizeUnit, _option("Unit of the storage column; sizes are rounded up.")] = SizeUnit.GB,
    tenant_column: Annotated[str | None, _option("Column, or label, of its tenant.")] = None,
    tenant_modulo: Annotated[int | None, typer.Option(min=1, help="Tenant t + last number in the id modulo N.")] = None,
    time_unit: Annotated[TimeUnit, _option("Unit of counted times.")] = TimeUnit.SECONDS,
    time_origin: Annotated[int, _option("The trace's time (in its unit) that is --start.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON (needs --out).")] = False,
) -> None:
    """Turn what a cluster recorded into lifecycle events. Bad rows are reported and left out.

    Files give events sorted by time; docker-events and kubernetes-pods are also read as streams from standard input.
    """
    if json and out is None:
        raise typer.BadParameter("--json needs --out: without it the events go to standard output")
    if file_format in (Format.DOCKER, Format.PODS):
        writer = EventWriter(region, source)
        docker = file_format is Format.DOCKER
        reader = (
            DockerEvents(writer, tenant_column or TENANT_LABEL, gpu_sku)
            if docker
            else Pods(writer, tenant_column, gpu_sku)
        )
        _import_objects(file, out, reader, json=json)
        return
    if deleted_column is not None and duration_column is not None:
        raise typer.BadParameter("give either --deleted-column or --duration-column")
    if file_format is Format.CSV:
        if (tenant_column is None) == (tenant_modulo is None):
            raise typer.BadParameter("give either --tenant-column or --tenant-modulo")
        if gpu_sku_column is None and gpu_sku is None:
            raise typer.BadParameter("give --gpu-sku-column or --gpu-sku")
    ended_column = deleted_column or ("deleted" if duration_column is None else None)
    columns = Columns(
        id_column,
        created_column,
        started_column,
        ended_column,
        gpu_count_column,
        *(gpu_sku_column, storage_column, tenant_column, duration_column),
    )
    zero_us = 0 if file_format is Format.SACCT else None
    times = Times(
        _instant(start) if start is not None else zero_us, time_origin * time_unit.us, time_unit, _zone(time_zone)
    )
    reading = Reading(columns, times, region, source, gpu_sku, storage_unit, tenant_modulo, id_template)
    with open_trace(file) as stream:
        result = read_trace(stream, reading, trace_sacct.adapt if file_format is Format.SACCT else None)
    write_events(result, out)
    _report(result, json=json)


def _import_objects(file: Path, out: Path | None, reader: DockerEvents | Pods, *, json: bool) -> None:
    """From standard input to standard output each event at once, else sorted by time."""
    streams = str(file) == "-" and out is None
    with open_trace(file) as stream:
        result = read_objects(stream, reader.read, _write_now if streams else None)
    if not streams:
        write_events(result, out)
    _report(result, json=json, told=streams)


def _write_now(line: bytes) -> None:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


def _instant(text: str) -> int:
    try:
        return parse_instant(text)
    except ValueError as error:
        raise typer.BadParameter(f"--start: {error}") from error


def _zone(text: str | None) -> tzinfo | None:
    try:
        return None if text is None else read_zone(text)
    except ValueError as error:
        raise typer.BadParameter(f"--time-zone: {error}") from error


def _report(result: Import, *, json: bool, told: bool = False) -> None:
    """`told`: the bad rows were reported as they came."""
    for number, reason in () if told else result.bad:
        remark(f"line {number}: {reason}")
    if json:
        bad_rows = [{"line": number, "reason": reason} for number, reason in result.bad]
        counts = {"rows": result.rows, "events": result.count, "skipped": result.skipped, "bad": len(bad_rows)}
        print_json({**counts, "bad_rows": bad_rows})
    else:
        skipped = f"; {result.skipped} rows are parts of others or not begun" if result.skipped else ""
        remark(f"{result.rows} rows, {result.count} events{skipped}; {len(result.bad)} rows left out")
    if result.bad:
        raise EarlyExitError(FOUND)
