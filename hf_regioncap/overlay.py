"""Image and boxes to a new image with numbered regions, and to crops with context.

Pure: the image given is never changed, and the same image, boxes and mark give the same pixels,
from any number of threads. Boxes are xyxy pixels of the upright image, shape (N, 4); region *k* is
the k-th of them, from 1.

How regions are marked is a `Mark`: one of the presets of `MARKS`, or a mapping of its parameters.
The default, `"box"`, follows from what a reader of the picture needs:

- strokes and numbers are scaled to the image, so that they survive the model's downsizing;
- the frame of a large box lies inside it (boxes that share an edge keep a side each), the frame of
  a small one around it (a few pixels of content stay visible);
- every stroke has a thin black or white casing, and each region takes the colour of the palette
  that differs most from the picture under its edges and from its neighbours;
- a number stands on a plate of its box's colour that touches its frame, where it hides least; if
  there is no such place, further off with a leader line.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from hf_regioncap.errors import OptionError, one_of

Shape = Literal["box", "corners", "hairline", "none"]
Label = Literal["plate", "dark", "text", "none"]
LabelAt = Literal["auto", "corner", "center"]
Outside = Literal["keep", "dim", "blur"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Rect = tuple[int, int, int, int]
Span = tuple[float, float, float, float]
Color = tuple[int, int, int]

#: Yellow, red, sky blue, violet, green, orange and white: words that a model has for what it sees,
#: all light enough for a black casing. Seen with normal colours any two are 0.17 apart in OKLab,
#: with Machado's simulations of the three kinds of colour blindness (2009) 0.09; Okabe and Ito's
#: seven, of which two need a white casing, are 0.16 and 0.08 apart.
PALETTE = ("#ffee33", "#ff3322", "#44ccff", "#dd44ff", "#22bb88", "#ff9922", "#ffffff")

_CHOICES: dict[str, tuple[str, ...]] = {
    "shape": ("box", "corners", "hairline", "none"),
    "label": ("plate", "dark", "text", "none"),
    "label_at": ("auto", "corner", "center"),
    "outside": ("keep", "dim", "blur"),
}


@dataclass(frozen=True)
class Mark:
    """How regions are marked; colours are "#rrggbb", lengths pixels, `None` scales to the image.

    - `shape`: "box" (a frame), "corners" (its corners), "hairline" (a thin frame, never with a
      casing), "none"
    - `colors`: one colour for all, or a palette to choose from for each region
    - `thickness`: of the stroke
    - `casing`: whether strokes and plates get a thin line of contrast around them
    - `label`: the number on a "plate" of the region's colour, white on a "dark" one, as bare "text"
      with a halo, or "none"
    - `label_at`: "auto" (touching the frame, where it hides least), "corner" (inside, top left) or
      "center" (unless that would hide the region)
    - `label_size`: font size of the number
    - `outside`, `strength`: what becomes of the picture outside the regions: "keep", "dim" (by that
      share of its light) or "blur" (by that share of the strongest blur)
    - `darken`: the share of light that the whole picture loses

    A value that is not one of these raises `OptionError`.

    >>> Mark(shape="corners", colors="#00FF00").colors
    ('#00ff00',)
    """

    shape: Shape = "box"
    colors: tuple[str, ...] = PALETTE
    thickness: float | None = None
    casing: bool = True
    label: Label = "plate"
    label_at: LabelAt = "auto"
    label_size: float | None = None
    outside: Outside = "keep"
    strength: float = 0.5
    darken: float = 0.0

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            one_of(f"mark[{name!r}]", getattr(self, name), choices)
        object.__setattr__(self, "colors", _checked_colors(self.colors))
        _check(isinstance(self.casing, bool), "casing", "true or false", self.casing)
        for name in ("thickness", "label_size"):
            value = getattr(self, name)
            fits = value is None or (_is_number(value) and 0 < value <= 1000)
            _check(fits, name, "None or a number of pixels (above 0, at most 1000)", value)
        for name in ("strength", "darken"):
            value = getattr(self, name)
            _check(_is_number(value) and 0 <= value <= 1, name, "a number from 0 to 1", value)


def _check(fits: bool, name: str, expected: str, value: object) -> None:
    if not fits:
        raise OptionError(f"mark[{name!r}] must be {expected}, got {value!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _checked_colors(colors: object) -> tuple[str, ...]:
    listed = [colors] if isinstance(colors, str) or not isinstance(colors, Sequence) else colors
    fits = len(listed) > 0 and all(_is_color(color) for color in listed)
    _check(fits, "colors", 'a "#rrggbb" colour or a list of them', colors)
    return tuple(str(color).lower() for color in listed)


def _is_color(value: object) -> bool:
    if not (isinstance(value, str) and len(value) == 7 and value.startswith("#")):
        return False
    return all(digit in "0123456789abcdef" for digit in value[1:].lower())


MARKS: dict[str, Mark] = {
    "box": Mark(),
    "corners": Mark(shape="corners"),
    "tag": Mark(shape="hairline", label_at="center"),
    "dim": Mark(shape="hairline", outside="dim"),
    "blur": Mark(shape="hairline", outside="blur"),
    # DataFlow-MM's paint_text_box: the photo at 0.8 of its light, pure green, 2 pixels, white
    # numbers on black inside the top left corner.
    "dataflow": Mark(
        colors=("#00ff00",),
        thickness=2,
        casing=False,
        label="dark",
        label_at="corner",
        label_size=20,
        darken=0.2,
    ),
}


def resolve_mark(mark: str | Mapping[str, object] | Mark) -> Mark:
    """Return the `Mark` of a preset's name, or of a mapping of parameters.

    A mapping starts from `"preset"` (default `"box"`). What is neither raises `OptionError`, which
    names the choices.

    >>> resolve_mark("tag").shape
    'hairline'
    >>> resolve_mark({"preset": "dim", "strength": 0.3}).strength
    0.3
    >>> resolve_mark("circle")
    Traceback (most recent call last):
    ...
    hf_regioncap.errors.OptionError: mark must be one of ('box', 'corners', ...), got 'circle'
    """
    if isinstance(mark, Mark):
        return mark
    if not isinstance(mark, Mapping):
        return MARKS[one_of("mark", mark, tuple(MARKS))]
    changes = dict(mark)
    preset = one_of("mark['preset']", changes.pop("preset", "box"), tuple(MARKS))
    known = tuple(field.name for field in fields(Mark))
    for name in changes:
        if name not in known:
            raise OptionError(f"mark has no {name!r}; its parameters are {('preset', *known)}")
    return replace(MARKS[preset], **changes)  # type: ignore[arg-type]  # checked by Mark itself


def mark_as_dict(mark: Mark) -> dict[str, object]:
    """Return all parameters in JSON's types; `resolve_mark` reads them back.

    >>> resolve_mark(mark_as_dict(MARKS["dataflow"])) == MARKS["dataflow"]
    True
    """
    return {**asdict(mark), "colors": list(mark.colors)}


def draw_regions(
    image: Image.Image,
    xyxy: ArrayLike,
    *,
    mark: str | Mapping[str, object] | Mark = "box",
) -> Image.Image:
    """Return a new RGB image of the same size with the regions marked and numbered 1..N.

    `xyxy` are pixel boxes, shape (N, 4); none give a plain copy. `OptionError` for a mark that does
    not exist and for boxes of another shape or not finite.

    >>> photo = Image.new("RGB", (640, 480), "gray")
    >>> marked = draw_regions(photo, [[40, 30, 200, 180], [300, 100, 600, 400]])
    >>> marked.size, marked == photo, photo.getcolors()
    ((640, 480), False, [(307200, (128, 128, 128))])
    """
    mark = resolve_mark(mark)
    boxes = _pixel_boxes(xyxy, image.size)
    canvas = image.convert("RGB")
    canvas.info = {}
    if not boxes:
        return canvas
    colors = [_rgb(color) for color in _choose_colors(canvas, boxes, mark.colors)]
    canvas = _shade(canvas, boxes, mark)
    stroke = _stroke(mark, len(boxes), image.size)
    frames = [_frame(box, image.size, stroke) for box in boxes]
    draw = ImageDraw.Draw(canvas)
    for k in sorted(range(len(boxes)), key=lambda k: -_area(boxes[k])):
        _draw_frame(draw, frames[k], mark.shape, colors[k])
    if mark.label != "none":
        _draw_labels(draw, frames, colors, mark)
    return canvas


def region_colors(
    image: Image.Image,
    xyxy: ArrayLike,
    *,
    mark: str | Mapping[str, object] | Mark = "box",
) -> tuple[str, ...]:
    """Return the colour that `draw_regions` gives each region, "#rrggbb", so that a crop can match.

    >>> region_colors(Image.new("RGB", (64, 48), "#ffee33"), [[9, 9, 30, 30]], mark="box")
    ('#ff3322',)
    >>> region_colors(Image.new("RGB", (64, 48)), [[9, 9, 30, 30]], mark="dataflow")
    ('#00ff00',)
    """
    mark = resolve_mark(mark)
    return _choose_colors(image, _pixel_boxes(xyxy, image.size), mark.colors)


def crop_region(
    image: Image.Image,
    xyxy_one: ArrayLike,
    *,
    mark: str | Mapping[str, object] | Mark = "box",
    context: float = 3.0,
    min_side: int = 336,
    max_side: int = 1536,
) -> Image.Image:
    """Return one region (xyxy pixels, shape (4,)) as a new RGB image with its surroundings.

    What is shown is `crop_window`. Windows with a shorter side under `min_side` pixels are enlarged
    (at most eight times), those with a longer one over `max_side` reduced. Where there is context,
    a thin mark without a number shows the box. Sides are at least 28 pixels and at most 200:1,
    which is what Qwen's image processor takes: thinner pictures are padded with grey.

    >>> photo = Image.new("RGB", (640, 480), "gray")
    >>> crop_region(photo, [300, 200, 360, 250]).size
    (403, 336)
    """
    mark = resolve_mark(mark)
    box = _pixel_box(xyxy_one, image.size)
    window = crop_window(image.size, xyxy_one, context=context)
    width, height = window[2] - window[0], window[3] - window[1]
    scale = _zoom(width, height, min_side, max_side)
    size_wh = (max(1, round(width * scale)), max(1, round(height * scale)))
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    crop = rgb.resize(size_wh, Image.Resampling.LANCZOS, box=window, reducing_gap=2.0)
    crop.info = {}
    if _area(box) < 0.9 * width * height:
        sx, sy = size_wh[0] / width, size_wh[1] / height
        inner = np.array([box], dtype=np.float64) - [window[0], window[1]] * 2
        crop = draw_regions(crop, inner * [sx, sy, sx, sy], mark=_thin(mark, size_wh))
    return _padded(crop)


def crop_window(size_wh: tuple[int, int], xyxy_one: ArrayLike, *, context: float = 3.0) -> Rect:
    """Return the part of the image that `crop_region` shows, xyxy pixels, half open.

    `context` times the box around its centre, clipped to the image; small and thin boxes get more,
    and the larger its share of the image the less a box gets.

    >>> crop_window((640, 480), [300, 200, 360, 250])
    (240, 150, 420, 300)
    >>> crop_window((640, 480), [300, 200, 304, 202])
    (246, 145, 358, 257)
    >>> crop_window((640, 480), [20, 10, 620, 470])
    (20, 10, 620, 470)
    """
    if not context >= 1:
        raise OptionError(f"context must be a number from 1, got {context!r}")
    box = _pixel_box(xyxy_one, size_wh)
    share = _area(box) ** 0.5 / _scale(size_wh)
    # All of the context up to 30 % of the image's side, none from 90 % on.
    factor = 1 + (context - 1) * min(1.0, max(0.0, (0.9 - share) / 0.6))
    # So that there is something around small and thin boxes: a fifth of the image or 224 pixels,
    # and a quarter of the other side; in proportion where less context was asked for.
    given = min(1.0, (context - 1) / 2)
    margin = given * min(_scale(size_wh) / 5, 224)
    width, height = box[2] - box[0], box[3] - box[1]
    least = max(margin, given * max(width, height) * factor / 4)
    x0, x1 = _around(box[0], box[2], size_wh[0], factor, least)
    y0, y1 = _around(box[1], box[3], size_wh[1], factor, least)
    return x0, y0, x1, y1


# --- boxes and sizes


def _pixel_boxes(xyxy: ArrayLike, size_wh: tuple[int, int]) -> list[Rect]:
    """Snap boxes to whole pixels of the image, half open, at least one pixel each."""
    boxes = np.asarray(xyxy, dtype=np.float64)
    if boxes.size == 0:
        return []
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
        raise OptionError(f"xyxy must be finite numbers of shape (N, 4), got {boxes.tolist()!r}")
    limit = np.array([*size_wh, *size_wh])
    low = np.clip(np.rint(boxes), 0, limit - 1)[:, :2]
    high = np.clip(np.rint(boxes)[:, 2:], low + 1, limit[2:])
    return [(x0, y0, x1, y1) for x0, y0, x1, y1 in np.hstack([low, high]).astype(int).tolist()]


def _pixel_box(xyxy_one: ArrayLike, size_wh: tuple[int, int]) -> Rect:
    if np.shape(xyxy_one) != (4,):
        raise OptionError(f"xyxy_one must be four finite numbers, got {xyxy_one!r}")
    return _pixel_boxes(np.asarray(xyxy_one)[None], size_wh)[0]


#: Above so many regions, strokes and numbers get smaller.
_MANY = 12


def _area(box: Rect) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _scale(size_wh: tuple[int, int]) -> float:
    """One length for the image, in pixels: what thickness and text are proportional to."""
    return float((size_wh[0] * size_wh[1]) ** 0.5)


# --- colours


def _rgb(color: str) -> Color:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


#: sRGB to linear light (IEC 61966-2-1), by 8-bit value.
_LINEAR = np.array(
    [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in np.arange(256) / 255]
)
#: Linear sRGB to OKLab (Björn Ottosson, 2020), transposed for rows of colours.
_TO_LMS = np.array(
    [
        [0.4122214708, 0.2119034982, 0.0883024619],
        [0.5363325363, 0.6806995451, 0.2817188376],
        [0.0514459929, 0.1073969566, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 1.9779984951, 0.0259040371],
        [0.7936177850, -2.4285922050, 0.7827717662],
        [-0.0040720468, 0.4505937099, -0.8086757660],
    ]
)


def _oklab(rgb: NDArray[np.uint8]) -> Floats:
    """Map 8-bit colours (..., 3) to OKLab, where distances are about as large as they look."""
    lab: Floats = np.cbrt(_LINEAR[rgb] @ _TO_LMS) @ _TO_LAB
    return lab


@lru_cache(maxsize=64)
def _palette(colors: tuple[str, ...]) -> tuple[Floats, Floats]:
    """Return the palette in OKLab (P, 3), and how alike its colours look (P, P), 1 for the same."""
    lab = _oklab(np.array([_rgb(color) for color in colors], dtype=np.uint8))
    return lab, (1 - _apart(lab, lab) / 0.25).clip(min=0) ** 2


@lru_cache(maxsize=256)
def _contrast(color: Color) -> Color:
    """Black or white, whichever has the higher WCAG 2 contrast with `color`."""
    luminance = float(_LINEAR[list(color)] @ [0.2126, 0.7152, 0.0722])
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)


#: Where the picture is looked at: twelve points along each edge, as (x, y) shares of the box.
_ALONG = (np.arange(12) + 0.5) / 12
_EDGE_POINTS = np.concatenate(
    [
        np.stack([_ALONG, np.full(12, 0.0)], axis=1),
        np.stack([_ALONG, np.full(12, 1.0)], axis=1),
        np.stack([np.full(12, 0.0), _ALONG], axis=1),
        np.stack([np.full(12, 1.0), _ALONG], axis=1),
    ]
)


def _choose_colors(
    canvas: Image.Image, boxes: list[Rect], colors: tuple[str, ...]
) -> tuple[str, ...]:
    """Give each box the colour furthest from what is under its edges and from its neighbours."""
    if len(colors) == 1 or not boxes:
        return colors[:1] * len(boxes)
    palette, alike = _palette(colors)
    xyxy = np.array(boxes, dtype=np.float64)
    stands_out = np.minimum(_apart(_under_edges(canvas, xyxy), palette) / 0.35, 1).mean(axis=1)
    # Rounded, so that two machines' last digits don't choose differently.
    merit = np.round(stands_out, 4) - 0.01 * np.arange(len(colors))
    near = _nearness(xyxy, _scale(canvas.size))
    chosen: list[int] = []
    for k in range(len(boxes)):
        chosen.append(int(merit[k].argmax()))
        merit -= near[k][:, None] * alike[chosen[k]]
    return tuple(colors[index] for index in chosen)


def _apart(lab: Floats, palette: Floats) -> Floats:
    """Distances of colours (..., 3) from those of a palette (P, 3), (..., P)."""
    squares = (lab**2).sum(axis=-1)[..., None] + (palette**2).sum(axis=-1) - 2 * lab @ palette.T
    apart: Floats = np.sqrt(np.maximum(squares, 0))
    return apart


def _under_edges(canvas: Image.Image, xyxy: Floats) -> Floats:
    """Look at the picture under each box's edges, OKLab (N, 48, 3), in a thumbnail."""
    shrink = min(1.0, 160 / max(canvas.size))
    width, height = (max(1, round(side * shrink)) for side in canvas.size)
    thumbnail = canvas.resize((width, height), Image.Resampling.NEAREST).convert("RGB")
    points = xyxy[:, None, :2] + (xyxy[:, None, 2:] - xyxy[:, None, :2]) * _EDGE_POINTS
    grid = (points * [width / canvas.width, height / canvas.height]).astype(int)
    return _oklab(
        np.asarray(thumbnail)[grid[..., 1].clip(max=height - 1), grid[..., 0].clip(max=width - 1)]
    )


