"""`tollkeeper import-trace` on what clusters really print: zones, Slurm's accounting, Docker's events, pods."""

import io
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.cli.trace_sacct import read_tres
from deploy.cli.trace_times import RowError, Times, read_zone
from shared.clock import from_us, parse_instant, to_us
from shared.events.lifecycle import read_lifecycle
from tests.cli.conftest import Ended, Tollkeeper

DATA = Path(__file__).parent / "data"
Life = dict[str, str]


def lives(ended: Ended) -> dict[str, Life]:
    """By resource, the instant of each verb."""
    found: dict[str, Life] = {}
    for line in ended.out.splitlines():
        event = orjson.loads(line)
        read_lifecycle(event)
        found.setdefault(event["subject"], {})[event["type"].partition(".")[2]] = event["time"]
    return found


def minutes(life: Life) -> float:
    return (parse_instant(life["deleted"]) - parse_instant(life["started"])) / 60_000_000


def do_import(tollkeeper: Tollkeeper, name: object, *options: object) -> Ended:
    return tollkeeper("import-trace", name, "--region", "vn", "--gpu-sku", "a100", *options)


def write(path: Path, rows: Sequence[str]) -> Path:
    path.write_text("\n".join(rows))
    return path


def test_times_with_a_zone_need_no_option(tollkeeper: Tollkeeper) -> None:
    ended = do_import(tollkeeper, DATA / "zoned.csv", "--tenant-column", "tenant")
    assert ended.code == 0, ended.err
    found = lives(ended)
    assert [minutes(life) for life in found.values()] == [60, 60]
    assert found["pod-2"]["created"] == "2026-02-20T00:00:00Z"


@pytest.mark.parametrize("end", [("--deleted-column", "end_time"), ("--duration-column", "duration")])
def test_wall_clock_times_and_durations(tollkeeper: Tollkeeper, end: tuple[str, str]) -> None:
    columns = ("--id-column", "job_id", "--created-column", "submit_time", "--started-column", "start_time")
    options = (*columns, *end, "--gpu-count-column", "gpu_num", "--tenant-column", "user")
    refused = do_import(tollkeeper, DATA / "wall-clock.csv", *options)
    assert (refused.code, "line 2" in refused.err, "--time-zone" in refused.err) == (64, True, True)
    ended = do_import(tollkeeper, DATA / "wall-clock.csv", *options, "--time-zone", "Asia/Shanghai")
    assert ended.code == 0, ended.err
    found = lives(ended)
    assert [round(minutes(found[name]) * 60) for name in ("5511", "5512", "5513")] == [36848, 249, 675233]
    assert found["5511"]["created"] == "2020-06-09T10:41:01Z"


def test_sacct_as_it_prints(tollkeeper: Tollkeeper) -> None:
    ended = do_import(tollkeeper, DATA / "sacct.csv", "--format", "sacct", "--time-zone", "UTC")
    assert ended.code == 0, ended.err
    found = {name.partition("@")[0]: life for name, life in lives(ended).items()}
    assert minutes(found["7101"]) == 60
    assert "started" not in found["7102"]
    assert set(found["7103"]) == {"created", "started"}
    assert "7104" not in found
    assert "1 rows are parts of others or not begun" in ended.err


def test_what_was_still_running_ends_in_a_later_import_under_the_same_ids(
    tollkeeper: Tollkeeper, tmp_path: Path
) -> None:
    rows = (DATA / "sacct.csv").read_text()
    later = write(tmp_path / "later.csv", [rows.replace("Unknown,1", "2026-02-20T12:00:00,1").rstrip(), ""])
    imports = [
        set(do_import(tollkeeper, file, "--format", "sacct", "--time-zone", "UTC").out.splitlines())
        for file in (DATA / "sacct.csv", later)
    ]
    assert [orjson.loads(line)["type"] for line in imports[1] - imports[0]] == ["container.deleted"]
    assert imports[0] < imports[1]


def test_attempts_of_one_job_are_lives_of_their_own(tollkeeper: Tollkeeper) -> None:
    counted = ("--format", "sacct", "--start", "2026-01-01T00:00:00Z")
    found = lives(do_import(tollkeeper, DATA / "requeued.csv", *counted))
    attempts = [minutes(life) * 60 for name, life in found.items() if name.startswith("7001@")]
    assert attempts == pytest.approx([3889, 4473, 6120, 2153, 3600])
    columns = (
        "--id-column",
        "JobID",
        "--created-column",
        "Submit",
        "--started-column",
        "Start",
        "--deleted-column",
        "End",
    )
    plain = (*columns, "--gpu-count-column", "GPUs", "--tenant-column", "User", "--start", "2026-01-01T00:00:00Z")
    refused = do_import(tollkeeper, DATA / "requeued.csv", *plain)
    assert (refused.code, "--id-template" in refused.err) == (1, True)
    named = do_import(tollkeeper, DATA / "requeued.csv", *plain, "--id-template", "{JobID}/{Submit}")
    assert named.code == 0
    assert {"7001/0", "7001/16875"} < set(lives(named))
    missing = do_import(tollkeeper, DATA / "requeued.csv", *plain, "--id-template", "{JobID}/{Attempt}")
    assert (missing.code, "no column Attempt" in missing.err) == (1, True)


