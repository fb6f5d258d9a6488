"""Region captions in the formats that others read: one row per region, chats, locations, files.

Everything here reads the columns of a captioned dataset and changes none of them. Formats for
training take used boxes that have a caption; a row without any, or without a readable picture,
gives nothing. Each function names the description that its format was taken from. The functions
that end in `_rows` are pure, one row as a dict in and a list of rows out; `to_…` applies them to a
`Dataset` or `DatasetDict`. Captions lose their angle brackets in texts for models, so that none
can act as a special token.

Every function takes `image_column` and `image_root` as `add_region_captions` does, and the
`column_prefix` of the columns it has added. Where a review was applied (`apply_review`), the
captions are those of `caption_reviewed`: edited texts as edited, and nothing of what was rejected.
`caption_column="region_captions"` gives the model's own instead; any column with a text for each
box can be named.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, Unpack

import PIL.Image
from PIL import ExifTags

from hf_regioncap.answers import format_regions
from hf_regioncap.box_columns import read_boxes
from hf_regioncap.boxes import USED
from hf_regioncap.card import named_splits
from hf_regioncap.errors import OptionError, one_of
from hf_regioncap.images import encode_jpeg, open_picture, peek_picture, read_image_bytes
from hf_regioncap.metadata import image_format, without_metadata
from hf_regioncap.paths import without_local_paths
from hf_regioncap.prompts import label_text
from hf_regioncap.review import caption_column_of, rejected_places
from hf_regioncap.tables import class_names, stored_tables, table_rows, walk

Size = tuple[int, int]
Labels = Sequence[str] | Mapping[int, str] | None
#: Least and most pixels, or the name of what sets them.
Pixels = Sequence[int] | str
RowsOf = Callable[[Mapping[str, Any]], list[dict[str, Any]]]

#: Part of what `Dataset.map` hashes: raised whenever the same rows would be written differently.
VERSION = 2

#: The coordinates of each family: thousandths of the sides, or pixels of what the model is shown.
QWEN_FRAMES = {"qwen2-vl": "permille", "qwen2.5-vl": "resized", "qwen3-vl": "permille"}
#: The least and the most pixels of what the processor makes of an image, by where they stand:
#: in the model (`preprocessor_config.json` of Qwen/Qwen2.5-VL-3B-, 7B-, 32B-, 72B-Instruct; the
#: same in `qwen-vl-utils`), in the repository QwenLM/Qwen3-VL as the defaults of
#: `qwen-vl-finetune/qwenvl/train/argument.py` and of its `train_qwen_trl.py`, and in the library
#: transformers (`Qwen2VLImageProcessor` without a model's configuration).
QWEN_PIXELS = {
    "model": (4 * 28 * 28, 16384 * 28 * 28),
    "qwen-vl-finetune": (16 * 28 * 28, 576 * 28 * 28),
    "qwen-vl-finetune-trl": (28 * 28, 64 * 28 * 28),
    "transformers": (56 * 56, 1280 * 28 * 28),
}
QWEN_PROMPT = (
    "Locate the regions of this image that are worth describing and output their bbox coordinates "
    "and descriptions in JSON format."
)
_QWEN_RATIO = 200
_NEEDED = ("region_boxes", "box_status")
_SUFFIXES = {
    "JPEG": ".jpg",
    "MPO": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "GIF": ".gif",
    "TIFF": ".tif",
}
#: A picture in a line of `write_seed_jsonl`.
_SEED_IMAGE = re.compile(r'"(images/\d{8,}(?:_bbox_vis)?\.(?:jpg|png|webp|gif|tif))"')
#: Rows in memory at a time; an image is repeated for each of its regions.
_BATCH = 8


class Reading(TypedDict, total=False):
    """Where the images are, and how the columns are named."""

    image_column: str
    image_root: str | os.PathLike[str] | None
    column_prefix: str
    caption_column: str | None


class Region(NamedTuple):
    """A used box of a row: its number as drawn and asked, its place in the user's list, from 0."""

    number: int
    place: int
    xywh: list[float]
    caption: str | None
    label: str | None
    box_status: str

    @property
    def xyxy(self) -> list[float]:
        """The corners in pixels of the upright image."""
        x, y, width, height = self.xywh
        return [x, y, x + width, y + height]


def regions_of(
    example: Mapping[str, Any],
    *,
    label_column: str | None = None,
    label_names: Labels = None,
    column_prefix: str = "",
    caption_column: str | None = None,
) -> list[Region]:
    """List the used boxes of one row, in the order of their numbers.

    Of a reviewed row the captions are the reviewed ones, and rejected regions are left out, unless
    `caption_column` names another column.

    >>> row = {"region_boxes": [None, [10, 20, 30, 40]], "box_status": ["outside", "ok"],
    ...        "region_captions": [None, "a cat"]}
    >>> [(region.number, region.place, region.caption) for region in regions_of(row)]
    [(1, 1, 'a cat')]
    """
    boxes, statuses = (example.get(column_prefix + name) or [] for name in _NEEDED)
    column = caption_column_of(example, column_prefix, caption_column)
    captions = example.get(column) or []
    rejected = rejected_places(example, column, column_prefix)
    labels = _labels(example, label_column, len(statuses))
    used = [place for place, status in enumerate(statuses) if status in USED]
    return [
        Region(
            number,
            place,
            list(boxes[place]),
            captions[place] if place < len(captions) else None,
            label_text(labels[place], label_names) if place < len(labels) else None,
            statuses[place],
        )
        for number, place in enumerate(used, start=1)
        if place not in rejected
    ]


