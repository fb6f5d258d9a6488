"""Where people keep boxes: columns and fields by their usual names, lists, dicts, numbers apart."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

#: The names under which people keep a box's numbers, as `_plain` writes them, and the formats that
#: these can mean (x and y may be the middle), the likeliest first.
_NAMED_BOXES: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("x", "y", "width", "height"), ("xywh", "cxcywh")),
    (("x", "y", "w", "h"), ("xywh", "cxcywh")),
    (("xmin", "ymin", "xmax", "ymax"), ("xyxy",)),  # Pascal VOC, Open Images
    (("x1", "y1", "x2", "y2"), ("xyxy",)),
    (("x0", "y0", "x1", "y1"), ("xyxy",)),
    (("xtl", "ytl", "xbr", "ybr"), ("xyxy",)),  # CVAT
    (("left", "top", "right", "bottom"), ("xyxy",)),
    (("left", "top", "width", "height"), ("xywh",)),
    (("xmin", "ymin", "width", "height"), ("xywh",)),
    (("xcenter", "ycenter", "width", "height"), ("cxcywh",)),  # YOLO
    (("centerx", "centery", "width", "height"), ("cxcywh",)),
    (("xcenter", "ycenter", "w", "h"), ("cxcywh",)),
    (("cx", "cy", "width", "height"), ("cxcywh",)),
    (("cx", "cy", "w", "h"), ("cxcywh",)),
)
_BOX_NAME = re.compile(r"b(?:ound(?:ing)?)?_?box(?:es)?$|^boxes$|^rois?$", re.IGNORECASE)
#: Words of which one in a name says that a list holds boxes.
_BOX_WORDS = re.compile(
    r"(?:b|bnd|bounding)?box(?:es)?|rect(?:angle)?s?|rois?|xywh|xyxy|cxcywh|yxyx"
)
#: Words of which one says so where the list holds four numbers each time.
_PERHAPS_WORDS = re.compile(
    r"(?:annotation|coord|coordinate|detection|gt|location|object|position|region|target|truth)s?"
)
_FORMAT_WORD = re.compile(r"(?<![a-z])(xywh|xyxy|cxcywh|yxyx)(?![a-z])", re.IGNORECASE)
#: Detectron2's BoxMode: format and unit.
_BOX_MODES = {
    0: ("xyxy", "pixel"),
    1: ("xywh", "pixel"),
    2: ("xyxy", "fraction"),
    3: ("xywh", "fraction"),
}


class NamedBox(NamedTuple):
    """The names under which a box keeps its numbers, and the formats that these can mean."""

    names: tuple[str, ...]
    formats: tuple[str, ...]


def named_box(names: Sequence[str]) -> NamedBox | None:
    """Find among the names of fields or columns those of a box's four numbers.

    >>> named_box(["label", "XMin", "XMax", "YMin", "YMax"])
    NamedBox(names=('XMin', 'YMin', 'XMax', 'YMax'), formats=('xyxy',))
    >>> named_box(["x", "y", "label"]) is None
    True
    """
    plain = {_plain(name): name for name in reversed(names)}
    for wanted, formats in _NAMED_BOXES:
        if set(wanted) <= set(plain):
            return NamedBox(tuple(plain[name] for name in wanted), formats)
    return None


def _plain(name: str) -> str:
    """A name without case, signs and the word box before it.

    >>> _plain("bbox_x_min"), _plain("XMin"), _plain("box")
    ('xmin', 'xmin', 'box')
    """
    plain = re.sub("[^a-z0-9]", "", name.lower())
    return re.sub("^(?:bbox|bndbox|box|rect)(?=.)", "", plain)


def read_boxes(value: Any) -> list[Any]:
    """The user's list of boxes; boxes kept as dicts of numbers, or as a dict of lists, are lists.

    >>> read_boxes([{"x": 1, "y": 2, "width": 3, "height": 4}]), read_boxes(None)
    ([[1, 2, 3, 4]], [])
    >>> read_boxes({"xmin": [1, 5], "xmax": [3, 7], "ymin": [2, 6], "ymax": [4, 8]})
    [[1, 2, 3, 4], [5, 6, 7, 8]]
    """
    if value is None:
        return []
    items = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(items, Mapping) and (named := named_box(list(items))):
        columns = [_listed(items[name]) for name in named.names]
        if any(isinstance(column, list | tuple) for column in columns):
            lists = [column if isinstance(column, list | tuple) else [] for column in columns]
            return [list(box) for box in itertools.zip_longest(*lists)]
        return [columns]
    if not isinstance(items, list | tuple):
        return [items]
    return [_box_values(item) if isinstance(item, Mapping) else item for item in items]


def _listed(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def _box_values(box: Mapping[str, Any]) -> Any:
    named = named_box(list(box))
    return [box[name] for name in named.names] if named else None


def misread(value: Any, box_format: str, box_unit: str) -> str | None:
    """Say what the names in which boxes are kept tell against the options, if anything.

    >>> misread([{"x1": 1, "y1": 2, "x2": 3, "y2": 4}], "xywh", "pixel")
    "boxes as {x1, y1, x2, y2}, which box_format='xywh' would misread: pass box_format='xyxy'"
    """
    items = _listed(value)
    for item in items if isinstance(items, list | tuple) else [items]:
        named = named_box(list(item)) if isinstance(item, Mapping) else None
        if named is None:
            continue
        held = f"boxes as {{{', '.join(named.names)}}}, which"
        if box_format not in named.formats:
            ways_out = " or ".join(f"box_format={form!r}" for form in named.formats)
            return f"{held} box_format={box_format!r} would misread: pass {ways_out}"
        # Label Studio's regions are percent of the sides, and say so by their other fields.
        if {"rectanglelabels", "original_width"} & set(item) and box_unit != "percent":
            return f"{held} Label Studio keeps in percent: pass box_unit='percent'"
    return None


def told_options(column: str, modes: Sequence[Any] = ()) -> dict[str, str]:
    """The options that a column's name tells, or Detectron2's `bbox_mode` beside the boxes.

    >>> told_options("gt_bbox_yxyx"), told_options("objects.bbox"), told_options("bbox", [0, 0])
    ({'box_format': 'yxyx'}, {}, {'box_format': 'xyxy', 'box_unit': 'pixel'})
    """
    known = {mode for mode in modes if mode is not None}
    if len(known) == 1 and (mode := _BOX_MODES.get(known.pop())) is not None:
        return dict(zip(("box_format", "box_unit"), mode, strict=True))
    words = _FORMAT_WORD.search(column.rpartition(".")[2].replace("_", " "))
    return {"box_format": words[1].lower()} if words else {}


def likely_boxes(
    fields: Mapping[str, Any],
    inner: Callable[[Any], Iterator[tuple[str, Any]]],
    values: Callable[[str], Sequence[Any]],
) -> str | None:
    """The options for a column that looks like boxes, as one would write them; or None.

    `fields` are columns and fields by dotted name with an Arrow type or a value each, `inner` gives
    the fields inside one of these, `values` some values of a column.
    """
    for name, kind in fields.items():
        named = named_box([field for field, _ in inner(kind) if "." not in field])
        if named is not None:
            return _written(name, named.formats[0])
    for matches in (_is_box_name, _has_box_word, _holds_fours):
        for name, kind in fields.items():
            if matches(name.rpartition(".")[2], kind, functools.partial(values, name)):
                return _written(name, told_options(name).get("box_format", "xywh"))
    return None


def _written(column: str, box_format: str) -> str:
    extra = "" if box_format == "xywh" else f", box_format={box_format!r}"
    return f"bbox_column={column!r}{extra}"


_Values = Callable[[], Sequence[Any]]


def _is_box_name(name: str, kind: Any, values: _Values) -> bool:
    return _BOX_NAME.search(name) is not None


def _has_box_word(name: str, kind: Any, values: _Values) -> bool:
    return any(map(_BOX_WORDS.fullmatch, _words(name))) and _may_be_boxes(kind)


def _holds_fours(name: str, kind: Any, values: _Values) -> bool:
    if not (any(map(_PERHAPS_WORDS.fullmatch, _words(name))) and _may_be_boxes(kind)):
        return False
    boxes = [box for value in values() for box in read_boxes(value)]
    return bool(boxes) and all(
        isinstance(box, list | tuple) and len(box) == 4 and all(map(_is_number, box))
        for box in boxes
    )


def _words(name: str) -> set[str]:
    """The words of a name in snake or camel case.

    >>> sorted(_words("gtBoxes_2D")), sorted(_words("BBox_xyxy")), sorted(_words("inbox"))
    (['boxes', 'd', 'gt'], ['bbox', 'xyxy'], ['inbox'])
    """
    parts = re.findall(r"[A-Z]+[a-z]*|[a-z]+", name)
    return {part.lower() for part in parts}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _may_be_boxes(kind: Any) -> bool:
    """Whether an Arrow type or a value is a list of what may be numbers."""
    depth = 0
    while True:
        kind = getattr(kind, "storage_type", kind)
        if isinstance(kind, pa.DataType) and hasattr(kind, "value_type"):
            kind = kind.value_type
        elif hasattr(kind, "tolist"):
            kind = kind.tolist()
            continue
        elif isinstance(kind, list | tuple):
            kind = next(iter(kind), None)
        else:
            break
        depth += 1
    if isinstance(kind, pa.DataType):
        numbers = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)
        return depth > 0 and numbers
    return depth > 0 and (kind is None or _is_number(kind))