def _nearness(xyxy: Floats, scale: float) -> Floats:
    """How much two boxes are neighbours (N, N): 1 where they touch, less with the gap between."""
    low, high = xyxy[:, :2], xyxy[:, 2:]
    gap = np.maximum(low[:, None] - high, low - high[:, None]).clip(min=0).max(axis=-1)
    near: Floats = np.round(0.1 + 0.9 * np.exp(-gap / (0.08 * scale)), 4)
    return near


# --- the picture outside the regions


def _shade(canvas: Image.Image, boxes: list[Rect], mark: Mark) -> Image.Image:
    """Darken the picture, and dim or blur what no region covers."""
    if mark.darken:
        canvas = _dimmed(canvas, mark.darken)
    if mark.outside == "keep" or not mark.strength:
        return canvas
    effect = _dimmed if mark.outside == "dim" else _blurred
    shaded = effect(canvas, mark.strength)
    for box in boxes:
        shaded.paste(canvas.crop(box), box)
    return shaded


def _dimmed(image: Image.Image, share: float) -> Image.Image:
    return image.point([round(value * (1 - share)) for value in range(256)] * 3)


def _blurred(image: Image.Image, share: float) -> Image.Image:
    """Blur by a radius of up to 4 % of the image; large radii on a reduced copy, for speed."""
    radius = share * 0.04 * _scale(image.size)
    factor = max(1, int(radius / 3))
    small = image.reduce(factor).filter(ImageFilter.GaussianBlur(radius / factor))
    return small.resize(image.size, Image.Resampling.BICUBIC)


