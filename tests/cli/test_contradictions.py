"""`tollkeeper contradictions` and `parked`: what they ask of metering and print."""

from urllib.parse import parse_qs

from tests.cli.conftest import Fakes, Tollkeeper

FOUND = {
    "region": "vn",
    "resource_id": "ctr-1",
    "kind": "ends_no_run",
    "source": "platform",
    "event_id": "e-1",
    "tenant_id": "acme",
    "detail": "container.stopped: the stop ends no run",
    "noted_at": "2026-01-01T00:00:00Z",
}
PARKED = {
    "topic": "service.usage.v1",
    "source": "inference",
    "event_id": "u-1",
    "reason": "too_old",
    "due_at": None,
    "region": "vn",
    "resource_id": "tokens",
    "tenant_id": "acme",
    "received_at": "2026-01-01T00:00:00Z",
}
WORD = ("--actor", "ann", "--reason", "looked into")


def test_contradictions_are_listed_by_page_and_filter(fakes: Fakes, tollkeeper: Tollkeeper) -> None:
    fakes.metering.on("GET", "/v1/contradictions", {"contradictions": [FOUND], "next": '["vn"]'})
    shown = tollkeeper("contradictions", "--kind", "ends_no_run", "--tenant", "acme", "--limit", "1", "--after", "[]")
    assert "ctr-1" in shown.out
    assert """--after '["vn"]'""" in shown.err
    [asked] = [item for item in fakes.metering.asked if item.path == "/v1/contradictions"]
    wanted = {"kind": ["ends_no_run"], "tenant_id": ["acme"], "limit": ["1"], "after": ["[]"]}
    assert parse_qs(asked.query) == wanted
    assert tollkeeper("contradictions", "--json").document["contradictions"] == [FOUND]


def test_a_contradiction_is_closed_on_the_record(fakes: Fakes, tollkeeper: Tollkeeper) -> None:
    fakes.metering.on("POST", "/v1/contradictions/close", {"status": "closed"})
    closed = tollkeeper("contradictions", "close", "vn", "ctr-1", "other_tenant", "platform", "e-1", *WORD)
    assert "closed other_tenant of vn/ctr-1" in closed.out
    assert fakes.metering.asked[-1].body["reason"] == "looked into"


def test_parked_events_are_listed_and_released(fakes: Fakes, tollkeeper: Tollkeeper) -> None:
    fakes.metering.on("GET", "/v1/parked", {"parked": [PARKED], "next": None})
    fakes.metering.on("GET", "/v1/pending", {"pending": [], "next": None})
    fakes.metering.on("POST", "/v1/parked/release", {"outcome": "applied"})
    assert "u-1" in tollkeeper("parked", "list", "--reason", "too_old").out
    assert "0 pending events" in tollkeeper("parked", "list", "--pending").out
    released = tollkeeper("parked", "release", "inference", "u-1", *WORD)
    assert "inference/u-1: applied" in released.out
    assert fakes.metering.asked[-1].body["source"] == "inference"
