"""Whole datasets: caption them close to the endpoint's limit, ask failed rows again, estimate.

`Dataset.map` works underneath, with its cache and its bar, on a light column; the rows themselves
are read, drawn and asked by a window that runs ahead of it, over the borders of its batches. Only
new columns are written, and joined to the user's.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from hf_regioncap.captioning import (
    FAILED,
    caption_rows,
    open_run,
    open_store,
    prepare_row,
    retry_rows,
)
from hf_regioncap.client import hear_from_store
from hf_regioncap.columns import (
    ALL_COLUMNS,
    ANSWER_COLUMNS,
    RECIPE,
    check_new_columns,
    column_features,
    earlier_row,
    row_arrays,
)
from hf_regioncap.costs import Budget, Price, find_price, image_tokens, jpeg_size
from hf_regioncap.dialogue import follow_up
from hf_regioncap.errors import OptionError
from hf_regioncap.images import image_weight
from hf_regioncap.options import Options, documented, read_options
from hf_regioncap.rows import Plan, Row, check_rows, make_plan
from hf_regioncap.tables import Rows
from hf_regioncap.window import Window

if TYPE_CHECKING:
    from datasets import Dataset, Features, IterableDataset

    from hf_regioncap.client import Run
    from hf_regioncap.dialogue import Ask
    from hf_regioncap.questions import Question
    from hf_regioncap.store import AnswerStore


AnyDataset = TypeVar("AnyDataset")

#: Rows looked at before a run, to find options that do not fit.
SAMPLE = 256
#: Rows handed to the writer at once; the window does not care.
_WRITE_BATCH = 64
#: Rows read at once: few, as an image may be tens of megabytes.
_READ_BATCH = 16
#: How far rows run ahead of the slowest, in multiples of `concurrency`: with a heavy tail of
#: latencies 4 costs 2.3 times the ideal, 16 costs 1.14 times.
_AHEAD = 16
#: What the images of these rows may take in memory; so many fewer rows run ahead where they are
#: large.
_AHEAD_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Progress:
    """How far a run is and what it has spent; `cost` in dollars, None where no price is known."""

    rows: int = 0
    failed: int = 0
    requests: int = 0
    from_store: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None

    def __str__(self) -> str:
        """The line beside a progress bar."""
        cost = "" if self.cost is None else f", ${self.cost:.4f}"
        tokens = self.prompt_tokens + self.completion_tokens
        stored = f" (+{self.from_store} stored)" if self.from_store else ""
        rows = f"{self.rows} rows, {self.failed} failed"
        return f"{rows}, {self.requests} requests{stored}, {tokens:,} tokens{cost}"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Show the line, not the fields, at the end of a notebook's cell."""
        printer.text(str(self))


