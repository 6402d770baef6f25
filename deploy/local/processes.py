"""Operating-system processes that outlive a function: started in their own session, named so that a recycled pid
is never taken for them, and stopped as a whole.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import psutil

from deploy.local.faults import StackError

LOG_BYTES_MAX = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class UnixUser:
    """Whom a program runs as."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process and when it began, in the system's own words: equal only for the very same process."""

    pid: int
    began: str

    @property
    def alive(self) -> bool:
        return _began(self.pid) == self.began

    def signal(self, number: int) -> None:
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self, timeout_seconds: float) -> bool:
        """Whether the process ended in time."""
        deadline = time.monotonic() + timeout_seconds
        while self.alive:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True


def run_apart(
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    user: UnixUser | None = None,
    timeout_seconds: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end in a session of its own: Ctrl-C is the supervisor's, and never a program's fault."""
    return subprocess.run(
        command,
        cwd=directory,
        env=None if environment is None else dict(environment),
        user=user.uid if user else None,
        group=user.gid if user else None,
        extra_groups=[] if user else None,
        timeout=timeout_seconds,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
        check=False,
    )


def identify(pid: int) -> ProcessIdentity | None:
    """The identity of a living process."""
    began = _began(pid)
    return None if began is None else ProcessIdentity(pid, began)


def _began(pid: int) -> str | None:
    """When `pid` began, or None if it is gone or a zombie.

    On Linux in ticks since boot: a wall-clock time would move with every adjustment of the clock.
    """
    try:
        if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return None
        if psutil.LINUX:
            ticks = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[19]
            return f"{Path('/proc/sys/kernel/random/boot_id').read_text('ascii').strip()}/{ticks}"
        return str(psutil.Process(pid).create_time())
    except (psutil.Error, FileNotFoundError, ProcessLookupError):
        return None


def signal_tree(pid: int, number: int) -> None:
    """Send a signal to a process and all its descendants (PostgreSQL's have process groups of their own)."""
    try:
        parent = psutil.Process(pid)
        family = [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


class RunningProgram(Protocol):
    """What is asked of a program once it runs: a part of `subprocess.Popen`."""

    pid: int

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, number: int, /) -> None: ...


class ManagedProcess:
    """One program. `log` takes its output (None: the caller's own does), `record` tells a later run of it.

    Not thread-safe: one owner starts and stops it.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path | None,
        record: Path | None = None,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
        user: UnixUser | None = None,
        stop_signal: int = signal.SIGTERM,
        stop_seconds: float = 20,
    ) -> None:
        self.name = name
        self.log = log
        self._command = list(command)
        self._record = record
        self._environment = None if environment is None else dict(environment)
        self._directory = directory
        self._user = user
        self._stop_signal = stop_signal
        self._stop_seconds = stop_seconds
        self._process: RunningProgram | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """The exit code once ended (negative: the signal), None before."""
        return None if self._process is None else self._process.poll()

    @property
    def pid(self) -> int:
        if self._process is None:
            raise StackError(f"{self.name} was never started")
        return self._process.pid

    @property
    def identity(self) -> ProcessIdentity | None:
        return identify(self.pid) if self.running else None

    def start(self) -> None:
        """Start it in a session of its own, so that Ctrl-C reaches the supervisor alone; its output goes to the log."""
        if self.running:
            raise StackError(f"{self.name} runs already (process {self.pid})")
        with contextlib.ExitStack() as files:
            log = None if self.log is None else files.enter_context(open_log(self.log))
            self._process = self._spawn(log)
        identity = self.identity
        if self._record is not None and identity is not None:
            write_private(self._record, json.dumps(asdict(identity)))

    def _spawn(self, log: BinaryIO | None) -> RunningProgram:
        return subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT if log else None,
            cwd=self._directory,
            env=self._environment,
            start_new_session=True,
            user=self._user.uid if self._user else None,
            group=self._user.gid if self._user else None,
            extra_groups=[] if self._user else None,
        )

    def request_stop(self) -> None:
        """Ask it to end, without waiting."""
        if self._process is not None and self.running:
            self._process.send_signal(self._stop_signal)

    def stop(self) -> None:
        """End it politely, and by force where that takes too long."""
        if self._process is None:
            return
        if self.running:
            self._process.send_signal(self._stop_signal)
            try:
                self._process.wait(self._stop_seconds)
            except subprocess.TimeoutExpired:
                self.kill()
        self._forget()

    def kill(self) -> None:
        """SIGKILL to the program and everything that it started."""
        if self._process is None:
            return
        signal_tree(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._forget()

    def log_tail(self, lines: int = 20) -> str:
        return "" if self.log is None else tail(self.log, lines)

    def _forget(self) -> None:
        if self._record is not None:
            self._record.unlink(missing_ok=True)


def open_log(path: Path) -> BinaryIO:
    """A log to append to."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rotate_log(path)
    return path.open("ab")


def rotate_log(path: Path) -> None:
    """Set a log that has grown large aside, with one predecessor kept, while its writer goes on.

    The file is copied and emptied in place: who holds it open to append goes on at its beginning. What is written
    between the two is lost. On a full disk no predecessor is kept: the room that it takes is what is missing.
    """
    if not path.exists() or path.stat().st_size <= LOG_BYTES_MAX:
        return
    predecessor = path.with_suffix(".old.log")
    try:
        shutil.copyfile(path, predecessor)
    except OSError:
        predecessor.unlink(missing_ok=True)
    os.truncate(path, 0)


def stop_leftover(record: Path, stop_signal: int, stop_seconds: float = 30) -> bool:
    """End the process that an earlier run recorded and never stopped; whether there was one."""
    identity = read_identity(record)
    if identity is None or not identity.alive:
        record.unlink(missing_ok=True)
        return False
    identity.signal(stop_signal)
    if not identity.wait(stop_seconds):
        signal_tree(identity.pid, signal.SIGKILL)
        identity.wait(10)
    record.unlink(missing_ok=True)
    return True


def read_identity(record: Path) -> ProcessIdentity | None:
    try:
        return ProcessIdentity(**json.loads(record.read_text("utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner reads; readers see the old content or the new, never half."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def tail(log: Path, lines: int) -> str:
    """The last lines of a log, at most 64 KiB of it."""
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 65_536))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
