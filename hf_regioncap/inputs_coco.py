"""COCO's JSON, as the data set's own files have it and as other tools write it.

Among them LVIS (no `file_name`), panoptic (`segments_info`), CVAT, Label Studio, Roboflow,
FiftyOne, X-AnyLabeling. What cannot be read as it stands is told, and never passed over: a box of
an annotation that cannot be read is null, so that no others are proposed in its place.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from hf_regioncap.errors import OptionError
from hf_regioncap.images import peek_picture
from hf_regioncap.inputs_fields import (
    Tell,
    clean_box,
    image_at,
    input_features,
    number,
    read_json,
    read_lines,
    typed,
)
from hf_regioncap.inputs_masks import segmentation_box

if TYPE_CHECKING:
    from datasets import Dataset

#: Where exporters write which file an image is: COCO, LVIS, COCO Annotator.
_FILE_NAMES = ("file_name", "coco_url", "path", "filename", "url")

Box = list[Any] | None


@dataclass
class _Image:
    """An entry of `images`, and what the annotations say of it."""

    entry: Mapping[str, Any]
    name: str | None
    file: str | None = None
    boxes: list[Box] = field(default_factory=list)
    labels: list[str | None] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)


def load_coco(
    path: str | os.PathLike[str],
    image_root: str | os.PathLike[str] | None = None,
    *,
    limit: int | None = None,
    tell: Tell = warnings.warn,
) -> tuple[Dataset, str]:
    """Load COCO's JSON: `image`, `image_id`, `bbox` (xywh pixels) and `category` per image.

    The format is that of the COCO data set, "Data format", object detection, panoptic or captions
    (which come as `captions`). `image_root` is the folder of the images' `file_name`s. Boxes of an
    image whose file has another size than the JSON says are scaled to the file's. `tell` takes a
    sentence about each thing that is not as it should be.
    """
    name = os.fspath(path)
    if image_root is None:
        raise OptionError(f"image_root: {name!r} is COCO's JSON; pass the folder of its images")
    root = Path(image_root).resolve()
    if not root.is_dir():
        raise OptionError(f"image_root: there is no folder {os.fspath(image_root)!r}")
    entries, annotations, categories = _parts(Path(path))
    images = _images(name, entries, annotations, tell)
    _annotate(name, images, annotations, categories, tell)
    found = list(images.values())[:limit]
    _find_files(found, root, tell)
    _fit_to_files(found, root, tell)
    return _dataset(found, root), str(root)


def _parts(path: Path) -> tuple[list[Any], list[Any], list[Any]]:
    """The images, annotations and categories of a file."""
    what = f"INPUT {str(path)!r}"
    not_coco = OptionError(
        f"{what} is not COCO's JSON (an object with 'images' and 'annotations'): for one row a "
        "line name it .jsonl; from another tool, export in COCO's format"
    )
    try:
        data = read_json("".join(read_lines(path)), what)
    except OptionError as error:
        raise (not_coco if "not JSON" in str(error) else error) from None
    if not isinstance(data, dict) or not isinstance(data.get("images"), list):
        raise not_coco
    parts = [data.get(name) or [] for name in ("images", "annotations", "categories")]
    if not all(isinstance(part, list) for part in parts):
        raise not_coco
    if not parts[0]:
        raise OptionError(f"{what} lists no images")
    if not all(isinstance(entry, dict) for entry in parts[0]):
        raise OptionError(f"{what}: 'images' must hold an object for each image")
    return parts[0], parts[1], parts[2]


def _key(value: Any) -> str | None:
    """An id as it is compared: 7, 7.0 and "7" are one.

    >>> [_key(value) for value in (7, 7.0, " 7", "a.jpg", None, [1])]
    ['7', '7', '7', 'a.jpg', None, '[1]']
    """
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value.strip() if isinstance(value, str) else json.dumps(value)


def _images(
    name: str, entries: Sequence[Any], annotations: Sequence[Any], tell: Tell
) -> dict[Any, _Image]:
    """The images by id; those without one by their place."""
    images: dict[Any, _Image] = {}
    twice = 0
    used = {_key(entry.get("image_id")) for entry in annotations if isinstance(entry, dict)}
    for place, entry in enumerate(entries):
        image = _Image(entry, _file_name(entry))
        key = _key(entry.get("id"))
        before = images.get(key) if key is not None else None
        if before is not None and before.name == image.name:
            twice += 1
            continue
        if before is not None and key in used:
            raise OptionError(
                f"INPUT {name!r}: images {before.name!r} and {image.name!r} have the same id "
                f"{entry.get('id')!r}, so that it cannot be told which of them is annotated"
            )
        images[place if key is None or before is not None else key] = image
    if twice:
        tell(f"{twice} of {len(entries)} images are listed twice: read once")
    return images


def _file_name(entry: Mapping[str, Any]) -> str | None:
    names = (entry.get(name) for name in _FILE_NAMES)
    return next((name for name in names if isinstance(name, str) and name), None)


# Annotations


def _annotate(
    name: str,
    images: dict[Any, _Image],
    annotations: Sequence[Any],
    categories: Sequence[Any],
    tell: Tell,
) -> None:
    """Give each image its boxes, labels and captions."""
    names = _category_names(categories, tell)
    lost: list[Any] = []
    unboxed: list[Any] = []
    unnamed: list[Any] = []
    masked = regions = 0
    for annotation in annotations:
        entry = annotation if isinstance(annotation, dict) else {}
        image = images.get(_key(entry.get("image_id")))
        if image is None:
            lost.append(entry.get("image_id", annotation))
            continue
        if _is_caption(entry):
            image.captions.append(str(entry["caption"]))
            continue
        for region in _regions(entry):
            box, from_mask = _box(region)
            label = names.get(_key(region.get("category_id")), region.get("category_name"))
            image.boxes.append(box)
            image.labels.append(None if label is None else str(label))
            regions, masked = regions + 1, masked + from_mask
            unboxed += [region.get("id")] if box is None else []
            unnamed += [region["category_id"]] if label is None and "category_id" in region else []
    _tell_annotations(name, images, len(annotations), lost, tell)
    if unboxed and len(unboxed) == regions:
        raise OptionError(f"INPUT {name!r}: none of its {regions} annotations has a box or a mask")
    for count, words in (
        (len(unboxed), f"have no box that can be read (the first has id {_first(unboxed)}): such "
        "a box has the status invalid_value"),
        (len(unnamed), f"have a category_id that is not in 'categories' ({_first(unnamed)}): "
        "they have no label"),
        (masked, "have no box: that of their mask is taken"),
    ):  # fmt: skip
        if count:
            tell(f"{count} of {regions} annotations {words}")


def _tell_annotations(
    name: str, images: Mapping[Any, _Image], count: int, lost: Sequence[Any], tell: Tell
) -> None:
    if not lost:
        return
    ids = [image.entry.get("id") for image in images.values()]
    words = (
        f"annotations are of no image in the list (image_id {_first(lost)}; the images have ids "
        f"like {_first(ids)})"
    )
    if len(lost) == count:
        raise OptionError(f"INPUT {name!r}: all {count} {words}")
    tell(f"{len(lost)} of {count} {words}: they are left out")


def _first(values: Sequence[Any]) -> str:
    return repr(values[0])[:60] if values else "none"


def _category_names(categories: Sequence[Any], tell: Tell) -> dict[str | None, Any]:
    names: dict[str | None, Any] = {}
    for entry in categories:
        if not isinstance(entry, dict) or _key(entry.get("id")) is None:
            tell(f"'categories' holds {_first([entry])}, which has no id: it is left out")
            continue
        key, label = _key(entry["id"]), entry.get("name")
        if names.get(key, label) != label:
            tell(f"categories {names[key]!r} and {label!r} have the same id {entry['id']!r}")
        names[key] = label
    return names


def _is_caption(entry: Mapping[str, Any]) -> bool:
    """Whether an annotation is of the image as a whole, as those of COCO's captions are."""
    places = ("bbox", "segmentation", "segments_info", "keypoints")
    return isinstance(entry.get("caption"), str) and not any(entry.get(name) for name in places)


