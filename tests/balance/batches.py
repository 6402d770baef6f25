"""Charge batches made by hand, out of the contract's own model."""

import uuid
from collections.abc import Mapping, Sequence

from shared.clock import MINUTE_US, SECOND_US
from shared.events.charges import AccountCharges, ChargeBatch, LineClass, Lines, Total, compress
from shared.ids import shard_of
from shared.kafka import Record
from shared.topics import CHARGES

SHARDS = 4
TOPIC_ID = uuid.UUID(int=7)
CHARGED_AT_US = 1_800_000_000_000_000


def charges(
    tenant_id: str, totals: Sequence[Total], *, burn: int = 0, region: str = "vn"
) -> tuple[AccountCharges, list[tuple[str, str, LineClass, int]]]:
    """One account's part of a batch and its lines, one per total."""
    account = AccountCharges(
        region=region, tenant_id=tenant_id, burn_micros_per_hour=burn, totals=list(totals), lines=len(totals)
    )
    return account, [(f"ctr-{tenant_id}", kind, line_class, amount) for kind, line_class, amount in totals]


def make_batch(
    shard: int,
    seq: int,
    parts: Sequence[tuple[AccountCharges, list[tuple[str, str, LineClass, int]]]],
    *,
    used: tuple[int, int] | None = None,
    through: int | None = None,
    slots: int = 1,
) -> ChargeBatch:
    """`used`: the minutes in which it was used, beginning with the first, a slot in each; `through`: charged up to."""
    lines = [line for _, own in parts for line in own]
    used_from, used_until = used or (None, None)
    is_long = used is not None and used[1] - used[0] > MINUTE_US
    return ChargeBatch(
        shard=shard,
        seq=seq,
        charged_at=CHARGED_AT_US,
        function_version=1,
        book_version=1,
        used_from=used_from,
        used_until=used_until,
        charged_through=through,
        accounts=[account for account, _ in parts],
        lines=Lines(
            resource_ids=[line[0] for line in lines],
            kinds=[line[1] for line in lines],
            classes=[line[2] for line in lines],
            skus=["h100"] * len(lines),
            slots_from=[0] * len(lines),
            slots=[-slots if line[3] < 0 else slots for line in lines],
            prices_micros=[60] * len(lines),
            amounts_micros=[line[3] for line in lines],
            causes=["" if line[2] == "charge" else "platform/evt" for line in lines],
            starts=[used[0] // SECOND_US] * len(lines) if used is not None and is_long else None,
            slots_seconds=[60] * len(lines) if is_long else None,
        ),
    )


def encode(batch: ChargeBatch) -> bytes:
    return compress(batch.model_dump_json(exclude_none=True).encode())


def simple(seq: int, amounts: Mapping[str, int], *, burn: int = 0) -> bytes:
    """A batch that charges GPU time to tenants, all of one shard."""
    [shard] = {shard_of("vn", tenant_id, SHARDS) for tenant_id in amounts}
    return encode(
        make_batch(
            shard, seq, [charges(name, [("gpu", "charge", amount)], burn=burn) for name, amount in amounts.items()]
        )
    )


def used(seq: int, tenant_id: str, amount: int, from_us: int, minutes: int = 1, *, through: int | None = None) -> bytes:
    """What a tenant used from an instant on, as much in each minute, in a tick that ends with it or at `through`."""
    until_us = from_us + minutes * MINUTE_US
    part = charges(tenant_id, [("gpu", "charge", amount)])
    shard = shard_of("vn", tenant_id, SHARDS)
    through = until_us if through is None else through
    return encode(make_batch(shard, seq, [part], used=(from_us, until_us), through=through, slots=minutes))


def idle(seq: int, tenant_id: str, through_us: int) -> bytes:
    """A tick of a tenant's shard in which nothing is charged."""
    return encode(make_batch(shard_of("vn", tenant_id, SHARDS), seq, [], through=through_us))


def tenants_of(shard: int, count: int) -> list[str]:
    """Names of tenants whose accounts are of `shard`."""
    found: list[str] = []
    number = 0
    while len(found) < count:
        name = f"t{number}"
        if shard_of("vn", name, SHARDS) == shard:
            found.append(name)
        number += 1
    return found


def as_record(value: bytes | None, offset: int, partition: int = 0) -> Record:
    return Record(CHARGES, TOPIC_ID, partition, offset, None, value)
