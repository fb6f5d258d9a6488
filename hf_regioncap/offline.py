"""The built-in describer: an OpenAI-compatible endpoint on loopback that measures pictures.

It recognises nothing and says so by its name, `offline-describer`. Of each region it tells what
can be measured: the main colours and how they lie, light or dark, plain or busy, where the region
is and its share of the image. `serve()` starts it inside this process; `python -m
hf_regioncap.offline` runs it in the foreground for any client.

It offers `POST /v1/chat/completions`, `GET /v1/models` and `GET /health`. Pictures come as
`data:` URLs; where there are several the last one is measured. Two fields of the request go
beyond OpenAI's (`extra_body` of the `openai` package carries them):

`regions`
    `{"1": [x1, y1, x2, y2], ...}`, fractions of the last picture. Without it the whole picture is
    described, once for each key that a schema asks for.
`frame`
    `[x1, y1, x2, y2]`, where the last picture, a crop, lies in the whole one, in fractions of it.
    Positions and shares are then told for the whole picture.

`usage` is counted, not made up: one token for each word or punctuation mark of the texts, and one
for each started square of 28 x 28 pixels of every picture.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import contextlib
import functools
import hashlib
import io
import json
import math
import os
import re
import socketserver
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler
from typing import Any, NamedTuple, TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hf_regioncap.colors import to_oklab
from hf_regioncap.errors import OptionError
from hf_regioncap.images import open_picture

MODEL = "offline-describer"

Xyxy = tuple[float, float, float, float]
Floats = NDArray[np.float64]

# Colour names

#: sRGB samples of each name. A muted and a strong sample of one name keep its neighbours from
#: reaching into it.
_SAMPLES = {
    "black": "000000 1c1c1c 2a2624",
    "dark grey": "444444 464e48 4a4650 3a4650",
    "grey": "808080 6c6870 6e6a60 a8a49c",
    "light grey": "c0c0c0 d8d4cc",
    "white": "ffffff f2f2f2",
    "red": "ff0000 d02828 b84848",
    "dark red": "980018 7a1414 501820",
    "coral": "ff8070",
    "pink": "ffb0c0 f080a8 c87888",
    "orange": "ff8000 ffa530 d87828",
    "peach": "ffc8a0",
    "brown": "a06030 80502c 806858",
    "dark brown": "4c3020 302018",
    "light brown": "b08c6c",
    "tan": "d2b48c",
    "beige": "e4d4b4 c4c09c",
    "cream": "f8f0d8",
    "yellow": "ffff00 ffd800 f0e070",
    "mustard": "b89020",
    "olive": "808000 66663c 404018",
    "green": "40b040 008000 6a9a48",
    "bright green": "00ff00",
    "dark green": "1c4a20 30402c",
    "light green": "a8e098 c8e0b8",
    "grey-green": "808c74",
    "teal": "008080 285858",
    "turquoise": "40e0d0",
    "cyan": "00ffff",
    "sky blue": "60a8e8",
    "light blue": "a8d4f0 d0e4f4",
    "blue": "0000ff 2868d0 4878a8",
    "dark blue": "14145c 1c3050",
    "grey-blue": "708498 a0b0c0",
    "purple": "800080 9050b8 705078",
    "dark purple": "381848",
    "lavender": "c8b0e8",
    "magenta": "ff00ff d81888",
}
_NAMES = tuple(_SAMPLES)

#: Names count together by their last word ("dark brown" is a brown), and these ones as well.
_KIN = {
    "tan": "brown",
    "cream": "beige",
    "mustard": "yellow",
    "magenta": "pink",
    "coral": "red",
    "grey-green": "green",
    "turquoise": "teal",
    "cyan": "teal",
    "grey-blue": "blue",
    "lavender": "purple",
}
_FAMILY = {name: _KIN.get(name, name.split()[-1]) for name in _NAMES}
_FAMILIES = tuple(dict.fromkeys(_FAMILY.values()))
_FAMILY_OF_NAME = np.array([_FAMILIES.index(_FAMILY[name]) for name in _NAMES])

#: Lightness counts 1, the two colour axes 2.2 each: hue decides a name more than lightness does.
_NAMING_WEIGHTS = np.array([1.0, 2.2, 2.2])


def color_name(rgb: Sequence[int]) -> str:
    """Name an sRGB colour (three values 0-255), the nearest of a small table in Oklab.

    Oklab is Björn Ottosson's perceptual colour space of 2020.

    >>> [color_name(rgb) for rgb in [(139, 69, 19), (245, 245, 220), (0, 0, 128)]]
    ['brown', 'cream', 'dark blue']
    """
    return _NAMES[int(_color_tables().name_of[_color_bins(np.array(rgb, np.uint8))])]


class _ColorTables(NamedTuple):
    """By colour bin (5 bits a channel, 32,768 bins): the index of its name, its lightness 0..1."""

    name_of: NDArray[np.uint8]
    lightness: NDArray[np.float32]


@functools.cache
def _color_tables() -> _ColorTables:
    """Name all bins once (about 50 ms), so that a pixel's name is one lookup."""
    levels = np.arange(32) * (255 / 31)
    oklab = to_oklab(np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1))
    bins = oklab.reshape(-1, 3) * _NAMING_WEIGHTS
    nearest, name_of = np.full(len(bins), np.inf), np.zeros(len(bins), np.uint8)
    for index, samples in enumerate(_SAMPLES.values()):
        for sample in samples.split():
            center = to_oklab(np.array(list(bytes.fromhex(sample)))) * _NAMING_WEIGHTS
            distance = np.square(bins - center).sum(axis=1)
            closer = distance < nearest
            nearest[closer], name_of[closer] = distance[closer], index
    return _ColorTables(name_of, oklab.reshape(-1, 3)[:, 0].astype(np.float32))