def _value(example: Mapping[str, Any], column: str | None) -> Any:
    """What is in a column, under its own or a dotted name."""
    if column is None:
        return None
    return example[column] if column in example else walk(example, column.split("."))


def _labels(example: Mapping[str, Any], column: str | None, count: int) -> list[Any]:
    """A label for each of `count` boxes; one for the whole row is that of all, as in prompts."""
    value = _value(example, column)
    value = value.tolist() if hasattr(value, "tolist") else value
    return list(value) if isinstance(value, list | tuple) else [value] * count


def _captioned(example: Mapping[str, Any], reading: Reading) -> list[Region]:
    regions = regions_of(example, **_naming(reading))
    return [region for region in regions if region.caption and region.caption.strip()]


def _naming(reading: Reading) -> dict[str, Any]:
    """The part of a reading that says how the columns are named."""
    return {name: reading[name] for name in ("column_prefix", "caption_column") if name in reading}


def plain_text(text: str) -> str:
    """One line of text in which nothing can be a model's special token.

    >>> plain_text("a  <b>cat</b> <|im_end|>")
    'a ‹b›cat‹/b› ‹|im_end|›'
    """
    return " ".join(text.split()).replace("<", "‹").replace(">", "›")


# Applied to datasets.


def _mapped(dataset: Any, rows_of: RowsOf, features: Any, columns: Iterable[str]) -> Any:
    """Apply a function from one row to many to a Dataset or DatasetDict, types stated."""
    from datasets import Dataset, DatasetDict, Features

    if isinstance(dataset, DatasetDict):
        parts = {name: _mapped(part, rows_of, features, columns) for name, part in dataset.items()}
        return DatasetDict(parts)
    if not isinstance(dataset, Dataset):
        raise OptionError(f"dataset must be a Dataset or DatasetDict, got {type(dataset).__name__}")
    features = Features(features)
    if not len(dataset):  # a map function is never shown an empty dataset
        return Dataset(features.arrow_schema.empty_table(), split=dataset.split)
    read = [name for name in dataset.column_names if name in set(columns)]
    function = functools.partial(_mapped_batch, rows_of=rows_of, features=features, version=VERSION)
    return (
        dataset.select_columns(read)
        .with_format("arrow")
        .map(function, batched=True, batch_size=_BATCH, with_indices=True, features=features)
        .with_format(None)
    )


