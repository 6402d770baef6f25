"""`tollkeeper account`, `prices`, `dead` and `clock`: what they ask of services and print."""

from pathlib import Path
from typing import Any

import pytest

from shared.clock import FileClock, parse_instant
from tests.cli.conftest import Fakes, Tollkeeper
from tests.cli.fakes import Answer, Asked

ACCOUNT = {
    "region": "vn",
    "tenant_id": "acme",
    "balance_micros": -1_500_000,
    "spendable_micros": -1_500_000,
    "currency": "VND",
    "state": "negative",
    "burn_micros_per_hour": 2_540_000,
    "negative_since": "2026-11-01T08:00:00Z",
    "version": 4,
}
PATH = "/v1/accounts/vn/acme"
BOOK = """
region: vn
effective_from: 2026-01-01T00:00:00Z
gpu: {h100-sxm: "2.54"}
storage: {persistent: "0.00013"}
services: {inference-tokens: {unit: 1000-tokens, price: "0.0004"}}
"""


def test_open_and_show(fakes: Fakes, tollkeeper: Tollkeeper) -> None:
    fakes.balance.on("PUT", PATH, ACCOUNT)
    fakes.balance.on("GET", PATH, ACCOUNT)
    assert tollkeeper("account", "open", "vn/acme", "--json").document == ACCOUNT
    shown = tollkeeper("account", "show", "vn/acme")
    assert shown.code == 0
    assert "-1.50" in shown.out
    assert "2.54" in shown.out
    assert tollkeeper("account", "show", "acme").code == 64
    missing = tollkeeper("account", "show", "vn/nobody")
    assert (missing.code, missing.err) == (1, "tollkeeper: balance refused (404 not-found): there is none\n")


def credit_keys(fakes: Fakes) -> list[str]:
    return [asked.headers["idempotency-key"] for asked in fakes.balance.asked if asked.method == "POST"]


def test_each_credit_has_a_key_of_its_own_and_a_repeated_one_keeps_it(fakes: Fakes, tollkeeper: Tollkeeper) -> None:
    version = 4

    def show(_asked: Asked) -> Answer:
        return 200, ACCOUNT | {"version": version}

    def adjust(_asked: Asked) -> Answer:
        nonlocal version
        version += 1
        return 201, {"balance_micros": 0}

    fakes.balance.on("GET", PATH, show)
    fakes.balance.on("POST", f"{PATH}/adjustments", adjust)
    call = ("account", "credit", "vn/acme", "25.5", "--reason", "goodwill", "--actor", "ann")
    first = tollkeeper(*call, "--json")
    assert first.code == 0
    assert fakes.balance.asked[-1].body == {"amount_micros": 25_500_000, "reason": "goodwill", "actor": "ann"}
    second = tollkeeper(*call)
    keys = credit_keys(fakes)
    assert first.document["idempotency_key"] == keys[0] != keys[1]
    assert (second.code, second.out) == (0, "credited 25.50 to vn/acme\n")
    assert tollkeeper(*call, "--idempotency-key", keys[1]).code == 0
    assert credit_keys(fakes)[2] == keys[1]


def test_a_credit_whose_answer_was_lost_tells_its_key(fakes: Fakes, tollkeeper: Tollkeeper) -> None:
    # No account yet: the first fact opens it.
    fakes.balance.on("POST", f"{PATH}/adjustments", b"", 200)
    ended = tollkeeper("account", "credit", "vn/acme", "1", "--reason", "r", "--actor", "a")
    assert ended.code == 69
    assert f"repeat it with --idempotency-key {credit_keys(fakes)[0]}" in ended.err


@pytest.mark.parametrize("amount", ["0", "1e3", "1.0000001", "ten", "0.00"])
def test_an_amount_that_is_no_credit_asks_nobody(fakes: Fakes, tollkeeper: Tollkeeper, amount: str) -> None:
    assert tollkeeper("account", "credit", "vn/acme", amount, "--reason", "r", "--actor", "a").code == 1
    assert fakes.balance.asked == []


