"""What another store holds, or an exported file, to be merged: all that can be read of it."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from hf_regioncap.errors import StoreError
from hf_regioncap.salvage import carve
from hf_regioncap.store_errors import DamagedError
from hf_regioncap.store_file import shared_file
from hf_regioncap.store_opening import first_bytes, size_of, wal
from hf_regioncap.store_parquet import read_parquet
from hf_regioncap.store_table import CHUNK, Row, in_chunks, is_whole


class Source:
    """The rows of another store, or of an exported file, as far as they can be read."""

    def __init__(self, path: Path, patience: float) -> None:
        self.path = path
        self.lost = 0  # known when the rows have been read; at least so many
        self._file = shared_file(path)
        self._patience = patience

    def chunks(self) -> Iterator[list[Row]]:
        """Read the rows, some hundred at a time, from whatever the source is."""
        with self._file.at_rest():
            exported = self.path.is_file() and first_bytes(self.path, 4) == b"PAR1"
        if exported:
            yield from self._exported()
            return
        try:
            yield from in_chunks(self._file.proven_rows(self._patience), CHUNK)
        except DamagedError as error:
            yield from self._damaged(error)

    def _damaged(self, error: StoreError) -> Iterator[list[Row]]:
        ids: set[int] = set()
        with self._file.at_rest():
            yield from in_chunks(_carved(self.path, ids), CHUNK)
        if not ids:
            raise error
        self.lost = max(ids) - len(ids)

    def _exported(self) -> Iterator[list[Row]]:
        for rows in read_parquet(self.path):
            whole = [row for row in rows if is_whole(row)]
            self.lost += len(rows) - len(whole)
            yield whole


def _carved(path: Path, ids: set[int]) -> Iterator[Row]:
    """Every row in a store's bytes and in its log's that proves itself; adds their ids to `ids`."""
    data, log = (memoryview(_mapped(each)) for each in (path, wal(path)))
    for row_id, row in carve(data, log):
        if is_whole(row):
            ids.add(row_id)
            yield row


def _mapped(path: Path) -> mmap.mmap | bytes:
    if not size_of(path):
        return b""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
