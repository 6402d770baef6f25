"""The terminal that a stack was started from: it may be closed at any moment, and that decides nothing but a stop."""

import contextlib
import os
import select
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from deploy.local.processes import open_log


class SteadyOutput:
    """Standard output or error that goes on in a log once nobody reads it: a write that fails decides nothing.

    Unbuffered, so that what could not be written is known, and is the first thing in the log.
    """

    def __init__(self, stream: TextIO, log: Path) -> None:
        stream.flush()
        self._stream = stream
        self._log = log

    def write(self, text: str) -> int:
        data = text.encode(self._stream.encoding, self._stream.errors or "strict")
        while data:
            try:
                data = data[os.write(self._stream.fileno(), data) :]
            except OSError:
                with open_log(self._log) as log:
                    os.dup2(log.fileno(), self._stream.fileno())
        return len(text)

    def flush(self) -> None:
        """Nothing is ever kept back."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - the stream's own
        return getattr(self._stream, name)


@contextlib.contextmanager
def steady_output(log: Path) -> Iterator[None]:
    """Standard output and error as SteadyOutput, whose rest goes to `log`."""
    streams = sys.stdout, sys.stderr
    steady: list[Any] = [SteadyOutput(stream, log) for stream in streams]
    sys.stdout, sys.stderr = steady
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams


class Terminal:
    """The terminal in whose foreground this process was started, if there is one; `closed` once it is gone.

    Its end is not always told by SIGHUP: that goes to the session's leader, and not on to us while the leader lives.
    """

    def __init__(self) -> None:
        self._poll = select.poll()
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            for descriptor in (0, 1, 2):
                if _is_foreground(descriptor):
                    self._poll.register(descriptor, select.POLLHUP)

    @property
    def closed(self) -> bool:
        return any(event & select.POLLHUP for _, event in self._poll.poll(0))


def _is_foreground(descriptor: int) -> bool:
    try:
        return os.tcgetpgrp(descriptor) == os.getpgrp()
    except OSError:
        return False
