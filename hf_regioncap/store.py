"""Paid answers on disk: what was asked, as a key, to every answer that came, good or not.

An SQLite file. An answer is on disk when `AnswerStore.put` returns; answers that arrive at the
same moment share a commit. Many processes and threads may use one file. Nothing is ever changed or
deleted in it, and each row carries a digest of itself: a damaged row is never served, and a
damaged file can be read page by page for the rows that still prove themselves.

::

    store.py          one file, as a caller sees it
    store_merge.py    what can be read of another store
    store_parquet.py  an export, and back
    store_file.py     what this process shares about a file: connections, commits, forks
    store_opening.py  which files are refused, which journal works
    store_table.py    rows, digests, SQL
    store_errors.py   what went wrong, in words
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from hf_regioncap.errors import OptionError, StoreError
from hf_regioncap.store_errors import DamagedError
from hf_regioncap.store_file import shared_file
from hf_regioncap.store_merge import Source
from hf_regioncap.store_opening import size_of, wal
from hf_regioncap.store_parquet import write_parquet
from hf_regioncap.store_table import (
    CHUNK,
    INSERT_NEW,
    Row,
    digest_of,
    fetch,
    is_whole,
    rows_of,
    storable,
    write_rows,
)

logger = logging.getLogger(__name__)

_COUNT = (
    "SELECT model, status, count(*), total(prompt_tokens), total(completion_tokens), "
    "min(created), max(created) FROM answers GROUP BY model, status ORDER BY 1, 2"
)


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
        self._file = shared_file(self.path)
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
        rows: list[Row] = []
        with self._file.lease(self._patience) as connection:
            for start in range(0, len(stored), CHUNK):
                rows += rows_of(connection, self._patience, stored[start : start + CHUNK])
        by_key: dict[bytes, list[StoredAnswer]] = {}
        whole = [row for row in rows if is_whole(row)]
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
            groups = fetch(connection, self._patience, _COUNT)
            questions = fetch(
                connection, self._patience, "SELECT count(DISTINCT key) FROM answers"
            )[0][0]
        return StoreSummary(
            path=self.path,
            answers=sum(group[2] for group in groups),
            questions=questions,
            counts={(model, status): count for model, status, count, *_ in groups},
            prompt_tokens=int(sum(group[3] for group in groups)),
            completion_tokens=int(sum(group[4] for group in groups)),
            size_bytes=sum(size_of(path) for path in (self.path, wal(self.path))),
            first=min((group[5] for group in groups), default=None),
            last=max((group[6] for group in groups), default=None),
        )

    def verify(self) -> StoreCheck:
        """Check the file as SQLite sees it, and each row against its digest; it must exist."""
        whole = 0
        problems: list[str] = []
        try:
            with self._file.lease(self._patience, readonly=True) as connection:
                for (line,) in fetch(connection, self._patience, "PRAGMA integrity_check"):
                    problems += [] if line == "ok" else line.splitlines()
            for row_id, row in self._file.all_rows(self._patience):
                proven = is_whole(row)
                whole += proven
                problems += [] if proven else [f"row {row_id} does not match its digest"]
        except DamagedError as error:
            problems.append(str(error))
        return StoreCheck(whole, tuple(problems))

    def export_parquet(self, path: str | os.PathLike[str]) -> int:
        """Write every answer to a Parquet file, oldest row first; return how many.

        `raw` is text. Where a body holds lone surrogates, which Parquet cannot, they are replaced
        there and `raw_bytes` has the exact text (UTF-8, surrogates passed through).
        """
        return write_parquet(Path(path), self._file.proven_rows(self._patience))

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
        if not path.exists() and not size_of(wal(path)):
            raise StoreError(f"there is no answer store at {path}")
        source = Source(path, self._patience)
        added = 0
        for rows in source.chunks():
            with self._file.lease(self._patience) as connection:
                marked = [(*row, row[0], row[-1]) for row in rows]
                added += write_rows(connection, self._patience, INSERT_NEW, marked)
                self._file.checkpoint(connection)
        return Merged(added, source.lost)


# One answer as a row, and back.


def _key_bytes(key: str) -> bytes:
    with contextlib.suppress(ValueError, TypeError):
        stored = bytes.fromhex(key)
        if len(stored) == 32 and len(key) == 64:
            return stored
    raise OptionError(f"key must be a SHA-256 in 64 hex digits, got {key!r}")


def _row(key: str, answer: StoredAnswer) -> Row:
    fields = (
        _key_bytes(key),
        storable(answer.status),
        answer.raw.encode("utf-8", "surrogatepass"),
        storable(answer.model),
        None if answer.finish_reason is None else storable(answer.finish_reason),
        _count(answer.prompt_tokens),
        _count(answer.completion_tokens),
        float(answer.created),
    )
    return (*fields, digest_of(fields))


def _count(tokens: int | None) -> int | None:
    """Return a count that fits 64 bits; what is no count is unknown (the body has what came)."""
    return tokens if isinstance(tokens, int) and 0 <= tokens < 2**63 else None


def _answer(row: Row) -> StoredAnswer:
    _, status, raw, *rest, _ = row
    return StoredAnswer(status, raw.decode("utf-8", "surrogatepass"), *rest)
