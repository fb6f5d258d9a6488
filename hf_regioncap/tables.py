"""What a map function is given and gives back: datasets' batches, Arrow tables, plain dicts.

Where the rows come with their table, the result is that table with columns appended and the full
`Features` in its schema's metadata, from which `Dataset.map` takes the types: no `features=` is
needed, and the user's own columns are not touched, let alone encoded again.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hf_regioncap.box_columns import likely_boxes, named_box
from hf_regioncap.errors import OptionError

if TYPE_CHECKING:
    from datasets import Features

#: Arrow's 32-bit offsets hold so many bytes in one column of one batch.
MAX_COLUMN_BYTES = 2**31 - 2**24

#: So many values of a column are looked at to see what it holds.
_LOOKED_AT = 32


class Rows:
    """Rows by column and index, over a table, a dict of columns, or one dict of values."""

    def __init__(self, given: Any, image_column: str, features: Features | None = None) -> None:
        self.table: pa.Table | None = None
        self._columns: Mapping[str, Any] = {}
        self._features = features
        self.single = False
        if isinstance(given, pa.Table):
            self.table = given
        elif isinstance(getattr(given, "pa_table", None), pa.Table) and _untouched(given):
            self.table = given.pa_table
            self._features = getattr(given.formatter, "features", None)
        elif isinstance(given, Mapping):
            self.single = not _is_batch(given, image_column)
            self._columns = {k: [given[k]] for k in given} if self.single else given
        elif type(given).__name__ == "DataFrame":
            raise OptionError(
                "the rows come as a DataFrame, in which datasets has decoded the images, so that "
                "they could not be given back as they were: map dataset.with_format(None) and set "
                "the format afterwards, or call caption_dataset, which keeps it"
            )
        else:
            raise OptionError(
                f"expected a batch or example of a dataset, a dict or a pyarrow.Table, "
                f"got a {type(given).__name__}"
            )

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return list(self.table.column_names if self.table is not None else self._columns)

    def __len__(self) -> int:
        if self.table is not None:
            return int(self.table.num_rows)
        return len(next(iter(self._columns.values()), []))

    @functools.cached_property
    def row_size(self) -> int:
        """What a row of the table takes in memory, on average, in bytes."""
        return 0 if self.table is None else int(self.table.nbytes / max(1, len(self)))

    def value(self, column: str, index: int) -> Any:
        """One value; a dotted name reaches into structs, dicts and lists of dicts.

        >>> rows = Rows({"image": [None], "objects": [[{"bbox": [1, 2, 3, 4]}]]}, "image")
        >>> rows.value("objects.bbox", 0)
        [[1, 2, 3, 4]]
        """
        name, path = split_name(column, self.names)
        if self.table is None:
            return walk(self._columns[name][index], path)
        field = self.table.column(name)
        for step in path:  # a struct's one field is read without the others (masks are large)
            if not pa.types.is_struct(field.type) or field.type.get_field_index(step) < 0:
                return walk(_plain(field[index]), path)
            scalar = field[index]
            return walk(_plain(scalar[step]) if scalar.is_valid else None, path[1:])
        return _plain(field[index])

    @property
    def features(self) -> Features:
        """The `Features` of the table, from its metadata, its dataset, or its Arrow types."""
        from datasets import Features

        assert self.table is not None
        if self.table.schema.metadata and b"huggingface" in self.table.schema.metadata:
            return Features.from_arrow_schema(self.table.schema)
        if self._features is not None and set(self._features) == set(self.table.column_names):
            return self._features
        return Features.from_arrow_schema(self.table.schema)

    def fields(self) -> dict[str, Any]:
        """All columns and nested fields by dotted name, each with an example or Arrow type."""
        found: dict[str, Any] = {}
        for name in self.names:
            kinds = [self.table.schema.field(name).type] if self.table is not None else []
            if not kinds:
                kinds = [_first(self._columns[name])]
            elif holds_json(kinds[0]):
                kinds = [value for value in self._first_values(name) if value is not None] or kinds
            found[name] = kinds[0]
            for kind in kinds:
                found |= {f"{name}.{inner}": value for inner, value in _inner(kind)}
        return found

    def _first_values(self, name: str) -> list[Any]:
        return [self.value(name, index) for index in range(min(len(self), _LOOKED_AT))]

    def has(self, column: str) -> bool:
        """Whether a column or a nested field of this dotted name is there.

        What fields there are inside JSON without any value, nobody knows: it may be there.
        """
        if column in self.names or column in self.fields():
            return True
        name = next((name for name in self.names if column.startswith(f"{name}.")), None)
        if name is None or self.table is None or not holds_json(self.table.schema.field(name).type):
            return False
        return all(not self.value(name, index) for index in range(len(self)))

    def require(self, argument: str, column: str) -> None:
        """Raise where a column that was asked for is not there, naming those that are."""
        if not self.has(column):
            raise OptionError(self.missing(argument, column))

    def missing(self, argument: str, column: str) -> str:
        """The words for a column that is not there: what is, and the likely one."""
        fields = self.fields()
        hint = f": pass {argument}= one of these"
        if argument == "bbox_column":
            if likely := self.likely_boxes():
                hint = f": pass {likely}"
            elif parts := self.box_parts():
                hint = f": {parts}"
        if argument in ("prompt", "system_prompt"):
            hint = "; write {{ and }} for braces that are meant as such"
        names = ", ".join(map(repr, fields)) or "no columns"
        return f"no column {column!r} ({argument}); the dataset has {names}{hint}"

    def likely_boxes(self) -> str | None:
        """The options for a column that looks like boxes, as one would write them; or None."""
        return likely_boxes(self.fields(), _inner, self._first_values)

    def box_parts(self) -> str | None:
        """What to do where the four numbers of boxes are in columns of their own; or None."""
        named = named_box(self.names)
        if named is None:
            return None
        parts = ", ".join(f"row[{name!r}]" for name in named.names)
        form = "" if "xywh" in named.formats else f" and box_format={named.formats[0]!r}"
        return (
            f"bring {', '.join(map(repr, named.names))} into one column of lists of boxes, as "
            f'dataset.map(lambda row: {{"bbox": [[{parts}]]}}) does for one box per row, and pass '
            f"bbox_column='bbox'{form}"
        )

    def append(self, columns: Mapping[str, pa.Array], features: Callable[[], Features]) -> Any:
        """Give the rows back with new columns: the table with its features, or a dict."""
        if self.table is None:
            listed = {name: array.to_pylist() for name, array in columns.items()}
            return {k: v[0] for k, v in listed.items()} if self.single else listed
        from datasets import Features

        table = self.table
        whole = Features({**self.features, **features()})
        for name, array in columns.items():
            table = table.append_column(pa.field(name, array.type), array)
        return table.replace_schema_metadata(whole.arrow_schema.metadata)


def _untouched(batch: Any) -> bool:
    """Whether a lazy batch still is its table: values that were read may have been replaced."""
    return set(batch.keys_to_format) == set(batch.data)


def _is_batch(given: Mapping[str, Any], image_column: str) -> bool:
    """A dict is a batch if its image value is a list."""
    if image_column in given:
        value = given[image_column]
        if isinstance(value, np.ndarray):
            return value.dtype == object or value.ndim == 4
        return isinstance(value, list | tuple)
    return all(isinstance(value, list | tuple | np.ndarray) for value in given.values())


def split_name(column: str, names: Sequence[str]) -> tuple[str, list[str]]:
    """The column and the path inside it; a column whose own name has dots comes first."""
    if column in names:
        return column, []
    parts = column.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:cut])
        if name in names:
            return name, parts[cut:]
    raise OptionError(f"no column {column!r}; the dataset has {', '.join(map(repr, names))}")


def walk(value: Any, path: Sequence[str]) -> Any:
    """Follow field names through dicts, and through lists of dicts item by item.

    >>> walk([{"a": {"b": 1}}, {"a": None}], ["a", "b"])
    [1, None]
    """
    if not path or value is None:
        return value
    if isinstance(value, Mapping):
        return walk(value.get(path[0]), path[1:])
    if isinstance(value, list | tuple | np.ndarray):
        return [walk(item, path) for item in value]
    return None


def class_names(features: Any, column: str) -> list[str] | None:
    """The names of a `ClassLabel`, wherever under a dotted name it lies; None where there is none.

    >>> from datasets import ClassLabel, List
    >>> class_names({"objects": {"category": List(ClassLabel(names=["cat"]))}}, "objects.category")
    ['cat']
    """
    kind = features
    for step in [column] if column in features else column.split("."):
        kind = _unlisted(kind)
        kind = kind.get(step) if isinstance(kind, Mapping) else None
    names = getattr(_unlisted(kind), "names", None)
    return list(names) if names else None


def _unlisted(kind: Any) -> Any:
    while True:
        if isinstance(kind, list) and kind:
            kind = kind[0]
        elif hasattr(kind, "feature"):
            kind = kind.feature
        else:
            return kind


@functools.lru_cache(maxsize=256)
def holds_json(kind: pa.DataType) -> bool:
    """Whether there is JSON in an Arrow type, which `datasets` stores as text and reads as values.

    >>> holds_json(pa.list_(pa.json_())), holds_json(pa.list_(pa.string()))
    (True, False)
    """
    if isinstance(kind, pa.JsonType):
        return True
    if isinstance(kind, pa.StructType):
        return any(holds_json(field.type) for field in kind)
    return holds_json(kind.value_type) if hasattr(kind, "value_type") else False


def _plain(scalar: Any) -> Any:
    """A scalar's value, with JSON read."""
    value = scalar.as_py()
    return _read_json(value, scalar.type) if holds_json(scalar.type) else value


