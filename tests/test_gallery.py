"""The review page as a file, the review's way back into columns, and rows in a notebook."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import tracemalloc
import warnings
from html.parser import HTMLParser
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
    load_dataset,
)
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PillowImage
from skimage import data as photos

from hf_regioncap.errors import OptionError
from hf_regioncap.gallery import STATUS_WORDS, show, write_gallery
from hf_regioncap.metadata import without_metadata
from hf_regioncap.review import apply_review, read_review, region_keys

HOSTILE = [
    '<img src=x onerror="window.pwned=1">',
    "</script><script>window.pwned=2</script>",
    "<!-- <script>",
    "javascript:alert(1)",
    "{{rows}} {{meta}} {{policy}}",
    "\u2028 \u2029 & ' \" \\",
    "مرحبا 🏍️",
]


def jpeg(array: Any, side: int = 320, **options: Any) -> bytes:
    image = PillowImage.fromarray(array)
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85, **options)
    return buffer.getvalue()


CAT = jpeg(photos.chelsea())  # 320×213
COFFEE = jpeg(photos.coffee())  # 320×213
ROCKET = jpeg(photos.rocket())  # 320×213

FEATURES = Features(
    {
        "image": Image(),
        "label": List(ClassLabel(names=["cat", "cup", "rocket"])),
        "type": Value("string"),
        "image_status": Value("string"),
        "region_boxes": List(List(Value("float64"))),
        "box_status": List(Value("string")),
        "prompt": Value("string"),
        "answer": Value("string"),
        "region_captions": List(Value("string")),
        "answer_status": Value("string"),
        "answer_error": Value("string"),
        "usage": {"prompt_tokens": Value("int64"), "completion_tokens": Value("int64")},
    }
)


def row(image: bytes | None, captions: list[str | None], **changes: Any) -> dict[str, Any]:
    count = len(captions)
    return {
        "image": image and {"bytes": image, "path": None},
        "label": list(range(count)),
        "type": "with_bbox",
        "image_status": "ok",
        "region_boxes": [[10.0 + 40 * k, 20.0, 60.0, 90.0] for k in range(count)],
        "box_status": ["ok"] * count,
        "prompt": "Describe.",
        "answer": json.dumps(captions),
        "region_captions": captions,
        "answer_status": "ok",
        "answer_error": None,
        "usage": {"prompt_tokens": 100, "completion_tokens": 20},
    } | changes


ROWS = [
    row(CAT, ["a cat's ear", "a cat's eye"]),
    row(COFFEE, ["a cup", None], answer_status="ok_partial", answer_error="region 2 is missing"),
    row(ROCKET, ["a rocket"]),
    row(b"not an image", [None], image_status="image_corrupt", answer_status="image_corrupt"),
    row(None, [], image_status="image_null", answer_status="image_null"),
]


@pytest.fixture
def dataset() -> Dataset:
    return Dataset.from_list(ROWS, features=FEATURES)


class Page(HTMLParser):
    """A page as a browser's parser cuts it into elements."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text = path.read_text(encoding="utf-8")
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.policy = ""
        self._open: dict[str, str | None] | None = None
        self.feed(self.text)
        self.rows = [json.loads(text) for at, text in self.scripts if at.get("class") == "row"]
        self.jpegs = [text for at, text in self.scripts if at.get("class") == "jpeg"]
        self.meta = next(json.loads(text) for at, text in self.scripts if at.get("id") == "meta")
        self.summary = self.meta["summary"]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag == "script":
            self.scripts.append((named, ""))
            self._open = named
        if named.get("http-equiv") == "Content-Security-Policy":
            self.policy = str(named["content"])

    def handle_endtag(self, tag: str) -> None:
        self._open = None

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self.scripts[-1] = (self._open, self.scripts[-1][1] + data)

    def picture(self, place: int) -> PillowImage.Image:
        return PillowImage.open(io.BytesIO(base64.b64decode(self.jpegs[place])))


def page(dataset: Any, tmp_path: Path, **options: Any) -> Page:
    [path] = write_gallery(dataset, tmp_path / "gallery.html", **options)
    return Page(path)


# What the page tells of a row


def test_no_rows_are_a_page_too(tmp_path: Path) -> None:
    for empty in (
        [],
        Dataset.from_dict({name: [] for name in FEATURES}, features=FEATURES),
        iter(()),
    ):
        told = page(empty, tmp_path)
        assert told.rows == []
        assert told.summary["rows"] == 0


