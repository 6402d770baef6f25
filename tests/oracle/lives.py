"""One resource's life: its accepted facts in order, and what it was in each interval between them."""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.oracle.order import in_order
from tests.oracle.reading import Fact, LeftOut

FOREVER_US = 2**62


@dataclass(frozen=True)
class Piece:
    """From `from_us` up to `to_us` (not included) the resource was like this."""

    from_us: int
    to_us: int
    running: bool
    gpu_sku: str | None
    gpu_count: int
    storage_gb: int


@dataclass(frozen=True)
class Life:
    """`pieces` cover the time from creation to the end, without gaps; `end_us` is FOREVER_US while it lasts."""

    region: str
    tenant_id: str
    resource_id: str
    created_us: int
    end_us: int
    pieces: tuple[Piece, ...]


def accept(facts: Sequence[Fact], left_out: list[LeftOut]) -> list[Fact]:
    """The facts of one resource that count, its creation first; `facts` come in the order of the file, each once.

    Who replaces a fact takes it out and comes in its place; it waits until what it replaces is there.
    """
    created = next((fact for fact in facts if fact.verb == "created" and fact.replaces is None), None)
    if created is None:
        left_out.extend(LeftOut(fact.line, "pending: never created", fact.subject) for fact in facts)
        return []
    accepted = {created.key: created}
    replaced: set[tuple[str, str]] = set()
    waiting: list[Fact] = []
    for fact in facts:
        if fact is created:
            continue
        reason = _contradiction(fact, created)
        if reason is not None:
            left_out.append(LeftOut(fact.line, reason, fact.subject))
        elif fact.replaces is None:
            accepted[fact.key] = fact
        else:
            waiting.append(fact)
        waiting = _amend(accepted, replaced, waiting, left_out)
    left_out.extend(LeftOut(fact.line, "pending: what it replaces never came", fact.subject) for fact in waiting)
    return sorted(accepted.values(), key=lambda fact: fact.verb != "created")


def _contradiction(fact: Fact, created: Fact) -> str | None:
    if fact.tenant_id != created.tenant_id:
        return "conflict: other tenant"
    if fact.family not in (created.family, "event"):
        return "conflict: other family"
    return "conflict: second creation" if fact.verb == "created" and fact.replaces is None else None


def _amend(
    accepted: dict[tuple[str, str], Fact],
    replaced: set[tuple[str, str]],
    waiting: Sequence[Fact],
    left_out: list[LeftOut],
) -> list[Fact]:
    """Let those that wait replace what is there by now, in their order; answer those that still wait."""
    left = list(waiting)
    while True:
        fact = next((fact for fact in left if fact.replaces in accepted or fact.replaces in replaced), None)
        if fact is None or fact.replaces is None:
            return left
        left.remove(fact)
        target = accepted.get(fact.replaces)
        if target is None:
            left_out.append(LeftOut(fact.line, "conflict: already replaced", fact.subject))
        elif (target.verb == "created") != (fact.verb == "created"):
            left_out.append(LeftOut(fact.line, "conflict: only a creation replaces a creation", fact.subject))
        else:
            del accepted[target.key]
            replaced.add(target.key)
            if fact.verb != "retracted":
                accepted[fact.key] = fact


def live(facts: Sequence[Fact], left_out: list[LeftOut], commanded_us: int | None = None) -> Life | None:
    """The life that the facts of one resource tell; None if it was never created.

    `commanded_us` is when enforcement commanded its deletion: it ends there at the latest.
    """
    accepted = accept(facts, left_out)
    if not accepted:
        return None
    created = accepted[0]
    steps = in_order(created, accepted[1:])
    left_out.extend(LeftOut(step.fact.line, step.idle, step.fact.subject) for step in steps if step.idle)
    effective = [step for step in steps if not step.idle]
    running, sku, count, storage_gb = False, created.gpu_sku, created.gpu_count or 0, created.storage_gb or 0
    pieces: list[Piece] = []
    end_us = FOREVER_US
    for position, step in enumerate(effective):
        fact = step.fact
        if fact.verb == "deleted":
            end_us = step.at_us
            break
        if fact.verb in ("started", "stopped"):
            running = fact.verb == "started"
        if fact.verb == "resized":
            sku = sku if fact.gpu_sku is None else fact.gpu_sku
            count = count if fact.gpu_count is None else fact.gpu_count
            storage_gb = storage_gb if fact.storage_gb is None else fact.storage_gb
        to_us = effective[position + 1].at_us if position + 1 < len(effective) else FOREVER_US
        if step.at_us < to_us:
            pieces.append(Piece(step.at_us, to_us, running, sku, count, storage_gb))
    if commanded_us is not None:
        end_us = min(end_us, commanded_us)
    return Life(created.region, created.tenant_id, created.subject, created.time_us, end_us, tuple(pieces))
