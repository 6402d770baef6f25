"""The fast reader of charge batches and the contract's model: both take the same batches and refuse the same."""

import copy
import json
from collections.abc import Callable
from typing import Any

import cramjam
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.balance.wire import _Steady, read_head, read_used, read_wire
from shared.events.charges import DOCUMENT_BYTES_MAX, compress, decompress, read_batch

Document = dict[str, Any]


def document(accounts: int = 3, containers: int = 20, kinds: tuple[str, ...] = ("gpu", "storage")) -> Document:
    """A batch of lines at rest, by account and kind."""
    columns: dict[str, list[Any]] = {
        name: []
        for name in (
            *("resource_ids", "kinds", "classes", "skus", "slots_from", "slots"),
            *("prices_micros", "amounts_micros", "causes"),
        )
    }
    described = []
    for account in range(accounts):
        totals = []
        for kind in kinds:
            amounts = [(account + 1) * (number + 7) for number in range(containers)]
            totals.append([kind, "charge", sum(amounts)])
            for number, amount in enumerate(amounts):
                row = (f"c-{account}-{number}", kind, "charge", "h100", number, 1, 60 * amount, amount, "")
                for column, value in zip(columns.values(), row, strict=True):
                    column.append(value)
        described.append(
            {
                "region": "vn",
                "tenant_id": f"t{account}",
                "burn_micros_per_hour": 5,
                "totals": totals,
                "lines": containers * len(kinds),
            }
        )
    head = {"shard": 1, "seq": 2, "charged_at": "2026-01-01T00:00:00Z", "function_version": 1, "book_version": 1}
    return {**head, "accounts": described, "lines": columns}


def verdicts(found: Document) -> tuple[bool, bool]:
    """Whether the fast reader and the contract take a document."""
    value = compress(json.dumps(found).encode())
    taken = []
    for read in (read_wire, read_batch):
        try:
            read(value)
        except ValueError:
            taken.append(False)
        else:
            taken.append(True)
    return taken[0], taken[1]


def is_steady(found: Document) -> bool:
    return _Steady(read_wire(compress(orjson.dumps(found)))).agrees()


@pytest.mark.parametrize(
    ("accounts", "containers", "kinds"),
    [(3, 20, ("gpu", "storage")), (60, 1, ("gpu", "storage")), (120, 1, ("gpu",)), (2, 30, ("a", "bb", "ccc"))],
)
def test_lines_at_rest_are_checked_by_columns(accounts: int, containers: int, kinds: tuple[str, ...]) -> None:
    found = document(accounts, containers, kinds)
    assert is_steady(found)
    assert verdicts(found) == (True, True)


def test_kinds_in_another_order_than_the_totals_are_taken() -> None:
    found = document()
    for account in found["accounts"]:
        account["totals"].reverse()
    assert is_steady(found)
    assert verdicts(found) == (True, True)


def _set(column: str, index: int, value: object) -> Callable[[Document], None]:
    def change(found: Document) -> None:
        found["lines"][column][index] = value

    return change


def _account(field: str, value: object) -> Callable[[Document], None]:
    def change(found: Document) -> None:
        found["accounts"][1][field] = value

    return change


def _drop(column: str) -> Callable[[Document], None]:
    return lambda found: found["lines"][column].pop()


def _move_money(found: Document) -> None:
    """From one account's lines to another's, so that the batch's sum stays."""
    found["lines"]["amounts_micros"][0] += 1
    found["lines"]["amounts_micros"][-1] -= 1


def _swap_kinds(found: Document) -> None:
    """Sums per account stay, those per kind do not."""
    found["lines"]["kinds"][0], found["lines"]["kinds"][21] = "storage", "gpu"


def _twice(found: Document) -> None:
    found["accounts"][1]["tenant_id"] = found["accounts"][0]["tenant_id"]


def _two_totals(found: Document) -> None:
    found["accounts"][0]["totals"].append(["gpu", "charge", 0])


REFUSED = {
    **{f"missing {name}": _drop(name) for name in document()["lines"]},
    "negative slots": _set("slots", 3, -1),
    "negative amount": _set("amounts_micros", 3, -1),
    "negative price": _set("prices_micros", 3, -1),
    "slot before the first": _set("slots_from", 3, -1),
    "float": _set("slots", 3, 1.5),
    "null id": _set("resource_ids", 3, None),
    "number as an id": _set("skus", 3, 7),
    "nested id": _set("resource_ids", 3, ["c"]),
    "text as an amount": _set("amounts_micros", 3, "1"),
    "U+0000": _set("resource_ids", 3, "c\0"),
    "control character": _set("skus", 3, "a\nb"),
    "slots beyond bounds": _set("slots", 3, 10**17),
    "amount beyond bigint": _set("amounts_micros", 3, 2**64),
    "another kind": _set("kinds", 3, "storage"),
    "another class": _set("classes", 3, "debit_correction"),
    "no class": _set("classes", 3, "gift"),
    "negative burn": _account("burn_micros_per_hour", -1),
    "burn beyond bigint": _account("burn_micros_per_hour", 2**63),
    "too few lines": _account("lines", 39),
    "no totals": _account("totals", []),
    "wrong total": _account("totals", [["gpu", "charge", 1], ["storage", "charge", 2]]),
    "moved money": _move_money,
    "swapped kinds": _swap_kinds,
    "an account twice": _twice,
    "a total twice": _two_totals,
}


