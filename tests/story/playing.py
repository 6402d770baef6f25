"""Playing a story on two processes of every service, and holding what they did against what was true."""

import json
import random
import signal
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from aiokafka import AIOKafkaProducer

from deploy.local.infrastructure.probes import run_async
from shared.clock import MINUTE_US, SECOND_US, format_instant, parse_instant
from shared.topics import COMMANDS, ENFORCEMENT_EVENTS, LIFECYCLE, USAGE
from tests.fleet.making import Event, lines_of
from tests.oracle.accounts import answer
from tests.standins.town import Town
from tests.story.bad_rows import BAD_ROWS, break_row, mend_row
from tests.story.drawing import Account, Credit, Step, Story, TroubleAt
from tests.story.truth import Truth
from tests.system.broker import Outgoing, outgoing
from tests.system.cluster import Cluster
from tests.system.waiting import wait_for

SETTLE_DELAY_US = 3 * SECOND_US
SETTLED_SECONDS = 120
MICROS = 1_000_000
PAID_UNITS = 100_000
AGREEMENT = {
    "threshold_micros": 150_000 * MICROS,
    "target_micros": 300_000 * MICROS,
    "daily_cap_micros": 1_000_000 * MICROS,
    "monthly_cap_micros": 5_000_000 * MICROS,
    "consent": "Charge my card when my balance is low.",
    "actor": "the customer",
}


class StoryError(AssertionError):
    """Something that a story showed to be wrong, with the seed that replays it."""


