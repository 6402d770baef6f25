"""The benchmark of webhooks measures real ones, at a rate so small that the figures themselves mean nothing."""

import pytest

from tests.bench.report import webhook_rows
from tests.bench.webhooks import measure_webhooks
from tests.support.databases import Databases
from tests.support.standalone import Servers


@pytest.mark.process
def test_a_few_webhooks_are_measured_and_credited(databases: Databases, kafka_bootstrap: str) -> None:
    measured = measure_webhooks(Servers(databases, kafka_bootstrap), a_second=10, seconds=2)
    assert measured.wrong == 0
    assert len(measured.took_ms) == 20
    assert min(measured.took_ms) > 0
    assert len(webhook_rows(measured)) == 2
