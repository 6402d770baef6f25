"""Slurm's accounting as `sacct --parsable2` or CSV has it: its columns, its attempts, its GPUs."""

import re
from collections.abc import Sequence
from dataclasses import replace

from deploy.cli.faults import CommandError
from deploy.cli.trace_rows import CREATED_FIELD, Columns, Gpus, Reading, read_whole
from deploy.cli.trace_times import RowError, is_absent

COMMAND = "sacct --allusers --duplicates --parsable2 --format=JobID,User,State,Submit,Start,End,AllocTRES"
_IDS = ("jobid", "jobidraw")
_GPUS = ("gpus", "ngpus", "alloctres", "allocgres", "reqtres", "reqgres")
_GPU = re.compile(r"(?:gres[/:])?gpu(?::([A-Za-z][\w.-]*))?[=:](\d{1,6})(?:\([^)]*\))?", re.ASCII)


def adapt(reading: Reading, header: Sequence[str]) -> Reading:
    """The reading with the columns that this header has. Raises CommandError.

    A job that is queued again keeps its id and begins a record with a time of submission of its own: a life of its own.
    """
    names = {name.strip().casefold(): name for name in header}

    def find(*wanted: str) -> str:
        found = next((names[name] for name in wanted if name in names), None)
        if found is None:
            raise CommandError(
                f"the file has no column {' or '.join(wanted)}; it has {', '.join(header)}. Write it with `{COMMAND}`"
            )
        return found

    job = find(*_IDS)
    tenant = None if reading.tenant_modulo is not None else reading.columns.tenant or find("user")
    columns = Columns(
        *(job, find("submit"), find("start"), find("end"), find(*_GPUS)),
        *(reading.columns.gpu_sku, reading.columns.storage, tenant),
    )
    template = reading.id_template or f"{{{job}}}@{{{CREATED_FIELD}}}"
    return replace(
        reading, columns=columns, id_template=template, read_gpus=read_tres, is_part=lambda name: "." in name
    )


def read_tres(text: str, what: str) -> Gpus:
    """GPUs of a number, of TRES (`cpu=4,gres/gpu:a100=2,gres/gpu=2`) or of GRES (`gpu:a100:2`). Raises RowError."""
    if is_absent(text):
        return Gpus(None)
    if text.isascii() and text.isdecimal():
        return Gpus(read_whole(text, what))
    parts = text.split(",")
    if not all("=" in part or ":" in part for part in parts):
        raise RowError(f"{what} {text[:40]!r} is no number of GPUs and no TRES")
    found = [part for text in parts if (part := _GPU.fullmatch(text.strip()))]
    typed = {part.group(1): int(part.group(2)) for part in found if part.group(1)}
    plain = [int(part.group(2)) for part in found if not part.group(1)]
    if len(typed) > 1:
        raise RowError(f"{what} {text[:60]!r} has GPUs of several kinds, and a container has one")
    return Gpus(plain[0] if plain else sum(typed.values()), next(iter(typed), None))