def _color_bins(rgb: NDArray[np.uint8]) -> NDArray[np.uint16]:
    levels = (rgb >> 3).astype(np.uint16)
    return np.asarray(levels[..., 0] << 10 | levels[..., 1] << 5 | levels[..., 2], np.uint16)


# What is measured

#: Regions are measured on at most this many pixels a side, so that "busy" means the same at
#: every resolution and a region costs the same whatever its size.
_SAMPLE_SIDE = 64

#: Two neighbours of the sample that differ by more than this (of 255 grey levels) are an edge.
_EDGE = 20


class _Color(NamedTuple):
    """One colour of a region: its share of it, and where its pixels lie (centre, 0..1)."""

    name: str
    share: float
    x: float
    y: float
    distance: float  # mean distance of its pixels from the region's centre; 0.38 if spread evenly


class _Measures(NamedTuple):
    colors: list[_Color]  # the three largest at most, largest first
    lightness: float  # median, 0 black to 1 white
    brighter_right: float  # lightness of the right half less that of the left
    brighter_below: float
    edges: float  # share of neighbouring pixels that differ clearly


def _sample(image: Image.Image, box: Xyxy, inner: bool) -> Image.Image:
    """Reduce the window `box` (xyxy pixels) of a picture to at most 64 x 64 pixels."""
    size = box[2] - box[0], box[3] - box[1]
    if inner:
        dx, dy = (_inset(side, image.size) for side in size)
        box = box[0] + dx, box[1] + dy, box[2] - dx, box[3] - dy
    left, top = min(int(box[0]), image.width - 1), min(int(box[1]), image.height - 1)
    right, bottom = max(math.ceil(box[2]), left + 1), max(math.ceil(box[3]), top + 1)
    window = (left, top, min(right, image.width), min(bottom, image.height))
    size_wh = window[2] - window[0], window[3] - window[1]
    # Thinning first bounds the cost for huge windows; the box filter then averages what is left.
    thin_wh = min(size_wh[0], 4 * _SAMPLE_SIDE), min(size_wh[1], 4 * _SAMPLE_SIDE)
    thinned = image.resize(thin_wh, Image.Resampling.NEAREST, box=window)
    sample_wh = min(thin_wh[0], _SAMPLE_SIDE), min(thin_wh[1], _SAMPLE_SIDE)
    return thinned if sample_wh == thin_wh else thinned.resize(sample_wh, Image.Resampling.BOX)


def _inset(side: float, size_wh: tuple[int, int]) -> float:
    """Choose how far to stay clear of a box's edge, where its mark is drawn, in pixels."""
    return min(side / 4, max(side * 0.06, max(size_wh) * 0.01))


def _measure(sample: Image.Image, round_window: bool) -> _Measures:
    pixels = np.asarray(sample)
    bins = _color_bins(pixels)
    tables = _color_tables()
    grey = np.asarray(sample.convert("L")).astype(np.int16)
    lightness = tables.lightness[bins]
    return _Measures(
        _colors(tables.name_of[bins], round_window),
        float(np.median(lightness)),
        *_slopes(lightness),
        _edge_share(grey),
    )


