"""One life of a stack: from a folder to running services, and back."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TypeVar

import httpx
from rich.console import Console

from deploy.local.environment import check_host, service_environment
from deploy.local.faults import StackError
from deploy.local.infrastructure.choose import Infrastructure
from deploy.local.infrastructure.probes import run_async
from deploy.local.payments import choose_standins, payment_environment
from deploy.local.ports import LOOPBACK, require_free
from deploy.local.preparation import prepare_databases
from deploy.local.processes import ManagedProcess, identify
from deploy.local.progress import Progress
from deploy.local.services import PAYMENT, Service
from deploy.local.settings import LocalSettings
from deploy.local.state import Home, ServiceState, StackState
from deploy.local.supervisor import StopRequest, Supervisor
from shared.topics import ensure_topics

_READY_SECONDS = 90
_POLL_SECONDS = 0.05
_Answer = TypeVar("_Answer")


class StopAskedError(Exception):
    """A stop was asked for while the stack was starting."""


class Launch:
    """Start, watch, stop. `user` is the environment with the demo's settings under it; `demo` runs it once ready."""

    def __init__(
        self,
        settings: LocalSettings,
        user: Mapping[str, str],
        services: Sequence[Service],
        *,
        demo: bool,
        console: Console,
        stop_request: StopRequest,
    ) -> None:
        self._home = Home(settings.home)
        self._user = user
        self._services = (*services, *choose_standins(user)) if PAYMENT in services else tuple(services)
        self._demo = demo
        self._progress = Progress(console)
        self._stop_request = stop_request
        self._infrastructure = Infrastructure(settings)
        self._supervisor = Supervisor(self._infrastructure, self._progress, stop_request)
        self._environment: dict[str, str] = {}
        own = identify(os.getpid())
        assert own is not None, "this process lives"
        self._state = StackState(own, "starting")

    def run(self) -> None:
        """Start everything, watch it until a stop is asked for, stop it. Raises StackError where it can't start."""
        began = time.monotonic()
        try:
            self._save()
            self._start()
            self._announce(time.monotonic() - began)
            self._supervisor.run(self._keep_state)
        except StopAskedError:
            self._progress.line("asked to stop before everything was ready")
        finally:
            self._stop()

    def _start(self) -> None:
        check_host(self._user)
        for service in self._services:
            require_free(service.port(self._user), purpose=service.name, setting=service.port_setting)
        with self._progress.step("infrastructure") as tell:
            self._patiently(lambda: self._infrastructure.start(tell))
        self._state.kafka_bootstrap = self._infrastructure.bootstrap
        self._state.infrastructure = {
            "postgres": self._infrastructure.postgres_origin,
            "kafka": self._infrastructure.kafka_origin,
        }
        self._supervisor.watch_infrastructure()
        self._prepare()
        with self._progress.step("services"):
            self._start_services()
            self._wait_until_ready()
        self._state.phase = "ready"
        self._save()

    def _prepare(self) -> None:
        passwords = self._home.passwords(self._user)
        self._environment = service_environment(
            self._user,
            self._services,
            admin_url=self._infrastructure.url,
            bootstrap=self._infrastructure.bootstrap,
            passwords=passwords,
            test_clock=self._home.clock if self._home.is_test else None,
            runtime="simulator" if self._demo else "plan",
        ) | {"TOLLKEEPER_HOME": str(self._home.path)}
        if PAYMENT in self._services:
            self._environment |= payment_environment(self._home.path, self._user)
        self._home.write_environment(self._environment)
        prefix = self._environment["TOLLKEEPER_TOPIC_PREFIX"]
        with self._progress.step("topics"):
            self._patiently(lambda: run_async(ensure_topics(self._infrastructure.bootstrap, prefix)))
        with self._progress.step("databases"):
            self._patiently(
                lambda: prepare_databases(
                    [service for service in self._services if service.has_database],
                    self._user,
                    self._environment,
                    admin_url=self._infrastructure.url,
                    passwords=passwords,
                    server_is_ours=self._infrastructure.postgres_origin != "address",
                )
            )

    def _start_services(self) -> None:
        for service in self._services:
            process = ManagedProcess(
                service.name,
                [sys.executable, "-m", service.module, "serve"],
                log=self._home.logs(service.name),
                environment=self._environment,
            )
            self._supervisor.start_service(process)
        self._save()

    def _wait_until_ready(self) -> None:
        """Return when every service answers that it is ready; a service that dies before is a fault."""
        deadline = time.monotonic() + _READY_SECONDS
        waiting = {service.name: f"http://{LOOPBACK}:{service.port(self._user)}/readyz" for service in self._services}
        with httpx.Client(trust_env=False, timeout=5) as client:
            while waiting:
                self._check_stop()
                for name, url in list(waiting.items()):
                    self._check_alive(name)
                    if (answer := ask_readiness(client, url).problem) is None:
                        del waiting[name]
                    elif time.monotonic() > deadline:
                        log = self._home.logs(name)
                        raise StackError(f"{name} was not ready after {_READY_SECONDS} s: {answer}. See {log}")
                time.sleep(_POLL_SECONDS)

    def _check_alive(self, name: str) -> None:
        process = self._supervisor.services[name]
        if not process.running:
            raise StackError(
                f"{name} ended while starting (exit code {process.exit_code}). "
                f"The end of {process.log}:\n{process.log_tail()}"
            )

    def _announce(self, took_seconds: float) -> None:
        width = max(len(service.name) for service in self._services)
        for service in self._services:
            self._progress.line(f"  {service.name:<{width}}  http://{LOOPBACK}:{service.port(self._user)}")
        self._progress.line(f"  {'kafka':<{width}}  {self._infrastructure.bootstrap}")
        self._progress.line(f"  data and logs in {self._home.path}")
        if self._home.is_test:
            self._progress.line(
                f"  a test: its clock stands at {self._home.clock.read_text()}; `tollkeeper clock` moves it"
            )
        self._progress.good(f"ready in {took_seconds:.1f} s")
        self._progress.hint(
            "Ctrl-C stops it; its data stays. `.venv/bin/tollkeeper status` in another terminal shows it."
        )
        if self._demo:
            environment = self._environment | {"TOLLKEEPER_SUPERVISOR_PID": str(os.getpid())}
            command = [sys.executable, "-m", "deploy.local.demo"]
            self._supervisor.start_demo(ManagedProcess("demo", command, log=None, environment=environment))

    def _stop(self) -> None:
        if self._stop_request.terminal_closed:
            self._progress.line("the terminal was closed")
        self._state.phase = "stopping"
        try:
            self._keep_state()
            # Where a start failed at once there is nothing to tell of.
            telling = self._progress.step("stopping") if self._state.infrastructure else contextlib.nullcontext()
            with telling:
                self._supervisor.stop()
        finally:
            self._home.forget_state()

    def _patiently(self, work: Callable[[], _Answer]) -> _Answer:
        """Do `work` in a thread while watching for a stop, which waits for the work's end: nothing is left half."""
        with ThreadPoolExecutor(1) as thread:
            future = thread.submit(work)
            while not future.done() and not self._stop_request.made:
                wait([future], timeout=_POLL_SECONDS)
            if not future.done():
                self._progress.line("asked to stop: waiting for the end of this step")
        answer = future.result()
        self._check_stop()
        return answer

    def _check_stop(self) -> None:
        if self._stop_request.made:
            raise StopAskedError

    def _keep_state(self) -> bool:
        """Save what runs; on a full disk say that it could not be done, for what runs matters more."""
        try:
            self._save()
        except OSError as error:
            self._progress.warn(f"what runs is not on record: {error}")
            return False
        return True

    def _save(self) -> None:
        restarts = self._supervisor.restarts
        self._state.services = {
            service.name: ServiceState(
                process.identity,
                service.port(self._user),
                str(self._home.logs(service.name)),
                restarts.get(service.name, 0),
            )
            for service in self._services
            if (process := self._supervisor.services.get(service.name)) is not None
        }
        self._home.write_state(self._state)


@dataclass(frozen=True, slots=True)
class Readiness:
    """`problem` is None if a service is ready, else what it said or why it could not be asked.

    `failing` are loops of a ready service that fail, with their errors.
    """

    problem: str | None
    failing: Mapping[str, str] = field(default_factory=dict)


def ask_readiness(client: httpx.Client, url: str) -> Readiness:
    try:
        answer = client.get(url)
    except httpx.HTTPError as error:
        return Readiness(f"{url}: {error}")
    try:
        told = answer.json()
    except ValueError:
        told = answer.text[:200]
    if answer.status_code != httpx.codes.OK:
        return Readiness(f"{answer.status_code} {told}")
    return Readiness(None, told.get("failing", {}) if isinstance(told, dict) else {})
