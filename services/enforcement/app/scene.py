"""What one transaction has locked, learnt and decided, until it is written at once."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import get_args

from services.enforcement.handlers import LifecycleFact
from services.enforcement.messages import Messages, StopOrder
from services.enforcement.rules.account import Account, AccountKey, learn_account
from services.enforcement.rules.deletion import Case, Grace, follow_account, name_case, reopen_case
from services.enforcement.rules.lifecycle import RETRACTED, Fact, RunKey, dispute, learn_fact
from services.enforcement.rules.resource import Family, Resource, ResourceKey, is_foreign
from services.enforcement.rules.stops import Backoff, Charged, decide_stops, next_attempt_us
from services.enforcement.store.resources import Found
from services.enforcement.store.stops import StopRequest
from shared.clock import SECOND_US
from shared.outbox import Message

_ResourceId = tuple[str, str]


class Scene:
    """The state of the locked accounts and of the resources that a transaction is about, and what changes in it."""

    def __init__(self, accounts: dict[AccountKey, Account], make: Messages, now_us: int) -> None:
        self.accounts = accounts
        self.now_us = now_us
        self.make = make
        self.messages: list[Message] = []
        self.changed_accounts: set[AccountKey] = set()
        self.changed_resources: dict[ResourceKey, Resource] = {}
        self.changed_requests: dict[tuple[_ResourceId, RunKey], StopRequest] = {}
        self.changed_cases: dict[str, Case] = {}
        self.opened: list[StopRequest] = []
        self.deleted: list[_ResourceId] = []
        self.created: list[ResourceKey] = []
        self.foreign = 0
        self._touched: set[_ResourceId] = set()
        self._unreadable: set[_ResourceId] = set()
        self._resources: dict[_ResourceId, dict[ResourceKey, Resource]] = {}
        self._requests: dict[_ResourceId, dict[RunKey, StopRequest]] = {}
        self._cases: dict[str, Case] = {}

    def add_resources(self, resources: Iterable[Resource]) -> None:
        for resource in resources:
            self._resources.setdefault((resource.key.region, resource.key.resource_id), {})[resource.key] = resource

    def add_found(self, found: Found) -> None:
        """Add resources, and remember which can't be read: what our books have of those is not known."""
        self.add_resources(found.resources)
        self._unreadable.update(key[:2] for key in found.unreadable)

    def add_requests(self, requests: Iterable[StopRequest]) -> None:
        for request in requests:
            self._requests.setdefault((request.key.region, request.resource_id), {})[request.run] = request

    def add_cases(self, cases: Iterable[Case]) -> None:
        self._cases.update((case.case_id, case) for case in cases)

    @property
    def resource_ids(self) -> list[_ResourceId]:
        return sorted(self._resources)

    def touch_all(self) -> None:
        """Compare every loaded resource with what should run."""
        self._touched.update(self._resources)

    def learn_account(self, seen: Account, grace: Grace) -> bool:
        """Take in what balance says, if it is news, and follow it with the account's deletion case."""
        before = self.accounts[seen.key]
        if learn_account(before, seen) is not seen:
            return False
        self.accounts[seen.key] = seen
        self.changed_accounts.add(seen.key)
        current = next((case for case in self._cases.values() if case.key == seen.key and case.is_open), None)
        decision = follow_account(current, before, seen, grace, self.now_us)
        if decision.cancel is not None:
            cancelled = self.change_case(decision.cancel)
            self.messages.append(self.make.case_event("deletion.cancelled", cancelled, cancelled.reason))
        if decision.schedule is not None:
            self._schedule(decision.schedule)
        return True

    def _schedule(self, case: Case) -> None:
        """Open a case. One of the same instant can have ended before: on a clock that stands, or by a correction."""
        before = self._cases.get(case.case_id)
        if before is not None and before.state == "done":
            return
        if before is not None:
            # What was published of it once is not published again.
            case = replace(
                case,
                began_at_us=max(case.began_at_us, before.began_at_us),
                due_at_us=max(case.due_at_us, before.due_at_us),
                changes=before.changes,
                remind_at_us=before.remind_at_us,
                reminded_at_us=before.reminded_at_us,
            )
        self.change_case(case)
        self.messages.append(self.make.case_event("deletion.scheduled", self._cases[case.case_id]))

    def change_case(self, case: Case) -> Case:
        changed = replace(case, changes=case.changes + 1)
        self._cases[case.case_id] = changed
        # Closing comes before opening: an account has one open case.
        self.changed_cases.pop(case.case_id, None)
        self.changed_cases[case.case_id] = changed
        return changed

    def learn_lifecycle(self, seen: LifecycleFact) -> None:
        """Take in a lifecycle fact. A retraction does not name the family: it is kept for both until one is created."""
        if seen.fact.verb != RETRACTED:
            self._learn_fact(seen.key, seen.fact)
            return
        rows = self._resources.get((seen.key.region, seen.key.resource_id), {}).values()
        created = [row.key.family for row in rows if row.created and row.key.account == seen.key.account]
        for family in created or get_args(Family):
            self._learn_fact(seen.key._replace(family=family), seen.fact)

    def _learn_fact(self, key: ResourceKey, fact: Fact) -> None:
        resource_id = (key.region, key.resource_id)
        rows = self._resources.setdefault(resource_id, {})
        known = rows.get(key) or Resource(key)
        if is_foreign(key, rows.values()):
            self.foreign += 1
            self._dispute(rows)
            return
        life = learn_fact(known.life, fact)
        self._touched.add(resource_id)
        if life is known.life:
            return
        grown = rows[key] = self.changed_resources[key] = Resource(key, life.created, life)
        if known.is_live and not grown.is_live:
            self.deleted.append(resource_id)
        if grown.is_live and not known.is_live:
            self.created.append(key)

    def _dispute(self, rows: dict[ResourceKey, Resource]) -> None:
        """Somebody else claims a resource: metering may have heard that claim first."""
        for key, row in rows.items():
            if row.created and not row.life.is_disputed:
                rows[key] = self.changed_resources[key] = replace(row, life=dispute(row.life))

    def is_doubtful(self, request: StopRequest) -> bool:
        """Whether metering may know another life of the container, or another account that it is of."""
        resource_id = request.key.region, request.resource_id
        rows = self._resources.get(resource_id, {})
        return (
            resource_id in self._unreadable
            or len({key.account for key in rows}) > 1
            or any(row.life.is_doubtful for row in rows.values())
        )

    def reopen_cases(self, grace_of: Callable[[str], Grace]) -> None:
        """What is new on an account whose case is done, and which stays below zero, is to be deleted as well."""
        lives = {key.account for key in self.created if self.changed_resources[key].is_live}
        for key in sorted(lives):
            since_us = self.accounts[key].negative_since_us
            case = None if since_us is None else self._cases.get(name_case(key, since_us))
            if case is not None and case.state == "done":
                again = self.change_case(reopen_case(case, grace_of(key.region), self.now_us))
                self.messages.append(self.make.case_event("deletion.scheduled", again))

    def demand_stop(self, key: AccountKey, resource_id: str, run: RunKey) -> None:
        """Have a run stopped that metering charges the account for; nothing where it is asked for already."""
        rows = self._resources.get((key.region, resource_id), {})
        row = rows.get(ResourceKey(key.region, resource_id, key.tenant_id, "container"))
        if row is not None and row.running == run:
            # Our books have it after all.
            self._touched.add((key.region, resource_id))
            return
        before = self._requests.setdefault((key.region, resource_id), {}).get(run)
        is_asked = before is not None and before.outcome is None and before.key == key
        if self.accounts[key].must_stop and not is_asked:
            # What was asked for another account, by our books, is held back for good: metering charges this one.
            before = None if before is None else replace(before, key=key)
            self._open_request(self.accounts[key], (key.region, resource_id), run, before, metering_only=True)

    def end_uncharged(self, charged: Mapping[_ResourceId, Charged]) -> None:
        """End what rests on metering's word alone and metering says no more: that run is over, or another account's."""
        for request in self._open_metering_only():
            said = charged.get((request.key.region, request.resource_id))
            if said is not None and (said.tenant_id, said.run) != (request.key.tenant_id, request.run):
                self._confirm(request)

    def _open_metering_only(self) -> list[StopRequest]:
        return [
            request
            for requests in self._requests.values()
            for request in requests.values()
            if request.metering_only and request.outcome is None
        ]

    def decide_stops(self) -> None:
        """Open and end stop requests for every touched container, by where the whole transaction has led."""
        self._cancel_of_recovered()
        for resource_id in sorted(self._touched):
            for resource in self._resources[resource_id].values():
                if resource.created and resource.key.account in self.accounts:
                    self._decide_stop(resource_id, resource)

    def _decide_stop(self, resource_id: _ResourceId, resource: Resource) -> None:
        account = self.accounts[resource.key.account]
        requests = self._requests.setdefault(resource_id, {})
        known = requests.get(resource.running) if resource.running is not None else None
        if known is not None and known.metering_only and known.key == account.key:
            # Our books have the run by now: from here on it is a request like others.
            self._change_request(replace(known, metering_only=False))
        decision = decide_stops(
            account,
            resource,
            (run for run, request in requests.items() if request.outcome is None and not request.metering_only),
        )
        for run in decision.confirmed:
            self._confirm(requests[run])
        for run in decision.cancelled:
            self._change_request(requests[run].end("cancelled", self.now_us))
        if decision.request is not None and not _is_of_another(requests.get(decision.request), account.key):
            self._open_request(account, resource_id, decision.request, requests.get(decision.request))

    def _cancel_of_recovered(self) -> None:
        for request in self._open_metering_only():
            account = self.accounts.get(request.key)
            if account is not None and not account.must_stop:
                self._change_request(request.end("cancelled", self.now_us))

    def _confirm(self, request: StopRequest) -> None:
        ended = self._change_request(request.end("confirmed", self.now_us))
        self.messages.append(
            self.make.stop_event("stop.confirmed", ended.key, ended.resource_id, ended.run, ended.attempts)
        )

    def _open_request(
        self,
        account: Account,
        resource_id: _ResourceId,
        run: RunKey,
        before: StopRequest | None,
        *,
        metering_only: bool = False,
    ) -> None:
        if before is None:
            fresh = StopRequest(account.key, resource_id[1], run, account.version, self.now_us, self.now_us)
            request = replace(fresh, metering_only=metering_only)
        else:
            request = before.reopen(account.version, self.now_us, metering_only=metering_only)
        self.opened.append(self._change_request(request))
        self.messages.append(self.make.stop_event("stop.requested", account.key, resource_id[1], run, request.attempts))

    def send_stop(self, request: StopRequest, sent_at_us: int, expiry_seconds: int, backoff: Backoff) -> None:
        """Send the request's next command, of an instant of its own, and note when to repeat it."""
        account = self.accounts[request.key]
        sent = replace(
            request,
            attempts=request.attempts + 1,
            account_version=account.version,
            next_attempt_at_us=next_attempt_us(self.now_us, request.attempts + 1, backoff),
        )
        expires_at_us = sent_at_us + expiry_seconds * SECOND_US
        order = StopOrder(
            account.key, request.resource_id, request.run, account.version, sent.attempts, sent_at_us, expires_at_us
        )
        self.messages.append(self.make.stop(order))
        self._change_request(sent)

    def due_requests(self, pause_us_max: int) -> list[StopRequest]:
        """The open requests whose next command is due."""
        return [
            request
            for requests in self._requests.values()
            for request in requests.values()
            if request.outcome is None and request.is_due(self.now_us, pause_us_max) and request.key in self.accounts
        ]

    def _change_request(self, request: StopRequest) -> StopRequest:
        resource_id = (request.key.region, request.resource_id)
        self._requests[resource_id][request.run] = request
        self.changed_requests[resource_id, request.run] = request
        return request


def _is_of_another(request: StopRequest | None, key: AccountKey) -> bool:
    """Whether the run is being stopped for another account, which metering charges for it."""
    return request is not None and request.metering_only and request.outcome is None and request.key != key
