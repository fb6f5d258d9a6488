"""The seed's JSON lines: an image path and its boxes per line."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_regioncap.errors import OptionError
from hf_regioncap.inputs_fields import (
    clean_at,
    fits_arrow,
    image_at,
    input_features,
    read_json,
    read_lines,
    typed,
)
from hf_regioncap.tables import walk

if TYPE_CHECKING:
    from datasets import Dataset


def load_jsonl(
    path: str | os.PathLike[str],
    image_root: str | os.PathLike[str] | None = None,
    *,
    image_column: str = "image",
    bbox_column: str = "bbox",
) -> tuple[Dataset, str]:
    """Load the seed's input format: a line per image, `{"image": path, "bbox": [[x, y, w, h], …]}`.

    Image paths are relative to the file and must lie under `image_root` (the file's folder, if not
    given). Other fields become columns; where one mixes types, its values become text.
    `bbox_column` may reach inside: `"objects.bbox"`. A value in it that is no number becomes null,
    so that its box, and no other, is told as invalid.

    >>> file = getfixture("tmp_path") / "rows.jsonl"
    >>> size = file.write_text('{"photo": "a.jpg", "boxes": [[1, 2, 30, 40], [1, 2, "wide", 4]]}')
    >>> dataset, root = load_jsonl(file, image_column="photo", bbox_column="boxes")
    >>> dataset["boxes"][0]
    [[1.0, 2.0, 30.0, 40.0], [1.0, 2.0, None, 4.0]]
    """
    file = Path(path)
    rows = list(_rows(file))
    names = list(dict.fromkeys(name for row in rows for name in row))
    if image_column not in names:
        raise OptionError(
            f"{os.fspath(path)!r} has no field {image_column!r}; it has {names}: pass image_column="
        )
    columns = {name: [row.get(name) for row in rows] for name in names}
    root = str(Path(image_root).resolve() if image_root else file.resolve().parent)
    folder = file.resolve().parent
    columns[image_column] = [_image(folder, value) for value in columns[image_column]]
    name, *inner = [bbox_column] if bbox_column in names else bbox_column.split(".")
    lists = name in columns and not _stays_as_it_is(columns[name], inner)
    if lists:
        clean = [clean_at(value, inner) for value in columns[name]]
        columns[name] = _all_lists(clean) if inner else clean
    known = input_features(image_column, name if lists and not inner else None)
    return typed(columns, known), root


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    for count, line in enumerate(read_lines(file), 1):
        if line.strip():
            where = f"INPUT {str(file)!r}, line {count}"
            row = read_json(line, where)
            if not isinstance(row, dict):
                raise OptionError(f"{where}: not a JSON object")
            yield row


def _image(folder: Path, value: Any) -> dict[str, Any] | None:
    if not isinstance(value, str):
        return None
    if "://" in value:
        return {"bytes": None, "path": value}
    slashed = value.replace("\\", "/")  # as Windows writes it
    if slashed != value and not (folder / value).exists() and (folder / slashed).exists():
        value = slashed
    return image_at(folder, value)


def _all_lists(values: list[Any]) -> list[Any]:
    """Objects as a list in every row, where some rows have a list and some a dict of lists.

    >>> _all_lists([[{"bbox": [1, 2, 3, 4]}], {"bbox": [[5, 6, 7, 8]], "label": ["dog"]}])
    [[{'bbox': [1, 2, 3, 4]}], [{'bbox': [5, 6, 7, 8], 'label': 'dog'}]]
    """
    if {type(value) for value in values} >= {list, dict}:
        return [_one_by_one(value) if isinstance(value, dict) else value for value in values]
    return values


def _one_by_one(value: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A dict of lists as a list of dicts; what is no list holds for each of them."""
    count = max((len(part) for part in value.values() if isinstance(part, list)), default=0)
    return [
        {
            name: (part[place] if place < len(part) else None) if isinstance(part, list) else part
            for name, part in value.items()
        }
        for place in range(count)
    ]


def _stays_as_it_is(values: Sequence[Any], path: Sequence[str]) -> bool:
    """Whether a field holds dicts as boxes that Arrow can hold, or no list of boxes at all."""
    found = [boxes for value in values if (boxes := walk(value, path)) is not None]
    lists = [boxes for boxes in found if isinstance(boxes, list)]
    if any(isinstance(box, dict) for boxes in lists for box in boxes):
        return fits_arrow(values)
    return bool(found) and not lists