def _colors(names: NDArray[np.uint8], round_window: bool) -> list[_Color]:
    """Sum up a map of name indices, shape (h, w), by families of names."""
    x, y, distance, inside = _grid(names.shape, round_window)
    names = names[inside]
    by_name = np.bincount(names, minlength=len(_NAMES))
    family = _FAMILY_OF_NAME[names]
    counts = np.bincount(family, minlength=len(_FAMILIES))
    sums = [np.bincount(family, weights, len(_FAMILIES)) for weights in (x, y, distance)]
    order = np.argsort(-counts, kind="stable")[: min(3, np.count_nonzero(counts))]
    return [
        _Color(
            _name_of_family(int(index), by_name),
            float(counts[index] / len(names)),
            *(float(total[index] / counts[index]) for total in sums),
        )
        for index in order
    ]


@functools.lru_cache(maxsize=64)
def _grid(
    shape: tuple[int, int], round_window: bool
) -> tuple[Floats, Floats, Floats, NDArray[np.bool_]]:
    """Coordinates 0..1 of the pixels that count, as flat arrays, and which of them count.

    A round window leaves the corners out: an object seldom fills its box there, and the tags of
    marked regions do.
    """
    height, width = shape
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    u, v = abs(2 * x - 1), abs(2 * y - 1)
    inside = u**2.5 + v**2.5 <= 1 if round_window else np.ones(shape, bool)
    return x[inside], y[inside], np.hypot(u, v)[inside] / 2, inside


def _name_of_family(family: int, by_name: NDArray[np.int_]) -> str:
    members = np.flatnonzero(np.equal(_FAMILY_OF_NAME, family))
    counts = by_name[members]
    top = members[int(np.argmax(counts))]
    clear = counts.max() >= 0.5 * counts.sum()
    return _NAMES[int(top)] if clear else f"shades of {_FAMILIES[family]}"


