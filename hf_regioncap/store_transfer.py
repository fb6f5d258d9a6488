"""Answers out of a store to Parquet, and out of other stores and exports, damaged ones too."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hf_regioncap.errors import StoreError
from hf_regioncap.salvage import carve
from hf_regioncap.store_errors import DamagedError
from hf_regioncap.store_file import shared_file
from hf_regioncap.store_opening import first_bytes, size_of, wal
from hf_regioncap.store_table import (
    CHUNK,
    COLUMNS,
    VERSION,
    Row,
    is_whole,
    proven_rows,
    storable,
)


def _in_chunks(rows: Iterable[Row], max_rows: int, max_bytes: int) -> Iterator[list[Row]]:
    chunk: list[Row] = []
    size = 0
    for row in rows:
        chunk.append(row)
        size += len(row[2])
        if len(chunk) >= max_rows or size >= max_bytes:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _parquet_schema() -> Any:
    import pyarrow as pa

    kinds = {
        "key": pa.string(),
        "status": pa.string(),
        "raw": pa.string(),
        "raw_bytes": pa.binary(),
        "model": pa.string(),
        "finish_reason": pa.string(),
        "prompt_tokens": pa.int64(),
        "completion_tokens": pa.int64(),
        "created": pa.float64(),
        "digest": pa.string(),
    }
    return pa.schema(kinds, metadata={"hf_regioncap.answers": str(VERSION)})


def write_parquet(path: Path, rows: Iterable[Row]) -> int:
    """Write rows to a Parquet file, which appears when it is complete; return how many."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    part = path.with_name(path.name + ".part")
    schema, count = _parquet_schema(), 0
    try:
        with pq.ParquetWriter(part, schema, compression="zstd") as writer:
            for chunk in _in_chunks(rows, 10_000, 8 << 20):
                table = pa.Table.from_pylist([_exported(row) for row in chunk], schema)
                writer.write_table(table)
                count += len(chunk)
        part.replace(path)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error}") from error
    finally:
        part.unlink(missing_ok=True)
    return count


def _exported(row: Row) -> dict[str, Any]:
    exported = dict(zip(COLUMNS.split(", "), row, strict=True))
    exported |= {"key": row[0].hex(), "digest": row[-1].hex()}
    try:
        exported["raw"] = row[2].decode()
    except UnicodeDecodeError:
        text = row[2].decode("utf-8", "surrogatepass")
        exported |= {"raw": storable(text), "raw_bytes": row[2]}
    return exported


def _imported(exported: Mapping[str, Any]) -> Row:
    row = {name: exported[name] for name in COLUMNS.split(", ")}
    row["raw"] = exported["raw_bytes"] or exported["raw"].encode()
    row |= {name: bytes.fromhex(exported[name]) for name in ("key", "digest")}
    return tuple(row.values())


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
            yield from self._parquet()
            return
        try:
            with self._file.lease(self._patience, readonly=True) as connection:
                rows = proven_rows(self.path, connection, self._patience)
                yield from _in_chunks(rows, CHUNK, 8 << 20)
        except DamagedError as error:
            yield from self._damaged(error)

    def _damaged(self, error: StoreError) -> Iterator[list[Row]]:
        ids: set[int] = set()
        with self._file.at_rest():
            yield from _in_chunks(_carved(self.path, ids), CHUNK, 8 << 20)
        if not ids:
            raise error
        self.lost = max(ids) - len(ids)

    def _parquet(self) -> Iterator[list[Row]]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self.path) as file:
                if b"hf_regioncap.answers" not in (file.schema_arrow.metadata or {}):
                    raise StoreError(f"{self.path} is no export of an answer store")
                for batch in file.iter_batches(CHUNK):
                    rows = [_imported(exported) for exported in batch.to_pylist()]
                    whole = [row for row in rows if is_whole(row)]
                    self.lost += len(rows) - len(whole)
                    yield whole
        except (OSError, pa.ArrowException) as error:
            raise StoreError(f"cannot read {self.path}: {error}") from error
