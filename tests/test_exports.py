"""Exports, each read back by a reader written here from the published description."""

from __future__ import annotations

import functools
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Image,
    List,
    Value,
    concatenate_datasets,
)
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pictures
from skimage import data as photos

from hf_regioncap.columns import column_features
from hf_regioncap.errors import OptionError
from hf_regioncap.exports import (
    explode_regions,
    florence2_location,
    paligemma_location,
    plain_text,
    qwen_box,
    regions_of,
    seed_record,
    smart_resize,
    to_chat_messages,
    to_coco_captions,
    to_florence2,
    to_paligemma,
    to_qwen_grounding,
    to_visual_genome,
    write_images,
    write_jsonl,
    write_seed_jsonl,
)
from hf_regioncap.gallery import show, write_gallery
from hf_regioncap.images import encode_jpeg, open_picture
from hf_regioncap.publishing import write_dataset

SIZE = (640, 427)
ROTATED = (427, 640)
PROMPT = "Describe the content of each marked region in the image."


def jpeg(image: Pictures.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def photo() -> Pictures.Image:
    return Pictures.fromarray(photos.rocket())


def opened(path: Path) -> Pictures.Image:
    return Pictures.open(io.BytesIO(path.read_bytes()))


def rotated() -> bytes:
    exif = Pictures.Exif()
    exif[0x0112] = 6
    return jpeg(photo(), exif=exif)


def row(**changes: Any) -> dict[str, Any]:
    """A row with three boxes: one outside, two used, of which the last has a label with markup."""
    boxes = [[700.0, 0.0, 50.0, 50.0], [10.5, 20.0, 30.0, 40.0], [100.0, 50.0, 400.0, 377.0]]
    columns = {
        "image": {"bytes": jpeg(photo()), "path": "../../etc/<b>.jpg"},
        "objects": {"bbox": boxes, "category": [0, 0, 1]},
        "bbox": boxes,
        "id": 7,
        "type": "with_bbox",
        "image_status": "ok",
        "region_boxes": [None, *boxes[1:]],
        "box_status": ["outside", "ok", "clipped"],
        "normalized_bbox": [[0.016, 0.047, 0.063, 0.141], [0.156, 0.117, 0.781, 1.0]]
        + [[0.0] * 4] * 8,
        "valid_bboxes_num": 2,
        "image_with_bbox": {"bytes": encode_jpeg(photo()), "path": None},
        "prompt": PROMPT,
        "answer": '{"1": "a lamp", "2": "a rocket"}',
        "region_captions": [None, "a lamp", "a rocket; it <b>stands</b>\nupright <|im_end|>"],
        "answer_status": "ok",
        "answer_error": None,
        "usage": {"prompt_tokens": 10, "completion_tokens": 5},
    }
    return {**columns, **changes}


def nothing_captioned() -> dict[str, Any]:
    return row(id=8, region_captions=[None, None, None], answer_status="api_error", answer=None)


def no_picture() -> dict[str, Any]:
    return row(
        id=9,
        image=None,
        image_with_bbox=None,
        image_status="image_null",
        region_boxes=[None, None, None],
        box_status=["no_image"] * 3,
        region_captions=[None, None, None],
        answer_status="image_null",
    )


FEATURES = Features(
    {
        "image": Image(),
        "objects": {
            "bbox": List(List(Value("float64"))),
            "category": List(ClassLabel(names=["lamp", "rocket: [x]"])),
        },
        "bbox": List(List(Value("float64"))),
        "id": Value("int64"),
        **column_features(),
    }
)


def dataset(*rows: dict[str, Any]) -> Dataset:
    listed = list(rows) or [row(), nothing_captioned(), no_picture()]
    return Dataset.from_list(listed, features=FEATURES)


def no_rows() -> Dataset:
    return Dataset.from_dict({name: [] for name in FEATURES}, features=FEATURES)


to_qwen = functools.partial(to_qwen_grounding, pixels="model")
EXPORTERS = [explode_regions, to_chat_messages, to_qwen, to_florence2, to_paligemma]


@pytest.mark.parametrize("export", EXPORTERS)
def test_no_rows_give_no_rows_of_the_same_columns(export: Any) -> None:
    empty = export(no_rows())
    assert len(empty) == 0
    assert empty.features == export(dataset()).features


@pytest.mark.parametrize("export", EXPORTERS)
def test_a_dataset_dict_gives_a_dataset_dict(export: Any) -> None:
    exported = export(DatasetDict({"train": dataset(), "test": no_rows()}))
    assert {name: len(part) for name, part in exported.items()} == {
        "train": len(export(dataset())),
        "test": 0,
    }


@pytest.mark.parametrize("export", [*EXPORTERS, to_coco_captions, to_visual_genome])
def test_a_dataset_without_captions_says_what_is_missing(export: Any) -> None:
    plain = Dataset.from_dict({"image": [None], "bbox": [[]]})
    with pytest.raises(OptionError, match=r"no column 'region_boxes'.*'image', 'bbox'"):
        export(plain)


@pytest.mark.parametrize("export", EXPORTERS)
def test_the_source_stays_as_it_is(export: Any) -> None:
    source = dataset()
    before = source.with_format("arrow")[:]
    export(source)
    assert source.with_format("arrow")[:] == before
    assert source.features == FEATURES


def test_only_used_boxes_are_regions_and_they_keep_their_numbers() -> None:
    assert regions_of({}) == []
    first, second = regions_of(row(), label_column="objects.category", label_names=["lamp", "r"])
    assert (first.number, first.place, first.caption, first.label) == (1, 1, "a lamp", "lamp")
    assert (second.number, second.place, second.label, second.box_status) == (2, 2, "r", "clipped")
    assert second.xyxy == [100, 50, 500, 427]


@given(st.text())
def test_plain_text_is_one_line_without_brackets(text: str) -> None:
    plain = plain_text(text)
    assert not set("<>\n\r") & set(plain)
    assert plain.split() == text.replace("<", "‹").replace(">", "›").split()


# explode_regions


def test_one_row_per_region() -> None:
    exploded = explode_regions(
        dataset(), crop=True, columns=["id"], label_column="objects.category"
    )
    assert exploded.column_names == [
        *("image", "crop", "bbox", "region", "caption", "label", "box_status", "answer_status"),
        *("source_row", "id"),
    ]
    rows = exploded.cast_column("image", Image(decode=False)).to_list()
    assert [r["source_row"] for r in rows] == [0, 0, 1, 1]  # the picture-less row has none
    assert [r["region"] for r in rows] == [1, 2, 1, 2]
    assert [r["id"] for r in rows] == [7, 7, 8, 8]
    assert [r["label"] for r in rows] == ["lamp", "rocket: [x]"] * 2
    assert [r["caption"] for r in rows] == [*row()["region_captions"][1:], None, None]
    assert [r["bbox"] for r in rows[:2]] == row()["region_boxes"][1:]
    assert rows[0]["image"]["bytes"] == row()["image"]["bytes"]
    assert rows[0]["image"]["path"] is None


def test_crops_show_the_box_and_as_much_around_it_as_asked() -> None:
    marked = photo()
    marked.paste("red", (100, 50, 500, 427))
    source = dataset(row(image={"bytes": jpeg(marked, quality=95), "path": None}))
    tight = explode_regions(source, crop=True, image=False)
    assert "image" not in tight.column_names
    assert tight[0]["crop"].size == (31, 40)  # 10.5 to 40.5: every pixel that it touches
    assert tight[1]["crop"].size == (400, 377)
    red, green, blue = tight[1]["crop"].resize((1, 1)).getpixel((0, 0))
    assert red > 240
    assert max(green, blue) < 15
    wide = explode_regions(source, crop=True, image=False, context=3.0)
    assert wide[1]["crop"].size == (640, 427)  # bounded by the image
    with pytest.raises(OptionError, match="context"):
        explode_regions(source, crop=True, context=0.5)


def test_crops_lie_in_the_upright_image() -> None:
    turned = row(
        image={"bytes": rotated(), "path": None},
        region_boxes=[None, None, [0.0, 600.0, 427.0, 40.0]],
    )
    turned["box_status"] = ["outside", "outside", "ok"]
    assert explode_regions(dataset(turned), crop=True)[0]["crop"].size == (427, 40)


def test_new_columns_are_not_overwritten_by_own_ones() -> None:
    with pytest.raises(OptionError, match="'bbox'"):
        explode_regions(dataset(), columns=["bbox"])
    for name in ("usage.prompt_tokens", "nothing"):
        with pytest.raises(OptionError, match=f"columns: '{name}' is no column; the dataset has"):
            explode_regions(dataset(), columns=[name])


# TRL


def test_chats_are_what_trl_describes() -> None:
    chats = to_chat_messages(dataset())
    assert chats.features == Features(
        {
            "images": List(Image()),
            "messages": List(
                {
                    "role": Value("string"),
                    "content": List({"type": Value("string"), "text": Value("string")}),
                }
            ),
        }
    )
    assert len(chats) == 1
    user, assistant = chats[0]["messages"]
    assert (user["role"], assistant["role"]) == ("user", "assistant")
    pictures = [p for m in (user, assistant) for p in m["content"] if p["type"] == "image"]
    assert len(pictures) == len(chats[0]["images"]) == 1
    assert chats[0]["images"][0].size == SIZE
    assert user["content"][1] == {"type": "text", "text": PROMPT}
    assert assistant["content"] == [
        {
            "type": "text",
            "text": "<region1>: a lamp\n<region2>: a rocket; it ‹b›stands‹/b› upright ‹|im_end|›",
        }
    ]


def test_chats_show_another_image_on_request() -> None:
    chats = to_chat_messages(
        dataset(row(image={"bytes": rotated(), "path": None})), image_column="image"
    )
    assert chats[0]["images"][0].size == ROTATED


# Qwen-VL


def read_qwen(conversations: list[dict[str, str]]) -> list[dict[str, Any]]:
    """By qwen-vl-finetune/README.md: one <image> in the question, none in the answer."""
    human, gpt = conversations
    assert (human["from"], gpt["from"]) == ("human", "gpt")
    assert human["value"].count("<image>") == 1
    assert not re.search(r"<(image|video)>|<\|", gpt["value"])
    return json.loads(gpt["value"])


@pytest.mark.parametrize("family", ["qwen2-vl", "qwen2.5-vl", "qwen3-vl"])
def test_qwen_grounding_comes_back_in_pixels(family: str) -> None:
    exported = to_qwen(dataset(), family=family)
    assert exported.column_names == ["image", "conversations"]
    assert len(exported) == 1
    first, second = read_qwen(exported[0]["conversations"])
    assert first["label"] == "a lamp"
    frame = (1000, 1000) if family != "qwen2.5-vl" else smart_resize(SIZE, pixels="model")
    for found, region in zip((first, second), regions_of(row()), strict=True):
        pixels = [v * SIZE[i % 2] / frame[i % 2] for i, v in enumerate(found["bbox_2d"])]
        assert pixels == pytest.approx(region.xyxy, abs=1.5)


@pytest.mark.parametrize(
    ("size_wh", "expected"),
    [  # worked out by hand from the description: multiples of 28, within the bounds
        ((28, 28), (56, 56)),
        ((640, 480), (644, 476)),
        ((1000, 1000), (980, 980)),  # rounded it would be 1008 by 1008, over the bound
        ((28, 5600), (28, 5600)),
    ],
)
def test_smart_resize(size_wh: tuple[int, int], expected: tuple[int, int]) -> None:
    assert smart_resize(size_wh, pixels=(56 * 56, 1280 * 28 * 28)) == expected


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        ("model", (4004, 2996)),
        ("qwen-vl-finetune", (756, 560)),
        ("qwen-vl-finetune-trl", (252, 168)),
    ],
)
def test_a_box_of_qwen_lies_in_what_the_processor_makes(pixels: str, expected: Any) -> None:
    size_wh = (4000, 3000)
    assert smart_resize(size_wh, pixels=pixels) == expected
    whole = qwen_box([0, 0, *size_wh], size_wh, pixels=pixels)
    assert whole == [0, 0, expected[0] - 1, expected[1] - 1]


