"""What a map function is given and gives back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from datasets import Array2D, ClassLabel, Dataset, Features, Image, Json, LargeList, List, Value
from hypothesis import given
from hypothesis import strategies as st

from hf_regioncap.columns import column_features
from hf_regioncap.errors import OptionError
from hf_regioncap.tables import MAX_COLUMN_BYTES, Rows, class_names, image_array, table_rows, walk

OBJECTS = {"bbox": [[1.0, 2.0, 3.0, 4.0]], "category": [1]}
FEATURES = Features(
    {
        "image": Image(),
        "objects": {
            "bbox": List(List(Value("float64"))),
            "category": List(ClassLabel(names=["a", "b"])),
        },
        "things": List({"box": List(Value("float64")), "name": Value("string")}),
        "split.name": Value("string"),
    }
)


def dataset(rows: int = 2) -> Dataset:
    row = {
        "image": {"bytes": b"not decoded", "path": None},
        "objects": OBJECTS,
        "things": [{"box": [5.0, 6.0, 7.0, 8.0], "name": "cup"}],
        "split.name": "train",
    }
    return Dataset.from_list([row] * rows, features=FEATURES)


def seen(given_dataset: Dataset, **options: Any) -> list[Any]:
    """What `map` hands to its function."""
    shown: list[Any] = []

    def look(rows: Any) -> None:
        shown.append(rows)

    given_dataset.map(look, **options)
    return shown


# --- rows of every kind -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "single", "count", "names"),
    [
        ({}, False, 0, []),
        ({"image": []}, False, 0, ["image"]),
        ({"image": None}, True, 1, ["image"]),
        ({"image": b"x", "bbox": [[1, 2, 3, 4]]}, True, 1, ["image", "bbox"]),
        ({"image": {"bytes": b"x", "path": None}}, True, 1, ["image"]),
        ({"image": [b"x", b"y"], "bbox": [[], []]}, False, 2, ["image", "bbox"]),
        ({"image": (b"x", b"y")}, False, 2, ["image"]),
        ({"image": np.zeros((4, 6, 3), np.uint8)}, True, 1, ["image"]),
        ({"image": np.zeros((2, 4, 6, 3), np.uint8)}, False, 2, ["image"]),
        ({"image": np.array([None, b"x"], dtype=object)}, False, 2, ["image"]),
        ({"bbox": [[1, 2, 3, 4]], "city": "Rome"}, True, 1, ["bbox", "city"]),
        ({"bbox": [[[1, 2, 3, 4]]], "city": ["Rome"]}, False, 1, ["bbox", "city"]),
        (pa.table({"image": pa.array([], pa.binary())}), False, 0, ["image"]),
        (pa.table({"image": [b"x"], "city": ["Rome"]}), False, 1, ["image", "city"]),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_rows_are(rows: Any, single: bool, count: int, names: list[str]) -> None:
    read = Rows(rows, "image")
    assert (read.single, len(read), read.names) == (single, count, names)


@pytest.mark.parametrize("rows", [None, [], "image", 5, [{"image": None}]])
def test_what_rows_are_not(rows: Any) -> None:
    with pytest.raises(OptionError, match="expected a batch or example of a dataset"):
        Rows(rows, "image")


@pytest.mark.parametrize(
    ("batched", "count"), [({}, 1), ({"batched": True}, 2), ({"batched": True, "batch_size": 1}, 1)]
)
def test_a_batch_or_example_of_datasets_is_its_table(batched: dict[str, Any], count: int) -> None:
    for rows in seen(dataset(), **batched):
        read = Rows(rows, "image")
        assert read.table is not None
        assert len(read) == count
        assert read.features == FEATURES
        assert read.value("image", 0) == {"bytes": b"not decoded", "path": None}


def test_a_batch_whose_values_were_replaced_is_read_as_a_dict() -> None:
    (rows,) = seen(dataset().remove_columns("image"), batched=True)
    rows["split.name"] = ["changed"] * 2
    read = Rows(rows, "image")
    assert read.table is None
    assert read.value("split.name", 1) == "changed"


def test_an_arrow_formatted_dataset_hands_over_tables() -> None:
    (table,) = seen(dataset().with_format("arrow"), batched=True)
    assert isinstance(table, pa.Table)
    assert Rows(table, "image").features == FEATURES


def test_a_table_from_anywhere() -> None:
    read = Rows(pa.table({"image": [b"x"], "n": [1]}), "image")
    assert read.features["n"] == Value("int64")


# --- values -----------------------------------------------------------------------------------

LAYOUTS: dict[str, Any] = {
    "a dict of lists": {"objects": OBJECTS},
    "a list of dicts": {"objects": [{"bbox": [1.0, 2.0, 3.0, 4.0], "category": 1}]},
    "a column of its own name": {"objects.bbox": [[1.0, 2.0, 3.0, 4.0]], "objects.category": [1]},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_dotted_name_reaches_inside(layout: str) -> None:
    row = {"image": None, **LAYOUTS[layout]}
    table = Dataset.from_list([row, row]).with_format("arrow")[:]
    for read, index in (
        (Rows(row, "image"), 0),
        (Rows({name: [None, value] for name, value in row.items()}, "image"), 1),
        (Rows(table, "image"), 1),
    ):
        assert read.has("objects.bbox")
        assert read.value("objects.bbox", index) == [[1.0, 2.0, 3.0, 4.0]]
        assert read.value("objects.category", index) == [1]
        assert not read.has("objects.nothing")


def test_nulls_inside() -> None:
    features = Features({"objects": {"bbox": List(List(Value("float64")))}})
    table = Dataset.from_list(
        [{"objects": None}, {"objects": {"bbox": None}}, {"objects": {"bbox": []}}],
        features=features,
    ).with_format("arrow")[:]
    read = Rows(table, "image")
    assert [read.value("objects.bbox", index) for index in range(3)] == [None, None, []]
    assert Rows({"image": [None], "objects": [None]}, "image").value("objects.bbox", 0) is None


@pytest.mark.parametrize(
    ("value", "path", "expected"),
    [
        (None, [], None),
        (None, ["a"], None),
        ([], ["a"], []),
        (5, [], 5),
        (5, ["a"], None),
        ({"a": {"b": 1}}, ["a", "b"], 1),
        ({"a": 1}, ["b"], None),
        ([{"a": 1}, {"a": None}, None, {}], ["a"], [1, None, None, None]),
        ([[{"a": 1}], []], ["a"], [[1], []]),
    ],
)
def test_walk(value: Any, path: list[str], expected: Any) -> None:
    assert walk(value, path) == expected


def test_a_missing_column_is_named_with_those_that_are_there() -> None:
    read = Rows(dataset().with_format("arrow")[:], "image")
    with pytest.raises(OptionError) as caught:
        read.require("bbox_column", "bbox")
    words = str(caught.value)
    assert "no column 'bbox' (bbox_column)" in words
    for name in ("image", "objects.bbox", "objects.category", "things.box", "split.name"):
        assert repr(name) in words
    assert words.endswith("pass bbox_column='objects.bbox'")
    read.require("bbox_column", "objects.bbox")


@pytest.mark.parametrize(
    ("row", "likely"),
    [
        ({"image": None}, None),
        ({"image": None, "city": "Rome"}, None),
        ({"image": None, "boxes": []}, "bbox_column='boxes'"),
        ({"image": None, "bounding_boxes": []}, "bbox_column='bounding_boxes'"),
        ({"image": None, "BBox": []}, "bbox_column='BBox'"),
        ({"image": None, "ann": {"bboxes": [], "id": []}}, "bbox_column='ann.bboxes'"),
        ({"image": None, "ann": [{"bbox": [1, 2, 3, 4]}]}, "bbox_column='ann.bbox'"),
        ({"image": None, "r": [{"x": 1, "y": 2, "width": 3, "height": 4}]}, "bbox_column='r'"),
        (
            {"image": None, "r": [{"xmin": 1, "ymin": 2, "xmax": 3, "ymax": 4, "name": "a"}]},
            "bbox_column='r', box_format='xyxy'",
        ),
        ({"image": None, "inbox": [[1]], "box_office": 2, "box": "B1", "boxer": [[1]]}, None),
        ({"image": None, "box": [[1, 2, 3, 4]]}, "bbox_column='box'"),
        ({"image": None, "gtBoxes": [[1, 2, 3, 4]]}, "bbox_column='gtBoxes'"),
        ({"image": None, "bndbox": [[1, 2, 3, 4]]}, "bbox_column='bndbox'"),
        ({"image": None, "rects": [[1, 2, 3, 4]]}, "bbox_column='rects'"),
        (
            {"image": None, "bbox_yxyx": [[1, 2, 3, 4]]},
            "bbox_column='bbox_yxyx', box_format='yxyx'",
        ),
        ({"image": None, "anns": [{"box": [1, 2, 3, 4]}]}, "bbox_column='anns.box'"),
        (  # FiftyOne
            {"image": None, "gt": {"detections": [{"bounding_box": [0.1, 0.2, 0.3, 0.4]}]}},
            "bbox_column='gt.detections.bounding_box'",
        ),
        (  # Open Images
            {"image": None, "gt": {"XMin": [0.1], "XMax": [0.2], "YMin": [0.1], "YMax": [0.3]}},
            "bbox_column='gt', box_format='xyxy'",
        ),
        (  # CVAT
            {"image": None, "gt": [{"xtl": 1, "ytl": 2, "xbr": 3, "ybr": 4, "label": "a"}]},
            "bbox_column='gt', box_format='xyxy'",
        ),
        ({"image": None, "target": [[1, 2, 3, 4], [5, 6, 7, 8]]}, "bbox_column='target'"),
        ({"image": None, "target": [[1, 2, 3]], "palette": [[1, 2, 3, 4]]}, None),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_column_that_looks_like_boxes(row: dict[str, Any], likely: str | None) -> None:
    assert Rows(row, "image").likely_boxes() == likely
    table = Dataset.from_list([row]).with_format("arrow")[:]
    if "boxes" not in str(row):  # Arrow knows no field inside of an empty list
        assert Rows(table, "image").likely_boxes() == likely


def test_numbers_of_boxes_in_columns_of_their_own() -> None:
    corners = {"xmin": 1, "ymin": 2, "xmax": 3, "ymax": 4}
    for row in (
        {"image": None, **corners},
        {"image": None, **{k: [v] for k, v in corners.items()}},
    ):
        for read in (
            Rows(row, "image"),
            Rows(Dataset.from_list([row]).with_format("arrow")[:], ""),
        ):
            words = read.missing("bbox_column", "bbox")
            assert "dataset.map(lambda row: {\"bbox\": [[row['xmin'], row['ymin'], " in words
            assert words.endswith("pass bbox_column='bbox' and box_format='xyxy'")
    assert Rows({"image": None, "x": 1, "y": 2}, "image").box_parts() is None


BOXES = [[1.0, 2.0, 30.0, 40.0], [5.0, 6.0, 7.0, 8.0]]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([BOXES], pa.list_(pa.list_(pa.float32(), 4))),
        pa.array([BOXES], pa.large_list(pa.large_list(pa.int16()))),
        pa.array([BOXES], pa.list_view(pa.list_(pa.float64()))),
        pa.array([BOXES], pa.large_list_view(pa.list_(pa.float64(), 4))),
        pa.array([str(BOXES)], pa.json_()),
    ],
    ids=lambda column: str(column.type),
)
def test_boxes_of_any_arrow_type_are_found_and_read(column: pa.Array) -> None:
    read = Rows(pa.table({"image": [b"x"], "gt_boxes": column}), "image")
    assert read.value("gt_boxes", 0) == BOXES
    assert read.likely_boxes() == "bbox_column='gt_boxes'"


@pytest.mark.parametrize(
    "kind",
    [Array2D((2, 4), "float32"), LargeList(List(Value("int32"))), List(Json()), List(List(Json()))],
    ids=str,
)
def test_boxes_of_any_feature_are_found_and_read(kind: Any) -> None:
    features = Features({"boxes2d": kind})
    read = Rows(Dataset.from_dict({"boxes2d": [BOXES]}, features=features).data.table, "image")
    assert read.value("boxes2d", 0) == BOXES
    assert read.likely_boxes() == "bbox_column='boxes2d'"


def test_fields_inside_json() -> None:
    objects = [{"bbox": BOXES}, None, [{"bbox": BOXES[0], "note": "x"}], {"bbox": None}]
    features = Features({"objects": Json()})
    dataset = Dataset.from_dict({"objects": objects}, features=features)
    read = Rows(dataset.with_format("arrow")[:], "image")
    values = [read.value("objects.bbox", index) for index in range(4)]
    assert values == [BOXES, None, [BOXES[0]], None]
    assert read.likely_boxes() == "bbox_column='objects.bbox'"
    assert read.has("objects.note")
    assert not read.has("objects.boxes")
    nothing = Rows(dataset.select([1]).with_format("arrow")[:], "image")
    assert nothing.has("objects.bbox")  # as far as anybody can tell
    assert table_rows(read.table) == [{"objects": value} for value in objects]


def test_json_that_is_none_stays_text() -> None:
    read = Rows(pa.table({"note": pa.array(["1", "{", None], pa.json_())}), "image")
    assert [read.value("note", index) for index in range(3)] == [1, "{", None]


# --- giving back ------------------------------------------------------------------------------


def added(names: list[str]) -> Any:
    return lambda: column_features(names)


def test_a_table_comes_back_with_its_features() -> None:
    (rows,) = seen(dataset(), batched=True)
    columns = {
        "prompt": pa.array(["?", None], pa.string()),
        "image_with_bbox": image_array([b"jpeg", None]),
    }
    table = Rows(rows, "image").append(columns, added(list(columns)))
    assert table.column_names == [*FEATURES, "prompt", "image_with_bbox"]
    assert Features.from_arrow_schema(table.schema) == {
        **FEATURES,
        "prompt": Value("string"),
        "image_with_bbox": Image(),
    }
    for name in FEATURES:
        assert table.column(name).equals(rows.pa_table.column(name))
    assert table.column("prompt").to_pylist() == ["?", None]


@pytest.mark.parametrize("batched", [{}, {"batched": True}])
def test_map_takes_the_types_from_it(batched: dict[str, Any]) -> None:
    def add(rows: Any) -> Any:
        read = Rows(rows, "image")
        boxes = pa.array([[]] * len(read), pa.list_(pa.list_(pa.float64())))
        return read.append({"region_boxes": boxes}, added(["region_boxes"]))

    mapped = dataset().map(add, **batched)
    assert mapped.features == {**FEATURES, "region_boxes": List(List(Value("float64")))}
    assert mapped["region_boxes"][:] == [[], []]
    assert mapped.data.column("image").to_pylist()[0] == {"bytes": b"not decoded", "path": None}


def test_a_dict_comes_back_with_the_new_columns_only() -> None:
    batch = Rows({"image": [None, None]}, "image")
    assert batch.append({"n": pa.array([1, 2])}, dict) == {"n": [1, 2]}
    single = Rows({"image": None}, "image")
    assert single.append({"n": pa.array([1])}, dict) == {"n": 1}


# --- features and images ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("features", "column", "names"),
    [
        ({}, "label", None),
        ({"label": Value("int64")}, "label", None),
        ({"label": ClassLabel(names=["a", "b"])}, "label", ["a", "b"]),
        ({"label": List(ClassLabel(names=["a"]))}, "label", ["a"]),
        (FEATURES, "objects.category", ["a", "b"]),
        ({"objects": List({"category": ClassLabel(names=["a"])})}, "objects.category", ["a"]),
        ({"a.b": ClassLabel(names=["a"])}, "a.b", ["a"]),
        (FEATURES, "objects.nothing", None),
        (FEATURES, "things.name", None),
    ],
)
def test_class_names(features: Any, column: str, names: list[str] | None) -> None:
    assert class_names(Features(features), column) == names


@pytest.mark.parametrize("images", [[], [None], [b"jpeg"], [b"one", None, b""]])
def test_image_array(images: list[bytes | None]) -> None:
    array = image_array(images)
    assert array.type == Image().pa_type
    assert array.to_pylist() == [
        None if image is None else {"bytes": image, "path": None} for image in images
    ]


@given(st.lists(st.none() | st.binary(max_size=20), max_size=8))
def test_images_there_and_back(images: list[bytes | None]) -> None:
    stored = image_array(images).to_pylist()
    assert [None if image is None else image["bytes"] for image in stored] == images


class Huge(bytes):
    """Bytes that claim to be 400 MB, as a test must not take them."""

    def __len__(self) -> int:
        return 400_000_000


def test_a_batch_that_arrow_cannot_hold_names_the_way_out() -> None:
    images = [Huge()] * 8
    assert sum(map(len, images)) > MAX_COLUMN_BYTES
    with pytest.raises(OptionError, match=r"batch of 8 rows are 3\.2 GB.*batch_size=2 to map"):
        image_array(images)
