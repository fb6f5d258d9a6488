"""Boxes of any kind to pixels, statuses and fractions; what is wrong with a whole column."""

from __future__ import annotations

import itertools
import math
import re
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hf_regioncap.boxes import (
    FORMATS,
    UNITS,
    USED,
    as_boxes,
    check_fit,
    normalize_boxes,
    pad_boxes,
    place_boxes,
    to_pixels,
    to_xyxy,
)
from hf_regioncap.errors import OptionError

SIZE = (640, 480)
STATUSES = {
    "ok",
    "clipped",
    "too_small",
    "outside",
    "no_image",
    "invalid_order",
    "invalid_value",
    "over_limit",
}
PLACED = (*USED, "over_limit")

sides = st.integers(1, 5000)
sizes = st.tuples(sides, sides)
coordinates = st.floats(-1e4, 1e4)
# What else may lie where a box should: nested, unfinished, of the wrong type, beyond all measure.
junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.binary(max_size=4)
    | st.decimals()
    | st.fractions(),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.tuples(inner, inner, inner, inner)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)
boxes = st.lists(coordinates, min_size=4, max_size=4)
extreme = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=4, max_size=4)


# --- formats and units ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_boxes", "box_format", "expected"),
    [
        ([], "xywh", []),
        ([], "xyxy", []),
        ([], "cxcywh", []),
        ([[10, 20, 30, 40]], "xywh", [[10, 20, 40, 60]]),
        ([[10, 20, 30, 40]], "xyxy", [[10, 20, 30, 40]]),
        ([[20, 10, 40, 30]], "yxyx", [[10, 20, 30, 40]]),
        ([[25, 40, 30, 40]], "cxcywh", [[10, 20, 40, 60]]),
        ([[0, 0, 0, 0], [-5, -5, 2, 1]], "xywh", [[0, 0, 0, 0], [-5, -5, -3, -4]]),
    ],
)
def test_to_xyxy(given_boxes: Any, box_format: str, expected: Any) -> None:
    corners = to_xyxy(given_boxes, box_format)
    assert corners.shape == (len(expected), 4)
    assert corners.tolist() == expected


def test_to_xyxy_copies_and_keeps_what_it_is_given() -> None:
    given_boxes = np.array([[1.0, 2.0, 3.0, 4.0]])
    corners = to_xyxy(given_boxes, "xyxy")
    corners += 1
    assert given_boxes.tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize("box_format", ["coco", "", None, "XYWH"])
def test_an_unknown_format_is_named(box_format: Any) -> None:
    with pytest.raises(OptionError, match=r"box_format must be one of \('xywh', 'xyxy', 'cxcywh'"):
        to_xyxy([], box_format)


def test_an_unknown_unit_is_named() -> None:
    with pytest.raises(OptionError, match=r"box_unit must be one of .*, got 'percents'"):
        to_pixels([], "percents", SIZE)


@given(xyxy=boxes)
def test_there_and_back_is_identity(xyxy: list[float]) -> None:
    x1, y1, x2, y2 = xyxy
    as_xywh = [x1, y1, x2 - x1, y2 - y1]
    as_cxcywh = [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]
    for box_format, box in (("xyxy", xyxy), ("xywh", as_xywh), ("cxcywh", as_cxcywh)):
        assert np.allclose(to_xyxy([box], box_format), [xyxy], atol=1e-6)


@pytest.mark.parametrize(
    ("given_boxes", "unit", "expected"),
    [
        ([], "fraction", []),
        ([[1, 2, 3, 4]], "pixel", [[1, 2, 3, 4]]),
        ([[0.5, 0.5, 1, 0.25]], "fraction", [[320, 240, 640, 120]]),
        ([[50, 50, 100, 25]], "percent", [[320, 240, 640, 120]]),
        ([[500, 500, 1000, 250]], "permille", [[320, 240, 640, 120]]),
    ],
)
def test_to_pixels(given_boxes: Any, unit: str, expected: Any) -> None:
    pixels = to_pixels(given_boxes, unit, SIZE)
    assert pixels.shape == (len(expected), 4)
    assert np.allclose(pixels, np.reshape(expected, (-1, 4)))