@pytest.mark.parametrize("pixels", [None, "finetune", 12845056, (784,), (784, 28), (784.0, 1e6)])
def test_qwens_bounds_are_asked_for_where_boxes_depend_on_them(pixels: Any) -> None:
    with pytest.raises(OptionError, match=r"pixels must be .*'qwen-vl-finetune'"):
        to_qwen_grounding(dataset(), pixels=pixels)
    if pixels is None:
        assert len(to_qwen_grounding(dataset(), family="qwen3-vl")) == 1


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_smart_resize_keeps_its_promises(width: int, height: int) -> None:
    if max(width, height) > 200 * min(width, height):
        with pytest.raises(ValueError, match="200 times"):
            smart_resize((width, height), pixels="transformers")
        return
    w, h = smart_resize((width, height), pixels="transformers")
    assert w % 28 == h % 28 == 0
    assert w * h >= 56 * 56
    assert w * h <= max(1280 * 28 * 28, 28 * max(w, h))


def test_strips_that_qwen_does_not_take_are_left_out() -> None:
    strip = {"bytes": jpeg(Pictures.new("RGB", (2, 500))), "path": None}
    assert len(to_qwen(dataset(row(image=strip)))) == 0


@given(st.lists(st.floats(0, 1), min_size=4, max_size=4), st.integers(30, 4000))
def test_boxes_stay_inside_every_frame(fractions: list[float], width: int) -> None:
    size_wh = (width, width // 2 + 1)
    xyxy = [fraction * size_wh[axis % 2] for axis, fraction in enumerate(fractions)]
    assert all(0 <= value <= 1000 for value in qwen_box(xyxy, size_wh, family="qwen3-vl"))
    shown = smart_resize(size_wh, pixels="model")
    for axis, value in enumerate(qwen_box(xyxy, size_wh, family="qwen2.5-vl", pixels="model")):
        assert 0 <= value < shown[axis % 2]


# Florence-2


def read_florence2(text: str, size_wh: tuple[int, int]) -> list[tuple[str, list[float]]]:
    """By processing_florence2.py: phrases of no '<', then boxes; bins read at their middle."""
    found = []
    for phrase in re.findall(r"([^<]+(?:<loc_\d+>){4})", text):
        label = re.match(r"^\s*(.*?)(?=<loc_)", phrase)[1]
        bins = [int(value) for value in re.findall(r"<loc_(\d+)>", phrase)]
        assert max(bins) < 1000
        box = [(value + 0.5) * size_wh[axis % 2] / 1000 for axis, value in enumerate(bins)]
        found.append((label.strip(), box))
    return found


def test_florence2_dense_captions_come_back() -> None:
    exported = to_florence2(dataset())
    assert len(exported) == 1
    assert exported[0]["prefix"] == "<DENSE_REGION_CAPTION>"
    back = read_florence2(exported[0]["suffix"], SIZE)
    assert [label for label, _ in back] == [
        plain_text(region.caption) for region in regions_of(row())
    ]
    for (_, box), region in zip(back, regions_of(row()), strict=True):
        assert box == pytest.approx(region.xyxy, abs=max(SIZE) / 1000)


def test_florence2_per_region() -> None:
    exported = to_florence2(dataset(), per_region=True)
    assert len(exported) == 2
    assert re.fullmatch(r"<REGION_TO_DESCRIPTION>(<loc_\d{1,3}>){4}", exported[0]["prefix"])
    assert exported[0]["suffix"] == "a lamp"


# PaliGemma


def read_paligemma(text: str, size_wh: tuple[int, int]) -> list[tuple[str, list[float]]]:
    """By the report: four tokens of 1024 bins, ymin, xmin, ymax, xmax, then the text."""
    found = []
    for part in text.split(" ; "):
        match = re.fullmatch(r"<loc(\d{4})><loc(\d{4})><loc(\d{4})><loc(\d{4})> ([^;<>]+)", part)
        y1, x1, y2, x2 = (int(match[k]) / 1023 for k in range(1, 5))
        width, height = size_wh
        found.append((match[5], [x1 * width, y1 * height, x2 * width, y2 * height]))
    return found


def test_paligemma_detections_come_back() -> None:
    exported = to_paligemma(dataset(), per_region=False)
    assert len(exported) == 1
    back = read_paligemma(exported[0]["suffix"], SIZE)
    assert back[0][0] == "a lamp"
    for (_, box), region in zip(back, regions_of(row()), strict=True):
        assert box == pytest.approx(region.xyxy, abs=max(SIZE) / 1023)


def test_paligemma_captions_per_region() -> None:
    exported = to_paligemma(dataset())
    assert exported["suffix"][0] == "a lamp"
    assert re.fullmatch(r"caption (<loc\d{4}>){4}", exported[1]["prefix"])
    back = read_paligemma(exported[1]["prefix"].removeprefix("caption ") + " x", SIZE)
    assert back[0][1] == pytest.approx([100, 50, 500, 427], abs=1)


@given(st.lists(st.floats(-0.5, 1.5), min_size=4, max_size=4))
def test_location_tokens_exist(fractions: list[float]) -> None:
    xyxy = [fraction * SIZE[axis % 2] for axis, fraction in enumerate(fractions)]
    florence = [int(value) for value in re.findall(r"<loc_(\d+)>", florence2_location(xyxy, SIZE))]
    paligemma = [int(v) for v in re.findall(r"<loc(\d{4})>", paligemma_location(xyxy, SIZE))]
    assert len(florence) == len(paligemma) == 4
    assert 0 <= min(florence) <= max(florence) <= 999
    assert 0 <= min(paligemma) <= max(paligemma) <= 1023


# COCO


def test_coco_is_what_its_description_says() -> None:
    coco = to_coco_captions(dataset(), label_column="objects.category")
    assert json.loads(json.dumps(coco)) == coco
    assert coco["images"] == [
        {"id": 1, "file_name": "images/00000001.jpg", "width": 640, "height": 427},
        {"id": 2, "file_name": "images/00000002.jpg", "width": 640, "height": 427},
    ]
    assert [a["id"] for a in coco["annotations"]] == [1, 2]
    names = {category["id"]: category["name"] for category in coco["categories"]}
    first, second = coco["annotations"]
    assert names[second["category_id"]] == "rocket: [x]"
    assert first["bbox"] == [10.5, 20.0, 30.0, 40.0]
    assert first["area"] == 1200
    assert (first["image_id"], first["iscrowd"], first["caption"]) == (1, 0, "a lamp")


def test_coco_sizes_are_those_of_the_upright_image() -> None:
    coco = to_coco_captions(dataset(row(image={"bytes": rotated(), "path": None})))
    assert (coco["images"][0]["width"], coco["images"][0]["height"]) == ROTATED
    assert {category["name"] for category in coco["categories"]} == {"region"}


def test_coco_is_read_by_pycocotools(tmp_path: Path) -> None:
    reader = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    path = tmp_path / "captions.json"
    path.write_text(json.dumps(to_coco_captions(dataset())), encoding="utf-8")
    coco = reader.COCO(path)
    [image_id] = coco.getImgIds(catIds=coco.getCatIds(catNms=["region"]))
    found = coco.loadAnns(coco.getAnnIds(imgIds=[image_id], areaRng=[1000, 2000]))
    assert [annotation["caption"] for annotation in found] == ["a lamp"]


# Visual Genome


def test_visual_genome_is_what_its_readme_says() -> None:
    described = to_visual_genome(dataset(row(), row(), no_picture()))
    assert json.loads(json.dumps(described)) == described
    assert [image["id"] for image in described] == [1, 2, 3]
    regions = [region for image in described for region in image["regions"]]
    assert len({region["region_id"] for region in regions}) == len(regions) == 4
    for region in regions:
        kinds = {name: type(value) for name, value in region.items()}
        numbers = dict.fromkeys(("region_id", "image_id", "x", "y", "width", "height"), int)
        assert kinds == {**numbers, "phrase": str}
    assert described[1]["regions"][1] == {
        "region_id": 4,
        "image_id": 2,
        **{"x": 100, "y": 50, "width": 400, "height": 377},
        "phrase": row()["region_captions"][2],
    }
    assert described[2]["regions"] == []


# Labels


@pytest.mark.parametrize(
    ("value", "feature"),
    [("lamp", Value("string")), (1, ClassLabel(names=["rocket", "lamp"]))],
)
def test_one_label_per_row_is_that_of_all_its_boxes(value: Any, feature: Any) -> None:
    source = dataset(row()).add_column("kind", [value]).cast_column("kind", feature)
    exploded = explode_regions(source, label_column="kind", image=False)
    assert exploded["label"][:] == ["lamp", "lamp"]
    coco = to_coco_captions(source, label_column="kind")
    assert [category["name"] for category in coco["categories"]] == ["lamp"]


# Files


def test_images_are_written_by_number_and_without_metadata(tmp_path: Path) -> None:
    exif = Pictures.Exif()
    exif[0x010E] = "SECRET"
    tagged = {"bytes": jpeg(photo(), exif=exif), "path": "../../../evil.jpg"}
    png = io.BytesIO()
    photo().save(png, "PNG")
    broken = {"bytes": b"not an image", "path": None}
    source = dataset(
        row(image=tagged), row(image={"bytes": png.getvalue(), "path": None}), row(image=broken)
    )
    names = write_images(source, tmp_path)
    assert names == ["images/00000001.jpg", "images/00000002.png", None]
    written = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*"))
    assert written == names[:2]
    assert b"SECRET" not in (tmp_path / names[0]).read_bytes()
    assert [image["file_name"] for image in to_coco_captions(source)["images"]] == names[:2]


def test_jsonl_holds_paths_for_images_and_each_image_once(tmp_path: Path) -> None:
    path = write_jsonl(to_florence2(dataset(), per_region=True), tmp_path, name="florence2.jsonl")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert lines[0]["suffix"] == "a lamp"
    assert {line["image"] for line in lines} == {"images/00000001.jpg"}
    assert len(list((tmp_path / "images").iterdir())) == 1
    chats = write_jsonl(to_chat_messages(dataset()), tmp_path / "chats")
    assert json.loads(chats.read_text(encoding="utf-8"))["images"] == ["images/00000001.jpg"]


def test_turned_photos_are_written_upright_and_others_as_they_are(tmp_path: Path) -> None:
    lying, upright = rotated(), jpeg(photo())
    buffer = io.BytesIO()
    exif = Pictures.Exif()
    exif[0x0112] = 3
    photo().save(buffer, "PNG", exif=exif)
    images = [{"bytes": data, "path": None} for data in (lying, upright, buffer.getvalue())]
    source = dataset(*(row(image=image) for image in images))
    first, second, third = (opened(tmp_path / name) for name in write_images(source, tmp_path))
    assert [each.size for each in (first, second, third)] == [ROTATED, SIZE, SIZE]
    assert all(each.getexif().get(0x0112, 1) == 1 for each in (first, second, third))
    assert (tmp_path / "images" / "00000002.jpg").read_bytes() == upright
    for image, written in ((images[0], first), (images[2], third)):
        shown = open_picture(image).image
        assert shown is not None
        difference = np.abs(np.asarray(shown, float) - np.asarray(written, float))
        assert difference.mean() < 4  # on its head it would be ten times as much
    sizes = [(i["width"], i["height"]) for i in to_coco_captions(source)["images"]]
    assert sizes == [ROTATED, SIZE, SIZE]


# The seed's format

FIELDS = [
    *("image", "type", "bbox", "normalized_bbox", "result_file", "image_with_bbox"),
    *("valid_bboxes_num", "prompt", "answer"),
]


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_seeds_nine_fields(tmp_path: Path) -> None:
    records = read_lines(write_seed_jsonl(dataset(), tmp_path))
    assert [list(record) for record in records] == [FIELDS] * 3
    first, failed, empty = records
    assert first["bbox"] == [[700, 0, 50, 50], [10.5, 20, 30, 40], [100, 50, 400, 377]]
    assert first["normalized_bbox"] == row()["normalized_bbox"]
    assert (first["type"], first["valid_bboxes_num"]) == ("with_bbox", 2)
    assert first["prompt"] == PROMPT
    assert first["answer"].splitlines() == [
        "<region1>: a lamp",
        "<region2>: a rocket; it <b>stands</b> upright <|im_end|>",
    ]
    assert first["result_file"] == "regions.jsonl"
    assert (tmp_path / first["result_file"]).is_file()
    for field in ("image", "image_with_bbox"):
        assert opened(tmp_path / first[field]).size == SIZE
    assert first["image"] != first["image_with_bbox"]
    assert failed["answer"] is None
    assert (empty["image"], empty["image_with_bbox"]) == (None, None)


def test_pictures_of_a_longer_file_go_and_those_of_others_stay(tmp_path: Path) -> None:
    write_seed_jsonl(dataset(row(), row(), row()), tmp_path)
    own = tmp_path / "images" / "00000009.jpg"
    own.write_bytes(b"not ours")
    buffer = io.BytesIO()
    photo().save(buffer, "PNG")
    write_seed_jsonl(dataset(row(image={"bytes": buffer.getvalue(), "path": None})), tmp_path)
    assert sorted(path.name for path in own.parent.iterdir()) == [
        *("00000001.png", "00000001_bbox_vis.jpg", "00000009.jpg")
    ]


def test_the_seeds_example_line_by_line() -> None:
    """The document's own example: a 1536x832 image with one box."""
    record = seed_record(
        {
            "type": "with_bbox",
            "bbox": [[196, 104, 310, 495]],
            "region_boxes": [[196.0, 104.0, 310.0, 495.0]],
            "box_status": ["ok"],
            "normalized_bbox": [[0.128, 0.125, 0.329, 0.72]] + [[0.0] * 4] * 9,
            "valid_bboxes_num": 1,
            "prompt": "… There are 1 regions: <region1> to <region1>.",
            "region_captions": ["the lower half of a person"],
        }
    )
    assert list(record) == FIELDS
    assert json.dumps(record["bbox"]) == "[[196, 104, 310, 495]]"
    assert record["answer"] == "<region1>: the lower half of a person"


def test_boxes_of_other_formats_and_proposed_ones_come_in_pixels(tmp_path: Path) -> None:
    permille = row(bbox=[[1.0, 2.0, 3.0, 4.0]] * 3)
    proposed = row(type="without_bbox", bbox=None)
    as_used = [None, [10.5, 20, 30, 40], [100, 50, 400, 377]]
    for source, options in (
        (dataset(permille), {"box_unit": "permille"}),
        (dataset(permille), {"box_format": "xyxy"}),
        (dataset(proposed), {}),
    ):
        [record] = read_lines(write_seed_jsonl(source, tmp_path, **options))
        assert record["bbox"] == as_used
    nested = write_seed_jsonl(dataset(), tmp_path, bbox_column="objects.bbox")
    assert read_lines(nested)[0]["bbox"][0] == [700, 0, 50, 50]


def test_splits_do_not_overwrite_each_others_images(tmp_path: Path) -> None:
    green = {"bytes": jpeg(Pictures.new("RGB", SIZE, "green")), "path": None}
    both = DatasetDict({"train": dataset(row()), "test": dataset(row(image=green))})
    first, second = read_lines(write_seed_jsonl(both, tmp_path))
    assert first["image"] != second["image"]
    assert opened(tmp_path / second["image"]).getpixel((0, 0))[1] > 100


def test_a_prefix_is_followed_everywhere(tmp_path: Path) -> None:
    new = column_features()
    prefixed = dataset().rename_columns({name: f"my_{name}" for name in new})
    assert explode_regions(prefixed, column_prefix="my_")["caption"][0] == "a lamp"
    assert len(to_chat_messages(prefixed, column_prefix="my_")) == 1
    assert len(to_florence2(prefixed, column_prefix="my_")) == 1
    assert to_visual_genome(prefixed, column_prefix="my_")[0]["regions"][0]["phrase"] == "a lamp"
    [record, *_] = read_lines(write_seed_jsonl(prefixed, tmp_path, column_prefix="my_"))
    assert record["answer"].startswith("<region1>: a lamp")
    assert record["image_with_bbox"] is not None


def test_a_file_outside_the_root_is_never_exported(tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(jpeg(photo()))
    root = tmp_path / "root"
    root.mkdir()
    (root / "own.jpg").write_bytes(jpeg(photo()))
    rows = [row(image={"bytes": None, "path": str(p)}) for p in (secret, root / "own.jpg")]
    table = Dataset.from_list(rows, features=FEATURES)
    for source in (table, table.cast_column("image", Image(decode=False))):
        assert len(to_florence2(source, image_root=root)) == 1
        assert write_images(source, tmp_path / "out", image_root=root)[0] is None
        lines = read_lines(write_seed_jsonl(source, tmp_path / "out", image_root=root))
        assert [line["image"] for line in lines] == [None, "images/00000002.jpg"]


def test_numbers_are_finite_in_every_json(tmp_path: Path) -> None:
    for record in read_lines(write_seed_jsonl(dataset(), tmp_path)):
        for box in record["bbox"]:
            assert box is None or all(math.isfinite(value) for value in box)


# After a review


def reviewed(prefix: str = "") -> Dataset:
    """Two regions, of which one was edited and the other rejected."""
    columns = {
        f"{prefix}caption_reviewed": [[None, "a street lamp", None]],
        f"{prefix}review_status": [[None, "edited", "rejected"]],
    }
    source = dataset(row())
    if prefix:
        source = source.rename_columns({name: prefix + name for name in column_features()})
    features = Features(dict.fromkeys(columns, List(Value("string"))))
    return concatenate_datasets([source, Dataset.from_dict(columns, features)], axis=1)


def everything(source: Any, tmp_path: Path, **reading: Any) -> dict[str, str]:
    """What each exporter, the page, a notebook's cell and the card make of a dataset, as text."""
    texts = {
        getattr(export, "__name__", "to_qwen"): json.dumps(
            export(source, **reading).cast_column("image", Image(decode=False)).to_list()
            if export is not to_chat_messages
            else export(source, **reading)["messages"][:],
            default=str,
            ensure_ascii=False,
        )
        for export in EXPORTERS
    }
    texts["coco"] = json.dumps(to_coco_captions(source, **reading), ensure_ascii=False)
    texts["genome"] = json.dumps(to_visual_genome(source, **reading), ensure_ascii=False)
    texts["seed"] = write_seed_jsonl(source, tmp_path / "seed", **reading).read_text("utf-8")
    [page] = write_gallery(source, tmp_path / "gallery.html", **reading)
    texts["page"] = page.read_text("utf-8").replace('"answer":', '"answer":\n')
    texts["page"] = re.sub(r'(?<="answer":\n)"(\\.|[^"\\])*"', "", texts["page"])
    texts["show"] = show(source, **reading)._repr_html_()
    return texts


@pytest.mark.parametrize("prefix", ["", "my_"])
def test_what_was_reviewed_is_exported(prefix: str, tmp_path: Path) -> None:
    for name, text in everything(reviewed(prefix), tmp_path, column_prefix=prefix).items():
        assert "a street lamp" in text, name
        assert "a lamp" not in text, name
        assert "upright" not in text, name
    exploded = explode_regions(reviewed(prefix), column_prefix=prefix)
    assert (exploded["region"][:], exploded["caption"][:]) == ([1], ["a street lamp"])


def test_the_models_own_captions_are_exported_on_request(tmp_path: Path) -> None:
    own = everything(reviewed(), tmp_path / "own", caption_column="region_captions")
    assert own == everything(
        reviewed().remove_columns(["caption_reviewed", "review_status"]), tmp_path / "own"
    )
    assert all("a lamp" in text and "a street lamp" not in text for text in own.values())
    for export in [*EXPORTERS, write_gallery]:
        more = [tmp_path / "x.html"] if export is write_gallery else []
        with pytest.raises(OptionError, match="no column 'captions'"):
            export(reviewed(), *more, caption_column="captions")
    with pytest.raises(OptionError, match="caption_column 'prompt' must hold a list of texts"):
        explode_regions(reviewed(), caption_column="prompt")


def test_the_card_shows_what_was_reviewed(tmp_path: Path) -> None:
    write_dataset(reviewed(), tmp_path)
    card = (tmp_path / "README.md").read_text("utf-8")
    assert 'zip(row["region_boxes"], row["caption_reviewed"])' in card
    assert "region 1: `a street lamp`" in card
    assert "region 2" not in card
