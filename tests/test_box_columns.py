"""Boxes in the forms in which other programs keep them, and what their names tell."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from datasets import Dataset, Features, Json, Value
from PIL import Image

from hf_regioncap import add_boxes
from hf_regioncap.box_columns import read_boxes
from hf_regioncap.errors import OptionError

SIZE = (640, 480)
PHOTO = Image.new("RGB", SIZE, "white")
BOX = [64.0, 48.0, 128.0, 96.0]  # xywh pixels
CORNERS = [64.0, 48.0, 192.0, 144.0]


def placed(value: Any, **options: Any) -> Any:
    """Where the boxes of one row lie, as `add_boxes` says."""
    return add_boxes({"image": PHOTO, "boxes": value}, bbox_column="boxes", **options)


@pytest.mark.parametrize(
    ("value", "options"),
    [
        ([dict(zip(("x", "y", "width", "height"), BOX, strict=True))], {}),  # Roboflow, LabelMe
        ([{"xtl": 64, "ytl": 48, "xbr": 192, "ybr": 144, "label": "a"}], {"box_format": "xyxy"}),
        (  # Open Images
            {"XMin": [0.1], "XMax": [0.3], "YMin": [0.1], "YMax": [0.3]},
            {"box_format": "xyxy", "box_unit": "fraction"},
        ),
        ({"xmin": 64, "ymin": 48, "xmax": 192, "ymax": 144}, {"box_format": "xyxy"}),
        (  # Label Studio
            [{"x": 10, "y": 10, "width": 20, "height": 20, "rectanglelabels": ["a"]}],
            {"box_unit": "percent"},
        ),
        ([[0.1, 0.1, 0.3, 0.3]], {"box_format": "yxyx", "box_unit": "fraction"}),  # TFDS
        (
            [{"x_center": 0.2, "y_center": 0.2, "width": 0.2, "height": 0.2}],  # YOLO
            {"box_format": "cxcywh", "box_unit": "fraction"},
        ),
    ],
    ids=str,
)
def test_boxes_as_other_programs_write_them(value: Any, options: dict[str, Any]) -> None:
    assert placed(value, **options)["region_boxes"] == [pytest.approx(BOX)]


@pytest.mark.parametrize(
    ("value", "options", "way_out"),
    [
        ([{"left": 1, "top": 2, "right": 3, "bottom": 4}], {}, "pass box_format='xyxy'"),
        ({"x1": [1], "x2": [3], "y1": [2], "y2": [4]}, {}, "pass box_format='xyxy'"),
        ([{"cx": 1, "cy": 2, "w": 3, "h": 4}], {"box_format": "xyxy"}, "box_format='cxcywh'"),
        (
            [{"x": 10, "y": 10, "width": 20, "height": 20, "original_width": 640}],
            {},
            "pass box_unit='percent'",
        ),
    ],
    ids=str,
)
def test_names_that_tell_another_format_or_unit(
    value: Any, options: dict[str, Any], way_out: str
) -> None:
    with pytest.raises(OptionError, match=r"bbox_column 'boxes' holds boxes as \{") as caught:
        placed(value, **options)
    assert way_out in str(caught.value)


def test_lists_of_unlike_length_lose_no_box() -> None:
    boxes = read_boxes({"x": [1, 5], "y": [2, 6], "w": [3], "h": [4, 8]})
    assert boxes == [[1, 2, 3, 4], [5, 6, None, 8]]


def test_a_name_that_tells_the_format() -> None:
    row = {"image": PHOTO, "bbox_xyxy": [CORNERS]}
    with pytest.raises(OptionError, match="its name says box_format='xyxy': pass this, or"):
        add_boxes(row, bbox_column="bbox_xyxy")
    for box_format in ("xyxy", "xywh"):  # who says so is believed
        added = add_boxes(row, bbox_column="bbox_xyxy", box_format=box_format)
        assert added["box_status"] == ["ok"]


def test_the_modes_beside_detectrons_boxes() -> None:
    row = {"image": PHOTO, "annotations": [{"bbox": CORNERS, "bbox_mode": 0}] * 2}
    told = "'annotations.bbox_mode' says box_format='xyxy', box_unit='pixel': pass this"
    with pytest.raises(OptionError, match=told):
        add_boxes(row, bbox_column="annotations.bbox")
    added = add_boxes(row, bbox_column="annotations.bbox", box_format="xyxy")
    assert added["region_boxes"] == [BOX, BOX]
    row["annotations"] = [{"bbox": BOX, "bbox_mode": 1}]
    assert add_boxes(row, bbox_column="annotations.bbox")["region_boxes"] == [BOX]


def test_percent_and_permille_read_as_pixels_are_doubted() -> None:
    percent = [[3.0 + n, 5.0 * n, 60, 30] for n in range(12)]
    with pytest.warns(UserWarning, match="pass box_unit='percent', or box_unit='pixel'"):
        placed(percent, max_boxes=12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        placed(percent, box_unit="pixel", max_boxes=12)
        placed(percent, box_unit="percent", max_boxes=12)
        placed([[10 + n, 20, 30, 30] for n in range(12)], max_boxes=12)  # a logo in the corner


def test_boxes_kept_as_json() -> None:
    rows = {
        "image": [{"bytes": None, "path": None}] * 3,
        "objects": [{"bbox": [BOX]}, [{"bbox": BOX}, {"bbox": "none"}], None],
    }
    features = Features({"image": {"bytes": Value("binary"), "path": Value("string")}})
    dataset = Dataset.from_dict(rows, features=Features({**features, "objects": Json()}))
    options = {"bbox_column": "objects.bbox", "propose": None}
    added = dataset.map(add_boxes, batched=True, batch_size=1, fn_kwargs=options)
    assert added["type"][:] == ["with_bbox", "with_bbox", "without_bbox"]
    assert [len(statuses) for statuses in added["box_status"]] == [1, 2, 0]
    assert added["objects"][:] == rows["objects"]
