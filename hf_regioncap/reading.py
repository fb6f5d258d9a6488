"""The rows of whole datasets and streams, a few at a time, and the plan for them."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from hf_regioncap.columns import ALL_COLUMNS, check_new_columns
from hf_regioncap.errors import OptionError
from hf_regioncap.images import image_weight
from hf_regioncap.options import Options
from hf_regioncap.rows import SAMPLE, Plan, check_rows, make_plan
from hf_regioncap.tables import Rows, stored_tables

#: Rows and bytes read at once: few, as an image may be tens of megabytes.
_READ_BATCH, _READ_BYTES = 16, 8 * 2**20
#: Of so many bytes of images the sample takes a look; of the rows after them at the rest.
_SAMPLE_BYTES = 32 * 2**20
#: Rows and bytes of pictures handed to the writer of a dataset at once.
_WRITE_BATCH, _WRITE_BYTES = 64, 16 * 2**20


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
    for table in stored_tables(dataset, _READ_BATCH, _READ_BYTES):
        yield Rows(table, "")


def each_row(tables: Iterable[Rows]) -> Iterator[tuple[Rows, int]]:
    """Each row of the tables, as its table and its place there."""
    return ((rows, index) for rows in tables for index in range(len(rows)))


def first_rows(dataset: Any, image_column: str) -> Rows:
    """The first rows of a dataset or stream, with its features (streams often do not know them)."""
    from datasets import Dataset

    finite = isinstance(dataset, Dataset)
    head = dataset.select(range(min(SAMPLE, len(dataset)))) if finite else dataset.take(SAMPLE)
    table = sample_table(stored_tables(head, _READ_BATCH, _READ_BYTES))
    if table is None and dataset.features is None:
        raise OptionError("the stream has no rows and does not say what columns it would have")
    table = dataset.features.arrow_schema.empty_table() if table is None else table
    return Rows(table, image_column, dataset.features)


def sample_table(tables: Iterable[pa.Table]) -> pa.Table | None:
    """The first rows of tables as one, bounded in memory: null in place of many large images."""
    kept: list[pa.Table] = []
    size = 0
    for table in tables:
        size += table.nbytes
        kept.append(table if size <= _SAMPLE_BYTES or not kept else _without_pictures(table))
        if sum(map(len, kept)) >= SAMPLE:
            break
    return pa.concat_tables(kept, promote_options="permissive") if kept else None


def _without_pictures(table: pa.Table) -> pa.Table:
    for place, field in enumerate(table.schema):
        inside = [each.type for each in field.type] if pa.types.is_struct(field.type) else []
        if any(map(_holds_bytes, (field.type, *inside))):
            table = table.set_column(place, field, pa.nulls(len(table), field.type))
    return table


def _holds_bytes(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    )


def sampled(
    tables: Iterable[pa.Table],
) -> tuple[pa.Table | None, Iterator[pa.Table]]:
    """The first rows of tables as one, and all tables; an iterator's first ones wait in memory.

    >>> first, every = sampled(iter([pa.table({"a": [1]}), pa.table({"a": [2]})]))
    >>> len(first), [table["a"].to_pylist() for table in every]
    (2, [[1], [2]])
    """
    every = iter(tables)
    if every is not tables:
        return sample_table(every), iter(tables)
    head: deque[pa.Table] = deque()
    while sum(map(len, head)) < SAMPLE and sum(each.nbytes for each in head) < _SAMPLE_BYTES:
        if (table := next(every, None)) is None:
            break
        head.append(table)
    return sample_table(head), itertools.chain(_emptied(head), every)


def _emptied(tables: deque[pa.Table]) -> Iterator[pa.Table]:
    while tables:
        yield tables.popleft()


def plan_rows(rows: Rows, options: Options) -> Plan:
    """The plan for a dataset of which these are the first rows; options that do not fit raise."""
    check_new_columns(rows, options, ALL_COLUMNS)
    plan = make_plan(options, rows)
    check_rows(rows, plan, whole=True)
    return plan


def write_batch(first: Rows, options: Options) -> int:
    """How many finished rows to write at once, by the weight of the first ones' images.

    >>> write_batch(Rows({"image": [bytes(4_000_000)] * 2}, "image"), Options())
    4
    """
    drawn = options.column_prefix + "image_with_bbox"
    column = options.image_column if first.has(options.image_column) else drawn
    values = (first.value(column, index) for index in range(min(len(first), 8)))
    heaviest = max((image_weight(value, options.image_root) for value in values), default=0)
    return max(1, min(_WRITE_BATCH, _WRITE_BYTES // max(1, heaviest)))