def test_rows_boxes_and_captions(dataset: Dataset, tmp_path: Path) -> None:
    told = page(dataset, tmp_path, label_column="label", title="Mine")
    cat, cup, rocket, corrupt, empty = told.rows
    assert told.meta["title"] == "Mine"
    assert [region["caption"] for region in cat["regions"]] == ["a cat's ear", "a cat's eye"]
    assert [region["label"] for region in cat["regions"]] == ["cat", "cup"]
    assert [region["number"] for region in cat["regions"]] == [1, 2]
    assert cat["regions"][1]["box"] == [50, 20, 60, 90]
    assert (cat["image"]["w"], cat["image"]["h"]) == (320, 213)
    assert cup["status"] == "ok_partial"
    assert cup["reason"] == "region 2 is missing"
    assert rocket["usage"] == [100, 20]
    assert (corrupt["image"], corrupt["status"]) == (None, "image_corrupt")
    assert corrupt["reason"]
    assert (empty["image"], empty["status"]) == (None, "image_null")
    assert [bool(text) for text in told.jpegs] == [True, True, True, False, False]


def test_the_summary_counts_the_whole_set(dataset: Dataset, tmp_path: Path) -> None:
    summary = page(dataset, tmp_path, label_column="label", cost=0.5).summary
    assert {key: summary[key] for key in ("rows", "photos", "regions", "captions")} == {
        "rows": 5,
        "photos": 3,
        "regions": 6,
        "captions": 4,
    }
    assert dict(summary["statuses"])["ok"] == 2
    assert dict(summary["labels"]) == {"cat": 4, "cup": 2}
    assert summary["tokens"] == [500, 100]
    assert sum(bin[2] for bin in summary["lengths"]) == 4
    assert summary["lengths"][0][0] <= len("a cup")
    assert summary["lengths"][-1][1] == len("a cat's ear")
    assert summary["per_image"] == [[0, 0, 1], [1, 1, 2], [2, 2, 2]]


@pytest.mark.parametrize(
    ("columns", "status"),
    [
        ({}, "not_asked"),
        ({"image_status": "ok"}, "not_asked"),
        ({"image_status": "image_too_large"}, "image_too_large"),
        ({"image_status": "ok", "answer_status": "api_refused"}, "api_refused"),
        ({"answer_status": "a status of tomorrow"}, "a status of tomorrow"),
        ({"image": None}, "image_null"),
        ({"image": b"\x89PNG"}, "image_corrupt"),
        ({"image": {"bytes": None, "path": "/etc/passwd"}}, "image_refused"),
        ({"image": "https://example.org/a.jpg"}, "image_refused"),
    ],
)
def test_status_from_what_is_there(columns: dict[str, Any], status: str, tmp_path: Path) -> None:
    [told] = page([{"image": CAT} | columns], tmp_path).rows
    assert told["status"] == status


def test_every_status_of_the_contract_has_words() -> None:
    contract = """ok ok_partial no_boxes boxes_invalid api_error api_refused api_truncated
        api_bad_answer skipped_budget image_null image_corrupt image_too_large image_unsupported
        image_missing image_refused"""
    assert set(contract.split()) < set(STATUS_WORDS)


def test_missing_columns_are_told(tmp_path: Path) -> None:
    assert page([{"image": CAT}], tmp_path).summary["unboxed"] == 1
    boxes = page([{"image": CAT, "region_boxes": [[1, 2, 30, 40], None]}], tmp_path)
    assert boxes.summary["unboxed"] == 0
    assert [region["number"] for region in boxes.rows[0]["regions"]] == [1, None]


def test_boxes_that_were_not_used_have_a_reason_and_no_number(tmp_path: Path) -> None:
    example = {
        "image": CAT,
        "region_boxes": [[0, 0, 9, 9], None, [5, 5, 9, 9], None, None],
        "box_status": ["clipped", "outside", "over_limit", "invalid_value", "later"],
        "region_captions": ["a", None, None, None, None],
    }
    [told] = page([example], tmp_path).rows
    assert [(region["number"], region["note"]) for region in told["regions"]] == [
        (1, "cut at the edge"),
        (None, "outside the photo"),
        (None, "beyond the limit"),
        (None, "not four numbers"),
        (None, "later"),
    ]


