"""What people bring: the seed's JSON lines, COCO, image folders, Parquet, the Hub, the demo."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_regioncap.errors import OptionError
from hf_regioncap.rows import read_boxes
from hf_regioncap.tables import walk

if TYPE_CHECKING:
    from datasets import Dataset, Features

#: Photos that scikit-image ships, with hand-made boxes (xywh pixels) and labels. In the public
#: domain or CC0, see scikit-image's own notes: astronaut (NASA), coffee (Rachel Michetti),
#: chelsea (Stéfan van der Walt), rocket (SpaceX), coins (Brooklyn Museum). The last has no boxes.
_DEMO: list[tuple[str, list[tuple[str, list[int]]]]] = [
    (
        "astronaut.png",
        [
            ("face", [150, 15, 155, 175]),
            ("mission patch", [132, 345, 78, 82]),
            ("helmet", [275, 345, 225, 165]),
            ("space shuttle", [350, 5, 110, 280]),
            ("flag", [0, 0, 115, 300]),
        ],
    ),
    (
        "coffee.png",
        [
            ("cup", [170, 10, 240, 295]),
            ("coffee", [205, 95, 165, 105]),
            ("spoon", [325, 60, 105, 270]),
            ("saucer", [75, 60, 405, 330]),
        ],
    ),
    (
        "chelsea.png",
        [
            ("eye", [135, 80, 70, 70]),
            ("eye", [298, 105, 52, 62]),
            ("nose", [225, 215, 70, 60]),
        ],
    ),
    (
        "rocket.jpg",
        [
            ("rocket", [306, 122, 34, 292]),
            ("tower", [0, 0, 90, 400]),
            ("light", [345, 375, 40, 40]),
        ],
    ),
    ("coins.png", []),
]


def demo_dataset() -> Dataset:
    """The photos of `--demo`: four with hand-made boxes and labels, one without.

    >>> demo_dataset()["labels"][1]
    ['cup', 'coffee', 'spoon', 'saucer']
    """
    try:
        import skimage
    except ImportError:
        raise OptionError(
            "the demo's photos are in scikit-image: pip install 'hf-regioncap[demo]'"
        ) from None
    from datasets import Dataset, Features, List, Value

    folder = Path(skimage.__file__).parent / "data"
    rows = {
        "image": [{"bytes": (folder / name).read_bytes(), "path": name} for name, _ in _DEMO],
        "bbox": [[box for _, box in boxes] for _, boxes in _DEMO],
        "labels": [[label for label, _ in boxes] for _, boxes in _DEMO],
    }
    features = Features({**_features("image", "bbox"), "labels": List(Value("string"))})
    return Dataset.from_dict(rows, features=features)


def _features(image_column: str, bbox_column: str | None) -> Features:
    from datasets import Features, Image, List, Value

    boxes = {bbox_column: List(List(Value("float64")))} if bbox_column is not None else {}
    return Features({image_column: Image(), **boxes})


def load(
    name: str,
    *,
    image_column: str = "image",
    bbox_column: str = "bbox",
    image_root: str | os.PathLike[str] | None = None,
    split: str | None = None,
    config: str | None = None,
    revision: str | None = None,
    streaming: bool = False,
) -> tuple[Any, str | None]:
    """Load what `name` means: (dataset, folder under which its image paths may be read).

    A `.jsonl` in the seed's format (paths relative to the file), a COCO `.json` (with
    `image_root`), a folder with `metadata.jsonl`, Parquet (a file, a folder or a pattern), else a
    dataset of the Hub. The columns of images and boxes need to be known for a `.jsonl` only.
    """
    path = Path(name)
    if path.suffix == ".jsonl" and path.parent.is_dir():
        dataset, root = load_jsonl(
            path, image_root, image_column=image_column, bbox_column=bbox_column
        )
    elif path.suffix == ".json" and path.parent.is_dir():
        dataset, root = load_coco(path, image_root)
    else:
        return _load_dataset(path, name, split, config, revision, streaming), (
            str(path) if path.is_dir() else None
        )
    for option, value in (("config", config), ("revision", revision)):
        if value is not None:
            raise OptionError(f"--{option} is for datasets of the Hub, and {name!r} is a file")
    if split not in (None, "train"):
        raise OptionError(f"split: {name!r} has one split, 'train', got {split!r}")
    return dataset.to_iterable_dataset() if streaming else dataset, root


def _load_dataset(
    path: Path,
    name: str,
    split: str | None,
    config: str | None,
    revision: str | None,
    streaming: bool,
) -> Any:
    from datasets import load_dataset

    rest: dict[str, Any] = {"split": split, "streaming": streaming}
    try:
        if "parquet" in path.suffix or "*" in name:
            loaded = load_dataset("parquet", data_files=name, **rest)
        elif path.is_dir() and not any(path.glob("metadata.*")) and list(path.glob("*.parquet")):
            loaded = load_dataset("parquet", data_dir=name, **rest)
        elif path.is_dir() and (metadata := list(path.glob("**/metadata.*"))):
            # Told nothing else, `datasets` takes files by the split words in their own names, and
            # COCO_val2014_1.jpg would lose the metadata beside it.
            by_folder = all(_is_split(file.relative_to(path).parent) for file in metadata)
            files = {} if by_folder else {"data_files": "**"}
            loaded = load_dataset("imagefolder", data_dir=name, **files, **rest)
        else:
            loaded = load_dataset(name, config, revision=revision, **rest)
    except (OSError, ValueError) as error:  # not found, no such split or configuration, offline
        words = " ".join(str(error).split())[:400]
        raise OptionError(f"INPUT {name!r} cannot be loaded: {words}") from None
    if split is None and len(loaded) == 1:
        return next(iter(loaded.values()))
    return loaded


def _is_split(folder: Path) -> bool:
    """Whether a folder, or one above it, is named for a split.

    >>> [_is_split(Path(name)) for name in ("val2017", "data/train/cats", "photos", ".")]
    [True, True, False, False]
    """
    from datasets.data_files import SPLIT_KEYWORDS

    words = {word for keywords in SPLIT_KEYWORDS.values() for word in keywords}
    return any(words & set(re.split(r"[-._ 0-9]+", part)) for part in folder.parts)


def first_rows(dataset: Any, count: int) -> Any:
    """The first rows of a dataset, of each split where it has several.

    >>> len(first_rows(demo_dataset(), 2))
    2
    """
    if hasattr(dataset, "values"):
        return type(dataset)({name: first_rows(each, count) for name, each in dataset.items()})
    return dataset.take(min(count, len(dataset)) if hasattr(dataset, "__len__") else count)


def load_jsonl(
    path: str | os.PathLike[str],
    image_root: str | os.PathLike[str] | None = None,
    *,
    image_column: str = "image",
    bbox_column: str = "bbox",
) -> tuple[Dataset, str]:
    """Load the seed's input format: a line per image, `{"image": path, "bbox": [[x, y, w, h], …]}`.

    Image paths are relative to the file and must lie under `image_root` (the file's folder, if not
    given). Other fields become columns. `bbox_column` may reach inside: `"objects.bbox"`. A value
    in it that is no number becomes null, so that its box, and no other, is told as invalid.

    >>> file = getfixture("tmp_path") / "rows.jsonl"
    >>> size = file.write_text('{"photo": "a.jpg", "boxes": [[1, 2, 30, 40], [1, 2, "wide", 4]]}')
    >>> dataset, root = load_jsonl(file, image_column="photo", bbox_column="boxes")
    >>> dataset["boxes"][0]
    [[1.0, 2.0, 30.0, 40.0], [1.0, 2.0, None, 4.0]]
    """
    file = Path(path)
    rows = list(_json_lines(file))
    names = list(dict.fromkeys(name for row in rows for name in row))
    if image_column not in names:
        raise OptionError(
            f"{os.fspath(path)!r} has no field {image_column!r}; it has {names}: pass image_column="
        )
    columns = {name: [row.get(name) for row in rows] for name in names}
    root = str(Path(image_root).resolve() if image_root else file.resolve().parent)
    columns[image_column] = [_image_at(file, value) for value in columns[image_column]]
    name, *inner = [bbox_column] if bbox_column in names else bbox_column.split(".")
    lists = name in columns and not _stays_as_it_is(columns[name], inner)
    if lists:
        columns[name] = [_clean_at(value, inner) for value in columns[name]]
    return _typed(columns, image_column, name if lists and not inner else None), root


def _json_lines(file: Path) -> Iterator[dict[str, Any]]:
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _json_line(file, number, line)
    except OSError as error:
        raise OptionError(f"INPUT {str(file)!r} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise OptionError(f"INPUT {str(file)!r} is not UTF-8 text") from None


def _json_line(file: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise OptionError(f"INPUT {str(file)!r}, line {number}: not JSON ({error})") from None
    if not isinstance(row, dict):
        raise OptionError(f"INPUT {str(file)!r}, line {number}: not a JSON object")
    return row


def _image_at(file: Path, value: Any) -> dict[str, Any] | None:
    if not isinstance(value, str):
        return None
    if "://" in value:
        return {"bytes": None, "path": value}
    return {"bytes": None, "path": os.path.normpath(file.resolve().parent / value)}


def _clean_at(value: Any, path: Sequence[str]) -> Any:
    """A field's value with clean boxes, which lie at the end of a path of names inside it.

    >>> _clean_at({"bbox": [[1, 2, "x", 4]], "id": "x"}, ["bbox"])
    {'bbox': [[1, 2, None, 4]], 'id': 'x'}
    >>> _clean_at([{"bbox": [1, 2, "x", 4]}, {"bbox": None}], ["bbox"])
    [{'bbox': [1, 2, None, 4]}, {'bbox': None}]
    """
    if not path:
        return _clean_boxes(value)
    if isinstance(value, list):  # an object each, with one box
        return [_each_clean_at(item, path) for item in value]
    return _inside(value, path, _clean_at)


def _each_clean_at(value: Any, path: Sequence[str]) -> Any:
    return _inside(value, path, _each_clean_at) if path else _clean_box(value)


def _inside(value: Any, path: Sequence[str], clean: Callable[[Any, Sequence[str]], Any]) -> Any:
    if isinstance(value, dict) and path[0] in value:
        return {**value, path[0]: clean(value[path[0]], path[1:])}
    return value


def _clean_boxes(value: Any) -> list[Any] | None:
    """Boxes that Arrow can hold: what is no number becomes null and gets its status later."""
    if value is None:
        return None
    if not isinstance(value, list):
        return [None]
    if len(value) == 4 and all(type(part) in (int, float) for part in value):
        return [value]  # one box that was not put into a list
    return [_clean_box(box) for box in value]


def _clean_box(box: Any) -> list[Any] | None:
    [values] = read_boxes([box])  # a list also where it was a dict of numbers
    if not isinstance(values, list):
        return None
    return [part if type(part) in (int, float) else None for part in values]


def _stays_as_it_is(values: list[Any], path: Sequence[str]) -> bool:
    """Whether a field holds dicts as boxes that Arrow can hold, or no list of boxes at all."""
    found = [boxes for value in values if (boxes := walk(value, path)) is not None]
    lists = [boxes for boxes in found if isinstance(boxes, list)]
    if any(isinstance(box, dict) for boxes in lists for box in boxes):
        return _fits_arrow(values)
    return bool(found) and not lists


def _fits_arrow(values: list[Any]) -> bool:
    import pyarrow as pa

    try:
        pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return False
    return True


def _typed(
    columns: dict[str, list[Any]], image_column: str = "image", bbox_column: str | None = "bbox"
) -> Dataset:
    """A dataset with an image column; columns that mix types are kept as JSON text."""
    from datasets import Dataset, Features, concatenate_datasets

    known = _features(image_column, bbox_column)
    for name, values in columns.items():
        if name not in known and not _fits_arrow(values):
            columns[name] = [json.dumps(value, ensure_ascii=False) for value in values]
    dataset = Dataset.from_dict({k: v for k, v in columns.items() if k not in known})
    for name in (name for name in reversed(known) if name in columns):
        one = Dataset.from_dict({name: columns[name]}, features=Features({name: known[name]}))
        rest = [dataset] if dataset.column_names else []
        dataset = concatenate_datasets([one, *rest], axis=1)
    return dataset


def load_coco(
    path: str | os.PathLike[str], image_root: str | os.PathLike[str] | None = None
) -> tuple[Dataset, str]:
    """Load COCO's instances or captions JSON: `bbox` (xywh pixels) and `category` per image.

    The format is that of the COCO data set, "Data format", object detection. `image_root` is the
    folder of the images' `file_name`s.
    """
    if image_root is None:
        raise OptionError(
            f"image_root: {os.fspath(path)!r} is COCO's JSON; pass the folder of its images"
        )
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        images, annotations = data["images"], data.get("annotations", [])
    except OSError as error:
        raise OptionError(f"INPUT {os.fspath(path)!r} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise OptionError(
            f"INPUT {os.fspath(path)!r} is not COCO's JSON (an object with 'images' and "
            "'annotations'); for one row a line name it .jsonl"
        ) from None
    names = {entry["id"]: entry.get("name") for entry in data.get("categories", [])}
    boxes: dict[Any, list[Any]] = {}
    for entry in annotations:
        if "bbox" in entry:
            box = (entry["bbox"], names.get(entry.get("category_id")))
            boxes.setdefault(entry.get("image_id"), []).append(box)
    root = Path(image_root).resolve()
    own = [boxes.get(entry.get("id"), []) for entry in images]
    columns = {
        "image": [_image_at(root / "_", entry.get("file_name")) for entry in images],
        "image_id": [entry.get("id") for entry in images],
        "bbox": [_clean_boxes([box for box, _ in each]) for each in own],
        "category": [[name for _, name in each] for each in own],
    }
    return _typed(columns), str(root)
