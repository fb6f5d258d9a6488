"""The rows of whole datasets and streams, a few at a time, and the plan for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from hf_regioncap.columns import ALL_COLUMNS, check_new_columns
from hf_regioncap.errors import OptionError
from hf_regioncap.images import image_weight
from hf_regioncap.options import Options
from hf_regioncap.rows import SAMPLE, Plan, check_rows, make_plan
from hf_regioncap.tables import Rows, stored_tables

#: Rows read at once: few, as an image may be tens of megabytes.
_READ_BATCH = 16
#: How far rows run ahead of the slowest, in multiples of `concurrency`: with a heavy tail of
#: latencies 4 costs 2.3 times the ideal, 16 costs 1.14 times.
_AHEAD = 16
#: What the images of these rows may take in memory; so many fewer rows run ahead where they are
#: large.
_AHEAD_BYTES = 256 * 2**20


def splits_of(dataset: Any) -> list[Any]:
    """The datasets or streams in a dataset of any kind.

    >>> splits_of([1, 2])
    Traceback (most recent call last):
    hf_regioncap.errors.OptionError: dataset must be a Dataset, DatasetDict or IterableDataset of
    the datasets library, got a list
    """
    from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

    if isinstance(dataset, DatasetDict | IterableDatasetDict):
        return list(dataset.values())
    if isinstance(dataset, Dataset | IterableDataset):
        return [dataset]
    raise OptionError(
        "dataset must be a Dataset, DatasetDict or IterableDataset of the datasets library, "
        f"got a {type(dataset).__name__}"
    )


def tables_of(dataset: Any) -> Iterator[Rows]:
    """The rows of a dataset or stream, a few at a time, images as stored."""
    for table in stored_tables(dataset, _READ_BATCH):
        yield Rows(table, "")


def each_row(tables: Iterable[Rows]) -> Iterator[tuple[Rows, int]]:
    """Each row of the tables, as its table and its place there."""
    return ((rows, index) for rows in tables for index in range(len(rows)))


def first_rows(dataset: Any, image_column: str) -> Rows:
    """The first rows of a dataset or stream, with its features (streams often do not know them)."""
    from datasets import Dataset

    if isinstance(dataset, Dataset):
        table = dataset.with_format("arrow")[: min(SAMPLE, len(dataset))]
        return Rows(table, image_column, dataset.features)
    tables = list(stored_tables(dataset.take(SAMPLE), _READ_BATCH))
    if not tables and dataset.features is None:
        raise OptionError("the stream has no rows and does not say what columns it would have")
    tables = tables or [dataset.features.arrow_schema.empty_table()]
    whole = pa.concat_tables(tables, promote_options="permissive")
    return Rows(whole, image_column, dataset.features)


def plan_rows(rows: Rows, options: Options) -> Plan:
    """The plan for a dataset of which these are the first rows; options that do not fit raise."""
    check_new_columns(rows, options, ALL_COLUMNS)
    plan = make_plan(options, rows)
    check_rows(rows, plan, whole=True)
    return plan


def rows_ahead(first: Rows, options: Options) -> int:
    """How many rows may be begun and not handed on, by the weight of the first ones' images.

    >>> rows = Rows({"image": [b"jpeg"], "bbox": [[]]}, "image")
    >>> rows_ahead(rows, Options(concurrency=8))
    128
    """
    drawn = options.column_prefix + "image_with_bbox"
    column = options.image_column if first.has(options.image_column) else drawn
    weights = [image_weight(first.value(column, index)) for index in range(min(len(first), 16))]
    mean = sum(weights) / max(1, len(weights))
    at_least = 2 * options.concurrency + 8
    return max(at_least, min(_AHEAD * options.concurrency, int(_AHEAD_BYTES / max(mean, 1))))
