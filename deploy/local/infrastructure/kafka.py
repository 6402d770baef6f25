"""Embedded Apache Kafka: one KRaft node, broker and controller in one, on the loopback interface."""

import base64
import json
import secrets
import signal
from pathlib import Path
from types import TracebackType
from typing import Self

from deploy.local.faults import StackError
from deploy.local.infrastructure.directory import DataDirectory
from deploy.local.infrastructure.jars import provide_jars
from deploy.local.infrastructure.java import find_java, java_environment
from deploy.local.infrastructure.probes import wait_for_kafka
from deploy.local.ports import LOOPBACK, find_free_port, is_taken, require_free
from deploy.local.processes import ManagedProcess, run_apart, stop_leftover, write_private
from deploy.local.space import require_space
from shared.topics import MESSAGE_BYTES_MAX, TRANSACTION_TIMEOUT_MS_MAX

PORT_SETTING = "TOLLKEEPER_KAFKA_PORT"
_START_SECONDS = 90
_NODE_ID = 1
# Kafka runs in its own folder and is told names within it. A whole path would not survive: server.properties is read as
# ISO-8859-1, log.dirs is a list with commas, a class path one with colons.
_PROPERTIES, _DATA, _JARS = "server.properties", "data", "jars"
# One collector thread is enough for a heap of this size, and nobody reads the JVM's performance file.
_LEAN = ("-XX:+UseSerialGC", "-XX:-UsePerfData")


class EmbeddedKafka:
    """One node on one data directory: `<home>/kafka`. Blocking; from a coroutine call it in a thread.

    start() after kill() recovers as after a power cut.
    """

    def __init__(self, home: Path, *, port: int, cache: Path, heap_mib: int = 512) -> None:
        self.port = port
        self._home = home.absolute()
        self._cache = cache.absolute()
        self._heap_mib = heap_mib
        self._record = self._home / "kafka.process"
        self._root = self._home / "kafka"
        self._directory = DataDirectory(self._root, server="Kafka", used_sign="__cluster_metadata-0")
        self._process: ManagedProcess | None = None

    @property
    def bootstrap(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    @property
    def log(self) -> Path:
        return self._home / "logs" / "kafka.log"

    @property
    def process(self) -> ManagedProcess | None:
        return self._process

    def start(self) -> Self:
        """Make the data directory if there is none, start the node, and return when a record went through it."""
        stop_leftover(self._record, signal.SIGTERM)
        require_free(self.port, purpose="Kafka", setting=PORT_SETTING)
        require_space(self._home)
        self._java = find_java()
        jars = provide_jars(self._cache, self._java)
        self._root.mkdir(parents=True, exist_ok=True)
        _link(self._root / _JARS, jars)
        write_private(self._root / _PROPERTIES, self._configuration())
        self._directory.prepare(self._format, essential="meta.properties")
        self._process = self._make_process()
        self._process.start()
        wait_for_kafka(self.bootstrap, timeout_seconds=_START_SECONDS, give_up=self._death)
        return self

    def stop(self) -> None:
        """A controlled shutdown: logs are flushed and closed."""
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        if self._process is not None:
            self._process.kill()

    def restart(self) -> None:
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _make_process(self) -> ManagedProcess:
        return ManagedProcess(
            "kafka",
            [*self._command(f"-Xmx{self._heap_mib}m", *_LEAN), "kafka.Kafka", _PROPERTIES],
            log=self.log,
            record=self._record,
            environment=java_environment(),
            directory=self._root,
            stop_signal=signal.SIGTERM,
            stop_seconds=60,
        )

    def _command(self, *options: str) -> list[str]:
        quiet = ("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true")
        return [str(self._java), *options, *quiet, "-cp", f"{_JARS}/*"]

    def _format(self) -> None:
        cluster_id = base64.urlsafe_b64encode(secrets.token_bytes(16)).decode("ascii").rstrip("=")
        if cluster_id.startswith("-"):
            cluster_id = "A" + cluster_id[1:]  # the tool would take it for an option
        command = [*self._command(), "kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", _PROPERTIES]
        answer = run_apart(command, directory=self._root, environment=java_environment())
        if answer.returncode != 0:
            raise StackError(f"Kafka's storage could not be formatted:\n{(answer.stdout + answer.stderr)[-2000:]}")

    def _configuration(self) -> str:
        controller = f"{LOOPBACK}:{self._controller_port()}"
        settings = {
            "process.roles": "broker,controller",
            "node.id": _NODE_ID,
            "controller.quorum.voters": f"{_NODE_ID}@{controller}",
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://{controller}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            "log.dirs": _DATA,
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "transaction.state.log.num.partitions": 4,
            # A producer that died inside a transaction holds back what others sent: for a minute, not for fifteen.
            "transaction.max.timeout.ms": TRANSACTION_TIMEOUT_MS_MAX,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            "group.initial.rebalance.delay.ms": 0,
            "message.max.bytes": MESSAGE_BYTES_MAX,
            "replica.fetch.max.bytes": MESSAGE_BYTES_MAX,
            "auto.create.topics.enable": "false",
            # One machine's broker: fewer threads that look for work, and no record twice a second to say that it lives.
            "num.network.threads": 2,
            "num.io.threads": 4,
            "metadata.max.idle.interval.ms": 0,
            # After a kill the node waits for its former self's session to run out: 9 s by default.
            "broker.heartbeat.interval.ms": 500,
            "broker.session.timeout.ms": 2000,
        }
        return "".join(f"{name}={value}\n" for name, value in settings.items())

    def _controller_port(self) -> int:
        """The controller's port: chosen at the first start and kept while it is free; no client ever uses it."""
        chosen = self._root / "controller-port.json"
        if chosen.exists() and not is_taken(port := int(json.loads(chosen.read_text("ascii")))):
            return port
        while (port := find_free_port()) == self.port:
            continue
        write_private(chosen, json.dumps(port))
        return port

    def _death(self) -> str | None:
        process = self._process
        if process is None or process.running:
            return None
        return f"Kafka ended while starting. The end of {self.log}:\n{process.log_tail()}"


def _link(link: Path, target: Path) -> None:
    """Make `link` point to `target`, wherever it pointed before."""
    fresh = link.with_name(f"{link.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(link)
