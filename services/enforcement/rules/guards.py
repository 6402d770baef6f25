"""The guards of a deletion: every one must agree. Absence of data is never a reason to delete.

`GUARDS` decide on a due case by its evidence, before balance is asked for a permit; `COMMAND_GUARDS` decide on each
resource under the account's lock, right before its command.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from services.enforcement.rules.account import Account
from services.enforcement.rules.deletion import Case, is_due
from shared.clock import HOUR_US, SECOND_US, format_instant

# As balance has it: orders that nobody tried to pay delay a deletion by no more than this, all together.
UNATTEMPTED_DELAY_US = 2 * HOUR_US
# A decision is carried out within this time of its first question, or made again.
EVIDENCE_US_MAX = 60 * SECOND_US
# So many of what is not known are named.
NAMED_MAX = 5


@dataclass(frozen=True, slots=True)
class BalanceSeen:
    """Balance's status, as far as it concerns an account: `seq` is the last batch posted of its shard."""

    now_us: int
    seq: int
    stopped: str | None


@dataclass(frozen=True, slots=True)
class MeteringSeen:
    """Metering's status, as far as it concerns an account: its shard is charged `through`, by batches up to `seq`."""

    now_us: int
    seq: int
    through_us: int
    halted: str | None


@dataclass(frozen=True, slots=True)
class OpenPayment:
    """Something that may still become a credit; `attempted` where money may have moved at the provider.

    `asked`: the provider answered for it just now. What is not known for certain may have moved money as well.
    """

    name: str
    attempted: bool
    asked: bool


@dataclass(frozen=True, slots=True)
class PaymentsSeen:
    """What payment says of an account."""

    now_us: int
    open: tuple[OpenPayment, ...]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was seen when a due case was examined. None is "not known" and freezes.

    The first question was asked at `began_at_us`, the last one at `asked_at_us`.
    """

    asked_at_us: int
    began_at_us: int
    account: Account | None = None  # balance's fresh answer
    known_version: int = 0  # the newest version that this service had seen before
    without_reversals_micros: int | None = None  # the balance without refunds, disputes and operators' debits
    balance: BalanceSeen | None = None
    metering: MeteringSeen | None = None
    payments: PaymentsSeen | None = None
    unseen_records: int | None = None  # of our own topics, published before the question and not applied yet
    halts: tuple[str, ...] = ()  # why an operator must confirm first
    held_back: tuple[str, ...] | None = None  # what metering was told of the account and has not charged by
    unknown: tuple[str, ...] | None = None  # what metering charges the account for and our own books lack


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the guards still take for good."""

    skew_us_max: int
    lag_us_max: int


@dataclass(frozen=True, slots=True)
class Objection:
    """A reason not to delete now. One of scope "region" is shared by all cases of the region: one page for all."""

    guard: str
    reason: str
    scope: Literal["case", "region"]


class Guard(NamedTuple):
    """`check` returns why not, or None."""

    name: str
    scope: Literal["case", "region"]
    check: Callable[[Case, Evidence, Bounds], str | None]


def find_objections(case: Case, evidence: Evidence, bounds: Bounds) -> tuple[Objection, ...]:
    """Every reason not to delete now; none means that balance may be asked for a permit."""
    found = ((guard, guard.check(case, evidence, bounds)) for guard in GUARDS)
    return tuple(Objection(guard.name, reason, guard.scope) for guard, reason in found if reason is not None)


def follow_deletable(case: Case, evidence: Evidence, bounds: Bounds) -> Case:
    """The case with the instant since which nothing but untried orders stands in its way, None if something else does.

    By the earlier of our clock and balance's: balance counts from it too, and does not believe in a later one.
    """
    if any(guard.check(case, evidence, bounds) is not None for guard in GUARDS if guard.name != UNTRIED_ORDERS):
        return replace(case, deletable_at_us=None)
    if case.deletable_at_us is not None or evidence.balance is None:
        return case
    return replace(case, deletable_at_us=min(evidence.asked_at_us, evidence.balance.now_us))


def _is_halted(_case: Case, evidence: Evidence, _bounds: Bounds) -> str | None:
    return f"deletions wait for an operator: {'; '.join(evidence.halts)}" if evidence.halts else None


def _has_unseen(_case: Case, evidence: Evidence, _bounds: Bounds) -> str | None:
    return None if evidence.unseen_records == 0 else "published events are not applied yet"


def _balance_clock(_case: Case, evidence: Evidence, bounds: Bounds) -> str | None:
    balance = evidence.balance
    return "balance is out of reach" if balance is None else _differs("balance", balance.now_us, evidence, bounds)


