"""Request files for batch endpoints, and their results back into the answer store.

The lines are those of OpenAI's Batch API (guide "Batch API", "Preparing your batch file" and
"Retrieving the results"), which vLLM's `run-batch` reads and writes too. A request's `custom_id`
is its key in the store: results may come in any order, in part, or twice. A run of
`caption_dataset` with the same options and store then finds them as if it had asked itself.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hf_regioncap import rejections, wire
from hf_regioncap.captioning import open_store
from hf_regioncap.endpoint import find_address, is_openai
from hf_regioncap.errors import OptionError
from hf_regioncap.estimates import asks_to_send
from hf_regioncap.options import read_options
from hf_regioncap.response import read_completion
from hf_regioncap.store import StoredAnswer

#: OpenAI's limits for one file: 200 MB and 50,000 requests.
MAX_FILE_BYTES = 200_000_000
MAX_FILE_LINES = 50_000
#: What stands between a line's key and its body.
_HEAD = b', "method": "POST", "url": "/v1/chat/completions", "body": '
_FILE_NAME = re.compile(r"requests-\d{5,}\.jsonl")
_CHUNK = 500


@dataclass(frozen=True)
class Exported:
    """What `export_requests` wrote: the files, and how many requests they hold."""

    files: tuple[Path, ...]
    requests: int


def export_requests(
    dataset: Any,
    folder: str | os.PathLike[str],
    *,
    max_file_bytes: int = MAX_FILE_BYTES,
    max_file_lines: int = MAX_FILE_LINES,
    **options: Any,
) -> Exported:
    """Write the requests that captioning a dataset would send now, to `requests-00001.jsonl` ….

    What the store can answer is left out, so after an import the next export holds only what is
    still missing: failed and expired requests, and questions for missing regions. An earlier export
    in the folder is replaced when the new one is complete; no other file there is touched.

    >>> from PIL import Image
    >>> from datasets import Dataset
    >>> ds = Dataset.from_list([{"image": Image.new("RGB", (64, 48)), "bbox": [[8, 8, 40, 30]]}])
    >>> folder = getfixture("tmp_path")
    >>> exported = export_requests(ds, folder, answer_store=folder / "answers.sqlite")
    >>> exported.requests, exported.files[0].name
    (1, 'requests-00001.jsonl')
    """
    checked = read_options(options)
    if checked.answer_store is None:
        raise OptionError("answer_store must not be None: results come back through the store")
    dialect = wire.first_dialect(checked, is_openai=is_openai(find_address(checked)))
    dialect = replace(dialect, stream=None)  # a batch streams nothing
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    earlier = _earlier_export(place)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=place) as unfinished:
        files = _Files(Path(unfinished), max_file_bytes, max_file_lines)
        try:
            for key, ask in asks_to_send(dataset, checked):
                body = wire.build_body(ask.question, dialect, ask.token_limit)
                # Put together as bytes: a JSON encoder would look at each character of an image.
                line = b'{"custom_id": ' + json.dumps(key).encode() + _HEAD + body + b"}\n"
                files.write(line)
        finally:
            files.close()
        for stale in earlier:
            stale.unlink()  # of an earlier export: they would be asked, and paid, again
        written = tuple(path.replace(place / path.name) for path in files.paths)
    return Exported(written, files.requests)


def _earlier_export(folder: Path) -> list[Path]:
    """The files of an earlier export; raises where another file stands in a new one's place."""
    numbered = [path for path in folder.iterdir() if _FILE_NAME.fullmatch(path.name)]
    for path in numbered:
        with path.open("rb") as file:
            head = file.read(300)
        if head and not (head.startswith(b'{"custom_id": ') and _HEAD in head):
            raise OptionError(
                f"{str(path)!r} was not written by an export and would be replaced: move it, or "
                "name another folder"
            )
    return sorted(numbered)


class _Files:
    """Numbered files, each below a size and a number of lines."""

    def __init__(self, folder: Path, max_bytes: int, max_lines: int) -> None:
        self._folder, self._max_bytes, self._max_lines = folder, max_bytes, max_lines
        self.paths: list[Path] = []
        self._file: Any = None
        self._bytes = self._lines = self.requests = 0

    def write(self, line: bytes) -> None:
        """Append a line, in the next file where this one is full."""
        if len(line) > self._max_bytes:
            raise OptionError(
                f"a request of {len(line):,} bytes does not fit into a file of "
                f"{self._max_bytes:,}: pass max_side="
            )
        full = self._bytes + len(line) > self._max_bytes or self._lines >= self._max_lines
        if self._file is None or full:
            self._next()
        self._file.write(line)
        self._bytes += len(line)
        self._lines += 1
        self.requests += 1

    def _next(self) -> None:
        self.close()
        path = self._folder / f"requests-{len(self.paths) + 1:05d}.jsonl"
        self._file = path.open("wb")
        self.paths.append(path)
        self._bytes = self._lines = 0

    def close(self) -> None:
        """Finish the last file."""
        if self._file is not None:
            self._file.close()