def _mapped_batch(
    table: Any, indices: Sequence[int], *, rows_of: RowsOf, features: Any, version: int
) -> Any:
    import pyarrow as pa

    rows = [
        {"source_row": index, **row}
        for example, index in zip(table_rows(table), indices, strict=True)
        for row in rows_of(example)
    ]
    schema = features.arrow_schema
    arrays = [pa.array([row.get(field.name) for row in rows], field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _columns(dataset: Any, reading: Reading, *others: str | None) -> list[str]:
    """The columns to read; raises where one that is needed is not there."""
    prefix, read = reading.get("column_prefix", ""), dict[str, None]()
    for part in named_splits(dataset).values():
        there = part.features or {}
        captions = caption_column_of(there, prefix, reading.get("caption_column"))
        needed = [*(prefix + name for name in _NEEDED), captions, *filter(None, others)]
        missing = [name for name in needed if not {name, name.split(".")[0]} & set(there)]
        missing += [captions] if captions not in there else []
        if missing:
            raise OptionError(
                f"no column {missing[0]!r}; the dataset has {', '.join(map(repr, there))}: caption "
                "it with add_region_captions first, or name its columns"
            )
        if getattr(there[captions], "dtype", None) in ("string", "large_string"):
            raise OptionError(
                f"caption_column {captions!r} must hold a list of texts, one for each box, got "
                f"one text: name another with caption_column="
            )
        read |= dict.fromkeys([*needed, *(name.split(".")[0] for name in needed)])
    return [*read, *(prefix + name for name in ("answer_status", "review_status"))]


def _image_column(reading: Reading) -> str:
    return reading.get("image_column", "image")


def _label_names(dataset: Any, label_column: str | None, label_names: Labels) -> Labels:
    """The names of int labels: as given, or those of a `ClassLabel`."""
    if label_column is None or label_names is not None:
        return label_names
    part = next(iter(named_splits(dataset).values()))
    return class_names(part.features, label_column)


def _image(example: Mapping[str, Any], reading: Reading) -> dict[str, Any] | None:
    """The stored image with its bytes, as an Image feature takes it; None if there is none."""
    value = example.get(_image_column(reading))
    data = read_image_bytes(value, image_root=reading.get("image_root"))
    return None if data is None else {"bytes": data, "path": None}


class _Shown(NamedTuple):
    """What a model is trained on: an image, its upright size, and its captioned regions."""

    image: dict[str, Any]
    size_wh: Size
    regions: list[Region]


def _shown(example: Mapping[str, Any], reading: Reading) -> _Shown | None:
    regions = _captioned(example, reading)
    image = _image(example, reading) if regions else None
    size_wh = peek_picture(image).size_wh if image else (0, 0)
    return _Shown(image, size_wh, regions) if image and min(size_wh) > 0 else None


# One row per region.


def explode_regions(
    dataset: Any,
    *,
    crop: bool = False,
    context: float = 1.0,
    image: bool = True,
    columns: Sequence[str] = (),
    label_column: str | None = None,
    label_names: Labels = None,
    **reading: Unpack[Reading],
) -> Any:
    """Make one row per used region of a captioned Dataset or DatasetDict, captioned or not.

    After a review (`apply_review`) the captions are the reviewed ones, and rejected regions get no
    row; `caption_column="region_captions"` gives the model's own, rejected ones too.

    Columns: `image` (the whole one, if `image`), `crop` (if `crop`: the box, or `context` times as
    much around its centre, as JPEG), `bbox` (xywh in pixels of the upright image), `region` (its
    number as drawn, from 1), `caption`, `label`, `box_status`, `answer_status`, `source_row` (the
    row's index), and those of the source that `columns` names.

    >>> from datasets import Dataset
    >>> rows = {"image": [None], "region_boxes": [[[0.0, 0.0, 8.0, 8.0]]], "box_status": [["ok"]],
    ...         "region_captions": [["a cat"]], "answer_status": ["ok"]}
    >>> exploded = explode_regions(Dataset.from_dict(rows), image=False)
    >>> exploded[0]["caption"], exploded[0]["region"], exploded[0]["source_row"]
    ('a cat', 1, 0)
    """
    if context < 1:
        raise OptionError(f"context must be 1 or more, got {context!r}")
    features = _region_features(crop=crop, image=image)
    taken = [name for name in columns if name in features]
    if taken:
        raise OptionError(f"columns: {taken[0]!r} is the name of one of the new columns")
    source = next(iter(named_splits(dataset).values())).features or {}
    missing = [name for name in columns if name not in source]
    if missing:  # a dotted name too: only whole columns are taken along
        raise OptionError(f"columns: {missing[0]!r} is no column; the dataset has {list(source)}")
    read = _columns(dataset, reading, label_column, *columns)
    rows_of = functools.partial(
        region_rows,
        crop=crop,
        context=context,
        image=image,
        columns=tuple(columns),
        label_column=label_column,
        label_names=_label_names(dataset, label_column, label_names),
        **reading,
    )
    all_features = {**features, **{name: source[name] for name in columns}}
    return _mapped(dataset, rows_of, all_features, [*read, _image_column(reading)])


def _region_features(*, crop: bool, image: bool) -> dict[str, Any]:
    from datasets import Image, List, Value

    pictures = {name: Image() for name, asked in (("image", image), ("crop", crop)) if asked}
    texts = dict.fromkeys(("caption", "label", "box_status", "answer_status"), Value("string"))
    numbers = {"bbox": List(Value("float64")), "region": Value("int32")}
    return {**pictures, **numbers, **texts, "source_row": Value("int64")}


def region_rows(
    example: Mapping[str, Any],
    *,
    crop: bool = False,
    context: float = 1.0,
    image: bool = True,
    columns: Sequence[str] = (),
    label_column: str | None = None,
    label_names: Labels = None,
    **reading: Unpack[Reading],
) -> list[dict[str, Any]]:
    """Make the rows of `explode_regions` from one row; `source_row` is added there.

    >>> row = {"region_boxes": [[0, 0, 8, 8]], "box_status": ["ok"], "region_captions": ["a cat"]}
    >>> [region["caption"] for region in region_rows(row)]
    ['a cat']
    """
    prefix = reading.get("column_prefix", "")
    regions = regions_of(
        example, label_column=label_column, label_names=label_names, **_naming(reading)
    )
    whole = _image(example, reading) if regions and (image or crop) else None
    picture = open_picture(whole).image if crop else None
    return [
        {
            "image": whole if image else None,
            "crop": _crop(picture, region, context) if picture is not None else None,
            "bbox": region.xywh,
            "region": region.number,
            "caption": region.caption,
            "label": region.label,
            "box_status": region.box_status,
            "answer_status": example.get(f"{prefix}answer_status"),
            **{name: example[name] for name in columns},
        }
        for region in regions
    ]


def _crop(picture: Any, region: Region, context: float) -> dict[str, Any]:
    x, y, width, height = region.xywh
    more_x, more_y = (context - 1) * width / 2, (context - 1) * height / 2
    left, top = max(0, math.floor(x - more_x)), max(0, math.floor(y - more_y))
    right = min(picture.width, max(left + 1, math.ceil(x + width + more_x)))
    bottom = min(picture.height, max(top + 1, math.ceil(y + height + more_y)))
    return {"bytes": encode_jpeg(picture.crop((left, top, right, bottom))), "path": None}


# Chats, for TRL.


def to_chat_messages(dataset: Any, **reading: Unpack[Reading]) -> Any:
    """Make chats for supervised fine-tuning of vision-language models with TRL.

    Columns `images` and `messages`, as TRL's documentation describes under "Dataset formats",
    "Vision datasets": the user's content is the image and the row's prompt, the assistant's the
    captions, one `<region1>: …` a line. The image is the one with the numbered boxes, which the
    prompt speaks of; `image_column` names another.

    >>> from datasets import Dataset
    >>> names = ("region_boxes", "box_status", "region_captions", "prompt", "image_with_bbox")
    >>> list(to_chat_messages(Dataset.from_dict({name: [] for name in names})).features)
    ['images', 'messages']
    """
    from datasets import Image, List, Value

    part = {"type": Value("string"), "text": Value("string")}
    features = {
        "images": List(Image()),
        "messages": List({"role": Value("string"), "content": List(part)}),
    }
    prefix = reading.get("column_prefix", "")
    reading = {"image_column": f"{prefix}image_with_bbox", **reading}
    read = _columns(dataset, reading, f"{prefix}prompt", _image_column(reading))
    return _mapped(dataset, functools.partial(chat_rows, **reading), features, read)


def chat_rows(example: Mapping[str, Any], **reading: Unpack[Reading]) -> list[dict[str, Any]]:
    """Make the chat of one row, see `to_chat_messages`; the image is that of `image_column`.

    >>> from PIL import Image
    >>> row = {"region_boxes": [[0, 0, 8, 8]], "box_status": ["ok"], "region_captions": ["a cat"],
    ...        "prompt": "Describe it.", "image": {"bytes": encode_jpeg(Image.new("RGB", (9, 9)))}}
    >>> [chat] = chat_rows(row)
    >>> chat["messages"][1]["content"]
    [{'type': 'text', 'text': '<region1>: a cat'}]
    """
    shown = _shown(example, reading)
    if shown is None:
        return []
    captions = {region.number: plain_text(region.caption or "") for region in shown.regions}
    prompt = example.get(f"{reading.get('column_prefix', '')}prompt") or ""
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]},
        {"role": "assistant", "content": [{"type": "text", "text": format_regions(captions)}]},
    ]
    return [{"images": [shown.image], "messages": messages}]