def _slopes(lightness: NDArray[np.float32]) -> tuple[float, float]:
    """Difference in lightness between right and left half, and between lower and upper half."""
    height, width = lightness.shape
    columns, rows = lightness.mean(axis=0), lightness.mean(axis=1)
    right, below = (width + 1) // 2, (height + 1) // 2
    return (
        float(columns[right:].mean() - columns[: width // 2].mean()) if width > 1 else 0.0,
        float(rows[below:].mean() - rows[: height // 2].mean()) if height > 1 else 0.0,
    )


def _edge_share(grey: NDArray[np.int16]) -> float:
    steps = [abs(np.diff(grey, axis=axis)).ravel() for axis in (0, 1)]
    every = np.concatenate(steps)
    return float(np.mean(every > _EDGE)) if every.size else 0.0


# What is said

#: A second or third colour is named from this share on; marks of neighbours stay below it.
_NAMED_SHARE = 0.12

_SHARES = (
    (0.9, "nearly all of the image"),
    (0.75, "about three quarters of the image"),
    (0.667, "about two thirds of the image"),
    (0.5, "about half of the image"),
    (0.4, "about two fifths of the image"),
    (0.333, "about a third of the image"),
    (0.25, "about a quarter of the image"),
    (0.2, "about a fifth of the image"),
    (0.167, "about a sixth of the image"),
    (0.125, "about an eighth of the image"),
    (0.1, "about a tenth of the image"),
)


def describe_region(
    image: Image.Image, xyxy: Sequence[float] | None = None, *, frame: Sequence[float] | None = None
) -> str:
    """Say in one sentence what can be measured in a region of an RGB picture.

    `xyxy` is the region in fractions 0..1 of `image`; None describes the whole picture. Where
    `image` is a crop, `frame` says where it lies in the whole picture (xyxy fractions of it), and
    position and share are told for the whole. Edges and corners of a region count less than its
    inside, so that a drawn mark does not become its colour. The same input gives the same words.
    Raises `OptionError` for boxes that are not four finite fractions in order.

    >>> picture = Image.new("RGB", (640, 480), "saddlebrown")
    >>> picture.paste("white", (0, 0, 320, 240))
    >>> describe_region(picture, (0, 0, 0.5, 0.5))
    'A plain area of white in the upper left, covering about a quarter of the image.'
    >>> describe_region(picture)
    'A plain image, mostly brown with some white towards the upper left.'
    """
    box = (0.0, 0.0, 1.0, 1.0) if xyxy is None else _checked_box("xyxy", xyxy)
    place = box if frame is None else _within(_checked_box("frame", frame), box)
    width, height = image.size
    pixels = (box[0] * width, box[1] * height, box[2] * width, box[3] * height)
    marked = xyxy is not None
    measures = _measure(_sample(image, pixels, inner=marked), round_window=marked)
    aspect = (pixels[2] - pixels[0]) / (pixels[3] - pixels[1])
    return _sentence(measures, aspect, None if xyxy is None and frame is None else place)


def _sentence(measures: _Measures, aspect: float, place: Xyxy | None) -> str:
    """Put the measures of a region into words; `place` is None for a whole picture."""
    colors, gradient = _color_words(measures.colors), _gradient(measures)
    if place is None:
        parts = [_subject(measures, aspect, "image"), colors, gradient]
    else:
        subject = _subject(measures, aspect, _noun(_area(place)))
        if _is_single(measures):
            subject, colors = f"{subject} {_made_of(measures.colors[0].name)}", ""
        parts = [subject + _position(place), colors, gradient, f"covering {_share(_area(place))}"]
    return ", ".join(part for part in parts if part) + "."


def _made_of(name: str) -> str:
    return f"in {name}" if name.startswith("shades") else f"of {name}"


def _checked_box(name: str, xyxy: object) -> Xyxy:
    """Check four fractions, and give a box that rounding has closed a thousandth of the picture."""
    if not _are_four_numbers(xyxy):
        raise OptionError(f"{name} must be four finite numbers [x1, y1, x2, y2], got {xyxy!r:.200}")
    x1, y1, x2, y2 = (float(value) for value in xyxy)
    inside = all(-0.01 <= value <= 1.01 for value in (x1, y1, x2, y2))
    if not inside or x1 > x2 or y1 > y2:
        raise OptionError(f"{name} must be fractions 0..1 with x1 < x2 and y1 < y2, got {xyxy!r}")
    (x1, x2), (y1, y2) = _opened(x1, x2), _opened(y1, y2)
    return x1, y1, x2, y2


def _opened(start: float, end: float) -> tuple[float, float]:
    start, end = min(max(start, 0.0), 0.999), min(max(end, 0.001), 1.0)
    return start, max(end, start + 0.001)


def _are_four_numbers(values: object) -> TypeGuard[Sequence[float]]:
    if not isinstance(values, Sequence | np.ndarray) or len(values) != 4:
        return False
    return all(
        isinstance(value, int | float | np.number)
        and not isinstance(value, bool)
        and math.isfinite(value)
        for value in values
    )


def _within(frame: Xyxy, box: Xyxy) -> Xyxy:
    """Map a box in fractions of a crop to fractions of the picture that the crop's frame is in."""
    width, height = frame[2] - frame[0], frame[3] - frame[1]
    return (
        frame[0] + box[0] * width,
        frame[1] + box[1] * height,
        frame[0] + box[2] * width,
        frame[1] + box[3] * height,
    )


def _area(box: Xyxy) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _subject(measures: _Measures, aspect: float, noun: str) -> str:
    """Name the thing with its adjectives, and its colour where it has but one."""
    *size, noun = noun.split()
    words = [*size, _shape(aspect), _lightness(measures), _texture(measures)]
    phrase = f"{', '.join(word for word in words if word)} {noun}".strip()
    article = "An" if phrase[0] in "aeiou" else "A"
    return f"{article} {phrase}"


def _noun(share: float) -> str:
    for limit, noun in ((0.005, "small patch"), (0.06, "patch"), (0.35, "area")):
        if share < limit:
            return noun
    return "large area"


def _shape(aspect: float) -> str:
    """Name the shape of a width/height ratio; what is neither square nor clearly not is left out.

    >>> [_shape(aspect) for aspect in (4, 1.5, 1.2, 1, 0.5, 0.2)]
    ['very wide', 'wide', '', 'square', 'tall', 'very tall']
    """
    if 0.92 <= aspect <= 1.08:
        return "square"
    long, name = max(aspect, 1 / aspect), "wide" if aspect > 1 else "tall"
    return f"very {name}" if long >= 3 else name if long >= 1.35 else ""


#: Colours whose names already say whether they are light or dark.
_LIGHT_OR_DARK = re.compile(r"black|white|dark|light|cream|beige|bright|shades")


def _lightness(measures: _Measures) -> str:
    if _is_single(measures) and _LIGHT_OR_DARK.search(measures.colors[0].name):
        return ""
    return "dark" if measures.lightness < 0.4 else "light" if measures.lightness > 0.8 else ""


def _texture(measures: _Measures) -> str:
    if measures.edges < 0.002 and _lighter_side(measures):
        return "smooth"
    for limit, name in ((0.01, "plain"), (0.06, "calm"), (0.16, ""), (0.3, "detailed")):
        if measures.edges < limit:
            return name
    return "busy"


def _is_single(measures: _Measures) -> bool:
    return measures.colors[0].share >= 0.85


def _color_words(colors: list[_Color]) -> str:
    """Say which colours a region has, in what proportion, and where the second one lies."""
    first, *rest = colors
    others = [color for color in rest if color.share >= _NAMED_SHARE][:2]
    if first.share < 0.55:
        return _mixture(first, others)
    if not others:
        return f"{'almost entirely' if first.share >= 0.85 else 'mostly'} {first.name}"
    amount = "a little" if others[0].share < 0.18 else "some"
    third = f" and {others[1].name}" if len(others) > 1 else ""
    return f"mostly {first.name} with {amount} {others[0].name}{third or _lies(others[0])}"


def _mixture(first: _Color, others: list[_Color]) -> str:
    named = [first, *others]
    names = [color.name for color in named]
    if not others:
        return f"many colours, most of all {names[0]}"
    if sum(color.share for color in named) < 0.7:
        return f"a mix of {', '.join(names)} and other colours"
    apart = _apart(first, others[0]) if len(named) == 2 else ""
    return apart or f"a mix of {', '.join(names[:-1])} and {names[-1]}"


def _apart(first: _Color, second: _Color) -> str:
    """Say on which sides two colours lie, in reading order; '' where they are not apart."""
    dx, dy = abs(second.x - first.x), abs(second.y - first.y)
    if max(dx, dy) < 0.25:
        return ""
    if dx > dy:
        left, right = sorted((first, second), key=lambda color: color.x)
        return f"{left.name} on the left and {right.name} on the right"
    upper, lower = sorted((first, second), key=lambda color: color.y)
    return f"{upper.name} above and {lower.name} below"


def _lies(color: _Color) -> str:
    """Say where a colour gathers: a side, a corner, the middle, the rim; nothing if spread out."""
    side = _side(color.x - 0.5, color.y - 0.5, at_least=0.13)
    if side:
        return f" towards the {side}"
    if color.distance < 0.24:
        return " in the middle"
    return " around the edges" if color.distance > 0.46 else ""


def _side(dx: float, dy: float, at_least: float) -> str:
    """Name the direction of an offset (x right, y down); '' where it is less than `at_least`.

    >>> _side(0.3, 0.0, at_least=0.1), _side(-0.2, 0.2, at_least=0.1), _side(0, 0, at_least=0.1)
    ('right', 'lower left', '')
    """
    far_x, far_y = abs(dx) >= at_least, abs(dy) >= at_least
    across, along = "right" if dx > 0 else "left", ("top", "bottom")[dy > 0]
    if far_x and far_y:
        return f"{'lower' if dy > 0 else 'upper'} {across}"
    return across if far_x else along if far_y else ""


def _gradient(measures: _Measures) -> str:
    """Say towards which side a region gets lighter, unless its colours tell that already."""
    if len(measures.colors) > 1 and measures.colors[1].share >= _NAMED_SHARE:
        return ""
    side = _lighter_side(measures)
    return f"lighter towards the {side}" if side else ""


def _lighter_side(measures: _Measures) -> str:
    return _side(measures.brighter_right, measures.brighter_below, at_least=0.06)


def _position(place: Xyxy) -> str:
    """Say where a box lies in the whole picture."""
    wide, high = place[2] - place[0] >= 0.85, place[3] - place[1] >= 0.85
    x, y = (place[0] + place[2]) / 2 - 0.5, (place[1] + place[3]) / 2 - 0.5
    if wide and high:
        return ""
    if wide:
        return f" across the {_side(0, y, at_least=0.12) or 'middle'}"
    if high:
        side = _side(x, 0, at_least=0.12)
        return f" down the {side} side" if side else " down the middle"
    side = _side(x, y, at_least=0.2)
    preposition = {"top": "at", "bottom": "at", "left": "on", "right": "on"}.get(side, "in")
    return f" {preposition} the {side or 'centre'}"


def _share(share: float) -> str:
    """Put a share of the image into words.

    >>> [_share(share) for share in (1.0, 0.34, 0.062)]
    ['the whole image', 'about a third of the image', 'about 6% of the image']
    """
    if share < 0.09:
        percent = round(100 * share)
        return f"about {percent}% of the image" if percent else "less than 1% of the image"
    if share >= 0.985:
        return "the whole image"
    return min(_SHARES, key=lambda known: abs(math.log(share / known[0])))[1]


# A request and its answer

#: More is refused: OpenAI's own bound for the body of a request is 50 MB.
_MAX_BODY = 64 * 2**20

#: As far as Pillow itself decodes by default; the picture comes from this machine.
_MAX_PIXELS = 178_000_000

_TOKEN = re.compile(r"\w+|[^\w\s]")
_PATCH = 28


class _Refused(Exception):
    """A request that gets an error in place of an answer: HTTP status, words, parameter."""

    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        super().__init__(status, message, param)
        self.status, self.message, self.param = status, message, param


class _Request(NamedTuple):
    """What a chat completion asks for, checked; `keys` is None where a text is asked for."""

    texts: list[str]
    pictures: list[bytes]
    regions: dict[str, Xyxy]
    frame: Xyxy | None
    keys: list[str] | None
    max_tokens: int | None


def _answer(body: bytes) -> dict[str, Any]:
    """Answer the body of a chat completion request; raises `_Refused`."""
    request = _read_request(body)
    image, sizes = _open_pictures(request)
    content = _content(request, image)
    content, completion_tokens, finish_reason = _cut(content, request.max_tokens)
    prompt_tokens = sum(_count_tokens(text) for text in request.texts)
    prompt_tokens += sum(math.ceil(w / _PATCH) * math.ceil(h / _PATCH) for w, h in sizes)
    message = {"role": "assistant", "content": content, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
    return {
        "id": f"chatcmpl-{hashlib.sha256(body).hexdigest()[:24]}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": MODEL,
        "choices": [choice],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    }


def _read_request(body: bytes) -> _Request:
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        raise _Refused(400, "The body of the request is not valid JSON.") from None
    if not isinstance(data, dict):
        raise _Refused(400, "The body of the request must be a JSON object.")
    if data.get("stream"):
        raise _Refused(400, f"{MODEL} does not stream: leave stream out.", "stream")
    if data.get("n") not in (None, 1):
        raise _Refused(400, f"{MODEL} gives one answer only: leave n out.", "n")
    texts, urls = _read_messages(data.get("messages"))
    regions = _read_regions(data.get("regions"))
    return _Request(
        texts,
        [_read_data_url(url) for url in urls],
        regions,
        None if data.get("frame") is None else _fractions("frame", data["frame"]),
        _read_keys(data.get("response_format"), regions),
        _read_max_tokens(data),
    )


def _read_messages(messages: Any) -> tuple[list[str], list[Any]]:
    """Collect the texts and the image URLs of all messages, in their order."""
    if not isinstance(messages, list) or not messages:
        raise _Refused(400, "messages must be a list with at least one message.", "messages")
    texts: list[str] = []
    urls: list[Any] = []
    for part in _parts(messages):
        if part.get("type") == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif part.get("type") == "image_url":
            image_url = part.get("image_url")
            urls.append(image_url.get("url") if isinstance(image_url, dict) else image_url)
        else:
            raise _Refused(400, "A content part must be a text or an image_url.", "messages")
    if not urls:
        raise _Refused(400, f"No image in the messages: {MODEL} describes pictures.", "messages")
    return texts, urls


def _parts(messages: list[Any]) -> Iterator[dict[str, Any]]:
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else message
        if isinstance(content, str):
            yield {"type": "text", "text": content}
        elif isinstance(content, list) and all(isinstance(part, dict) for part in content):
            yield from content
        elif content is not None or not isinstance(message, dict):
            raise _Refused(400, "content must be a string or a list of parts.", "messages")


def _read_data_url(url: Any) -> bytes:
    """Decode a base64 `data:` URL (RFC 2397); nothing is ever fetched."""
    if not isinstance(url, str) or not url.startswith("data:"):
        raise _Refused(400, "The image is not a data: URL, and nothing is fetched.", "messages")
    head, comma, payload = url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise _Refused(400, "The image's data: URL is not in base64.", "messages")
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError):
        raise _Refused(400, "The base64 of the image's data: URL is broken.", "messages") from None


def _read_regions(regions: Any) -> dict[str, Xyxy]:
    if regions is None:
        return {}
    if not isinstance(regions, dict):
        raise _Refused(400, "regions must map region numbers to [x1, y1, x2, y2].", "regions")
    return {key: _fractions(f"regions[{key!r}]", xyxy) for key, xyxy in regions.items()}


def _fractions(name: str, xyxy: Any) -> Xyxy:
    try:
        return _checked_box(name, xyxy)
    except OptionError as error:
        raise _Refused(400, str(error), name.partition("[")[0]) from None


def _read_keys(response_format: Any, regions: dict[str, Xyxy]) -> list[str] | None:
    """Read which keys the answer must have; None where plain text is asked for."""
    kind = "text" if response_format is None else _at(response_format, "type")
    if kind == "text":
        return None
    if kind == "json_object":
        return list(regions) or ["1"]
    if kind != "json_schema":
        words = "response_format must be of type text, json_object or json_schema."
        raise _Refused(400, words, "response_format")
    properties = _at(_at(_at(response_format, "json_schema"), "schema"), "properties")
    if not isinstance(properties, dict) or not all(map(_takes_string, properties.values())):
        words = "The schema must be of an object whose properties are strings."
        raise _Refused(400, words, "response_format")
    unknown = [key for key in properties if regions and key not in regions]
    if unknown:
        words = f"The schema asks for {unknown!r:.200}, which regions lacks."
        raise _Refused(400, words, "regions")
    return list(properties)


def _at(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None


def _takes_string(schema: Any) -> bool:
    kind = _at(schema, "type")
    return kind == "string" or (isinstance(kind, list) and "string" in kind)


def _read_max_tokens(data: dict[str, Any]) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        limit = data.get(name)
        if limit is not None:
            if not isinstance(limit, int) or limit < 1:
                raise _Refused(400, f"{name} must be a positive integer.", name)
            return limit
    return None


def _open_pictures(request: _Request) -> tuple[Image.Image, list[tuple[int, int]]]:
    """Decode the last picture, as small as its regions allow; read the sizes of all."""
    sizes = [_size(picture) for picture in request.pictures]
    side = _reduced_side(sizes[-1], list(request.regions.values()))
    picture = open_picture(request.pictures[-1], max_pixels=_MAX_PIXELS, max_side=side)
    if picture.image is None:
        raise _Refused(400, f"The image cannot be read: {picture.reason}.", "messages")
    return picture.image, sizes


def _size(picture: bytes) -> tuple[int, int]:
    try:
        with Image.open(io.BytesIO(picture)) as image:
            return image.size
    except Exception as error:  # bytes of any kind: a decoder may raise whatever it likes
        words = f"The image cannot be read: {type(error).__name__}."
        raise _Refused(400, words, "messages") from None


def _reduced_side(size_wh: tuple[int, int], regions: list[Xyxy]) -> int:
    """Choose the longer side to decode to: a half, quarter or eighth, which JPEG gives for less.

    The smallest region keeps 32 pixels a side, where it has them; texture needs no more.
    """
    smallest = min(
        (
            min((x2 - x1) * size_wh[0], (y2 - y1) * size_wh[1])
            for x1, y1, x2, y2 in [*regions, (0.0, 0.0, 1.0, 1.0)]
        ),
    )
    by = next((by for by in (8, 4, 2) if smallest / by >= _SAMPLE_SIDE / 2), 1)
    return math.ceil(max(size_wh) / by)


def _content(request: _Request, image: Image.Image) -> str:
    """Write the answer in the form asked for."""

    def describe(key: str) -> str:
        return describe_region(image, request.regions.get(key), frame=request.frame)

    if request.keys is not None:
        return json.dumps({key: describe(key) for key in request.keys}, ensure_ascii=False)
    if not request.regions:
        return describe("")
    return "\n".join(f"<region{key}>: {describe(key)}" for key in request.regions)


def _count_tokens(text: str) -> int:
    """Count words and punctuation marks, which is what `usage` calls a token here.

    >>> _count_tokens("Describe the content of <region1>.")
    8
    """
    return sum(1 for _ in _TOKEN.finditer(text))


def _cut(content: str, max_tokens: int | None) -> tuple[str, int, str]:
    """Cut an answer at `max_tokens`, as any endpoint does; its tokens and its finish_reason."""
    ends = [token.end() for token in _TOKEN.finditer(content)]
    if max_tokens is None or len(ends) <= max_tokens:
        return content, len(ends), "stop"
    return content[: ends[max_tokens - 1]], max_tokens, "length"


# The endpoint


class _Server(socketserver.ThreadingTCPServer):
    """A thread for each connection; at most one for each core measures at a time."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 512

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.turn = threading.BoundedSemaphore(os.cpu_count() or 1)
        self.base_url = f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing when a client goes away in mid-request; the default prints a traceback."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = default_request_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # buffered, so that head and body leave in one send
    timeout = 600
    server: _Server

    def do_GET(self) -> None:
        if self._path() == "/health":
            self._reply(200, {"status": "ok"})
        elif self._path() == "/v1/models":
            model = {"id": MODEL, "object": "model", "created": 0, "owned_by": "hf-regioncap"}
            self._reply(200, {"object": "list", "data": [model]})
        else:
            self._reply(404, _error(404, f"Unknown path: GET {self._path()}."))

    def do_POST(self) -> None:
        try:
            body = self._read_body()
            if body is not None:
                self._reply(200, self._answer(body))
        except _Refused as refusal:
            self._reply(refusal.status, _error(refusal.status, refusal.message, refusal.param))

    def _answer(self, body: bytes) -> dict[str, Any]:
        if self._path() != "/v1/chat/completions":
            raise _Refused(404, f"Unknown path: POST {self._path()}.")
        with self.server.turn:
            try:
                return _answer(body)
            except _Refused:
                raise
            except Exception as error:  # our own fault too must be an answer, not a dead connection
                raise _Refused(500, f"{MODEL} failed: {type(error).__name__}.") from error

    def _path(self) -> str:
        return self.path.partition("?")[0].rstrip("/")

    def _read_body(self) -> bytes | None:
        """Read the body by its declared length; None where the client left before its end."""
        declared = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,12}", declared) or "Transfer-Encoding" in self.headers:
            self.close_connection = True
            raise _Refused(411, "The request needs a Content-Length.")
        length = int(declared)
        if length > _MAX_BODY:
            self._discard(length)
            raise _Refused(413, f"The request has {length} bytes; {_MAX_BODY} are the most.")
        body = self.rfile.read(length)
        if len(body) == length:
            return body
        self.close_connection = True
        return None

    def _discard(self, length: int) -> None:
        """Read on without keeping it: a client that is still sending would not see the answer."""
        self.close_connection = True
        for _ in range(min(length, 16 * _MAX_BODY) // 65536):
            if not self.rfile.read(65536):
                return

    def _reply(self, status: int, payload: dict[str, Any]) -> None:
        data = json.dumps(payload).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer in the form of OpenAI's errors where the base class writes a page of HTML."""
        self.close_connection = True
        self._reply(code, _error(code, message or self.responses.get(code, ("Error.",))[0]))

    def handle_expect_100(self) -> bool:
        """Let a client that waits for a go-ahead have it at once, past the buffer."""
        go_ahead = super().handle_expect_100()
        self.wfile.flush()
        return go_ahead

    def version_string(self) -> str:
        return "hf-regioncap"

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing; the default prints every request."""


def _error(status: int, message: str, param: str | None = None) -> dict[str, Any]:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": None}}


_lock = threading.Lock()
_servers: dict[int, _Server] = {}


def serve() -> str:
    """Start the describer in this process, once, and return its base URL.

    It listens on a free port of 127.0.0.1, on daemon threads that end with the process. Later
    calls return the same URL; a forked child gets a server of its own with its first call.

    >>> serve() == serve()
    True
    """
    with _lock:
        server = _servers.get(os.getpid())
        if server is None:
            server = _servers[os.getpid()] = _Server(0)
            threading.Thread(target=server.serve_forever, name=MODEL, daemon=True).start()
        return server.base_url


def _forget_parent() -> None:
    """Drop in a forked child what belongs to its parent's threads, which it does not have."""
    global _lock
    _lock = threading.Lock()
    for server in _servers.values():
        server.socket.close()  # or the port would go on accepting after the parent's end
    _servers.clear()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_forget_parent)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve in the foreground until Ctrl-C, and print where."""
    parser = argparse.ArgumentParser(
        prog="python -m hf_regioncap.offline",
        description="An OpenAI-compatible endpoint that says what can be measured in a picture.",
    )
    parser.add_argument("--port", type=int, default=8808, help="0 takes a free one")
    try:
        server = _Server(parser.parse_args(arguments).port)
    except (OSError, OverflowError) as error:
        parser.error(f"cannot listen on that port: {error}")
    with server:
        print(f"{MODEL} at {server.base_url} (Ctrl-C ends it)", flush=True)  # noqa: T201
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