@pytest.mark.parametrize(
    "boxes",
    [None, [], "box", [[1, 2]], [[1, 2, 3, float("nan")]], [{"x": 1}], np.zeros((0, 4))],
)
def test_strange_boxes_do_not_stop_the_page(boxes: Any, tmp_path: Path) -> None:
    told = page([{"image": CAT, "region_boxes": boxes, "region_captions": ["a cat"]}], tmp_path)
    assert told.rows[0]["regions"][0]["caption"] == "a cat"
    assert told.rows[0]["regions"][0]["box"] is None


def test_photos_are_upright_and_without_metadata(tmp_path: Path) -> None:
    exif = PillowImage.Exif()
    exif[0x0112] = 6  # the camera was turned: width and height change places
    exif[0x010E] = "SECRET PLACE"
    told = page([{"image": jpeg(photos.chelsea(), exif=exif)}], tmp_path)
    picture = told.picture(0)
    assert (told.rows[0]["image"]["w"], told.rows[0]["image"]["h"]) == (213, 320)
    assert picture.width < picture.height
    assert not picture.getexif()
    assert b"SECRET" not in base64.b64decode(told.jpegs[0])


def test_thumbnails_shrink_and_boxes_keep_the_pixels_of_the_source(tmp_path: Path) -> None:
    example = {"image": CAT, "region_boxes": [[300, 200, 20, 13]]}
    told = page([example], tmp_path, thumbnail_side=64)
    assert max(told.picture(0).size) == 64
    assert told.rows[0]["image"]["w"] == 320
    assert told.rows[0]["regions"][0]["box"] == [300, 200, 20, 13]


def test_one_broken_image_or_overlay_raises_nowhere(tmp_path: Path) -> None:
    features = Features({**FEATURES, "image_with_bbox": Image()})
    rows = [r | {"image_with_bbox": {"bytes": b"broken", "path": None}} for r in ROWS]
    told = page(Dataset.from_list(rows, features=features), tmp_path)
    assert len(told.rows) == 5


def test_no_folder_of_this_machine_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "secret_folder"
    folder.mkdir()
    (folder / "cat.jpg").write_bytes(CAT)
    stored = {"bytes": None, "path": str(folder / "cat.jpg")}
    refused = page([{"image": stored}], tmp_path)
    told = page([{"image": stored}], tmp_path, image_root=folder)
    assert refused.rows[0]["status"] == "image_refused"
    assert told.rows[0]["name"] == "cat.jpg"
    assert told.picture(0).size == (320, 213)
    for text in (refused.text, told.text):
        assert "secret_folder" not in text


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("https://host/cat.jpg?key=name-canary", None),
        ("cat.jpg?key=name-canary", None),
        ("/home/name-canary/cat.jpg", "cat.jpg"),
        ("C:\\name-canary\\cat.jpg", "cat.jpg"),
    ],
)
def test_only_bare_names_of_files_are_told(path: str, name: str | None, tmp_path: Path) -> None:
    told = page([{"image": {"bytes": CAT, "path": path}}, {"image": path}], tmp_path)
    assert [row["name"] for row in told.rows] == [name, name]
    assert "canary" not in told.text


def test_reasons_and_recipe_tell_no_folder_and_no_key(tmp_path: Path) -> None:
    recipe = {
        "model": "/home/canary/m.gguf",
        "base_url": "https://host.example/v1?key=canary",
        "extra_headers": {"X-Key": "canary"},
        "temperature": None,
    }
    (tmp_path / "canary").mkdir()
    outside = {"image": {"bytes": None, "path": "/etc/hostname"}}
    error = row(CAT, [None], answer_status="api_error", answer_error="no '/home/canary/a.jpg'")
    told = page([outside, error], tmp_path, recipe=recipe, image_root=tmp_path / "canary")
    assert "leads out of image_root" in told.rows[0]["reason"]
    assert told.meta["model"] == "m.gguf"
    expected = [["model", "m.gguf"], ["base_url", "https://host.example/v1"]]
    assert told.meta["recipe"] == [*expected, ["temperature", "null"]]
    assert "canary" not in told.text