@dataclass
class Play:
    """One story on a town that other stories may have used before."""

    story: Story
    town: Town
    obeyed: set[str] = field(default_factory=set)
    garbage: int = 0
    paused: list[str] = field(default_factory=list)
    killed: list[str] = field(default_factory=list)
    dumps: dict[str, Path] = field(default_factory=dict)
    given: list[Credit] = field(default_factory=list)  # since the dump of balance
    unconfirmed: list[str] = field(default_factory=list)
    paid_order: str | None = None
    known_deletes: set[str] = field(default_factory=set)  # commanded before the restore that is not confirmed
    broken: dict[str, str] = field(default_factory=dict)  # services with a bad row, and what mends it

    def __post_init__(self) -> None:
        self.draw = random.Random(self.story.seed * 7919)
        self.truth = Truth(self.story.books, self.cluster.regions)

    @property
    def cluster(self) -> Cluster:
        return self.town.cluster

    @property
    def tenants(self) -> str:
        return f"s{self.story.seed}-"

    # Playing

    def run(self) -> None:
        """Play all steps and check everything. Raises StoryError."""
        for number, step in enumerate(self.story.steps):
            self._play(number, step)
        self._recover()
        self._settle()
        self._check_ledger()
        self._mend_rows()
        self._settle()
        self._confirm()
        self._platform_acts(obedience=1.0)
        self._settle()
        self._look()
        self._check_ledger()
        self._check_consent()
        self._check_nothing_held_up()
        self._check_everybody_stopped()

    def _play(self, number: int, step: Step) -> None:
        for credit in step.credits:
            self._credit(credit)
        for trouble in step.troubles:
            self._begin(trouble)
        lines = lines_of(step.events)
        self.truth.lines += lines
        self.cluster.publish(lines, seed=self.story.seed * 100 + number)
        if any(trouble.kind == "repeat" for trouble in step.troubles):
            self.cluster.publish(self.truth.lines[-20:], seed=number)
        self._look()
        if not self.paused and not self.killed:
            self._wait_read()
        self.cluster.set_clock(step.at_us)
        self._look()
        for trouble in step.troubles:
            self._trouble(trouble)
        self._recover()
        for trouble in step.troubles:
            if trouble.kind == "restore":
                self._restore(trouble.target)
            elif trouble.kind == "consent":
                self._withdraw_consent()
            elif trouble.kind == "bad row":
                self._break_row(trouble.target)
        if step.waits:
            self._settle()
        self._platform_acts(obedience=self.story.obedience)
        self._check_commands()
        if self.draw.random() < 0.5:
            self._confirm()

    def _credit(self, credit: Credit) -> None:
        self.cluster.credit(credit.account, credit.amount_micros, credit.key)
        self._note_credit(credit.account, credit.amount_micros)
        self.given.append(credit)

    def _note_credit(self, account: Account, amount_micros: int) -> None:
        self.truth.credits[account] = self.truth.credits.get(account, 0) + amount_micros

    # Troubles

    def _begin(self, trouble: TroubleAt) -> None:
        if trouble.kind == "pause" and trouble.target not in self.killed:
            self.cluster.signal(trouble.target, signal.SIGSTOP)
            self.paused.append(trouble.target)
        elif trouble.kind == "kill" and trouble.target not in (*self.paused, *self.killed):
            self.cluster.kill(trouble.target)
            self.killed.append(trouble.target)

    def _trouble(self, trouble: TroubleAt) -> None:
        if trouble.kind == "cut":
            for _ in range(5):
                self.cluster.cut_sessions(trouble.target)
        elif trouble.kind == "garbage":
            self.garbage += 1
            self.cluster.produce([Outgoing(LIFECYCLE, b"\x00 no event"), Outgoing(USAGE, b'{"specversion":"1.0"}')])
        elif trouble.kind == "aborted":
            run_async(self._abort())
        elif trouble.kind == "back up":
            self.dumps[trouble.target] = self.cluster.dump(trouble.target)
            self.given.clear()

    def _restore(self, service: str) -> None:
        """The database is lost; both processes start at once on its dump. An operator gives again what balance lost."""
        names = [name for name in self.cluster.process_names if name.partition("-")[0] == service]
        for name in names:
            self.cluster.kill(name)
        if service != "enforcement":
            # What was decided before the loss is on its way.
            wait_for(lambda: self.cluster.status("enforcement").get("unpublished") == 0, what="commands told")
        self.known_deletes = {item["id"] for item in self._read(COMMANDS) if item["type"] != "container.stop"}
        self.cluster.restore_dump(service, self.dumps[service])
        if service == "metering" and service in self.broken:
            # Nothing is settled again of a history that can't be read: the dump's row is mended before the start.
            mend_row(self.cluster, service, self._victim(service), self.broken.pop(service))
        lost = list(self.given) if service == "balance" else []
        for credit in lost:
            self._note_credit(credit.account, -credit.amount_micros)
        self._look()
        for name in names:
            self.cluster.start(name, wait=False)
        for name in names:
            self.cluster.wait_ready(name)
        self.unconfirmed.append(service)
        for credit in lost:
            self.cluster.credit(credit.account, credit.amount_micros, credit.key)
            self._note_credit(credit.account, credit.amount_micros)

    def _withdraw_consent(self) -> None:
        """A customer pays, agrees to automatic top-up while Stripe is out, and withdraws before it is back."""
        tenant = f"{self.tenants}payer"
        order = self.town.order(tenant, str(PAID_UNITS), save_card=True)
        self.town.pay(order)
        self.town.wait_balance(tenant, PAID_UNITS)
        self._note_credit(("vn", tenant), PAID_UNITS * MICROS)
        self.paid_order = order["order_id"]
        url = f"{self.town.payment}/v1/accounts/vn/{tenant}/auto-top-up"
        self.town.control("stripe", "/down", seconds=600, how="503")
        wait_for(lambda: self.town.http.put(url, json=AGREEMENT).is_success, what="the saved card is known")
        with suppress(AssertionError):
            # After a restore that nobody confirmed there is no attempt at all.
            statement = f"select state from auto_top_up_attempt where tenant_id = '{tenant}' and state = 'open'"
            wait_for(lambda: self.cluster.query("payment", statement), timeout_seconds=5, what="an open attempt")
        assert self.town.http.delete(url).is_success
        self.town.control("stripe", "/up")

    def _break_row(self, service: str) -> None:
        """A row of an account of its own can't be worked with any more."""
        tenant = self._victim(service)
        if service == "metering":
            self._publish_victim(tenant)
        self.broken[service] = break_row(self.cluster, service, tenant)
        if service != "metering":
            self._wait_set_aside(service)

    def _publish_victim(self, tenant: str) -> None:
        """A container that runs on plenty of credit."""
        self._credit(Credit(("vn", tenant), 10**15, tenant))
        account, configuration = ("vn", tenant), {"gpu_sku": "a30", "gpu_count": 1, "persistent_storage_gb": 10}
        created = self._event(f"{tenant}-created", "container.created", tenant, account, **configuration)
        started = self._event(f"{tenant}-started", "container.started", tenant, account)
        lines = lines_of([created, started])
        self.truth.lines += lines
        self.cluster.publish(lines)
        self._look()
        self._wait_read()

    def _victim(self, service: str) -> str:
        return f"{self.tenants}{service}-victim"

    def _wait_set_aside(self, service: str) -> None:
        kind = BAD_ROWS[service].kind
        wait_for(
            lambda: kind in self.cluster.status(service).get("set_aside", {}),
            timeout_seconds=SETTLED_SECONDS,
            what=lambda: f"seed {self.story.seed}: {service} sets a bad row aside\n{self.cluster.logs()}",
        )

    def _mend_rows(self) -> None:
        """An operator sees what is set aside, mends the rows, and has the items tried again."""
        for service, kept in self.broken.items():
            kind = BAD_ROWS[service].kind
            items = self.cluster.get(service, "/v1/set-aside", kind=kind)["set_aside"]
            mend_row(self.cluster, service, self._victim(service), kept)
            for item in items:
                word = {"actor": "sre", "reason": "the row is mended"}
                self.cluster.post(service, f"/v1/set-aside/{kind}/{item['item']}/retry", word)
        if self.broken:
            self.broken.clear()
            self.cluster.set_clock(self.cluster.now_us + 2 * MINUTE_US)
            self._look()

    def _check_consent(self) -> None:
        """Nothing was taken of the customer but what he paid himself."""
        taken = [item["order_id"] for item in self.town.truth("stripe")]
        if taken != [order for order in [self.paid_order] if order is not None]:
            raise self._wrong(f"the customer paid {self.paid_order} and withdrew his consent; Stripe took {taken}")

    def _confirm(self) -> None:
        """An operator confirms the restores that there were."""
        for service in self.unconfirmed:
            [last, *_] = self.cluster.get(service, "/v1/restores")["restores"]
            word = {"actor": "sre", "reason": "looked at what was lost"}
            answer = self.cluster.post(service, f"/v1/restores/{last['incarnation']}/confirm", word)
            assert answer.is_success, answer.text
        self.unconfirmed.clear()

    async def _abort(self) -> None:
        """A platform's transaction that stops and deletes everything and then does not happen."""
        producer = AIOKafkaProducer(
            bootstrap_servers=self.cluster.broker.bootstrap, transactional_id=f"{self.tenants}{len(self.truth.points)}"
        )
        await producer.start()
        try:
            await producer.begin_transaction()
            for event in [event for event in self._published() if event["type"] == "container.created"]:
                for verb in ("stopped", "deleted"):
                    lie = {**event, "type": f"container.{verb}", "id": f"{event['id']}-aborted-{verb}"}
                    lie["time"] = format_instant(self.cluster.now_us)
                    lie["data"] = {key: event["data"][key] for key in ("region", "tenant_id")}
                    record = outgoing(json.dumps(lie))
                    await producer.send(self.cluster.broker.prefix + record.topic, record.value)
            await producer.abort_transaction()
        finally:
            await producer.stop()

    def _published(self) -> list[Event]:
        return [json.loads(line) for line in self.truth.lines]

    def _recover(self) -> None:
        for name in self.paused:
            self.cluster.signal(name, signal.SIGCONT)
        for name in self.killed:
            self.cluster.start(name, wait=False)
        for name in (*self.paused, *self.killed):
            self.cluster.wait_ready(name)
        self.paused.clear()
        self.killed.clear()

    # Waiting

    def _wait_read(self) -> None:
        ends = self.cluster.broker.ends(LIFECYCLE)
        wait_for(
            lambda: not [item for item in self.cluster.unsettled(ends, ("metering",)) if "applied" in item],
            timeout_seconds=SETTLED_SECONDS,
            what=lambda: f"seed {self.story.seed}: events read\n{self.cluster.logs()}",
        )

    def _settle(self) -> None:
        self.cluster.settle(SETTLED_SECONDS)

    # What is true

    def _look(self) -> dict[Account, int]:
        now_us = self.cluster.now_us
        return self.truth.look(now_us - SETTLE_DELAY_US, now_us, self._commanded())

    def _commanded(self) -> dict[tuple[str, str], int]:
        """When the deletion of each resource was commanded and not given up."""
        found: dict[tuple[str, str], int] = {}
        for event in self._read(ENFORCEMENT_EVENTS):
            key = event["data"]["region"], event["data"].get("resource_id") or ""
            if event["type"] == "deletion.commanded":
                found[key] = min(found.get(key, 2**62), parse_instant(event["time"]))
            elif event["type"] == "deletion.abandoned":
                found.pop(key, None)
        return found

    def _read(self, topic: str) -> list[dict[str, Any]]:
        """Every event of this story on a topic, once."""
        found: dict[str, dict[str, Any]] = {}
        for _, value in self.cluster.broker.read(topic):
            event = json.loads(value or b"{}")
            if event.get("data", {}).get("tenant_id", "").startswith(self.tenants):
                found.setdefault(event["id"], event)
        return list(found.values())

    # The platform

    def _platform_acts(self, *, obedience: float) -> None:
        """Obey commands that have not expired, and say so; a delete is redeemed first."""
        done: list[Event] = []
        for command in self._read(COMMANDS):
            expired = parse_instant(command["data"]["expires_at"]) <= self.cluster.now_us
            if command["id"] in self.obeyed or expired or self.draw.random() > obedience:
                continue
            if command["type"] == "container.stop":
                done.append(self._say(command, "container.stopped"))
            elif self._redeem(command):
                family = command["type"].partition(".")[0]
                done.append(self._say(command, f"{family}.deleted"))
            self.obeyed.add(command["id"])
        lines = lines_of(done)
        self.truth.lines += lines
        if lines:
            self.cluster.publish(lines, seed=len(self.obeyed))
            self._look()

    def _say(self, command: Mapping[str, Any], kind: str) -> Event:
        account = command["data"]["region"], command["data"]["tenant_id"]
        return self._event(f"obeyed-{command['id']}", kind, command["subject"], account)

    def _event(self, event_id: str, kind: str, subject: str, account: Account, **data: Any) -> Event:
        """What a platform says of now."""
        region, tenant_id = account
        return {
            "specversion": "1.0",
            "id": event_id,
            "source": f"platform/{region}",
            "type": kind,
            "subject": subject,
            "time": format_instant(self.cluster.now_us),
            "data": {"region": region, "tenant_id": tenant_id, **data},
        }

    def _redeem(self, command: Mapping[str, Any]) -> bool:
        permit = command["data"]["permit_id"]
        body = {"resource_id": command["subject"]}
        with suppress(httpx.TransportError):
            return self.cluster.post("balance", f"/v1/deletion-permits/{permit}/redemptions", body).is_success
        return False

    # What must hold

    def _check_commands(self) -> None:
        """Nobody is stopped who was never at or below zero; nothing is deleted without a grace period below it."""
        for command in self._read(COMMANDS):
            account = command["data"]["region"], command["data"]["tenant_id"]
            if command["type"] == "container.stop":
                if self.truth.least(account) > 0:
                    raise self._wrong(
                        f"{command['subject']} is stopped; {account} never had less than "
                        f"{self.truth.least(account)} micros"
                    )
                continue
            if self.unconfirmed and command["id"] not in self.known_deletes:
                raise self._wrong(f"{command['subject']} is deleted before anybody confirmed the restore")
            grace_us = self.cluster.regions[account[0]]["grace_seconds"] * SECOND_US
            if parse_instant(command["time"]) - parse_instant(command["data"]["negative_since"]) < grace_us:
                raise self._wrong(f"{command['subject']} is deleted before its time")
            if not self._was_below_zero(account, parse_instant(command["time"]), grace_us):
                raise self._wrong(f"{command['subject']} is deleted; {account} was not below zero all the while")

    def _was_below_zero(self, account: Account, at_us: int, grace_us: int) -> bool:
        """Whether every point of truth within the grace period shows the account below zero.

        The clock stands while a step is played: of the points at the command's own instant, those after it count for
        nothing, and nobody can tell which they are. One of them below zero is enough.
        """
        before = [balances for now_us, balances in self.truth.points if at_us - grace_us < now_us < at_us]
        at_once = [balances for now_us, balances in self.truth.points if now_us == at_us]
        return all(balances.get(account, 0) < 0 for balances in before) and (
            not at_once or any(balances.get(account, 0) < 0 for balances in at_once)
        )

    def _check_ledger(self) -> None:
        now_us = self.cluster.now_us
        through_us = now_us - SETTLE_DELAY_US
        commanded = self._commanded()
        totals = answer(
            self.truth.lines, self.story.books, self.cluster.regions, through_us, now_us=now_us, commanded=commanded
        ).totals()
        balances = self.cluster.balances()
        wrong = [
            (account, expected, balances.get(account, 0))
            for account in sorted({*self.truth.credits, *totals})
            if not ("metering" in self.broken and account[1] == self._victim("metering"))
            and (expected := self.truth.credits.get(account, 0) - totals.get(account, 0)) != balances.get(account, 0)
        ]
        if wrong:
            raise self._wrong(f"the ledger differs (account, must be, is): {wrong}")
        if found := self.cluster.audit():
            raise self._wrong(f"the books are not in order: {found[:10]}")

    def _check_nothing_held_up(self) -> None:
        for name in ("metering", "balance", "enforcement", "payment"):
            status = self.cluster.status(name)
            if status.get("set_aside"):
                raise self._wrong(f"{name} set aside {status['set_aside']}")
        stopped = [stream for stream in self.cluster.status("balance")["streams"] if stream["stopped"]]
        if stopped:
            raise self._wrong(f"streams are stopped: {stopped}")

    def _check_everybody_stopped(self) -> None:
        """What runs on an account at or below zero has its stop command, or was stopped by its platform since."""
        balances = self.truth.points[-1][1]
        empty = {account for account, balance in balances.items() if balance <= 0}

        def unstopped() -> list[str]:
            running = {(item["region"], item["resource_id"]) for account in empty for item in self._running(account)}
            told = {(item["data"]["region"], item["subject"]) for item in self._read(COMMANDS)}
            return sorted(f"{region}/{name}" for region, name in running - told)

        wait_for(
            lambda: not unstopped(),
            timeout_seconds=30,
            what=lambda: f"seed {self.story.seed}: stop commands for {unstopped()}\n{self.cluster.logs()}",
        )

    def _running(self, account: Account) -> Iterable[Mapping[str, str]]:
        """The containers of an account that run, as enforcement knows them."""
        statement = (
            "select region, resource_id from resource where created and not deleted and run_event_id is not null "
            f"and region = '{account[0]}' and tenant_id = '{account[1]}'"
        )
        return [{"region": row[0], "resource_id": row[1]} for row in self.cluster.query("enforcement", statement)]

    def _wrong(self, what: str) -> StoryError:
        return StoryError(f"seed {self.story.seed}: {what}\n{self.cluster.logs()}")