def _posting_stopped(_case: Case, evidence: Evidence, _bounds: Bounds) -> str | None:
    balance = evidence.balance
    if balance is None or balance.stopped is None:
        return None
    return f"balance stopped posting the account's charges: {balance.stopped}"


def _posting_lags(_case: Case, evidence: Evidence, _bounds: Bounds) -> str | None:
    balance, metering = evidence.balance, evidence.metering
    if balance is None or metering is None or balance.seq >= metering.seq:
        return None
    return "charges wait to be posted"


def _metering_clock(_case: Case, evidence: Evidence, bounds: Bounds) -> str | None:
    metering = evidence.metering
    return "metering is out of reach" if metering is None else _differs("metering", metering.now_us, evidence, bounds)


def _metering_halted(_case: Case, evidence: Evidence, _bounds: Bounds) -> str | None:
    metering = evidence.metering
    return None if metering is None or metering.halted is None else f"metering is halted: {metering.halted}"


def _metering_lags(_case: Case, evidence: Evidence, bounds: Bounds) -> str | None:
    metering = evidence.metering
    if metering is None or evidence.asked_at_us - metering.through_us <= bounds.lag_us_max:
        return None
    return "metering lags: what was used and stopped of late is not charged yet"


def _held_back(_case: Case, evidence: Evidence, _bounds: Bounds) -> str | None:
    if evidence.metering is None:
        return None
    if evidence.held_back is None:
        return "metering does not tell what it keeps back of the account"
    return f"metering keeps back: {', '.join(evidence.held_back)}" if evidence.held_back else None


def _payment_clock(_case: Case, evidence: Evidence, bounds: Bounds) -> str | None:
    payments = evidence.payments
    return "payment is out of reach" if payments is None else _differs("payment", payments.now_us, evidence, bounds)


def _money_on_its_way(_case: Case, evidence: Evidence, _bounds: Bounds) -> str | None:
    payments = evidence.payments
    if payments is None:
        return None
    open_names = [item.name for item in payments.open if item.attempted or not item.asked]
    return f"a payment may still be credited: {', '.join(open_names)}" if open_names else None


def _untried_orders(case: Case, evidence: Evidence, _bounds: Bounds) -> str | None:
    """Whoever has just begun to pay has two hours, whenever that is; whoever only begins again and again has no more.

    So they count from when nothing else stood in the way: a case can have been frozen for days until then.
    """
    payments, since_us = evidence.payments, case.deletable_at_us
    if payments is None or (since_us is not None and evidence.asked_at_us >= since_us + UNATTEMPTED_DELAY_US):
        return None
    open_names = [item.name for item in payments.open if not item.attempted and item.asked]
    return f"an order may still be paid: {', '.join(open_names)}" if open_names else None


def _not_due(case: Case, evidence: Evidence, _bounds: Bounds) -> str | None:
    return None if is_due(case, evidence.asked_at_us) else "the case is not due"


def _unknown_account(_case: Case, evidence: Evidence, _bounds: Bounds) -> str | None:
    return None if evidence.account is not None else "balance does not know the account"


def _older_answer(_case: Case, evidence: Evidence, _bounds: Bounds) -> str | None:
    account = evidence.account
    if account is None or account.version >= evidence.known_version:
        return None
    return "balance answered with an older version than it had published"


def _other_state(_case: Case, evidence: Evidence, _bounds: Bounds) -> str | None:
    account = evidence.account
    return None if account is None or account.state == "negative" else f"the account's state is {account.state}"


def _not_below_zero(_case: Case, evidence: Evidence, _bounds: Bounds) -> str | None:
    account = evidence.account
    return None if account is None or account.balance_micros < 0 else "the account is not below zero"


def _other_since(case: Case, evidence: Evidence, _bounds: Bounds) -> str | None:
    account = evidence.account
    if account is None or account.negative_since_us == case.negative_since_us:
        return None
    return "the account is below zero since another instant"


def _charged_unknown(_case: Case, evidence: Evidence, _bounds: Bounds) -> str | None:
    if evidence.metering is None or evidence.unknown == ():
        return None
    if evidence.unknown is None:
        return "metering does not say what it charges the account for"
    named = ", ".join(evidence.unknown[:NAMED_MAX])
    return f"metering charges the account for {len(evidence.unknown)} resources that are not known here: {named}"


def _not_own_use(_case: Case, evidence: Evidence, _bounds: Bounds) -> str | None:
    own_micros = evidence.without_reversals_micros
    if own_micros is not None and own_micros < 0:
        return None
    return "without refunds, disputes and operators' debits the account would not be below zero"


def _differs(name: str, now_us: int, evidence: Evidence, bounds: Bounds) -> str | None:
    if abs(now_us - evidence.asked_at_us) <= bounds.skew_us_max:
        return None
    return f"the clocks of {name} and enforcement differ"


