"""`tollkeeper publish` against the real broker."""

import gzip
import io
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from deploy.local.infrastructure.probes import run_async
from shared.topics import LIFECYCLE, USAGE, ensure_topics
from tests.cli.conftest import Tollkeeper
from tests.cli.test_lines import created, usage


@pytest.fixture
def broker(kafka_bootstrap: str, topic_prefix: str, environment: pytest.MonkeyPatch) -> tuple[str, str]:
    environment.setenv("TOLLKEEPER_KAFKA_BOOTSTRAP", kafka_bootstrap)
    environment.setenv("TOLLKEEPER_TOPIC_PREFIX", topic_prefix)
    run_async(ensure_topics(kafka_bootstrap, topic_prefix))
    return kafka_bootstrap, topic_prefix


async def read_topic(bootstrap: str, topic: str) -> list[Any]:
    """Every record of a topic, partition by partition."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        await consumer._client._wait_on_metadata(topic)
        places = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())]
        consumer.assign(places)
        ends = await consumer.end_offsets(places)
        found: list[Any] = []
        while len(found) < sum(ends.values()):
            batches = await consumer.getmany(timeout_ms=1000)
            found += [record for batch in batches.values() for record in batch]
        return found
    finally:
        await consumer.stop()


def event_lines(count: int) -> list[bytes]:
    return [
        orjson.dumps(created(id=f"e{number}", subject=f"ctr-{number}", data={"tenant_id": f"t{number % 7}"}))
        for number in range(count)
    ]


def test_good_lines_arrive_in_order_and_bad_ones_are_reported_by_number(
    broker: tuple[str, str], tollkeeper: Tollkeeper, tmp_path: Path
) -> None:
    good = event_lines(300)
    content = [*good[:100], b"{", *good[100:], b"", b"[1]", orjson.dumps(usage()), b"y" * 300_000]
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"\n".join(content))
    ended = tollkeeper("publish", path, "--json")
    assert ended.code == 1
    document = ended.document
    assert (document["published"], document["lifecycle"], document["usage"]) == (301, 300, 1)
    assert document["bad"] == 3
    assert [(bad["line"], bad["reason"]) for bad in document["bad_lines"]] == [
        (101, "not JSON"),
        (303, "not an object"),
        (305, "too large"),
    ]
    assert "line 101: not JSON" in ended.err

    records = run_async(read_topic(broker[0], broker[1] + LIFECYCLE))
    assert sorted(record.value for record in records) == sorted(good)
    assert {record.headers for record in records} == {(("content-type", b"application/cloudevents+json"),)}
    for number in range(7):
        mine = [record for record in records if record.key == f"vn/t{number}".encode()]
        assert [record.value for record in mine] == good[number::7]
        assert len({record.partition for record in mine}) == 1
    assert [record.key for record in run_async(read_topic(broker[0], broker[1] + USAGE))] == [b"vn/acme"]


def test_a_compressed_file_and_standard_input(
    broker: tuple[str, str], tollkeeper: Tollkeeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "events.jsonl.gz"
    path.write_bytes(gzip.compress(b"\n".join(event_lines(50))))
    assert tollkeeper("publish", path).code == 0

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n".join(event_lines(20)))))
    ended = tollkeeper("publish", "-", "--json")
    assert ended.code == 0
    assert ended.document["published"] == 20
    assert len(run_async(read_topic(broker[0], broker[1] + LIFECYCLE))) == 70


def test_a_file_that_is_cut_off_says_so(broker: tuple[str, str], tollkeeper: Tollkeeper, tmp_path: Path) -> None:
    assert broker
    path = tmp_path / "events.jsonl.gz"
    path.write_bytes(gzip.compress(b"\n".join(event_lines(50)))[:-20])
    ended = tollkeeper("publish", path)
    assert ended.code == 1
    assert "can't be read to its end" in ended.err


def test_records_of_more_than_one_batch_keep_their_order(
    broker: tuple[str, str], tollkeeper: Tollkeeper, tmp_path: Path
) -> None:
    padding = {str(number): "p" * 190 for number in range(40)}
    events = [orjson.dumps(created(id=f"e{number}", subject="ctr", data={"labels": padding})) for number in range(600)]
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"\n".join(events))
    assert tollkeeper("publish", path).code == 0
    assert [record.value for record in run_async(read_topic(broker[0], broker[1] + LIFECYCLE))] == events


def test_faults_say_what_to_do(
    tollkeeper: Tollkeeper, environment: pytest.MonkeyPatch, kafka_bootstrap: str, topic_prefix: str, tmp_path: Path
) -> None:
    path = tmp_path / "events.jsonl"
    ended = tollkeeper("publish", path)
    assert (ended.code, "can't be opened" in ended.err) == (1, True)

    path.write_bytes(b"")
    environment.setenv("TOLLKEEPER_KAFKA_BOOTSTRAP", "127.0.0.1:9")
    ended = tollkeeper("publish", path)
    assert (ended.code, "tollkeeper up" in ended.err) == (69, True)

    environment.setenv("TOLLKEEPER_KAFKA_BOOTSTRAP", kafka_bootstrap)
    environment.setenv("TOLLKEEPER_TOPIC_PREFIX", topic_prefix)
    ended = tollkeeper("publish", path)
    assert ended.code == 1
    assert f"has no topic {topic_prefix}{LIFECYCLE}" in ended.err

    assert tollkeeper("publish").code == 64


def test_a_file_of_something_else_is_told_once(broker: tuple[str, str], tollkeeper: Tollkeeper, tmp_path: Path) -> None:
    assert broker
    path = tmp_path / "README.md"
    path.write_text("# Words\n" * 3000)
    ended = tollkeeper("publish", path)
    assert ended.code == 1
    assert "is this JSON lines?" in ended.err
    assert len(ended.err.splitlines()) < 10
    few = tmp_path / "few.jsonl"
    few.write_bytes(b"\n".join([b"words"] * 4 + event_lines(1)))
    assert tollkeeper("publish", few, "--json").document["published"] == 1
