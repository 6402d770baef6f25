"""Closed vocabularies stand once: what SQL checks is what the code's Literals say, in every service's database."""

import re
from collections.abc import Collection
from typing import Any, get_args

import asyncpg
import pytest

from services.balance.rules.admission import Action, PriceKind
from services.balance.store.holds import EndReason
from services.balance.store.streams import DecisionKind
from services.enforcement.rules.deletion import CaseState
from services.enforcement.rules.resource import Family
from services.payment.rules.auto_top_up import AttemptState, SuspensionReason
from services.payment.rules.decision import OrderState
from services.payment.store.queue import Resolution
from shared.events.account import AccountState, EntryClass, GrantKind
from shared.events.charges import LineClass
from shared.events.payments import Outcome, Provider
from tests.conftest import MakeDatabase

# (table, column) → the Literal, or the words where only its own service's code says them
Vocabularies = dict[tuple[str, str], Any]

VOCABULARIES: dict[str, Vocabularies] = {
    "balance": {
        ("account", "state"): AccountState,
        ("hold", "action"): Action,
        ("hold", "end_reason"): EndReason,
        ("entry", "class"): EntryClass,
        ("price", "kind"): PriceKind,
        ("promotional_grant", "kind"): GrantKind,
        ("stream_decision", "kind"): DecisionKind,
    },
    "enforcement": {
        # An account that was never told of is unknown.
        ("enforced_account", "state"): {"unknown", *get_args(AccountState)},
        ("resource", "family"): Family,
        ("stop_request", "outcome"): {"confirmed", "cancelled"},
        ("deletion_case", "state"): CaseState,
    },
    "metering": {("waiting_event", "state"): {"pending", "parked"}},
    "payment": {
        ("auto_top_up_attempt", "state"): AttemptState,
        ("auto_top_up", "suspended_reason"): SuspensionReason,
        ("payment_order", "provider"): Provider,
        ("payment_order", "state"): OrderState,
        # A dispute is open until it has its outcome.
        ("dispute", "outcome"): {"open", *get_args(Outcome)},
        ("refund", "state"): {"pending", "succeeded", "failed"},
        ("queue_item", "resolution"): Resolution,
    },
}

_CHECKS = """
select c.conrelid::regclass::text as table, pg_get_constraintdef(c.oid) as definition
from pg_constraint c join pg_class r on r.oid = c.conrelid
where c.contype = 'c' and not r.relispartition order by 1, 2
"""
_WORDS = re.compile(r"CHECK \(\((\w+) = ANY \(ARRAY\[(.*)\]\)\)\)")


def words_of(vocabulary: Any) -> set[str]:
    return set(vocabulary) if isinstance(vocabulary, Collection) else set(get_args(vocabulary))


@pytest.mark.parametrize("service", VOCABULARIES)
async def test_sql_checks_the_words_of_the_code(service: str, make_database: MakeDatabase) -> None:
    owner_url, _ = await make_database(service)
    connection = await asyncpg.connect(owner_url)
    try:
        rows = await connection.fetch(_CHECKS)
    finally:
        await connection.close()
    checked = {
        (row["table"], found.group(1)): set(re.findall(r"'([^']*)'", found.group(2)))
        for row in rows
        if (found := _WORDS.fullmatch(row["definition"]))
    }
    known = {place: words_of(vocabulary) for place, vocabulary in VOCABULARIES[service].items()}
    assert checked == known, "name the column here, with the Literal that the code uses"


def test_a_line_becomes_an_entry_of_its_class() -> None:
    assert set(get_args(LineClass)) < set(get_args(EntryClass))