def _regions(entry: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The regions of an annotation: itself, or the segments of a panoptic one."""
    segments = entry.get("segments_info")
    if isinstance(segments, list):
        yield from (segment for segment in segments if isinstance(segment, dict))
    else:
        yield entry


def _box(region: Mapping[str, Any]) -> tuple[Box, bool]:
    """A region's box, and whether it is that of its mask; None where it has neither."""
    box = clean_box(region.get("bbox"))
    if box and len(box) == 4 and None not in box:
        return box, False
    around = segmentation_box(region.get("segmentation"))
    return around, around is not None


# Files


def _find_files(images: Sequence[_Image], root: Path, tell: Tell) -> None:
    """Look for each image under the root, by its name as it stands and by what people mean."""
    named: dict[str, set[str]] = {}
    for image in images:
        image.file = next((end for end in _meant(image.name or "") if _is_in(root, end)), None)
        if image.file is not None:
            named.setdefault(image.file, set()).add(image.name or "")
    shortened = [image for image in images if image.file not in (None, _slashed(image.name or ""))]
    for image in [each for each in shortened if len(named[each.file or ""]) > 1]:
        image.file = None  # the end of several names stands for none of them
        shortened.remove(image)
    if shortened:
        first = shortened[0]
        tell(
            f"{len(shortened)} of {len(images)} images are found under image_root by the end of "
            f"their name only (the first: {first.name!r} as {first.file!r})"
        )
    nameless = sum(image.name is None for image in images)
    missing = [image.name for image in images if image.file is None and image.name is not None]
    if images and nameless == len(images):
        raise OptionError(f"none of the {nameless} images in the JSON has a file_name")
    if images and len(missing) + nameless == len(images):
        raise OptionError(
            f"none of the {len(images)} images is under image_root={str(root)!r} (the first: "
            f"{missing[0]!r}){_elsewhere(missing[0], root)}"
        )
    if nameless:
        tell(f"{nameless} of {len(images)} images have no file_name")
    if missing:
        first_name = f"(the first: {missing[0]!r})"
        tell(f"{len(missing)} of {len(images)} images are not under image_root {first_name}")


def _is_in(root: Path, name: str) -> bool:
    path = os.path.normpath(root / name)
    return path.startswith(f"{root}{os.sep}") and Path(path).is_file()


def _slashed(name: str) -> str:
    """A name with the slashes of this machine: Label Studio on Windows writes back slashes."""
    return name.replace("\\", "/")


def _meant(name: str) -> Iterator[str]:
    """The names under which a file may lie below the root: as it stands first, then its ends.

    >>> list(_meant("images\\\\a.jpg")), list(_meant("http://host/val2017/7.jpg?x=1"))
    (['images\\\\a.jpg', 'images/a.jpg', 'a.jpg'], ['val2017/7.jpg', '7.jpg'])
    >>> list(_meant("/home/ada/a.jpg"))
    ['/home/ada/a.jpg', 'home/ada/a.jpg', 'ada/a.jpg', 'a.jpg']
    """
    if not name or "\0" in name:
        return
    if "://" in name:
        path = unquote(urlsplit(name).path)
    else:
        path = _slashed(name)
        yield from dict.fromkeys((name, path))
    parts = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
    for start in range(len(parts)):
        end = "/".join(parts[start:])
        if end != path or "://" in name:
            yield end


def _elsewhere(name: str, root: Path) -> str:
    """Where below the root a file of this name lies, if it does."""
    bare = PurePosixPath(_slashed(name)).name
    for folder, _, files in os.walk(root):
        if bare in files:
            return f": pass image_root={folder!r}"
    return ""


def _fit_to_files(images: Sequence[_Image], root: Path, tell: Tell) -> None:
    """Scale boxes where the file has another size than the JSON says.

    Where it has another shape, too (turned, as phones' photos are, or cut), nobody can tell in
    which frame the boxes lie: they become null.
    """
    scaled, turned = [], []
    for image in images:
        stated = number(image.entry.get("width")), number(image.entry.get("height"))
        if not image.boxes or image.file is None or not all(stated):
            continue
        picture = peek_picture(image_at(root, image.file), image_root=root)
        factors = _factors(stated, picture.size_wh) if picture.status == "ok" else (1.0, 1.0)
        if factors == (1.0, 1.0):
            continue
        told = f"{image.name!r} is {picture.size_wh[0]}×{picture.size_wh[1]}, and {_size(stated)}"
        if factors is None:
            turned.append(told)
            image.boxes = [None] * len(image.boxes)
        else:
            scaled.append(told)
            image.boxes = [_scaled(box, factors) for box in image.boxes]
    boxed = sum(bool(image.boxes) for image in images)
    if turned:
        words = (
            f"{len(turned)} of {boxed} images with boxes have another shape than the JSON says "
            f"(the first: {turned[0]} there), so that nobody can tell where their boxes lie"
        )
        if len(turned) == boxed:
            raise OptionError(
                f"{words}: pass the images that were annotated as image_root, or leave out width "
                "and height in the JSON where the boxes are those of the upright files"
            )
        tell(f"{words}: such a box has the status invalid_value")
    if scaled:
        tell(
            f"{len(scaled)} of {boxed} images with boxes have another size than the JSON says "
            f"(the first: {scaled[0]} there): their boxes are scaled to the file's"
        )


def _factors(stated: Sequence[Any], size_wh: tuple[int, int]) -> tuple[float, float] | None:
    """From the JSON's frame to the file's; None where the two have not the same shape.

    >>> _factors((640, 480), (320, 240)), _factors((640, 480), (480, 640))
    ((0.5, 0.5), None)
    """
    (wide, high), (x, y) = size_wh, (size_wh[0] / stated[0], size_wh[1] / stated[1])
    # Where one was made smaller, its sides were rounded: by up to a pixel.
    same = abs(x - y) <= 1 / min(stated) or abs(1 / x - 1 / y) <= 1 / min(wide, high)
    return (x, y) if same else None


def _size(stated: Sequence[Any]) -> str:
    return "×".join(f"{side:g}" for side in stated)


def _scaled(box: Box, factors: tuple[float, float]) -> Box:
    return box and [part * factors[axis % 2] for axis, part in enumerate(box)]


def _dataset(images: Sequence[_Image], root: Path) -> Dataset:
    from datasets import Features, List, Value

    columns: dict[str, list[Any]] = {
        "image": [_stored(image, root) for image in images],
        "image_id": [image.entry.get("id") for image in images],
        "bbox": [image.boxes for image in images],
        "category": [image.labels for image in images],
    }
    if any(image.captions for image in images):
        columns["captions"] = [image.captions for image in images]
    texts = List(Value("string"))
    known = input_features("image", "bbox")
    return typed(columns, Features({**known, "category": texts, "captions": texts}))


def _stored(image: _Image, root: Path) -> dict[str, Any] | None:
    """The image by its path; one that was not found keeps its name, to be told by its status."""
    if image.name is None:
        return None
    if image.file is None and "://" in image.name:
        return {"bytes": None, "path": image.name}
    return image_at(root, image.file or _slashed(image.name))
