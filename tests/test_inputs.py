"""What people bring: fields of any name, boxes of any form, image folders of any layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Image, List, Value
from PIL import Image as Pictures

from hf_regioncap import caption_dataset
from hf_regioncap.errors import OptionError
from hf_regioncap.inputs import load, load_jsonl

BOX = [4, 4, 30, 20]


def lines(path: Path, *rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def photo(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Pictures.new("RGB", (64, 48), "tan").save(path)
    return path


# JSON lines


@pytest.mark.parametrize("name", ["bbox", "boxes"])
def test_one_bad_value_spoils_one_box(name: str, tmp_path: Path) -> None:
    values = [[BOX, [1, 2, "wide", 4]], None, [[1.5, 2, 3, 4]], BOX, "none", [7], [[True] * 4]]
    rows = [{"image": "a.png", name: value} for value in values]
    dataset, root = load_jsonl(lines(tmp_path / "rows.jsonl", *rows), bbox_column=name)
    assert root == str(tmp_path)
    assert dataset.features == {"image": Image(), name: List(List(Value("float64")))}
    assert dataset[name][:] == [
        *([BOX, [1, 2, None, 4]], None, [[1.5, 2, 3, 4]], [BOX], [None], [None], [[None] * 4])
    ]


def test_another_image_column_is_read_from_the_files_folder(tmp_path: Path) -> None:
    file = lines(tmp_path / "rows.jsonl", {"photo": "a.png", "bbox": [BOX]}, {"photo": None})
    dataset, _ = load_jsonl(file, image_column="photo")
    assert dataset.features["photo"] == Image()
    stored = dataset.cast_column("photo", Image(decode=False))["photo"][:]
    assert stored == [{"bytes": None, "path": str(tmp_path / "a.png")}, None]
    with pytest.raises(OptionError, match=r"no field 'image'; it has \['photo', 'bbox'\]"):
        load_jsonl(file)


@pytest.mark.parametrize(
    ("boxes", "box_format", "kept"),
    [
        ([{"x": 4, "y": 4, "width": 30, "height": 20}], "xywh", True),
        ([{"x": 4, "y": 4.5, "width": 30, "height": 20, "label": "cup"}], "xywh", True),
        ([{"xmin": 4, "ymin": 4, "xmax": 34, "ymax": 24}], "xyxy", True),
        ([{"x": 4, "y": 4, "width": 30, "height": "?"}, BOX], "xywh", False),
    ],
)
def test_boxes_as_dicts(boxes: list[Any], box_format: str, kept: bool, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    file = lines(tmp_path / "rows.jsonl", {"image": "a.png", "bbox": boxes})
    dataset, root = load(str(file))
    assert (dataset["bbox"][0] == boxes) is kept
    captioned = caption_dataset(dataset, base_url="offline", image_root=root, box_format=box_format)
    assert captioned["box_status"][0] == ["ok"] if kept else ["invalid_value", "ok"]


@pytest.mark.parametrize(
    ("good", "bad", "cleaned"),
    [
        ({"bbox": [BOX]}, {"bbox": [[1, "?", 3, 4]]}, [[1, None, 3, 4]]),
        ([{"bbox": BOX, "id": 1}], [{"bbox": [1, "?", 3, 4], "id": 2}], [[1, None, 3, 4]]),
    ],
)
def test_boxes_inside_a_field(good: Any, bad: Any, cleaned: Any, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    rows = [{"image": "a.png", "objects": objects} for objects in (good, bad)]
    file = lines(tmp_path / "rows.jsonl", *rows)
    dataset, root = load(str(file), bbox_column="objects.bbox")
    objects = dataset["objects"][1]
    found = objects["bbox"] if isinstance(objects, dict) else [each["bbox"] for each in objects]
    assert found == cleaned
    captioned = caption_dataset(
        dataset, base_url="offline", image_root=root, bbox_column="objects.bbox"
    )
    assert captioned["box_status"][:] == [["ok"], ["invalid_value"]]


def test_a_field_without_boxes_stays_for_the_check_to_name(tmp_path: Path) -> None:
    rows = [{"image": "a.png", "caption": f"cup {k}"} for k in range(12)]
    dataset, _ = load_jsonl(lines(tmp_path / "rows.jsonl", *rows), bbox_column="caption")
    assert dataset["caption"][0] == "cup 0"


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (
            [[{"bbox": BOX, "label": 1}], [{"bbox": BOX, "label": "dog"}]],
            [[{"bbox": BOX, "label": "1"}], [{"bbox": BOX, "label": "dog"}]],
        ),
        (
            [{"bbox": [BOX], "label": [1]}, {"bbox": [BOX, BOX], "label": ["dog", None]}],
            [{"bbox": [BOX], "label": ["1"]}, {"bbox": [BOX, BOX], "label": ["dog", None]}],
        ),
        (
            [[{"bbox": BOX}], {"bbox": [BOX, BOX], "label": ["cat", "dog"]}],
            [
                [{"bbox": BOX, "label": None}],
                [{"bbox": BOX, "label": "cat"}, {"bbox": BOX, "label": "dog"}],
            ],
        ),
        (
            [[{"bbox": BOX, "more": {}}], [{"bbox": BOX, "more": {}}]],
            [[{"bbox": BOX, "more": "{}"}], [{"bbox": BOX, "more": "{}"}]],
        ),
    ],
)
def test_fields_that_mix_types_cost_no_boxes(rows: Any, expected: Any, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    file = lines(tmp_path / "rows.jsonl", *({"image": "a.png", "objects": each} for each in rows))
    dataset, root = load(str(file), bbox_column="objects.bbox")
    assert dataset["objects"][:] == expected
    captioned = caption_dataset(
        dataset, base_url="offline", image_root=root, bbox_column="objects.bbox"
    )
    assert captioned["box_status"][0] == ["ok"]
    assert captioned["answer_status"][:] == ["ok", "ok"]


def test_columns_that_no_arrow_type_holds_are_text(tmp_path: Path) -> None:
    values = [10**400, -(2**63), "x", {"a": [1, "y"]}, None, {}]
    rows = [{"image": "a.png", "bbox": [], "n": value} for value in values]
    dataset, _ = load_jsonl(lines(tmp_path / "rows.jsonl", *rows))
    assert dataset["n"][:] == [*(str(10**400), str(-(2**63)), "x", '{"a": [1, "y"]}', None, "{}")]
    dataset.remove_columns("image").to_parquet(str(tmp_path / "rows.parquet"))


def test_half_characters_marks_and_back_slashes_are_read(tmp_path: Path) -> None:
    photo(tmp_path / "images" / "a.png")
    text = '{"image": "images\\\\a.png", "bbox": [], "t\\ud800": "\\ud83d\\ude00 \\udc00"}'
    (tmp_path / "rows.jsonl").write_text(text, encoding="utf-8-sig")
    dataset, root = load_jsonl(tmp_path / "rows.jsonl")
    assert dataset["t\ufffd"][:] == ["\U0001f600 \ufffd"]
    captioned = caption_dataset(dataset, base_url="offline", image_root=root, propose=None)
    assert captioned["image_status"][:] == ["ok"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "line 2: nested too deeply"),
        ('{"n": 1' + "0" * 5000 + "}", "line 2: not JSON"),
        ("{", "line 2: not JSON"),
        ("5", "line 2: not a JSON object"),
    ],
)
def test_lines_that_cannot_be_read_are_named(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"image": null}\n' + text)
    with pytest.raises(OptionError, match=words):
        load_jsonl(tmp_path / "rows.jsonl")


# Image folders


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("folder", ["", "images"])
def test_split_words_in_file_names_cost_no_metadata(
    folder: str, streaming: bool, tmp_path: Path
) -> None:
    names = ["COCO_val2014_1.jpg", "coco_train2017_2.jpg", "test_3.jpg"]
    for name in names:
        photo(tmp_path / "coco" / folder / name)
    rows = [{"file_name": name, "bbox": [BOX]} for name in names]
    lines(tmp_path / "coco" / folder / "metadata.jsonl", *rows)
    told: list[str] = []
    dataset, root = load(str(tmp_path / "coco"), streaming=streaming, tell=told.append)
    counts = [words.partition("': ")[2] for words in told]
    assert counts == ["3 photos found, 3 rows read (3 in train)"] * (not streaming)
    assert [row["bbox"] for row in dataset] == [[BOX]] * 3
    assert root == str(tmp_path / "coco")


def test_folders_of_splits_stay_splits(tmp_path: Path) -> None:
    for split in ("train2017", "val2017"):
        photo(tmp_path / "coco" / split / "COCO_val2014_1.jpg")
        rows = [{"file_name": "COCO_val2014_1.jpg", "bbox": [BOX]}]
        lines(tmp_path / "coco" / split / "metadata.jsonl", *rows)
    told: list[str] = []
    dataset, _ = load(str(tmp_path / "coco"), tell=told.append)
    assert told[0].endswith("2 photos found, 2 rows read (1 in train, 1 in validation)")
    assert {name: part["bbox"][:] for name, part in dataset.items()} == {
        "train": [[BOX]],
        "validation": [[BOX]],
    }
