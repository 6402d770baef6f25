"""`tollkeeper import-trace` on generated traces."""

import gzip
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.cli.trace_rows import Columns, Reading, SizeUnit, read_life
from deploy.cli.trace_times import Times, TimeUnit
from shared.clock import parse_instant
from shared.events.lifecycle import read_lifecycle
from tests.cli.conftest import Tollkeeper

HEADER = "id,created,started,deleted,gpu_count,disk,user,model"
START = "2026-01-01T00:00:00Z"
START_US = parse_instant(START)
OPTIONS = ("--start", START, "--region", "vn", "--gpu-sku", "a30")


def write(path: Path, rows: Sequence[str], header: str = HEADER) -> Path:
    data = "\n".join([header, *rows]).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def read_events(text: str) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in text.splitlines()]


def test_rows_become_events_sorted_by_time(tollkeeper: Tollkeeper, tmp_path: Path) -> None:
    trace = write(
        tmp_path / "trace.csv.gz", ["job-7,10,20,30,2,1500,ann,", "job-8,5,,25,0,0,bob,", "job-9,0,1,,1,1,ann,"]
    )
    ended = tollkeeper(
        *("import-trace", trace, *OPTIONS, "--tenant-column", "user"),
        *("--storage-column", "disk", "--storage-unit", "mib"),
    )
    assert ended.code == 0
    events = read_events(ended.out)
    assert [(event["id"], event["time"]) for event in events] == [
        ("job-9/created", "2026-01-01T00:00:00Z"),
        ("job-9/started", "2026-01-01T00:00:01Z"),
        ("job-8/created", "2026-01-01T00:00:05Z"),
        ("job-7/created", "2026-01-01T00:00:10Z"),
        ("job-7/started", "2026-01-01T00:00:20Z"),
        ("job-8/deleted", "2026-01-01T00:00:25Z"),
        ("job-7/deleted", "2026-01-01T00:00:30Z"),
    ]
    for event in events:
        read_lifecycle(event)
    assert events[3]["data"] == {
        "region": "vn",
        "tenant_id": "ann",
        "sequence": 1,
        "gpu_count": 2,
        "persistent_storage_gb": 2,
        "gpu_sku": "a30",
    }
    assert events[2]["data"] == {
        "region": "vn",
        "tenant_id": "bob",
        "sequence": 1,
        "gpu_count": 0,
        "persistent_storage_gb": 0,
    }
    assert "3 rows, 7 events; 0 rows left out" in ended.err


def test_a_second_import_writes_the_same_bytes_and_compressed_output_too(
    tollkeeper: Tollkeeper, tmp_path: Path
) -> None:
    trace = write(tmp_path / "trace.csv", ["a1,1,2,3,1,0,u,", "a2,1,2,3,1,0,u,"])
    written = []
    for name in ("one.jsonl.gz", "two.jsonl.gz"):
        ended = tollkeeper("import-trace", trace, *OPTIONS, "--tenant-modulo", 2, "--out", tmp_path / name, "--json")
        assert ended.document == {"rows": 2, "events": 6, "skipped": 0, "bad": 0, "bad_rows": []}
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]
    events = read_events(gzip.decompress(written[0]).decode())
    assert [event["data"]["tenant_id"] for event in events[:2]] == ["t1", "t0"]
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (",1,2,3,1,0,u,", "no name"),
        ("a,,2,3,1,0,u,", "created is empty"),
        ("a,x,2,3,1,0,u,", "no time"),
        ("a,-1,2,3,1,0,u,", "no time"),
        ("a,5,2,9,1,0,u,", "started is before created"),
        ("a,5,,2,1,0,u,", "deleted is before created"),
        ("a,1,5,4,1,0,u,", "deleted is before started"),
        ("a,1,2,3,-1,0,u,", "no whole number"),
        ("a,1,2,3,0.5,0,u,", "no whole number"),
        ("a,1,2,3,5000,0,u,", "no valid event"),
        ("a,1,2,3,1,lots,u,", "no whole number"),
        ("a,1,2,3,1,0,no tenant,", "no tenant"),
        ("a,1,2,3,1,0,u,two words", "no SKU"),
        ("a,1,2,3,1", "ends before"),
        ("a,1,2,3,1,0,u,,,", "more fields"),
        ("good,1,2,3,1,0,u,", "has a row already"),
    ],
)
def test_a_row_that_makes_no_sense_is_left_out_with_its_line(
    tollkeeper: Tollkeeper, tmp_path: Path, row: str, why: str
) -> None:
    trace = write(tmp_path / "trace.csv", ["good,1,2,3,1,0,u,", row, "also,1,2,3,1,0,u,"])
    ended = tollkeeper(
        *("import-trace", trace, *OPTIONS, "--tenant-column", "user", "--storage-column", "disk"),
        *("--gpu-sku-column", "model", "--out", tmp_path / "out.jsonl", "--json"),
    )
    assert ended.code == 1
    assert [bad["line"] for bad in ended.document["bad_rows"]] == [3]
    assert why in ended.document["bad_rows"][0]["reason"]
    assert "line 3: " in ended.err
    assert ended.document["events"] == 6


