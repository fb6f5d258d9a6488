"""Box arithmetic: users' boxes to pixels of the upright image, a status for each, fractions.

Everything here is pure and works on one image's boxes at a time; `size_wh` is the size of the
upright image. A box that cannot be used gets a status, never an exception.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_regioncap.errors import OptionError, one_of

Boxes = NDArray[np.float64]

FORMATS = ("xywh", "xyxy", "cxcywh", "yxyx")
UNITS = ("pixel", "fraction", "percent", "permille")
USED = ("ok", "clipped")

#: Sides and overhangs below a thousandth of a pixel are float noise (0.1 in float32 is not 0.1).
_NOISE = 1e-3
#: Farther out than this is "far outside" all the same, and sums of it stay finite.
_FAR = 1e100
#: How many non-zero boxes have to agree before a whole column is called wrong.
_ENOUGH = 10
#: What a whole side is, in the units that do not depend on the image's size.
_WHOLE = {"fraction": 1.0, "percent": 100.0, "permille": 1000.0}


class Placed(NamedTuple):
    """Boxes in the upright image, and a status for each.

    `xyxy` are pixels (N, 4), NaN where a box has no place; `xywh` the same as lists, None there.
    Both are rounded to a millionth of a pixel, except for `xywh` that come back as given.
    """

    xyxy: Boxes
    xywh: list[list[float] | None]
    status: list[str]

    @property
    def used(self) -> Boxes:
        """The used boxes, xyxy pixels (K, 4): region k is row k - 1."""
        return self.xyxy[[status in USED for status in self.status]]


def to_xyxy(boxes: ArrayLike, box_format: str) -> Boxes:
    """Convert boxes (N, 4) to corners, in the same unit.

    >>> to_xyxy([[10, 20, 30, 40]], "xywh").tolist()
    [[10.0, 20.0, 40.0, 60.0]]
    >>> to_xyxy([[25, 40, 30, 40]], "cxcywh").tolist()
    [[10.0, 20.0, 40.0, 60.0]]
    >>> to_xyxy([[20, 10, 60, 40]], "yxyx").tolist()
    [[10.0, 20.0, 40.0, 60.0]]
    >>> to_xyxy([], "xywh").shape
    (0, 4)
    """
    one_of("box_format", box_format, FORMATS)
    given, box_format = _x_first(np.asarray(boxes, dtype=np.float64).reshape(-1, 4), box_format)
    first, second = given[:, :2], given[:, 2:]
    if box_format == "xyxy":
        return given.copy()
    if box_format == "cxcywh":
        return np.hstack([first - second / 2, first + second / 2])
    return np.hstack([first, first + second])


def _x_first(boxes: Boxes, box_format: str) -> tuple[Boxes, str]:
    """Boxes (N, 4) with x before y, and the format that they are in then."""
    return (boxes[:, [1, 0, 3, 2]], "xyxy") if box_format == "yxyx" else (boxes, box_format)


def to_pixels(boxes: ArrayLike, box_unit: str, size_wh: tuple[int, int]) -> Boxes:
    """Scale boxes (N, 4) in a format that has x first from `box_unit` to pixels of an image.

    >>> to_pixels([[0.1, 0.5, 0.25, 0.25]], "fraction", (640, 480)).tolist()
    [[64.0, 240.0, 160.0, 120.0]]
    """
    one_of("box_unit", box_unit, UNITS)
    size = (1, 1) if box_unit == "pixel" else size_wh
    scale = np.tile(size, 2) / _WHOLE.get(box_unit, 1.0)
    return np.asarray(boxes, dtype=np.float64).reshape(-1, 4) * scale


def place_boxes(
    boxes: Iterable[Any],
    size_wh: tuple[int, int] | None,
    *,
    box_format: str = "xywh",
    box_unit: str = "pixel",
    max_boxes: int = 10,
) -> Placed:
    """Check, convert, clip and count one image's boxes; `size_wh` None means there is no image.

    Statuses, the first that applies: `no_image`, `invalid_value` (not four finite numbers),
    `invalid_order` (negative size, corners reversed), `outside` (wholly beyond the edges),
    `too_small` (a side of 0, or under 1 pixel after clipping), `over_limit` (valid, beyond
    `max_boxes`); else `clipped` or `ok`, and these two are used. Boxes that were given as xywh
    pixels and are `ok` come back as they were given.

    >>> placed = place_boxes([[10, 20, 30, 40], [600, 0, 80, 50], [0, 0, 0, 0], "x"], (640, 480))
    >>> placed.status
    ['ok', 'clipped', 'too_small', 'invalid_value']
    >>> placed.xywh
    [[10.0, 20.0, 30.0, 40.0], [600.0, 0.0, 40.0, 50.0], None, None]
    >>> place_boxes([], (640, 480)).used.shape
    (0, 4)
    """
    rows = list(boxes)
    if size_wh is None:
        count = len(rows)
        return Placed(np.full((count, 4), np.nan), [None] * count, ["no_image"] * count)
    given, box_format = _x_first(as_boxes(rows), box_format)
    bounded = np.minimum(np.maximum(given, -_FAR), _FAR)
    xyxy = to_xyxy(to_pixels(bounded, box_unit, size_wh), box_format)
    width, height = size_wh
    # Rounded before it is judged: a clipped box that is placed again has the same place and status.
    clipped = np.minimum(np.maximum(xyxy, 0), [width, height, width, height]).round(6)
    as_given = (box_format, box_unit) == ("xywh", "pixel")
    statuses: list[str] = []
    places: list[list[float] | None] = []
    room = max_boxes
    for box, corners, inside in zip(given.tolist(), xyxy.tolist(), clipped.tolist(), strict=True):
        status = _status(box, corners, inside, size_wh, box_format)
        if status in USED:
            places.append(box if as_given and status == "ok" else _xywh(inside))
            status = status if room > 0 else "over_limit"
            room -= 1
        else:
            places.append(None)
        statuses.append(status)
    placed = [[place is not None] for place in places]
    return Placed(np.where(np.reshape(placed, (-1, 1)), clipped, np.nan), places, statuses)


def _xywh(xyxy: list[float]) -> list[float]:
    """Corners to [x, y, w, h] without what float sums leave behind (75.55000000000001)."""
    x1, y1, x2, y2 = xyxy
    return [x1, y1, round(x2 - x1, 6), round(y2 - y1, 6)]


def as_boxes(rows: Sequence[Any]) -> Boxes:
    """Read users' boxes into (N, 4), all NaN where one is not four finite numbers.

    >>> as_boxes([[1, 2, 3, 4], [1, 2, 3], None, ["1", "2", "3", "4"], [0, 0, 1e999, 1]])[:, 0]
    array([ 1., nan, nan, nan, nan])
    """
    array = np.full((len(rows), 4), np.nan)
    for index, row in enumerate(rows):
        values = row.tolist() if isinstance(row, np.ndarray) else row
        if isinstance(values, list | tuple) and len(values) == 4 and all(map(_finite, values)):
            array[index] = values
    return array


def _finite(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond the range of floats
        return False


def _status(
    given: list[float],
    corners: list[float],
    inside: list[float],
    size_wh: tuple[int, int],
    box_format: str,
) -> str:
    if math.isnan(given[0]):
        return "invalid_value"
    (x1, y1, x2, y2), (width, height) = corners, size_wh
    w, h = (x2 - x1, y2 - y1) if box_format == "xyxy" else (given[2], given[3])
    if w < 0 or h < 0:
        return "invalid_order"
    if x1 >= width or y1 >= height or x2 < 0 or y2 < 0 or (x2 == 0 < w) or (y2 == 0 < h):
        return "outside"
    if min(_xywh(inside)[2:]) < 1 - _NOISE:
        return "too_small"
    overhang = max(abs(a - b) for a, b in zip(corners, inside, strict=True))
    return "clipped" if overhang > _NOISE else "ok"


def normalize_boxes(xyxy: ArrayLike, size_wh: tuple[int, int]) -> Boxes:
    """Map pixel boxes, shape (N, 4), to fractions of the image.

    >>> normalize_boxes([[64, 48, 320, 240]], size_wh=(640, 480)).tolist()
    [[0.1, 0.1, 0.5, 0.5]]
    """
    fractions: Boxes = np.asarray(xyxy, dtype=np.float64).reshape(-1, 4) / np.tile(size_wh, 2)
    return fractions


def pad_boxes(boxes: ArrayLike, max_boxes: int) -> Boxes:
    """Fill boxes (N, 4) with rows of zeros to (max_boxes, 4).

    >>> pad_boxes([[0.1, 0.1, 0.5, 0.5]], 2).tolist()
    [[0.1, 0.1, 0.5, 0.5], [0.0, 0.0, 0.0, 0.0]]
    """
    given = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    return np.vstack([given, np.zeros((max(0, max_boxes - len(given)), 4))])[:max_boxes]


def check_fit(
    rows: Iterable[tuple[Sequence[Any], tuple[int, int] | None]],
    *,
    box_format: str,
    box_unit: str,
    bbox_column: str = "bbox",
) -> None:
    """Raise where a whole column is in another unit or format than the options say.

    `rows` are (boxes, size_wh) pairs. Raised only on strong evidence: at least ten non-zero boxes,
    of which a fifth or more are lost as declared (more than half of each lies outside of its
    image, or less than a pixel inside), while every one fits another unit or format; or half or
    more do not fit, if only by reaching out, while every one fits another format. Boxes that
    clipping saves are no evidence of a unit: pixels of small images all fit permille. The error
    names the option to set. Nothing is ever converted on a guess.

    >>> check_fit([([[0.1, 0.1, 0.2, 0.2]] * 10, (640, 480))], box_format="xywh", box_unit="pixel")
    Traceback (most recent call last):
    hf_regioncap.errors.OptionError: bbox_column 'bbox': 10 of 10 boxes do not fit
    box_format='xywh', box_unit='pixel', and all of them fit box_unit='fraction':
    pass box_unit='fraction' (so would box_format='xyxy' or 'cxcywh' or 'yxyx': look at a few boxes)
    """
    boxes, sizes = _nonzero(rows)
    if len(boxes) < _ENOUGH:
        return
    fits = _fits(boxes, sizes, box_format, box_unit)
    lost = ~fits & (_shares_inside(boxes, sizes, box_format, box_unit) < 0.5)
    misfits, many_lost = int((~fits).sum()), lost.mean() >= 0.2
    if not many_lost and misfits * 2 < len(boxes):
        return
    declared = {"box_format": box_format, "box_unit": box_unit}
    fitting = [
        other
        for other in _others(box_format, box_unit)
        if (many_lost or "box_unit" not in other)
        and _fits(boxes, sizes, **{**declared, **other}).all()
    ]
    if fitting:
        raise OptionError(
            f"bbox_column {bbox_column!r}: {misfits} of {len(boxes)} boxes do not fit "
            f"box_format={box_format!r}, box_unit={box_unit!r}, and all of them fit "
            f"{_advice(fitting, declared)}"
        )


def _advice(fitting: Sequence[dict[str, str]], declared: dict[str, str]) -> str:
    """What to pass, of what all boxes fit; where two fit that transpose each other, both."""
    first, *rest = fitting
    whole = {**declared, **first}
    twin = _TRANSPOSED.get(whole["box_format"])
    transposed = next((o for o in rest if {**declared, **o} == {**whole, "box_format": twin}), None)
    if transposed is not None:
        return (
            f"two formats, one the other transposed: look where a few boxes should lie, and pass "
            f"{_words(first)} or, where y comes first as in TFDS and Gemini, {_words(transposed)}"
        )
    unit = whole["box_unit"]
    forms = [
        o["box_format"] for o in rest if "box_format" in o and {**declared, **o}["box_unit"] == unit
    ]
    units = [
        _words(o) for o in rest if len(o) == len(first) and {**declared, **o}["box_unit"] != unit
    ]
    also = f" ({' or '.join(units)} would fit too)" if units else ""
    if forms:
        also += f" (so would box_format={' or '.join(map(repr, forms))}: look at a few boxes)"
    return f"{_words(first)}: pass {_words(first)}{also}"


_TRANSPOSED = {"xyxy": "yxyx", "yxyx": "xyxy"}


def doubt_unit(
    rows: Iterable[tuple[Sequence[Any], tuple[int, int] | None]], *, box_format: str
) -> str | None:
    """Name the unit in which boxes that were declared as pixels probably are, if there is one.

    Percent and permille of large images are good pixels too, but then all boxes lie in the upper
    left corner, and reach about 100 (or 1000) on both sides. No proof: to be told, not raised.

    >>> rows = [([[4.0 * n, 5.0 * n, 40, 40]], (640, 480)) for n in range(12)]
    >>> doubt_unit(rows, box_format="xywh")
    'percent'
    >>> doubt_unit([(boxes, (120, 90)) for boxes, _ in rows], box_format="xywh") is None
    True
    """
    boxes, sizes = _nonzero(rows)
    if len(boxes) < _ENOUGH:
        return None
    low, high = _corners(boxes, sizes, box_format, "pixel")
    for unit in ("percent", "permille"):
        most, reach = _WHOLE[unit], high.max(axis=0)
        if (
            sizes.min() >= 2 * most
            and low.min() >= -most / 100
            and (reach >= 0.6 * most).all()
            and (reach <= 1.01 * most).all()
        ):
            return unit
    return None


def _words(options: dict[str, str]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in options.items())


def _others(box_format: str, box_unit: str) -> list[dict[str, str]]:
    """What else boxes may be, the likeliest first.

    Fractions all fit percent of large images, and pixels of small images percent and permille.
    """
    formats = [{"box_format": form} for form in FORMATS if form != box_format]
    units = [{"box_unit": unit} for unit in UNITS if unit != box_unit]
    others = [*formats, *units, *({**form, **unit} for unit in units for form in formats)]
    return sorted(others, key=lambda other: other.get("box_unit") in ("percent", "permille"))


def _nonzero(rows: Iterable[tuple[Sequence[Any], tuple[int, int] | None]]) -> tuple[Boxes, Boxes]:
    """All finite non-zero boxes (N, 4) of rows with an image, and the sizes (N, 2) they lie in."""
    boxes, sizes = [np.empty((0, 4))], [np.empty((0, 2))]
    for given, size_wh in rows:
        if size_wh is not None and len(given):
            array = as_boxes(given)
            array = array[np.isfinite(array[:, 0]) & (array != 0).any(axis=1)]
            boxes.append(array)
            sizes.append(np.broadcast_to(np.array(size_wh, np.float64), (len(array), 2)))
    return np.vstack(boxes), np.vstack(sizes)


def _fits(boxes: Boxes, sizes: Boxes, box_format: str, box_unit: str) -> NDArray[np.bool_]:
    """Which boxes lie in their images (a hundredth of the side to spare) at a pixel or more."""
    low, high = _corners(boxes, sizes, box_format, box_unit)
    slack = np.maximum(1.0, sizes / 100)
    fits = (low >= -slack) & (high <= sizes + slack) & (high - low >= 1 - _NOISE)
    return np.asarray(fits.all(axis=1))


def _shares_inside(boxes: Boxes, sizes: Boxes, box_format: str, box_unit: str) -> Boxes:
    """How much of each box's area lies in its image, 0 to 1; 0 where a side there is no pixel."""
    low, high = _corners(boxes, sizes, box_format, box_unit)
    inside = np.minimum(high, sizes) - np.maximum(low, 0)
    usable = inside >= 1 - _NOISE
    shares = np.where(usable, inside / np.where(usable, high - low, 1), 0)
    return np.asarray(shares.prod(axis=1))


def _corners(boxes: Boxes, sizes: Boxes, box_format: str, box_unit: str) -> tuple[Boxes, Boxes]:
    """The low and the high corners (N, 2) of boxes (N, 4) in pixels of images of these sizes."""
    boxes, box_format = _x_first(boxes, box_format)
    scale = sizes / (sizes if box_unit == "pixel" else _WHOLE[box_unit])
    xyxy = to_xyxy(boxes.clip(-_FAR, _FAR) * np.tile(scale, 2), box_format)
    return xyxy[:, :2], xyxy[:, 2:]