def label_layouts() -> list[tuple[Any, Features | None, str]]:
    names = ClassLabel(names=["cat", "cup"])
    box = List(Value("float64"))
    return [
        ({"label": ["cat", "cup"]}, None, "label"),
        ({"objects": {"category": [0, 1]}}, Features({"category": List(names)}), "objects"),
        ({"objects": [{"category": 0}, {"category": 1}]}, Features({"category": names}), "list"),
        ({"objects.category": ["cat", "cup"]}, None, "objects.category"),
        ({"label": [0, 1]}, Features({"box": box}), "mapped"),
    ]


@pytest.mark.parametrize(("columns", "kind", "layout"), label_layouts())
def test_labels_in_every_layout(
    columns: dict[str, Any], kind: Features | None, layout: str, tmp_path: Path
) -> None:
    example = {"image": {"bytes": CAT, "path": None}, "region_boxes": [[1, 2, 9, 9]] * 2} | columns
    features = {"image": Image(), "region_boxes": List(List(Value("float64")))}
    told: Any = [example]
    options: dict[str, Any] = {
        "label_column": "label" if "label" in columns else "objects.category"
    }
    if layout in ("objects", "list"):
        objects = List(dict(kind or {})) if layout == "list" else dict(kind or {})
        told = Dataset.from_list([example], features=Features({**features, "objects": objects}))
    if layout == "mapped":
        options["label_names"] = {0: "cat", 1: "cup"}
    regions = page(told, tmp_path, **options).rows[0]["regions"]
    assert [region["label"] for region in regions] == ["cat", "cup"]


def test_every_kind_of_dataset_gives_the_same_rows(dataset: Dataset, tmp_path: Path) -> None:
    expected = page(dataset, tmp_path).rows
    same: list[Any] = [
        ROWS,
        iter(ROWS),
        dataset.to_iterable_dataset(),
        dataset.with_format("numpy"),
        dataset.cast_column("image", Image(decode=False))[:],
    ]
    for given_rows in same:
        assert page(given_rows, tmp_path).rows == expected
    splits = page(DatasetDict(train=dataset, test=dataset.select([0])), tmp_path).rows
    assert [told["split"] for told in splits] == ["train"] * 5 + ["test"]
    assert [told["row"] for told in splits] == [0, 1, 2, 3, 4, 0]


def test_a_stream_whose_features_are_not_known(dataset: Dataset, tmp_path: Path) -> None:
    stream = dataset.select([0, 1]).to_iterable_dataset().map(lambda example: example)
    assert stream.features is None
    told = page(stream, tmp_path)
    assert [region["caption"] for region in told.rows[0]["regions"]] == ROWS[0]["region_captions"]


def test_prefixed_columns(tmp_path: Path) -> None:
    example = {"photo": CAT, "b_region_boxes": [[1, 2, 9, 9]], "b_region_captions": ["a cat"]}
    told = page([example], tmp_path, image_column="photo", column_prefix="b_")
    assert told.rows[0]["regions"][0]["caption"] == "a cat"


@pytest.mark.parametrize(
    ("options", "offline"),
    [
        ({}, False),
        ({"model": "gpt-4o-mini"}, False),
        ({"model": "offline-describer"}, True),
        ({"recipe": {"model": "offline-describer"}}, True),
    ],
)
def test_the_page_says_when_no_model_was_asked(
    options: dict[str, Any], offline: bool, tmp_path: Path
) -> None:
    assert page(ROWS, tmp_path, **options).meta["offline"] is offline


# The file


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    example = row(CAT, list(HOSTILE)) | {
        "label": HOSTILE,
        "answer": HOSTILE[1],
        "prompt": HOSTILE[0],
        "answer_status": HOSTILE[1],
        "answer_error": HOSTILE[1],
        "image": {"bytes": CAT, "path": HOSTILE[1]},
    }
    told = page(
        [example],
        tmp_path,
        label_column="label",
        title=HOSTILE[1] + HOSTILE[4],
        model=HOSTILE[1],
        recipe={"prompt": HOSTILE[1], HOSTILE[1]: 1},
    )
    assert [region["caption"] for region in told.rows[0]["regions"]] == HOSTILE
    assert [region["label"] for region in told.rows[0]["regions"]] == HOSTILE
    # The page's own two scripts, one row with its photo, and the figures: nothing was added.
    assert len(told.scripts) == 5
    assert told.meta["title"] == HOSTILE[1] + HOSTILE[4]
    assert "window.pwned=2</script>" not in told.text
    assert "<img src=x" not in told.text