def test_sacct_with_bars_steps_and_tres(tollkeeper: Tollkeeper, tmp_path: Path) -> None:
    trace = write(
        tmp_path / "sacct.txt",
        [
            "JobID|User|State|Submit|Start|End|AllocTRES|",
            "8|ann|COMPLETED|2026-02-20T08:00:00|2026-02-20T08:01:00|2026-02-20T09:01:00|cpu=4,gres/gpu:h100=2,gres/gpu=2|",
            "8.batch||COMPLETED|2026-02-20T08:01:00|2026-02-20T08:01:00|2026-02-20T09:01:00|cpu=4|",
            "9|bob|RUNNING|2026-02-20T08:00:00|2026-02-20T08:01:00|Unknown|billing=4,cpu=4|",
        ],
    )
    ended = do_import(tollkeeper, trace, "--format", "sacct", "--time-zone", "+07:00")
    assert ended.code == 0, ended.err
    created = {
        event["data"]["tenant_id"]: event["data"]
        for event in map(orjson.loads, ended.out.splitlines())
        if event["type"] == "container.created"
    }
    assert (created["ann"]["gpu_count"], created["ann"]["gpu_sku"]) == (2, "h100")
    assert (created["bob"]["gpu_count"], "gpu_sku" in created["bob"]) == (0, False)
    odd = write(tmp_path / "odd.csv", ["JobID,User,Submit,Start", "1,u,0,0"])
    refused = do_import(tollkeeper, odd, "--format", "sacct")
    assert (refused.code, "sacct --allusers" in refused.err) == (1, True)


def test_gpus_of_tres_and_gres() -> None:
    assert (read_tres("gpu:a100:2(IDX:0-1)", "x").count, read_tres("gpu:2", "x").count) == (2, 2)
    assert (read_tres("3", "x").count, read_tres("", "x").count) == (3, None)
    for text in ("many", "gres/gpu:a=1,gres/gpu:b=1"):
        with pytest.raises(RowError):
            read_tres(text, "x")


DOCKER_LABELS = {"tollkeeper.tenant": "acme", "tollkeeper.gpu-count": "2", "tollkeeper.storage-gb": "40", "name": "web"}


def docker(action: str, second: int, labels: dict[str, str] | None = None, kind: str = "container") -> str:
    attributes = DOCKER_LABELS if labels is None else labels
    event = {
        "Type": kind,
        "Action": action,
        "Actor": {"ID": "c0ffee", "Attributes": attributes},
        "time": 1_772_000_000 + second,
        "timeNano": (1_772_000_000 + second) * 10**9 + 123,
    }
    return orjson.dumps(event).decode()


def test_docker_events(tollkeeper: Tollkeeper, tmp_path: Path) -> None:
    actions = (
        "create",
        "attach",
        "start",
        "exec_start: sh",
        "pause",
        "unpause",
        "kill",
        "die",
        "start",
        "die",
        "destroy",
    )
    lines = [docker(action, second) for second, action in enumerate(actions)]
    lines += [docker("pull", 50, kind="image"), docker("create", 51, {"name": "other"}), "no json", '{"a": 1}']
    trace = write(tmp_path / "events.jsonl", lines)
    ended = do_import(tollkeeper, trace, "--format", "docker-events")
    assert ended.code == 1
    events = [orjson.loads(line) for line in ended.out.splitlines()]
    verbs = ["created", "started", "stopped", "started", "stopped", "deleted"]
    assert [event["type"] for event in events] == [f"container.{verb}" for verb in verbs]
    assert events[0]["data"]["gpu_count"] == 2
    assert events[0]["data"]["persistent_storage_gb"] == 40
    assert len({event["id"] for event in events}) == 6
    sequences = [event["data"]["sequence"] for event in events]
    assert sequences == sorted(set(sequences))
    assert "container other has no label tollkeeper.tenant" in ended.err
    assert "line 14: not JSON" in ended.err
    assert "line 15: it has no Type and Action" in ended.err


def pod(**status: object) -> dict[str, Any]:
    return {
        "kind": "Pod",
        "metadata": {
            "uid": "u-1",
            "name": "train",
            "namespace": "team-a",
            "creationTimestamp": "2026-02-20T08:00:00Z",
            "deletionTimestamp": status.pop("deleting", None),
        },
        "spec": {
            "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H100"},
            "initContainers": [{"resources": {"limits": {"nvidia.com/gpu": "1"}}}],
            "containers": [{"resources": {"limits": {"nvidia.com/gpu": "2", "cpu": "500m"}}}, {}],
        },
        "status": status,
    }


