"""Batches that aiokafka should not be left alone with: header names that are not UTF-8, and those that unpack hugely.

A compressed batch of a few kilobytes can unpack to gigabytes, and aiokafka unpacks before anybody is asked. What it
would unpack to is measured first, into room that is there already; of one that is too large a single record is left,
which says so and becomes a dead letter. The batch stays on its topic.

Kafka's broker takes any bytes for a header's name. aiokafka decodes names while it hands out a batch, inside `getmany`:
the error names no partition, the consumer's position stays, and every later poll meets the same record again. So one
such record would stop all partitions. Here its batch is read once more, by aiokafka's Python parser, with the bytes
that are not UTF-8 written out as backslash, x and two digits.
"""

import functools
import struct
from collections.abc import Callable, Iterator
from typing import Any, Final

import aiokafka.consumer.fetcher
import cramjam
import numpy as np
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecord, _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords
from numpy.typing import NDArray

# The most that the records of a compressed batch may be together. Source of the format: the record batch, version 2, of
# https://kafka.apache.org/documentation/#recordbatch
UNPACKED_BYTES_MAX: Final = 64 * 1024 * 1024
# A batch begins with its base offset and the number of bytes that follow.
_PREFIX = struct.Struct(">qi")
_HEAD_BYTES, _VERSION_AT, _ATTRIBUTES_AT, _VERSION = 61, 16, 21, 2
_GZIP, _SNAPPY, _LZ4, _ZSTD = 1, 2, 3, 4
_XERIAL = b"\x82SNAPPY\x00"
_XERIAL_HEAD_BYTES = 16
_UNPACK: dict[int, Callable[[Any, Any], int]] = {
    _GZIP: cramjam.gzip.decompress_into,
    _LZ4: cramjam.lz4.decompress_into,
    _ZSTD: cramjam.zstd.decompress_into,
}


@functools.cache
def _room(size: int) -> NDArray[np.uint8]:
    """Room to unpack into; the pages that were never written to cost nothing."""
    return np.empty(size, np.uint8)


def unpacks_within(batch: bytes | memoryview, bytes_max: int) -> bool:
    """Whether the records of a batch, if they are compressed, unpack to no more than so many bytes."""
    if len(batch) < _HEAD_BYTES or batch[_VERSION_AT] != _VERSION:
        return True
    codec = batch[_ATTRIBUTES_AT + 1] & 7
    if not codec:
        return True
    packed = bytes(batch[_HEAD_BYTES:])
    if codec == _SNAPPY:
        return sum(map(cramjam.snappy.decompress_raw_len, _snappy_blocks(packed))) <= bytes_max
    unpack = _UNPACK.get(codec)
    if unpack is None:
        return True
    try:
        unpack(packed, _room(bytes_max))
    except cramjam.DecompressionError:
        # Too much for the room, or broken: the broker has read it and found nothing broken.
        return False
    return True


def _snappy_blocks(packed: bytes) -> Iterator[bytes]:
    """The blocks of Java's framing, or the whole as one."""
    if not packed.startswith(_XERIAL):
        yield packed
        return
    position = _XERIAL_HEAD_BYTES
    while position < len(packed):
        size = int.from_bytes(packed[position : position + 4], "big")
        yield packed[position + 4 : position + 4 + size]
        position += 4 + size


class _Lenient(bytearray):
    """Bytes whose slices decode whatever they hold."""

    def __getitem__(self, key: Any) -> Any:  # noqa: ANN401 - an index or a slice
        found = super().__getitem__(key)
        return _Lenient(found) if isinstance(key, slice) else found

    def decode(self, encoding: str = "utf-8", errors: str = "backslashreplace") -> str:
        return super().decode(encoding, errors)


class _Batch:
    """One batch of aiokafka's with its own bytes, measured before it is unpacked, and read again if it has to be."""

    def __init__(self, batch: Any, data: memoryview) -> None:  # noqa: ANN401 - aiokafka is untyped
        self._batch = batch
        self._data = data

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the batch has
        return getattr(self._batch, name)

    def __next__(self) -> Any:  # noqa: ANN401 - aiokafka is untyped
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        if not unpacks_within(self._data, UNPACKED_BYTES_MAX):
            first, last = self._batch.base_offset, self._batch.next_offset - 1
            said = f"a compressed batch of {len(self._data)} bytes, offsets {first} to {last}, would unpack to too many"
            yield DefaultRecord(last, 0, 0, None, said.encode(), [])
            return
        read = 0
        try:
            for record in self._batch:
                read += 1
                yield record
        except (UnicodeDecodeError, CorruptRecordException) as error:
            # Without its C extension aiokafka calls the same a corrupt record.
            if not isinstance(error, UnicodeDecodeError) and not isinstance(error.__cause__, UnicodeDecodeError):
                raise
        else:
            return
        lenient = iter(_DefaultRecordBatchPy(bytes(self._data)))
        lenient._buffer = _Lenient(lenient._buffer)  # noqa: SLF001 - after decompression, which makes another buffer
        for number, record in enumerate(lenient):
            if number >= read:
                yield record


class LenientRecords:
    """What a fetch answered for one partition, as aiokafka's `MemoryRecords`."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._position = 0
        self._records = MemoryRecords(data)

    def size_in_bytes(self) -> int:
        return int(self._records.size_in_bytes())

    def has_next(self) -> bool:
        return bool(self._records.has_next())

    def next_batch(self) -> _Batch:
        begin = self._position
        _, length = _PREFIX.unpack_from(self._data, begin)
        self._position = begin + _PREFIX.size + length
        return _Batch(self._records.next_batch(), self._data[begin : self._position])


def install_lenient_records() -> None:
    """Let every consumer of this process read batches so. aiokafka has no place to plug it in."""
    aiokafka.consumer.fetcher.MemoryRecords = LenientRecords