@dataclass(frozen=True)
class Imported:
    """What `import_results` found: answers stored, known before, failed (to be asked again)."""

    stored: int
    known: int
    failed: int
    reasons: dict[str, int]


def import_results(files: Sequence[str | os.PathLike[str]], **options: Any) -> Imported:
    """Bring the result files of a batch into the answer store of these options.

    Lines may come in any order, in part, or twice. Failed and expired requests are counted with
    their reasons and stay to be asked, as are those of lines that are cut off. Raises OptionError
    for a file that holds no results.
    """
    checked = read_options(options)
    store = open_store(checked)
    if store is None:
        raise OptionError("answer_store must not be None: results come back through the store")
    store.open()
    stored = known = 0
    reasons: dict[str, int] = {}
    chunk: dict[tuple[str, str], StoredAnswer] = {}

    def commit() -> tuple[int, int]:
        present = store.get_many({key for key, _ in chunk})
        new = [
            (key, answer)
            for (key, raw), answer in chunk.items()
            if raw not in {each.raw for each in present.get(key, [])}
        ]
        store.put_many(new)
        counts = len(new), len(chunk) - len(new)
        chunk.clear()
        return counts

    repeated = 0
    for key, answer in _results(files):
        if isinstance(answer, str):
            reasons[answer] = reasons.get(answer, 0) + 1
            continue
        place = (key, answer.raw)
        repeated += place in chunk
        chunk[place] = answer
        if len(chunk) >= _CHUNK:
            new, old = commit()
            stored, known = stored + new, known + old
    new, old = commit()
    return Imported(stored + new, known + old + repeated, sum(reasons.values()), reasons)


#: Why a line counts as failed that is cut off, as by a download that broke, or garbled.
_CUT_LINE = "a line that is cut off or no result"


def _results(
    files: Sequence[str | os.PathLike[str]],
) -> Iterator[tuple[str, StoredAnswer | str]]:
    """The keys and answers in files, or the reasons why there are none."""
    for file in files:
        wrong, right = 0, 0
        with Path(file).open(encoding="utf-8-sig", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                result = _result(line)
                right += result is not None
                wrong = wrong or (number if result is None else 0)
                yield ("", _CUT_LINE) if result is None else (result["custom_id"], _answer(result))
        if wrong and not right:
            raise OptionError(
                f"{os.fspath(file)!r} holds no results of a batch: line {wrong}, the first, is "
                "not an object with 'custom_id' and 'response'"
            )


def _result(line: str) -> dict[str, Any] | None:
    try:
        result = json.loads(line)
        key = result["custom_id"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    is_result = isinstance(result, dict) and isinstance(key, str) and "body" not in result
    return result if is_result else None


def _answer(result: dict[str, Any]) -> StoredAnswer | str:
    """The answer to store, or the reason why there is none."""
    response = result.get("response")
    status = response.get("status_code") if isinstance(response, dict) else None
    if not isinstance(response, dict) or not isinstance(status, int) or not 200 <= status < 300:
        return wire.redact(_reason(response, result.get("error")), length=200)
    raw = json.dumps(response.get("body"), ensure_ascii=True)
    completion = read_completion(raw)
    return StoredAnswer(
        status="ok" if completion.problem is None else "api_bad_answer",
        raw=raw,
        model=completion.model or "",
        finish_reason=completion.finish_reason,
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
        created=time.time(),
    )


def _reason(response: Any, error: Any) -> str:
    """Why a request failed: the batch's own code, or the endpoint's words with its status.

    >>> _reason(None, {"code": "batch_expired", "message": "This request could not be executed"})
    'batch_expired'
    >>> _reason({"status_code": 400, "body": {"error": {"message": "no such model"}}}, None)
    'HTTP 400: no such model'
    """
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, str) and code:
        return code
    status, body = None, None
    if isinstance(response, dict):
        status, body = response.get("status_code"), response.get("body")
    said = error or body  # vLLM puts the endpoint's error into both
    words = rejections.error_words(json.dumps(said)) if said else "no reason given"
    return words if status is None else f"HTTP {status}: {words}"
