"""The boxes around COCO's masks: polygons, run lengths, compressed run lengths."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from hf_regioncap.inputs_fields import number


def segmentation_box(segmentation: Any) -> list[float] | None:
    """The xywh box around a `segmentation`; None where there is nothing that can be read.

    >>> segmentation_box([[10, 20, 30, 20, 30, 50], [5, 25, 8, 25, 8, 30]])
    [5, 20, 25, 30]
    >>> segmentation_box({"size": [4, 6], "counts": [9, 2, 2, 2, 9]})
    [2, 1, 2, 2]
    """
    if isinstance(segmentation, dict):
        return _runs_box(segmentation.get("size"), segmentation.get("counts"))
    if not isinstance(segmentation, list):
        return None
    polygons = (
        segmentation if segmentation and isinstance(segmentation[0], list) else [segmentation]
    )
    numbers = [[number(part) for part in polygon] for polygon in polygons if polygon]
    if not numbers or any(None in polygon or len(polygon) % 2 for polygon in numbers):
        return None
    xs = [x for polygon in numbers for x in polygon[::2] if x is not None]
    ys = [y for polygon in numbers for y in polygon[1::2] if y is not None]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def _runs_box(size: Any, counts: Any) -> list[float] | None:
    """The box around runs of 0 and 1 by turns, down the columns of a mask of `size` (h, w)."""
    if isinstance(counts, str):
        counts = uncompressed(counts)
    if not _are_counts(size) or len(size) != 2 or not _are_counts(counts):
        return None
    height, width = size
    if not height or sum(counts) > height * width:
        return None
    columns: list[int] = []
    rows: list[int] = []
    place = 0
    for turn, count in enumerate(counts):
        if turn % 2 and count:
            first, last = place, place + count - 1
            columns += [first // height, last // height]
            whole = first // height != last // height  # it goes on from one column's foot
            rows += [0, height - 1] if whole else [first % height, last % height]
        place += count
    if not rows:
        return None
    x, y = min(columns), min(rows)
    return [x, y, max(columns) - x + 1, max(rows) - y + 1]


def _are_counts(values: Any) -> bool:
    return isinstance(values, Sequence) and all(
        type(value) is int and value >= 0 for value in values
    )


def uncompressed(text: str) -> list[int] | None:
    """COCO's compressed run lengths: six bits a character, each run less the one before the last.

    >>> uncompressed("92203"), uncompressed("~")
    ([9, 2, 2, 2, 5], None)
    """
    counts: list[int] = []
    characters: Iterable[int] = iter([ord(character) - 48 for character in text])
    value = shift = 0
    for bits in characters:
        if not 0 <= bits < 64:
            return None
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return counts if not shift else None
