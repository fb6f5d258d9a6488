"""Paid answers on disk: what was asked, as a key, to every answer that came, good or not.

An SQLite file. An answer is on disk when `AnswerStore.put` returns; answers that arrive at the
same moment share a commit. Many processes and threads may use one file. Nothing is ever changed or
deleted in it, and each row carries a digest of itself: a damaged row is never served, and a
damaged file can be read page by page for the rows that still prove themselves.

::

    AnswerStore   one file, as a caller sees it
    _File         what this process shares about that file: connections, the group to be committed
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import mmap
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

from hf_regioncap.errors import OptionError, StoreError
from hf_regioncap.salvage import PAGE_SIZE, carve

logger = logging.getLogger(__name__)

_APPLICATION_ID = 0x52434150  # "RCAP", in the header of every store
_VERSION = 1
_GROUP_SECONDS = 0.010
_FOLD_BYTES = 4 << 20  # so long may the log become before it is folded into the file
_MAX_CONNECTIONS = 8
_CHUNK = 200
_BUSY_SECONDS = 0.5  # so long SQLite waits for a lock at a time: Ctrl-C is not heard meanwhile

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
_COLUMNS = (
    "key, status, raw, model, finish_reason, prompt_tokens, completion_tokens, created, digest"
)
_INSERT = f"INSERT INTO answers ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_INSERT_NEW = (
    f"INSERT INTO answers ({_COLUMNS}) SELECT ?, ?, ?, ?, ?, ?, ?, ?, ? "
    "WHERE NOT EXISTS (SELECT 1 FROM answers WHERE key = ? AND digest = ?)"
)
_COUNT = (
    "SELECT model, status, count(*), total(prompt_tokens), total(completion_tokens), "
    "min(created), max(created) FROM answers GROUP BY model, status ORDER BY 1, 2"
)
_WAYS_OUT = (
    "Pass answer_store= another path, set HF_REGIONCAP_HOME to another folder, "
    "or pass answer_store=None to go without a store"
)

# key, status, raw, model, finish_reason, prompt_tokens, completion_tokens, created, digest
_Row: TypeAlias = tuple[Any, ...]
_T = TypeVar("_T")


@dataclass(frozen=True)
class StoredAnswer:
    """One answer as it came: the response body as text, and what was made of it at the time.

    `status` is "ok" or one of the api_* statuses, `created` is in unix seconds, token counts are
    None where unknown.
    """

    status: str
    raw: str = field(repr=False)
    model: str
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    created: float


@dataclass(frozen=True)
class StoreSummary:
    """What a store holds: answers by (model, status), tokens, bytes on disk, unix seconds."""

    path: Path
    answers: int
    questions: int
    counts: Mapping[tuple[str, str], int]
    prompt_tokens: int
    completion_tokens: int
    size_bytes: int
    first: float | None
    last: float | None


@dataclass(frozen=True)
class StoreCheck:
    """What `AnswerStore.verify` found: rows that prove themselves, and every problem in words."""

    whole_rows: int
    problems: tuple[str, ...]


class Merged(NamedTuple):
    """Answers that a merge added, and how many at least could not be read from the source."""

    added: int
    lost: int


def default_store_path() -> Path:
    """Return `answers.sqlite` under `$HF_REGIONCAP_HOME`, else in the Hugging Face home.

    The Hugging Face home is found as `huggingface_hub.constants` finds it: `HF_HOME`, else
    `huggingface` under `XDG_CACHE_HOME`, else under `~/.cache`.

    >>> default_store_path().name
    'answers.sqlite'
    """
    own = os.environ.get("HF_REGIONCAP_HOME")
    if own:
        return Path(own).expanduser() / "answers.sqlite"
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{cache}/huggingface"
    return Path(os.path.expandvars(home)).expanduser() / "regioncap" / "answers.sqlite"


class AnswerStore:
    """The answers in one SQLite file, which is created on first use.

    Cheap to make; not to be pickled: pass the path instead. Every method may be called from any
    thread, and after a fork. Whatever stands in the way (a full disk, a read-only place, a lock
    held for longer than `busy_timeout` seconds, a damaged file, another program's file) is a
    `StoreError`.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> store = AnswerStore(folder.name + "/answers.sqlite")
    >>> key = "00" * 32
    >>> store.put(key, StoredAnswer("ok", '{"choices": []}', "gpt-4o-mini", "stop", 9, 2, 0.0))
    >>> store.get(key)
    [StoredAnswer(status='ok', model='gpt-4o-mini', finish_reason='stop', prompt_tokens=9, ...)]
    >>> store.get("ff" * 32)
    []

    What is in two stores can be brought into one:

    >>> other = AnswerStore(folder.name + "/other.sqlite")
    >>> other.merge(store.path), other.merge(store.path), other.verify()
    (1, 0, StoreCheck(whole_rows=1, problems=()))
    >>> store.close(); other.close(); folder.cleanup()
    """

    def __init__(self, path: str | os.PathLike[str], *, busy_timeout: float = 60.0) -> None:
        self.path = Path(os.path.realpath(Path(path).expanduser()))
        self._file = _file(self.path)
        self._patience = busy_timeout

    def open(self) -> None:
        """Create the file if need be and write to it, so that what cannot work is known now."""
        with self._file.lease(self._patience):
            pass

    def close(self) -> None:
        """Close this process's idle connections, which folds the log into the file.

        The next use opens it again.
        """
        self._file.close()

    def get(self, key: str) -> list[StoredAnswer]:
        """Return every answer recorded for a key (64 hex digits), oldest first."""
        return self.get_many([key])[key]

    def get_many(self, keys: Iterable[str]) -> dict[str, list[StoredAnswer]]:
        """Return the answers to each of the keys, oldest first; an empty list where none."""
        found: dict[str, list[StoredAnswer]] = {key: [] for key in keys}
        stored = [_key_bytes(key) for key in found]
        rows: list[_Row] = []
        with self._file.lease(self._patience) as connection:
            for start in range(0, len(stored), _CHUNK):
                rows += _rows_of(connection, self._patience, stored[start : start + _CHUNK])
        by_key: dict[bytes, list[StoredAnswer]] = {}
        whole = [row for row in rows if _is_whole(row)]
        for row in whole:
            by_key.setdefault(row[0], []).append(_answer(row))
        if damaged := len(rows) - len(whole):
            logger.warning(
                "%d damaged answers in %s are passed over: verify the store", damaged, self.path
            )
        return {key: by_key.get(_key_bytes(key), []) for key in found}

    def put(self, key: str, answer: StoredAnswer) -> None:
        """Record an answer; it is on disk when this returns.

        Answers that several threads put within 10 ms share one commit; a lone one is committed at
        once. If the commit fails, each of those threads gets the `StoreError`.
        """
        self.put_many([(key, answer)])

    def put_many(self, answers: Iterable[tuple[str, StoredAnswer]]) -> None:
        """Record (key, answer) pairs in one commit: all are on disk when this returns, or none."""
        rows = [_row(key, answer) for key, answer in answers]
        if rows:
            self._file.put(rows, self._patience)

    def summary(self) -> StoreSummary:
        """Count what the store holds; it must exist."""
        with self._file.lease(self._patience, readonly=True) as connection:
            groups = _fetch(connection, self._patience, _COUNT)
            questions = _fetch(
                connection, self._patience, "SELECT count(DISTINCT key) FROM answers"
            )[0][0]
        return StoreSummary(
            path=self.path,
            answers=sum(group[2] for group in groups),
            questions=questions,
            counts={(model, status): count for model, status, count, *_ in groups},
            prompt_tokens=int(sum(group[3] for group in groups)),
            completion_tokens=int(sum(group[4] for group in groups)),
            size_bytes=sum(_size(path) for path in (self.path, _wal(self.path))),
            first=min((group[5] for group in groups), default=None),
            last=max((group[6] for group in groups), default=None),
        )

    def verify(self) -> StoreCheck:
        """Check the file as SQLite sees it, and each row against its digest; it must exist."""
        whole = 0
        problems: list[str] = []
        try:
            with self._file.lease(self._patience, readonly=True) as connection:
                for (line,) in _fetch(connection, self._patience, "PRAGMA integrity_check"):
                    problems += [] if line == "ok" else line.splitlines()
                for row_id, row in _all_rows(self.path, connection, self._patience):
                    proven = _is_whole(row)
                    whole += proven
                    problems += [] if proven else [f"row {row_id} does not match its digest"]
        except _DamagedError as error:
            problems.append(str(error))
        return StoreCheck(whole, tuple(problems))

    def export_parquet(self, path: str | os.PathLike[str]) -> int:
        """Write every answer to a Parquet file, oldest row first; return how many.

        `raw` is text. Where a body holds lone surrogates, which Parquet cannot, they are replaced
        there and `raw_bytes` has the exact text (UTF-8, surrogates passed through).
        """
        with self._file.lease(self._patience, readonly=True) as connection:
            return _write_parquet(
                Path(path), _proven(self.path, _all_rows(self.path, connection, self._patience))
            )

    def merge(self, other: str | os.PathLike[str]) -> int:
        """Add the answers of another store, or of an exported Parquet file; return how many.

        A row that is here already (same key, same digest) is not added again. Of a damaged source
        all that can be read is added, and what cannot is logged as a warning.
        """
        merged = self.merge_counted(other)
        if merged.lost:
            logger.warning("%s is damaged: at least %d answers are lost", other, merged.lost)
        return merged.added

    def merge_counted(self, other: str | os.PathLike[str]) -> Merged:
        """Do what `merge` does, and return what cannot be read as well."""
        path = Path(os.path.realpath(Path(other).expanduser()))
        if path == self.path:
            raise OptionError(f"a store cannot be merged into itself: {path}")
        if not path.exists() and not _size(_wal(path)):
            raise StoreError(f"there is no answer store at {path}")
        source = _Source(path, self._patience)
        added = 0
        for rows in source.chunks():
            with self._file.lease(self._patience) as connection:
                marked = [(*row, row[0], row[-1]) for row in rows]
                added += _write(connection, self._patience, _INSERT_NEW, marked)
                self._file.checkpoint(connection)
        return Merged(added, source.lost)


# One answer as a row, and back.


def _key_bytes(key: str) -> bytes:
    with contextlib.suppress(ValueError, TypeError):
        stored = bytes.fromhex(key)
        if len(stored) == 32 and len(key) == 64:
            return stored
    raise OptionError(f"key must be a SHA-256 in 64 hex digits, got {key!r}")


def _row(key: str, answer: StoredAnswer) -> _Row:
    fields = (
        _key_bytes(key),
        _storable(answer.status),
        answer.raw.encode("utf-8", "surrogatepass"),
        _storable(answer.model),
        None if answer.finish_reason is None else _storable(answer.finish_reason),
        _count(answer.prompt_tokens),
        _count(answer.completion_tokens),
        float(answer.created),
    )
    return (*fields, _digest(fields))


def _storable(text: str) -> str:
    """Replace lone surrogates, which SQLite's text cannot hold."""
    return text.encode("utf-8", "replace").decode()


def _count(tokens: int | None) -> int | None:
    """Return a count that fits 64 bits; what is no count is unknown (the body has what came)."""
    return tokens if isinstance(tokens, int) and 0 <= tokens < 2**63 else None


def _digest(fields: Sequence[Any]) -> bytes:
    """SHA-256 over all of a row's fields, so that a flipped bit anywhere in it is found."""
    key, status, raw, *rest = fields
    head = json.dumps([key.hex(), status, *rest]).encode()
    return hashlib.sha256(head + b"\n" + raw).digest()


def _is_whole(row: _Row) -> bool:
    try:
        return bool(row[-1] == _digest(row[:-1]))
    except (AttributeError, TypeError, ValueError):  # damage can change a field's type
        return False


def _answer(row: _Row) -> StoredAnswer:
    _, status, raw, *rest, _ = row
    return StoredAnswer(status, raw.decode("utf-8", "surrogatepass"), *rest)


# SQL on an open connection.


def _fetch(
    connection: sqlite3.Connection, patience: float, sql: str, values: Sequence[Any] = ()
) -> list[_Row]:
    return _patiently(patience, lambda: connection.execute(sql, values).fetchall())


def _rows_of(connection: sqlite3.Connection, patience: float, keys: Sequence[bytes]) -> list[_Row]:
    marks = ", ".join("?" * len(keys))
    sql = f"SELECT {_COLUMNS} FROM answers WHERE key IN ({marks}) ORDER BY created, id"
    return _fetch(connection, patience, sql, keys)


def _all_rows(
    path: Path, connection: sqlite3.Connection, patience: float
) -> Iterator[tuple[int, _Row]]:
    """Every (id, row), read in short transactions, so that writers' logs can be folded in."""
    sql = f"SELECT id, {_COLUMNS} FROM answers WHERE id > ? ORDER BY id LIMIT {_CHUNK}"
    last = 0
    while rows := _fetch(connection, patience, sql, (last,)):
        if rows[-1][0] <= last:
            raise _DamagedError(_damage_words(path, f"row {rows[-1][0]} is out of order"))
        for row_id, *row in rows:
            yield row_id, tuple(row)
        last = rows[-1][0]


def _proven(path: Path, rows: Iterable[tuple[int, _Row]]) -> Iterator[_Row]:
    for row_id, row in rows:
        if not _is_whole(row):
            raise _DamagedError(_damage_words(path, f"row {row_id} does not match its digest"))
        yield row


def _write(connection: sqlite3.Connection, patience: float, sql: str, rows: Sequence[_Row]) -> int:
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

    return _patiently(patience, transaction)


def _write_probe(connection: sqlite3.Connection) -> None:
    """Read what a look-up and an insertion will walk through, then commit a real page."""
    connection.execute("SELECT count(*) FROM answers").fetchone()
    connection.execute("SELECT * FROM answers ORDER BY id DESC LIMIT 1").fetchone()
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(f"PRAGMA user_version = {_VERSION}")
    connection.execute("COMMIT")


def _create_table(connection: sqlite3.Connection) -> None:
    """Make an empty file a store, before it gets a log: its header then says so from the start."""
    connection.execute(f"PRAGMA page_size = {PAGE_SIZE}")
    connection.execute("BEGIN IMMEDIATE")
    if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
        connection.execute(_CREATE)
        connection.execute("CREATE INDEX answers_by_key ON answers (key)")
        connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {_VERSION}")
    connection.execute("COMMIT")


# What a process shares about one file.


_Inode: TypeAlias = tuple[int, int]


class _Lease(NamedTuple):
    thread: int
    inode: _Inode | None


class _Group:
    """Rows that wait for the same commit, and what became of it."""

    def __init__(self) -> None:
        self.rows: list[_Row] = []
        self.done = threading.Event()
        self.error: StoreError | None = None
        self.deserted = False


class _File:
    """One store file in this process: its few connections, and the group to be committed next.

    A connection belongs to one thread from `lease` to its end, and to one process: none is open
    while the process forks (see `freeze`).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.idle: list[sqlite3.Connection] = []
        weakref.finalize(self, _close_all, self.idle)
        self.reset()

    def reset(self) -> None:
        """Start as in a new process."""
        self.changed = threading.Condition()
        self.frozen = 0
        self.leased: dict[sqlite3.Connection, _Lease] = {}
        self.inode: _Inode | None = None  # of the file whose header has been read
        self.journal = ""  # empty until a write has been tried
        self.joining = threading.Lock()
        self.group: _Group | None = None
        self.committing = threading.Lock()
        self.last_commit, self.last_thread = float("-inf"), 0
        self.fold_at = _FOLD_BYTES

    # Connections.

    @contextlib.contextmanager
    def lease(self, patience: float, *, readonly: bool = False) -> Iterator[sqlite3.Connection]:
        """Lend a connection to this thread; what goes wrong with it is a `StoreError`."""
        try:
            connection = self._take(patience, readonly)
        except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
            raise _store_error(self.path, error, patience) from error
        keep = False
        try:
            yield connection
            keep = not readonly
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise _store_error(self.path, error, patience) from error
        finally:
            self._give_back(connection, keep)

    def _take(self, patience: float, readonly: bool) -> sqlite3.Connection:
        with self.changed:
            self.changed.wait_for(lambda: not self.frozen and len(self.leased) < _MAX_CONNECTIONS)
            self._look_again()
            if readonly:
                connection = _connect_readonly(self.path)
            elif self.idle:
                connection = self.idle.pop()
            else:
                connection = _patiently(patience, self._connect)
            self.inode = _inode(self.path)
            self.leased[connection] = _Lease(threading.get_ident(), self.inode)
            return connection

    def _look_again(self) -> None:
        """Where the file is new to this process, or another than it was, read its header."""
        if self.inode is not None and self.inode == _inode(self.path):
            return
        _close_all(self.idle)
        self.inode, self.journal = None, ""
        # Reading the bytes is safe here only: closing a file drops all the locks that this
        # process holds on it (https://www.sqlite.org/howtocorrupt.html, section 2.2).
        _refuse_other_files(self.path)

    def _connect(self) -> sqlite3.Connection:
        if self.journal:
            connection = _connect(self.path)
            _use_journal(connection, self.journal)
            return connection
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.journal, connection = _first_connection(self.path)
        return connection

    def _give_back(self, connection: sqlite3.Connection, keep: bool) -> None:
        with self.changed:
            lease = self.leased.pop(connection)
            if keep and lease.inode == self.inode:
                self.idle.append(connection)
            else:
                _close_all([connection])
            self.changed.notify_all()

    def close(self) -> None:
        with self.changed:
            _close_all(self.idle)
            if not self.leased:
                self.inode, self.journal = None, ""

    @contextlib.contextmanager
    def at_rest(self) -> Iterator[None]:
        """Keep every connection of this process closed, so that the bytes can be read."""
        self.freeze()
        try:
            yield
        finally:
            self.thaw()

    # Forks. SQLite keeps a table of its locks per process. A child inherits the table but not the
    # locks, so that even a connection that it opens itself goes without: measured, its answers
    # went into a log that the parent had deleted. So no connection is open while a process forks.

    def freeze(self) -> None:
        """Wait until no other thread holds a connection, close all, and lend none."""
        me = threading.get_ident()
        with self.changed:
            self.frozen += 1
            self.changed.wait_for(lambda: all(x.thread == me for x in self.leased.values()))
            _close_all(self.idle)
            if not self.leased:
                self.inode, self.journal = None, ""

    def thaw(self) -> None:
        with self.changed:
            self.frozen -= 1
            self.changed.notify_all()

    def forget_parent(self) -> None:
        """In a forked child: use nothing of the parent's, and do not close it either."""
        _abandoned.extend([*self.idle, *self.leased])
        self.idle.clear()
        self.reset()

    # Commits.

    def put(self, rows: list[_Row], patience: float) -> None:
        with self.joining:
            group, leads = self.group, self.group is None
            if group is None:
                group = self.group = _Group()
            group.rows += rows
        if leads:
            self._lead(group, patience)
            return
        group.done.wait()
        if group.deserted:
            self.put(rows, patience)
        elif group.error is not None:
            raise StoreError(str(group.error))

    def _lead(self, group: _Group, patience: float) -> None:
        try:
            with self.committing:
                time.sleep(self._pause())
                with self.joining:
                    self.group = None
                self._commit(group.rows, patience)
                self.last_commit, self.last_thread = time.monotonic(), threading.get_ident()
        except StoreError as error:
            group.error = error
            raise
        except BaseException:  # Ctrl-C met this thread: the others commit without it
            group.deserted = True
            raise
        finally:
            with self.joining:
                self.group = None if self.group is group else self.group
            group.done.set()

    def _pause(self) -> float:
        """Seconds to wait for more rows: none, unless other threads are putting at this moment."""
        if self.last_thread == threading.get_ident():
            return 0.0
        return max(0.0, self.last_commit + _GROUP_SECONDS - time.monotonic())

    def _commit(self, rows: Sequence[_Row], patience: float) -> None:
        with self.lease(patience) as connection:
            _write(connection, patience, _INSERT, rows)
            self.checkpoint(connection)

    def checkpoint(self, connection: sqlite3.Connection) -> None:
        """Fold a log that has grown into the file, with all writers held off.

        SQLite's own way does not hold them off, which before 3.51.3 could lose a commit
        (https://www.sqlite.org/wal.html#walresetbug).
        """
        log = _wal(self.path)
        if _size(log) < self.fold_at:
            return
        # What was committed is in the log, whatever comes of this: a later one tries again.
        with contextlib.suppress(sqlite3.Error):
            # Others commit in a millisecond: this waits for them, but not for a reader who takes
            # long, as it holds up all writers meanwhile.
            connection.execute("PRAGMA busy_timeout = 2000")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            connection.execute(f"PRAGMA busy_timeout = {int(_BUSY_SECONDS * 1000)}")
        self.fold_at = _size(log) + _FOLD_BYTES


_files: weakref.WeakValueDictionary[Path, _File] = weakref.WeakValueDictionary()
_files_lock = threading.Lock()
_abandoned: list[sqlite3.Connection] = []


def _file(path: Path) -> _File:
    with _files_lock:
        file = _files.get(path)
        if file is None:
            file = _files[path] = _File(path)
        return file


def _before_fork() -> None:
    _files_lock.acquire()  # until the fork is done
    for file in _files.values():
        file.freeze()


def _after_fork_in_parent() -> None:
    for file in _files.values():
        file.thaw()
    _files_lock.release()


def _after_fork_in_child() -> None:
    global _files_lock
    _files_lock = threading.Lock()
    for file in _files.values():
        file.forget_parent()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )


