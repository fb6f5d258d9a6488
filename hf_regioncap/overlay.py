"""Image and boxes to a new image with numbered regions.

Pure: the image given is never changed, and the same image, boxes and mark give the same pixels,
from any number of threads. Boxes are xyxy pixels of the upright image, shape (N, 4); region *k* is
the k-th of them, from 1.

How regions are marked is a `marks.Mark`. The default, `"box"`, follows from what a reader of the
picture needs:

- strokes and numbers are scaled to the image, so that they survive the model's downsizing;
- the frame of a large box lies inside it (boxes that share an edge keep a side each), the frame of
  a small one around it (a few pixels of content stay visible);
- every stroke has a thin black or white casing, and each region takes the colour of the palette
  that differs most from the picture under its edges and from its neighbours;
- a number stands on a plate of its box's colour that touches its frame, where it hides least; if
  there is no such place, further off with a leader line.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from hf_regioncap.colors import LINEAR, Color, Floats, parse_color, to_oklab
from hf_regioncap.errors import OptionError
from hf_regioncap.labels import clipped, leader, place_labels
from hf_regioncap.marks import Mark, resolve_mark

Rect = tuple[int, int, int, int]


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
    canvas = image.convert("RGB")
    canvas.info = {}
    return draw_regions_on(canvas, xyxy, mark=mark)


def draw_regions_on(
    canvas: Image.Image,
    xyxy: ArrayLike,
    *,
    mark: str | Mapping[str, object] | Mark = "box",
) -> Image.Image:
    """Do the same to an RGB image that nobody needs unmarked, which saves a copy of it.

    >>> photo = Image.new("RGB", (640, 480), "gray")
    >>> marked = draw_regions(photo, [[40, 30, 200, 180]])
    >>> draw_regions_on(photo, [[40, 30, 200, 180]]) == marked
    True
    """
    mark = resolve_mark(mark)
    boxes = _pixel_boxes(xyxy, canvas.size)
    if not boxes:
        return canvas
    colors = [parse_color(color) for color in _choose_colors(canvas, boxes, mark.colors)]
    canvas = _shade(canvas, boxes, mark)
    stroke = _stroke(mark, len(boxes), canvas.size)
    frames = [_frame(box, canvas.size, stroke) for box in boxes]
    draw = ImageDraw.Draw(canvas)
    for k in sorted(range(len(boxes)), key=lambda k: -area(boxes[k])):
        _draw_frame(draw, frames[k], mark.shape, colors[k])
    if mark.label != "none":
        _draw_labels(canvas, frames, colors, mark)
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


# --- boxes and sizes


def _pixel_boxes(xyxy: ArrayLike, size_wh: tuple[int, int]) -> list[Rect]:
    """Snap boxes to whole pixels of the image, half open, at least one pixel each."""
    boxes = np.asarray(xyxy, dtype=np.float64)
    if boxes.size == 0:
        return []
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
        raise OptionError(f"xyxy must be finite numbers of shape (N, 4), got {boxes.tolist()!r}")
    limit = np.array([*size_wh, *size_wh])
    whole = np.rint(boxes)  # np.clip takes four times as long as these on a few numbers
    low = np.minimum(np.maximum(whole[:, :2], 0), limit[:2] - 1)
    high = np.minimum(np.maximum(whole[:, 2:], low + 1), limit[2:])
    return [(x0, y0, x1, y1) for x0, y0, x1, y1 in np.hstack([low, high]).astype(int).tolist()]


def pixel_box(xyxy_one: ArrayLike, size_wh: tuple[int, int]) -> Rect:
    """Snap one box (4,) to whole pixels of the image, half open."""
    if np.shape(xyxy_one) != (4,):
        raise OptionError(f"xyxy_one must be four finite numbers, got {xyxy_one!r}")
    return _pixel_boxes(np.asarray(xyxy_one)[None], size_wh)[0]


#: Above so many regions, strokes and numbers get smaller.
_MANY = 12


def area(box: Rect) -> int:
    """Pixels in a box."""
    return (box[2] - box[0]) * (box[3] - box[1])


def scale_of(size_wh: tuple[int, int]) -> float:
    """One length for the image, in pixels: what thickness and text are proportional to."""
    return float((size_wh[0] * size_wh[1]) ** 0.5)


# --- colours


@lru_cache(maxsize=64)
def _palette(colors: tuple[str, ...]) -> tuple[Floats, Floats]:
    """Return the palette in OKLab (P, 3), and how alike its colours look (P, P), 1 for the same."""
    lab = to_oklab(np.array([parse_color(color) for color in colors], dtype=np.uint8))
    return lab, (1 - _apart(lab, lab) / 0.25).clip(min=0) ** 2


@lru_cache(maxsize=256)
def _ink(color: Color) -> int:
    """A colour as Pillow's drawing core takes it."""
    return int(ImageDraw.Draw(Image.new("RGB", (1, 1))).draw.draw_ink(color))