@given(xyxy=boxes, size_wh=sizes)
def test_fractions_and_pixels_there_and_back(xyxy: list[float], size_wh: tuple[int, int]) -> None:
    fractions = normalize_boxes([xyxy], size_wh)
    assert np.allclose(to_pixels(fractions, "fraction", size_wh), [xyxy], atol=1e-6)
    assert np.allclose(to_pixels(fractions * 1000, "permille", size_wh), [xyxy], atol=1e-6)


@pytest.mark.parametrize(
    ("given_boxes", "limit", "expected"),
    [
        ([], 0, []),
        ([], 2, [[0, 0, 0, 0], [0, 0, 0, 0]]),
        ([[1, 2, 3, 4]], 2, [[1, 2, 3, 4], [0, 0, 0, 0]]),
        ([[1, 2, 3, 4], [5, 6, 7, 8]], 1, [[1, 2, 3, 4]]),
    ],
)
def test_pad_boxes(given_boxes: Any, limit: int, expected: Any) -> None:
    padded = pad_boxes(given_boxes, limit)
    assert padded.shape == (limit, 4)
    assert padded.tolist() == expected


def test_normalize_boxes_of_none() -> None:
    assert normalize_boxes([], SIZE).shape == (0, 4)


# --- reading what users have ------------------------------------------------------------------

READABLE = [
    [1, 2, 3, 4],
    (1, 2, 3, 4),
    [1.0, 2, 3.0, 4],
    [np.float32(1), np.int64(2), np.uint8(3), np.float64(4)],
    np.array([1, 2, 3, 4]),
    np.array([1, 2, 3, 4], dtype=object),
    [Fraction(1), Fraction(2), 3, 4],
]
UNREADABLE = [
    None,
    1,
    "1,2,3,4",
    "1234",
    b"1234",
    [],
    [1, 2, 3],
    [1, 2, 3, 4, 5],
    [[1, 2, 3, 4]],
    [1, 2, 3, None],
    ["1", "2", "3", "4"],
    [True, False, True, True],
    [1, 2, 3, math.nan],
    [1, 2, math.inf, 4],
    [1, 2, -math.inf, 4],
    [1, 2, 3, 10**400],
    [1 + 0j, 2, 3, 4],
    [Decimal(1), Decimal(2), Decimal(3), Decimal(4)],
    {"x": 1, "y": 2, "w": 3, "h": 4},
    {1, 2, 3, 4},
    np.array(5),
    np.array([[1, 2, 3, 4]]),
    np.array(["1", "2", "3", "4"]),
    np.array([True, True, True, True]),
]


def test_as_boxes_of_none() -> None:
    assert as_boxes([]).shape == (0, 4)


@pytest.mark.parametrize("row", READABLE, ids=repr)
def test_four_finite_numbers_are_a_box(row: Any) -> None:
    assert as_boxes([row]).tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize("row", UNREADABLE, ids=lambda row: repr(row)[:40])
def test_anything_else_is_not(row: Any) -> None:
    assert np.isnan(as_boxes([[1, 2, 3, 4], row])).tolist() == [[False] * 4, [True] * 4]
    placed = place_boxes([row, [1, 2, 3, 4]], SIZE)
    assert placed.status == ["invalid_value", "ok"]
    assert placed.xywh == [None, [1, 2, 3, 4]]


# --- placing ----------------------------------------------------------------------------------

# box as xywh pixels in 640 by 480, status, where it lies
PLACES: list[tuple[list[float], str, list[float] | None]] = [
    ([0, 0, 640, 480], "ok", [0, 0, 640, 480]),
    ([10, 20, 30, 40], "ok", [10, 20, 30, 40]),
    ([639, 479, 1, 1], "ok", [639, 479, 1, 1]),
    ([10.25, 20.5, 1, 1], "ok", [10.25, 20.5, 1, 1]),
    ([-1e-7, 0, 640.0000001, 480], "ok", [0, 0, 640, 480]),  # float noise is no overhang
    ([600, 0, 80, 50], "clipped", [600, 0, 40, 50]),
    ([-10, -10, 20, 20], "clipped", [0, 0, 10, 10]),
    ([-1000, -1000, 9000, 9000], "clipped", [0, 0, 640, 480]),
    ([10, 20, -30, 40], "invalid_order", None),
    ([700, 20, 30, -1], "invalid_order", None),
    ([640, 0, 10, 10], "outside", None),
    ([0, 480, 10, 10], "outside", None),
    ([-10, 0, 10, 10], "outside", None),
    ([0, -10, 10, 10], "outside", None),
    ([-50, -50, 20, 20], "outside", None),
    ([-10, 0, 5, 10], "outside", None),
    ([0, -10, 10, 5], "outside", None),
    ([700, 0, 0, 0], "outside", None),
    ([0, 0, 0, 0], "too_small", None),
    ([10, 20, 0, 40], "too_small", None),
    ([10, 20, 30, 0], "too_small", None),
    ([10, 20, 0.5, 40], "too_small", None),
    ([639.5, 0, 10, 10], "too_small", None),
    ([-9.5, 0, 10, 10], "too_small", None),
]


