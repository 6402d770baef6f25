"""An account's entries and the stored batches behind them, as balance answers them."""

import time
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from deploy.cli.account import account_path
from deploy.cli.explain_rules import PostedLine, account_lines
from deploy.cli.faults import UNAVAILABLE, CommandError
from deploy.cli.services import Services
from shared.clock import format_instant
from shared.events.charges import ChargeBatch
from shared.events.cloudevents import Instant
from shared.events.reading import READING, describe

PAGE_ENTRIES = 1000
POSTING_SECONDS = 30
POLL_SECONDS = 0.2


class Entry(BaseModel):
    """An entry of the ledger: caused by a batch (`seq`), an operator (`adjustment_key`) or a fact (`fact_id`)."""

    entry_number: int
    posted_at: Instant
    debit_account: str
    credit_account: str
    amount_micros: int
    balance_after_micros: int
    class_: str = Field(alias="class")
    shard: int
    seq: int | None
    adjustment_key: str | None = None
    fact_id: str | None = None
    reason: str | None = None
    actor: str | None = None

    @property
    def kind(self) -> str:
        """gpu, storage or a service's SKU."""
        other = self.credit_account if self.debit_account == "customer" else self.debit_account
        return other.removeprefix("revenue:")

    @property
    def signed_micros(self) -> int:
        """As the lines have it: below zero in the customer's favour."""
        return self.amount_micros if self.debit_account == "customer" else -self.amount_micros

    def as_json(self) -> dict[str, object]:
        return {**self.model_dump(by_alias=True), "posted_at": format_instant(self.posted_at), "kind": self.kind}


def load_entries(services: Services, region: str, tenant_id: str, **wanted: str | int) -> list[Entry]:
    """The `wanted` entries of an account by number. Raises CommandError."""
    entries: list[Entry] = []
    parameters: dict[str, str | int] = {"limit": PAGE_ENTRIES, **wanted}
    while True:
        page = services.get("balance", f"{account_path(region, tenant_id)}/entries", parameters)
        try:
            entries += [Entry.model_validate(entry) for entry in page["entries"]]
        except ValidationError as error:
            raise CommandError(f"balance's entries are not of this version: {describe(error)}", UNAVAILABLE) from error
        if not page["next"]:
            return sorted(entries, key=lambda entry: entry.entry_number)
        parameters["after"] = page["next"]


class Evidence:
    """The account's lines of each batch, asked for once."""

    def __init__(self, services: Services, region: str, tenant_id: str) -> None:
        self._services = services
        self._account = (region, tenant_id)
        self._lines: dict[tuple[int, int], list[PostedLine]] = {}

    def lines(self, shard: int, seq: int) -> list[PostedLine]:
        if (shard, seq) not in self._lines:
            answer = self._services.get("balance", f"/v1/evidence/{shard}/{seq}")
            self._lines[shard, seq] = account_lines(read_batch(answer), *self._account)
        return self._lines[shard, seq]

    def charged(self, resource_id: str, shard: int, seq: int) -> dict[str, int]:
        """What batches up to `seq` charged for a resource, by kind; balance sums up what it holds in hours."""
        answer = self._services.get("balance", f"{account_path(*self._account)}/charged", {"resource_id": resource_id})
        sums = {item["kind"]: int(item["amount_micros"]) for item in answer["kinds"]}
        for later in range(seq + 1, int(answer["seq"]) + 1):
            for line in self.lines(shard, later):
                if line.resource_id == resource_id:
                    sums[line.kind] = sums.get(line.kind, 0) - line.amount_micros
        return sums

    def lines_of(self, entries: Iterable[Entry]) -> Iterator[PostedLine]:
        """The lines behind entries, batch by batch in posting order."""
        batches = {(entry.shard, entry.seq) for entry in entries if entry.seq is not None}
        for shard, seq in sorted(batches):
            yield from self.lines(shard, seq)


def read_batch(answer: dict[str, Any]) -> ChargeBatch:
    try:
        return ChargeBatch.model_validate(answer, extra="ignore", context=READING)
    except ValidationError as error:
        raise CommandError(f"the evidence is no charge batch: {describe(error)}") from error


def wait_posted(services: Services, shard: int, seq: int) -> None:
    """Wait until balance has posted a shard's stream up to `seq`. Raises CommandError if it does not in time."""
    deadline = time.monotonic() + POSTING_SECONDS
    while True:
        streams = services.get("balance", "/v1/status")["streams"]
        posted = next((stream["seq"] for stream in streams if stream["shard"] == shard), 0)
        if posted >= seq:
            return
        if time.monotonic() > deadline:
            raise CommandError(
                f"balance has posted shard {shard} up to {posted}, metering has charged up to {seq}: "
                "`tollkeeper wait-settled` says what it waits for",
                UNAVAILABLE,
            )
        time.sleep(POLL_SECONDS)