@lru_cache(maxsize=256)
def _contrast(color: Color) -> Color:
    """Black or white, whichever has the higher WCAG 2 contrast with `color`."""
    luminance = float(LINEAR[list(color)] @ [0.2126, 0.7152, 0.0722])
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
    under = _under_edges(canvas, xyxy)
    stands_out = np.minimum(_apart(palette, under.reshape(-1, 3)) / 0.35, 1)
    stands_out = np.add.reduce(stands_out.reshape(-1, *under.shape[:2]), axis=2) / under.shape[1]
    # Rounded, so that two machines' last digits don't choose differently.
    merit = np.round(stands_out, 4).T.copy()
    merit -= 0.01 * np.arange(len(colors))
    near = _nearness(xyxy, scale_of(canvas.size))[:, :, None]
    chosen: list[int] = []
    for k in range(len(boxes)):
        chosen.append(int(merit[k].argmax()))
        merit -= near[k] * alike[chosen[k]]
    return tuple(colors[index] for index in chosen)


def _apart(a: Floats, b: Floats) -> Floats:
    """Distances of colours (M, 3) from colours (N, 3), (M, N)."""
    squares = np.add.reduce(a**2, axis=1)[:, None] + np.add.reduce(b**2, axis=1) - 2 * a @ b.T
    apart: Floats = np.sqrt(np.maximum(squares, 0))
    return apart


def _under_edges(canvas: Image.Image, xyxy: Floats) -> Floats:
    """Look at the picture under each box's edges, OKLab (N, 48, 3), in a thumbnail."""
    shrink = min(1.0, 160 / max(canvas.size))
    width, height = (max(1, round(side * shrink)) for side in canvas.size)
    thumbnail = canvas.resize((width, height), Image.Resampling.NEAREST)
    pixels = np.asarray(thumbnail if thumbnail.mode == "RGB" else thumbnail.convert("RGB"))
    points = xyxy[:, None, :2] + (xyxy[:, None, 2:] - xyxy[:, None, :2]) * _EDGE_POINTS
    grid = (points * (width / canvas.width, height / canvas.height)).astype(np.intp)
    grid = np.minimum(grid, (width - 1, height - 1))
    return to_oklab(pixels[grid[..., 1], grid[..., 0]])


def _nearness(xyxy: Floats, scale: float) -> Floats:
    """How much two boxes are neighbours (N, N): 1 where they touch, less with the gap between."""
    low, high = xyxy[:, :2], xyxy[:, 2:]
    gap = np.maximum(low[:, None] - high, low - high[:, None]).max(axis=-1)
    near: Floats = np.round(0.1 + 0.9 * np.exp(np.maximum(gap, 0) / (-0.08 * scale)), 4)
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
    radius = share * 0.04 * scale_of(image.size)
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
    scaled = max(least, scale_of(size_wh) / 220 * (0.7 if count > _MANY else 1))
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
    for inset, width, color_of_coat in coats if casing else coats[1:]:
        # ImageDraw's own methods look the colour up anew for each line, which takes longer than
        # the line.
        ink = _ink(color_of_coat)
        if shape == "corners":
            for bar in _corners(frame):
                draw.draw.draw_rectangle(_inset(bar, inset), ink, 1)
        elif shape != "none":
            draw.draw.draw_rectangle(_inset(frame.rect, inset), ink, 0, width)


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