def test_wrong_calls_say_what_is_wrong(tollkeeper: Tollkeeper, tmp_path: Path) -> None:
    trace = write(tmp_path / "trace.csv", ["a,1,2,3,1,0,u,"])
    ended = tollkeeper(
        "import-trace", trace, *OPTIONS, "--tenant-modulo", 2, "--created-column", "submit", "--id-column", "n"
    )
    assert ended.code == 1
    assert "no column n, submit" in ended.err
    assert tollkeeper("import-trace", trace, *OPTIONS).code == 64
    assert (
        tollkeeper(
            "import-trace", trace, "--start", "today", "--region", "vn", "--gpu-sku", "x", "--tenant-modulo", 1
        ).code
        == 64
    )
    assert tollkeeper("import-trace", tmp_path / "none.csv", *OPTIONS, "--tenant-modulo", 1).code == 1
    whole = write(tmp_path / "whole.csv.gz", ["a,1,2,3,1,0,u,"] * 50).read_bytes()
    (tmp_path / "cut.csv.gz").write_bytes(whole[:-12])
    assert tollkeeper("import-trace", tmp_path / "cut.csv.gz", *OPTIONS, "--tenant-modulo", 1).code == 1


@given(
    offset=st.fractions(min_value=0, max_value=10**9, max_denominator=1),
    digits=st.text("0123456789", max_size=8),
    unit=st.sampled_from(TimeUnit),
    size=st.integers(0, 10**9),
    size_unit=st.sampled_from(SizeUnit),
)
def test_units_are_exact(offset: Fraction, digits: str, unit: TimeUnit, size: int, size_unit: SizeUnit) -> None:
    text = f"{offset}.{digits}"
    columns = Columns("id", "created", "started", "deleted", "gpus", None, "disk", None)
    reading = Reading(columns, Times(START_US, 0, unit), "vn", "trace", "a30", size_unit, 10)
    row: dict[str | None, Any] = {
        "id": "x1",
        "created": text,
        "started": "",
        "deleted": "",
        "gpus": "1.0",
        "disk": str(size),
    }
    life = read_life(row, reading)
    assert life is not None
    per_second = {TimeUnit.SECONDS: 1, TimeUnit.MILLISECONDS: 1000, TimeUnit.MICROSECONDS: 10**6}[unit]
    seconds = Fraction(text if digits else str(offset)) / per_second
    assert life.created_us - START_US == seconds * 10**6 // 1
    scale = (1024 if "i" in size_unit else 1000) ** "kmgt".index(size_unit.value[0])
    giga = (1024 if "i" in size_unit else 1000) ** 2
    assert (life.storage_gb - 1) * giga < size * scale <= life.storage_gb * giga
