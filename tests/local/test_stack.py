"""The stack as a person uses it: up, status, down, as processes."""

import json
import os
import shlex
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import asyncpg
import httpx
import pytest

from deploy.local.databases import APP, OWNER
from deploy.local.infrastructure.probes import run_async
from deploy.local.ports import LOOPBACK, find_free_port, is_taken
from deploy.local.state import Home
from tests.support.databases import PASSWORDS
from tests.support.eventually import eventually
from tests.support.foreground import start_in_foreground
from tests.support.infrastructure import temporary_home
from tests.support.topics import session_prefix

pytestmark = pytest.mark.process
COMMAND = (sys.executable, "-m", "tests.local.fake_stack")
_ROOT = Path(__file__).parents[2]


def run(environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        env=dict(environment),
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def read_status(environment: Mapping[str, str]) -> dict[str, object]:
    status: dict[str, object] = json.loads(run(environment, "status", "--json").stdout)
    return status


@pytest.fixture
def home() -> Iterator[Path]:
    with temporary_home() as folder:
        yield folder / "home"


@pytest.fixture
def embedded(home: Path) -> Iterator[dict[str, str]]:
    """The environment of a stack with servers of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TOLLKEEPER_")}
    cache = {"TOLLKEEPER_CACHE": os.environ["TOLLKEEPER_CACHE"]} if "TOLLKEEPER_CACHE" in os.environ else {}
    environment = (
        kept
        | cache
        | {
            "TOLLKEEPER_HOME": str(home),
            "TOLLKEEPER_DOCKER": "off",
            "TOLLKEEPER_POSTGRES_PORT": str(find_free_port()),
            "TOLLKEEPER_KAFKA_PORT": str(find_free_port()),
            "TOLLKEEPER_METERING_PORT": str(find_free_port()),
        }
    )
    yield environment
    run(environment, "down")


@pytest.fixture
def addressed(
    embedded: dict[str, str], postgres_admin_url: str, kafka_bootstrap: str, request: pytest.FixtureRequest
) -> Iterator[dict[str, str]]:
    """The environment of a stack on the session's servers."""
    prefix = f"tk_{os.getpid()}_{uuid.uuid5(uuid.NAMESPACE_URL, request.node.nodeid).hex[:6]}_"
    yield embedded | {
        "TOLLKEEPER_POSTGRES_URL": postgres_admin_url,
        "TOLLKEEPER_KAFKA_BOOTSTRAP": kafka_bootstrap,
        "TOLLKEEPER_DATABASE_PREFIX": prefix,
        "TOLLKEEPER_TOPIC_PREFIX": session_prefix(),
        "TOLLKEEPER_OWNER_PASSWORD": PASSWORDS[OWNER],
        "TOLLKEEPER_APP_PASSWORD": PASSWORDS[APP],
    }
    run(embedded, "down")
    run_async(_drop(postgres_admin_url, f"{prefix}metering"))


async def _drop(admin_url: str, name: str) -> None:
    connection = await asyncpg.connect(admin_url)
    await connection.execute(f'drop database if exists "{name}" with (force)')
    await connection.close()


def ask(environment: Mapping[str, str]) -> dict[str, object]:
    """What the fake service knows: how often it was started on this database, and its environment."""
    url = f"http://{LOOPBACK}:{environment['TOLLKEEPER_METERING_PORT']}/environment"
    answer: dict[str, object] = httpx.get(url, trust_env=False).json()
    return answer


def test_a_second_start_finds_yesterdays_data(embedded: dict[str, str], home: Path) -> None:
    first = run(embedded, "up", "--detach")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "ready in" in first.stdout
    assert ask(embedded)["starts"] == 1
    assert run(embedded, "status").returncode == 0
    assert run(embedded, "down").returncode == 0
    assert not any(is_taken(int(embedded[name])) for name in embedded if name.endswith("_PORT"))
    assert run(embedded, "up", "--detach").returncode == 0
    assert ask(embedded)["starts"] == 2
    assert {path.name for path in home.glob("*.json")} == {"environment.json", "roles.json", "stack.json"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in home.glob("*.json"))


async def test_what_dies_comes_back(embedded: dict[str, str], home: Path) -> None:
    assert run(embedded, "up", "--detach").returncode == 0
    state = Home(home).read_state()
    assert state is not None
    service = state.services["metering"].identity
    postgres = json.loads((home / "postgres.process").read_text())["pid"]
    assert service is not None
    service.signal(signal.SIGKILL)
    os.kill(postgres, signal.SIGKILL)
    status = await eventually(lambda: _ready_again(embedded), what="both to be back")
    assert status is not None
    assert status["phase"] == "ready"
    log = (home / "logs" / "stack.log").read_text()
    assert "metering ended by itself (exit code -9)" in log
    assert "postgres ended by itself (exit code -9)" in log


def _ready_again(environment: Mapping[str, str]) -> dict[str, object] | None:
    status = read_status(environment)
    services = status["services"]
    assert isinstance(services, list)
    return status if status["ready"] and services[0]["restarts"] else None


async def test_a_killed_supervisor_leaves_nothing_after_down(embedded: dict[str, str], home: Path) -> None:
    assert run(embedded, "up", "--detach").returncode == 0
    state = Home(home).read_state()
    assert state is not None
    state.supervisor.signal(signal.SIGKILL)
    await eventually(lambda: not state.supervisor.alive, what="the supervisor's end")
    assert read_status(embedded)["phase"] == "lost"
    assert run(embedded, "down").returncode == 0
    assert not any(is_taken(int(embedded[name])) for name in embedded if name.endswith("_PORT"))
    assert read_status(embedded)["phase"] == "stopped"


def _start(environment: Mapping[str, str], *command: str) -> subprocess.Popen[str]:
    return start_in_foreground(command or [*COMMAND, "up"], directory=_ROOT, environment=environment)


async def test_ctrl_c_stops_it_cleanly(addressed: dict[str, str], home: Path) -> None:
    process = _start(addressed)
    assert await eventually(lambda: (state := Home(home).read_state()) and state.phase == "ready", what="ready")
    second = run(addressed, "up")
    assert second.returncode == 1
    assert f"another stack runs on {home} already (process {process.pid})" in second.stderr
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "stopping" in output
    assert not is_taken(int(addressed["TOLLKEEPER_METERING_PORT"]))
    assert read_status(addressed)["phase"] == "stopped"


async def test_ctrl_c_while_the_servers_are_made_is_no_fault(embedded: dict[str, str], home: Path) -> None:
    """The terminal sends it to every process of its group: initdb and Java are none of it."""
    process = _start(embedded)
    making = home / "postgres" / "MAKING"
    await eventually(making.exists, what="initdb")
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert "asked to stop before everything was ready" in output
    assert read_status(embedded)["phase"] == "stopped"


async def test_a_closed_terminal_stops_it_although_its_shell_lives(
    addressed: dict[str, str], home: Path, tmp_path: Path
) -> None:
    """As `ssh -t host 'make run'`: the hang-up goes to the session's leader, which waits for its child."""
    master, slave = os.openpty()
    script = f'exec <"$0" >"$0" 2>&1; trap : HUP; {shlex.join(COMMAND)} up; echo $? >"$1"'
    code = tmp_path / "code"
    shell = _start(addressed, "/bin/sh", "-c", script, os.ttyname(slave), str(code))
    os.close(slave)
    await eventually(lambda: (state := Home(home).read_state()) and state.phase == "ready", what="ready")
    os.close(master)
    await eventually(code.exists, what="the end")
    shell.communicate(timeout=30)
    assert code.read_text() == "0\n"
    assert read_status(addressed)["phase"] == "stopped"
    log = Home(home).logs("stack").read_text()
    assert "the terminal was closed" in log
    assert "stopping" in log


async def test_output_that_nobody_reads_stops_nothing(addressed: dict[str, str], home: Path) -> None:
    process = _start(addressed)
    await eventually(lambda: (state := Home(home).read_state()) and state.phase == "ready", what="ready")
    assert process.stdout is not None
    process.stdout.close()
    state = Home(home).read_state()
    assert state is not None
    assert state.services["metering"].identity is not None
    state.services["metering"].identity.signal(signal.SIGKILL)
    await eventually(lambda: _ready_again(addressed), what="its service to be back")
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert read_status(addressed)["phase"] == "stopped"
    assert "metering ended by itself" in Home(home).logs("stack").read_text()


def test_services_get_what_they_need_and_no_more(addressed: dict[str, str]) -> None:
    assert run(addressed | {"TOLLKEEPER_TICK_SECONDS": "2"}, "up", "--detach", "--no-demo").returncode == 0
    environment = ask(addressed)["environment"]
    assert isinstance(environment, dict)
    assert environment["TOLLKEEPER_TICK_SECONDS"] == "2"
    assert environment["TOLLKEEPER_SHARDS"] == "16"
    assert environment["TOLLKEEPER_RUNTIME"] == "plan"
    assert json.loads(environment["TOLLKEEPER_REGIONS"])["vn"]["currency"] == "VND"
    assert environment["TOLLKEEPER_METERING_DATABASE_URL"].startswith("postgresql://tollkeeper_app:")
    assert "TOLLKEEPER_POSTGRES_URL" not in environment
    assert "TOLLKEEPER_METERING_OWNER_URL" not in environment
    assert "TOLLKEEPER_TEST_CLOCK" not in environment


def test_a_service_that_does_not_start_is_told_with_its_log(addressed: dict[str, str]) -> None:
    failed = run(addressed | {"FAKE_FAILS": "serve"}, "up", "--no-demo")
    assert failed.returncode == 1
    assert "metering ended while starting (exit code 1)" in failed.stderr
    assert "the fake service was told to fail" in failed.stderr
    assert read_status(addressed)["phase"] == "stopped"


def test_a_migration_that_fails_is_told(addressed: dict[str, str]) -> None:
    failed = run(addressed | {"FAKE_FAILS": "migrate"}, "up", "--detach")
    assert failed.returncode == 1
    assert "the migration of metering failed" in failed.stderr
    assert "the fake service was told to fail" in failed.stderr


def test_a_home_of_a_newer_version_is_told_in_a_sentence(addressed: dict[str, str]) -> None:
    failed = run(addressed | {"FAKE_FAILS": "newer"}, "up")
    assert failed.returncode == 1
    assert "the database of metering can't be used: a newer version has used this database" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_taken_service_port_is_told(addressed: dict[str, str], postgres_admin_url: str) -> None:
    port = postgres_admin_url.rpartition(":")[2].partition("/")[0]
    failed = run(addressed | {"TOLLKEEPER_METERING_PORT": port}, "up")
    assert failed.returncode == 1
    assert f"port {port} for metering is in use" in failed.stderr
    assert "set TOLLKEEPER_METERING_PORT" in failed.stderr


def test_an_address_that_does_not_answer_is_told(embedded: dict[str, str]) -> None:
    url = f"postgresql://postgres@{LOOPBACK}:{find_free_port()}/postgres"
    failed = run(embedded | {"TOLLKEEPER_POSTGRES_URL": url}, "up")
    assert failed.returncode == 1
    assert "TOLLKEEPER_POSTGRES_URL" in failed.stderr


def test_a_test_clock_only_in_a_home_made_as_a_test(addressed: dict[str, str], home: Path) -> None:
    started = run(addressed, "up", "--detach", "--test-clock", "--clock-start", "2026-01-01T00:00:00Z")
    assert started.returncode == 0, started.stderr
    environment = ask(addressed)["environment"]
    assert isinstance(environment, dict)
    assert environment["TOLLKEEPER_TEST_CLOCK"] == str(home / "clock")
    assert (home / "clock").read_text() == "2026-01-01T00:00:00Z"
    assert (home / "TEST").exists()


def test_a_home_with_data_never_becomes_a_test(embedded: dict[str, str], home: Path) -> None:
    home.mkdir()
    (home / "roles.json").write_text("{}")
    failed = run(embedded, "up", "--test-clock")
    assert failed.returncode == 1
    assert "a test clock must never touch it" in failed.stderr
    assert not (home / "TEST").exists()


def test_a_home_is_not_started_with_other_settings_than_it_was_made_with(addressed: dict[str, str]) -> None:
    assert run(addressed, "up", "--detach", "--no-demo").returncode == 0
    assert run(addressed, "down").returncode == 0
    failed = run(addressed, "up", "--detach")
    assert failed.returncode == 1
    assert "vn's slot_seconds was 60, would be 1" in failed.stderr
    assert "start it with `tollkeeper up --no-demo`" in failed.stderr
    failed = run(addressed | {"TOLLKEEPER_SHARDS": "32"}, "up", "--no-demo")
    assert "the number of shards was 16, would be 32" in failed.stderr
    changed = run(addressed, "up", "--detach", "--change-settings")
    assert changed.returncode == 0, changed.stderr
    regions = json.loads(str(ask(addressed)["environment"]["TOLLKEEPER_REGIONS"]))  # type: ignore[index]
    assert regions["vn"]["slot_seconds"] == 1
