"""The review page: photos, boxes and captions side by side, in one file that needs no server."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from importlib import resources
from itertools import accumulate, chain, cycle, islice
from pathlib import Path
from typing import Any, NamedTuple, TextIO
from urllib.parse import quote

from PIL import Image

from hf_regioncap.boxes import USED
from hf_regioncap.errors import OptionError
from hf_regioncap.images import encode_jpeg, open_picture
from hf_regioncap.paths import safe_name, without_local_paths, without_paths
from hf_regioncap.prompts import label_text
from hf_regioncap.recipe import is_offline, public_recipe
from hf_regioncap.review import (
    caption_column_of,
    finite_box,
    padded,
    region_keys,
    rejected_places,
    require_column,
    undecoded,
)
from hf_regioncap.tables import class_names, walk

#: Okabe and Ito, "Color Universal Design" (2008): told apart with every common colour blindness.
#: The black of the set is a light grey here, to be seen on dark photos. With the ink on top.
PALETTE = (
    ("#e69f00", "#000"),
    ("#56b4e9", "#000"),
    ("#009e73", "#000"),
    ("#f0e442", "#000"),
    ("#0072b2", "#fff"),
    ("#d55e00", "#000"),
    ("#cc79a7", "#000"),
    ("#bdbdbd", "#000"),
)

#: What each status is called on the page, how it is coloured, and what it means.
STATUS_WORDS: Mapping[str, tuple[str, str, str]] = {
    "ok": ("Captioned", "ok", "Every used box has a caption."),
    "ok_partial": ("Partly captioned", "warn", "Some boxes got no caption."),
    "api_error": ("Request failed", "bad", "The endpoint could not be reached or gave an error."),
    "api_refused": ("Refused by the model", "bad", "The model declined to describe this photo."),
    "api_truncated": ("Answer cut off", "bad", "The answer was longer than it was allowed to be."),
    "api_bad_answer": ("Unreadable answer", "bad", "No captions could be read from the answer."),
    "skipped_budget": ("Not asked: budget", "warn", "The budget was spent before this row."),
    "no_boxes": ("No boxes", "calm", "There was nothing to describe."),
    "boxes_invalid": ("No usable box", "calm", "None of the row's boxes can be used."),
    "image_null": ("No image", "calm", "The row has no image."),
    "image_corrupt": ("Damaged image", "calm", "The image could not be decoded."),
    "image_too_large": ("Image too large", "calm", "The image has more pixels than allowed."),
    "image_unsupported": ("Unknown image format", "calm", "This kind of file is not read."),
    "image_missing": ("Image not found", "calm", "There is no file at the image's path."),
    "image_refused": ("Image refused", "calm", "The image's path may not be read, or is a URL."),
    "not_asked": ("Not captioned yet", "calm", "This row has not been captioned yet."),
}

BOX_WORDS: Mapping[str, str] = {
    "ok": "",
    "clipped": "cut at the edge",
    "too_small": "too small",
    "outside": "outside the photo",
    "no_image": "no image",
    "invalid_order": "corners reversed",
    "invalid_value": "not four numbers",
    "over_limit": "beyond the limit",
}

_COLUMNS = (
    "type",
    "image_status",
    "region_boxes",
    "box_status",
    "prompt",
    "answer",
    "region_captions",
    "answer_status",
    "answer_error",
    "usage",
    "caption_reviewed",
    "review_status",
)
_LONGEST_TEXT = 4000
_LABELS_TOLD = 200
_LONGEST_LABEL = 200

Labels = Sequence[str] | Mapping[int, str] | None


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """How rows are read: which columns, which labels, which images."""

    image_column: str = "image"
    label_column: str | None = None
    label_names: Labels = None
    column_prefix: str = ""
    caption_column: str | None = None
    image_root: str | os.PathLike[str] | None = None
    max_pixels: int = 64_000_000
    side: int = 480
    quality: int = 56
    keyed: bool = True


class _Photo(NamedTuple):
    """A thumbnail as base64 JPEG, the upright source's size, and the mean colour."""

    jpeg: str
    size_wh: tuple[int, int]
    colour: str


class _Row(NamedTuple):
    """One row of the page: what is told of it, and its thumbnail."""

    content: dict[str, Any]
    photo: _Photo | None