def test_lone_surrogates_do_not_stop_the_page(tmp_path: Path) -> None:
    told = page([row(CAT, ["\ud83d half an emoji"])], tmp_path, title="\ud83d")
    assert told.rows[0]["regions"][0]["caption"] == "\ud83d half an emoji"


def test_the_policy_lets_exactly_the_pages_own_code_in(dataset: Dataset, tmp_path: Path) -> None:
    told = page(dataset, tmp_path)
    scripts = [text for attributes, text in told.scripts if not attributes]
    styles = re.findall(r"<style>(.*?)</style>", told.text, re.DOTALL)
    assert (len(scripts), len(styles)) == (2, 1)
    rules = dict(rule.split(" ", 1) for rule in told.policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["script-src"].split() == [source_hash(text) for text in scripts]
    assert rules["style-src"].split() == [source_hash(text) for text in styles]
    assert told.text.index("Content-Security-Policy") < told.text.index("<style>")
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", told.text)


def source_hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def test_large_sets_are_paged(dataset: Dataset, tmp_path: Path) -> None:
    files = write_gallery(dataset, tmp_path / "my page.html", page_rows=2)
    assert [file.name for file in files] == ["my page.html", "my page-2.html", "my page-3.html"]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    pages = [Page(file) for file in files]
    assert [[told["row"] for told in one.rows] for one in pages] == [[0, 1], [2, 3], [4]]
    assert [one.meta["page"] for one in pages] == [0, 1, 2]
    for one in pages:
        hrefs = [link["href"] for link in one.meta["pages"]]
        assert hrefs == ["my%20page.html", "my%20page-2.html", "my%20page-3.html"]
        assert one.summary["rows"] == 5
    assert len({one.meta["digest"] for one in pages}) == 1


def test_pages_of_a_longer_set_go_and_those_of_others_stay(
    dataset: Dataset, tmp_path: Path
) -> None:
    write_gallery(dataset, tmp_path / "a.html", page_rows=1)
    other = tmp_path / "a-4.html"
    write_gallery(dataset, other)
    write_gallery(dataset, tmp_path / "a.html", page_rows=3)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        *("a-2.html", "a-4.html", "a-5.html", "a.html")
    ]
    write_gallery(dataset, tmp_path / "b.html", page_rows=1)
    write_gallery(dataset, tmp_path / "b.html")
    assert not list(tmp_path.glob("b-*"))


def test_an_interrupted_page_leaves_the_old_one(dataset: Dataset, tmp_path: Path) -> None:
    before = page(dataset, tmp_path).text

    def broken() -> Any:
        yield ROWS[0]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        write_gallery(broken(), tmp_path / "gallery.html", page_rows=1)
    assert (tmp_path / "gallery.html").read_text(encoding="utf-8") == before
    assert [file.name for file in tmp_path.iterdir()] == ["gallery.html"]


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    noise = jpeg(np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8))

    def peak(rows: int) -> int:
        tracemalloc.start()
        path = tmp_path / "gallery.html"
        write_gallery((row(noise, ["noise"]) for _ in range(rows)), path, page_rows=10_000)
        assert path.stat().st_size > rows * 10_000
        try:
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(5)
    assert peak(300) < peak(30) + 1_000_000


@pytest.mark.parametrize(
    ("path", "options", "words"),
    [
        ("gallery", {}, "path must end in .html"),
        ("a.html", {"page_rows": 0}, "page_rows must be a whole number"),
        ("a.html", {"thumbnail_side": "big"}, "thumbnail_side must be a whole number"),
        ("a.html", {"image_column": "photo"}, "no column 'photo'; the dataset has"),
    ],
)
def test_options_that_cannot_work(
    path: str, options: dict[str, Any], words: str, dataset: Dataset, tmp_path: Path
) -> None:
    for rows in (dataset, ROWS):
        with pytest.raises(OptionError, match=re.escape(words)):
            write_gallery(rows, tmp_path / path, **options)
    assert list(tmp_path.iterdir()) == []


# What a region is known by


