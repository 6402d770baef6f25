"""Where processor time and memory go while something is measured."""

import json
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.bench.launch import samples_file
from tests.system.waiting import wait_for


@dataclass(frozen=True, slots=True)
class Spent:
    """Processor seconds by process (a database server's by database), by loop of a service, and of the machine."""

    by_process: dict[str, float] = field(default_factory=dict)
    by_loop: dict[str, dict[str, float]] = field(default_factory=dict)
    machine: float = 0.0

    @property
    def total(self) -> float:
        return sum(self.by_process.values())


class Meter:
    """Reads the processor time of a cluster's services and servers; between two readings it was spent."""

    def __init__(self, pids: dict[str, int], folder: Path) -> None:
        self._pids = pids
        self._folder = folder
        self._last = self._read()

    def lap(self) -> Spent:
        """What was spent since the last call."""
        seconds, counts, machine = self._read()
        before, counts_before, machine_before = self._last
        self._last = seconds, counts, machine
        spent = {name: value - before.get(name, 0.0) for name, value in seconds.items()}
        loops = {}
        for service, found in counts.items():
            fresh = {name: count - counts_before[service].get(name, 0) for name, count in found.items()}
            samples = sum(fresh.values())
            loops[service] = {
                name: spent[service] * count / samples
                for name, count in sorted(fresh.items(), key=lambda item: -item[1])
                if count
            }
        return Spent(spent, loops, machine - machine_before)

    def _read(self) -> tuple[dict[str, float], dict[str, dict[str, int]], float]:
        counts = {service: self._samples(service, pid) for service, pid in self._pids.items()}
        seconds = {service: _seconds(psutil.Process(pid)) for service, pid in self._pids.items()}
        return seconds | _servers(), counts, _busy()

    def _samples(self, service: str, pid: int) -> dict[str, int]:
        path = samples_file(self._folder, service)
        before = _written(path)
        os.kill(pid, signal.SIGUSR1)
        wait_for(lambda: _written(path) > before, timeout_seconds=30, what=f"the samples of {service}")
        counts: dict[str, int] = json.loads(path.read_text())["counts"]
        return counts


def _written(path: Path) -> int:
    return int(json.loads(path.read_text())["written"]) if path.exists() else 0


def _busy() -> float:
    times = psutil.cpu_times()
    return times.user + times.system + times.nice + getattr(times, "irq", 0.0) + getattr(times, "softirq", 0.0)


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _servers() -> dict[str, float]:
    """Kafka and PostgreSQL: those that we started, else (by address, in containers) every one of the machine."""
    ours = [process for process in psutil.Process().children(recursive=True) if _kind(process)]
    found: dict[str, float] = {}
    for process in ours or [process for process in psutil.process_iter() if _kind(process)]:
        try:
            name, seconds = _kind(process), _seconds(process)
        except psutil.NoSuchProcess:
            continue
        found[name] = found.get(name, 0.0) + seconds
    return found


def _kind(process: psutil.Process) -> str:
    """`kafka`, `postgres for SERVICE`, `postgres` for its other processes, or nothing."""
    try:
        name, command = process.name(), process.cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return ""
    if "java" in name:
        return "kafka"
    if "postgres" not in name:
        return ""
    title = command[0] if command else ""
    service = next((word for word in ("metering", "balance", "enforcement") if f"_{word}_" in title), None)
    return f"postgres for {service}" if service else "postgres"


def resident_bytes(pid: int) -> int:
    return int(psutil.Process(pid).memory_info().rss)


def resident_bytes_max(pid: int) -> int:
    """The most that a process has ever had in memory; where the system does not tell, what it has now."""
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resident_bytes(pid)
