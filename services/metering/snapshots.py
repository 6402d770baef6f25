"""A shard's cache as bytes, so that a new worker reads no histories but those that changed since.

A snapshot is what a worker had in memory at one (version, through) of the shard's row, no more the truth than that was:
who reads it goes on like a worker that slept since then. One that another version of the code wrote is not read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cramjam
import msgspec
import numpy as np

from services.metering.columns import Rated, Rows
from shared.errors import Corruption

# To be raised with whatever changes what a row means.
FORMAT = 1

Name = tuple[str, str]
# Accounts and rated SKUs are small indexes, everything else is a count, an instant or an amount.
_COLUMNS = tuple(name for name in Rows.__slots__ if name != "resource_ids")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`unrested` are the (region, resource id) that are no rows: read them anew. `bounded` is as in the cache."""

    accounts: list[Name]
    rated: list[Rated]
    rows: Rows
    unrested: list[Name]
    bounded: dict[Name, int]


class _Head(msgspec.Struct):
    accounts: list[Name]
    rated: list[Rated]
    unrested: list[Name]
    bounded: list[tuple[str, str, int]]
    resource_ids: list[str]
    rows: int


_head_decoder = msgspec.msgpack.Decoder(_Head)


def encode_snapshot(
    accounts: Sequence[Name], rated: Sequence[Rated], rows: Rows, unrested: Sequence[Name], bounded: dict[Name, int]
) -> bytes:
    """Write a cache; `decode_snapshot` reads back an equal one."""
    numbers: dict[str, int] = {}
    # A resource's kinds share its name.
    of_rows = [numbers.setdefault(name, len(numbers)) for name in rows.resource_ids.tolist()]
    head = _Head(
        list(accounts), list(rated), list(unrested), [(*key, at_us) for key, at_us in bounded.items()], list(numbers),
        len(rows),
    )  # fmt: skip
    text = msgspec.msgpack.encode(head)
    columns = np.stack([np.array(of_rows, np.int64), *(getattr(rows, name).astype(np.int64) for name in _COLUMNS)])
    document = b"".join((len(text).to_bytes(8, "little"), text, columns.tobytes()))
    return bytes(cramjam.zstd.compress(document, level=1))


def decode_snapshot(value: bytes) -> Snapshot:
    """Read what `encode_snapshot` wrote. Raises Corruption for anything else."""
    try:
        document = bytes(cramjam.zstd.decompress(value))
        start = 8 + int.from_bytes(document[:8], "little")
        head = _head_decoder.decode(document[8:start])
        columns = np.frombuffer(document, np.int64, offset=start).reshape(len(_COLUMNS) + 1, head.rows)
        names = np.empty(len(head.resource_ids), np.object_)
        names[:] = head.resource_ids
        values = dict(zip(_COLUMNS, columns[1:].copy(), strict=True))
        indexes = {name: values.pop(name).astype(np.int32) for name in ("account", "rated")}
        rows = Rows(resource_ids=names[columns[0]], **indexes, **values)
    except (ValueError, IndexError, cramjam.DecompressionError) as error:
        raise Corruption(f"a stored snapshot can't be read: {error}") from error
    bounded = {(region, resource_id): at_us for region, resource_id, at_us in head.bounded}
    return Snapshot(head.accounts, [Rated(*item) for item in head.rated], rows, head.unrested, bounded)