def test_the_page_carries_the_digest_that_the_review_looks_for(
    dataset: Dataset, tmp_path: Path
) -> None:
    told = page(dataset, tmp_path)
    for shown, example in zip(told.rows, ROWS, strict=True):
        keys = region_keys(example["image"], example["region_boxes"], example["region_captions"])
        assert [region["key"] for region in shown["regions"]] == keys


boxes = st.none() | st.lists(st.floats(0, 5000, width=32), min_size=4, max_size=4)
captions = st.none() | st.text(max_size=20)


@given(st.lists(st.tuples(boxes, captions), unique_by=repr, max_size=5), st.randoms())
def test_keys_tell_by_content_and_not_by_place(regions: Any, random: Any) -> None:
    keys = region_keys(b"photo", [box for box, _ in regions], [text for _, text in regions])
    shuffled = random.sample(list(zip(regions, keys, strict=True)), len(regions))
    again = region_keys(b"photo", [r[0][0] for r in shuffled], [r[0][1] for r in shuffled])
    assert again == [key for _, key in shuffled]
    stored = json.loads(json.dumps([box for box, _ in regions]))
    assert region_keys(b"photo", stored, [text for _, text in regions]) == keys


def test_keys_change_with_photo_box_and_caption() -> None:
    [key] = region_keys(CAT, [[1, 2, 3, 4]], ["a cat"])
    others = [
        region_keys(COFFEE, [[1, 2, 3, 4]], ["a cat"]),
        region_keys(CAT, [[1, 2, 3, 4.5]], ["a cat"]),
        region_keys(CAT, [[1, 2, 3, 4]], ["a cat."]),
        region_keys(CAT, [[1, 2, 3, 4]], [None]),
        region_keys(CAT, [None], ["a cat"]),
        region_keys(None, [[1, 2, 3, 4]], ["a cat"]),
    ]
    assert all(other != [key] for other in others)


def test_a_decoded_picture_counts_as_what_datasets_stores_for_it() -> None:
    picture = PillowImage.fromarray(photos.chelsea()).resize((32, 24))
    [stored] = Dataset.from_dict(
        {"image": [picture]}, features=Features({"image": Image()})
    ).cast_column("image", Image(decode=False))["image"]
    assert region_keys(picture, [[1, 2, 3, 4]], ["a"]) == region_keys(stored, [[1, 2, 3, 4]], ["a"])


# From the review's file into columns


def entry(
    example: dict[str, Any], box: int, status: str, text: str | None = None
) -> dict[str, Any]:
    keys = region_keys(example["image"], example["region_boxes"], example["region_captions"])
    made = {"region": keys[box], "status": status, "row": 0, "box": box}
    return made | {"caption": example["region_captions"][box]} | ({"text": text} if text else {})


def save(path: Path, *entries: Any, **changes: Any) -> Path:
    content = {"format": "hf_regioncap review", "version": 1, "image_column": "image"}
    path.write_text(json.dumps(content | {"regions": list(entries)} | changes), encoding="utf-8")
    return path


@pytest.fixture
def review(tmp_path: Path) -> Path:
    return save(
        tmp_path / "gallery.review.json",
        entry(ROWS[0], 0, "accepted"),
        entry(ROWS[0], 1, "edited", "the left eye of a cat"),
        entry(ROWS[1], 1, "edited", "a saucer that the model forgot"),
        entry(ROWS[2], 0, "rejected"),
    )


STATUSES = [["accepted", "edited"], [None, "edited"], ["rejected"], [None], []]
TEXTS = [
    ["a cat's ear", "the left eye of a cat"],
    ["a cup", "a saucer that the model forgot"],
    [None],
    [None],
    [],
]


def test_a_review_becomes_two_columns(dataset: Dataset, review: Path) -> None:
    reviewed = apply_review(dataset, review)
    assert list(reviewed["review_status"]) == STATUSES
    assert list(reviewed["caption_reviewed"]) == TEXTS
    assert reviewed.features["review_status"] == List(Value("string"))
    assert reviewed.features["caption_reviewed"] == List(Value("string"))


def test_nothing_of_the_users_changes(dataset: Dataset, review: Path) -> None:
    reviewed = apply_review(dataset, review)
    assert reviewed.column_names[:-2] == dataset.column_names
    assert {name: reviewed.features[name] for name in dataset.features} == dict(dataset.features)
    assert dataset.column_names == list(FEATURES)
    raw = Image(decode=False)
    before, after = dataset.cast_column("image", raw), reviewed.cast_column("image", raw)
    for name in dataset.column_names:
        assert list(after[name]) == list(before[name])


