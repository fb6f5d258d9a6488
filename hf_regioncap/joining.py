"""New columns beside those of a dataset, without copying its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from datasets import Dataset

#: Of so many times more stored rows a few selected ones are copied: all others would get nulls.
_FEW = 100


def join_columns(dataset: Dataset, new: Dataset, batch_size: int = 64) -> Dataset:
    """The dataset with the columns of another, whose rows are in the same order.

    `concatenate_datasets` copies a shuffled or filtered dataset, which may be a thousand times as
    large as what is added. Here the new rows are put into the order in which the others are stored,
    and both are seen through the same indices.

    >>> from datasets import Dataset
    >>> letters = Dataset.from_dict({"letter": ["a", "b", "c"]}).select([2, 0])
    >>> join_columns(letters, Dataset.from_dict({"number": [3, 1]}))[:]
    {'letter': ['c', 'a'], 'number': [3, 1]}
    """
    from datasets import Dataset, concatenate_datasets
    from datasets.fingerprint import Hasher

    if not len(dataset):  # which concatenate_datasets takes for nothing to add
        return empty_dataset({**dataset.features, **new.features}, dataset.split)
    indices = dataset._indices
    if indices is None:
        return concatenate_datasets([dataset, new], axis=1, split=dataset.split)
    places = indices.column(0).to_numpy()
    if len(np.unique(places)) < len(places) or len(places) * _FEW < len(dataset.data):
        flat = _copied(dataset, batch_size)
        return concatenate_datasets([flat, new], axis=1, split=dataset.split)
    fingerprint = Hasher.hash((dataset._fingerprint, "as it is stored"))
    info = dataset.info.copy()
    stored = Dataset(dataset.data, info=info, split=dataset.split, fingerprint=fingerprint)
    whole = concatenate_datasets([stored, _placed(new, places, stored, batch_size)], axis=1)
    return Dataset(
        whole.data,
        info=whole.info,
        split=dataset.split,
        indices_table=indices,
        fingerprint=Hasher.hash((whole._fingerprint, dataset._fingerprint)),
    )


def _placed(new: Dataset, places: Any, stored: Dataset, batch_size: int) -> Dataset:
    """The new rows in the places of the rows that they belong to, null in all other places."""
    from datasets.fingerprint import Hasher

    rows_of = np.full(len(stored), -1)
    rows_of[places] = np.arange(len(places))
    arrow, metadata = new.with_format("arrow"), new.features.arrow_schema.metadata

    def place(_: Any, indices: Sequence[int]) -> pa.Table:
        rows = rows_of[list(indices)]
        known = rows >= 0
        table = arrow[rows[known].tolist()]
        among_known = pa.array(np.cumsum(known) - 1, mask=~known)
        return table.take(among_known).replace_schema_metadata(metadata)

    light = stored.with_format(None).select_columns([light_column(stored)])
    return light.map(
        place,
        with_indices=True,
        batched=True,
        batch_size=batch_size,
        new_fingerprint=Hasher.hash((stored._fingerprint, new._fingerprint)),
        desc="Putting rows in their places",
    )


def _copied(dataset: Dataset, batch_size: int) -> Dataset:
    """The rows as they are selected, a few at a time: `flatten_indices` takes a thousand."""
    return dataset.with_format("arrow").map(
        _as_it_is,
        batched=True,
        batch_size=batch_size,
        features=dataset.features,
        desc="Copying rows",
    ).with_format(None)  # fmt: skip


def _as_it_is(table: pa.Table) -> pa.Table:
    return table


def light_column(dataset: Dataset) -> str:
    """A column that costs little to read: `map` only has to count rows."""
    from datasets import Audio, Image, Value, Video

    def weight(name: str) -> int:
        kind = dataset.features[name]
        if isinstance(kind, Image | Audio | Video):
            return 2
        return 0 if isinstance(kind, Value) and kind.dtype not in ("binary", "string") else 1

    names: list[str] = dataset.column_names
    return min(names, key=weight)


def empty_dataset(features: Mapping[str, Any], split: Any = None) -> Dataset:
    """A dataset of these features without rows."""
    from datasets import Dataset, Features

    return Dataset(Features(features).arrow_schema.empty_table(), split=split)
