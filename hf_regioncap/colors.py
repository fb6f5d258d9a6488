"""Colours as numbers in which distances are about as large as they look."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Color = tuple[int, int, int]
Floats = NDArray[np.float64]

#: sRGB to linear light (IEC 61966-2-1), by 8-bit value.
LINEAR = np.array(
    [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in np.arange(256) / 255]
)
#: Linear sRGB to OKLab (Björn Ottosson, "A perceptual color space for image processing", 2020).
_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
#: What each 8-bit value of red, green and blue adds to LMS, (3, 256, 3).
_LMS_OF = np.einsum("v,lc->cvl", LINEAR, _TO_LMS)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def parse_color(color: str) -> Color:
    """Read "#rrggbb".

    >>> parse_color("#ff8000")
    (255, 128, 0)
    """
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def to_oklab(rgb: NDArray[Any]) -> Floats:
    """Map colours (..., 3) of 0 to 255 to OKLab: lightness 0 to 1, green to red, blue to yellow.

    >>> to_oklab(np.array([255, 255, 255])).round(3).tolist()
    [1.0, 0.0, 0.0]
    """
    # einsum, not @: this may run in a forked child, where a BLAS with threads is not at home.
    if rgb.dtype == np.uint8:
        red, green, blue = (_LMS_OF[k].take(rgb[..., k], axis=0) for k in range(3))
        lms = red + green + blue
    else:
        value = rgb / 255.0
        linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
        lms = np.einsum("...c,lc->...l", linear, _TO_LMS)
    oklab: Floats = np.einsum("...l,kl->...k", np.cbrt(lms), _TO_LAB)
    return oklab
