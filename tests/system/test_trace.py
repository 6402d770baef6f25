"""A cluster's trace costs the same, imported late and in disorder or billed by ticks as its time comes."""

from pathlib import Path

import pytest

from tests.system.conftest import MakeCluster
from tests.trace.making import write_trace
from tests.trace.replaying import cluster_options, import_trace, replay_in_time, replay_late

pytestmark = pytest.mark.process
SETTLE_DELAY_SECONDS = 3600


def test_a_trace_imported_late_and_billed_in_time_has_one_total(make_cluster: MakeCluster, tmp_path: Path) -> None:
    write_trace(tmp_path / "trace.csv", 3, rows=200, seconds=2 * 86_400)
    trace = import_trace(tmp_path / "trace.csv", tmp_path)
    assert len(trace.totals) > 80
    options = cluster_options(SETTLE_DELAY_SECONDS)
    late, in_time = make_cluster(**options), make_cluster(**options)
    from_files = replay_late(late, trace, tmp_path)
    from_ticks = replay_in_time(in_time, trace, SETTLE_DELAY_SECONDS)
    assert from_files.totals == from_ticks.totals == trace.totals
    assert set(from_ticks.lines) == {"charge"}
    assert from_files.lines["debit_correction"] > 200
    assert from_ticks.steps > 20