def test_a_price_book_is_put_to_metering(fakes: Fakes, tollkeeper: Tollkeeper, tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(BOOK)
    fakes.metering.on("PUT", "/v1/price-books", {"version": 3})
    ended = tollkeeper("prices", "publish", path)
    assert (ended.code, ended.out) == (0, "price book version 3 of vn, in force from 2026-01-01T00:00:00Z\n")
    assert fakes.metering.asked[0].body == {
        "region": "vn",
        "effective_from": "2026-01-01T00:00:00Z",
        "gpu": {"h100-sxm": "2.54"},
        "storage": {"persistent": "0.00013"},
        "services": {"inference-tokens": {"unit": "1000-tokens", "price": "0.0004"}},
    }
    assert tollkeeper("prices", "publish", path, "--json").document == {"version": 3}


@pytest.mark.parametrize(
    ("find", "put", "why"),
    [
        ('"2.54"', "2.54", 'gpu.h100-sxm: the price 2.54 is not quoted; write it as text: "2.54"'),
        ('"0.00013"', "1", "storage.persistent: the price 1 is not quoted"),
        ('"0.0004"', "0.0004", "services.inference-tokens: the price 0.0004 is not quoted"),
        ('"2.54"', '"-1"', "a price is not negative"),
        ('"2.54"', '"2.5400001"', "no whole number of micros"),
        ('{h100-sxm: "2.54"}', '{a: "1", a: "2"}', "'a' is given twice"),
        ("region: vn", "", "missing: region"),
        ("2026-01-01T00:00:00Z", "2026-01-01", "effective_from"),
        ("region: vn", "region: [", "no YAML"),
        (BOOK, "vn", "must be a mapping"),
        ("region: vn", "region: !!python/object:os.system vn", "no YAML"),
    ],
)
def test_a_wrong_price_book_is_not_sent(
    fakes: Fakes, tollkeeper: Tollkeeper, tmp_path: Path, find: str, put: str, why: str
) -> None:
    path = tmp_path / "prices.yaml"
    assert find in BOOK
    path.write_text(BOOK.replace(find, put))
    ended = tollkeeper("prices", "publish", path)
    assert ended.code == 1
    assert why in ended.err
    assert len(ended.err.splitlines()) == 1
    assert fakes.metering.asked == []


def test_dead_letters_of_all_services_are_listed_and_replayed(
    fakes: Fakes, tollkeeper: Tollkeeper, tmp_path: Path
) -> None:
    letter: dict[str, Any] = {
        "dead_id": "ab-topic-0-1",
        "reason": "not JSON",
        "detail": "\x1b[31m",
        "value_bytes": 9,
        "died_at": "2026-01-01T00:00:00Z",
    }
    fakes.metering.on("GET", "/v1/dead-letters", {"dead_letters": [letter]})
    fakes.enforcement.on("GET", "/v1/dead-letters", {"dead_letters": [letter]})
    listed = tollkeeper("dead", "list", "--json").document["dead_letters"]
    assert [(item["service"], item["dead_id"]) for item in listed] == [
        ("metering", "ab-topic-0-1"),
        ("enforcement", "ab-topic-0-1"),
    ]
    shown = tollkeeper("dead", "list").out
    assert "2 dead letters" in shown
    assert "\x1b[31m" not in shown
    assert "there may be more in metering, enforcement: --limit 10" in tollkeeper("dead", "list", "--limit", 1).out

    replay = "/v1/dead-letters/ab-topic-0-1/replay"
    fakes.metering.on("POST", replay, {"status": "replayed"})
    fakes.enforcement.on("POST", replay, {"status": "replayed"})
    body = tmp_path / "mended.json"
    body.write_bytes(b'{"a": 1}')
    ended = tollkeeper("dead", "replay", "ab-topic-0-1", "--body", body, "--json")
    assert ended.document == {"dead_id": "ab-topic-0-1", "replayed_in": ["metering", "enforcement"], "refused": []}
    assert fakes.metering.asked[-1].body == {"text": '{"a": 1}'}
    body.write_bytes(b"\xff\x00")
    assert tollkeeper("dead", "replay", "ab-topic-0-1", "--body", body, "--service", "metering").code == 0
    assert fakes.metering.asked[-1].body == {"base64": "/wA="}


def test_a_replay_that_is_refused_or_unknown(fakes: Fakes, tollkeeper: Tollkeeper) -> None:
    ended = tollkeeper("dead", "replay", "zz-0-1")
    assert (ended.code, "no open dead letter" in ended.err or "has an open dead letter" in ended.err) == (1, True)
    problem = {"type": "urn:tollkeeper:problem:dead-letter-refused-again", "detail": "still not JSON"}
    fakes.metering.on("POST", "/v1/dead-letters/zz-0-1/replay", problem, 422)
    ended = tollkeeper("dead", "replay", "zz-0-1")
    assert (ended.code, "still not JSON" in ended.err) == (1, True)
    assert tollkeeper("dead", "replay", "zz-0-1", "--service", "console").code == 64


def test_the_clock_of_a_test_goes_forward_only(tollkeeper: Tollkeeper, tmp_path: Path) -> None:
    refused = tollkeeper("clock", "advance", "1h")
    assert (refused.code, "--test-clock" in refused.err) == (1, True)
    home = tmp_path / "home"
    home.mkdir()
    (home / "TEST").touch()
    assert tollkeeper("clock", "show").code == 1
    (home / "clock").write_text("2026-01-01T00:00:00Z")
    assert tollkeeper("clock", "advance", "90s").out == "2026-01-01T00:01:30Z\n"
    assert tollkeeper("clock", "set", "2026-02-01T00:00:00Z", "--json").document == {"now": "2026-02-01T00:00:00Z"}
    assert FileClock(home / "clock").now_us() == parse_instant("2026-02-01T00:00:00Z")
    assert tollkeeper("clock", "set", "2026-01-01T00:00:00Z").code == 1
    assert tollkeeper("clock", "set", "tomorrow").code == 1
    assert tollkeeper("clock", "advance", "1 day").code == 1


def test_addresses_come_from_the_home_of_the_stack(
    fakes: Fakes, tollkeeper: Tollkeeper, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environment.delenv("TOLLKEEPER_BALANCE_URL")
    fakes.balance.on("GET", PATH, ACCOUNT)
    home = tmp_path / "home"
    home.mkdir()
    (home / "environment.json").write_text(f'{{"TOLLKEEPER_BALANCE_URL": "{fakes.balance.url}"}}')
    assert tollkeeper("account", "show", "vn/acme").code == 0
    environment.setenv("TOLLKEEPER_BALANCE_PORT", "9")
    assert tollkeeper("account", "show", "vn/acme").code == 69
    (home / "environment.json").write_text("{")
    assert tollkeeper("account", "show", "vn/acme").code == 1


def test_help_tells_the_exit_codes(tollkeeper: Tollkeeper) -> None:
    for command in ([], ["wait-settled"]):
        ended = tollkeeper(*command, "--help")
        assert ended.code == 0
        assert "3 a shard" in " ".join(ended.out.split())
    for words in (["publish"], ["up"], ["account", "credit"]):
        assert "Exit codes: `tollkeeper --help`" in tollkeeper(*words, "--help").out
    assert tollkeeper("nonsense").code == 64
