"""Decisions made on the review page, from its file into columns."""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from hf_regioncap.errors import OptionError
from hf_regioncap.images import read_image_bytes
from hf_regioncap.metadata import without_metadata

if TYPE_CHECKING:
    from datasets import Dataset

FORMAT = "hf_regioncap review"
VERSION = 1
STATUSES = ("accepted", "edited", "rejected")

File = str | os.PathLike[str]
Data = TypeVar("Data")  # a Dataset or a DatasetDict: what goes in comes out


class Decision(NamedTuple):
    """What a person decided about one caption; `row`, `box` and `caption` only help a reader."""

    status: str
    text: str | None = None
    row: int | None = None
    box: int | None = None
    caption: str | None = None


@dataclass(frozen=True)
class Review:
    """The decisions of one or more review files, by the digest of what they are about."""

    decisions: dict[str, Decision]
    image_column: str = "image"
    used: set[str] = field(default_factory=set)


def region_keys(
    image: Any,
    boxes: Any,
    captions: Any,
    *,
    image_root: File | None = None,
) -> list[str]:
    """Digest each region's content: the image without metadata, the box in pixels, the caption.

    One key per box. A row keeps its keys when it is moved, copied, published or loaded again; a
    region gets another key when its photo, its box or its caption changes.

    >>> region_keys({"bytes": b"photo", "path": None}, [[1, 2, 30, 40], None], ["a cat", None])
    ['fcdfb4dff1758b19680f4ca7f1c10d86', 'f574fcb89745adcb40d12f699a53714d']
    >>> region_keys(b"photo", [[1, 2, 30, 40]], ["a cat"])
    ['fcdfb4dff1758b19680f4ca7f1c10d86']
    >>> region_keys(None, None, None)
    []
    """
    photo = _image_digest(image, image_root)
    count = max(len(padded(boxes)), len(padded(captions)))
    return [
        _digest([photo, _canonical_box(box), None if caption is None else str(caption)])
        for box, caption in zip(padded(boxes, count), padded(captions, count), strict=True)
    ]


def padded(values: Any, count: int | None = None) -> list[Any]:
    """Give a list of values as a list, of `count` of them: null where it is missing or shorter.

    >>> padded(["a"], 2), padded(None, 1), padded(("a", "b"))
    (['a', None], [None], ['a', 'b'])
    """
    given = [] if values is None else list(values)
    return given if count is None else given[:count] + [None] * (count - len(given))


def _image_digest(image: Any, image_root: File | None) -> str | None:
    root = None if image_root is None else Path(image_root)
    data = read_image_bytes(image, image_root=root)
    if data is None and image is not None and not isinstance(image, dict | str | Path):
        from datasets import Image

        # A decoded picture counts as the bytes that `datasets` would store for it.
        data = read_image_bytes(Image().encode_example(image), image_root=root)
    if data is None:
        return None
    # Publishing takes the metadata out of photos, and their keys must not change by it.
    return hashlib.sha256(without_metadata(data) or data).hexdigest()


def finite_box(box: Any) -> list[float] | None:
    """Read a box as four finite numbers, or None where it is anything else.

    >>> finite_box((1, 2.5, 30, 40)), finite_box([1, 2, None, 4]), finite_box("box")
    ([1.0, 2.5, 30.0, 40.0], None, None)
    """
    try:
        numbers = [float(value) for value in box]
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == 4 and all(map(math.isfinite, numbers)) else None


def _canonical_box(box: Any) -> list[str] | None:
    """Hundredths of a pixel, so that a trip through JSON or float32 keeps the digest."""
    numbers = finite_box(box)
    if numbers is None:
        return None
    return [f"{round(number, 2) + 0.0:.2f}" for number in numbers]