# Grounding, for Qwen-VL.


def to_qwen_grounding(
    dataset: Any,
    *,
    family: str = "qwen2.5-vl",
    prompt: str = QWEN_PROMPT,
    pixels: Pixels | None = None,
    **reading: Unpack[Reading],
) -> Any:
    """Make grounding data for Qwen-VL: find the regions and describe them, as JSON.

    Columns `image` and `conversations`, the format of the repository QwenLM/Qwen3-VL,
    `qwen-vl-finetune/README.md` ("Grounding Example"), with a list of `bbox_2d` and `label` as the
    models answer in its cookbook on grounding. `write_jsonl` writes it with image files.

    The frame of `bbox_2d` (xyxy) is that of the `family`, as in `tools/process_bbox.ipynb` there:
    `"qwen2.5-vl"` in pixels of the image as the processor resizes it (see `smart_resize`),
    `"qwen2-vl"` and `"qwen3-vl"` 0 to 1000 of width and height. The size that the processor makes
    of an image depends on its bounds, so for `"qwen2.5-vl"` `pixels` must say those of the
    training (`min_pixels`, `max_pixels`): two numbers, or the name of what sets them, see
    `QWEN_PIXELS`: `"model"`, `"qwen-vl-finetune"`, `"qwen-vl-finetune-trl"`, `"transformers"`.

    >>> to_qwen_grounding([], family="qwen4")
    Traceback (most recent call last):
    hf_regioncap.errors.OptionError: family must be one of
    ('qwen2-vl', 'qwen2.5-vl', 'qwen3-vl'), got 'qwen4'
    """
    from datasets import Image, List, Value

    one_of("family", family, tuple(QWEN_FRAMES))
    turn = {"from": Value("string"), "value": Value("string")}
    bounds = qwen_pixels(pixels) if pixels is not None or _is_resized(family) else None
    rows_of = functools.partial(qwen_rows, family=family, prompt=prompt, pixels=bounds, **reading)
    features = {"image": Image(), "conversations": List(turn)}
    return _mapped(dataset, rows_of, features, _columns(dataset, reading, _image_column(reading)))


def qwen_rows(
    example: Mapping[str, Any],
    *,
    family: str = "qwen2.5-vl",
    prompt: str = QWEN_PROMPT,
    pixels: Pixels | None = None,
    **reading: Unpack[Reading],
) -> list[dict[str, Any]]:
    """Make the grounding row of one row, see `to_qwen_grounding`.

    >>> qwen_rows({"region_boxes": [], "box_status": [], "region_captions": []})
    []
    """
    shown = _shown(example, reading)
    if shown is None or max(shown.size_wh) > _QWEN_RATIO * min(shown.size_wh):
        return []
    found = [
        {
            "bbox_2d": qwen_box(region.xyxy, shown.size_wh, family=family, pixels=pixels),
            "label": plain_text(region.caption or ""),
        }
        for region in shown.regions
    ]
    lines = ",\n".join(f"\t{json.dumps(item, ensure_ascii=False)}" for item in found)
    turns = [
        {"from": "human", "value": f"<image>\n{prompt}"},
        {"from": "gpt", "value": f"[\n{lines}\n]"},
    ]
    return [{"image": shown.image, "conversations": turns}]


