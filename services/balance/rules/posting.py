"""Which entries a transaction posts.

One entry per account, kind and class of a batch, in the order credit correction, debit correction, charge, kinds
alphabetical. Accounts come in the order of their ids, in which they are locked, inserted and sealed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

from services.balance.rules.chain import CUSTOMER, adjustment_cause, charge_cause, entry_line, fact_cause
from services.balance.wire import WireAccount
from shared.events.account import EntryClass
from shared.events.charges import LineClass

_BY_ACCOUNT = itemgetter(0, 1)
_CLASS_ORDER = {"credit_correction": 0, "debit_correction": 1, "charge": 2}


@dataclass(frozen=True, slots=True)
class Side:
    """Between which ledger accounts an entry moves, and its class."""

    debit_account: str
    credit_account: str
    entry_class: EntryClass

    @property
    def text(self) -> str:
        """As the chain writes it."""
        return f"{self.debit_account} {self.credit_account} {self.entry_class}"


@dataclass(frozen=True, slots=True)
class Cause:
    """What entries are posted for: a charge batch's number, an adjustment's key, a fact's id. `place`: of the shard.

    `sha256`: of the batch's bytes, or of the adjustment's words. `account`: "region/tenant", of all but batches.
    """

    place: int
    seq: int | None = None
    adjustment_key: str | None = None
    fact_id: str | None = None
    sha256: bytes = b""
    account: str = ""

    @property
    def text(self) -> str:
        """As the chain writes it."""
        if self.fact_id is not None:
            return fact_cause(self.account, self.fact_id)
        if self.adjustment_key is not None:
            return adjustment_cause(self.account, self.adjustment_key, self.sha256)
        return charge_cause(self.seq or 0, self.sha256)


# One account's part of one batch: (account_id, index of its cause, the batch's account).
Part = tuple[int, int, WireAccount]
# (account_id, net change in the customer's favour, entries, entries in the customer's favour, new burn, place)
AccountMove = tuple[int, int, int, int, int, int]
# (account_id, ordinal among the account's entries here, amount, change up to here, index of side, index of cause)
EntryRow = tuple[int, int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class Posting:
    """All that a transaction posts, accounts ascending; rows are tuples, because there are very many.

    `restless` are accounts whose burn changes within it: at its end alone one does not see whether they were low.
    """

    sides: Sequence[Side]
    causes: Sequence[Cause]
    accounts: list[AccountMove]
    entries: list[EntryRow]
    restless: Sequence[int] = ()

    def chain_lines(self, places: int) -> list[list[str]]:
        """The chain's lines, per place."""
        sides = [side.text for side in self.sides]
        causes = [cause.text for cause in self.causes]
        lines: list[list[str]] = [[] for _ in range(places)]
        adders = [lines[cause.place].append for cause in self.causes]
        for account_id, _, amount_micros, _, side, cause in self.entries:
            adders[cause](entry_line(account_id, sides[side], amount_micros, causes[cause]))
        return lines


class SideTable:
    """The sides of charges by class and kind, kept for a process's life: few kinds, looked up once per entry."""

    def __init__(self) -> None:
        self.sides: list[Side] = []
        self.indexes: dict[str, dict[str, int]] = {name: {} for name in _CLASS_ORDER}

    def add(self, kind: str, entry_class: LineClass) -> int:
        """A credit correction takes back from revenue; charges and debit corrections give to it."""
        revenue = f"revenue:{kind}"
        favour = entry_class == "credit_correction"
        index = self.indexes[entry_class].setdefault(kind, len(self.sides))
        if index == len(self.sides):
            self.sides.append(Side(revenue, CUSTOMER, entry_class) if favour else Side(CUSTOMER, revenue, entry_class))
        return index


def posting_order(total: tuple[str, str, int]) -> tuple[int, str]:
    return _CLASS_ORDER[total[1]], total[0]


def lay_out(parts: list[Part], causes: Sequence[Cause], table: SideTable) -> Posting:
    """Sort the parts of a transaction's batches by account, in place, and make their entries."""
    parts.sort(key=_BY_ACCOUNT)
    accounts: list[AccountMove] = []
    entries: list[EntryRow] = []
    restless: list[int] = []
    indexes = table.indexes
    index = 0
    while index < len(parts):
        account_id, cause, account = parts[index]
        change_micros = ordinal = favours = 0
        while True:
            totals = account.totals
            for kind, entry_class, signed_micros in sorted(totals, key=posting_order) if len(totals) > 1 else totals:
                if signed_micros:
                    change_micros -= signed_micros
                    ordinal += 1
                    favours += signed_micros < 0
                    side = indexes[entry_class].get(kind)
                    if side is None:
                        side = table.add(kind, entry_class)
                    entries.append((account_id, ordinal, abs(signed_micros), change_micros, side, cause))
            index += 1
            if index == len(parts) or parts[index][0] != account_id:
                break
            burn_micros = account.burn_micros_per_hour
            _, cause, account = parts[index]
            if account.burn_micros_per_hour != burn_micros:
                restless.append(account_id)
        burn_micros = account.burn_micros_per_hour
        accounts.append((account_id, change_micros, ordinal, favours, burn_micros, causes[cause].place))
    return Posting(table.sides, causes, accounts, entries, restless)


@dataclass(frozen=True, slots=True)
class FactEntry:
    """An entry caused by a fact of payment, positive in the customer's favour; one per account and posting at most.

    `account` is its "region/tenant".
    """

    account_id: int
    account: str
    place: int
    fact_id: str
    amount_micros: int
    counter_account: str
    entry_class: EntryClass
    burn_micros_per_hour: int


def post_facts(facts: Sequence[FactEntry]) -> Posting:
    """One entry per fact, between the customer and the fact's counter account."""
    ordered = sorted(facts, key=lambda fact: fact.account_id)
    return Posting(
        [
            Side(fact.counter_account, CUSTOMER, fact.entry_class)
            if fact.amount_micros > 0
            else Side(CUSTOMER, fact.counter_account, fact.entry_class)
            for fact in ordered
        ],
        [Cause(fact.place, fact_id=fact.fact_id, account=fact.account) for fact in ordered],
        [
            (fact.account_id, fact.amount_micros, 1, int(fact.amount_micros > 0), fact.burn_micros_per_hour, fact.place)
            for fact in ordered
        ],
        [
            (fact.account_id, 1, abs(fact.amount_micros), fact.amount_micros, number, number)
            for number, fact in enumerate(ordered)
        ],
    )


def adjust(
    account_id: int,
    account: str,
    amount_micros: int,
    idempotency_key: str,
    request_sha256: bytes,
    burn_micros_per_hour: int,
) -> Posting:
    """The one entry of an operator's adjustment, positive in the customer's favour."""
    favour = amount_micros > 0
    side = Side("adjustment", CUSTOMER, "adjustment") if favour else Side(CUSTOMER, "adjustment", "adjustment")
    return Posting(
        [side],
        [Cause(0, adjustment_key=idempotency_key, sha256=request_sha256, account=account)],
        [(account_id, amount_micros, 1, int(favour), burn_micros_per_hour, 0)],
        [(account_id, 1, abs(amount_micros), amount_micros, 0, 0)],
    )