def _digest(content: object) -> str:
    text = json.dumps(content, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def caption_column_of(there: Collection[str], prefix: str = "", chosen: str | None = None) -> str:
    """Name the column to take captions from: the reviewed one, where a review was applied.

    >>> caption_column_of(["region_captions"]), caption_column_of(["caption_reviewed"])
    ('region_captions', 'caption_reviewed')
    """
    reviewed = f"{prefix}caption_reviewed"
    return chosen or (reviewed if reviewed in there else f"{prefix}region_captions")


def rejected_places(example: Mapping[str, Any], column: str, prefix: str = "") -> set[int]:
    """List which boxes of a row a review has rejected, where the reviewed captions are taken.

    >>> row = {"caption_reviewed": ["a cat", None], "review_status": ["accepted", "rejected"]}
    >>> rejected_places(row, "caption_reviewed"), rejected_places(row, "region_captions")
    ({1}, set())
    """
    if column != f"{prefix}caption_reviewed":
        return set()
    statuses = padded(example.get(f"{prefix}review_status"))
    return {place for place, status in enumerate(statuses) if status == "rejected"}


def apply_review(
    dataset: Data,
    file: File | Sequence[File],
    *,
    image_column: str | None = None,
    image_root: File | None = None,
    column_prefix: str = "",
) -> Data:
    """Add what was decided on the review page as the columns `review_status`, `caption_reviewed`.

    `file` is what the page's "Save review" wrote, or several such files (of several pages or
    people; where two decide the same caption, the last one counts, with a warning). Both columns
    have one entry per box, in line with `region_boxes`. `review_status` is `"accepted"`,
    `"edited"`, `"rejected"`, or null where nobody decided. `caption_reviewed` is the text after
    review: the edited text, null where rejected, else the caption as it was. No other column
    changes. What reads captions afterwards (`explode_regions`, the exports, the page, the card)
    takes `caption_reviewed`, and `region_captions` where `caption_column` says so.

    A decision is matched by its content (image bytes, box and caption), never by its place: rows
    may have been shuffled, filtered, added or doubled since, and rows that are the same get the
    same decision. Decisions whose photo, box or caption is no longer there are left out, with a
    warning that names them; if none is there, an `OptionError` says so. `image_column` is read
    from the file where it is not given.

    >>> from datasets import Dataset
    >>> rows = {"image": [b"one", b"two"], "region_boxes": [[[0, 0, 9, 9]], [[1, 1, 5, 5]]],
    ...         "region_captions": [["a cat"], ["a dgo"]]}
    >>> [key] = region_keys(b"two", [[1, 1, 5, 5]], ["a dgo"])
    >>> saved = {"format": "hf_regioncap review", "version": 1,
    ...          "regions": [{"region": key, "status": "edited", "text": "a dog"}]}
    >>> file = getfixture("tmp_path") / "gallery.review.json"
    >>> _ = file.write_text(json.dumps(saved))
    >>> reviewed = apply_review(Dataset.from_dict(rows), file)
    >>> list(reviewed["caption_reviewed"]), list(reviewed["review_status"])
    ([['a cat'], ['a dog']], [[None], ['edited']])
    """
    from datasets import Dataset, DatasetDict

    if not isinstance(dataset, Dataset | DatasetDict):
        raise OptionError(
            f"dataset must be a Dataset or a DatasetDict, got a {type(dataset).__name__}"
        )
    review = read_review(file)
    image_column = image_column or review.image_column
    splits: dict[str, Any] = dict(dataset) if isinstance(dataset, DatasetDict) else {"": dataset}
    done: Any = {
        name: _reviewed(split, review, image_column, image_root, column_prefix)
        for name, split in splits.items()
    }
    _report_unmatched(review)
    answer: Data = DatasetDict(done) if isinstance(dataset, DatasetDict) else done[""]
    return answer


def read_review(file: File | Sequence[File]) -> Review:
    """Read the review page's file, or several, into decisions by region.

    Raises `OptionError` for a file that is not one, or that was damaged.
    """
    files = [file] if isinstance(file, str | os.PathLike) else list(file)
    decisions: dict[str, Decision] = {}
    columns: list[str] = []
    changed = 0
    for name in files:
        content = _load(name)
        columns.append(str(content.get("image_column") or "image"))
        for key, decision in _decisions(content, name):
            before = decisions.get(key)
            changed += before is not None and before[:2] != decision[:2]
            decisions[key] = decision
    if changed:
        warnings.warn(
            f"the review files decide {changed} captions differently: the last file counts",
            stacklevel=3,
        )
    return Review(decisions, columns[-1] if columns else "image")


def _load(name: File) -> Mapping[str, Any]:
    try:
        content = json.loads(Path(name).read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"file {os.fspath(name)!r} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise OptionError(f"{os.fspath(name)} is not a review file: {error}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise OptionError(
            f"{os.fspath(name)} is not a review file: save one with the button of the page "
            f"that write_gallery makes"
        )
    if content.get("version") != VERSION:
        raise OptionError(
            f"{os.fspath(name)} is a review file of version {content.get('version')!r}, and this "
            f"library reads version {VERSION}"
        )
    return content


def _decisions(content: Mapping[str, Any], name: File) -> Iterator[tuple[str, Decision]]:
    entries = content.get("regions")
    for place, entry in enumerate(entries if isinstance(entries, list) else [None]):
        fields = entry if isinstance(entry, dict) else {}
        key, status, text = (fields.get(part) for part in ("region", "status", "text"))
        written = isinstance(text, str) if status == "edited" else True
        if not isinstance(key, str) or status not in STATUSES or not written:
            raise OptionError(f"{os.fspath(name)} is damaged: entry {place} of 'regions'")
        row, box, caption = (fields.get(part) for part in ("row", "box", "caption"))
        new = _storable(text) if status == "edited" and isinstance(text, str) else None
        yield key, Decision(str(status), new, row, box, caption)


def _storable(text: str) -> str:
    """Replace lone surrogates, which JSON can carry and Arrow cannot."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _reviewed(
    dataset: Dataset, review: Review, image_column: str, image_root: File | None, prefix: str
) -> Dataset:
    from datasets import Dataset as NewDataset
    from datasets import Features, List, Value, concatenate_datasets

    boxes_column, captions_column = f"{prefix}region_boxes", f"{prefix}region_captions"
    _check_columns(dataset, image_column, boxes_column, captions_column, prefix)
    names = [f"{prefix}caption_reviewed", f"{prefix}review_status"]
    new: dict[str, list[list[str | None]]] = {name: [] for name in names}
    for row in undecoded(dataset, [image_column, boxes_column, captions_column]):
        boxes, captions = row.get(boxes_column), row.get(captions_column)
        keys = region_keys(row[image_column], boxes, captions, image_root=image_root)
        texts, statuses = _apply(keys, padded(captions, len(keys)), review)
        new[names[0]].append(texts)
        new[names[1]].append(statuses)
    features = Features(dict.fromkeys(names, List(Value("string"))))
    columns = NewDataset.from_dict(new, features=features)
    if not len(dataset):
        # concatenate_datasets leaves empty datasets, and with them their columns, away.
        empty = {**{name: [] for name in dataset.column_names}, **new}
        return NewDataset.from_dict(empty, features=Features({**dataset.features, **features}))
    joined = concatenate_datasets([dataset.with_format(None), columns], axis=1)
    return _formatted_like(joined, dataset, names)


def _formatted_like(joined: Dataset, dataset: Dataset, names: list[str]) -> Dataset:
    """Keep the user's output format, which joining resets; the new columns are part of it."""
    given = dataset.format
    if given["type"] is None and given["columns"] == dataset.column_names:
        return joined
    return joined.with_format(
        given["type"], columns=[*given["columns"], *names], **given["format_kwargs"]
    )


def _apply(
    keys: list[str], captions: list[Any], review: Review
) -> tuple[list[str | None], list[str | None]]:
    texts: list[str | None] = []
    statuses: list[str | None] = []
    for key, caption in zip(keys, captions, strict=True):
        decision = review.decisions.get(key)
        if decision is not None:
            review.used.add(key)
        statuses.append(decision.status if decision else None)
        texts.append(_text_after(decision, caption))
    return texts, statuses


def _text_after(decision: Decision | None, caption: str | None) -> str | None:
    """Say what the caption is after review.

    >>> [_text_after(Decision(status, "new"), "old") for status in STATUSES]
    ['old', 'new', None]
    >>> _text_after(None, "old")
    'old'
    """
    if decision is None or decision.status == "accepted":
        return caption
    return decision.text if decision.status == "edited" else None


def _check_columns(dataset: Dataset, image: str, boxes: str, captions: str, prefix: str) -> None:
    there = dataset.column_names
    require_column("image_column", image, there)
    require_column("column_prefix", boxes, there)
    if captions not in there:
        raise OptionError(f"no column {captions!r}: captions that were reviewed must be there")
    new = (f"{prefix}caption_reviewed", f"{prefix}review_status")
    taken = [name for name in new if name in there]
    if taken:
        raise OptionError(
            f"the dataset already has {taken}, and nothing is overwritten: apply all review files "
            f"at once, as a list, to the dataset without them. What was decided on a page that "
            f"shows {new[0]!r} is applied to a dataset in which that column is {captions!r}"
        )


def require_column(argument: str, name: str, there: Sequence[str]) -> None:
    """Raise where a column is not there, with the argument that names another.

    >>> require_column("image_column", "photo", ["image"])
    Traceback (most recent call last):
    hf_regioncap.errors.OptionError: no column 'photo'; the dataset has ['image']:
    pass image_column=
    """
    if name not in there:
        raise OptionError(f"no column {name!r}; the dataset has {there}: pass {argument}=")


def _report_unmatched(review: Review) -> None:
    missing = [key for key in review.decisions if key not in review.used]
    if not missing:
        return
    total = len(review.decisions)
    if len(missing) == total:
        raise OptionError(
            f"none of the {total} reviewed captions is in this dataset: it must hold the images, "
            f"boxes and captions of which the page was made (image_column and column_prefix too)"
        )
    told = "; ".join(_words(review.decisions[key]) for key in missing[:5])
    more = f"; and {len(missing) - 5} more" if len(missing) > 5 else ""
    warnings.warn(
        f"{len(missing)} of {total} reviewed captions are not in this dataset and were left out, "
        f"because their photo, box or caption has changed since the page was made: {told}{more}",
        stacklevel=3,
    )


def _words(decision: Decision) -> str:
    """Name a decision for a person.

    >>> _words(Decision("edited", "a dog", row=3, box=0, caption="a dgo"))
    "edited 'a dgo' (then row 3, box 0)"
    """
    caption = "a missing caption" if decision.caption is None else repr(decision.caption[:60])
    place = f" (then row {decision.row}, box {decision.box})" if decision.row is not None else ""
    return f"{decision.status} {caption}{place}"


def undecoded(dataset: Any, columns: Sequence[str]) -> Any:
    """Select columns of a `datasets` object so that no image is ever decoded by it.

    One corrupt image would otherwise raise, for its row and every other.
    """
    from datasets import Image

    features = dataset.features
    if features is None:  # a stream that a function has made: it gives what it gives
        return dataset
    plain = dataset.with_format(None).select_columns([c for c in columns if c in features])
    for name in plain.column_names:
        if isinstance(features[name], Image):
            plain = plain.cast_column(name, Image(decode=False))
    return plain