UNTRIED_ORDERS = "untried-orders"
GUARDS: tuple[Guard, ...] = (
    Guard("halted", "region", _is_halted),
    Guard("unseen", "region", _has_unseen),
    Guard("balance-clock", "region", _balance_clock),
    Guard("posting-stopped", "region", _posting_stopped),
    Guard("posting-lag", "region", _posting_lags),
    Guard("metering-clock", "region", _metering_clock),
    Guard("metering-halted", "region", _metering_halted),
    Guard("metering-lag", "region", _metering_lags),
    Guard("held-back", "case", _held_back),
    Guard("charged", "case", _charged_unknown),
    Guard("payment-clock", "region", _payment_clock),
    Guard("open-payments", "case", _money_on_its_way),
    Guard(UNTRIED_ORDERS, "case", _untried_orders),
    Guard("due", "case", _not_due),
    Guard("account", "case", _unknown_account),
    Guard("version", "case", _older_answer),
    Guard("state", "case", _other_state),
    Guard("balance", "case", _not_below_zero),
    Guard("since", "case", _other_since),
    Guard("own-use", "case", _not_own_use),
)


@dataclass(frozen=True, slots=True)
class Order:
    """One command about to be given, by what is locked: the case and the account as they are now, and the target."""

    case: Case | None  # None: it ended
    known: Case  # as it was when the permit was asked for
    account: Account
    is_done: bool
    next_command_at_us: int | None
    evidence_from_us: int
    permit_id: str
    redemption_expires_at_us: int
    halts: tuple[str, ...]
    now_us: int


@dataclass(frozen=True, slots=True)
class CommandObjection:
    """Why a command is not given. One `of_target` speaks against this resource alone, any other against the case."""

    guard: str
    reason: str
    of_target: bool


class CommandGuard(NamedTuple):
    name: str
    check: Callable[[Order], str | None]
    of_target: bool = False


def find_command_objection(order: Order) -> CommandObjection | None:
    """The first reason not to give the command now."""
    for guard in COMMAND_GUARDS:
        reason = guard.check(order)
        if reason is not None:
            return CommandObjection(guard.name, reason, guard.of_target)
    return None


def _case_ended(order: Order) -> str | None:
    return None if order.case is not None and order.case.is_open else "the case has ended"


def _case_moved(order: Order) -> str | None:
    return None if order.case is None or order.now_us >= order.case.due_at_us else "the case is not due any more"


def _account_recovered(order: Order) -> str | None:
    return None if order.account.is_negative else "the account is not below zero"


def _account_since(order: Order) -> str | None:
    if order.account.negative_since_us == order.known.negative_since_us:
        return None
    return "the account is below zero since another instant"


def _case_changed(order: Order) -> str | None:
    """Another process has examined the case meanwhile, and found something else."""
    if order.case is None or not order.case.is_open:
        return None
    if (order.case.state, order.case.permit_id) == ("carrying_out", order.permit_id):
        return None
    return f"the case was changed meanwhile: it is {order.case.state}"


def _evidence_old(order: Order) -> str | None:
    """What was seen can be true no more: a process can be paused between any two of its steps."""
    if 0 <= order.now_us - order.evidence_from_us <= EVIDENCE_US_MAX:
        return None
    return f"the evidence is of {format_instant(order.evidence_from_us)}: it is asked for again"


def _target_done(order: Order) -> str | None:
    return "the resource is gone" if order.is_done else None


def _target_commanded(order: Order) -> str | None:
    at_us = order.next_command_at_us
    return None if at_us is None or at_us <= order.now_us else f"it was commanded; again at {format_instant(at_us)}"


def _redemption_expired(order: Order) -> str | None:
    return None if order.now_us < order.redemption_expires_at_us else "the permit expired since its redemption"


def _halted_since(order: Order) -> str | None:
    return f"deletions wait for an operator: {'; '.join(order.halts)}" if order.halts else None


COMMAND_GUARDS: tuple[CommandGuard, ...] = (
    CommandGuard("case", _case_ended),
    CommandGuard("due", _case_moved),
    CommandGuard("negative", _account_recovered),
    CommandGuard("since", _account_since),
    CommandGuard("changed", _case_changed),
    CommandGuard("evidence", _evidence_old),
    CommandGuard("done", _target_done, of_target=True),
    CommandGuard("commanded", _target_commanded, of_target=True),
    CommandGuard("redemption", _redemption_expired),
    CommandGuard("halted", _halted_since),
)


def describe(objections: Sequence[Objection]) -> str:
    return "; ".join(objection.reason for objection in objections)


def bounds_of(skew_seconds_max: int, lag_seconds_max: int) -> Bounds:
    return Bounds(skew_seconds_max * SECOND_US, lag_seconds_max * SECOND_US)