def qwen_box(
    xyxy: Sequence[float],
    size_wh: Size,
    *,
    family: str = "qwen2.5-vl",
    pixels: Pixels | None = None,
) -> list[int]:
    """Write a box (xyxy, pixels) in the frame of a Qwen-VL family, see `to_qwen_grounding`.

    >>> qwen_box([64, 48, 320, 240], (640, 480), family="qwen3-vl")
    [100, 100, 500, 500]
    >>> qwen_box([64, 48, 320, 240], (640, 480), family="qwen2.5-vl", pixels="model")
    [64, 48, 322, 238]
    """
    one_of("family", family, tuple(QWEN_FRAMES))
    if _is_resized(family):
        frame = smart_resize(size_wh, pixels=qwen_pixels(pixels))
        last = (frame[0] - 1, frame[1] - 1)
    else:
        frame, last = (1000, 1000), (1000, 1000)
    scaled = [value / size_wh[axis % 2] * frame[axis % 2] for axis, value in enumerate(xyxy)]
    return [max(0, min(round(value), last[axis % 2])) for axis, value in enumerate(scaled)]


def _is_resized(family: str) -> bool:
    return QWEN_FRAMES[family] == "resized"


def qwen_pixels(pixels: Pixels | None) -> tuple[int, int]:
    """Read the bounds of Qwen2.5-VL's processor: two numbers, or a name of `QWEN_PIXELS`.

    >>> qwen_pixels("model"), qwen_pixels([784, 50176])
    ((3136, 12845056), (784, 50176))
    """
    if isinstance(pixels, str):
        return QWEN_PIXELS[one_of("pixels", pixels, tuple(QWEN_PIXELS))]
    match pixels:
        case [int(least), int(most)] if 0 < least <= most:
            return least, most
    raise OptionError(
        "pixels must be the training's (min_pixels, max_pixels), which decide the frame of "
        f"qwen2.5-vl's boxes, or one of {tuple(QWEN_PIXELS)}, got {pixels!r}"
    )


def smart_resize(size_wh: Size, *, pixels: Pixels, factor: int = 28) -> Size:
    """Compute the size to which the processor of Qwen2.5-VL resizes an image.

    Both sides are multiples of `factor`, their product lies within `pixels` (see `qwen_pixels`),
    and the aspect is kept as far as that allows: `smart_resize` of `qwen-vl-utils`,
    `vision_process.py`. ValueError for strips longer than 200 times their width, which Qwen does
    not take.

    >>> [smart_resize(size, pixels="model") for size in ((640, 480), (4000, 3000), (20, 20))]
    [(644, 476), (4004, 2996), (56, 56)]
    >>> smart_resize((4000, 3000), pixels="qwen-vl-finetune")
    (756, 560)
    """
    least, most = qwen_pixels(pixels)
    width, height = size_wh
    if max(size_wh) > _QWEN_RATIO * min(size_wh):
        raise ValueError(f"the longer side must be at most 200 times the shorter, got {size_wh}")
    w, h = (max(factor, round(side / factor) * factor) for side in size_wh)
    if w * h > most:
        beta = math.sqrt(width * height / most)
        w, h = (max(factor, math.floor(side / beta / factor) * factor) for side in size_wh)
    elif w * h < least:
        beta = math.sqrt(least / (width * height))
        w, h = (math.ceil(side * beta / factor) * factor for side in size_wh)
    return w, h


# Location tokens, for Florence-2 and PaliGemma.


def to_florence2(dataset: Any, *, per_region: bool = False, **reading: Unpack[Reading]) -> Any:
    """Make Florence-2 data: columns `image`, `prefix` (the task) and `suffix` (the answer).

    As `processing_florence2.py` of microsoft/Florence-2-large reads and writes it: boxes are four
    tokens `<loc_x1><loc_y1><loc_x2><loc_y2>`, each coordinate floored to one of 1000 bins. One row
    per image for `<DENSE_REGION_CAPTION>`, whose answer is each caption followed by its box; with
    `per_region` one row per region for `<REGION_TO_DESCRIPTION>`, whose question holds the box.

    >>> from datasets import Dataset
    >>> no_rows = {"image": [], "region_boxes": [], "box_status": [], "region_captions": []}
    >>> list(to_florence2(Dataset.from_dict(no_rows)).features)
    ['image', 'prefix', 'suffix']
    """
    rows_of = functools.partial(florence2_rows, per_region=per_region, **reading)
    read = _columns(dataset, reading, _image_column(reading))
    return _mapped(dataset, rows_of, _prefix_suffix_features(), read)


def _prefix_suffix_features() -> dict[str, Any]:
    from datasets import Image, Value

    return {"image": Image(), "prefix": Value("string"), "suffix": Value("string")}


def florence2_rows(
    example: Mapping[str, Any], *, per_region: bool = False, **reading: Unpack[Reading]
) -> list[dict[str, Any]]:
    """Make the Florence-2 rows of one row, see `to_florence2`.

    >>> florence2_rows({"region_boxes": [], "box_status": [], "region_captions": []})
    []
    """
    shown = _shown(example, reading)
    if shown is None:
        return []
    said = [
        (florence2_location(region.xyxy, shown.size_wh), plain_text(region.caption or ""))
        for region in shown.regions
    ]
    if per_region:
        task = "<REGION_TO_DESCRIPTION>"
        return [{"image": shown.image, "prefix": task + loc, "suffix": text} for loc, text in said]
    suffix = "".join(text + location for location, text in said)
    return [{"image": shown.image, "prefix": "<DENSE_REGION_CAPTION>", "suffix": suffix}]


