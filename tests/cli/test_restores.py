"""`tollkeeper restores`."""

from typing import Any

from tests.cli.conftest import Fakes, Tollkeeper
from tests.cli.fakes import Answer, Asked

RESTORE = {
    "incarnation": 2,
    "noticed": "3 streams were published beyond what the database has",
    "restored_at": "2026-11-24T00:00:00Z",
    "told_until": "2026-11-24T00:00:00Z",
    "finished_at": "2026-11-24T00:00:01Z",
    "confirmed_at": None,
    "confirmed_by": None,
    "confirm_reason": None,
}


def lost(item: str, **fields: Any) -> dict[str, Any]:
    who = {"region": "vn", "tenant_id": "acme", "told_at": "2026-11-24T00:00:00Z"}
    return {"kind": "credit", "item": item, **who, "told": {"amount_micros": 5_000_000}, "present": None, **fields}


def test_restores_are_listed_shown_and_confirmed(tollkeeper: Tollkeeper, fakes: Fakes) -> None:
    for fake in (fakes.metering, fakes.payment, fakes.enforcement):
        fake.on("GET", "/v1/restores", {"restores": []})
    fakes.balance.on("GET", "/v1/restores", {"restores": [RESTORE]})
    assert tollkeeper("restores", "list", "--json").document == {"restores": [{"service": "balance", **RESTORE}]}
    assert "3 streams" in tollkeeper("restores", "list").out

    def pages(asked: Asked) -> Answer:
        more = {"after_kind": "credit", "after_item": "a"}
        first = {"lost": [lost("a")], "next": more}
        return 200, {"lost": [lost("b", present={"given_again": True})], "next": None} if asked.query else first

    fakes.balance.on("GET", "/v1/restores/2/lost", pages)
    assert [item["item"] for item in tollkeeper("restores", "lost", "balance", "--json").document["lost"]] == ["a", "b"]
    assert "told amount 5" in tollkeeper("restores", "lost", "balance").out

    fakes.balance.on("POST", "/v1/restores/2/confirm", {"service": "balance", "incarnation": 2, "status": "confirmed"})
    ended = tollkeeper("restores", "confirm", "balance", "--actor", "kim", "--reason", "credits given again")
    assert (ended.code, ended.out.strip()) == (0, "confirmed restore 2 of balance")
    assert fakes.balance.asked[-1].body == {"actor": "kim", "reason": "credits given again"}
    assert tollkeeper("restores", "confirm", "nobody", "--actor", "kim", "--reason", "x").code == 64
    assert tollkeeper("restores", "lost", "payment").code == 64