def _read_json(value: Any, kind: pa.DataType) -> Any:
    if value is None or not holds_json(kind):
        return value
    if isinstance(kind, pa.JsonType):
        try:
            return json.loads(value)
        except ValueError:  # it was written by something else
            return value
    if isinstance(kind, pa.StructType):
        return {field.name: _read_json(value[field.name], field.type) for field in kind}
    return [_read_json(item, kind.value_type) for item in value]


def table_rows(table: pa.Table) -> list[dict[str, Any]]:
    """The rows of a table as dicts, with JSON read.

    >>> table_rows(pa.table({"objects": pa.array(['{"bbox": []}'], pa.json_())}))
    [{'objects': {'bbox': []}}]
    """
    rows: list[dict[str, Any]] = table.to_pylist()
    for field in table.schema:
        if holds_json(field.type):
            for row in rows:
                row[field.name] = _read_json(row[field.name], field.type)
    return rows


def _first(column: Any) -> Any:
    return next((item for item in column if item is not None), None)


def _inner(kind: Any) -> Iterator[tuple[str, Any]]:
    """The fields inside an Arrow type or an example value, through lists, by dotted name."""
    while isinstance(kind, pa.DataType) and hasattr(kind, "value_type"):
        kind = kind.value_type
    if isinstance(kind, list | tuple) and kind:
        kind = kind[0]
    if isinstance(kind, pa.StructType):
        if {field.name for field in kind} == {"bytes", "path"}:
            return  # an image
        for field in kind:
            yield field.name, field.type
            yield from ((f"{field.name}.{name}", inner) for name, inner in _inner(field.type))
    elif isinstance(kind, Mapping) and set(kind) != {"bytes", "path"}:
        for name, value in kind.items():
            yield str(name), value
            yield from ((f"{name}.{inner}", item) for inner, item in _inner(value))