SCALES = {"pixel": (1, 1), "fraction": SIZE, "percent": (6.4, 4.8), "permille": (0.64, 0.48)}


def stored(box: list[float], box_format: str, box_unit: str) -> list[float]:
    """Numbers in pixels and x first as someone would have stored them."""
    row = [value / SCALES[box_unit][index % 2] for index, value in enumerate(box)]
    return [row[1], row[0], row[3], row[2]] if box_format == "yxyx" else row


@pytest.mark.parametrize(("box", "status", "place"), PLACES, ids=lambda value: str(value))
def test_place_boxes(box: list[float], status: str, place: list[float] | None) -> None:
    x, y, w, h = box
    ways = {"xywh": box, "xyxy": [x, y, x + w, y + h], "cxcywh": [x + w / 2, y + h / 2, w, h]}
    assert {*ways, "yxyx"} == set(FORMATS)
    for box_format, unit in itertools.product(FORMATS, UNITS):
        row = stored(ways["xyxy" if box_format == "yxyx" else box_format], box_format, unit)
        placed = place_boxes([row], SIZE, box_format=box_format, box_unit=unit)
        assert placed.status == [status], (box_format, unit)
        if place is None:
            assert placed.xywh == [None]
            assert placed.used.shape == (0, 4)
        else:
            assert np.allclose(placed.xywh[0], place, atol=1e-6)


@pytest.mark.parametrize(
    "box",
    [[376.2, 40.36, 75.55, 46.53], [0.1, 0.2, 639.9, 479.8], [-1e-7, 0.0, 640.0000001, 480.0]],
)
def test_an_ok_box_comes_back_as_it_was_given(box: list[float]) -> None:
    for limit, status in ((1, "ok"), (0, "over_limit")):
        placed = place_boxes([box], SIZE, max_boxes=limit)
        assert placed.status == [status]
        assert placed.xywh == [box]


@given(
    xywh=st.tuples(*[st.floats(0, 300, allow_subnormal=False)] * 2, *[st.floats(1, 170)] * 2).map(
        list
    )
)
def test_any_ok_box_comes_back_as_it_was_given(xywh: list[float]) -> None:
    placed = place_boxes([xywh, np.array(xywh)], SIZE)
    assert placed.status == ["ok", "ok"]
    assert placed.xywh == [xywh, xywh]


def test_sums_of_floats_leave_nothing_behind() -> None:
    box, tidy = [376.2, 40.36, 451.75, 86.89], [376.2, 40.36, 75.55, 46.53]
    assert box[2] - box[0] != tidy[2]
    assert place_boxes([box], SIZE, box_format="xyxy").xywh == [tidy]
    assert place_boxes([[-3.3, 0, 20.4, 9]], SIZE).xywh == [[0, 0, 17.1, 9]]


def test_no_boxes() -> None:
    placed = place_boxes([], SIZE)
    assert placed.status == []
    assert placed.xywh == []
    assert placed.xyxy.shape == placed.used.shape == (0, 4)


@pytest.mark.parametrize("rows", [[], [[1, 2, 3, 4]], [None, "x", [1, 2, 3, 4]]])
def test_without_an_image_no_box_has_a_place(rows: list[Any]) -> None:
    placed = place_boxes(rows, None)
    assert placed.status == ["no_image"] * len(rows)
    assert placed.xywh == [None] * len(rows)
    assert placed.used.shape == (0, 4)


