"""Boxes for images that have none."""

from __future__ import annotations

import sys
import threading
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hf_regioncap import add_boxes, proposals
from hf_regioncap.boxes import place_boxes
from hf_regioncap.proposals import can_propose, propose_contours, suppress

needs_opencv = pytest.mark.skipif(
    not can_propose(), reason="OpenCV, the extra `propose`, is missing"
)


@pytest.mark.parametrize(
    ("xyxy", "expected"),
    [
        ([], []),
        ([[0, 0, 10, 10]], [[0, 0, 10, 10]]),
        ([[0, 0, 2, 2], [0, 0, 10, 10]], [[0, 0, 10, 10]]),  # wholly inside a larger one
        ([[0, 0, 10, 10], [10, 0, 20, 10]], [[0, 0, 10, 10], [10, 0, 20, 10]]),  # touching
        ([[0, 0, 10, 10], [0, 0, 10, 10]], [[0, 0, 10, 10]]),
        ([[20, 20, 22, 22], [0, 0, 10, 10]], [[0, 0, 10, 10], [20, 20, 22, 22]]),  # by area
        ([[0, 0, 10, 10], [7, 0, 17, 10]], [[0, 0, 10, 10], [7, 0, 17, 10]]),  # 0.3 is not more
        ([[0, 0, 10, 11], [6, 0, 16, 10]], [[0, 0, 10, 11]]),  # 0.4 is
        # The overlap is over the smaller box's own area, and only kept boxes suppress:
        # b lies in a, c in b but hardly in a.
        (
            [[0, 0, 100, 100], [60, 0, 140, 90], [110, 0, 150, 60]],
            [[0, 0, 100, 100], [110, 0, 150, 60]],
        ),
    ],
)
def test_suppress(xyxy: Any, expected: Any) -> None:
    kept = suppress(xyxy)
    assert kept.shape == (len(expected), 4)
    assert kept.tolist() == expected


edges = st.integers(0, 50)
boxes = st.lists(
    st.builds(lambda x, y, w, h: [x, y, x + w, y + h], edges, edges, st.integers(1, 40), edges),
    max_size=12,
).map(lambda rows: [[x1, y1, x2, y2 + 1] for x1, y1, x2, y2 in rows])


@given(boxes)
def test_what_is_kept_hardly_overlaps(xyxy: list[list[int]]) -> None:
    kept = suppress(xyxy).tolist()
    assert all(box in xyxy for box in kept)
    assert bool(kept) == bool(xyxy)

    def area(box: list[float]) -> float:
        return (box[2] - box[0]) * (box[3] - box[1])

    assert all(area(one) >= area(other) for one, other in pairwise(kept))
    for index, box in enumerate(kept):
        for larger in kept[:index]:
            width = min(box[2], larger[2]) - max(box[0], larger[0])
            height = min(box[3], larger[3]) - max(box[1], larger[1])
            assert max(0, width) * max(0, height) <= 0.3 * area(box) + 1e-9
    assert suppress(kept).tolist() == kept


def scene(size_wh: tuple[int, int], *patches: tuple[int, int, int, int]) -> Image.Image:
    image = Image.new("RGB", size_wh, "white")
    for patch in patches:
        image.paste((30, 60, 90), patch)
    return image


@needs_opencv
def test_nothing_is_found_in_an_empty_picture() -> None:
    assert propose_contours(scene((200, 150))).shape == (0, 4)


@needs_opencv
def test_patches_are_found_largest_first() -> None:
    patches = [(10, 10, 60, 50), (90, 20, 190, 120)]
    found = propose_contours(scene((240, 160), *patches))
    assert found.shape == (2, 4)
    assert np.abs(found - np.array(patches[::-1])).max() <= 8


@needs_opencv
@pytest.mark.parametrize(
    "patch",
    [
        (10, 10, 14, 14),  # below 1 % of the image
        (4, 60, 196, 90),  # more than 90 % of the width, and wider than 5 to 1
        (20, 3, 60, 147),  # more than 90 % of the height
        (10, 60, 170, 80),  # wider than 5 to 1
    ],
)
def test_what_is_too_small_too_large_or_too_thin_is_left_out(
    patch: tuple[int, int, int, int],
) -> None:
    assert len(propose_contours(scene((200, 150), patch))) == 0


@needs_opencv
@pytest.mark.parametrize("size_wh", [(1, 1), (1, 500), (500, 1), (3, 3), (7, 40), (200, 150)])
def test_every_size_gives_usable_boxes(size_wh: tuple[int, int]) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (size_wh[1], size_wh[0], 3), np.uint8)
    found = propose_contours(Image.fromarray(noise))
    assert found.shape[1:] == (4,)
    placed = place_boxes(found, size_wh, box_format="xyxy", max_boxes=len(found))
    assert set(placed.status) <= {"ok"}


@needs_opencv
def test_the_picture_is_not_changed() -> None:
    image = scene((200, 150), (40, 30, 100, 90))
    before = image.tobytes()
    propose_contours(image)
    assert image.tobytes() == before


def test_an_import_under_way_in_another_thread_counts_as_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    half_imported = ModuleType("cv2")  # as OpenCV's own bootstrap leaves it for a moment
    assert half_imported.__spec__ is None
    monkeypatch.setitem(sys.modules, "cv2", half_imported)
    assert can_propose()
    monkeypatch.setitem(sys.modules, "cv2", None)  # type: ignore[arg-type]
    assert not can_propose()


@needs_opencv
def test_opencv_is_imported_before_threads_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    callers = []

    def load() -> Any:
        callers.append(threading.current_thread())
        return load_opencv()

    load_opencv = proposals.load_opencv
    monkeypatch.setattr(proposals, "load_opencv", load)
    photo = scene((200, 150), (40, 30, 100, 90))
    added = add_boxes({"image": [photo] * 2, "bbox": [[[1, 2, 30, 40]], []]})
    assert added["valid_bboxes_num"] == [1, 1]
    assert callers[0] is threading.main_thread()
    assert callers[1:]
    assert threading.main_thread() not in callers[1:]