RUNNING = {"phase": "Running", "startTime": "2026-02-20T08:01:00Z"}
ENDED = {
    **RUNNING,
    "phase": "Succeeded",
    "containerStatuses": [
        {"state": {"terminated": {"finishedAt": "2026-02-20T09:00:00Z"}}},
        {"state": {"terminated": {"finishedAt": "2026-02-20T09:01:00Z"}}},
    ],
}


def pretty(*documents: object) -> str:
    """As kubectl prints them: indented, one after the other."""
    return "".join(orjson.dumps(item, option=orjson.OPT_INDENT_2).decode() + "\n" for item in documents)


def test_pods_as_a_list(tollkeeper: Tollkeeper, tmp_path: Path) -> None:
    other = pod(**RUNNING)
    other["metadata"] |= {"uid": "u-2", "namespace": "team-b"}
    listing = {"kind": "List", "items": [pod(**ENDED), other, {"kind": "Node"}]}
    ended = do_import(tollkeeper, write(tmp_path / "pods.json", [pretty(listing)]), "--format", "kubernetes-pods")
    assert ended.code == 1
    assert "it is no pod" in ended.err
    found = lives(ended)
    assert found["u-1"] == {
        "created": "2026-02-20T08:00:00Z",
        "started": "2026-02-20T08:01:00Z",
        "stopped": "2026-02-20T09:01:00Z",
    }
    assert set(found["u-2"]) == {"created", "started"}
    created = orjson.loads(ended.out.splitlines()[0])["data"]
    assert (created["tenant_id"], created["gpu_count"], created["gpu_sku"]) == ("team-a", 2, "NVIDIA-H100")


def test_pods_as_a_stream_tell_each_fact_once(
    tollkeeper: Tollkeeper, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    watched = [
        {"type": "ADDED", "object": pod(phase="Pending")},
        {"type": "MODIFIED", "object": pod(**RUNNING)},
        {"type": "BOOKMARK", "object": {}},
        {"type": "MODIFIED", "object": pod(**RUNNING, deleting="2026-02-20T08:31:00Z")},
        {"type": "DELETED", "object": pod(**RUNNING, deleting="2026-02-20T08:31:00Z")},
    ]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(pretty(*watched).encode())))
    ended = do_import(tollkeeper, "-", "--format", "kubernetes-pods")
    assert ended.code == 0, ended.err
    events = [orjson.loads(line) for line in ended.out.splitlines()]
    assert [event["type"] for event in events] == ["container.created", "container.started", "container.deleted"]
    assert events[2]["time"] == "2026-02-20T08:31:00Z"
    again = write(tmp_path / "again.json", [pretty(*watched)])
    assert do_import(tollkeeper, again, "--format", "kubernetes-pods").out == ended.out


def test_a_stream_gives_each_event_at_once() -> None:
    command = [sys.executable, "-m", "deploy.cli.main", "import-trace", "-", "--format", "docker-events"]
    with subprocess.Popen(
        [*command, "--region", "vn", "--gpu-sku", "a30"],
        env=os.environ,
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for action, verb in (("create", "created"), ("start", "started")):
            process.stdin.write(docker(action, 1) + "\n")
            process.stdin.flush()
            # It comes although the stream has not ended.
            assert orjson.loads(process.stdout.readline())["type"] == f"container.{verb}"
        _, err = process.communicate(timeout=60)
        assert "2 rows, 2 events" in err
    assert process.returncode == 0


@given(
    moment=st.datetimes(datetime.fromisoformat("1990-01-01"), datetime.fromisoformat("2040-01-01")),
    zone=st.sampled_from(["Europe/Berlin", "Asia/Tokyo"]),
)
def test_a_wall_clock_time_is_one_instant_or_none(moment: datetime, zone: str) -> None:
    """Refused exactly where the zone had no such time, or had it twice."""
    local = ZoneInfo(zone)
    instants = {
        to_us(moment.replace(tzinfo=local, fold=fold))
        for fold in (0, 1)
        if moment.replace(tzinfo=local, fold=fold).astimezone(UTC).astimezone(local).replace(tzinfo=None) == moment
    }
    times = Times(None, zone=read_zone(zone))
    try:
        assert {times.read(moment.isoformat(" "), "x")} == instants
    except RowError:
        assert len(instants) != 1


@given(instant_us=st.integers(0, 4 * 10**15), minutes=st.integers(-14 * 60, 14 * 60))
def test_a_time_with_a_zone_is_the_instant_that_it_names(instant_us: int, minutes: int) -> None:
    sign = "-" if minutes < 0 else "+"
    zone = f"{sign}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"
    written = from_us(instant_us).astimezone(read_zone(zone)).isoformat()
    for text in (written, written.replace("T", " "), written[:-3] + written[-2:]):
        assert Times(None).read(text, "x") == instant_us