def image_array(images: Sequence[bytes | None]) -> pa.Array:
    """JPEG bytes as `datasets` stores images: a struct of bytes and (always null) path."""
    size = sum(len(image) for image in images if image)
    if size > MAX_COLUMN_BYTES:
        fits = max(1, int(len(images) * 1e9 / size))
        raise OptionError(
            f"the overlays of this batch of {len(images)} rows are {size / 1e9:.1f} GB, more than "
            f"Arrow holds in one column of a batch: pass batch_size={fits} to map, or max_side="
        )
    content = pa.array(images, pa.binary())
    paths = pa.nulls(len(images), pa.string())
    mask = pa.array([image is None for image in images], pa.bool_())
    return pa.StructArray.from_arrays([content, paths], names=["bytes", "path"], mask=mask)


def stored_tables(
    dataset: Any, batch_size: int, most_bytes: float = math.inf
) -> Iterator[pa.Table]:
    """The rows of a dataset or stream as tables of so many, images as stored.

    Where rows are large, so many fewer that a table holds about `most_bytes`.

    A stream that does not come from Arrow has its types inferred for each batch, or even for each
    example: one empty list or null among its neighbours, and `datasets` cannot join them. Taken
    one by one they can be.

    >>> from datasets import IterableDataset
    >>> stream = IterableDataset.from_generator(lambda: iter([{"bbox": []}, {"bbox": [[1, 2]]}]))
    >>> [table["bbox"].to_pylist() for table in stored_tables(stream, 2)]
    [[[], [[1, 2]]]]
    """
    from datasets import Dataset

    arrow = dataset.with_format("arrow")
    if isinstance(dataset, Dataset):
        yield from _slices(arrow, batch_size, most_bytes)
        return
    group: list[pa.Table] = []
    size = 0
    for row in arrow.iter(batch_size=1):
        group.append(row)
        size += row.nbytes
        if len(group) == batch_size or size >= most_bytes:
            yield from _joined(group)
            group, size = [], 0
    if group:
        yield from _joined(group)


def _joined(group: list[pa.Table]) -> list[pa.Table]:
    """Rows as one table; as they are where their types cannot be one, for others to say so."""
    try:
        return [pa.concat_tables(group, promote_options="permissive").combine_chunks()]
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        return group


def _slices(arrow: Any, batch_size: int, most_bytes: float) -> Iterator[pa.Table]:
    """Slices of a dataset in Arrow's format; those of a shuffled one are copies."""
    place, count = 0, 1 if most_bytes < math.inf else batch_size
    while place < len(arrow):
        table = arrow[place : place + count]
        yield table
        place += count
        if most_bytes < math.inf:
            fitting = int(most_bytes * len(table) / max(1, table.nbytes))
            count = max(1, min(batch_size, 2 * count, fitting))
