"""What a process shares about one store file: its few connections, and the next commit."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from hf_regioncap.errors import StoreError
from hf_regioncap.store_errors import damaged, patiently, store_error
from hf_regioncap.store_opening import (
    BUSY_SECONDS,
    Inode,
    close_all,
    connect,
    connect_readonly,
    first_connection,
    inode_of,
    refuse_other_files,
    size_of,
    use_journal,
    wal,
)
from hf_regioncap.store_table import INSERT, Row, is_whole, rows_after, write_rows

#: So long after a commit the next one waits for company: at most a hundred commits a second.
GROUP_SECONDS = 0.010
_FOLD_BYTES = 4 << 20  # so long may the log become before it is folded into the file
_MAX_CONNECTIONS = 8


class _Lease(NamedTuple):
    thread: int
    inode: Inode | None


class _Group:
    """Rows that wait for the same commit, and what became of it."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.done = threading.Event()
        self.error: StoreError | None = None
        self.deserted = False


class StoreFile:
    """One store file in this process: its few connections, and the group to be committed next.

    A connection belongs to one thread from `lease` to its end, and to one process: none is open
    while the process forks (see `freeze`).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.idle: list[sqlite3.Connection] = []
        weakref.finalize(self, close_all, self.idle)
        self.reset()

    def reset(self) -> None:
        """Start as in a new process."""
        self.changed = threading.Condition()
        self.frozen = 0
        self.leased: dict[sqlite3.Connection, _Lease] = {}
        self.inode: Inode | None = None  # of the file whose header has been read
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
            raise store_error(self.path, error, patience) from error
        keep = False
        try:
            yield connection
            keep = not readonly
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise store_error(self.path, error, patience) from error
        finally:
            self._give_back(connection, keep)

    def all_rows(self, patience: float) -> Iterator[tuple[int, Row]]:
        """Every (id, row) of a file that exists.

        Each some hundred are read on a lease of their own: whoever takes the rows may write them
        to another file, which a fork that waits for this one would not let be used.
        """
        last = 0
        while True:
            with self.lease(patience, readonly=True) as connection:
                rows = rows_after(connection, patience, last)
            if not rows:
                return
            if rows[-1][0] <= last:
                raise damaged(self.path, f"row {rows[-1][0]} is out of order")
            for row_id, *row in rows:
                yield row_id, tuple(row)
            last = rows[-1][0]

    def proven_rows(self, patience: float) -> Iterator[Row]:
        """Every row; raises where one does not match its digest."""
        for row_id, row in self.all_rows(patience):
            if not is_whole(row):
                raise damaged(self.path, f"row {row_id} does not match its digest")
            yield row

    def _take(self, patience: float, readonly: bool) -> sqlite3.Connection:
        with self.changed:
            self.changed.wait_for(lambda: not self.frozen and len(self.leased) < _MAX_CONNECTIONS)
            self._look_again()
            if readonly:
                connection = connect_readonly(self.path)
            elif self.idle:
                connection = self.idle.pop()
            else:
                connection = patiently(patience, self._connect)
            self.inode = inode_of(self.path)
            self.leased[connection] = _Lease(threading.get_ident(), self.inode)
            return connection

    def _look_again(self) -> None:
        """Where the file is new to this process, or another than it was, read its header."""
        if self.inode is not None and self.inode == inode_of(self.path):
            return
        close_all(self.idle)
        self.inode, self.journal = None, ""
        # Reading the bytes is safe here only: closing a file drops all the locks that this
        # process holds on it (https://www.sqlite.org/howtocorrupt.html, section 2.2).
        refuse_other_files(self.path)

    def _connect(self) -> sqlite3.Connection:
        if self.journal:
            connection = connect(self.path)
            use_journal(connection, self.journal)
            return connection
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.journal, connection = first_connection(self.path)
        return connection

    def _give_back(self, connection: sqlite3.Connection, keep: bool) -> None:
        with self.changed:
            lease = self.leased.pop(connection)
            if keep and lease.inode == self.inode:
                self.idle.append(connection)
            else:
                close_all([connection])
            self.changed.notify_all()

    def close(self) -> None:
        """Close the idle connections; once none is open, the next use looks at the file again."""
        with self.changed:
            self._close_idle()

    def _close_idle(self) -> None:
        close_all(self.idle)
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
            self._close_idle()

    def thaw(self) -> None:
        """Lend connections again."""
        with self.changed:
            self.frozen -= 1
            self.changed.notify_all()

    def forget_parent(self) -> None:
        """In a forked child: use nothing of the parent's, and do not close it either."""
        _abandoned.extend([*self.idle, *self.leased])
        self.idle.clear()
        self.reset()

    # Commits.

    def put(self, rows: list[Row], patience: float) -> None:
        """Commit rows, together with those that other threads put at this moment."""
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
        return max(0.0, self.last_commit + GROUP_SECONDS - time.monotonic())

    def _commit(self, rows: Sequence[Row], patience: float) -> None:
        with self.lease(patience) as connection:
            write_rows(connection, patience, INSERT, rows)
            self.checkpoint(connection)

    def checkpoint(self, connection: sqlite3.Connection) -> None:
        """Fold a log that has grown into the file, with all writers held off.

        SQLite's own way does not hold them off, which before 3.51.3 could lose a commit
        (https://www.sqlite.org/wal.html#walresetbug).
        """
        log = wal(self.path)
        if size_of(log) < self.fold_at:
            return
        # What was committed is in the log, whatever comes of this: a later one tries again.
        with contextlib.suppress(sqlite3.Error):
            # Others commit in a millisecond: this waits for them, but not for a reader who takes
            # long, as it holds up all writers meanwhile.
            connection.execute("PRAGMA busy_timeout = 2000")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            connection.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")
        self.fold_at = size_of(log) + _FOLD_BYTES


_files: weakref.WeakValueDictionary[Path, StoreFile] = weakref.WeakValueDictionary()
_files_lock = threading.Lock()
_abandoned: list[sqlite3.Connection] = []


def shared_file(path: Path) -> StoreFile:
    """Return this process's one `StoreFile` of a resolved path."""
    with _files_lock:
        file = _files.get(path)
        if file is None:
            file = _files[path] = StoreFile(path)
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