def florence2_location(xyxy: Sequence[float], size_wh: Size) -> str:
    """Write a box (xyxy, pixels) as Florence-2's location tokens: floor, 1000 bins, clamped.

    >>> florence2_location([64, 48, 640, 480], (640, 480))
    '<loc_100><loc_100><loc_999><loc_999>'
    """
    scaled = [value / (size_wh[axis % 2] / 1000) for axis, value in enumerate(xyxy)]
    return "".join(f"<loc_{max(0, min(math.floor(value), 999))}>" for value in scaled)


def to_paligemma(dataset: Any, *, per_region: bool = True, **reading: Unpack[Reading]) -> Any:
    """Make PaliGemma data: columns `image`, `prefix` (the task) and `suffix` (the answer).

    As the PaliGemma report (arXiv 2407.07726, section 3.2.5) describes its pre-training tasks:
    boxes are four tokens `<loc0000>` to `<loc1023>` in the order ymin, xmin, ymax, xmax, binned
    as `big_vision`'s `pp/proj/paligemma/segmentation.py` does. One row per region for
    `caption <ymin><xmin><ymax><xmax>`; without `per_region` one per image in the form of `detect`,
    whose answer is each box followed by its caption, with " ; " between them.

    >>> from datasets import Dataset
    >>> no_rows = {"image": [], "region_boxes": [], "box_status": [], "region_captions": []}
    >>> list(to_paligemma(Dataset.from_dict(no_rows)).features)
    ['image', 'prefix', 'suffix']
    """
    rows_of = functools.partial(paligemma_rows, per_region=per_region, **reading)
    read = _columns(dataset, reading, _image_column(reading))
    return _mapped(dataset, rows_of, _prefix_suffix_features(), read)


def paligemma_rows(
    example: Mapping[str, Any], *, per_region: bool = True, **reading: Unpack[Reading]
) -> list[dict[str, Any]]:
    """Make the PaliGemma rows of one row, see `to_paligemma`.

    >>> paligemma_rows({"region_boxes": [], "box_status": [], "region_captions": []})
    []
    """
    shown = _shown(example, reading)
    if shown is None:
        return []
    said = [
        (paligemma_location(region.xyxy, shown.size_wh), plain_text(region.caption or ""))
        for region in shown.regions
    ]
    if per_region:
        return [
            {"image": shown.image, "prefix": f"caption {location}", "suffix": text}
            for location, text in said
        ]
    listed = " ; ".join(f"{location} {text.replace(';', ',')}" for location, text in said)
    return [{"image": shown.image, "prefix": "detect region", "suffix": listed}]


def paligemma_location(xyxy: Sequence[float], size_wh: Size) -> str:
    """Write a box (xyxy, pixels) as PaliGemma's location tokens: ymin, xmin, ymax, xmax of 1024.

    >>> paligemma_location([64, 48, 640, 480], (640, 480))
    '<loc0102><loc0102><loc1023><loc1023>'
    """
    x1, y1, x2, y2 = (value / size_wh[axis % 2] for axis, value in enumerate(xyxy))
    bins = [max(0, min(round(value * 1023), 1023)) for value in (y1, x1, y2, x2)]
    return "".join(f"<loc{value:04d}>" for value in bins)


# Files: images under `images/`, named by the number of their row and by nothing from the data.


class _File(NamedTuple):
    """An image as a file: its name below the folder, what will stand in it, its upright size."""

    name: str
    data: bytes
    size_wh: Size


def _image_file(value: Any, name: str, image_root: Any) -> _File | None:
    data = read_image_bytes(value, image_root=image_root)
    clean = without_metadata(data) if data is not None else None
    if clean is None:
        return None
    if _is_turned(clean) and (upright := open_picture(clean).image) is not None:
        # Boxes and sizes are those of the upright image, and many readers leave EXIF aside.
        clean = encode_jpeg(upright, quality=95)
    suffix = _SUFFIXES.get(image_format(clean) or "", ".png")
    return _File(f"images/{name}{suffix}", clean, peek_picture(clean).size_wh)


def _is_turned(clean: bytes) -> bool:
    """Whether the EXIF block, of which only the orientation is left, says so."""
    with PIL.Image.open(io.BytesIO(clean)) as source:
        # Asking an image that has no such block would decode it.
        return "exif" in source.info and source.getexif().get(ExifTags.Base.Orientation, 1) != 1


def _row_file(example: Mapping[str, Any], number: int, reading: Reading) -> _File | None:
    value = example.get(_image_column(reading))
    return _image_file(value, f"{number:08d}", reading.get("image_root"))


def _write_file(folder: str | os.PathLike[str], file: _File | None) -> str | None:
    """Write an image below the folder; returns its name there."""
    if file is None:
        return None
    path = Path(folder) / file.name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file.data)
    return file.name