def test_rows_are_found_wherever_they_are(dataset: Dataset, review: Path, tmp_path: Path) -> None:
    other = Dataset.from_list([row(ROCKET, ["another rocket"])], features=FEATURES)
    doubled = concatenate_datasets([other, dataset, dataset]).shuffle(seed=3)
    reviewed = apply_review(doubled, review).cast_column("image", Image(decode=False))
    by_captions = {
        json.dumps([made["image"] is None, made["region_captions"]]): made["review_status"]
        for made in reviewed
    }
    expected = {
        json.dumps([r["image"] is None, r["region_captions"]]): status
        for r, status in zip(ROWS, STATUSES, strict=True)
    }
    assert by_captions == expected | {json.dumps([False, ["another rocket"]]): [None]}
    assert len(reviewed) == 11
    doubled.to_parquet(tmp_path / "again.parquet")
    again = load_dataset(
        "parquet",
        data_files=str(tmp_path / "again.parquet"),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    assert list(apply_review(again, review)["review_status"]) == list(reviewed["review_status"])


def test_splits_share_one_review(dataset: Dataset, review: Path) -> None:
    splits = DatasetDict(train=dataset.select([0, 1]), test=dataset.select([2, 3, 4]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # every decision is found in one split or the other
        reviewed = apply_review(splits, review)
    assert isinstance(reviewed, DatasetDict)
    assert list(reviewed["train"]["review_status"]) == STATUSES[:2]
    assert list(reviewed["test"]["review_status"]) == STATUSES[2:]


def test_an_empty_split_gets_the_columns_too(dataset: Dataset, review: Path) -> None:
    splits = DatasetDict(train=dataset, test=dataset.select([]))
    reviewed = apply_review(splits, review)
    assert reviewed["test"].features == reviewed["train"].features
    assert len(reviewed["test"]) == 0


def test_the_output_format_is_kept(dataset: Dataset, review: Path) -> None:
    numpy = apply_review(dataset.with_format("numpy", columns=["region_boxes"]), review)
    assert numpy.format["type"] == "numpy"
    assert set(numpy[0]) == {"region_boxes", "caption_reviewed", "review_status"}


def test_decisions_that_fit_nothing_are_told(dataset: Dataset, review: Path) -> None:
    with pytest.warns(
        UserWarning, match=r"1 of 4 reviewed captions are not in this .* rejected 'a rocket'"
    ):
        reviewed = apply_review(dataset.select([0, 1]), review)
    assert list(reviewed["review_status"]) == STATUSES[:2]


def test_a_changed_caption_loses_its_own_decision_only(dataset: Dataset, review: Path) -> None:
    again = [dict(r) for r in ROWS]
    again[0] = again[0] | {"region_captions": ["a cat's ear, asked again", "a cat's eye"]}
    with pytest.warns(UserWarning, match=r"accepted \"a cat's ear\""):
        reviewed = apply_review(Dataset.from_list(again, features=FEATURES), review)
    assert reviewed["review_status"][0] == [None, "edited"]
    assert reviewed["caption_reviewed"][0] == ["a cat's ear, asked again", "the left eye of a cat"]


def test_a_review_of_another_dataset_is_an_error(dataset: Dataset, review: Path) -> None:
    with pytest.raises(OptionError, match="none of the 4 reviewed captions"):
        apply_review(dataset.select([3, 4]), review)


def test_several_files_are_one_review(dataset: Dataset, review: Path, tmp_path: Path) -> None:
    second = save(tmp_path / "second.json", entry(ROWS[1], 0, "accepted"))
    reviewed = apply_review(dataset, [review, second])
    assert reviewed["review_status"][1] == ["accepted", "edited"]
    third = save(tmp_path / "third.json", entry(ROWS[0], 0, "rejected"))
    with pytest.warns(UserWarning, match="1 captions differently"):
        reviewed = apply_review(dataset, [review, third])
    assert reviewed["review_status"][0] == ["rejected", "edited"]


def test_columns_that_are_taken_are_not_overwritten(dataset: Dataset, review: Path) -> None:
    reviewed = apply_review(dataset, review)
    with pytest.raises(OptionError, match="already has"):
        apply_review(reviewed, review)


def test_prefix_and_image_column(dataset: Dataset, tmp_path: Path) -> None:
    renamed = dataset.rename_columns(
        {"image": "photo", "region_boxes": "b_region_boxes", "region_captions": "b_region_captions"}
    )
    file = save(tmp_path / "r.json", entry(ROWS[0], 0, "accepted"), image_column="photo")
    reviewed = apply_review(renamed, file, column_prefix="b_")
    assert reviewed["b_review_status"][0] == ["accepted", None]
    with pytest.raises(OptionError, match=r"no column 'region_boxes'.*column_prefix"):
        apply_review(renamed, file)
    with pytest.raises(OptionError, match=r"no column 'image'.*image_column"):
        apply_review(renamed, file, column_prefix="b_", image_column="image")


def test_text_that_arrow_cannot_hold_is_mended(dataset: Dataset, tmp_path: Path) -> None:
    file = save(tmp_path / "r.json", entry(ROWS[2], 0, "edited", "half \ud83d"))
    assert apply_review(dataset, file)["caption_reviewed"][2] == ["half ?"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not a review file"),
        ("{", "is not a review file"),
        ("[]", "is not a review file"),
        ("\x00", "is not a review file"),
        ('{"format": "coco"}', "is not a review file"),
        ('{"format": "hf_regioncap review", "version": 9}', "version 9"),
        ('{"format": "hf_regioncap review", "version": 1}', "is damaged"),
        ('{"format": "hf_regioncap review", "version": 1, "regions": [1]}', "entry 0"),
        (
            '{"format": "hf_regioncap review", "version": 1, "regions": '
            '[{"region": "a", "status": "liked"}]}',
            "entry 0",
        ),
        (
            '{"format": "hf_regioncap review", "version": 1, "regions": '
            '[{"region": "a", "status": "edited"}]}',
            "entry 0",
        ),
    ],
)
def test_files_that_are_no_review(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "review.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(OptionError, match=words):
        read_review(file)


def test_what_is_no_dataset_is_an_error(review: Path) -> None:
    with pytest.raises(OptionError, match="dataset must be a Dataset or a DatasetDict, got a list"):
        apply_review(ROWS, review)


# In a notebook


def test_show_is_inert_and_complete(dataset: Dataset) -> None:
    example = row(CAT, list(HOSTILE)) | {"label": HOSTILE}
    markup = show(example, label_column="label")._repr_html_()
    seen = Tags(markup)
    assert not seen.names & {"script", "iframe", "object", "embed", "form", "input", "link"}
    assert not [name for name in seen.attributes if name.startswith("on")]
    assert all(value.startswith("data:image/jpeg;base64,") for value in seen.links)
    for text in HOSTILE:
        assert text in seen.text


def test_show_takes_rows_in_every_form(dataset: Dataset) -> None:
    good = dataset.select([0, 1])
    forms: list[Any] = [
        good[0],
        ROWS[0],
        [ROWS[0], ROWS[1]],
        good[:2],
        good,
        DatasetDict(train=good),
        dataset,
    ]
    counts = [len(Tags(show(form)._repr_html_()).links) for form in forms]
    assert counts == [1, 1, 2, 2, 2, 2, 3]


def test_show_says_what_is_wrong_and_what_is_left(dataset: Dataset) -> None:
    text = Tags(show(dataset, max_rows=4)._repr_html_()).text
    assert "Damaged image" in text
    assert "region 2 is missing" in text
    assert "… and 1 more rows" in text
    assert "no caption" in text
    assert repr(show(ROWS[0])) == "<1 rows with 2 regions, drawn in a notebook>"


class Tags(HTMLParser):
    """Names, attributes, image links and text of markup."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.text = ""
        self.feed(markup)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [str(value) for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_review_still_fits_after_the_metadata_is_gone() -> None:
    exif = PillowImage.Exif()
    exif[0x010E] = "a secret garden"
    file = io.BytesIO()
    PillowImage.new("RGB", (64, 48), "green").save(file, "JPEG", exif=exif)
    original = file.getvalue()
    published = without_metadata(original)
    assert published is not None
    assert published != original
    keys = [region_keys(data, [[1, 2, 30, 40]], ["a lawn"]) for data in (original, published)]
    assert keys[0] == keys[1]
