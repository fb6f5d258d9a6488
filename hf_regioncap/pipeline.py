"""Whole datasets: caption them close to the endpoint's limit, ask failed rows again.

`Dataset.map` works underneath, with its cache and its bar, on a light column; the rows themselves
are read, drawn and asked by a window that runs ahead of it, over the borders of its batches. Only
new columns are written, and joined to the user's.
"""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from hf_regioncap.captioning import FAILED, caption_rows, open_run, retry_rows
from hf_regioncap.card import summarize
from hf_regioncap.columns import (
    ALL_COLUMNS,
    ANSWER_COLUMNS,
    RECIPE,
    column_features,
    earlier_row,
    row_arrays,
)
from hf_regioncap.costs import Budget, find_price
from hf_regioncap.errors import EndpointError, OptionError
from hf_regioncap.fingerprint import what_decides
from hf_regioncap.joining import empty_dataset, join_columns, light_column
from hf_regioncap.late_types import widen
from hf_regioncap.options import Options, documented, read_options
from hf_regioncap.reading import (
    each_row,
    first_rows,
    plan_rows,
    sampled,
    splits_of,
    tables_of,
    write_batch,
)
from hf_regioncap.remarks import Outcomes, remarks
from hf_regioncap.rows import Plan, Row, check_sources, make_plan
from hf_regioncap.streaming import never_unpickled, stream_tables
from hf_regioncap.tables import Rows

if TYPE_CHECKING:
    from datasets import Dataset, Features, IterableDataset

    from hf_regioncap.client import Run


AnyDataset = TypeVar("AnyDataset")
_Earlier = tuple[Row, Rows, int]


@dataclass(frozen=True)
class Progress:
    """How far a run is and what it has spent.

    `cost` is in dollars, None where no price is known or an answer did not tell its tokens.
    """

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
    million prompt and completion tokens, where the model's is not known. A stream is captioned
    anew whenever it is read, from the answer store as far as that goes: write it down once, with
    `write_dataset`, and go on from what was written.

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
    job.warn()
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
    table, every = sampled(tables)
    if table is None:
        return iter(())
    first = Rows(table, checked.image_column)
    plan = plan_rows(first, checked)
    whole = {**first.features, **column_features(prefix=checked.column_prefix)}
    source = (Rows(table, checked.image_column) for table in every)
    return _described(job.tables(source, plan), whole)


