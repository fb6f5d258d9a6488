"""What a map function is given and gives back: datasets' batches, Arrow tables, plain dicts.

Where the rows come with their table, the result is that table with columns appended and the full
`Features` in its schema's metadata, from which `Dataset.map` takes the types: no `features=` is
needed, and the user's own columns are not touched, let alone encoded again.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hf_regioncap.errors import OptionError

if TYPE_CHECKING:
    from datasets import Features

#: Arrow's 32-bit offsets hold so many bytes in one column of one batch.
MAX_COLUMN_BYTES = 2**31 - 2**24

_BOX_NAME = re.compile(r"b(?:ound(?:ing)?)?_?box(?:es)?$|^boxes$|^rois?$", re.IGNORECASE)
#: The names under which people keep a box's numbers, and the formats that these can mean (x and y
#: may be the middle), the likeliest first.
NAMED_BOXES: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("x", "y", "width", "height"), ("xywh", "cxcywh")),
    (("x", "y", "w", "h"), ("xywh", "cxcywh")),
    (("xmin", "ymin", "xmax", "ymax"), ("xyxy",)),
    (("x1", "y1", "x2", "y2"), ("xyxy",)),
)


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
                return walk(field[index].as_py(), path)
            scalar = field[index]
            return walk(scalar[step].as_py() if scalar.is_valid else None, path[1:])
        return field[index].as_py()

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
            if self.table is not None:
                kind = self.table.schema.field(name).type
            else:
                column = self._columns[name]
                kind = _first(column)
            found[name] = kind
            found |= {f"{name}.{inner}": value for inner, value in _inner(kind)}
        return found

    def has(self, column: str) -> bool:
        """Whether a column or a nested field of this dotted name is there."""
        return column in self.names or column in self.fields()

    def require(self, argument: str, column: str) -> None:
        """Raise where a column that was asked for is not there, naming those that are."""
        if not self.has(column):
            raise OptionError(self.missing(argument, column))

    def missing(self, argument: str, column: str) -> str:
        """The words for a column that is not there: what is, and the likely one."""
        fields = self.fields()
        likely = self.likely_boxes() if argument == "bbox_column" else None
        hint = f": pass {likely}" if likely else f": pass {argument}= one of these"
        if argument in ("prompt", "system_prompt"):
            hint = "; write {{ and }} for braces that are meant as such"
        names = ", ".join(map(repr, fields)) or "no columns"
        return f"no column {column!r} ({argument}); the dataset has {names}{hint}"

    def likely_boxes(self) -> str | None:
        """The options for a column that looks like boxes, as one would write them; or None."""
        fields = self.fields()
        for name, kind in fields.items():
            for keys, (box_format, *_) in NAMED_BOXES:
                if set(keys) <= {inner for inner, _ in _inner(kind)}:
                    extra = "" if box_format == "xywh" else f", box_format={box_format!r}"
                    return f"bbox_column={name!r}{extra}"
        for name in fields:
            if _BOX_NAME.search(name.rpartition(".")[2]):
                return f"bbox_column={name!r}"
        return None

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


def _first(column: Any) -> Any:
    return next((item for item in column if item is not None), None)


def _inner(kind: Any) -> Iterator[tuple[str, Any]]:
    """The fields inside an Arrow type or an example value, through lists, by dotted name."""
    while isinstance(kind, pa.DataType) and (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    ):
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


def stored_tables(dataset: Any, batch_size: int) -> Iterator[pa.Table]:
    """The rows of a dataset or stream as tables of so many, images as stored.

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
        yield from arrow.iter(batch_size=batch_size)
        return
    rows = arrow.iter(batch_size=1)
    while group := list(itertools.islice(rows, batch_size)):
        yield pa.concat_tables(group, promote_options="permissive").combine_chunks()
