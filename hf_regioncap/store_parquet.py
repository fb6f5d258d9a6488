"""A store's answers as a Parquet file, and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hf_regioncap.errors import StoreError
from hf_regioncap.store_table import CHUNK, COLUMNS, VERSION, Row, in_chunks, storable

_MARK = "hf_regioncap.answers"  # in the metadata of every export


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
    return pa.schema(kinds, metadata={_MARK: str(VERSION)})


def write_parquet(path: Path, rows: Iterable[Row]) -> int:
    """Write rows to a Parquet file, which appears when it is complete; return how many."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    part = path.with_name(path.name + ".part")
    schema, count = _parquet_schema(), 0
    try:
        with pq.ParquetWriter(part, schema, compression="zstd") as writer:
            for chunk in in_chunks(rows, 10_000):
                table = pa.Table.from_pylist([_exported(row) for row in chunk], schema)
                writer.write_table(table)
                count += len(chunk)
        part.replace(path)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error}") from error
    finally:
        part.unlink(missing_ok=True)
    return count


def read_parquet(path: Path) -> Iterator[list[Row]]:
    """Read the rows of an exported file, some hundred at a time, whole or not."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            if _MARK.encode() not in (file.schema_arrow.metadata or {}):
                raise StoreError(f"{path} is no export of an answer store")
            for batch in file.iter_batches(CHUNK):
                yield [_imported(exported) for exported in batch.to_pylist()]
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"cannot read {path}: {error}") from error


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
