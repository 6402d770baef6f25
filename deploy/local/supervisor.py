"""Owns the running stack: watches its processes, restarts what dies, stops everything in order."""

import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import FrameType

from deploy.local.faults import StackError
from deploy.local.infrastructure.choose import Infrastructure
from deploy.local.infrastructure.kafka import EmbeddedKafka
from deploy.local.infrastructure.postgres import EmbeddedPostgres
from deploy.local.processes import ManagedProcess, rotate_log
from deploy.local.progress import Progress
from deploy.local.terminal import Terminal

_BACKOFF_SECONDS = 0.25
_BACKOFF_SECONDS_MAX = 30.0
_HEALTHY_SECONDS = 60.0
_WATCH_SECONDS = 0.5


class StopRequest:
    """Ctrl-C, SIGTERM or a closed terminal, remembered until a safe moment: nothing interrupts a half-made step."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._terminal = Terminal()
        self.terminal_closed = False

    def listen(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # Under nohup it is meant to outlive the terminal.
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.terminal_closed |= number == signal.SIGHUP
        self._event.set()

    @property
    def made(self) -> bool:
        if not self._event.is_set() and self._terminal.closed:
            self.terminal_closed = True
            self._event.set()
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait for a stop at most `seconds`; whether it was asked for."""
        return self.made or self._event.wait(seconds)


@dataclass(slots=True)
class Ward:
    """One thing under watch: how to see that it died, how to bring it back, and when to try."""

    name: str
    process: Callable[[], ManagedProcess | None]
    start: Callable[[], object]
    restarts: int = 0
    failures: int = 0
    began: float = field(default_factory=time.monotonic)
    retry_at: float | None = None

    @property
    def dead(self) -> bool:
        process = self.process()
        return process is not None and not process.running


class Supervisor:
    """Restarts what dies with growing pauses, and says so with the last lines of its log."""

    def __init__(self, infrastructure: Infrastructure, progress: Progress, stop_request: StopRequest) -> None:
        self.services: dict[str, ManagedProcess] = {}
        self._infrastructure = infrastructure
        self._progress = progress
        self._stop_request = stop_request
        self._wards: list[Ward] = []
        self._demo: ManagedProcess | None = None

    @property
    def restarts(self) -> Mapping[str, int]:
        return {ward.name: ward.restarts for ward in self._wards}

    def watch_infrastructure(self) -> None:
        servers: tuple[EmbeddedPostgres | EmbeddedKafka | None, ...] = (
            self._infrastructure.postgres,
            self._infrastructure.kafka,
        )
        for name, server in zip(("postgres", "kafka"), servers, strict=True):
            if server is not None:
                self._wards.append(Ward(name, lambda server=server: server.process, server.start))  # type: ignore[misc]

    def start_service(self, process: ManagedProcess) -> None:
        process.start()
        self.services[process.name] = process
        self._wards.append(Ward(process.name, lambda: process, process.start))

    def start_demo(self, process: ManagedProcess) -> None:
        """Run the demo beside the stack: it ends by itself, and is told of but not started again."""
        process.start()
        self._demo = process

    def run(self, changed: Callable[[], bool]) -> None:
        """Watch until a stop is asked for; `changed` is called after every death and restart, until it says True."""
        is_kept = True
        while not self._stop_request.wait(_WATCH_SECONDS):
            for ward in self._wards:
                process = ward.process()
                if process is not None and process.log is not None:
                    rotate_log(process.log)
                if ward.dead and self._attend(ward):
                    is_kept = False
            is_kept = is_kept or changed()
            self._note_end_of_demo()

    def _note_end_of_demo(self) -> None:
        if self._demo is not None and not self._demo.running:
            if self._demo.exit_code:
                self._progress.warn(f"the demo failed (exit code {self._demo.exit_code}); the stack goes on")
            self._demo = None

    def _attend(self, ward: Ward) -> bool:
        """Report a death once, then bring it back when its pause is over; whether something changed."""
        now = time.monotonic()
        if ward.retry_at is None:
            ward.failures = 1 if now - ward.began > _HEALTHY_SECONDS else ward.failures + 1
            pause_seconds = min(_BACKOFF_SECONDS * 2 ** (ward.failures - 1), _BACKOFF_SECONDS_MAX)
            ward.retry_at = now + pause_seconds
            self._report_death(ward, pause_seconds)
            return True
        if now < ward.retry_at:
            return False
        ward.retry_at = None
        ward.restarts += 1
        ward.began = now
        try:
            ward.start()
        except (StackError, OSError) as error:
            self._progress.warn(f"{ward.name} did not start again: {error}")
        else:
            self._progress.line(f"{ward.name} was started again")
        return True

    def _report_death(self, ward: Ward, pause_seconds: float) -> None:
        process = ward.process()
        assert process is not None, "only a process that was started can die"
        self._progress.warn(
            f"{ward.name} ended by itself (exit code {process.exit_code}); it starts again in {pause_seconds:g} s. "
            f"The end of {process.log}:\n{process.log_tail(8)}"
        )

    def stop(self) -> None:
        """The demo, then the services, all at once; then the infrastructure that this stack started."""
        if self._demo is not None:
            self._demo.stop()
        for process in self.services.values():
            process.request_stop()
        for process in self.services.values():
            process.stop()
        self._infrastructure.stop()
