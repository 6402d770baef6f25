"""Charge batches made by hand, out of the contract's own model."""

import uuid
from collections.abc import Mapping, Sequence

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
    shard: int, seq: int, parts: Sequence[tuple[AccountCharges, list[tuple[str, str, LineClass, int]]]]
) -> ChargeBatch:
    lines = [line for _, own in parts for line in own]
    return ChargeBatch(
        shard=shard,
        seq=seq,
        charged_at=CHARGED_AT_US,
        function_version=1,
        book_version=1,
        accounts=[account for account, _ in parts],
        lines=Lines(
            resource_ids=[line[0] for line in lines],
            kinds=[line[1] for line in lines],
            classes=[line[2] for line in lines],
            skus=["h100"] * len(lines),
            slots_from=[0] * len(lines),
            slots=[-1 if line[3] < 0 else 1 for line in lines],
            prices_micros=[60] * len(lines),
            amounts_micros=[line[3] for line in lines],
            causes=["" if line[2] == "charge" else "platform/evt" for line in lines],
        ),
    )


def encode(batch: ChargeBatch) -> bytes:
    return compress(batch.model_dump_json().encode())


def simple(seq: int, amounts: Mapping[str, int], *, burn: int = 0) -> bytes:
    """A batch that charges GPU time to tenants, all of one shard."""
    [shard] = {shard_of("vn", tenant_id, SHARDS) for tenant_id in amounts}
    return encode(
        make_batch(
            shard, seq, [charges(name, [("gpu", "charge", amount)], burn=burn) for name, amount in amounts.items()]
        )
    )


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