@documented
def caption_dataset(
    dataset: AnyDataset,
    *,
    max_requests: int | None = None,
    max_cost: float | None = None,
    price: tuple[float, float] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> AnyDataset:
    """Add a caption for each box to a whole dataset, the fast way; the same columns as the map.

    Takes a `Dataset`, a `DatasetDict` or their streaming kin and gives back the same kind. The
    options are checked on a sample first. `max_requests` and `max_cost` (dollars) are hard stops
    that count retries too; rows beyond get the status `skipped_budget`. `price` is dollars per
    million prompt and completion tokens, where the model's is not known.

    >>> from PIL import Image
    >>> from datasets import Dataset
    >>> photo = Image.new("RGB", (64, 48), "red")
    >>> ds = Dataset.from_list([{"image": photo, "bbox": [[8, 8, 40, 30]]}])
    >>> captioned = caption_dataset(ds, base_url="offline", answer_store=None)
    >>> captioned["answer_status"][0], captioned.column_names[:3]
    ('ok', ['image', 'bbox', 'type'])
    """
    checked = read_options(options)
    job = _Job(checked, _budget(checked, max_requests, max_cost, price), on_progress)
    captioned: AnyDataset = job.over(dataset, job.caption, job.caption_stream)
    return captioned


@documented
def caption_tables(
    tables: Iterable[pa.Table],
    *,
    max_requests: int | None = None,
    max_cost: float | None = None,
    price: tuple[float, float] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> Iterator[pa.Table]:
    """Add the new columns to Arrow tables as they come, with requests over their borders.

    For what is not a `datasets` dataset: the batches of a Parquet file, a database, a queue. Each
    table comes back, in order, as soon as all of its rows are done; tables without rows are left
    out. The options are checked on the first rows; all arguments are those of `caption_dataset`.

    >>> from hf_regioncap.images import encode_jpeg
    >>> from PIL import Image
    >>> photo = encode_jpeg(Image.new("RGB", (64, 48), "red"))
    >>> table = pa.table({"image": [photo], "bbox": [[[8, 8, 40, 30]]]})
    >>> captioned = caption_tables([table, table], base_url="offline", answer_store=None)
    >>> [one["answer_status"].to_pylist() for one in captioned]
    [['ok'], ['ok']]
    """
    checked = read_options(options)
    job = _Job(checked, _budget(checked, max_requests, max_cost, price), on_progress)
    rest = iter(tables)
    head: list[pa.Table] = []
    while sum(map(len, head)) < SAMPLE and (table := next(rest, None)) is not None:
        head.append(table)
    if not head:
        return iter(())
    first = Rows(pa.concat_tables(head, promote_options="permissive"), checked.image_column)
    plan = plan_rows(first, checked)
    whole = {**first.features, **column_features(prefix=checked.column_prefix)}
    source = (Rows(table, checked.image_column) for table in itertools.chain(head, rest))
    return _described(job.tables(source, first, plan), whole)


@documented
def retry_failed(
    dataset: AnyDataset,
    *,
    max_requests: int | None = None,
    max_cost: float | None = None,
    price: tuple[float, float] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> AnyDataset:
    """Ask again about the rows that failed; the answer columns of the others stay as they are.

    Failed are the statuses `ok_partial` (its missing regions are asked for), `api_error`,
    `api_refused`, `api_truncated`, `api_bad_answer` and `skipped_budget`. Boxes, pictures and
    prompts are taken from the dataset's columns, the rest from the options.

    >>> from PIL import Image
    >>> from datasets import Dataset
    >>> photo = Image.new("RGB", (64, 48), "red")
    >>> ds = Dataset.from_list([{"image": photo, "bbox": [[8, 8, 40, 30]]}])
    >>> asked = {"base_url": "offline", "answer_store": None}
    >>> skipped = caption_dataset(ds, max_requests=0, **asked)
    >>> skipped["answer_status"][0], retry_failed(skipped, **asked)["answer_status"][0]
    ('skipped_budget', 'ok')
    """
    checked = read_options(options)
    job = _Job(checked, _budget(checked, max_requests, max_cost, price), on_progress)
    retried: AnyDataset = job.over(dataset, job.retry, job.retry_stream)
    return retried


def _budget(
    options: Options,
    max_requests: int | None,
    max_cost: float | None,
    price: tuple[float, float] | None,
) -> Budget:
    for name, value in (("max_requests", max_requests), ("max_cost", max_cost)):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (number and value >= 0):
            raise OptionError(f"{name} must be a number of 0 or more, got {value!r}")
    known = find_price(options, price)
    if max_cost is not None and known is None:
        raise OptionError(
            f"max_cost needs a price, and none is known for model {options.model!r} at this "
            "endpoint: pass price=(dollars per million prompt tokens, per million completion)"
        )
    return Budget(known, max_requests=max_requests, max_cost=max_cost)


class _Job:
    """One call over one or several splits: they share the budget and the counts."""

    def __init__(
        self,
        options: Options,
        budget: Budget,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self.options = options
        self.budget = budget
        self._on_progress = on_progress
        self._run: Run | None = None
        self._rows = 0
        self._failed = 0

    def over(self, dataset: Any, one: Callable[[Any], Any], stream: Callable[[Any], Any]) -> Any:
        """Apply to a dataset of any kind, giving back the same kind."""
        from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

        if isinstance(dataset, DatasetDict):
            return DatasetDict({name: one(split) for name, split in dataset.items()})
        if isinstance(dataset, IterableDatasetDict):
            return IterableDatasetDict({name: stream(split) for name, split in dataset.items()})
        if isinstance(dataset, IterableDataset):
            return stream(dataset)
        if isinstance(dataset, Dataset):
            return one(dataset)
        raise OptionError(
            "dataset must be a Dataset, DatasetDict or IterableDataset of the datasets library, "
            f"got a {type(dataset).__name__}"
        )

    @property
    def run(self) -> Run:
        """The run, opened when the first request may be needed."""
        if self._run is None:
            self._run = open_run(self.options, self.budget)
            self.budget.follow(self._run.tally)
        return self._run

    def progress(self) -> Progress:
        """How far the job is."""
        tally = self._run.tally if self._run is not None else None
        if tally is None:
            return Progress(self._rows, self._failed)
        return Progress(
            self._rows,
            self._failed,
            tally.requests,
            tally.from_store,
            tally.prompt_tokens,
            tally.completion_tokens,
            self.budget.spent,
        )

    def count(self, row: Row) -> Row:
        """Count a finished row."""
        self._rows += 1
        self._failed += row.answer_status in FAILED
        if self._on_progress is not None:
            self._on_progress(self.progress())
        return row

    # Datasets

    def caption(self, dataset: Dataset) -> Dataset:
        """Caption one split."""
        first = Rows(_sample(dataset), self.options.image_column, dataset.features)
        plan = plan_rows(first, self.options)
        work = _each_row(tables_of(dataset))

        def captioned() -> Iterator[Row]:
            return caption_rows(work, plan, self.run, ahead=rows_ahead(first, self.options))

        new = self._map(dataset, captioned, ALL_COLUMNS, "Captioning", _what(plan, self.budget))
        self._count_cached(new)
        return _join(dataset, new)

    def _count_cached(self, new: Dataset) -> None:
        """Count rows that came from the cache of `datasets` instead of from a run."""
        if self._run is None and len(new):
            statuses = new[self.options.column_prefix + "answer_status"]
            self._rows += len(new)
            self._failed += sum(status in FAILED for status in statuses)
            if self._on_progress is not None:
                self._on_progress(self.progress())

    def retry(self, dataset: Dataset) -> Dataset:
        """Ask again about the failed rows of one split."""
        prefix = self.options.column_prefix
        first = Rows(_sample(dataset), self.options.image_column, dataset.features)
        plan = _retry_plan(first, self.options)
        work = _with_earlier(_each_row(tables_of(dataset)), plan)

        def answered() -> Iterator[Row]:
            ahead = rows_ahead(first, self.options)
            return retry_rows(work, plan, lambda: self.run, ahead=ahead)

        new = self._map(dataset, answered, ANSWER_COLUMNS, "Asking again", None)
        old = [prefix + name for name in ANSWER_COLUMNS]
        return _join(dataset.remove_columns(old), new).select_columns(dataset.column_names)

    def _map(
        self,
        dataset: Dataset,
        results: Callable[[], Iterator[Row]],
        names: Sequence[str],
        description: str,
        what: Mapping[str, Any] | None,
    ) -> Dataset:
        """Let `Dataset.map` write the new columns; `what` None: not from the cache."""
        features = column_features(names, self.options.column_prefix)
        if not len(dataset):
            return _empty(features)
        writer = _Writer(self, results, names, features, what or {}, description)
        light = dataset.with_format(None).select_columns([_light_column(dataset)])
        try:
            return light.map(
                writer,
                with_indices=True,
                batched=True,
                batch_size=_WRITE_BATCH,
                desc=description,
                load_from_cache_file=what is not None,
                new_fingerprint=None if what is not None else _random_fingerprint(),
            )
        finally:
            writer.close()

    # Streams

    def caption_stream(self, dataset: IterableDataset) -> IterableDataset:
        """Caption a stream: rows are asked ahead of whoever takes them, and nothing is kept."""
        first = _look_at(dataset, self.options)
        plan = plan_rows(first, self.options)
        new = column_features(prefix=self.options.column_prefix)

        def captioned() -> Iterator[pa.Table]:
            return self.tables(tables_of(dataset), first, plan)

        return _streamed(captioned, {**first.features, **new})

    def tables(self, source: Iterable[Rows], first: Rows, plan: Plan) -> Iterator[pa.Table]:
        """Caption tables as they come; `first` are the first rows, to judge their weight by."""

        def results(work: Iterator[tuple[Rows, int]]) -> Iterator[Row]:
            return caption_rows(work, plan, self.run, ahead=rows_ahead(first, self.options))

        return self._completed(source, results, ALL_COLUMNS)

    def retry_stream(self, dataset: IterableDataset) -> IterableDataset:
        """Ask again about the failed rows of a stream."""
        first = _look_at(dataset, self.options)
        plan = _retry_plan(first, self.options)

        def results(work: Iterator[tuple[Rows, int]]) -> Iterator[Row]:
            ahead = rows_ahead(first, self.options)
            return retry_rows(_with_earlier(work, plan), plan, lambda: self.run, ahead=ahead)

        def answered() -> Iterator[pa.Table]:
            return self._completed(tables_of(dataset), results, ANSWER_COLUMNS)

        return _streamed(answered, first.features)

    def _completed(
        self,
        source: Iterable[Rows],
        results: Callable[[Iterator[tuple[Rows, int]]], Iterator[Row]],
        names: Sequence[str],
    ) -> Iterator[pa.Table]:
        """Each table with the columns of its rows, in order, as soon as all of them are done."""
        begun: deque[pa.Table] = deque()

        def work() -> Iterator[tuple[Rows, int]]:
            for rows in source:
                if len(rows):
                    begun.append(rows.table)
                    yield from _each_row([rows])

        done: list[Row] = []
        for row in results(work()):
            done.append(self.count(row))
            if len(done) == len(begun[0]):
                yield _put_columns(begun.popleft(), done, names, self.options.column_prefix)
                done = []


def _what(plan: Plan, budget: Budget) -> dict[str, Any]:
    """What decides the rows' content, and so is hashed for the cache: no key, no pace."""
    options = plan.options
    kept = {
        name: getattr(options, name)
        for name in Options.__dataclass_fields__
        if name not in _NOT_IN_ROWS
    }
    return {**kept, "extra_body": dict(options.extra_body or {}), "budget": budget.limits}


_NOT_IN_ROWS = (
    "given",
    "concurrency",
    "timeout",
    "api_key_env",
    "extra_headers",
    "extra_query",
    "answer_store",
    "on_error",
)


class _Writer:
    """The function that `Dataset.map` calls: takes finished rows from the window, in order."""

    def __init__(
        self,
        job: _Job,
        results: Callable[[], Iterator[Row]],
        names: Sequence[str],
        features: Features,
        what: Mapping[str, Any],
        description: str,
    ) -> None:
        self._job = job
        self._start = results
        self._results: Iterator[Row] | None = None
        self._names = names
        self._features = features
        self._what = what
        self._bar = _Bar(description)

    def __call__(self, batch: Any, indices: Sequence[int]) -> pa.Table:
        if self._results is None:
            self._results = self._start()
        done = []
        for _ in indices:
            done.append(self._job.count(next(self._results)))
            self._bar.show(self._job)
        self._bar.show(self._job, last=True)
        arrays = row_arrays(done, self._names)
        table = pa.table(dict(zip(self._features, arrays.values(), strict=True)))
        return table.replace_schema_metadata(self._features.arrow_schema.metadata)

    def close(self) -> None:
        """Stop the window where the map has ended early."""
        if self._results is not None:
            self._results.close()  # type: ignore[attr-defined]  # it is a generator

    def __reduce__(self) -> tuple[Any, ...]:
        """What the cache's fingerprint is made of."""
        return _never_unpickled, (RECIPE, _version(), sorted(self._what.items()))


def _never_unpickled(*what: Any) -> Any:
    raise TypeError("caption_dataset works in one process; it cannot be sent to another")


def _version() -> str:
    from hf_regioncap import __version__

    return __version__


class _Bar:
    """Puts the counts beside the bar that `Dataset.map` shows."""

    def __init__(self, description: str) -> None:
        self._description = description
        self._shown = 0.0

    def show(self, job: _Job, *, last: bool = False) -> None:
        """Update at most five times a second, and at the end of each batch."""
        now = time.monotonic()
        if now - self._shown < 0.2 and not last:
            return
        self._shown = now
        from datasets.utils import tqdm

        # `map` keeps its bar to itself; tqdm knows all that are open.
        for bar in list(getattr(tqdm, "_instances", ())):
            if getattr(bar, "desc", "").startswith(self._description):
                bar.set_postfix_str(str(job.progress()))


# Reading


def tables_of(dataset: Any, batch_size: int = _READ_BATCH) -> Iterator[Rows]:
    """The rows of a dataset or stream as tables of a few, images as stored."""
    for table in dataset.with_format("arrow").iter(batch_size=batch_size):
        yield Rows(table, "")


def _sample(dataset: Dataset) -> pa.Table:
    return dataset.with_format("arrow")[: min(SAMPLE, len(dataset))]


def plan_for(dataset: Dataset, options: Options) -> Plan:
    """The plan for a dataset, with the options checked on a sample of its rows."""
    return plan_rows(Rows(_sample(dataset), options.image_column, dataset.features), options)


def plan_rows(rows: Rows, options: Options) -> Plan:
    """The plan for a dataset of which these are the first rows."""
    check_new_columns(rows, options, ALL_COLUMNS)
    plan = make_plan(options, rows)
    check_rows(rows, plan, whole=True)
    return plan


def _retry_plan(rows: Rows, options: Options) -> Plan:
    for name in ALL_COLUMNS:
        if options.column_prefix + name not in rows.names:
            raise OptionError(
                f"no column {options.column_prefix + name!r}: retry_failed takes a dataset that "
                f"was captioned before (column_prefix={options.column_prefix!r})"
            )
    return make_plan(options, rows, reads_boxes=False)


def _each_row(tables: Iterable[Rows]) -> Iterator[tuple[Rows, int]]:
    return ((rows, index) for rows in tables for index in range(len(rows)))


def rows_ahead(first: Rows, options: Options) -> int:
    """How many rows may be begun and not handed on, by the weight of the first ones' images.

    >>> rows = Rows({"image": [b"jpeg"], "bbox": [[]]}, "image")
    >>> rows_ahead(rows, Options(concurrency=8))
    128
    """
    column = options.image_column
    weights = [image_weight(first.value(column, index)) for index in range(min(len(first), 16))]
    mean = sum(weights) / max(1, len(weights))
    at_least = 2 * options.concurrency + 8
    return max(at_least, min(_AHEAD * options.concurrency, int(_AHEAD_BYTES / max(mean, 1))))


def _with_earlier(work: Iterable[tuple[Rows, int]], plan: Plan) -> Iterator[tuple[Row, Rows, int]]:
    for rows, index in work:
        yield earlier_row(rows, plan, index, ALL_COLUMNS), rows, index


def _light_column(dataset: Dataset) -> str:
    """A column that costs little to read: `map` only has to count rows."""
    from datasets import Audio, Image, Value, Video

    def weight(name: str) -> int:
        kind = dataset.features[name]
        if isinstance(kind, Image | Audio | Video):
            return 2
        return 0 if isinstance(kind, Value) and kind.dtype not in ("binary", "string") else 1

    names: list[str] = dataset.column_names
    return min(names, key=weight)


def _join(dataset: Dataset, new: Dataset) -> Dataset:
    from datasets import concatenate_datasets

    if not len(dataset):  # which concatenate_datasets takes for nothing to add
        return _empty({**dataset.features, **new.features}, dataset.split)
    return concatenate_datasets([dataset, new], axis=1)


def _empty(features: Mapping[str, Any], split: Any = None) -> Dataset:
    from datasets import Dataset, Features

    return Dataset(Features(features).arrow_schema.empty_table(), split=split)


def _random_fingerprint() -> str:
    import secrets

    return secrets.token_hex(8)


# Streams


def _look_at(dataset: IterableDataset, options: Options) -> Rows:
    """The first rows of a stream, with its features (streams often do not know theirs)."""
    tables = list(dataset.with_format("arrow").take(SAMPLE).iter(batch_size=_READ_BATCH))
    if not tables and dataset.features is None:
        raise OptionError("the stream has no rows and does not say what columns it would have")
    tables = tables or [dataset.features.arrow_schema.empty_table()]
    whole = pa.concat_tables(tables, promote_options="permissive")
    return Rows(whole, options.image_column, dataset.features)


def _put_columns(table: pa.Table, done: Sequence[Row], names: Sequence[str], prefix: str) -> Any:
    """The table with the rows' columns in their places, or behind the others where they are new."""
    for name, array in row_arrays(done, names).items():
        place = table.schema.get_field_index(prefix + name)
        field = pa.field(prefix + name, array.type)
        if place < 0:
            table = table.append_column(field, array)
        else:
            table = table.set_column(place, field, array)
    return table


def _described(tables: Iterator[pa.Table], features: Mapping[str, Any]) -> Iterator[pa.Table]:
    """The tables with `Features` in their schema."""
    from datasets import Features

    metadata = Features(features).arrow_schema.metadata
    for table in tables:
        yield table.replace_schema_metadata(metadata)


@dataclass
class _Examples:
    """The generator function that a stream is made of; it works in this process only."""

    tables: Callable[[], Iterator[pa.Table]]

    def __call__(self) -> Iterator[dict[str, Any]]:
        for table in self.tables():
            yield from table.to_pylist()

    def __reduce__(self) -> tuple[Any, ...]:
        return _never_unpickled, (id(self),)


def _streamed(
    tables: Callable[[], Iterator[pa.Table]], features: Mapping[str, Any]
) -> IterableDataset:
    from datasets import Features, IterableDataset

    return IterableDataset.from_generator(_Examples(tables), features=Features(features))


# Before a run


@dataclass(frozen=True)
class Estimate:
    """What a run would send, before anything is spent; see `estimate`.

    `requests` are the first requests: retries and questions for missing regions come on top.
    Tokens are by the model family's published formulas; None where none is published for it.
    """

    rows: int
    regions: int
    requests: int
    stored: int
    image_tokens: int | None
    text_tokens: int
    completion_tokens: int
    cost: float | None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The estimate as a few lines of text."""
        images = "unknown" if self.image_tokens is None else f"about {self.image_tokens:,}"
        cost = "unknown" if self.cost is None else f"about ${self.cost:,.2f}"
        lines = [
            f"rows:              {self.rows:,} with {self.regions:,} regions to caption",
            f"requests to send:  {self.requests:,} ({self.stored:,} more are in the answer store)",
            f"image tokens:      {images}",
            f"text tokens:       about {self.text_tokens:,}",
            f"answer tokens:     about {self.completion_tokens:,}",
            f"cost:              {cost}",
            *(f"note:              {note}" for note in self.notes),
        ]
        return "\n".join(lines)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Show the lines, not the fields, at the end of a notebook's cell."""
        printer.text(str(self))


@documented
def estimate(
    dataset: Any,
    *,
    price: tuple[float, float] | None = None,
    **options: Any,
) -> Estimate:
    """Count what captioning a dataset would send, before anything is spent.

    Every row is drawn and its question made, so that the number of requests is exact: identical
    questions count once, stored answers not at all. No endpoint is asked and no key is needed.

    >>> from PIL import Image
    >>> from datasets import Dataset
    >>> photo = Image.new("RGB", (1024, 1024), "red")
    >>> ds = Dataset.from_list([{"image": photo, "bbox": [[8, 8, 40, 30]]}])
    >>> seen = estimate(ds, base_url="https://api.openai.com/v1", model="gpt-4o", answer_store=None)
    >>> seen.requests, seen.image_tokens
    (1, 765)
    """
    checked = read_options(options)
    counts = _Counts(checked, find_price(checked, price))
    for _ in asks_to_send(dataset, checked, counts):
        pass
    return counts.estimate()


def asks_to_send(
    dataset: Any, options: Options, counts: _Counts | None = None
) -> Iterator[tuple[str, Ask]]:
    """What captioning a dataset would send first, each question once, with its key.

    Questions that the store can answer are followed as far as it goes: where a stored answer left
    regions out, the question for those is what would be sent.
    """
    store = open_store(options)
    seen: set[str] = set()
    counts = counts or _Counts(options, None)
    for split in dataset.values() if hasattr(dataset, "values") else [dataset]:
        for questions in _questions(split, options):
            counts.add_row(questions)
            for question in questions:
                ask, stored = _first_unanswered(question, store, options)
                counts.stored += stored
                if ask is not None and (key := ask.question.key) not in seen:
                    seen.add(key)
                    counts.add_request(ask.question)
                    yield key, ask


def _questions(split: Any, options: Options) -> Iterator[list[Question]]:
    """The questions of each row of a dataset or stream, drawn on the drawing threads."""
    from datasets import Dataset

    if isinstance(split, Dataset):
        plan = plan_for(split, options)
    else:
        plan = plan_rows(_look_at(split, options), options)
    work = _each_row(tables_of(split))

    def begin(item: tuple[Rows, int]) -> list[Question]:
        return prepare_row(*item, plan)[1]

    with Window(work, begin, active=64, ahead=64) as window:
        yield from window


def _first_unanswered(
    question: Question, store: AnswerStore | None, options: Options
) -> tuple[Ask | None, int]:
    """Follow a dialogue as far as the store goes: what is asked then, and what was stored."""
    dialogue = follow_up(question, reask=options.reask, parse=options.parse)
    ask, stored = next(dialogue), 0
    while True:
        heard, _ = hear_from_store(store, ask, ask.question.key, options.parse)
        if heard is None:
            return ask, stored
        stored += 1
        try:
            ask = dialogue.send(heard)
        except StopIteration:
            return None, stored


#: Tokens of a caption by style: what to expect, not a bound.
_CAPTION_TOKENS = {"phrase": 12, "sentence": 30, "detailed": 140, "distinct": 50, None: 70}


class _Counts:
    """Adds up what rows and requests weigh."""

    def __init__(self, options: Options, price: Price | None) -> None:
        self._options = options
        self._price = price
        self.stored = 0
        self._rows = self._regions = self._requests = 0
        self._image_tokens: int | None = 0
        self._text_bytes = self._asked_regions = 0

    def add_row(self, questions: Sequence[Question]) -> None:
        """Count one row."""
        self._rows += 1
        self._regions += sum(len(question.regions) for question in questions)

    def add_request(self, question: Question) -> None:
        """Count one request that would be sent."""
        self._requests += 1
        self._asked_regions += len(question.regions)
        text = question.text + question.system + question.instructions("json_schema")
        self._text_bytes += len(text)
        for image in question.images:
            tokens = image_tokens(question.model, jpeg_size(image), question.detail)
            known = self._image_tokens
            self._image_tokens = None if tokens is None or known is None else known + tokens

    def estimate(self) -> Estimate:
        """The sums."""
        text = self._text_bytes // 4  # about four characters a token
        answers = self._asked_regions * _CAPTION_TOKENS[self._options.caption_style]
        cost, notes = None, []
        if self._price == Price(0.0, 0.0):
            cost = 0.0
        elif self._price is None:
            notes.append("no price is known for this model here: pass price=(prompt, completion)")
        elif self._image_tokens is None:
            notes.append("no formula for this model's image tokens is published")
        else:
            cost = self._price.of(self._image_tokens + text, answers)
        notes.append("retries and questions for missing regions come on top")
        return Estimate(
            self._rows,
            self._regions,
            self._requests,
            self.stored,
            self._image_tokens,
            text,
            answers,
            cost,
            tuple(notes),
        )