def write_gallery(
    dataset: Any,
    path: str | os.PathLike[str],
    *,
    image_column: str = "image",
    label_column: str | None = None,
    label_names: Labels = None,
    column_prefix: str = "",
    caption_column: str | None = None,
    title: str | None = None,
    model: str | None = None,
    recipe: Mapping[str, Any] | None = None,
    cost: float | None = None,
    image_root: str | os.PathLike[str] | None = None,
    max_pixels: int = 64_000_000,
    thumbnail_side: int | None = None,
    page_rows: int = 1000,
) -> list[Path]:
    """Write one self-contained HTML page to look through images, boxes and captions, and review.

    `dataset` is a `Dataset`, `DatasetDict`, `IterableDataset` or any iterable of rows as dicts,
    with the columns that `add_region_captions` writes. Columns that are not there yet are told on
    the page. Rows are read one by one, so memory does not grow with their number; images are
    never decoded by `datasets`, and a broken one only shows its reason. The photos become JPEG
    thumbnails without metadata, `thumbnail_side` pixels wide or high (by default 1024 for up to
    100 rows, 720 for up to 300, else 480).

    More than `page_rows` rows go into further files, `name-2.html` and so on, linked to one
    another. Returns the files in order. They load nothing from outside and run no text of the
    data. What a person decides on the page is saved to a file for `apply_review`. Where that was
    applied the page shows `caption_reviewed`, a rejected region without its text;
    `caption_column="region_captions"` shows what the model wrote.

    `model` and `recipe` (a mapping of options) say on the page how the captions were made; for
    the built-in `offline-describer` it says that no model did. `cost` is the whole set's in US
    dollars. `label_column`, `label_names` and `image_root` are as for `add_region_captions`.

    >>> rows = [{"image": Image.new("RGB", (64, 48), "tan"), "region_boxes": [[8, 8, 30, 20]],
    ...          "region_captions": ["a tan patch"], "answer_status": "ok"}]
    >>> [page] = write_gallery(rows, getfixture("tmp_path") / "gallery.html", title="Patches")
    >>> page.name, "a tan patch" in page.read_text(encoding="utf-8")
    ('gallery.html', True)
    """
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise OptionError(f"path must end in .html, got {os.fspath(path)!r}")
    for name, value in (("page_rows", page_rows), ("thumbnail_side", thumbnail_side)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise OptionError(f"{name} must be a whole number of 1 or more, got {value!r}")
    rows, dataset = _as_rows(dataset, image_column)
    side, quality = _thumbnail_plan(rows, thumbnail_side)
    reading = _Reading(
        image_column=image_column,
        label_column=label_column,
        label_names=label_names,
        column_prefix=column_prefix,
        caption_column=caption_column,
        image_root=image_root,
        max_pixels=max_pixels,
        side=side,
        quality=quality,
    )
    about = {
        "title": title or "Region captions",
        "image_column": image_column,
        "cost": cost,
        **_how_made(model, recipe),
    }
    missing: list[str] = []
    pages = _write_pages(_noting(_read_rows(dataset, reading), missing), path, page_rows, about)
    if missing:
        warnings.warn(f"no photo could be shown: {missing[0]}", stacklevel=2)
    return pages


def _noting(rows: Iterator[_Row], missing: list[str]) -> Iterator[_Row]:
    """Pass rows on; `missing` gets a reason where not one of them had a photo that can be read."""
    reasons, shown = [], False
    for row in rows:
        shown = shown or row.photo is not None
        if row.photo is None and row.content["status"] in ("ok", "ok_partial"):
            reasons.append(str(row.content["reason"]))
        yield row
    if not shown:
        missing += reasons[:1]


def _count(dataset: Any) -> int | None:
    if isinstance(dataset, Mapping):
        counts = [_count(split) for split in dataset.values()]
        return None if None in counts else sum(count or 0 for count in counts)
    return len(dataset) if hasattr(dataset, "__len__") else None


def _thumbnail_plan(rows: int | None, side: int | None) -> tuple[int, int]:
    """Choose longer side and JPEG quality, so that a page of any number of rows stays near 40 MB.

    >>> [_thumbnail_plan(rows, None) for rows in (8, 300, 1000, None)]
    [(1024, 80), (720, 66), (480, 56), (480, 56)]
    """
    for most, planned, quality in ((100, 1024, 80), (300, 720, 66)):
        if rows is not None and rows <= most:
            return side or planned, quality
    return side or 480, 56


def _how_made(model: str | None, recipe: Mapping[str, Any] | None) -> dict[str, Any]:
    """Name the model and the recipe's values, as far as others may know them.

    >>> _how_made(None, {"model": "offline", "language": None})
    {'model': 'offline', 'offline': True, 'recipe': [['model', 'offline']]}
    """
    made = public_recipe(recipe)
    name = model or made.get("model")
    told = [
        [key, value if isinstance(value, str) else json.dumps(value)] for key, value in made.items()
    ]
    offline = is_offline({**made, "model": name})
    return {"model": name and str(name), "offline": offline, "recipe": told}


# Rows ---------------------------------------------------------------------------------------


def _read_rows(dataset: Any, reading: _Reading) -> Iterator[_Row]:
    if isinstance(dataset, Mapping):
        for name, split in dataset.items():
            for row in _read_rows(split, reading):
                row.content["split"] = str(name)
                yield row
        return
    examples, reading = _examples(dataset, reading)
    for index, example in enumerate(examples):
        yield _read_row(example, index, reading)


def _examples(dataset: Any, reading: _Reading) -> tuple[Iterable[Any], _Reading]:
    """Open the rows of any kind of dataset without decoding images."""
    if not hasattr(dataset, "features"):
        return dataset, reading
    names = reading.label_names
    if dataset.features is not None:
        require_column("image_column", reading.image_column, list(dataset.features))
        if reading.caption_column:
            require_column("caption_column", reading.caption_column, list(dataset.features))
        if reading.label_column:
            own = {reading.label_column, reading.label_column.split(".")[0]}
            if not own & set(dataset.features):
                require_column("label_column", reading.label_column, list(dataset.features))
        if names is None and reading.label_column:
            names = class_names(dataset.features, reading.label_column)
    return undecoded(dataset, _columns(reading)), replace(reading, label_names=names)


def _columns(reading: _Reading) -> list[str]:
    label = reading.label_column or reading.image_column
    chosen = [reading.caption_column] if reading.caption_column else []
    own = [reading.image_column, label, label.split(".")[0], *chosen]
    return list(dict.fromkeys([*own, *(reading.column_prefix + name for name in _COLUMNS)]))


def _read_row(example: Mapping[str, Any], index: int, reading: _Reading) -> _Row:
    """Turn one example into what the page tells of it."""
    require_column("image_column", reading.image_column, list(example))

    def column(name: str) -> Any:
        return example.get(reading.column_prefix + name)

    stored = example[reading.image_column]
    photo, image_status, reason = _photo(stored, reading)
    status = _text(column("answer_status")) or _early_status(column, image_status)
    content = {
        "row": index,
        "split": None,
        "status": status,
        "reason": without_paths(
            _text(column("answer_error")) or (reason if photo is None else None)
        ),
        "name": _file_name(stored),
        "image": photo and {"w": photo.size_wh[0], "h": photo.size_wh[1], "colour": photo.colour},
        "regions": _regions(example, stored, reading),
        "proposed": column("type") == "without_bbox",
        "boxed": reading.column_prefix + "region_boxes" in example,
        "prompt": _short(_without_local_paths(column("prompt"))),
        "answer": _short(_without_local_paths(column("answer"))),
        "usage": _usage(column("usage")),
    }
    return _Row(content, photo)


def _early_status(column: Any, image_status: str) -> str:
    """Tell what a row without `answer_status` is: refused as an image, or not asked yet."""
    told = _text(column("image_status")) or image_status
    return "not_asked" if told == "ok" else told


def _photo(stored: Any, reading: _Reading) -> tuple[_Photo | None, str, str | None]:
    root = None if reading.image_root is None else Path(reading.image_root)
    picture = open_picture(
        stored, image_root=root, max_pixels=reading.max_pixels, max_side=reading.side
    )
    if picture.image is None:
        return None, picture.status, picture.reason
    mean = picture.image.resize((1, 1), Image.Resampling.BOX).tobytes()
    jpeg = base64.b64encode(encode_jpeg(picture.image, quality=reading.quality)).decode("ascii")
    return _Photo(jpeg, picture.size_wh, f"#{mean.hex()}"), "ok", None


def _regions(example: Mapping[str, Any], stored: Any, reading: _Reading) -> list[dict[str, Any]]:
    """List the row's boxes in input order; the used ones are numbered from 1, as drawn and asked.

    >>> row = {"region_boxes": [[0, 0, 5, 5], None], "box_status": ["ok", "outside"],
    ...        "region_captions": ["a cat", None], "label": [1, 0]}
    >>> reading = _Reading(label_column="label", label_names=["dog", "cat"])
    >>> [(r["number"], r["label"], r["caption"]) for r in _regions(row, None, reading)]
    [(1, 'cat', 'a cat'), (None, 'dog', None)]
    """
    prefix = reading.column_prefix
    boxes = [finite_box(box) for box in padded(example.get(f"{prefix}region_boxes"))]
    column = caption_column_of(example, prefix, reading.caption_column)
    captions = [_text(caption) for caption in padded(example.get(column))]
    rejected = rejected_places(example, column, prefix)
    # What is only shown needs no digest of its image, which a decoded one would be encoded for.
    photo = stored if reading.keyed else None
    keys = region_keys(photo, boxes, captions, image_root=reading.image_root)
    count = len(keys)
    boxes, captions = padded(boxes, count), padded(captions, count)
    labels = padded(_labels(example, reading, count), count)
    statuses = padded(example.get(f"{prefix}box_status"), count)
    number = 0
    regions = []
    for place, (key, box, caption, status, label) in enumerate(
        zip(keys, boxes, captions, statuses, labels, strict=True)
    ):
        used = status in USED if status is not None else box is not None or caption is not None
        number += used
        regions.append(
            {
                "key": key,
                "box": box and [round(value, 2) for value in box],
                "note": "rejected in review"
                if place in rejected
                else BOX_WORDS.get(str(status or "ok"), str(status)),
                "number": number if used else None,
                "label": label,
                "caption": caption,
            }
        )
    return regions


def _labels(example: Mapping[str, Any], reading: _Reading, count: int) -> list[str | None]:
    """Read one label per box from a plain or dotted column, ints by their names.

    >>> reading = _Reading(label_column="objects.category", label_names={7: "cat"})
    >>> _labels({"objects": {"category": [7, 8]}}, reading, 2)
    ['cat', '8']
    >>> _labels({"objects": [{"category": "dog"}, {}]}, reading, 2)
    ['dog', None]
    """
    column = reading.label_column
    if not column:
        return []
    value = walk(example, [column] if column in example else column.split("."))
    given = list(value) if isinstance(value, list | tuple) else [value] * count
    names = reading.label_names
    told = [None if label is None else label_text(label, names) or str(label) for label in given]
    return [label and label[:_LONGEST_LABEL] for label in told]


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _without_local_paths(value: Any) -> Any:
    return without_local_paths(value) if isinstance(value, str) else value


def _short(value: Any) -> str | None:
    """Cut a long text, saying by how much.

    >>> _short("x" * 4002)[-28:]
    'xxxxxx … (2 more characters)'
    """
    text = _text(value)
    if text is None or len(text) <= _LONGEST_TEXT:
        return text
    return f"{text[:_LONGEST_TEXT]} … ({len(text) - _LONGEST_TEXT} more characters)"


def _usage(value: Any) -> list[int] | None:
    if not isinstance(value, Mapping):
        return None
    counts = [value.get("prompt_tokens"), value.get("completion_tokens")]
    known = [count for count in counts if isinstance(count, int)]
    return [count if isinstance(count, int) else 0 for count in counts] if known else None


def _file_name(stored: Any) -> str | None:
    """Name the image's file without what tells of the machine or the address it came from."""
    path = stored.get("path") if isinstance(stored, Mapping) else stored
    return safe_name(path) if isinstance(path, str) else None


# The summary --------------------------------------------------------------------------------


@dataclass
class _Summary:
    """Counts over all rows of all pages, in memory that does not grow with them."""

    rows: int = 0
    photos: int = 0
    captions: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    regions: Counter[int] = field(default_factory=Counter)
    tokens: list[int] = field(default_factory=lambda: [0, 0])
    metered: int = 0
    unboxed: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    def add(self, row: _Row) -> None:
        """Count one row."""
        content = row.content
        used = [region for region in content["regions"] if region["number"]]
        captions = [region["caption"] for region in used if region["caption"] is not None]
        self.rows += 1
        self.photos += row.photo is not None
        self.unboxed += not content["boxed"]
        self.captions += len(captions)
        self.statuses[content["status"]] += 1
        self.labels.update(region["label"] for region in used if region["label"])
        self.lengths.update(map(len, captions))
        self.regions[len(used)] += 1
        if content["usage"]:
            self.metered += 1
            self.tokens = [a + b for a, b in zip(self.tokens, content["usage"], strict=True)]
        for region in content["regions"]:
            self.digest.update(region["key"].encode())
        self.digest.update(b"\n")

    def told(self) -> dict[str, Any]:
        """Give the figures of the page's charts."""
        return {
            "rows": self.rows,
            "photos": self.photos,
            "regions": sum(number * rows for number, rows in self.regions.items()),
            "captions": self.captions,
            "statuses": self.statuses.most_common(),
            "labels": self.labels.most_common(_LABELS_TOLD),
            "lengths": _histogram(self.lengths),
            "length_median": _median(self.lengths),
            "per_image": _histogram(self.regions),
            "tokens": self.tokens if self.metered else None,
            "metered": self.metered,
            "unboxed": self.unboxed,
        }


def _value_at(counts: Counter[int], place: int) -> int:
    """Give the value at a place, from 0, of all counted values in order, without a list of them.

    >>> [_value_at(Counter([7, 7, 3]), place) for place in range(3)]
    [3, 7, 7]
    """
    values = sorted(counts)
    ends = accumulate(counts[value] for value in values)
    return next(value for value, end in zip(values, ends, strict=True) if place < end)


def _median(counts: Counter[int]) -> float | None:
    """Give the median of counted values.

    >>> _median(Counter([5, 1, 2])), _median(Counter([1, 2])), _median(Counter())
    (2.0, 1.5, None)
    """
    total = counts.total()
    if not total:
        return None
    return (_value_at(counts, (total - 1) // 2) + _value_at(counts, total // 2)) / 2


def _histogram(counts: Counter[int], most_bins: int = 20) -> list[list[int]]:
    """Bin whole numbers into `[first, last, how many]`; the last bin takes the long tail.

    It ends with the highest value.

    >>> _histogram(Counter([0, 1, 1, 3]))
    [[0, 0, 1], [1, 1, 2], [2, 2, 0], [3, 3, 1]]
    >>> _histogram(Counter({}))
    []
    """
    if not counts:
        return []
    low, high = min(counts), max(counts)
    most = _value_at(counts, math.ceil(counts.total() * 0.98) - 1)
    common = min(high, max(most, low + most_bins - 1))
    step = _nice_step((common - low + 1) / most_bins)
    low = low // step * step
    bins = [[first, first + step - 1, 0] for first in range(low, common + 1, step)]
    for value, count in counts.items():
        bins[min((value - low) // step, len(bins) - 1)][2] += count
    bins[-1][1] = high
    return bins


def _nice_step(least: float) -> int:
    """Round up to 1, 2, 5, 10, 20, 50 and so on.

    >>> [_nice_step(least) for least in (0.4, 1.2, 7, 101)]
    [1, 2, 10, 200]
    """
    step, factors = 1, cycle((2, 2.5, 2))
    while step < least:
        step = round(step * next(factors))
    return step


# The files ----------------------------------------------------------------------------------


def _write_pages(
    rows: Iterator[_Row], path: Path, page_rows: int, about: dict[str, Any]
) -> list[Path]:
    """Write pages as rows come; what only the last row tells is appended to each at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head, tail = _template(about["title"])
    summary = _Summary()
    pages: list[tuple[Path, Path, int]] = []
    with ExitStack() as unfinished:
        row = next(rows, None)
        while row is not None or not pages:
            name = _page_path(path, len(pages) + 1)
            part = name.with_name(f".{name.name}.part")
            unfinished.callback(part.unlink, missing_ok=True)
            page = chain([row], islice(rows, page_rows - 1)) if row is not None else iter(())
            with _open(part, "w") as file:
                file.write(head)
                pages.append((name, part, _write_rows(file, page, summary)))
            row = next(rows, None)
        meta = _meta(summary, [(name.name, count) for name, _, count in pages], path.stem, about)
        for place, (name, part, _) in enumerate(pages):
            with _open(part, "a") as file:
                file.write(tail.replace("{{meta}}", _json({**meta, "page": place})))
            part.replace(name)
    _remove_further(path, len(pages))
    return [name for name, _, _ in pages]


def _page_path(path: Path, number: int) -> Path:
    return path if number == 1 else path.with_stem(f"{path.stem}-{number}")


def _remove_further(path: Path, last: int) -> None:
    """Remove the pages after the last one that a longer set has left here.

    A page says of which set it is: other files that only have such a name stay.
    """
    ours = f'"stem":{_json(path.stem)},'
    further = _page_path(path, last + 1)
    if further.is_file() and ours in further.read_text(encoding="utf-8", errors="replace"):
        _remove_further(path, last + 1)
        further.unlink()


def _open(path: Path, mode: str) -> TextIO:
    # A lone surrogate in the title must not stop the page; everything from the rows is ASCII.
    return path.open(mode, encoding="utf-8", errors="replace", newline="\n")  # type: ignore[return-value]


def _write_rows(file: TextIO, rows: Iterator[_Row], summary: _Summary) -> int:
    written = 0
    for row in rows:
        summary.add(row)
        file.write(f'<script type="application/json" class="row">{_json(row.content)}</script>\n')
        # Kept apart from the row, and opened by the page only when it comes near the screen.
        jpeg = row.photo.jpeg if row.photo else ""
        file.write(f'<script type="text/plain" class="jpeg">{jpeg}</script>\n')
        written += 1
    return written


def _meta(
    summary: _Summary, pages: Sequence[tuple[str, int]], stem: str, about: dict[str, Any]
) -> dict[str, Any]:
    return {
        **about,
        "stem": stem,
        "digest": summary.digest.hexdigest()[:32],
        "summary": summary.told(),
        "pages": [{"href": quote(name), "rows": count} for name, count in pages],
        "statuses": STATUS_WORDS,
        "colours": len(PALETTE),
    }


def _json(content: object) -> str:
    r"""Encode for a script element: nothing in it can end the element or open a comment.

    >>> print(_json("</script><!-- & \u2028"))
    "\u003c/script\u003e\u003c!-- \u0026 \u2028"
    """
    text = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")


def _template(title: str) -> tuple[str, str]:
    """Give the page before and after its rows, with `{{meta}}` left open in the latter."""
    page = _fill(
        _asset("gallery_page.html"),
        css=_asset("gallery_page.css") + _palette_css(),
        script=_asset("gallery_page.js"),
    )
    policy = _content_security_policy(page)
    head, tail = page.split("{{rows}}")
    return _fill(head, title=html.escape(title), policy=policy), tail


def _fill(template: str, **parts: str) -> str:
    """Fill `{{name}}` places in one pass, so that a part that looks like a place stays as it is.

    >>> _fill("{{a}} {{b}} {{c}}", a="{{b}}", b="x")
    '{{b}} x {{c}}'
    """
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts.get(place[1], place[0]), template)


def _asset(name: str) -> str:
    return resources.files("hf_regioncap").joinpath(name).read_text(encoding="utf-8")


def _palette_css() -> str:
    return "".join(
        f".c{place} {{ --c: {colour}; --on: {ink} }}\n"
        for place, (colour, ink) in enumerate(PALETTE)
    )


def _content_security_policy(page: str) -> str:
    """Allow exactly the page's own scripts and styles, by hash, and pictures in `data:` only."""
    scripts, styles = (
        " ".join(f"'{_sha256(text)}'" for text in re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.S))
        for tag in ("script", "style")
    )
    return (
        f"default-src 'none'; script-src {scripts}; style-src {styles}; img-src data:; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; "
        "trusted-types 'none'"
    )


def _sha256(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


# In a notebook ------------------------------------------------------------------------------


class Shown:
    """What `show` gives: a notebook draws it, `_repr_html_()` is its HTML."""

    def __init__(self, markup: str, rows: int, regions: int) -> None:
        self._markup = markup
        self._words = f"<{rows} rows with {regions} regions, drawn in a notebook>"

    def __repr__(self) -> str:
        return self._words

    def _repr_html_(self) -> str:
        return self._markup


def show(
    rows: Any,
    *,
    image_column: str = "image",
    label_column: str | None = None,
    label_names: Labels = None,
    column_prefix: str = "",
    caption_column: str | None = None,
    image_root: str | os.PathLike[str] | None = None,
    max_rows: int = 10,
    side: int = 640,
) -> Shown:
    """Draw rows in a notebook: each image with its numbered boxes, and the captions beside it.

    `rows` is one row (a dict), a list of rows, a slice like `ds[:3]`, or a dataset, of which the
    first `max_rows` rows are drawn, in thumbnails of `side` pixels. The result holds no script;
    pointing at a box shows its caption and the other way round. Captions are as on the page of
    `write_gallery`: the reviewed ones where there are any.

    >>> row = {"image": Image.new("RGB", (64, 48), "tan"), "region_boxes": [[8, 8, 30, 20]],
    ...        "region_captions": ["<b>a tan patch</b>"]}
    >>> show(row)
    <1 rows with 1 regions, drawn in a notebook>
    >>> "&lt;b&gt;a tan patch" in show(row)._repr_html_()
    True
    """
    reading = _Reading(
        image_column=image_column,
        label_column=label_column,
        label_names=label_names,
        column_prefix=column_prefix,
        caption_column=caption_column,
        image_root=image_root,
        side=side,
        quality=80,
        keyed=False,
    )
    count, examples = _as_rows(rows, image_column)
    read = list(islice(_read_rows(examples, reading), max_rows))
    left = (count or 0) - len(read)
    more = f'<p style="{_QUIET}">… and {left} more rows</p>' if left > 0 else ""
    regions = sum(len(row.content["regions"]) for row in read)
    return Shown("".join(map(_row_html, read)) + more, len(read), regions)


def _as_rows(rows: Any, image_column: str) -> tuple[int | None, Any]:
    """Take one row, a slice of columns, or many rows as many rows.

    >>> _as_rows({"image": None, "n": 1}, "image")
    (1, [{'image': None, 'n': 1}])
    >>> _as_rows({"image": [None, None], "n": [1, 2]}, "image")
    (2, [{'image': None, 'n': 1}, {'image': None, 'n': 2}])
    """
    if isinstance(rows, Mapping) and not any(hasattr(value, "features") for value in rows.values()):
        images = rows.get(image_column)
        if not isinstance(images, list):
            return 1, [rows]
        return len(images), [
            {name: values[place] for name, values in rows.items()} for place in range(len(images))
        ]
    return _count(rows), rows


_QUIET = "margin:2px 0;font-size:12px;opacity:.72"
_CHIP = (
    "flex:none;min-width:20px;height:20px;padding:0 3px;box-sizing:border-box;border-radius:5px;"
    "font:700 12px/20px sans-serif;text-align:center"
)


def _row_html(row: _Row) -> str:
    """Draw one row with inline styles only, so that it survives where a notebook is published."""
    content = row.content
    regions = content["regions"]
    scope = "rc-" + hashlib.sha256(_json(content).encode()).hexdigest()[:10]
    name, _, meaning = STATUS_WORDS.get(content["status"], (content["status"], "", ""))
    reason = content["reason"] or meaning
    notes = [content["name"] or ""]
    if content["status"] != "ok":
        notes.append(f"{name}: {reason}")
    note = " · ".join(html.escape(part) for part in notes if part)
    captions = "".join(_caption_html(region, place) for place, region in enumerate(regions))
    return (
        f'<div class="{scope}" style="display:flex;flex-wrap:wrap;gap:8px 20px;margin:8px 0 24px">'
        f"<style>{_ties(scope, regions)}</style>{_photo_html(row)}"
        f'<div style="flex:1 1 260px;min-width:0;max-width:640px">'
        f'<p style="{_QUIET}">{note}</p>'
        f'<ol style="list-style:none;margin:0;padding:0">{captions}</ol></div></div>'
    )


def _photo_html(row: _Row) -> str:
    if row.photo is None:
        return ""
    width, height = row.photo.size_wh
    placed = [(k, region) for k, region in enumerate(row.content["regions"]) if region["box"]]
    # Large boxes first, so that a small one can be pointed at; the numbers on top of all lines.
    placed.sort(key=lambda each: -each[1]["box"][2] * each[1]["box"][3])
    unit = max(width, height) / 640
    shapes = [_box_svg(region, place, unit) for place, region in placed]
    tags = [_tag_svg(region, place, unit) for place, region in placed if region["number"]]
    shown = min(560, round(460 * width / height))
    return (
        f'<div style="flex:0 1 {shown}px;min-width:min(100%,200px)">'
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="photo with its boxes" '
        f'style="display:block;width:100%;border-radius:6px">'
        f'<image width="{width}" height="{height}" preserveAspectRatio="none" '
        f'href="data:image/jpeg;base64,{row.photo.jpeg}"/>{"".join(shapes + tags)}</svg></div>'
    )


def _box_svg(region: Mapping[str, Any], place: int, unit: float) -> str:
    x, y, width, height = region["box"]
    shape = f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="transparent" '
    if not region["number"]:
        stroke = f'stroke-width="{unit:.2f}" stroke-dasharray="{4 * unit:.2f}"'
        return f'{shape}stroke="#ccc" {stroke}/>'
    colour, _ = _colour(region["number"])
    return (
        f'<g class="b{place}">{shape}stroke="#000" stroke-opacity=".5" '
        f'stroke-width="{4.5 * unit:.2f}"/>'
        f'{shape}stroke="{colour}" stroke-width="{2.5 * unit:.2f}"/></g>'
    )


def _tag_svg(region: Mapping[str, Any], place: int, unit: float) -> str:
    number = region["number"]
    x, y, *_ = region["box"]
    colour, ink = _colour(number)
    width, height = (9 + 9 * len(str(number))) * unit, 18 * unit
    return (
        f'<g class="b{place}"><rect x="{x}" y="{y}" width="{width:.2f}" height="{height:.2f}" '
        f'fill="{colour}"/><text x="{x + width / 2:.2f}" y="{y + 14 * unit:.2f}" fill="{ink}" '
        f'text-anchor="middle" font-family="sans-serif" font-weight="700" '
        f'font-size="{14 * unit:.2f}">{number}</text></g>'
    )


def _colour(number: int) -> tuple[str, str]:
    return PALETTE[(number - 1) % len(PALETTE)]


def _caption_html(region: Mapping[str, Any], place: int) -> str:
    number, caption = region["number"], region["caption"]
    colour, ink = _colour(number) if number else ("#bdbdbd", "#000")
    words = [part for part in (region["label"], region["note"]) if part]
    lines = [f'<div style="{_QUIET}">{html.escape(" · ".join(words))}</div>'] if words else []
    if caption is not None:
        lines.append(f'<div dir="auto">{html.escape(caption)}</div>')
    elif number:
        lines.append(f'<div style="{_QUIET}"><i>no caption</i></div>')
    return (
        f'<li class="k{place}" style="display:flex;gap:8px;margin:0;padding:5px 6px;'
        f'border-radius:6px;text-align:start;overflow-wrap:anywhere">'
        f'<b style="{_CHIP};background:{colour};color:{ink}">{number or "–"}</b>'
        f'<div style="flex:1;min-width:0">{"".join(lines)}</div></li>'
    )


def _ties(scope: str, regions: Sequence[Mapping[str, Any]]) -> str:
    """Tie each box to its caption both ways, without a script."""
    return "".join(
        f".{scope}:has(.b{place}:hover) .k{place},.{scope} .k{place}:hover"
        f"{{background:color-mix(in srgb,{_colour(region['number'])[0]} 24%,"
        f"transparent)}}.{scope}:has(.k{place}:hover) g:not(.b{place}){{opacity:.15}}"
        for place, region in enumerate(regions)
        if region["number"]
    )
