"""Boxes for images that have none, found as DataFlow-MM finds them, so that results compare."""

from __future__ import annotations

import importlib.util
import os
import threading
from typing import Any

import numpy as np
from PIL import Image

from hf_regioncap.boxes import Boxes

#: While OpenCV is imported, `sys.modules["cv2"]` is for a moment a module without functions, which
#: another thread's `import cv2` would be given.
_importing = threading.Lock()


def can_propose() -> bool:
    """Tell whether OpenCV, the extra `propose`, is installed."""
    try:
        return importlib.util.find_spec("cv2") is not None
    except ValueError:  # it is in `sys.modules` without a spec: a thread's import is under way
        return True


def load_opencv() -> Any:
    """Import OpenCV, or wait until another thread has; first called before threads start."""
    with _importing:
        import cv2
    return cv2


def _forget_parent() -> None:
    """Replace a lock that a thread of the parent may hold, and that nobody here would release."""
    global _importing
    _importing = threading.Lock()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_forget_parent)


def propose_contours(image: Image.Image) -> Boxes:
    """Find boxes by contours: xyxy pixels, shape (N, 4), from the largest area down.

    DataFlow-MM's way: grey, Gaussian blur 5×5, adaptive Gaussian threshold (255, inverse, block
    11, C 2), closing with an 8×8 rectangle, a flat list of contours; kept are those whose area is
    1 to 80 % of the image's, whose width/height is 0.1 to 5 and whose sides are at most 90 % of
    the image's; then greedy suppression (`suppress`). Needs the extra `propose` (OpenCV).

    >>> image = Image.new("RGB", (200, 150), "white")
    >>> image.paste((30, 60, 90), (40, 30, 100, 90))
    >>> [[round(v / 10) * 10 for v in box] for box in propose_contours(image).tolist()]
    [[40, 30, 100, 90]]
    """
    cv2 = load_opencv()
    grey = cv2.cvtColor(np.asarray(image), cv2.COLOR_RGB2GRAY)
    blurred = cv2.GaussianBlur(grey, (5, 5), 0)
    edges = cv2.adaptiveThreshold(
        blurred, 255, cv2.ADAPTIVE_THRESH_GAUSSIAN_C, cv2.THRESH_BINARY_INV, 11, 2
    )
    closed = cv2.morphologyEx(edges, cv2.MORPH_CLOSE, np.ones((8, 8), np.uint8))
    contours, _ = cv2.findContours(closed, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    width, height = image.size
    found = [
        cv2.boundingRect(contour)
        for contour in contours
        if 0.01 <= cv2.contourArea(contour) / (width * height) <= 0.8
    ]
    kept = [(x, y, x + w, y + h) for x, y, w, h in found if _plausible(w, h, width, height)]
    return suppress(kept)


def _plausible(w: int, h: int, width: int, height: int) -> bool:
    return 0.1 <= w / h <= 5 and w <= 0.9 * width and h <= 0.9 * height


def suppress(xyxy: Any, threshold: float = 0.3) -> Boxes:
    """Drop boxes of which more than `threshold` lies in a larger box that was kept.

    Greedy, from the largest area down; the overlap is the intersection over the box's own area.

    >>> suppress([[0, 0, 10, 10], [1, 1, 5, 5], [8, 8, 14, 14]]).tolist()
    [[0.0, 0.0, 10.0, 10.0], [8.0, 8.0, 14.0, 14.0]]
    >>> suppress([]).shape
    (0, 4)
    """
    boxes = np.asarray(xyxy, dtype=np.float64).reshape(-1, 4)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept: list[int] = []
    for index in np.argsort(-areas, kind="stable"):
        low = np.maximum(boxes[kept, :2], boxes[index, :2])
        high = np.minimum(boxes[kept, 2:], boxes[index, 2:])
        overlap = np.clip(high - low, 0, None).prod(axis=1)
        if not (overlap > threshold * areas[index]).any():
            kept.append(int(index))
    return boxes[kept]