# Opening.

_IN_THE_WAY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)
_NO_PLACE = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)
# The last two: a damaged schema does not know our tables and columns, a damaged length is absurd.
_DAMAGE = (
    *(sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB),
    *(sqlite3.SQLITE_ERROR, sqlite3.SQLITE_TOOBIG),
)
_NETWORK = (
    *("9p", "afs", "beegfs", "ceph", "cifs", "fuse", "glusterfs", "gpfs", "lustre"),
    *("nfs", "nfs4", "smb3", "smbfs", "vboxsf", "virtiofs"),
)


class _DamagedError(StoreError):
    """A store whose bytes are not what was written."""


def _first_connection(path: Path) -> tuple[str, sqlite3.Connection]:
    """Create the file if need be, find out which journal works here, and write with it."""
    refusal: sqlite3.OperationalError | None = None
    if not _on_network(path):
        try:
            return "WAL", _connect_and_write(path, "WAL")
        except sqlite3.OperationalError as error:
            if _code(error) not in (*_NO_PLACE, sqlite3.SQLITE_IOERR):
                raise
            refusal = error
    try:
        _leave_wal(path)
        connection = _connect_and_write(path, "TRUNCATE")
    except sqlite3.OperationalError as error:
        raise refusal or error from None
    logger.info("no write-ahead log for the answer store in %s: rollback journal", path.parent)
    return "TRUNCATE", connection