def timed() -> Document:
    """A batch of several minutes, whose lines say when they begin."""
    found = document()
    found |= {"used_from": "2026-01-01T00:00:00Z", "used_until": "2026-01-01T00:09:00Z"}
    found["charged_through"] = found["used_until"]
    found["lines"]["starts"] = [1_767_225_600 + number for number in range(120)]
    found["lines"]["slots_seconds"] = [60] * 120
    return found


def _half(name: str) -> Callable[[Document], None]:
    return lambda found: (found["lines"] if name in found["lines"] else found).pop(name)


UNTIMELY = {
    **{f"without {name}": _half(name) for name in ("used_from", "used_until", "starts", "slots_seconds")},
    "begun before 1970": _set("starts", 3, -1),
    "begun beyond bounds": _set("starts", 3, 10**12),
    "no instant": lambda found: found.update(used_from="noon"),
    "a number as an instant": lambda found: found.update(charged_through=7),
    "a start too few": _drop("starts"),
    "a length too few": _drop("slots_seconds"),
    "a length that is no number": _set("slots_seconds", 3, "60"),
}


@pytest.mark.parametrize("name", UNTIMELY)
def test_times_that_do_not_agree_are_refused_whole(name: str) -> None:
    found = timed()
    UNTIMELY[name](found)
    assert verdicts(found) == (False, False)


def test_times_are_taken_by_both_readers_and_the_fast_one_needs_no_second_look() -> None:
    found = timed()
    assert verdicts(found) == (True, True)
    batch = read_wire(compress(orjson.dumps(found)))
    assert _Steady(batch).agrees()
    assert (batch.used_from_us, batch.charged_through_us) == (1_767_225_600_000_000, 1_767_226_140_000_000)
    lines = read_used(compress(json.dumps(found).encode()), "vn", "t1")
    assert [line.start_us for line in lines[:2]] == [1_767_225_640_000_000, 1_767_225_641_000_000]
    assert read_used(compress(json.dumps(document()).encode()), "vn", "t1") == []
    assert read_used(compress(json.dumps(found).encode()), "vn", "nobody") == []


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_agree_is_refused_whole(name: str) -> None:
    found = document()
    REFUSED[name](found)
    assert verdicts(found) == (False, False)


@pytest.mark.parametrize("text", ["ctr,1", "ctr[1]", 'c"1', "c\\1", "container-ü", "{}", ","])
def test_ids_with_odd_letters_are_taken(text: str) -> None:
    found = document()
    _set("resource_ids", 3, text)(found)
    assert verdicts(found) == (True, True)


_VALUES = st.sampled_from(
    [
        "",
        "gpu",
        "storage",
        "charge",
        "credit_correction",
        "platform/e",
        ",",
        0,
        1,
        -1,
        7,
        2**62,
        2**63,
        10**17,
        None,
        1.0,
    ]
)


@given(st.lists(st.tuples(st.sampled_from(list(document()["lines"])), st.integers(0, 119), _VALUES), max_size=3))
def test_both_readers_agree_on_drawn_changes(changes: list[tuple[str, int, object]]) -> None:
    found = copy.deepcopy(_DRAWN)
    for column, index, value in changes:
        found["lines"][column][index] = value
    for account, totals in zip(found["accounts"], _sums(found), strict=True):
        account["totals"] = totals
    fast, contract = verdicts(found)
    assert fast == contract


_DRAWN = document()


def _sums(found: Document) -> list[list[list[object]]]:
    """The totals that the changed lines have, so that other checks are met too."""
    lines, totals = found["lines"], []
    for account in range(3):
        sums: dict[tuple[str, str], int] = {}
        for index in range(account * 40, account * 40 + 40):
            key = str(lines["kinds"][index]), str(lines["classes"][index])
            amount = lines["amounts_micros"][index]
            sums[key] = sums.get(key, 0) + (amount if isinstance(amount, int) else 0)
        totals.append([[kind, name, amount] for (kind, name), amount in sorted(sums.items())])
    return totals


def test_a_bad_batch_still_says_of_which_stream_it_is() -> None:
    found = document()
    found["accounts"] = "none"
    head = read_head(compress(orjson.dumps(found)))
    assert head is not None
    assert (head.shard, head.seq) == (1, 2)
    assert read_head(b"no batch") is None


def test_nothing_larger_than_the_bound_is_unpacked() -> None:
    bomb = bytes(cramjam.zstd.compress(b"\0" * (DOCUMENT_BYTES_MAX + 1)))
    with pytest.raises(ValueError, match="may have"):
        decompress(bomb)
    for size in (0, 1, 255, 256, 65_791, 70_000):
        assert decompress(compress(b"x" * size)) == b"x" * size
    with pytest.raises(ValueError, match="not a zstd frame"):
        decompress(b"x" * 100)
