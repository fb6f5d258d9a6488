"""One region as a picture of its own, with as much around it as helps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from hf_regioncap.errors import OptionError
from hf_regioncap.marks import Mark, Shape, resolve_mark
from hf_regioncap.overlay import Rect, area, draw_regions, pixel_box, scale_of


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
    box = pixel_box(xyxy_one, image.size)
    window = crop_window(image.size, xyxy_one, context=context)
    width, height = window[2] - window[0], window[3] - window[1]
    scale = _zoom(width, height, min_side, max_side)
    size_wh = (max(1, round(width * scale)), max(1, round(height * scale)))
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    crop = rgb.resize(size_wh, Image.Resampling.LANCZOS, box=window, reducing_gap=2.0)
    crop.info = {}
    if area(box) < 0.9 * width * height:
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
    box = pixel_box(xyxy_one, size_wh)
    share = area(box) ** 0.5 / scale_of(size_wh)
    # All of the context up to 30 % of the image's side, none from 90 % on.
    factor = 1 + (context - 1) * min(1.0, max(0.0, (0.9 - share) / 0.6))
    # So that there is something around small and thin boxes: a fifth of the image or 224 pixels,
    # and a quarter of the other side; in proportion where less context was asked for.
    given = min(1.0, (context - 1) / 2)
    margin = given * min(scale_of(size_wh) / 5, 224)
    width, height = box[2] - box[0], box[3] - box[1]
    least = max(margin, given * max(width, height) * factor / 4)
    x0, x1 = _around(box[0], box[2], size_wh[0], factor, least)
    y0, y1 = _around(box[1], box[3], size_wh[1], factor, least)
    return x0, y0, x1, y1


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
    thickness = mark.thickness or max(2.0, scale_of(size_wh) / 300)
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
