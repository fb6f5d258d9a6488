"""COCO's JSON as tools really write it: read, or told; nothing else put in a box's place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Image, List, Value
from PIL import Image as Pictures

from hf_regioncap import caption_dataset
from hf_regioncap.errors import OptionError
from hf_regioncap.inputs import load, load_coco
from hf_regioncap.inputs_masks import segmentation_box

BOX = [4, 4, 30, 20]
CAT = [{"id": 1, "name": "cat"}]


def photo(path: Path, size: tuple[int, int] = (64, 48), **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Pictures.new("RGB", size, "tan").save(path, **options)
    return path


def entry(**parts: Any) -> dict[str, Any]:
    return {"id": 7, "file_name": "a.png", **parts}


def annotation(**parts: Any) -> dict[str, Any]:
    return {"id": 1, "image_id": 7, "category_id": 1, "bbox": BOX, **parts}


def read(
    folder: Path,
    images: Any = None,
    annotations: Any = None,
    categories: Any = CAT,
    **options: Any,
) -> tuple[Dataset, list[str]]:
    """What is read of a file with these parts, and what is told."""
    if not (folder / "a.png").exists():
        photo(folder / "a.png")
    parts = {
        "images": [entry()] if images is None else images,
        "annotations": [annotation()] if annotations is None else annotations,
        "categories": categories,
    }
    file = folder / "coco.json"
    file.write_text(json.dumps(parts), encoding="utf-8")
    told: list[str] = []
    dataset, root = load_coco(file, folder, tell=told.append, **options)
    assert root == str(folder)
    assert dataset.features["image"] == Image()
    assert dataset.features["bbox"] == List(List(Value("float64")))
    assert dataset.features["category"] == List(Value("string"))
    return dataset, told


def names(dataset: Dataset, root: Path) -> list[str]:
    stored = dataset.cast_column("image", Image(decode=False))["image"][:]
    return [str(Path(image["path"]).relative_to(root)) for image in stored]


def test_a_file_as_the_data_set_has_it_tells_nothing(tmp_path: Path) -> None:
    dataset, told = read(tmp_path, [entry(width=64, height=48), entry(id=8)])
    assert dataset.column_names == ["image", "bbox", "category", "image_id"]
    assert dataset.remove_columns("image").to_list() == [
        {"bbox": [BOX], "category": ["cat"], "image_id": 7},
        {"bbox": [], "category": [], "image_id": 8},
    ]
    assert told == []


# Ids


@pytest.mark.parametrize(
    ("own", "theirs"), [(7, "7"), ("7", 7), (7, 7.0), (" 7 ", 7), ("a", "a"), ([1], [1])]
)
def test_ids_as_text_and_numbers_are_the_same(own: Any, theirs: Any, tmp_path: Path) -> None:
    dataset, told = read(tmp_path, [entry(id=own)], [annotation(image_id=theirs)])
    assert dataset["bbox"][:] == [[BOX]]
    assert told == []


def test_category_ids_are_compared_alike_and_names_may_be_missing(tmp_path: Path) -> None:
    annotations = [
        annotation(category_id="1"),
        annotation(category_id=91),
        annotation(category_id=92, category_name="dog"),
        annotation(category_id=None),
        annotation(category_id=2),
    ]
    categories = [*CAT, {"id": 2, "name": 5, "supercategory": "none"}]
    dataset, told = read(tmp_path, annotations=annotations, categories=categories)
    assert dataset["category"][0] == ["cat", None, "dog", None, "5"]
    assert [words for words in told if "category_id that is not in 'categories' (91)" in words]


def test_annotations_of_no_image_are_told_and_all_of_them_are_an_error(tmp_path: Path) -> None:
    lost = annotation(image_id=99)
    dataset, told = read(tmp_path, annotations=[annotation(), lost, 5])
    assert dataset["bbox"][:] == [[BOX]]
    assert told == [
        "2 of 3 annotations are of no image in the list (image_id 99; the images have ids like 7): "
        "they are left out"
    ]
    with pytest.raises(OptionError, match=r"all 1 annotations are of no image .*image_id 99"):
        read(tmp_path, annotations=[lost])


def test_images_of_one_id_are_told_apart_or_refused(tmp_path: Path) -> None:
    photo(tmp_path / "b.png")
    dataset, told = read(tmp_path, [entry(), entry()])
    assert (dataset["bbox"][:], told) == ([[BOX]], ["1 of 2 images are listed twice: read once"])
    two = [entry(), entry(file_name="b.png")]
    with pytest.raises(OptionError, match=r"'a.png' and 'b.png' have the same id 7"):
        read(tmp_path, two)
    dataset, _ = read(tmp_path, [*two, entry(id=8)], [annotation(image_id=8)])
    assert dataset["bbox"][:] == [[], [], [BOX]]


@pytest.mark.parametrize("part", ["annotations", "categories"])
def test_parts_may_be_null_or_missing(part: str, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    data = {"images": [entry()], "annotations": [annotation()], "categories": CAT, part: None}
    for _ in range(2):
        (tmp_path / "coco.json").write_text(json.dumps(data))
        dataset, _ = load_coco(tmp_path / "coco.json", tmp_path, tell=[].append)
        assert dataset["bbox"][:] == ([[]] if part == "annotations" else [[BOX]])
        data.pop(part, None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "is not COCO's JSON"),
        ('{"images": null}', "is not COCO's JSON"),
        ('{"images": [], "annotations": []}', "lists no images"),
        ('{"images": ["a.png"]}', "'images' must hold an object for each image"),
        ('{"images": [{}], "annotations": {}', "is not COCO's JSON"),
        ("[" * 100_000, "nested too deeply"),
        (b"\xff\xfe[\x00]\x00", "is not UTF-8 text"),
    ],
)
def test_what_is_not_coco_is_refused_in_words(
    text: str | bytes, words: str, tmp_path: Path
) -> None:
    file = tmp_path / "coco.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(OptionError, match=words):
        load_coco(file, tmp_path)


def test_a_mark_and_half_characters_are_read(tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    categories = '"categories": [{"id": 1, "name": "caf\\ud800"}]'
    text = json.dumps({"images": [entry()], "annotations": [annotation()]})[:-1]
    (tmp_path / "coco.json").write_text(f"{text}, {categories}}}", encoding="utf-8-sig")
    assert load_coco(tmp_path / "coco.json", tmp_path)[0]["category"][0] == ["caf\ufffd"]


# Boxes


@pytest.mark.parametrize(
    ("bbox", "expected"),
    [
        (["4", "4.0", "30", " 20"], BOX),
        ("4, 4, 30, 20", BOX),
        ("[4, 4, 30, 20]", BOX),
        ({"x": 4, "y": 4, "width": 30, "height": 20}, BOX),
        ([4.5, 4, 10**400, 20], None),
        ([4, 4, 30], None),
        ([], None),
        (None, None),
        ("none", None),
    ],
)
def test_boxes_are_read_or_null_in_their_place(bbox: Any, expected: Any, tmp_path: Path) -> None:
    dataset, told = read(tmp_path, annotations=[annotation(), annotation(id=5, bbox=bbox)])
    assert dataset["bbox"][0] == [BOX, expected]
    unread = "1 of 2 annotations have no box that can be read (the first has id 5)"
    assert [words.split(":")[0] for words in told] == [unread] * (expected is None)


def test_no_contours_are_proposed_in_the_place_of_a_box_that_cannot_be_read(
    tmp_path: Path,
) -> None:
    bad = annotation(image_id=8, bbox=None, keypoints=[1, 2, 2])
    dataset, _ = read(tmp_path, [entry(), entry(id=8)], [annotation(), bad])
    captioned = caption_dataset(dataset, base_url="offline", image_root=tmp_path)
    assert captioned["answer_status"][:] == ["ok", "boxes_invalid"]
    assert captioned["box_status"][:] == [["ok"], ["invalid_value"]]
    with pytest.raises(OptionError, match="none of its 1 annotations has a box or a mask"):
        read(tmp_path, annotations=[annotation(bbox=None)])


def test_the_box_of_a_mask_is_taken_where_there_is_no_other(tmp_path: Path) -> None:
    polygon = {"segmentation": [[4, 4, 34, 4, 34, 24, 4, 24]], "bbox": []}
    dataset, told = read(tmp_path, annotations=[annotation(**polygon), annotation()])
    assert dataset["bbox"][0] == [BOX, BOX]
    assert told == ["1 of 2 annotations have no box: that of their mask is taken"]


@pytest.mark.parametrize(
    ("segmentation", "box"),
    [
        ([], None),
        ([[]], None),
        ([1, 2, 5, 2, 5, 9], [1, 2, 4, 7]),
        ([[1, 2, 5, 2, 5]], None),
        ([["x", 2, 5, 2]], None),
        ({"size": [4, 6], "counts": [0, 24]}, [0, 0, 6, 4]),
        ({"size": [4, 6], "counts": [3, 2, 19]}, [0, 0, 2, 4]),
        ({"size": [4, 6], "counts": [24]}, None),
        ({"size": [4, 6], "counts": [0, 25]}, None),
        ({"size": [4], "counts": [0, 4]}, None),
        ({"size": [4, 6], "counts": None}, None),
        ({"size": [4, 6], "counts": "~~"}, None),
        (None, None),
    ],
)
def test_boxes_around_masks(segmentation: Any, box: Any) -> None:
    assert segmentation_box(segmentation) == box


def test_compressed_masks_are_read_as_pycocotools_writes_them() -> None:
    masks = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    import numpy as np

    generator = np.random.default_rng(5)
    for _ in range(50):
        height, width = generator.integers(3, 200, 2)
        mask = np.zeros((height, width), np.uint8, order="F")
        x, y = generator.integers(0, width - 1), generator.integers(0, height - 1)
        mask[y : y + generator.integers(1, height), x : x + generator.integers(1, width)] = 1
        mask &= np.asfortranarray(generator.random(mask.shape) < 0.7).astype(np.uint8)
        encoded = masks.encode(mask)
        found = segmentation_box({**encoded, "counts": encoded["counts"].decode()})
        expected = masks.toBbox(encoded).tolist() if mask.any() else None
        assert found == expected


def test_panoptic_segments_are_the_regions(tmp_path: Path) -> None:
    segments = [
        {"id": 3, "category_id": 1, "bbox": BOX, "iscrowd": 0},
        {"id": 4, "category_id": 1, "bbox": [0, 0, 9, 9], "iscrowd": False},
    ]
    panoptic = {"image_id": 7, "file_name": "a_mask.png", "segments_info": segments}
    dataset, told = read(tmp_path, annotations=[panoptic])
    assert dataset["bbox"][0] == [BOX, [0, 0, 9, 9]]
    assert (dataset["category"][0], told) == (["cat", "cat"], [])


def test_captions_of_the_whole_image_are_no_regions(tmp_path: Path) -> None:
    captions = [{"id": n, "image_id": 7, "caption": text} for n, text in enumerate(["a", "b"])]
    dataset, told = read(tmp_path, annotations=captions)
    assert (dataset["bbox"][0], dataset["captions"][0], told) == ([], ["a", "b"], [])
    described = annotation(caption="a cat")  # a region with a text is a region
    assert read(tmp_path, annotations=[described])[0]["bbox"][0] == [BOX]


# Files


@pytest.mark.parametrize(
    ("parts", "file", "by_its_end"),
    [
        ({"file_name": "images\\p.png"}, "images/p.png", False),
        ({"file_name": "./images/p.png"}, "images/p.png", False),
        ({"file_name": "images/p.png"}, "p.png", True),
        ({"file_name": "/home/ada/export/images/p.png"}, "images/p.png", True),
        ({"file_name": "C:\\data\\images\\p.png"}, "images/p.png", True),
        ({"file_name": "../images/p.png"}, "images/p.png", True),
        ({"file_name": None, "coco_url": "http://images.cocodataset.org/v/p.png"}, "v/p.png", True),
        ({"file_name": "https://host/a%20b/p.png?token=1"}, "a b/p.png", True),
        ({"file_name": "", "path": "/datasets/x/p.png"}, "x/p.png", True),
    ],
)
def test_a_file_is_found_under_the_root(
    parts: dict[str, Any], file: str, by_its_end: bool, tmp_path: Path
) -> None:
    photo(tmp_path / file)
    dataset, told = read(tmp_path, [entry(**parts)])
    assert names(dataset, tmp_path) == [file]
    assert len(told) == by_its_end
    assert all("by the end of their name only" in words for words in told)


def test_one_file_is_never_two_images(tmp_path: Path) -> None:
    photo(tmp_path / "1.png")
    images = [entry(file_name=f"{part}/1.png", id=part) for part in ("train", "val")]
    with pytest.raises(OptionError, match="none of the 2 images is under image_root"):
        read(tmp_path, images, [annotation(image_id="val")])
    dataset, told = read(tmp_path, [*images, entry()])
    assert names(dataset, tmp_path) == ["train/1.png", "val/1.png", "a.png"]
    captioned = caption_dataset(dataset, base_url="offline", image_root=tmp_path)
    assert captioned["image_status"][:] == ["image_missing", "image_missing", "ok"]
    assert told == ["2 of 3 images are not under image_root (the first: 'train/1.png')"]


def test_a_root_that_holds_no_image_is_refused_and_the_right_one_named(tmp_path: Path) -> None:
    photo(tmp_path / "export" / "data" / "p.png")
    images = [entry(file_name="p.png")]
    with pytest.raises(OptionError, match=r"'p.png'\): pass image_root='.*export/data'"):
        read(tmp_path, images)
    with pytest.raises(OptionError, match=r"none of the 1 images in the JSON has a file_name"):
        read(tmp_path, [{"id": 7}])
    with pytest.raises(OptionError, match="there is no folder"):
        load_coco(tmp_path / "coco.json", tmp_path / "none")


def test_images_without_a_name_are_told(tmp_path: Path) -> None:
    dataset, told = read(tmp_path, [entry(), {"id": 8, "file_name": None}])
    assert dataset["image"][1] is None
    assert told == ["1 of 2 images have no file_name"]


# Sizes


@pytest.mark.parametrize("form", [int, float, str])
def test_boxes_are_scaled_to_a_file_that_was_made_smaller(form: Any, tmp_path: Path) -> None:
    twice = annotation(bbox=[8, 8, 60, 40])
    dataset, told = read(tmp_path, [entry(width=form(128), height=form(96))], [twice])
    assert dataset["bbox"][0] == [BOX]
    assert told == [
        "1 of 1 images with boxes have another size than the JSON says (the first: 'a.png' is "
        "64×48, and 128×96 there): their boxes are scaled to the file's"
    ]


@pytest.mark.parametrize(
    ("width", "height"), [(64, 48), (None, None), (0, 0), ("?", 48), (64, None)]
)
def test_sizes_that_are_right_or_not_given_change_nothing(
    width: Any, height: Any, tmp_path: Path
) -> None:
    dataset, told = read(tmp_path, [entry(width=width, height=height)])
    assert (dataset["bbox"][0], told) == ([BOX], [])


def test_boxes_in_a_frame_of_another_shape_are_not_used(tmp_path: Path) -> None:
    turned = photo(tmp_path / "turned.jpg", exif=orientation(6))
    images = [entry(), entry(id=8, file_name=turned.name, width=64, height=48)]
    dataset, told = read(tmp_path, images, [annotation(), annotation(image_id=8)])
    assert dataset["bbox"][:] == [[BOX], [None]]
    assert len(told) == 1
    assert "1 of 2 images with boxes have another shape" in told[0]
    assert "'turned.jpg' is 48×64, and 64×48 there" in told[0]
    captioned = caption_dataset(dataset, base_url="offline", image_root=tmp_path)
    assert captioned["answer_status"][:] == ["ok", "boxes_invalid"]
    with pytest.raises(OptionError, match="1 of 1 images with boxes have another shape"):
        read(tmp_path, images[1:], [annotation(image_id=8)])


def orientation(value: int) -> Pictures.Exif:
    exif = Pictures.Exif()
    exif[0x0112] = value
    return exif


def test_only_the_first_images_are_looked_at_under_a_limit(tmp_path: Path) -> None:
    images = [entry(), *(entry(id=f"x{k}", file_name=f"{k}.png") for k in range(5))]
    dataset, told = read(tmp_path, images, limit=1)
    assert (len(dataset), told) == (1, [])
    file = str(tmp_path / "coco.json")
    streamed, _ = load(file, image_root=tmp_path, limit=1, streaming=True, tell=told.append)
    assert [row["bbox"] for row in streamed] == [[BOX]]
