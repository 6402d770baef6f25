"""`tollkeeper import-trace`: a cluster's job or pod trace to an event file."""

import csv
import gzip
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Annotated, Any, TextIO

import orjson
import typer

from deploy.cli.faults import FOUND, CommandError, EarlyExitError
from deploy.cli.output import print_json, remark
from deploy.cli.trace_rows import Columns, Reading, RowError, SizeUnit, TimeUnit, read_life, to_events
from shared.clock import parse_instant
from shared.events.lifecycle import LifecycleEvent


@dataclass(slots=True)
class Import:
    """`events` are (instant, line) sorted by time; `bad` are rows left out, by line number of the file."""

    rows: int = 0
    events: list[tuple[int, bytes]] = field(default_factory=list)
    bad: list[tuple[int, str]] = field(default_factory=list)


def read_trace(stream: TextIO, reading: Reading) -> Import:
    """Read a CSV with a header line. Raises CommandError if a named column is missing."""
    rows = csv.DictReader(stream, strict=True)
    result, names = Import(), set[str]()
    try:
        _check_header(list(rows.fieldnames or ()), reading.columns)
        for row in rows:
            result.rows += 1
            try:
                events = _read_row(row, reading, names)
            except RowError as error:
                result.bad.append((rows.line_num, str(error)))
                continue
            result.events += events
    except (csv.Error, UnicodeDecodeError, EOFError, OSError, zlib.error) as error:
        raise CommandError(f"the trace can't be read at line {rows.line_num + 1}: {error}") from error
    # A stable sort: of one instant, the order of the file and of each life.
    result.events.sort(key=lambda event: event[0])
    return result


def _check_header(header: list[str], columns: Columns) -> None:
    missing = [name for name in columns.named() if name not in header]
    if missing:
        raise CommandError(
            f"the trace has no column {', '.join(missing)}; it has {', '.join(header)}: "
            "name its columns with --id-column, --created-column and so on"
        )


def _read_row(row: dict[str | Any, str | Any], reading: Reading, names: set[str]) -> list[tuple[int, bytes]]:
    life = read_life(row, reading)
    if life.name in names:
        raise RowError(f"{life.name!r} has a row already: a resource has one life")
    events = list(to_events(life, reading))
    try:
        for _, event in events:
            LifecycleEvent.model_validate(event)
    except ValueError as error:
        raise RowError(f"no valid event comes of it: {error}") from error
    names.add(life.name)
    return [(time_us, orjson.dumps(event)) for time_us, event in events]


@contextmanager
def open_trace(path: Path) -> Iterator[TextIO]:
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
    file: Annotated[Path, typer.Argument(metavar="FILE.csv[.gz]", help="A trace: CSV with a header line.")],
    *,
    start: Annotated[str, _option("The instant of the trace's time 0, such as 2026-01-01T00:00:00Z.")],
    region: Annotated[str, _option("The region in which its containers ran.")],
    out: Annotated[Path | None, _option("Write here (.gz is compressed) instead of to standard output.")] = None,
    source: Annotated[str, _option("The events' source; with their ids it makes a second import harmless.")] = "trace",
    id_column: Annotated[str, _option("Column of the container's id, unique in the trace.")] = "id",
    created_column: Annotated[str, _option("Column of when it was created.")] = "created",
    started_column: Annotated[str, _option("Column of when it began to run; blank if it never did.")] = "started",
    deleted_column: Annotated[str, _option("Column of when it was deleted; blank if it exists.")] = "deleted",
    gpu_count_column: Annotated[str, _option("Column of its number of GPUs.")] = "gpu_count",
    gpu_sku_column: Annotated[str | None, _option("Column of its GPU SKU.")] = None,
    gpu_sku: Annotated[str | None, _option("The GPU SKU where no column says one.")] = None,
    storage_column: Annotated[
        str | None, _option("Column of its persistent storage; without it there is none.")
    ] = None,
    storage_unit: Annotated[SizeUnit, _option("Unit of the storage column; sizes are rounded up.")] = SizeUnit.GB,
    tenant_column: Annotated[str | None, _option("Column of its tenant.")] = None,
    tenant_modulo: Annotated[int | None, typer.Option(min=1, help="Tenant t + last number in the id modulo N.")] = None,
    time_unit: Annotated[TimeUnit, _option("Unit of its times.")] = TimeUnit.SECONDS,
    time_origin: Annotated[int, _option("The trace's time (in its unit) that is --start.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON (needs --out).")] = False,
) -> None:
    """Turn a trace into events: created, started and deleted, sorted by time. Bad rows are reported and left out."""
    if (tenant_column is None) == (tenant_modulo is None):
        raise typer.BadParameter("give either --tenant-column or --tenant-modulo")
    if gpu_sku_column is None and gpu_sku is None:
        raise typer.BadParameter("give --gpu-sku-column or --gpu-sku")
    if json and out is None:
        raise typer.BadParameter("--json needs --out: without it the events go to standard output")
    columns = Columns(
        *(id_column, created_column, started_column, deleted_column, gpu_count_column),
        *(gpu_sku_column, storage_column, tenant_column),
    )
    origin_us = time_origin * time_unit.us
    start_us = _start(start)
    reading = Reading(columns, start_us, origin_us, time_unit, region, source, gpu_sku, storage_unit, tenant_modulo)
    with open_trace(file) as stream:
        result = read_trace(stream, reading)
    write_events(result, out)
    _report(result, json=json)


def _start(text: str) -> int:
    try:
        return parse_instant(text)
    except ValueError as error:
        raise typer.BadParameter(f"--start: {error}") from error


def _report(result: Import, *, json: bool) -> None:
    for number, reason in result.bad:
        remark(f"line {number}: {reason}")
    if json:
        bad_rows = [{"line": number, "reason": reason} for number, reason in result.bad]
        print_json({"rows": result.rows, "events": len(result.events), "bad": len(bad_rows), "bad_rows": bad_rows})
    else:
        remark(f"{result.rows} rows, {len(result.events)} events; {len(result.bad)} rows left out")
    if result.bad:
        raise EarlyExitError(FOUND)
