"""`tollkeeper streams` against a fake balance."""

import base64
from pathlib import Path

from shared.events.charges import compress, decompress
from tests.cli.conftest import Fakes, Tollkeeper

STREAM = {
    "shard": 1,
    "seq": 4,
    "stopped": "batch 5 can't be posted: the lines do not add up",
    "stopped_seq": 5,
    "stopped_at": "2026-11-01T08:00:00Z",
    "missing": None,
    "asked": 0,
    "waiting": 2,
}
BATCH = {
    "seq": 5,
    "sha256": "ab" * 32,
    "fault": "the lines do not add up",
    "arrived_at": "2026-11-01T08:00:00Z",
    "value_base64": base64.b64encode(compress(b'{"seq":5}')).decode(),
}
ANSWER = {"shard": 1, "seq": 5, "stopped_reason": None, "set_aside": 1, "would_post": None}
WORD = ("--actor", "kim", "--reason", "a test")


def test_a_stopped_stream_is_listed_shown_and_written_out(fakes: Fakes, tollkeeper: Tollkeeper, tmp_path: Path) -> None:
    fakes.balance.on("GET", "/v1/streams", {"streams": [STREAM], "next": None})
    assert "shard 1: posted up to 4, 2 waiting; stopped at" in tollkeeper("streams", "list").out
    fakes.balance.on("GET", "/v1/streams/1", {**STREAM, "next_batches": [BATCH], "decisions": []})
    body = tmp_path / "batch.json"
    assert "the lines do not add up" in tollkeeper("streams", "show", "1", "--output", body).out
    assert body.read_bytes() == b'{"seq":5}'


def test_a_stream_is_mended_skipped_and_resumed_by_name_and_reason(
    fakes: Fakes, tollkeeper: Tollkeeper, tmp_path: Path
) -> None:
    body = tmp_path / "batch.json"
    body.write_text('{"seq":5}')
    fakes.balance.on("POST", "/v1/streams/1/mend", ANSWER)
    assert tollkeeper("streams", "mend", "1", "5", "--body", body, *WORD).code == 0
    sent = fakes.balance.asked[-1].body
    assert (sent["seq"], sent["actor"], sent["reason"]) == (5, "kim", "a test")
    assert decompress(base64.b64decode(sent["base64"])) == b'{"seq":5}'
    would_post = [[{"region": "vn", "tenant_id": "acme", "totals": [["gpu", "charge", 7]]}], None]
    fakes.balance.on("POST", "/v1/streams/1/skip", {**ANSWER, "would_post": would_post})
    told = tollkeeper("streams", "skip", "1", "5", *WORD).out
    assert "not posted: vn/acme [['gpu', 'charge', 7]]" in told
    assert "shard 1 is posted up to 5" in told
    fakes.balance.on("POST", "/v1/streams/1/resume", {**ANSWER, "stopped_reason": "batch 6 is bad"})
    assert "stopped again: batch 6 is bad" in tollkeeper("streams", "resume", "1", *WORD).out