def test_the_limit_counts_valid_boxes_in_input_order() -> None:
    good, bad = [1, 2, 3, 4], [0, 0, 0, 0]
    placed = place_boxes([bad, good, None, good, [600, 0, 80, 9], bad, good], SIZE, max_boxes=2)
    assert placed.status == [
        "too_small",
        "ok",
        "invalid_value",
        "ok",
        "over_limit",
        "too_small",
        "over_limit",
    ]
    assert placed.xywh[4] == [600, 0, 40, 9]  # a box over the limit keeps its place, clipped
    assert len(placed.used) == 2


# Each box has every fault from its status on, and none before: the first that applies counts.
PRECEDENCE = [
    ([math.nan, 0, -5, 0], "invalid_value"),
    ([9000, 9000, -5, 0], "invalid_order"),
    ([9000, 9000, 0, 0], "outside"),
    ([5, 5, 0, 0], "too_small"),
    ([5, 5, 9, 9], "over_limit"),
]


@pytest.mark.parametrize(("box", "status"), PRECEDENCE)
def test_the_first_status_that_applies(box: list[float], status: str) -> None:
    assert place_boxes([box], SIZE, max_boxes=0).status == [status]
    assert place_boxes([box], None, max_boxes=0).status == ["no_image"]


@settings(max_examples=300)
@example(rows=[[-1e308, 0, 1e308, 1e308]], size_wh=SIZE, form="xywh", unit="fraction", limit=1)
@example(rows=[[1e308, 1e308, 1e308, 1e308]], size_wh=SIZE, form="cxcywh", unit="pixel", limit=1)
@given(
    rows=st.lists(junk | boxes | extreme, max_size=6),
    size_wh=sizes | st.none(),
    form=st.sampled_from(FORMATS),
    unit=st.sampled_from(UNITS),
    limit=st.integers(0, 4),
)
def test_placing_never_raises_and_keeps_its_promises(
    rows: list[Any], size_wh: tuple[int, int] | None, form: str, unit: str, limit: int
) -> None:
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        placed = place_boxes(rows, size_wh, box_format=form, box_unit=unit, max_boxes=limit)
    assert len(placed.status) == len(placed.xywh) == len(placed.xyxy) == len(rows)
    assert set(placed.status) <= STATUSES
    assert len(placed.used) == sum(status in USED for status in placed.status) <= limit
    for status, place in zip(placed.status, placed.xywh, strict=True):
        assert (place is not None) == (status in PLACED)
        if place is not None:
            assert size_wh is not None
            x, y, w, h = place
            assert x >= -1e-3  # float noise of an `ok` box comes back with it
            assert y >= -1e-3
            assert w >= 1 - 1.001e-3
            assert h >= 1 - 1.001e-3
            assert x + w <= size_wh[0] + 1.001e-3
            assert y + h <= size_wh[1] + 1.001e-3


@given(box=boxes, size_wh=sizes)
def test_the_same_box_in_every_format_has_the_same_place(
    box: list[float], size_wh: tuple[int, int]
) -> None:
    x, y, w, h = (round(value) for value in box)  # whole numbers, so that no format loses a bit
    one = place_boxes([[x, y, w, h]], size_wh)
    for other in (
        place_boxes([[x, y, x + w, y + h]], size_wh, box_format="xyxy"),
        place_boxes([[x + w / 2, y + h / 2, w, h]], size_wh, box_format="cxcywh"),
    ):
        assert other.status == one.status
        assert np.allclose(other.xyxy, one.xyxy, equal_nan=True)


@example(rows=[[0.0, 6.103515625e-05, 1.0, 2.0]], size_wh=(1, 1))  # clipped to a millionth
@example(rows=[[0.5000004, 0.0, 0.999, 9.0]], size_wh=(5, 5))
@example(rows=[[-0.5, 0.0, 1.4989996, 3.0], [4.0010004, 0.0, 9.0, 1.0]], size_wh=(5, 5))
@given(rows=st.lists(boxes, max_size=9), size_wh=sizes)
def test_placing_placed_boxes_changes_nothing(
    rows: list[list[float]], size_wh: tuple[int, int]
) -> None:
    placed = place_boxes(rows, size_wh)
    again = place_boxes([place for place in placed.xywh if place is not None], size_wh)
    assert set(again.status) <= {"ok"}
    assert again.used.tolist() == placed.used.tolist()


def test_the_seeds_example() -> None:
    placed = place_boxes([[196, 104, 310, 495]], (1536, 832))
    fractions = normalize_boxes(placed.used, (1536, 832)).round(3)
    assert pad_boxes(fractions, 10).tolist() == [[0.128, 0.125, 0.329, 0.72], *[[0.0] * 4] * 9]


