"""A store's one table: its rows, each with a digest of itself, and the SQL on them."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

from hf_regioncap.salvage import PAGE_SIZE
from hf_regioncap.store_errors import patiently

APPLICATION_ID = 0x52434150  # "RCAP", in the header of every store
VERSION = 1
CHUNK = 200  # rows or keys at a time
_CHUNK_BYTES = 8 << 20

_CREATE = """
CREATE TABLE answers (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL,
    status TEXT NOT NULL,
    raw BLOB NOT NULL,
    model TEXT NOT NULL,
    finish_reason TEXT,
    prompt_tokens INTEGER,
    completion_tokens INTEGER,
    created REAL NOT NULL,
    digest BLOB NOT NULL
)"""
COLUMNS = (
    "key, status, raw, model, finish_reason, prompt_tokens, completion_tokens, created, digest"
)
INSERT = f"INSERT INTO answers ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
INSERT_NEW = (
    f"INSERT INTO answers ({COLUMNS}) SELECT ?, ?, ?, ?, ?, ?, ?, ?, ? "
    "WHERE NOT EXISTS (SELECT 1 FROM answers WHERE key = ? AND digest = ?)"
)

# key, status, raw, model, finish_reason, prompt_tokens, completion_tokens, created, digest
Row: TypeAlias = tuple[Any, ...]


def storable(text: str) -> str:
    """Replace lone surrogates, which SQLite's text cannot hold."""
    return text.encode("utf-8", "replace").decode()


def digest_of(fields: Sequence[Any]) -> bytes:
    """SHA-256 over all of a row's fields, so that a flipped bit anywhere in it is found."""
    key, status, raw, *rest = fields
    head = json.dumps([key.hex(), status, *rest]).encode()
    return hashlib.sha256(head + b"\n" + raw).digest()


def is_whole(row: Row) -> bool:
    """Whether a row matches its digest."""
    try:
        return bool(row[-1] == digest_of(row[:-1]))
    except (AttributeError, TypeError, ValueError):  # damage can change a field's type
        return False


def fetch(
    connection: sqlite3.Connection, patience: float, sql: str, values: Sequence[Any] = ()
) -> list[Row]:
    """Read all rows of a query, waiting for others."""
    return patiently(patience, lambda: connection.execute(sql, values).fetchall())


def rows_of(connection: sqlite3.Connection, patience: float, keys: Sequence[bytes]) -> list[Row]:
    """Read the rows of some keys, oldest first, whole or not."""
    marks = ", ".join("?" * len(keys))
    sql = f"SELECT {COLUMNS} FROM answers WHERE key IN ({marks}) ORDER BY created, id"
    return fetch(connection, patience, sql, keys)


def rows_after(connection: sqlite3.Connection, patience: float, last: int) -> list[Row]:
    """Read the next rows by id, each with its id before its fields."""
    sql = f"SELECT id, {COLUMNS} FROM answers WHERE id > ? ORDER BY id LIMIT {CHUNK}"
    return fetch(connection, patience, sql, (last,))


def in_chunks(rows: Iterable[Row], max_rows: int) -> Iterator[list[Row]]:
    """Group rows, by their number and by the bytes of their bodies."""
    chunk: list[Row] = []
    size = 0
    for row in rows:
        chunk.append(row)
        size += len(row[2])
        if len(chunk) >= max_rows or size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def write_rows(
    connection: sqlite3.Connection, patience: float, sql: str, rows: Sequence[Row]
) -> int:
    """Insert rows in one transaction; return how many were."""

    def transaction() -> int:
        before = connection.total_changes
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.executemany(sql, rows)
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        return connection.total_changes - before

    return patiently(patience, transaction)


def write_probe(connection: sqlite3.Connection) -> None:
    """Read what a look-up and an insertion will walk through, then commit a real page."""
    connection.execute("SELECT count(*) FROM answers").fetchone()
    connection.execute("SELECT * FROM answers ORDER BY id DESC LIMIT 1").fetchone()
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")


def create_table(connection: sqlite3.Connection) -> None:
    """Make an empty file a store, before it gets a log: its header then says so from the start."""
    connection.execute(f"PRAGMA page_size = {PAGE_SIZE}")
    connection.execute("BEGIN IMMEDIATE")
    if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
        connection.execute(_CREATE)
        connection.execute("CREATE INDEX answers_by_key ON answers (key)")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")