# --- frames


class _Stroke(NamedTuple):
    """Widths in pixels of the coloured line and of the casing on each side of it."""

    line: int
    casing: int

    @property
    def band(self) -> int:
        return self.line + 2 * self.casing


class _Frame(NamedTuple):
    """The rectangle whose inner rim is the band of the stroke; it may reach beyond the image."""

    rect: Rect
    stroke: _Stroke


def _stroke(mark: Mark, count: int, size_wh: tuple[int, int]) -> _Stroke:
    """Scaled to the image, thinner for many regions, a fixed width if the mark has one."""
    least = 2.0 if min(size_wh) > 120 else 1.0
    scaled = max(least, _scale(size_wh) / 220 * (0.7 if count > _MANY else 1))
    if mark.shape == "hairline":  # of which a casing would be the larger part
        return _Stroke(max(1, round(mark.thickness or scaled / 1.6)), 0)
    line = max(1, round(mark.thickness or scaled))
    return _Stroke(line, max(1, round(line / 3)) if mark.casing else 0)


def _frame(box: Rect, size_wh: tuple[int, int], stroke: _Stroke) -> _Frame:
    """Lay the band inside a large box, around a small one."""
    x0, y0, x1, y1 = box
    width, height = size_wh
    short = min(x1 - x0, y1 - y0)
    if short < 12 * stroke.line:
        band = stroke.band
        around = (x0 - band, y0 - band, x1 + band, y1 + band)
        if around[0] >= 0 or around[1] >= 0 or around[2] <= width or around[3] <= height:
            return _Frame(around, stroke)
        # A tiny image that is all box: there is no room around it.
        stroke = _Stroke(min(stroke.line, max(1, short // 6)), 0)
    c = stroke.casing
    rect = (max(x0 - c, 0), max(y0 - c, 0), min(x1 + c, width), min(y1 + c, height))
    return _Frame(rect, stroke)


def _draw_frame(draw: ImageDraw.ImageDraw, frame: _Frame, shape: str, color: Color) -> None:
    """Draw the casing, and the line on it."""
    line, casing = frame.stroke
    coats = [(0, frame.stroke.band, _contrast(color)), (casing, line, color)]
    for inset, width, ink in coats if casing else coats[1:]:
        if shape == "corners":
            for bar in _corners(frame):
                draw.rectangle(_inset(bar, inset), fill=ink)
        elif shape != "none":
            draw.rectangle(_inset(frame.rect, inset), outline=ink, width=width)


def _inset(rect: Rect, by: int) -> Rect:
    """Pillow's corners, which it paints too, of a half open rectangle made smaller all round."""
    x0, y0, x1, y1 = rect
    return x0 + by, y0 + by, x1 - 1 - by, y1 - 1 - by


def _corners(frame: _Frame) -> list[Rect]:
    """The eight bars of the corners, each a quarter of its side, or longer on small boxes."""
    x0, y0, x1, y1 = frame.rect
    b = frame.stroke.band
    ax, ay = (max(side // 4, min(3 * b, side // 2 - b), b) for side in (x1 - x0, y1 - y0))
    across = [(x, y, x + ax, y + b) for x in (x0, x1 - ax) for y in (y0, y1 - b)]
    down = [(x, y, x + b, y + ay) for x in (x0, x1 - b) for y in (y0, y1 - ay)]
    return across + down


# --- labels


_FONT_LOCK = threading.Lock()  # a FreeType face must not be used by two threads at once


@lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


@lru_cache(maxsize=512)
def _digits(text: str, size: int, halo: int = 0) -> Image.Image:
    """Return the text's coverage, mode L, cut to what is inked; `halo` pixels wider all round."""
    with _FONT_LOCK:
        font = _font(size)
        stroke = size / 28 + halo
        box = font.getbbox(text, stroke_width=stroke)
        mask = Image.new("L", (int(box[2]) + size, int(box[3]) + size))
        ImageDraw.Draw(mask).text((size // 2, 0), text, fill=255, font=font, stroke_width=stroke)
    return mask.crop(mask.getbbox())


def _label_size(mark: Mark, count: int, size_wh: tuple[int, int]) -> int:
    """Font size in pixels: scaled to the image, smaller for many regions, never half the image."""
    wanted = mark.label_size or max(12.0, _scale(size_wh) / 26) * (0.85 if count > _MANY else 1)
    return int(min(wanted, size_wh[0] / 2.5, size_wh[1] / 2))


def _draw_labels(
    draw: ImageDraw.ImageDraw, frames: list[_Frame], colors: list[Color], mark: Mark
) -> None:
    """Number the frames 1..N; on images too small for any legible digit, don't."""
    size_wh = draw.im.size
    size = _label_size(mark, len(frames), size_wh)
    if size < 6:
        return
    digits = [_digits(str(k), size) for k in range(1, len(frames) + 1)]
    rim = max(1, round(size / 20)) if mark.casing else 0
    label_wh = _label_wh(digits, size, rim)
    rects = np.array([frame.rect for frame in frames])
    join = frames[0].stroke.casing if mark.shape != "none" else 0
    places = _place_labels(rects, label_wh, size_wh, at=mark.label_at, join=join)
    labels = [(x0, y0, x1, y1) for x0, y0, x1, y1 in places.tolist()]
    for rect, frame, label, color in zip(
        _clipped(rects, size_wh), frames, labels, colors, strict=True
    ):
        _draw_leader(draw, label, _span(rect), color, frame.stroke)
    for k, (label, color) in enumerate(zip(labels, colors, strict=True)):
        _draw_label(draw, label, str(k + 1), size, color, rim, mark.label)


def _label_wh(digits: list[Image.Image], size: int, rim: int) -> Ints:
    """Plate sizes (N, 2): of one height, at least square, the digits padded by 2 pixels or more."""
    height = max(mask.height for mask in digits) + 2 * (max(2, round(size * 0.17)) + rim)
    pad = 2 * (max(2, round(size * 0.2)) + rim)
    return np.array([(max(mask.width + pad, height), height) for mask in digits])


def _draw_label(
    draw: ImageDraw.ImageDraw,
    label: Rect,
    text: str,
    size: int,
    color: Color,
    rim: int,
    style: str,
) -> None:
    ink = _contrast(color)
    if style == "text":
        _draw_centered(draw, label, _digits(text, size, max(1, round(size / 12))), ink)
        _draw_centered(draw, label, _digits(text, size), color)
        return
    plate, ink = (color, ink) if style == "plate" else ((0, 0, 0), (255, 255, 255))
    if rim:
        draw.rectangle(_inset(label, 0), fill=_contrast(plate))
    draw.rectangle(_inset(label, rim), fill=plate)
    _draw_centered(draw, label, _digits(text, size), ink)


def _draw_centered(draw: ImageDraw.ImageDraw, label: Rect, mask: Image.Image, color: Color) -> None:
    x = (label[0] + label[2] - mask.width) // 2
    y = (label[1] + label[3] - mask.height) // 2
    draw.bitmap((x, y), mask, fill=color)


def _draw_leader(
    draw: ImageDraw.ImageDraw, label: Rect, frame: Span, color: Color, stroke: _Stroke
) -> None:
    """Connect a label that stands off its frame to the nearest point of it."""
    line = _leader(label, frame)
    if line is None:
        return
    if stroke.casing:
        draw.line(line, fill=_contrast(color), width=stroke.band)
    draw.line(line, fill=color, width=stroke.line)


# --- where labels go

#: Places that touch a frame, best first. Each gives the label's left as a sum over (frame left,
#: frame right, label width, join) and its top likewise; then what it costs by itself.
_ANCHORS: tuple[tuple[tuple[float, ...], tuple[float, ...], float], ...] = (
    ((1, 0, 0, 0), (1, 0, -1, 1), 0.00),  # above, left
    ((1, 0, 0, 0), (1, 0, 0, 0), 0.02),  # inside, top left
    ((0, 1, -1, 0), (1, 0, -1, 1), 0.03),  # above, right
    ((1, 0, 0, 0), (0, 1, 0, -1), 0.04),  # below, left
    ((0, 1, -1, 0), (0, 1, 0, -1), 0.05),  # below, right
    ((1, 0, -1, 1), (1, 0, 0, 0), 0.06),  # left, top
    ((0, 1, 0, -1), (1, 0, 0, 0), 0.06),  # right, top
    ((1, 0, -1, 1), (0, 1, -1, 0), 0.07),  # left, bottom
    ((0, 1, 0, -1), (0, 1, -1, 0), 0.07),  # right, bottom
    ((0, 1, -1, 0), (1, 0, 0, 0), 0.05),  # inside, top right
    ((1, 0, 0, 0), (0, 1, -1, 0), 0.06),  # inside, bottom left
    ((0, 1, -1, 0), (0, 1, -1, 0), 0.07),  # inside, bottom right
    ((0.5, 0.5, -0.5, 0), (1, 0, -1, 1), 0.10),  # above, middle
    ((0.5, 0.5, -0.5, 0), (0, 1, 0, -1), 0.10),  # below, middle
    ((1, 0, -1, 1), (0.5, 0.5, -0.5, 0), 0.10),  # left, middle
    ((0, 1, 0, -1), (0.5, 0.5, -0.5, 0), 0.10),  # right, middle
    ((0.5, 0.5, -0.5, 0), (1, 0, 0, 0), 0.12),  # inside, top middle
    ((0.5, 0.5, -0.5, 0), (0, 1, -1, 0), 0.12),  # inside, bottom middle
    ((0.5, 0.5, -0.5, 0), (0.5, 0.5, -0.5, 0), 0.20),  # the center
)
_ANCHOR_X = np.array([anchor[0] for anchor in _ANCHORS])
_ANCHOR_Y = np.array([anchor[1] for anchor in _ANCHORS])
_ANCHOR_COST = np.array([anchor[2] for anchor in _ANCHORS])
#: The place that a mark can ask for, and how gladly it is taken: the corner even where it hides a
#: small box, as DataFlow-MM's program does, the center not.
_WANTED = {"corner": (1, 100.0), "center": (18, 0.6)}
#: What a place may cost before one further off is looked for.
_DEAR = 0.9


def _place_labels(
    frames: Ints, label_wh: Ints, size_wh: tuple[int, int], *, at: str = "auto", join: int = 0
) -> Ints:
    """Place a label for each frame, both xyxy half open, (N, 4): in the image, none on another.

    Greedy, from the smallest frame up: the cheapest free place that touches the frame; if that
    would hide too much, one with a leader line. Only where the image has no free place at all do
    labels overlap. `join` is how far a label reaches into its frame.
    """
    scene = _Scene(_clipped(frames, size_wh), label_wh.astype(np.float64), size_wh, join)
    anchored = scene.anchored()
    costs = scene.costs(anchored, np.arange(len(frames))) + _ANCHOR_COST
    if at in _WANTED:
        anchor, gladly = _WANTED[at]
        costs[:, anchor] -= gladly
    places = np.zeros_like(frames)
    taken: list[Span] = []
    for k in np.argsort(_areas(scene.frames), kind="stable").tolist():
        place = scene.place(k, anchored[k], costs[k], taken)
        places[k] = place
        taken += [place, *_along_leader(place, scene.frame(k))]
    return places


class _Scene(NamedTuple):
    """What labels are placed among: frames (N, 4), label sizes (N, 2), the image's size."""

    frames: Floats
    label_wh: Floats
    size_wh: tuple[int, int]
    join: int

    def frame(self, k: int) -> Span:
        return _span(self.frames[k])

    def rects(self, left: Floats, top: Floats, wh: Floats) -> Floats:
        """Labels (..., 4) at these corners, moved into the image."""
        left = np.maximum(np.minimum(np.floor(left), self.size_wh[0] - wh[..., 0]), 0)
        top = np.maximum(np.minimum(np.floor(top), self.size_wh[1] - wh[..., 1]), 0)
        return np.stack([left, top, left + wh[..., 0], top + wh[..., 1]], axis=-1)

    def anchored(self) -> Floats:
        """All places that touch the frames, (N, A, 4)."""
        x0, y0, x1, y1 = self.frames.T
        width, height = self.label_wh.T
        join = np.full(len(self.frames), float(self.join))
        left = np.stack([x0, x1, width, join], axis=1) @ _ANCHOR_X.T
        top = np.stack([y0, y1, height, join], axis=1) @ _ANCHOR_Y.T
        return self.rects(left, top, self.label_wh[:, None])

    def costs(self, places: Floats, own: Ints) -> Floats:
        """What labels at `places` (M, K, 4) of the frames `own` (M,) hide and confuse, (M, K)."""
        rows = np.arange(len(own))
        # A label that reaches over a frame's casing, its own or of a box next door, hides nothing.
        sides = self.frames[:, 2:] - self.frames[:, :2]
        margin = np.minimum(2 * self.join + 1, sides.min(axis=1) / 4)
        inner = self.frames + margin[:, None] * [1, 1, -1, -1]
        shared = _overlap(places[:, :, None], inner)
        covering = shared / _areas(places)[:, :, None]
        hidden = shared / _areas(inner)
        hidden[rows, :, own] *= 0.6
        crossing = (shared > 0) & (covering < 0.999)
        # In another region a label may be read as its number, unless that holds the own one too.
        mistaken = np.where(_contains(self.frames, self.frames[own])[:, None], 0.0, covering)
        cost: Floats = (8 * hidden + 0.12 * crossing + 0.1 * mistaken).sum(axis=-1)
        return cost

    def place(self, k: int, anchored: Floats, costs: Floats, taken: list[Span]) -> Span:
        """The best free place for label k."""
        best, cost = self.first_free(k, anchored, costs, taken)
        if cost > _DEAR:
            further, further_costs = self.further(k)
            other, other_cost = self.first_free(k, further, further_costs, taken)
            best = other if other_cost < cost else best
        return best or self.anywhere(k, taken)

    def first_free(
        self, k: int, places: Floats, costs: Floats, taken: list[Span]
    ) -> tuple[Span | None, float]:
        """The cheapest of `places` (K, 4) that is free, its leader line too, and its cost."""
        frame = self.frame(k)
        for a in costs.argsort(kind="stable").tolist():
            place = _span(places[a])
            if _is_free(place, taken) and all(
                _is_free(bit, taken) for bit in _along_leader(place, frame)
            ):
                return place, float(costs[a])
        return None, np.inf

    def further(self, k: int) -> tuple[Floats, Floats]:
        """Places (K, 4) on rings around the frame, from just inside it on, and their costs."""
        x0, y0, x1, y1 = self.frames[k]
        wh = self.label_wh[k]
        gaps = np.repeat(_RING_GAPS, len(_RING))
        steps = np.where(gaps[:, None] < 0, gaps[:, None] * wh, gaps[:, None] * wh[1])
        half = np.array([x1 - x0 + wh[0], y1 - y0 + wh[1]]) / 2
        reach = np.tile(_RING, (len(_RING_GAPS), 1)) * (half + steps)
        left = (x0 + x1 - wh[0]) / 2 + reach[:, 0]
        top = (y0 + y1 - wh[1]) / 2 + reach[:, 1]
        places = self.rects(left, top, np.tile(wh, (len(gaps), 1)))
        return places, self.costs_with_leader(k, places)

    def costs_with_leader(self, k: int, places: Floats) -> Floats:
        """What any places (K, 4) cost label k, (K,): the further from its frame, the more."""
        x0, y0, x1, y1 = self.frames[k]
        across = np.maximum(x0 - places[:, 2], places[:, 0] - x1).clip(min=0)
        down = np.maximum(y0 - places[:, 3], places[:, 1] - y1).clip(min=0)
        away = np.hypot(across, down) / self.label_wh[k, 1]
        leader = np.where(away > 0, 0.4 + 0.2 * away, 0.15)
        costs: Floats = self.costs(places[None], np.array([k]))[0] + leader
        return costs

    def anywhere(self, k: int, taken: list[Span]) -> Span:
        """The best free place on a grid over the image, or else the one that hides least labels."""
        wh = self.label_wh[k]
        columns, rows = (
            np.arange(0, max(side - length, 0) + 1, max(1, length // 2))
            for side, length in zip(self.size_wh, wh.tolist(), strict=True)
        )
        left, top = (axis.ravel() for axis in np.meshgrid(columns, rows))
        places = self.rects(left, top, np.tile(wh, (left.size, 1)))
        costs = self.costs_with_leader(k, places)
        best, _cost = self.first_free(k, places, costs, taken)
        if best is not None:
            return best
        over = _overlap(places[:, None], np.array(taken).reshape(-1, 4)).sum(axis=-1)
        return _span(places[np.lexsort((costs, over))[0]])


#: Sixteen directions to the rim of a square, and the gaps, in label heights, at which labels are
#: tried in them: -1 is inside the frame.
_RING = np.array(
    [(x / 2, y / 2) for y in range(-2, 3) for x in range(-2, 3) if max(abs(x), abs(y)) == 2]
)
_RING_GAPS = np.array([-1.0, 0.0, 0.8, 1.6, 2.8, 4.5])


def _areas(rects: Floats) -> Floats:
    areas: Floats = (rects[..., 2] - rects[..., 0]) * (rects[..., 3] - rects[..., 1])
    return areas


def _overlap(a: Floats, b: Floats) -> Floats:
    """Shared area of rectangles (..., 4), broadcast against each other."""
    width = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0])
    height = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1])
    shared: Floats = np.maximum(width, 0) * np.maximum(height, 0)
    return shared


def _contains(outer: Floats, inner: Floats) -> NDArray[np.bool_]:
    """Whether each of `inner` (M, 4) lies in each of `outer` (N, 4), (M, N)."""
    sign = np.array([1, 1, -1, -1])
    held: NDArray[np.bool_] = ((inner * sign)[:, None] >= outer * sign).all(axis=-1)
    return held


def _clipped(rects: Ints, size_wh: tuple[int, int]) -> Floats:
    return rects.clip(0, [*size_wh, *size_wh]).astype(np.float64)


def _span(rect: Floats) -> Span:
    x0, y0, x1, y1 = rect.tolist()
    return x0, y0, x1, y1


def _is_free(rect: Span, taken: list[Span]) -> bool:
    x0, y0, x1, y1 = rect
    for a0, b0, a1, b1 in taken:  # noqa: SIM110  # a generator under all() takes twice the time
        if x0 < a1 and a0 < x1 and y0 < b1 and b0 < y1:
            return False
    return True


def _leader(label: Span, frame: Span) -> tuple[float, float, float, float] | None:
    """From a label's middle to the nearest point of its frame; None if they touch."""
    x0, y0, x1, y1 = frame
    if label[0] <= x1 and x0 <= label[2] and label[1] <= y1 and y0 <= label[3]:
        return None
    x, y = (label[0] + label[2]) / 2, (label[1] + label[3]) / 2
    return x, y, min(max(x, x0), x1 - 1), min(max(y, y0), y1 - 1)


def _along_leader(label: Span, frame: Span) -> list[Span]:
    """Small squares along a leader line, which other labels must not cover."""
    line = _leader(label, frame)
    if line is None:
        return []
    x, y, to_x, to_y = line
    half = (label[3] - label[1]) / 8
    steps = np.linspace(0, 1, max(2, int(np.hypot(to_x - x, to_y - y) / (2 * half)))).tolist()
    centers = [(x + (to_x - x) * step, y + (to_y - y) * step) for step in steps]
    return [(cx - half, cy - half, cx + half, cy + half) for cx, cy in centers]


# --- crops

#: What Qwen's image processor takes: sides of 28 pixels and more, at most 200:1.
_LEAST_SIDE = 28
_MOST_ASPECT = 200
_MOST_ENLARGED = 8.0


def _around(low: int, high: int, side: int, factor: float, least: float) -> tuple[int, int]:
    """One axis of the window: `factor` times the box, clipped, but at least `least` if there is."""
    center, half = (low + high) / 2, (high - low) / 2 * factor
    least = min(least, side)
    start = min(max(center - least / 2, 0), side - least)
    first = min(start, max(center - half, 0))
    last = max(start + least, min(center + half, side))
    return min(int(first), low), max(min(side, int(np.ceil(last))), high)


def _zoom(width: int, height: int, min_side: int, max_side: int) -> float:
    """How much a window is enlarged; below 1: reduced."""
    enlarged = min(_MOST_ENLARGED, max(1.0, min_side / min(width, height)))
    return min(enlarged, max_side / max(width, height))


def _thin(mark: Mark, size_wh: tuple[int, int]) -> Mark:
    """The mark for a crop: a thin frame without a number."""
    shape: Shape = "corners" if mark.shape == "corners" else "box"
    thickness = mark.thickness or max(2.0, _scale(size_wh) / 300)
    return replace(mark, shape=shape, thickness=thickness, label="none")


def _padded(image: Image.Image) -> Image.Image:
    """Put a picture that is too thin for some models on grey."""
    width = max(image.width, _LEAST_SIDE, -(-image.height // _MOST_ASPECT))
    height = max(image.height, _LEAST_SIDE, -(-image.width // _MOST_ASPECT))
    if (width, height) == image.size:
        return image
    ground = Image.new("RGB", (width, height), (128, 128, 128))
    ground.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
    return ground
