"""A program as a person's shell would start it, whoever runs the tests."""

import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


def start_in_foreground(
    command: Sequence[str], *, directory: Path, environment: Mapping[str, str]
) -> subprocess.Popen[str]:
    """Start it in a session of its own; its output, errors among it, can be read."""
    return subprocess.Popen(
        command,
        cwd=directory,
        env=dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=_hear_signals,  # noqa: PLW1509 - this process has no threads that hold a lock
    )


def _hear_signals() -> None:
    """A runner in the background ignores Ctrl-C or a hang-up, and so would all that it starts."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
