"""Rows out of the bytes of a damaged SQLite file, without SQLite.

The format is https://www.sqlite.org/fileformat2.html. Pure: bytes in, candidates out; whoever asks
has to prove each row by its digest. Whatever the pages around it have become, a row whose digest
is right is what was written.
"""

from __future__ import annotations

import contextlib
import itertools
import struct
from collections.abc import Callable, Iterator
from typing import Any

#: Small pages: a commit writes whole pages, and one row touches three. 1 kB pages write 6.9 kB a
#: row where SQLite's default of 4 kB writes 13.7 kB (rows of 1.2 kB, one to a commit).
PAGE_SIZE = 1024


def carve(data: memoryview, log: memoryview) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Every (row id, record) in the leaves of a file's tables and of its write-ahead log.

    A row may come more than once: pages of the log are newer copies of the file's.

    >>> list(carve(memoryview(b""), memoryview(b"")))
    []
    """
    newest = dict(_log_pages(log))

    def page(number: int) -> memoryview:
        return newest.get(number, data[(number - 1) * PAGE_SIZE : number * PAGE_SIZE])

    of_file = (data[at : at + PAGE_SIZE] for at in range(0, len(data), PAGE_SIZE))
    of_log = (page for _, page in _log_pages(log))
    for leaf in itertools.chain(of_file, of_log):
        for row_id, payload in _leaf_cells(leaf, page, len(data) + len(log)):
            yield row_id, _record(payload)


def _log_pages(log: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(number, page) of each frame of a write-ahead log, from the oldest to the newest."""
    for at in range(32, len(log) - 24, 24 + PAGE_SIZE):
        yield _number(log, at, 4), log[at + 24 : at + 24 + PAGE_SIZE]


def _leaf_cells(
    leaf: memoryview, page: Callable[[int], memoryview], limit: int
) -> Iterator[tuple[int, bytes]]:
    """(row id, payload) of each cell of a table's leaf page; nothing for any other page."""
    if len(leaf) < 8 or leaf[0] != 0x0D:
        return
    with contextlib.suppress(IndexError):  # a damaged page points beyond itself
        for place in range(8, 8 + 2 * _number(leaf, 3, 2), 2):
            start = _number(leaf, place, 2)
            with contextlib.suppress(IndexError):
                size, at = _varint(leaf, start)
                row_id, at = _varint(leaf, at)
                yield row_id, _payload(leaf, at, min(size, limit), page)


def _payload(leaf: memoryview, at: int, size: int, page: Callable[[int], memoryview]) -> bytes:
    """A cell's content: what lies in its page, then what lies in the chain of overflow pages."""
    most, least = PAGE_SIZE - 35, (PAGE_SIZE - 12) * 32 // 255 - 23
    here = size
    if size > most:
        here = least + (size - least) % (PAGE_SIZE - 4)
        here = here if here <= most else least
    parts, left = [leaf[at : at + here]], size - here
    follow = _number(leaf, at + here, 4) if left else 0
    while left > 0:
        overflow = page(follow)
        parts.append(overflow[4 : 4 + left])
        follow, left = _number(overflow, 0, 4), left - (PAGE_SIZE - 4)
    return b"".join(parts)


def _record(payload: bytes) -> tuple[Any, ...]:
    """The values of a record without the first, which stands for the row's id."""
    with contextlib.suppress(IndexError, struct.error):  # damaged
        head, at = _varint(payload, 0)
        values, body = [], head
        while at < head:
            kind, at = _varint(payload, at)
            size = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0, 0, 0)[kind] if kind < 12 else (kind - 12) // 2
            values.append(_value(kind, payload[body : body + size]))
            body += size
        *row, created, digest = values[1:] if len(values) == 10 else (None, None)
        if isinstance(created, int):  # SQLite stores a whole real number as an integer
            created = float(created)
        return (*row, created, digest)
    return (None,)


def _value(kind: int, content: bytes) -> Any:
    if kind == 7:
        return struct.unpack(">d", content)[0]
    if kind in (8, 9):
        return kind - 8
    if 0 < kind < 7:
        return int.from_bytes(content, "big", signed=True)
    if kind < 12:
        return None
    return content if kind % 2 == 0 else content.decode("utf-8", "replace")


def _number(data: memoryview, at: int, size: int) -> int:
    if at + size > len(data):
        raise IndexError(at)
    return int.from_bytes(data[at : at + size], "big")


def _varint(data: memoryview | bytes, at: int) -> tuple[int, int]:
    """A number in 1 to 9 bytes of 7 bits (the ninth: 8), the highest first, and where it ends.

    >>> _varint(bytes([0x81, 0x00]), 0)
    (128, 2)
    """
    value = 0
    for place in range(at, at + 8):
        value = value << 7 | data[place] & 0x7F
        if data[place] < 0x80:
            return value, place + 1
    return value << 8 | data[at + 8], at + 9
