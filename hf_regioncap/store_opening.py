"""Opens a store's file: what is refused, and which journal works where it lies."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from pathlib import Path
from typing import TypeAlias

from hf_regioncap.errors import StoreError
from hf_regioncap.store_errors import NO_PLACE, WAYS_OUT, code_of, damaged
from hf_regioncap.store_table import APPLICATION_ID, VERSION, create_table, write_probe

logger = logging.getLogger(__name__)

BUSY_SECONDS = 0.5  # so long SQLite waits for a lock at a time: Ctrl-C is not heard meanwhile
_NETWORK = (
    *("9p", "afs", "beegfs", "ceph", "cifs", "fuse", "glusterfs", "gpfs", "lustre"),
    *("nfs", "nfs4", "smb3", "smbfs", "vboxsf", "virtiofs"),
)
Inode: TypeAlias = tuple[int, int]


def first_connection(path: Path) -> tuple[str, sqlite3.Connection]:
    """Create the file if need be, find out which journal works here, and write with it."""
    _create_private(path)
    refusal: sqlite3.OperationalError | None = None
    if not _on_network(path):
        try:
            return "WAL", _connect_and_write(path, "WAL")
        except sqlite3.OperationalError as error:
            if code_of(error) not in (*NO_PLACE, sqlite3.SQLITE_IOERR):
                raise
            refusal = error
    try:
        _leave_wal(path)
        connection = _connect_and_write(path, "TRUNCATE")
    except sqlite3.OperationalError as error:
        raise refusal or error from None
    logger.info("no write-ahead log for the answer store in %s: rollback journal", path.parent)
    return "TRUNCATE", connection


def _create_private(path: Path) -> None:
    """Make a file that only its owner may read; SQLite gives the files beside it the same mode.

    A file that exists is not opened, as closing it would drop this process's locks on it, and its
    mode is left to whoever has set it.
    """
    with contextlib.suppress(OSError):  # where it cannot be made SQLite says why
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def _connect_and_write(path: Path, journal: str) -> sqlite3.Connection:
    connection = connect(path)
    try:
        if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
            create_table(connection)
        use_journal(connection, journal)
        write_probe(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def connect(path: Path | str) -> sqlite3.Connection:
    """Open a path, or a `file:` URI, with SQLite."""
    connection = sqlite3.connect(
        path,
        uri=isinstance(path, str),
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,  # see StoreFile: one thread at a time
    )
    connection.text_factory = _lenient_text
    return connection


def use_journal(connection: sqlite3.Connection, journal: str) -> None:
    """Set the journal, and that a commit is on disk when it returns."""
    connection.execute("PRAGMA wal_autocheckpoint = 0")  # see StoreFile.checkpoint
    used = connection.execute(f"PRAGMA journal_mode = {journal}").fetchone()[0]
    # Without a log, a commit is the journal's end: EXTRA is FULL that syncs this as well.
    connection.execute(f"PRAGMA synchronous = {'FULL' if used == 'wal' else 'EXTRA'}")


def _leave_wal(path: Path) -> None:
    """Turn a file with a log into one without, also where the log's shared memory fails.

    With the file to itself, SQLite keeps the log's index in memory of its own
    (https://www.sqlite.org/wal.html#noshm).
    """
    if not size_of(path):
        return
    connection = connect(path)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = TRUNCATE")
    finally:
        connection.close()


def connect_readonly(path: Path) -> sqlite3.Connection:
    """Open a store that exists, to read; nothing is made beside it where nothing can be."""
    if not path.exists():
        raise StoreError(f"there is no answer store at {path}")
    uri = f"{path.as_uri()}?mode=ro"
    if not os.access(path.parent, os.W_OK) and not size_of(wal(path)):
        uri += "&immutable=1"  # else SQLite would make files beside it
    return connect(uri)


def _lenient_text(stored: bytes) -> str:
    return stored.decode("utf-8", "replace")  # damaged text then fails its row's digest


def close_all(connections: list[sqlite3.Connection]) -> None:
    """Close and remove each connection of the list."""
    while connections:
        # What was committed is on disk; that the log could not be folded in does not matter.
        with contextlib.suppress(sqlite3.Error):
            connections.pop().close()


def refuse_other_files(path: Path) -> None:
    """Raise unless the file is missing, empty, or a store of a version that is known here."""
    if path.exists() and not path.is_file():
        raise StoreError(f"the answer store {path} is no file. {WAYS_OUT}.")
    head = first_bytes(path, 100) if path.exists() else b""
    if not head:
        if size_of(wal(path)):
            why = f"it is empty or gone, but its log {wal(path).name} is not (or remove that too)"
            raise damaged(path, why)
        return
    if len(head) < 100 or not head.startswith(b"SQLite format 3\0"):
        raise damaged(path, "its first bytes are not those of an SQLite file")
    version, application = (int.from_bytes(head[at : at + 4], "big") for at in (60, 68))
    if application != APPLICATION_ID:
        raise StoreError(f"{path} is another program's SQLite file, not touched. {WAYS_OUT}.")
    if version > VERSION:
        raise StoreError(
            f"{path} was made by a newer hf_regioncap (version {version} of its tables, "
            f"{VERSION} is known here), not touched. Upgrade hf_regioncap. {WAYS_OUT}."
        )


def first_bytes(path: Path, count: int) -> bytes:
    """Read the beginning of a file."""
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


def wal(path: Path) -> Path:
    """Return where the write-ahead log of a file is."""
    return path.with_name(path.name + "-wal")


def size_of(path: Path) -> int:
    """Return the bytes of a file; 0 where there is none."""
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0


def inode_of(path: Path) -> Inode | None:
    """Return (device, inode), which another file at the same path does not share."""
    with contextlib.suppress(OSError):
        stat = path.stat()
        return stat.st_dev, stat.st_ino
    return None
