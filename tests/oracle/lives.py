"""One resource's life: its accepted facts in order, and what it was in each interval between them."""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.oracle.reading import RANKS, Fact, LeftOut

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
    """The facts of one resource that count, its creation first; `facts` come in the order of the file, each once."""
    created = next((fact for fact in facts if fact.verb == "created"), None)
    if created is None:
        left_out.extend(LeftOut(fact.line, "pending: never created", fact.subject) for fact in facts)
        return []
    accepted = [created]
    for fact in facts:
        if fact is created:
            continue
        if fact.tenant_id != created.tenant_id:
            left_out.append(LeftOut(fact.line, "conflict: other tenant", fact.subject))
        elif fact.family != created.family:
            left_out.append(LeftOut(fact.line, "conflict: other family", fact.subject))
        elif fact.verb == "created":
            left_out.append(LeftOut(fact.line, "conflict: second creation", fact.subject))
        else:
            accepted.append(fact)
    return accepted


def in_order(accepted: Sequence[Fact]) -> list[tuple[int, Fact]]:
    """(instant of effect, fact): the creation at its own time, then the others in their order, never going back."""
    created, others = accepted[0], list(accepted[1:])
    by_sequence = all(fact.sequence is not None and fact.source == created.source for fact in accepted)

    def by_time(fact: Fact) -> tuple[int, int, str, str]:
        return fact.time_us, RANKS[fact.verb], fact.source, fact.event_id

    if by_sequence:
        others.sort(key=lambda fact: (fact.sequence or 0, *by_time(fact)))
    else:
        others.sort(key=by_time)
    placed = [(created.time_us, created)]
    for fact in others:
        placed.append((max(placed[-1][0], fact.time_us), fact))
    return placed


def live(facts: Sequence[Fact], left_out: list[LeftOut], commanded_us: int | None = None) -> Life | None:
    """The life that the facts of one resource tell; None if it was never created.

    `commanded_us` is when enforcement commanded its deletion: it ends there at the latest.
    """
    accepted = accept(facts, left_out)
    if not accepted:
        return None
    placed = in_order(accepted)
    created = accepted[0]
    running, sku, count, storage_gb = False, created.gpu_sku, created.gpu_count or 0, created.storage_gb or 0
    pieces: list[Piece] = []
    end_us = FOREVER_US
    for position, (from_us, fact) in enumerate(placed):
        if fact.verb == "deleted":
            end_us = from_us
            left_out.extend(LeftOut(late.line, "after deletion", late.subject) for _, late in placed[position + 1 :])
            break
        if fact.verb == "started":
            running = True
        if fact.verb == "stopped":
            running = False
        if fact.verb == "resized":
            sku = sku if fact.gpu_sku is None else fact.gpu_sku
            count = count if fact.gpu_count is None else fact.gpu_count
            storage_gb = storage_gb if fact.storage_gb is None else fact.storage_gb
        to_us = placed[position + 1][0] if position + 1 < len(placed) else FOREVER_US
        if from_us < to_us:
            pieces.append(Piece(from_us, to_us, running, sku, count, storage_gb))
    if commanded_us is not None:
        end_us = min(end_us, commanded_us)
    return Life(created.region, created.tenant_id, created.subject, created.time_us, end_us, tuple(pieces))
