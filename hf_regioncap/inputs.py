"""What people bring: the seed's JSON lines, COCO, image folders, Parquet, the Hub, the demo."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_regioncap.errors import OptionError
from hf_regioncap.inputs_coco import load_coco
from hf_regioncap.inputs_fields import Tell, input_features
from hf_regioncap.inputs_folder import check_not_hub, load_dataset_from
from hf_regioncap.inputs_jsonl import load_jsonl

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["demo_dataset", "first_rows", "load", "load_coco", "load_jsonl"]

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
    features = Features({**input_features("image", "bbox"), "labels": List(Value("string"))})
    return Dataset.from_dict(rows, features=features)


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
    limit: int | None = None,
    tell: Tell = warnings.warn,
) -> tuple[Any, str | None]:
    """Load what `name` means: (dataset, folder under which its image paths may be read).

    A `.jsonl` in the seed's format (paths relative to the file), a COCO `.json` (with
    `image_root`), a folder of photos (with `metadata.jsonl` or without), Parquet (a file, a folder
    or a pattern), a folder of `save_to_disk`, else a dataset of the Hub. The columns of images and
    boxes need to be known for a `.jsonl` only. `limit` takes the first rows of each split, and
    `tell` a sentence about each thing that was found and is not read as it stands.
    """
    path = Path(name)
    if path.suffix == ".jsonl" and path.parent.is_dir():
        dataset, root = load_jsonl(
            path, image_root, image_column=image_column, bbox_column=bbox_column
        )
    elif path.suffix == ".json" and path.parent.is_dir():
        dataset, root = load_coco(path, image_root, limit=limit, tell=tell)
    else:
        loaded = load_dataset_from(name, split, config, revision, streaming=streaming, tell=tell)
        return first_rows(loaded, limit), str(path) if path.is_dir() else None
    check_not_hub(name, config, revision)
    if split not in (None, "train"):
        raise OptionError(f"split: {name!r} has one split, 'train', got {split!r}")
    dataset = first_rows(dataset, limit)
    return dataset.to_iterable_dataset() if streaming else dataset, root


def first_rows(dataset: Any, count: int | None) -> Any:
    """The first rows of a dataset, of each split where it has several; all for None.

    >>> len(first_rows(demo_dataset(), 2))
    2
    """
    if count is None:
        return dataset
    if hasattr(dataset, "values"):
        return type(dataset)({name: first_rows(each, count) for name, each in dataset.items()})
    return dataset.take(min(count, len(dataset)) if hasattr(dataset, "__len__") else count)