# --- a whole column in another unit or format -------------------------------------------------

TRUE = [[40 + 8 * n, 300 - 9 * n, 90 + n, 120 - n] for n in range(12)]  # xywh pixels in 640 by 480


def in_other_words(box_format: str, box_unit: str) -> list[list[float]]:
    """The same boxes as someone else would have stored them."""
    rows = []
    for x, y, w, h in TRUE:
        box = {
            "xywh": [x, y, w, h],
            "xyxy": [x, y, x + w, y + h],
            "cxcywh": [x + w / 2, y + h / 2, w, h],
        }["xyxy" if box_format == "yxyx" else box_format]
        rows.append(stored(box, box_format, box_unit))
    return rows


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [([], SIZE)],
        [([], None)],
        [([[0, 0, 0, 0]] * 50, SIZE)],
        [([None, "x", [1, 2]] * 20, SIZE)],
        [([[0.1, 0.1, 0.2, 0.2]] * 50, None)],  # no image, no size: nothing to be measured by
        [([[0.1, 0.1, 0.2, 0.2]] * 9, SIZE)],  # one too few
        [([[0.1, 0.1, 0.2, 0.2]] * 9 + [[0, 0, 0, 0]] * 50, SIZE)],
    ],
    ids=lambda rows: repr(rows)[:40],
)
def test_too_little_evidence(rows: Any) -> None:
    check_fit(rows, box_format="xywh", box_unit="pixel")


@pytest.mark.parametrize("box_format", FORMATS)
@pytest.mark.parametrize("box_unit", UNITS)
def test_what_was_declared_rightly_fits(box_format: str, box_unit: str) -> None:
    check_fit(
        [(in_other_words(box_format, box_unit), SIZE)], box_format=box_format, box_unit=box_unit
    )


@pytest.mark.parametrize(
    ("stored", "declared", "hint"),
    [
        (("xywh", "fraction"), ("xywh", "pixel"), "pass box_unit='fraction'"),
        (("xywh", "pixel"), ("xywh", "fraction"), "pass box_unit='pixel'"),
        (("xywh", "permille"), ("xywh", "fraction"), "pass box_unit='permille'"),
        (("xyxy", "pixel"), ("xywh", "fraction"), "pass box_format='xyxy', box_unit='pixel'"),
        (("xywh", "percent"), ("xywh", "fraction"), "(box_unit='percent' or "),
        (("cxcywh", "fraction"), ("cxcywh", "pixel"), "pass box_unit='fraction'"),
        (("xywh", "pixel"), ("xyxy", "pixel"), "pass box_format='xywh'"),
    ],
)
def test_the_error_names_the_option(
    stored: tuple[str, str], declared: tuple[str, str], hint: str
) -> None:
    rows = [(in_other_words(*stored), SIZE)]
    with pytest.raises(OptionError, match=re.escape(hint)) as caught:
        check_fit(rows, box_format=declared[0], box_unit=declared[1], bbox_column="objects.bbox")
    assert "bbox_column 'objects.bbox': " in str(caught.value)


@pytest.mark.parametrize("stored_format", ["xyxy", "yxyx"])
@pytest.mark.parametrize("declared", ["xywh", "xyxy", "yxyx"])
def test_of_formats_that_transpose_each_other_none_is_advised_alone(
    stored_format: str, declared: str
) -> None:
    # Fractions of corners that reach too far to be sizes: which side comes first, nobody can see.
    corners = [[0.3 + 0.01 * n, 0.4, 0.8, 0.9] for n in range(12)]
    rows = to_xyxy(corners, stored_format).tolist()
    with pytest.raises(OptionError, match="one the other transposed: look where") as caught:
        check_fit([(rows, SIZE)], box_format=declared, box_unit="pixel")
    advice = str(caught.value).rpartition(", and pass ")[2]
    assert advice.count("box_unit='fraction'") == 2
    assert f"box_format={stored_format!r}" in advice or declared == stored_format


def test_what_else_would_fit_is_told_but_not_advised() -> None:
    # Pixels of an image below 1000 pixels are good permille values as well.
    corners = [[300 + n, 200 + n, 500 + n, 400 + n] for n in range(12)]
    with pytest.raises(OptionError, match=r"pass box_format='xyxy' .*'permille' would fit too"):
        check_fit([(corners, SIZE)], box_format="xywh", box_unit="pixel")


