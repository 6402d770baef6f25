"""`tollkeeper audit` against a fake balance."""

from typing import Any

from tests.cli.conftest import Fakes, Tollkeeper

DONE: dict[str, Any] = {"state": "done", "fault": None, "count": 0, "differences": []}


def test_it_says_what_differs_and_exits_one(fakes: Fakes, tollkeeper: Tollkeeper) -> None:
    fakes.balance.on("POST", "/v1/audits", {"state": "running"}, 202)
    answers = iter([{"state": "running"}, DONE])
    fakes.balance.on("GET", "/v1/audits", lambda _asked: (200, next(answers)))
    ended = tollkeeper("audit")
    assert (ended.code, ended.out) == (0, "the books are in order\n")
    found = {"account": "vn/acme", "minute": "2026-11-01T08:00:00Z", "what": "balance 1"}
    fakes.balance.on("GET", "/v1/audits", {**DONE, "count": 1, "differences": [found]})
    ended = tollkeeper("audit")
    assert (ended.code, ended.out) == (1, "vn/acme, 2026-11-01T08:00:00Z: balance 1\n1 differences\n")
    fakes.balance.on("GET", "/v1/audits", {**DONE, "state": "failed", "fault": "no database"})
    assert tollkeeper("audit").code == 69