def _forget_fonts() -> None:
    """In a forked child: a thread of the parent may have been in the middle of a number."""
    global _FONT_LOCK
    _FONT_LOCK = threading.Lock()
    _font.cache_clear()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_forget_fonts)


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
    wanted = mark.label_size or max(12.0, scale_of(size_wh) / 26) * (0.85 if count > _MANY else 1)
    return int(min(wanted, size_wh[0] / 2.5, size_wh[1] / 2))


def _draw_labels(
    canvas: Image.Image, frames: list[_Frame], colors: list[Color], mark: Mark
) -> None:
    """Number the frames 1..N; on images too small for any legible digit, don't."""
    size = _label_size(mark, len(frames), canvas.size)
    if size < 6:
        return
    rim = max(1, round(size / 20)) if mark.casing else 0
    label_wh = _label_wh(len(frames), size, rim)
    rects = [clipped(frame.rect, canvas.size) for frame in frames]
    join = frames[0].stroke.casing if mark.shape != "none" else 0
    labels = place_labels(rects, label_wh, canvas.size, at=mark.label_at, join=join)
    for rect, frame, label, color in zip(rects, frames, labels, colors, strict=True):
        _draw_leader(canvas, label, rect, color, frame.stroke)
    for k, (label, color) in enumerate(zip(labels, colors, strict=True), start=1):
        if mark.label == "text":
            _draw_text(canvas, label, str(k), size, color)
        else:
            on = color if mark.label == "plate" else None
            canvas.im.paste(_plate(str(k), size, label_wh[k - 1], on, rim).im, label)


@lru_cache(maxsize=128)
def _label_wh(count: int, size: int, rim: int) -> tuple[tuple[int, int], ...]:
    """Plate sizes (N, 2): of one height, at least square, the digits padded by 2 pixels or more."""
    digits = [_digits(str(k), size) for k in range(1, count + 1)]
    height = max(mask.height for mask in digits) + 2 * (max(2, round(size * 0.17)) + rim)
    pad = 2 * (max(2, round(size * 0.2)) + rim)
    return tuple((max(mask.width + pad, height), height) for mask in digits)


@lru_cache(maxsize=512)
def _plate(
    text: str, size: int, size_wh: tuple[int, int], color: Color | None, rim: int
) -> Image.Image:
    """Return the picture of a number on its region's colour, or in white on black for `None`."""
    color, ink = (color, _contrast(color)) if color else ((0, 0, 0), (255, 255, 255))
    plate = Image.new("RGB", size_wh, _contrast(color) if rim else color)
    plate.paste(color, (rim, rim, size_wh[0] - rim, size_wh[1] - rim))
    _draw_centered(ImageDraw.Draw(plate), (0, 0, *size_wh), _digits(text, size), ink)
    return plate


def _draw_text(canvas: Image.Image, label: Rect, text: str, size: int, color: Color) -> None:
    """Draw a number without a plate, in its region's colour with a halo of contrast."""
    draw = ImageDraw.Draw(canvas)
    halo = _digits(text, size, max(1, round(size / 12)))
    _draw_centered(draw, label, halo, _contrast(color))
    _draw_centered(draw, label, _digits(text, size), color)


def _draw_centered(draw: ImageDraw.ImageDraw, label: Rect, mask: Image.Image, color: Color) -> None:
    x = (label[0] + label[2] - mask.width) // 2
    y = (label[1] + label[3] - mask.height) // 2
    draw.bitmap((x, y), mask, fill=color)


def _draw_leader(
    canvas: Image.Image, label: Rect, frame: Rect, color: Color, stroke: _Stroke
) -> None:
    """Connect a label that stands off its frame to the nearest point of it."""
    line = leader(label, frame)
    if line is None:
        return
    draw = ImageDraw.Draw(canvas)
    if stroke.casing:
        draw.line(line, fill=_contrast(color), width=stroke.band)
    draw.line(line, fill=color, width=stroke.line)
