"""Values of JSON files as columns: boxes of numbers, images by path, types that Arrow can hold."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_regioncap.box_columns import read_boxes
from hf_regioncap.errors import OptionError
from hf_regioncap.wire import writable

if TYPE_CHECKING:
    from datasets import Dataset, Features

#: Takes a sentence about what was found in an INPUT.
Tell = Callable[[str], object]


def read_json(text: str, what: str) -> Any:
    """Read JSON text; what is wrong with it is an OptionError that says where.

    >>> read_json('{"name": "caf\\\\ud800"}', "INPUT 'a.json'")
    {'name': 'caf\\ufffd'}
    """
    try:
        value = json.loads(text)
        if "\\ud" in text or "\\uD" in text:  # half of a character, which Arrow cannot hold
            value = json.loads(writable(json.dumps(value, ensure_ascii=False)))
    except RecursionError:
        raise OptionError(f"{what}: nested too deeply") from None
    except ValueError as error:
        raise OptionError(f"{what}: not JSON ({error})") from None
    return value


def read_lines(file: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, or an OptionError that says why there are none."""
    try:
        with file.open(encoding="utf-8-sig") as lines:  # Windows puts a mark in front
            yield from lines
    except OSError as error:
        raise OptionError(f"INPUT {str(file)!r} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise OptionError(f"INPUT {str(file)!r} is not UTF-8 text") from None


def image_at(folder: str | os.PathLike[str], path: str) -> dict[str, Any]:
    """An image as `datasets` stores it, by its path relative to a folder."""
    return {"bytes": None, "path": os.path.normpath(Path(folder) / path)}


# Boxes


def clean_at(value: Any, path: Sequence[str]) -> Any:
    """A field's value with clean boxes, which lie at the end of a path of names inside it.

    >>> clean_at({"bbox": [[1, 2, "x", 4]], "id": "x"}, ["bbox"])
    {'bbox': [[1, 2, None, 4]], 'id': 'x'}
    >>> clean_at([{"bbox": [1, 2, "x", 4]}, {"bbox": None}], ["bbox"])
    [{'bbox': [1, 2, None, 4]}, {'bbox': None}]
    """
    if not path:
        return clean_boxes(value)
    if isinstance(value, list):  # an object each, with one box
        return [_each_clean_at(item, path) for item in value]
    return _inside(value, path, clean_at)


def _each_clean_at(value: Any, path: Sequence[str]) -> Any:
    return _inside(value, path, _each_clean_at) if path else clean_box(value)


def _inside(value: Any, path: Sequence[str], clean: Callable[[Any, Sequence[str]], Any]) -> Any:
    if isinstance(value, dict) and path[0] in value:
        return {**value, path[0]: clean(value[path[0]], path[1:])}
    return value


def clean_boxes(value: Any) -> list[Any] | None:
    """Boxes that Arrow can hold: what is no number becomes null and gets its status later."""
    if value is None:
        return None
    if not isinstance(value, list):
        return [clean_box(value)]
    if len(value) == 4 and all(type(part) in (int, float) for part in value):
        return [clean_box(value)]  # one box that was not put into a list
    return [clean_box(box) for box in value]


def clean_box(box: Any) -> list[Any] | None:
    """One box as a list of numbers, with null for what is none.

    >>> clean_box([1, "2.5", "wide", None]), clean_box("10, 20, 30, 40"), clean_box("none")
    ([1, 2.5, None, None], [10.0, 20.0, 30.0, 40.0], None)
    """
    if isinstance(box, str):
        parts = box.strip(" []()").replace(",", " ").split()
        box = parts if len(parts) == 4 else None
    [values] = read_boxes([box])  # a list also where it was a dict of numbers
    return [number(part) for part in values] if isinstance(values, list) else None


def number(value: Any) -> int | float | None:
    """The number in a JSON value, also where it was written as text; None where there is none.

    >>> number(10**400), number(True), number("7")
    (None, None, 7.0)
    """
    if type(value) is float or (type(value) is int and abs(value) < 2**53):
        return value
    if type(value) not in (int, str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


# Columns


def fits_arrow(values: Sequence[Any]) -> bool:
    """Whether Arrow, and a Parquet file, can hold the values in one column."""
    import pyarrow as pa

    try:
        kind = pa.array(values).type
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        return False
    return "struct<>" not in str(kind)  # which no Parquet file holds


def fitting(values: Sequence[Any]) -> list[Any]:
    """The values of one column as Arrow can hold them: what mixes types becomes text.

    >>> fitting([[{"box": [1, 2], "label": 1}], [{"box": [3, 4], "label": "dog"}]])
    [[{'box': [1, 2], 'label': '1'}], [{'box': [3, 4], 'label': 'dog'}]]
    """
    if fits_arrow(values):
        return list(values)
    known = [value for value in values if value is not None]
    names = dict.fromkeys(name for value in known if isinstance(value, dict) for name in value)
    if names and all(isinstance(value, dict) for value in known):
        parts = {name: fitting([value and value.get(name) for value in values]) for name in names}
        return [
            None if value is None else {name: parts[name][row] for name in names}
            for row, value in enumerate(values)
        ]
    if all(isinstance(value, list) for value in known):
        items = iter(fitting([item for value in known for item in value]))
        return [None if value is None else [next(items) for _ in value] for value in values]
    return [value if value is None or isinstance(value, str) else _text(value) for value in values]


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def typed(columns: Mapping[str, list[Any]], known: Features) -> Dataset:
    """A dataset of columns, of which some have known features and come first."""
    from datasets import Dataset, Features, concatenate_datasets

    dataset = Dataset.from_dict(
        {name: fitting(values) for name, values in columns.items() if name not in known}
    )
    for name in (name for name in reversed(known) if name in columns):
        one = Dataset.from_dict({name: columns[name]}, features=Features({name: known[name]}))
        rest = [dataset] if dataset.column_names else []
        dataset = concatenate_datasets([one, *rest], axis=1)
    return dataset


def input_features(image_column: str, bbox_column: str | None) -> Features:
    """The features of the images and the boxes."""
    from datasets import Features, Image, List, Value

    boxes = {bbox_column: List(List(Value("float64")))} if bbox_column is not None else {}
    return Features({image_column: Image(), **boxes})
