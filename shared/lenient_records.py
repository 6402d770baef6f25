"""Records whose header names are not UTF-8: aiokafka's parser fails on one, and would fail on it for ever.

Kafka's broker takes any bytes for a header's name. aiokafka decodes names while it hands out a batch, inside `getmany`:
the error names no partition, the consumer's position stays, and every later poll meets the same record again. So one
such record would stop all partitions. Here its batch is read once more, by aiokafka's Python parser, with the bytes
that are not UTF-8 written out as backslash, x and two digits.
"""

import struct
from collections.abc import Iterator
from typing import Any

import aiokafka.consumer.fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords

# A batch begins with its base offset and the number of bytes that follow.
_PREFIX = struct.Struct(">qi")


class _Lenient(bytearray):
    """Bytes whose slices decode whatever they hold."""

    def __getitem__(self, key: Any) -> Any:  # noqa: ANN401 - an index or a slice
        found = super().__getitem__(key)
        return _Lenient(found) if isinstance(key, slice) else found

    def decode(self, encoding: str = "utf-8", errors: str = "backslashreplace") -> str:
        return super().decode(encoding, errors)


class _Batch:
    """One batch of aiokafka's, read again with lenient names if it can't be read otherwise."""

    def __init__(self, batch: Any, data: bytes) -> None:  # noqa: ANN401 - aiokafka is untyped
        self._batch = batch
        self._data = data

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the batch has
        return getattr(self._batch, name)

    def __next__(self) -> Any:  # noqa: ANN401 - aiokafka is untyped
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
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
        lenient = iter(_DefaultRecordBatchPy(self._slice()))
        lenient._buffer = _Lenient(lenient._buffer)  # noqa: SLF001 - after decompression, which makes another buffer
        for number, record in enumerate(lenient):
            if number >= read:
                yield record

    def _slice(self) -> bytes:
        """The batch's own bytes, out of the response's."""
        position = 0
        while True:
            base_offset, length = _PREFIX.unpack_from(self._data, position)
            end = position + _PREFIX.size + length
            if base_offset == self._batch.base_offset:
                return self._data[position:end]
            position = end


class LenientRecords:
    """What a fetch answered for one partition, as aiokafka's `MemoryRecords`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._records = MemoryRecords(data)

    def size_in_bytes(self) -> int:
        return int(self._records.size_in_bytes())

    def has_next(self) -> bool:
        return bool(self._records.has_next())

    def next_batch(self) -> _Batch:
        return _Batch(self._records.next_batch(), self._data)


def read_any_header_name() -> None:
    """Let every consumer of this process read header names that are not UTF-8. aiokafka has no place to plug it in."""
    aiokafka.consumer.fetcher.MemoryRecords = LenientRecords
