"""Lines of an event file: read in pieces of bounded size, checked against the contract, told apart by type."""

import gzip
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from deploy.cli.faults import CommandError
from shared.errors import RecordError
from shared.events.cloudevents import EVENT_BYTES_MAX
from shared.events.incoming import IncomingEvent, check_event

PIECE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is kept out: its number (the first is 1), a stable reason, and what is wrong."""

    number: int
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Line:
    """`data` without the line's end; None if the line is longer than any event may be, with its `length` in bytes."""

    number: int
    data: bytes | None
    length: int


def check_line(line: Line) -> IncomingEvent | BadLine:
    """What is published of a line: its own bytes, if a service would accept them."""
    if line.data is None:
        return BadLine(line.number, "too large", f"{line.length} bytes; an event may have {EVENT_BYTES_MAX}")
    try:
        return check_event(line.data)
    except RecordError as error:
        return BadLine(line.number, error.reason, error.detail)


@dataclass(slots=True)
class EventFile:
    """An open event file; `position` is how many bytes of `size` (None for a pipe) have been read from the disk."""

    stream: IO[bytes]
    raw: IO[bytes]
    size: int | None
    live: bool

    @property
    def position(self) -> int:
        return 0 if self.size is None else self.raw.tell()

    def pieces(self) -> Iterator[list[Line]]:
        """The lines in pieces of about a megabyte; blank lines are left out but counted.

        Of a pipe a piece is what has come. Memory stays bounded however long a line is.
        Raises CommandError if the file can't be read to its end.
        """
        splitter = _Splitter()
        while data := self._read():
            yield splitter.split(data)
        yield splitter.end()

    def _read(self) -> bytes:
        try:
            if self.live:
                return self.stream.read1(PIECE_BYTES)  # type: ignore[attr-defined,no-any-return]  # BufferedReader has it
            return self.stream.read(PIECE_BYTES)
        except (OSError, EOFError, zlib.error) as error:
            raise CommandError(
                f"the file can't be read to its end ({error}); what was read before is published, "
                "and publishing it again with a whole file charges nothing twice"
            ) from error


class _Splitter:
    def __init__(self) -> None:
        self._number = 0
        self._rest = b""
        # Bytes of a line that is too long already and not at its end yet.
        self._skipped = 0

    def split(self, data: bytes) -> list[Line]:
        *whole, last = data.split(b"\n")
        lines = []
        for part in whole:
            lines += self._close(part)
        self._keep(last)
        return lines

    def end(self) -> list[Line]:
        return self._close(b"") if self._rest or self._skipped else []

    def _keep(self, part: bytes) -> None:
        if self._skipped:
            self._skipped += len(part)
        elif len(self._rest) + len(part) > EVENT_BYTES_MAX + 1:
            self._skipped, self._rest = len(self._rest) + len(part), b""
        else:
            self._rest += part

    def _close(self, part: bytes) -> list[Line]:
        self._number += 1
        if self._skipped:
            length, self._skipped = self._skipped + len(part), 0
            return [Line(self._number, None, length)]
        data, self._rest = (self._rest + part if self._rest else part).strip(b" \t\r"), b""
        return [Line(self._number, data, len(data))] if data else []


@contextmanager
def open_events(name: str) -> Iterator[EventFile]:
    """Open FILE, FILE.gz or `-` (standard input). Raises CommandError if there is no such file."""
    if name == "-":
        yield EventFile(sys.stdin.buffer, sys.stdin.buffer, None, live=True)
        return
    path = Path(name)
    try:
        raw = path.open("rb")
    except OSError as error:
        raise CommandError(f"{name} can't be opened: {error.strerror}") from error
    with raw:
        size = path.stat().st_size if path.is_file() else None
        if path.suffix == ".gz":
            with gzip.open(raw, "rb") as stream:
                yield EventFile(stream, raw, size, live=False)  # type: ignore[arg-type]  # GzipFile reads bytes
        else:
            yield EventFile(raw, raw, size, live=size is None)
