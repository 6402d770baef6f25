"""The command line over the real services: a stack is brought up, fed, waited for, explained and taken down."""

import gzip
import os
import shlex
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from deploy.cli.main import run
from deploy.local.databases import APP, OWNER, drop_database
from deploy.local.infrastructure.probes import run_async
from deploy.local.ports import find_free_port
from tests.cli.conftest import Ended, Tollkeeper
from tests.cli.test_lines import created, usage
from tests.support.databases import PASSWORDS
from tests.support.infrastructure import temporary_home

pytestmark = pytest.mark.process
ROOT = Path(__file__).parents[2]
SERVICES = ("metering", "balance", "payment", "enforcement")
STANDINS = ("stripe_standin", "vnpay_standin", "shop")
START = "2026-01-01T00:00:00Z"
BOOK = """
region: vn
effective_from: 2025-01-01T00:00:00Z
gpu: {h100-sxm: "2.54"}
storage: {persistent: "0.00013"}
services: {tokens: {unit: 1000-tokens, price: "0.0004"}}
"""


@pytest.fixture
def stack(
    postgres_admin_url: str,
    kafka_bootstrap: str,
    topic_prefix: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Tollkeeper]:
    """`tollkeeper(...)` on a stack with a test clock and the session's servers; taken down afterwards."""
    databases = f"tk_{os.getpid()}_{uuid.uuid5(uuid.NAMESPACE_URL, request.node.nodeid).hex[:6]}_"
    starting = {
        "TOLLKEEPER_POSTGRES_URL": postgres_admin_url,
        "TOLLKEEPER_KAFKA_BOOTSTRAP": kafka_bootstrap,
        "TOLLKEEPER_DATABASE_PREFIX": databases,
        "TOLLKEEPER_TOPIC_PREFIX": topic_prefix,
        "TOLLKEEPER_OWNER_PASSWORD": PASSWORDS[OWNER],
        "TOLLKEEPER_APP_PASSWORD": PASSWORDS[APP],
        **{f"TOLLKEEPER_{name.upper()}_PORT": str(find_free_port()) for name in (*SERVICES, *STANDINS)},
    }
    for name in list(os.environ):
        if name.startswith("TOLLKEEPER_"):
            monkeypatch.delenv(name)

    def call(*arguments: object) -> Ended:
        words = [str(argument) for argument in arguments]
        if words[0] == "up":
            # What `up` is told, the home remembers for every other command.
            command = [sys.executable, "-m", "deploy.cli.main", *words]
            ended = subprocess.run(
                command, env=os.environ | starting, capture_output=True, text=True, timeout=150, check=False
            )
            return Ended(ended.returncode, ended.stdout, ended.stderr)
        capsys.readouterr()
        code = run(words)
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    with temporary_home() as folder:
        monkeypatch.setenv("TOLLKEEPER_HOME", str(folder / "home"))
        yield call
        call("down")
    for name in SERVICES:
        run_async(drop_database(postgres_admin_url, f"{databases}{name}"))


def read(ended: Ended) -> Any:
    assert ended.code == 0, ended.out + ended.err
    return ended.document


def write_events(path: Path) -> None:
    """Of two containers and a service; one event is of a time before the region was opened."""
    at_start = {"time": START}
    used = {"from": START, "to": START, "region": "vn", "tenant_id": "acme", "sku": "tokens", "quantity": 2600}
    events = [
        created(**at_start),
        created(type="container.started", id="evt-2", **at_start),
        created(id="evt-3", subject="ctr-2", time="2019-01-01T00:00:00Z", data={"persistent_storage_gb": 40}),
        usage() | at_start | {"data": used},
    ]
    path.write_bytes(gzip.compress(b"\n".join(map(orjson.dumps, events))))


def test_from_up_to_down(stack: Tollkeeper, tmp_path: Path) -> None:
    up = stack("up", "--detach", "--no-demo", "--test-clock", "--clock-start", START)
    assert up.code == 0, up.out + up.err
    assert read(stack("status", "--json"))["ready"] is True
    (tmp_path / "prices.yaml").write_text(BOOK)
    assert read(stack("prices", "publish", tmp_path / "prices.yaml", "--json"))["version"] == 1
    credit = ("account", "credit", "vn/acme", "10", "--reason", "gift", "--actor", "ann", "--json")
    assert [read(stack(*credit))["balance_micros"] for _ in range(2)] == [10_000_000, 20_000_000]

    write_events(tmp_path / "events.jsonl.gz")
    for _ in range(2):
        assert read(stack("publish", tmp_path / "events.jsonl.gz", "--json"))["published"] == 4
    assert read(stack("clock", "advance", "1h", "--json")) == {"now": "2026-01-01T01:00:00Z"}
    settled = read(stack("wait-settled", "--timeout", 60, "--json"))
    assert settled["state"] == "settled"
    dead = {letter["dead_id"] for letter in settled["dead"]["first"] if letter["service"] == "metering"}
    assert len(dead) == 2

    # Charged up to the settle delay before the clock: all sixty slots of the first hour have begun.
    account = read(stack("account", "show", "vn/acme", "--json"))
    assert account["balance_micros"] == 20_000_000 - 2 * 2_540_000 - 2600 * 400 // 1000

    mended = tmp_path / "mended.json"
    mended.write_bytes(
        orjson.dumps(created(id="evt-3", subject="ctr-2", time=START, data={"persistent_storage_gb": 40}))
    )
    first, second = sorted(dead)
    assert "metering" in read(stack("dead", "replay", first, "--body", mended, "--json"))["replayed_in"]
    assert stack("dead", "replay", second).code == 1
    assert read(stack("wait-settled", "--timeout", 60, "--json"))["state"] == "settled"

    told = read(stack("explain", "vn/acme", "--hour", "2026-01-01T01:00:00Z", "--json"))
    assert told["ok"] is True
    kinds = {kind["kind"]: kind["charge_micros"] for item in told["resources"] for kind in item["kinds"]}
    assert kinds == {"gpu": 5_080_000, "storage": 5_200}
    shown = stack("explain", "vn/acme", "--resource", "ctr-1")
    assert (shown.code, "vn/acme: OK" in shown.out) == (0, True)
    assert stack("down").code == 0
    gone = stack("account", "show", "vn/acme")
    assert (gone.code, "tollkeeper up" in gone.err) == (69, True)


def readme_walk() -> list[list[str]]:
    """The calls of README's walk, in order."""
    readme = (ROOT / "README.md").read_text()
    block = readme.partition("tollkeeper up --detach")[2].partition("```")[0]
    lines = ("tollkeeper up --detach" + block).splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.strip()]


def test_readme_walk_works_as_it_stands(stack: Tollkeeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "samples").symlink_to(ROOT / "samples")
    monkeypatch.chdir(tmp_path)
    calls = readme_walk()
    assert len(calls) > 10
    said = {}
    for call in calls:
        ended = stack(*call)
        assert ended.code == 0, (call, ended.out, ended.err)
        said[tuple(call[:2])] = ended.out
        if call[:2] == ["publish", "jobs.jsonl"]:
            assert stack("wait-settled", "--timeout", 60).code == 0
            # Two a30 for two hours; half an hour and an hour of one.
            left = {t: read(stack("account", "show", f"vn/{t}", "--json"))["balance_micros"] for t in ("binh", "chi")}
            assert left == {"binh": -2_680_000, "chi": -1_005_000}
    assert "83.63" in said["account", "show"]
    assert "vn/acme: OK" in said["explain", "vn/acme"]
