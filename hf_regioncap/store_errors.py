"""What stands in a store's way: words for people, and patience with other processes."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from hf_regioncap.errors import StoreError

WAYS_OUT = (
    "Pass answer_store= another path, set HF_REGIONCAP_HOME to another folder, "
    "or pass answer_store=None to go without a store"
)
_T = TypeVar("_T")

_IN_THE_WAY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)
NO_PLACE = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)
# The last two: a damaged schema does not know our tables and columns, a damaged length is absurd.
_DAMAGE = (
    *(sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB),
    *(sqlite3.SQLITE_ERROR, sqlite3.SQLITE_TOOBIG),
)


class DamagedError(StoreError):
    """A store whose bytes are not what was written."""


def patiently(patience: float, action: Callable[[], _T]) -> _T:
    """Try again while others are in the way: SQLite itself does not wait in every such case."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return action()
        except sqlite3.OperationalError as error:
            if code_of(error) not in _IN_THE_WAY or time.monotonic() >= deadline:
                raise
        time.sleep(0.02)


def code_of(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 where the error is the sqlite3 module's own."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def store_error(
    path: Path, error: sqlite3.Error | OSError | UnicodeDecodeError, patience: float
) -> StoreError:
    """Say which file, what is wrong with it, and the ways out."""
    if isinstance(error, UnicodeDecodeError):  # SQLite quotes the damage in its own message
        return damaged(path, "its schema is not text")
    code = code_of(error) if isinstance(error, sqlite3.Error) else sqlite3.SQLITE_CANTOPEN
    if code in _DAMAGE:
        return damaged(path, str(error))
    if code in _IN_THE_WAY:
        why = f"another process has kept it locked for {patience:g} seconds"
    elif code in NO_PLACE:
        why = "it cannot be opened and written there"
    elif code == sqlite3.SQLITE_FULL:
        why = "the disk is full"
    elif code == sqlite3.SQLITE_IOERR:
        why = "the disk is full, over quota or failing"
    else:
        why = "SQLite refuses"
    return StoreError(f"the answer store {path} cannot be used: {why} ({error}). {WAYS_OUT}.")


def damaged(path: Path, why: str) -> DamagedError:
    """Say what is damaged, how to see how much, and how to save what can be read."""
    command = "python -m hf_regioncap store"
    return DamagedError(
        f"the answer store {path} is damaged: {why}. To see how much: {command} verify {path}. "
        f"To save what can be read into a new one: {command} merge NEW {path}. {WAYS_OUT}."
    )