def test_a_few_bad_boxes_are_no_bad_column() -> None:
    both = [10, 10, 300, 300]  # a box in either format
    rows = [([both] * 17 + [[400, 300, 600, 450]] * 3, SIZE)]
    check_fit(rows, box_format="xywh", box_unit="pixel")
    with pytest.raises(OptionError, match=r"4 of 20 boxes .* pass box_format='xyxy'"):
        check_fit(
            [([both] * 16 + [[400, 300, 600, 450]] * 4, SIZE)], box_format="xywh", box_unit="pixel"
        )
    rows = [(TRUE * 3 + [[0.1, 0.1, 0.2, 0.2]] * 5, SIZE)]
    check_fit(rows, box_format="xywh", box_unit="pixel")


#: xywh pixels in 640 by 480: at the left edge, inside, and some that reach out by 40 to 50.
EDGE = [[4, 6, 90, 80], [0, 300, 120, 100]]
INSIDE = [[90 + 20 * n, 80 + 15 * n, 120, 100] for n in range(9)]
OVERHANGING = [[560, 100, 120, 90], [570, 200, 120, 90], [300, 430, 100, 90]]


@pytest.mark.parametrize("overhanging", [OVERHANGING, OVERHANGING * 3, OVERHANGING * 20])
def test_boxes_that_clipping_saves_are_no_evidence_of_a_unit(overhanging: Any) -> None:
    # All of these fit permille, too: who took that advice would spoil the data.
    stored = EDGE + INSIDE + overhanging
    check_fit([(stored, SIZE)], box_format="xywh", box_unit="pixel")
    corners = to_xyxy(stored, "xywh").tolist()
    check_fit([(corners, SIZE)], box_format="xyxy", box_unit="pixel")
    assert "clipped" in place_boxes(overhanging, SIZE).status


def test_fewer_than_half_that_reach_out_are_no_evidence_of_a_format() -> None:
    middles = [[x + w / 2, y + h / 2, w, h] for x, y, w, h in INSIDE]
    reaching = [[560, 100, 120, 90], [580, 200, 110, 90], [300, 420, 100, 90]]  # as xywh
    check_fit([(middles + reaching, SIZE)], box_format="xywh", box_unit="pixel")
    with pytest.raises(OptionError, match=r"9 of 18 boxes .* pass box_format='cxcywh'"):
        check_fit([(middles + reaching * 3, SIZE)], box_format="xywh", box_unit="pixel")


def test_boxes_that_fit_nothing_are_told_by_their_status() -> None:
    check_fit([([[5000, 5000, 1, 1]] * 20, SIZE)], box_format="xywh", box_unit="pixel")


def test_the_size_of_each_row_counts() -> None:
    small = ([[10, 10, 20, 20]] * 6, (40, 40))
    large = ([[1000, 1000, 2000, 2000]] * 6, (4000, 4000))
    check_fit([small, large], box_format="xywh", box_unit="pixel")


@settings(max_examples=200)
@given(
    rows=st.lists(
        st.tuples(st.lists(junk | boxes | extreme, max_size=15), sizes | st.none()), max_size=4
    ),
    form=st.sampled_from(FORMATS),
    unit=st.sampled_from(UNITS),
)
def test_check_fit_raises_on_strong_evidence_only(rows: Any, form: str, unit: str) -> None:
    try:
        check_fit(rows, box_format=form, box_unit=unit)
    except OptionError as error:
        told = re.search(r"(\d+) of (\d+) boxes do not fit .* pass ([^(]*)", str(error))
        assert told is not None
        misfits, count, ways_out = int(told[1]), int(told[2]), told[3].split(" or, where ")
        nonzero = [
            box
            for row, size in rows
            if size is not None
            for box in as_boxes(row).tolist()
            if not math.isnan(box[0]) and any(box)
        ]
        assert count == len(nonzero) >= 10
        assert misfits * 5 >= count
        for way_out in ways_out:
            options = dict(re.findall(r"(box_\w+)='(\w+)'", way_out))
            assert options
            # Who follows the advice is not told something else the next time.
            check_fit(
                rows,
                box_format=options.get("box_format", form),
                box_unit=options.get("box_unit", unit),
            )