def _examples(dataset: Any, columns: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every row of every split as a dict, undecoded, numbered from 1."""
    wanted, number = set(columns), 0
    for part in named_splits(dataset).values():
        read = [name for name in part.features or () if name in wanted]
        for table in stored_tables(part.select_columns(read), _BATCH):
            for example in table_rows(table):
                number += 1
                yield number, example


def _write_lines(path: Path, records: Iterable[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    return path


def write_images(
    dataset: Any, folder: str | os.PathLike[str], **reading: Unpack[Reading]
) -> list[str | None]:
    """Write the images of a dataset into `folder/images`, without metadata; returns their names.

    One name per row, `images/00000001.jpg` for the first, as `to_coco_captions` and
    `to_visual_genome` number them; None where there is no picture or it may not be read.

    >>> from datasets import Dataset
    >>> write_images(Dataset.from_dict({"image": [None]}), "nowhere")
    [None]
    """
    return [
        _write_file(folder, _row_file(example, number, reading))
        for number, example in _examples(dataset, [_image_column(reading)])
    ]


def write_jsonl(
    dataset: Any,
    folder: str | os.PathLike[str],
    *,
    name: str = "data.jsonl",
    image_root: str | os.PathLike[str] | None = None,
) -> Path:
    """Write an exported dataset as JSON lines; images become files and their paths in the lines.

    Paths are relative to `folder`; the same picture is written once. Returns the path of the file.

    >>> from datasets import Dataset
    >>> path = write_jsonl(Dataset.from_dict({"suffix": ["a cat"]}), getfixture("tmp_path"))
    >>> print(path.read_text(encoding="utf-8"), end="")
    {"suffix": "a cat"}
    """
    written: dict[bytes, str | None] = {}

    def as_paths(value: Any) -> Any:
        if isinstance(value, dict) and set(value) == {"bytes", "path"}:
            file = _image_file(value, f"{len(written) + 1:08d}", image_root)
            digest = hashlib.sha256(file.data if file else b"").digest()
            if digest not in written:
                written[digest] = _write_file(folder, file)
            return written[digest]
        if isinstance(value, dict):
            return {key: as_paths(part) for key, part in value.items()}
        return [as_paths(part) for part in value] if isinstance(value, list) else value

    columns = {name for part in named_splits(dataset).values() for name in part.features or ()}
    examples = _examples(dataset, columns)
    return _write_lines(Path(folder) / name, (as_paths(example) for _, example in examples))


def to_coco_captions(
    dataset: Any,
    *,
    label_column: str | None = None,
    label_names: Labels = None,
    **reading: Unpack[Reading],
) -> dict[str, Any]:
    """Make COCO's annotation file, ready for `json.dump`: object annotations with a `caption` each.

    The data format of cocodataset.org: `images`, `annotations` with `bbox` (xywh, pixels), `area`,
    `iscrowd` and `category_id`, and the `caption` that caption annotations have. Categories are the
    labels, or the one category `region`. Ids start at 1; an image's is its row number, and
    `file_name` is where `write_images` puts it.

    >>> from datasets import Dataset
    >>> no_rows = {"image": [], "region_boxes": [], "box_status": [], "region_captions": []}
    >>> sorted(to_coco_captions(Dataset.from_dict(no_rows)))
    ['annotations', 'categories', 'images', 'info', 'licenses']
    """
    names = _label_names(dataset, label_column, label_names)
    read = _columns(dataset, reading, _image_column(reading), label_column)
    categories: dict[str, int] = {}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, example in _examples(dataset, read):
        file = _row_file(example, number, reading)
        if file is None:
            continue
        width, height = file.size_wh
        images.append({"id": number, "file_name": file.name, "width": width, "height": height})
        for region in regions_of(
            example, label_column=label_column, label_names=names, **_naming(reading)
        ):
            if region.caption:
                kind = categories.setdefault(region.label or "region", len(categories) + 1)
                own = {"id": len(annotations) + 1, "image_id": number, "category_id": kind}
                annotations.append({**own, **_coco_region(region)})
    return {
        "info": {"description": "Region captions", "version": "1.0"},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": kind, "name": name, "supercategory": "region"}
            for name, kind in categories.items()
        ],
    }


def _coco_region(region: Region) -> dict[str, Any]:
    area = region.xywh[2] * region.xywh[3]
    return {"bbox": region.xywh, "area": area, "iscrowd": 0, "caption": region.caption}


def to_visual_genome(dataset: Any, **reading: Unpack[Reading]) -> list[dict[str, Any]]:
    """Make Visual Genome's `region_descriptions.json`, ready for `json.dump`.

    As its "Data Readme" describes: for each image its id and `regions` of `region_id`, `x`, `y`,
    `width`, `height` in whole pixels and `phrase`. Like its files, an image has its id as `id`
    too, and a region that of its image. An image's id is its row number, from 1; `write_images`
    writes the pictures.

    >>> from datasets import Dataset
    >>> rows = {"image": [None], "region_boxes": [[[1.0, 2.0, 8.0, 9.0]]], "box_status": [["ok"]],
    ...         "region_captions": [["a cat"]]}
    >>> to_visual_genome(Dataset.from_dict(rows))[0]["regions"][0]["phrase"]
    'a cat'
    """
    described: list[dict[str, Any]] = []
    last = 0
    for number, example in _examples(dataset, _columns(dataset, reading)):
        regions = [
            {"region_id": last + k, "image_id": number, **_genome_region(region)}
            for k, region in enumerate(_captioned(example, reading), 1)
        ]
        last += len(regions)
        described.append({"id": number, "image_id": number, "regions": regions})
    return described


def _genome_region(region: Region) -> dict[str, Any]:
    x1, y1, x2, y2 = (round(value) for value in region.xyxy)
    size = {"width": max(1, x2 - x1), "height": max(1, y2 - y1)}
    return {"x": x1, "y": y1, **size, "phrase": region.caption}


def write_seed_jsonl(
    dataset: Any,
    folder: str | os.PathLike[str],
    *,
    name: str = "regions.jsonl",
    bbox_column: str | None = "bbox",
    box_format: str = "xywh",
    box_unit: str = "pixel",
    **reading: Unpack[Reading],
) -> Path:
    """Write the output format of DataFlow-MM's image region caption pipeline, its nine fields.

    From its documentation, "Output Data": `image`, `type`, `bbox` (xywh, pixels),
    `normalized_bbox`, `result_file`, `image_with_bbox`, `valid_bboxes_num`, `prompt`, `answer`.
    Paths are relative to `folder`, images lie under `images/`. `bbox` is the user's own where it
    is in that format, else `region_boxes`, as for proposed boxes; `answer` names each region,
    `<region1>: …`, and is null where there is no caption. Pictures that only an earlier file
    of that name lists are removed. Returns the path of the file.

    >>> from datasets import Dataset
    >>> path = write_seed_jsonl(Dataset.from_dict({
    ...     "image": [None], "type": ["without_bbox"], "region_boxes": [[]], "box_status": [[]],
    ...     "region_captions": [[]]}), getfixture("tmp_path"))
    >>> json.loads(path.read_text(encoding="utf-8"))["type"]
    'without_bbox'
    """
    prefix = reading.get("column_prefix", "")
    own = bbox_column if (box_format, box_unit) == ("xywh", "pixel") else None
    seed = ("type", "normalized_bbox", "valid_bboxes_num", "prompt", "image_with_bbox")
    drawn: Reading = {"image_column": f"{prefix}image_with_bbox"}
    roots = [column.split(".")[0] for column in (own, _image_column(reading)) if column]
    read = [*_columns(dataset, reading), *(prefix + field for field in seed), *roots]

    path = Path(folder) / name
    old, written = _listed_images(path), set[str | None]()

    def records() -> Iterator[dict[str, Any]]:
        for number, example in _examples(dataset, read):
            record = seed_record(example, result_file=name, bbox_column=own, **_naming(reading))
            image = _row_file(example, number, reading)
            marked = _image_file(example.get(_image_column(drawn)), f"{number:08d}_bbox_vis", None)
            record["image"] = _write_file(folder, image)
            record["image_with_bbox"] = _write_file(folder, marked)
            written.update((record["image"], record["image_with_bbox"]))
            yield record

    _write_lines(path, records())
    for stale in old - written:
        Path(folder, stale).unlink(missing_ok=True)
    return path


def _listed_images(path: Path) -> set[str]:
    """The pictures that a file of `write_seed_jsonl` lists, if there is one."""
    if not path.is_file():
        return set()
    with path.open(encoding="utf-8", errors="replace") as lines:
        return {name for line in lines for name in _SEED_IMAGE.findall(line)}


def seed_record(
    example: Mapping[str, Any],
    *,
    result_file: str = "regions.jsonl",
    bbox_column: str | None = "bbox",
    column_prefix: str = "",
    caption_column: str | None = None,
) -> dict[str, Any]:
    """Make the record of one row, see `write_seed_jsonl`; the images' names are filled in there.

    >>> record = seed_record({"type": "with_bbox", "bbox": [[196.0, 104.0, 310.0, 495.0]],
    ...     "region_boxes": [[196.0, 104.0, 310.0, 495.0]], "box_status": ["ok"],
    ...     "region_captions": ["shoes"], "valid_bboxes_num": 1})
    >>> record["bbox"], record["answer"]
    ([[196, 104, 310, 495]], '<region1>: shoes')
    """
    kept = ("type", "normalized_bbox", "valid_bboxes_num", "prompt", "region_boxes")
    mine = {name: example.get(column_prefix + name) for name in kept}
    given = read_boxes(_value(example, bbox_column)) if mine["type"] == "with_bbox" else []
    naming = Reading(column_prefix=column_prefix, caption_column=caption_column)
    captions = {region.number: region.caption or "" for region in _captioned(example, naming)}
    return {
        "image": None,
        "type": mine["type"],
        "bbox": [_short_numbers(box) for box in given or mine["region_boxes"] or []],
        "normalized_bbox": mine["normalized_bbox"],
        "result_file": result_file,
        "image_with_bbox": None,
        "valid_bboxes_num": mine["valid_bboxes_num"],
        "prompt": mine["prompt"] and without_local_paths(mine["prompt"]),
        "answer": format_regions(captions) if captions else None,
    }


def _short_numbers(box: Any) -> Any:
    """A box with whole numbers as ints, as people write them in JSON."""
    if not isinstance(box, list | tuple):
        return box
    return [
        int(value) if isinstance(value, float) and value.is_integer() else value for value in box
    ]