def retry_tables(
    tables: Iterable[pa.Table],
    *,
    max_requests: int | None = None,
    max_cost: float | None = None,
    price: tuple[float, float] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> Iterator[pa.Table]:
    """The tables with the failed rows asked again; all arguments are those of `retry_failed`."""
    checked = read_options(options)
    job = _Job(checked, _budget(checked, max_requests, max_cost, price), on_progress)
    table, every = sampled(tables)
    if table is None:
        return iter(())
    plan = _retry_plan(Rows(table, checked.image_column), checked)
    return job.retry_tables((Rows(table, checked.image_column) for table in every), plan)


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
    prompts are taken from the dataset's columns, the rest from the options: pass those of before.
    A dataset in which nothing failed is given back as it is.

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
    job.warn()
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
        if on_progress is not None and not callable(on_progress):
            raise OptionError(f"on_progress must be a callable or None, got {on_progress!r}")
        self.options = options
        self.budget = budget
        self._on_progress = on_progress
        self._run: Run | None = None
        self._done = Outcomes()
        self._asked_again: int | None = None

    def over(
        self,
        dataset: Any,
        one: Callable[[Any], Callable[[], Any]],
        stream: Callable[[Any], Any],
    ) -> Any:
        """Apply to a dataset of any kind, giving back the same kind.

        `one` checks a split and gives what captions it: all are checked before the first is paid.
        """
        from datasets import Dataset, DatasetDict, IterableDatasetDict

        splits_of(dataset)  # raises for what is none
        if isinstance(dataset, DatasetDict):
            checked = {name: one(split) for name, split in dataset.items()}
            return DatasetDict({name: work() for name, work in checked.items()})
        if isinstance(dataset, IterableDatasetDict):
            return IterableDatasetDict({name: stream(split) for name, split in dataset.items()})
        return one(dataset)() if isinstance(dataset, Dataset) else stream(dataset)

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
            return Progress(self._done.rows, self._done.failed)
        return Progress(
            self._done.rows,
            self._done.failed,
            tally.requests,
            tally.from_store,
            tally.prompt_tokens,
            tally.completion_tokens,
            self.budget.spent,
        )

    def count(self, row: Row) -> Row:
        """Count a finished row."""
        self._done.add(row)
        if self._on_progress is not None:
            self._on_progress(self.progress())
        return row

    def warn(self) -> None:
        """Warn of what a progress bar does not show: most rows failed, half the images or boxes.

        What is wrong with a few rows stands in them.
        """
        told = [self._done.failures(self._asked_again)]
        if self._asked_again is None:
            counts = self._done.images, self._done.boxes
            told += remarks(*counts, max_boxes=self.options.max_boxes, at_least=0.5)
            told.append(self._done.labels(self.options.label_column))
        for words in filter(None, told):
            warnings.warn(words, stacklevel=3)

    def _earlier(self, work: Iterable[tuple[Rows, int]], plan: Plan) -> Iterator[_Earlier]:
        """Each row as an earlier run has left it, those that will be asked again counted."""
        self._asked_again = self._asked_again or 0
        for rows, index in work:
            row = earlier_row(rows, plan, index, ALL_COLUMNS)
            self._asked_again += row.answer_status in FAILED
            yield row, rows, index

    # Datasets

    def caption(self, dataset: Dataset) -> Callable[[], Dataset]:
        """Check the options against one split; what is given back captions it."""
        first = first_rows(dataset, self.options.image_column)
        plan, batch_size = plan_rows(first, self.options), write_batch(first, self.options)

        def results() -> Iterator[Row]:
            return caption_rows(each_row(tables_of(dataset)), plan, self.run)

        def what() -> dict[str, Any]:
            return {**what_decides(self.options, dataset), "budget": self.budget.decides}

        def captioned() -> Dataset:
            new = self._map(dataset, results, ALL_COLUMNS, "Captioning", what, batch_size)
            return _formatted_as(dataset, join_columns(dataset, new, batch_size))

        return captioned

    def _count_cached(self, new: Dataset) -> None:
        """Count rows that came from the cache of `datasets` instead of from a run."""
        failed = _failed_rows(new, self.options.column_prefix)
        self._done.add_counted(summarize(new, column_prefix=self.options.column_prefix))
        if self._on_progress is not None:
            self._on_progress(self.progress())
        if failed and self.options.on_error == "raise":
            status = new[failed[0]][self.options.column_prefix + "answer_status"]
            raise EndpointError(
                f"row {failed[0]}: {status}, from the cache of an earlier run "
                "(on_error='raise'): retry_failed asks again"
            )

    def retry(self, dataset: Dataset) -> Callable[[], Dataset]:
        """Check one split; what is given back asks again about its failed rows."""
        prefix = self.options.column_prefix
        plan = _retry_plan(first_rows(dataset, self.options.image_column), self.options)
        if not _failed_rows(dataset, prefix):
            return lambda: self._as_it_is(dataset)

        def results() -> Iterator[Row]:
            work = self._earlier(each_row(tables_of(dataset)), plan)
            return retry_rows(work, plan, lambda: self.run)

        def answered() -> Dataset:
            new = self._map(dataset, results, ANSWER_COLUMNS, "Asking again", None)
            old = [prefix + name for name in ANSWER_COLUMNS]
            joined = join_columns(dataset.remove_columns(old), new)
            joined = joined.select_columns(dataset.column_names)
            return _formatted_as(dataset, joined)

        return answered

    def _as_it_is(self, dataset: Dataset) -> Dataset:
        """Count a split in which nothing failed."""
        summary = summarize(dataset, column_prefix=self.options.column_prefix)
        self._done.add_counted(summary)
        return dataset

    def _map(
        self,
        dataset: Dataset,
        results: Callable[[], Iterator[Row]],
        names: Sequence[str],
        description: str,
        what: Callable[[], Mapping[str, Any]] | None,
        batch_size: int = 64,
    ) -> Dataset:
        """Let `Dataset.map` write the new columns; `what` None: not from the cache."""
        features = column_features(names, self.options.column_prefix)
        if not len(dataset):
            return empty_dataset(features)
        writer = _Writer(self, results, names, features, what or dict, description)
        light = dataset.with_format(None).select_columns([light_column(dataset)])
        try:
            new = light.map(
                writer,
                with_indices=True,
                batched=True,
                batch_size=batch_size,
                desc=description,
                load_from_cache_file=what is not None,
                new_fingerprint=None if what is not None else _random_fingerprint(),
            )
        finally:
            writer.close()
        if not writer.called:
            self._count_cached(new)
        return new

    # Streams

    def caption_stream(self, dataset: IterableDataset) -> IterableDataset:
        """Caption a stream: rows are asked ahead of whoever takes them, and nothing is kept."""
        first = first_rows(dataset, self.options.image_column)
        plan = plan_rows(first, self.options)
        own, new = first.features, column_features(prefix=self.options.column_prefix)
        del first  # the pictures of the sample are not kept
        typed = dataset.features is not None
        unexpected = {*new, *([] if plan.has_boxes else [self.options.bbox_column.split(".")[0]])}

        def captioned() -> Iterator[pa.Table]:
            source = tables_of(dataset)
            if not typed:
                source = map(_rows_of, widen((rows.table for rows in source), own, unexpected))
            return self.tables(source, plan)

        def features() -> Features:
            return type(own)({**own, **new})

        stream = stream_tables(captioned, features(), dataset.split, None if typed else features)
        return _formatted_as(dataset, stream)

    def tables(self, source: Iterable[Rows], plan: Plan) -> Iterator[pa.Table]:
        """Caption tables as they come."""

        def results(work: Iterator[tuple[Rows, int]]) -> Iterator[Row]:
            return caption_rows(work, plan, self.run, kept=True)

        return self._completed(source, results, ALL_COLUMNS)

    def retry_stream(self, dataset: IterableDataset) -> IterableDataset:
        """Ask again about the failed rows of a stream."""
        first = first_rows(dataset, self.options.image_column)
        plan, features = _retry_plan(first, self.options), first.features
        del first

        def answered() -> Iterator[pa.Table]:
            return self.retry_tables(tables_of(dataset), plan)

        return _formatted_as(dataset, stream_tables(answered, features, dataset.split))

    def retry_tables(self, source: Iterable[Rows], plan: Plan) -> Iterator[pa.Table]:
        """Ask again about the failed rows of tables as they come."""

        def results(work: Iterator[tuple[Rows, int]]) -> Iterator[Row]:
            return retry_rows(self._earlier(work, plan), plan, lambda: self.run, kept=True)

        return self._completed(source, results, ANSWER_COLUMNS)

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
                    yield from each_row([rows])

        done: list[Row] = []
        for row in results(work()):
            done.append(self.count(row))
            if len(done) == len(begun[0]):
                yield _put_columns(begun.popleft(), done, names, self.options.column_prefix)
                done = []
        self.warn()


class _Writer:
    """The function that `Dataset.map` calls: takes finished rows from the window, in order."""

    def __init__(
        self,
        job: _Job,
        results: Callable[[], Iterator[Row]],
        names: Sequence[str],
        features: Features,
        what: Callable[[], Mapping[str, Any]],
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

    @property
    def called(self) -> bool:
        """Whether `map` has asked for rows; it does not where it has them in its cache."""
        return self._results is not None

    def close(self) -> None:
        """Stop the window where the map has ended early."""
        if self._results is not None:
            self._results.close()  # type: ignore[attr-defined]  # it is a generator

    def __reduce__(self) -> tuple[Any, ...]:
        """What the cache's fingerprint is made of."""
        return never_unpickled, (RECIPE, _version(), sorted(self._what().items()))


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
        with tqdm.get_lock():  # other threads open bars, too
            bars = list(getattr(tqdm, "_instances", ()))
        for bar in bars:
            if getattr(bar, "desc", "").startswith(self._description):
                bar.set_postfix_str(str(job.progress()))


# Asking again


def _retry_plan(rows: Rows, options: Options) -> Plan:
    for name in ALL_COLUMNS:
        if options.column_prefix + name not in rows.names:
            raise OptionError(
                f"no column {options.column_prefix + name!r}: retry_failed takes a dataset that "
                f"was captioned before (column_prefix={options.column_prefix!r})"
            )
    plan = make_plan(options, rows, reads_boxes=False)
    statuses = (rows.value(options.column_prefix + "answer_status", i) for i in range(len(rows)))
    check_sources(rows, plan, [i for i, status in enumerate(statuses) if status in FAILED])
    return plan


def _failed_rows(dataset: Dataset, prefix: str) -> list[int]:
    statuses = dataset.with_format(None)[f"{prefix}answer_status"][:]
    return [number for number, status in enumerate(statuses) if status in FAILED]


def _formatted_as(dataset: Any, done: Any) -> Any:
    """The result in the dataset's own format, as `map` keeps it: new columns are formatted, too."""
    from datasets import Dataset

    if not isinstance(dataset, Dataset):
        kind = getattr(dataset._formatting, "format_type", None)  # a stream tells it nowhere else
        return done.with_format(kind) if kind is not None else done
    form = dataset.format
    plain = set(dataset.column_names) - set(form["columns"])
    if form["type"] is None and not plain:
        return done
    return done.with_format(
        form["type"],
        columns=[name for name in done.column_names if name not in plain] if plain else None,
        output_all_columns=form["output_all_columns"],
        **form["format_kwargs"],
    )


def _random_fingerprint() -> str:
    import secrets

    return secrets.token_hex(8)


# Streams


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


def _rows_of(table: pa.Table) -> Rows:
    return Rows(table, "")


def _described(tables: Iterator[pa.Table], features: Mapping[str, Any]) -> Iterator[pa.Table]:
    """The tables with `Features` in their schema."""
    from datasets import Features

    metadata = Features(features).arrow_schema.metadata
    for table in tables:
        yield table.replace_schema_metadata(metadata)