def _connect_and_write(path: Path, journal: str) -> sqlite3.Connection:
    connection = _connect(path)
    try:
        if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
            _create_table(connection)
        _use_journal(connection, journal)
        _write_probe(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _connect(path: Path | str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path,
        uri=isinstance(path, str),
        timeout=_BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,  # see _File: one thread at a time
    )
    connection.text_factory = _lenient_text
    return connection


def _use_journal(connection: sqlite3.Connection, journal: str) -> None:
    connection.execute("PRAGMA wal_autocheckpoint = 0")  # see _File.checkpoint
    used = connection.execute(f"PRAGMA journal_mode = {journal}").fetchone()[0]
    # Without a log, a commit is the journal's end: EXTRA is FULL that syncs this as well.
    connection.execute(f"PRAGMA synchronous = {'FULL' if used == 'wal' else 'EXTRA'}")


def _leave_wal(path: Path) -> None:
    """Turn a file with a log into one without, also where the log's shared memory fails.

    With the file to itself, SQLite keeps the log's index in memory of its own
    (https://www.sqlite.org/wal.html#noshm).
    """
    if not _size(path):
        return
    connection = _connect(path)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = TRUNCATE")
    finally:
        connection.close()


def _connect_readonly(path: Path) -> sqlite3.Connection:
    if not path.exists():
        raise StoreError(f"there is no answer store at {path}")
    uri = f"{path.as_uri()}?mode=ro"
    if not os.access(path.parent, os.W_OK) and not _size(_wal(path)):
        uri += "&immutable=1"  # else SQLite would make files beside it
    return _connect(uri)


def _lenient_text(stored: bytes) -> str:
    return stored.decode("utf-8", "replace")  # damaged text then fails its row's digest


def _close_all(connections: list[sqlite3.Connection]) -> None:
    while connections:
        # What was committed is on disk; that the log could not be folded in does not matter.
        with contextlib.suppress(sqlite3.Error):
            connections.pop().close()


def _patiently(patience: float, action: Callable[[], _T]) -> _T:
    """Try again while others are in the way: SQLite itself does not wait in every such case."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return action()
        except sqlite3.OperationalError as error:
            if _code(error) not in _IN_THE_WAY or time.monotonic() >= deadline:
                raise
        time.sleep(0.02)


def _refuse_other_files(path: Path) -> None:
    """Raise unless the file is missing, empty, or a store of a version that is known here."""
    if path.exists() and not path.is_file():
        raise StoreError(f"the answer store {path} is no file. {_WAYS_OUT}.")
    head = _first_bytes(path, 100) if path.exists() else b""
    if not head:
        if _size(_wal(path)):
            why = f"it is empty or gone, but its log {_wal(path).name} is not (or remove that too)"
            raise _DamagedError(_damage_words(path, why))
        return
    if len(head) < 100 or not head.startswith(b"SQLite format 3\0"):
        raise _DamagedError(_damage_words(path, "its first bytes are not those of an SQLite file"))
    version, application = (int.from_bytes(head[at : at + 4], "big") for at in (60, 68))
    if application != _APPLICATION_ID:
        raise StoreError(f"{path} is another program's SQLite file, not touched. {_WAYS_OUT}.")
    if version > _VERSION:
        raise StoreError(
            f"{path} was made by a newer hf_regioncap (version {version} of its tables, "
            f"{_VERSION} is known here), not touched. Upgrade hf_regioncap. {_WAYS_OUT}."
        )


def _first_bytes(path: Path, count: int) -> bytes:
    with path.open("rb") as file:
        return file.read(count)


def _on_network(path: Path) -> bool:
    """Whether SQLite's log cannot work: it needs memory that all its users share."""
    try:
        mounts = Path("/proc/self/mounts").read_text(errors="replace")
    except OSError:  # not Linux: SQLite's own attempt must do
        return False
    kind = _file_system(os.fspath(path), mounts)
    return kind in _NETWORK or kind.startswith("fuse.")


def _file_system(path: str, mounts: str) -> str:
    r"""Return the type of the file system that holds a path, from /proc/self/mounts.

    >>> mounts = "/dev/sda1 / ext4 rw 0 0\nhome:/x /home nfs4 rw 0 0"
    >>> _file_system("/home/ada/answers.sqlite", mounts), _file_system("/homely", mounts)
    ('nfs4', 'ext4')
    """
    found = ("", "")
    for line in mounts.splitlines():
        _, point, kind, *_ = line.split(" ")
        point = point.replace("\\040", " ").rstrip("/") + "/"
        if path.startswith(point) and len(point) >= len(found[0]):
            found = (point, kind)
    return found[1]


def _wal(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0


def _inode(path: Path) -> _Inode | None:
    with contextlib.suppress(OSError):
        stat = path.stat()
        return stat.st_dev, stat.st_ino
    return None


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 where the error is the sqlite3 module's own."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _store_error(
    path: Path, error: sqlite3.Error | OSError | UnicodeDecodeError, patience: float
) -> StoreError:
    """Say which file, what is wrong with it, and the ways out."""
    if isinstance(error, UnicodeDecodeError):  # SQLite quotes the damage in its own message
        return _DamagedError(_damage_words(path, "its schema is not text"))
    code = _code(error) if isinstance(error, sqlite3.Error) else sqlite3.SQLITE_CANTOPEN
    if code in _DAMAGE:
        return _DamagedError(_damage_words(path, str(error)))
    if code in _IN_THE_WAY:
        why = f"another process has kept it locked for {patience:g} seconds"
    elif code in _NO_PLACE:
        why = "it cannot be opened and written there"
    elif code == sqlite3.SQLITE_FULL:
        why = "the disk is full"
    elif code == sqlite3.SQLITE_IOERR:
        why = "the disk is full, over quota or failing"
    else:
        why = "SQLite refuses"
    return StoreError(f"the answer store {path} cannot be used: {why} ({error}). {_WAYS_OUT}.")


def _damage_words(path: Path, why: str) -> str:
    command = "python -m hf_regioncap store"
    return (
        f"the answer store {path} is damaged: {why}. To see how much: {command} verify {path}. "
        f"To save what can be read into a new one: {command} merge NEW {path}. {_WAYS_OUT}."
    )


def _carved(path: Path, ids: set[int]) -> Iterator[_Row]:
    """Every row in a store's bytes and in its log's that proves itself; adds their ids to `ids`."""
    data, log = (memoryview(_mapped(each)) for each in (path, _wal(path)))
    for row_id, row in carve(data, log):
        if _is_whole(row):
            ids.add(row_id)
            yield row


def _mapped(path: Path) -> mmap.mmap | bytes:
    if not _size(path):
        return b""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


# Export and merge.


def _in_chunks(rows: Iterable[_Row], max_rows: int, max_bytes: int) -> Iterator[list[_Row]]:
    chunk: list[_Row] = []
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
    return pa.schema(kinds, metadata={"hf_regioncap.answers": str(_VERSION)})


def _write_parquet(path: Path, rows: Iterable[_Row]) -> int:
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


def _exported(row: _Row) -> dict[str, Any]:
    exported = dict(zip(_COLUMNS.split(", "), row, strict=True))
    exported |= {"key": row[0].hex(), "digest": row[-1].hex()}
    try:
        exported["raw"] = row[2].decode()
    except UnicodeDecodeError:
        text = row[2].decode("utf-8", "surrogatepass")
        exported |= {"raw": _storable(text), "raw_bytes": row[2]}
    return exported


def _imported(exported: Mapping[str, Any]) -> _Row:
    row = {name: exported[name] for name in _COLUMNS.split(", ")}
    row["raw"] = exported["raw_bytes"] or exported["raw"].encode()
    row |= {name: bytes.fromhex(exported[name]) for name in ("key", "digest")}
    return tuple(row.values())


class _Source:
    """The rows of another store, or of an exported file, as far as they can be read."""

    def __init__(self, path: Path, patience: float) -> None:
        self.path = path
        self.lost = 0  # known when the rows have been read; at least so many
        self._file = _file(path)
        self._patience = patience

    def chunks(self) -> Iterator[list[_Row]]:
        with self._file.at_rest():
            exported = self.path.is_file() and _first_bytes(self.path, 4) == b"PAR1"
        if exported:
            yield from self._parquet()
            return
        try:
            with self._file.lease(self._patience, readonly=True) as connection:
                rows = _proven(self.path, _all_rows(self.path, connection, self._patience))
                yield from _in_chunks(rows, _CHUNK, 8 << 20)
        except _DamagedError as error:
            yield from self._damaged(error)

    def _damaged(self, error: StoreError) -> Iterator[list[_Row]]:
        ids: set[int] = set()
        with self._file.at_rest():
            yield from _in_chunks(_carved(self.path, ids), _CHUNK, 8 << 20)
        if not ids:
            raise error
        self.lost = max(ids) - len(ids)

    def _parquet(self) -> Iterator[list[_Row]]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self.path) as file:
                if b"hf_regioncap.answers" not in (file.schema_arrow.metadata or {}):
                    raise StoreError(f"{self.path} is no export of an answer store")
                for batch in file.iter_batches(_CHUNK):
                    rows = [_imported(exported) for exported in batch.to_pylist()]
                    whole = [row for row in rows if _is_whole(row)]
                    self.lost += len(rows) - len(whole)
                    yield whole
        except (OSError, pa.ArrowException) as error:
            raise StoreError(f"cannot read {self.path}: {error}") from error
