"""The committed documents are those that the models and routes give now."""

from pathlib import Path
from uuid import UUID

import pytest
import yaml

from deploy.docs.asyncapi import CONTRACTS, DeadLetterAnnounced, write_asyncapi
from deploy.docs.main import main, write_documents
from deploy.docs.openapi import APIS
from shared.dead_letters import DeadRecord, _announcement
from shared.events.cloudevents import EARLIEST_US
from shared.kafka import Record
from shared.topics import TOPICS

FOLDER = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", write_documents())
def test_the_committed_document_is_up_to_date(name: str) -> None:
    assert (FOLDER / name).read_text("utf-8") == write_documents()[name], (
        f"{name} is old: run `make docs` and commit it"
    )


@pytest.mark.parametrize("service", APIS)
def test_every_route_promises_problems_as_they_are_sent(service: str) -> None:
    document = APIS[service]().openapi()
    assert "HTTPValidationError" not in document["components"]["schemas"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            said = {status: reply for status, reply in operation["responses"].items() if status[0] in "45d"}
            assert said["default"] == {"$ref": "#/components/responses/Problem"}, (method, path)
            assert said.get("422", {}).get("$ref") in (None, "#/components/responses/InvalidRequest"), (method, path)


def test_every_topic_has_a_contract_and_a_channel() -> None:
    topics = sorted(topic.name for topic in TOPICS)
    assert sorted(contract.topic for contract in CONTRACTS) == topics
    channels = yaml.safe_load(write_asyncapi())["channels"].values()
    assert sorted(channel["address"] for channel in channels) == topics


def test_what_is_said_of_a_dead_letter_is_its_contract() -> None:
    record = Record("service.usage.v1", UUID(int=1), 0, 7, None, b"{")
    message = _announcement(DeadRecord(record, "not JSON", "detail"), EARLIEST_US)
    said = DeadLetterAnnounced.model_validate_json(message.value)
    assert (said.offset, said.reason, said.died_at) == (7, "not JSON", EARLIEST_US)


def test_documents_are_written_where_one_asks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(write_documents())
    assert "asyncapi.yaml" in capsys.readouterr().out
