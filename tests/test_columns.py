"""The functions for `Dataset.map` through real maps, against a real endpoint."""

from __future__ import annotations

import inspect
import io
import json
import pickle
import pydoc
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Image,
    List,
    Sequence,
    Value,
)
from datasets.fingerprint import Hasher
from endpoint import Endpoint, expected_caption
from PIL import Image as PILImage

from hf_regioncap import (
    add_answers,
    add_boxes,
    add_overlays,
    add_prompts,
    add_region_captions,
    columns,
)
from hf_regioncap.columns import ALL_COLUMNS, ColumnFunction, column_features
from hf_regioncap.errors import OptionError

CHAIN = (add_boxes, add_overlays, add_prompts, add_answers)
STEPS = {function.__name__: function for function in (*CHAIN, add_region_captions)}


def arrow(dataset: Any, names: list[str] | None = None) -> pa.Table:
    """The rows as they are stored."""
    dataset = dataset if names is None else dataset.select_columns(names)
    return dataset.with_format("arrow")[:].combine_chunks()


def stored(dataset: Any, names: list[str] | None = None) -> list[dict[str, Any]]:
    return arrow(dataset, names).to_pylist()


# Ways through `map`


@pytest.fixture
def users_own(make_photo: Callable[..., bytes]) -> Dataset:
    """Rows with columns that a map could spoil: JPEG, WebP and a turned JPEG, labels, nulls."""
    turned = PILImage.Exif()
    turned[0x0112] = 6
    buffer = io.BytesIO()
    PILImage.open(io.BytesIO(make_photo(2))).convert("RGB").save(buffer, "JPEG", exif=turned)
    images = [make_photo(0, format="JPEG"), make_photo(1, format="WEBP"), buffer.getvalue(), None]
    features = Features(
        {
            "image": Image(),
            "bbox": List(List(Value("float64"))),
            "kind": ClassLabel(names=["person", "cup"]),
            "note": Value("string"),
            "small": List(Value("int8")),
        }
    )
    boxes = [[[4, 4, 20, 20], [90, 3, 5, 5], [10, 10, 300, 12]], [[1, 2, 30, 30]], [[2, 2, 9, 9]]]
    rows = [
        {"image": {"bytes": image, "path": None}, "bbox": bbox, "kind": n % 2, "note": None}
        | {"small": [n] * n}
        for n, (image, bbox) in enumerate(zip(images, [*boxes, [[5, 5, 9, 9]]], strict=True))
    ]
    rows[3]["image"] = None
    return Dataset.from_list(rows, features=features)


WAYS: dict[str, Callable[..., Any]] = {
    "batched": lambda ds, **kw: ds.map(add_region_captions, batched=True, fn_kwargs=kw),
    "small batches": lambda ds, **kw: ds.map(
        add_region_captions, batched=True, batch_size=3, fn_kwargs=kw
    ),
    "single": lambda ds, **kw: ds.map(add_region_captions, fn_kwargs=kw),
    "num_proc": lambda ds, **kw: ds.map(
        add_region_captions, batched=True, num_proc=2, fn_kwargs=kw
    ),
    "single num_proc": lambda ds, **kw: ds.map(add_region_captions, num_proc=2, fn_kwargs=kw),
    "arrow": lambda ds, **kw: ds.with_format("arrow").map(
        add_region_captions, batched=True, fn_kwargs=kw
    ),
    "arrow single": lambda ds, **kw: ds.with_format("arrow").map(add_region_captions, fn_kwargs=kw),
    "DatasetDict": lambda ds, **kw: DatasetDict({"train": ds}).map(
        add_region_captions, batched=True, fn_kwargs=kw
    )["train"],
}


@pytest.mark.parametrize("way", WAYS)
def test_map_types_the_new_columns_and_leaves_the_users_alone(
    way: str, users_own: Dataset, endpoint: Endpoint, assert_own: Callable[..., None]
) -> None:
    captioned = WAYS[way](users_own, base_url=endpoint.base_url).with_format(None)
    assert captioned.features == Features({**users_own.features, **column_features()})
    names = users_own.column_names
    assert arrow(captioned, names) == arrow(users_own)
    assert captioned["kind"] == users_own["kind"]
    assert captioned["answer_status"] == ["ok", "ok", "ok", "image_null"]
    assert captioned["box_status"][0] == ["ok", "outside", "clipped"]
    assert_own(captioned.select(range(3)))
    assert endpoint.count == 3
    for row in stored(captioned.select(range(3)), ["image", "image_with_bbox"]):
        source = PILImage.open(io.BytesIO(row["image"]["bytes"]))
        drawn = PILImage.open(io.BytesIO(row["image_with_bbox"]["bytes"]))
        turned = source.getexif().get(0x0112) == 6
        assert drawn.size == (source.size[::-1] if turned else source.size)
        assert not drawn.getexif()


def test_the_boxes_are_drawn_on_the_copy_only(make_dataset: Any, endpoint: Endpoint) -> None:
    flat = io.BytesIO()
    PILImage.new("RGB", (60, 60), (128, 128, 128)).save(flat, "PNG")
    dataset = make_dataset(1, regions=1).map(
        lambda _: {"image": {"bytes": flat.getvalue(), "path": None}, "bbox": [[20, 20, 20, 20]]}
    )
    captioned = dataset.map(
        add_region_captions, fn_kwargs={"base_url": endpoint.base_url, "mark": "box"}
    )
    drawn = captioned[0]["image_with_bbox"].convert("RGB")
    grey = [sum(abs(c - 128) for c in drawn.getpixel(at)) < 60 for at in ((5, 55), (55, 5))]
    assert all(grey)
    assert any(sum(abs(c - 128) for c in drawn.getpixel((30, y))) > 60 for y in range(36, 46))
    assert captioned[0]["image"].convert("RGB").getcolors() == [(3600, (128, 128, 128))]


@pytest.mark.parametrize("form", ["numpy", "plain stream", "arrow stream"])
def test_formats_that_bring_no_table_give_the_same_values(
    form: str, make_dataset: Any, endpoint: Endpoint
) -> None:
    dataset = make_dataset(5)
    options = {"base_url": endpoint.base_url}
    expected = stored(dataset.map(add_region_captions, batched=True, fn_kwargs=options))
    if form == "numpy":
        got = stored(
            dataset.with_format("numpy").map(add_region_captions, batched=True, fn_kwargs=options)
        )
    else:
        stream = dataset.to_iterable_dataset()
        stream = stream.with_format("arrow") if form == "arrow stream" else stream
        stream = stream.map(add_region_captions, batched=True, batch_size=2, fn_kwargs=options)
        got = list(stream)
        if form == "arrow stream":
            whole = pa.concat_tables(got)
            assert Features.from_arrow_schema(whole.schema) == Features(
                {**dataset.features, **column_features()}
            )
            got = whole.to_pylist()
    for name in ALL_COLUMNS:
        assert [row[name] for row in got] == [row[name] for row in expected], name
    assert [row["number"] for row in got] == list(range(5))


@pytest.mark.parametrize("layout", ["dict of lists", "list of dicts"])
def test_nested_boxes(
    layout: str, make_dataset: Any, endpoint: Endpoint, assert_own: Callable[..., None]
) -> None:
    nested = {"bbox": List(Value("float64")), "category": ClassLabel(names=["cat", "dog"])}
    kind = Sequence(nested) if layout == "dict of lists" else List(nested)
    boxes = [[2.0, 2.0, 20.0, 20.0], [30.0, 9.0, 20.0, 20.0]]
    values: Any = [{"bbox": box, "category": n} for n, box in enumerate(boxes)]
    if layout == "dict of lists":
        values = {"bbox": boxes, "category": [0, 1]}
    plain = make_dataset(2).remove_columns("bbox")
    dataset = Dataset.from_list(
        [row | {"objects": values} for row in stored(plain)],
        features=Features({**plain.features, "objects": kind}),
    )
    for batched in (True, False):
        captioned = dataset.map(
            add_region_captions,
            batched=batched,
            fn_kwargs={
                "base_url": endpoint.base_url,
                "bbox_column": "objects.bbox",
                "label_column": "objects.category",
            },
        )
        assert captioned["region_boxes"][0] == boxes
        assert '<region1> "cat", <region2> "dog"' in captioned["prompt"][0]
        assert_own(captioned)
        assert captioned.features["objects"] == dataset.features["objects"]
    with pytest.raises(OptionError, match=r"pass bbox_column='objects\.bbox'"):
        dataset.map(add_region_captions, batched=True, fn_kwargs={"base_url": endpoint.base_url})


# Rows about which there is nothing to ask


def test_every_kind_of_image_and_box(
    make_photo: Callable[..., bytes], endpoint: Endpoint, tmp_path: Path
) -> None:
    good, secret = make_photo(0, format="JPEG"), tmp_path / "elsewhere.png"
    secret.write_bytes(make_photo(1))
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "photo.png").write_bytes(make_photo(2))
    box, outside = [[2.0, 2.0, 20.0, 20.0]], [[200.0, 200.0, 9.0, 9.0]]
    cases: list[tuple[Any, Any, str]] = [
        ({"bytes": good, "path": None}, box, "ok"),
        ({"bytes": None, "path": str(tmp_path / "root" / "photo.png")}, box, "ok"),
        ({"bytes": good, "path": None}, [], "no_boxes"),
        ({"bytes": good, "path": None}, None, "no_boxes"),
        ({"bytes": good, "path": None}, outside, "boxes_invalid"),
        (None, box, "image_null"),
        ({"bytes": b"no image at all", "path": None}, box, "image_corrupt"),
        ({"bytes": good[: len(good) // 2], "path": None}, box, "image_corrupt"),
        ({"bytes": make_photo(3, (200, 200)), "path": None}, box, "image_too_large"),
        ({"bytes": b"%PDF-1.7 and so on", "path": None}, box, "image_unsupported"),
        ({"bytes": None, "path": str(tmp_path / "root" / "gone.png")}, box, "image_missing"),
        ({"bytes": None, "path": str(secret)}, box, "image_refused"),
        ({"bytes": None, "path": "https://example.com/a.png"}, box, "image_refused"),
    ]
    features = Features({"image": Image(decode=False), "bbox": List(List(Value("float64")))})
    dataset = Dataset.from_dict(
        {"image": [case[0] for case in cases], "bbox": [case[1] for case in cases]},
        features=features,
    )
    captioned = dataset.map(
        add_region_captions,
        batched=True,
        fn_kwargs={
            "base_url": endpoint.base_url,
            "image_root": tmp_path / "root",
            "max_pixels": 20_000,
            "propose": None,
        },
    )
    assert captioned["answer_status"] == [case[2] for case in cases]
    assert endpoint.count == 2
    for row, (_, boxes, status) in zip(stored(captioned), cases, strict=True):
        assert (row["answer_error"] is None) == (status == "ok")
        assert len(row["region_captions"]) == len(row["region_boxes"]) == len(boxes or [])
        assert row["type"] == ("with_bbox" if boxes else "without_bbox")
        if status != "ok":
            assert row["prompt"] is row["answer"] is row["image_with_bbox"] is None
            assert row["usage"] == {"prompt_tokens": None, "completion_tokens": None}
        if row["image_status"] != "ok":
            assert row["box_status"] == ["no_image"]
            assert row["region_boxes"] == [None]
    assert all(row["image"] == case[0] for row, case in zip(stored(captioned), cases, strict=True))


def test_a_batch_of_which_all_images_are_refused_names_the_option(
    make_photo: Callable[..., bytes], endpoint: Endpoint, tmp_path: Path
) -> None:
    for number in range(10):
        (tmp_path / f"{number}.png").write_bytes(make_photo(number))
    paths = [str(tmp_path / f"{number}.png") for number in range(10)]
    dataset = Dataset.from_dict({"image": paths, "bbox": [[[2.0, 2.0, 9.0, 9.0]]] * 10})
    dataset = dataset.cast_column("image", Image())
    options = {"base_url": endpoint.base_url}
    with pytest.raises(OptionError, match="image_root=FOLDER"):
        dataset.map(add_region_captions, batched=True, fn_kwargs=options)
    assert endpoint.count == 0
    captioned = dataset.map(
        add_region_captions, batched=True, fn_kwargs=options | {"image_root": tmp_path}
    )
    assert set(captioned["answer_status"]) == {"ok"}


def test_values_after_a_thousand_rows_without_any(
    make_dataset: Any, endpoint: Endpoint, on_disk: Any
) -> None:
    late = make_dataset(2)
    image = stored(late, ["image"])[0]["image"]
    early = Dataset.from_list(
        [{"number": -1, "image": image, "bbox": []}] * 1001, features=late.features
    )
    from datasets import concatenate_datasets

    captioned = concatenate_datasets([early, late]).map(
        add_region_captions,
        batched=True,
        fn_kwargs={"base_url": endpoint.base_url, "propose": None},
    )
    assert captioned["answer_status"][1000:] == ["no_boxes", "ok", "ok"]
    assert [len(captions) for captions in captioned["region_captions"][1000:]] == [0, 2, 2]
    assert captioned.features == Features({**late.features, **column_features()})
    assert on_disk(captioned)[1002]["region_captions"][1]


@pytest.mark.parametrize("fault", ["lone_surrogate", "lone_surrogate_raw", "null_characters"])
def test_characters_that_arrow_cannot_hold(
    fault: str, make_dataset: Any, on_disk: Any, tmp_path: Path
) -> None:
    with Endpoint(fault) as endpoint:
        captioned = make_dataset(2).map(
            add_region_captions, batched=True, fn_kwargs={"base_url": endpoint.base_url}
        )
        assert captioned["answer_status"] == ["ok", "ok"]
        captioned.to_parquet(tmp_path / "rows.parquet")
        again = Dataset.from_parquet(str(tmp_path / "rows.parquet"))
        assert again["region_captions"] == captioned["region_captions"]


# The chain and the one


@pytest.mark.parametrize("view", ["overlay", "crop", "both"])
def test_the_four_one_after_another_equal_the_one(
    view: str, users_own: Dataset, tmp_path: Path
) -> None:
    tables = []
    for functions in (CHAIN, [add_region_captions]):
        with Endpoint() as endpoint:
            options = {"base_url": endpoint.base_url, "view": view, "max_side": 60}
            options["answer_store"] = str(tmp_path / f"{len(functions)}.sqlite")
            dataset = users_own
            for function in functions:
                dataset = dataset.map(function, batched=True, fn_kwargs=options)
            tables.append(dataset)
            assert endpoint.count == (3 if view == "overlay" else 4)
    chained, fused = tables
    assert chained.features == fused.features
    assert stored(chained, list(ALL_COLUMNS)) == stored(fused, list(ALL_COLUMNS))
    assert fused["answer_status"] == ["ok", "ok", "ok", "image_null"]


def asked_with(overlays: list[Any]) -> list[list[str]]:
    """The right captions of the two regions of each picture, however it is held."""
    return [[expected_caption(image, region) for region in (1, 2)] for image in overlays]


@pytest.mark.parametrize("form", ["examples", "numpy", "plain stream"])
def test_decoded_rows_are_asked_about_too(form: str, make_dataset: Any, endpoint: Endpoint) -> None:
    options = {"base_url": endpoint.base_url, "max_boxes": 2}
    rows: Any = make_dataset(3)
    rows = rows.to_iterable_dataset() if form == "plain stream" else rows
    for step in CHAIN[:3]:
        rows = rows.map(step, batched=True, fn_kwargs=options)
    if form == "examples":
        added = [add_answers(row, **options) for row in rows]
    else:
        rows = rows.with_format("numpy") if form == "numpy" else rows
        added = list(rows.map(add_answers, batched=True, batch_size=2, fn_kwargs=options))
    assert [row["answer_status"] for row in added] == ["ok"] * 3
    images = [request.question.images[0] for request in endpoint.requests]
    assert all(image.startswith(b"\xff\xd8\xff") for image in images)
    said = [list(row["region_captions"]) for row in added]
    assert sorted(said) == sorted(asked_with(images))
    assert len({str(captions) for captions in said}) == 3


def test_decoded_rows_with_nothing_to_ask(users_own: Dataset, endpoint: Endpoint) -> None:
    options = {"base_url": endpoint.base_url}
    rows = users_own
    for step in CHAIN[:3]:
        rows = rows.map(step, batched=True, fn_kwargs=options)
    for form in (None, "numpy"):
        added = [add_answers(row, **options) for row in rows.with_format(form)]
        assert [row["answer_status"] for row in added] == ["ok", "ok", "ok", "image_null"]


@pytest.mark.parametrize("view", ["crop", "both"])
def test_a_picture_that_cannot_be_read_for_its_crops_says_so(
    view: str, make_photo: Callable[..., bytes], endpoint: Endpoint, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(make_photo(1))
    row: dict[str, Any] = {"image": str(tmp_path / "a.png"), "bbox": [[2, 2, 20, 20]]}
    for step in CHAIN[:3]:
        row |= step(row, image_root=tmp_path)
    options = {"base_url": endpoint.base_url, "view": view}
    added = add_answers(row, **options)
    assert added["answer_status"] == "image_refused"
    assert "pass image_root=FOLDER" in added["answer_error"]
    (tmp_path / "a.png").unlink()
    assert add_answers(row, image_root=tmp_path, **options)["answer_status"] == "image_missing"
    assert endpoint.count == 0


@pytest.mark.parametrize("name", ["prompt", "image_with_bbox"])
def test_a_column_that_was_emptied_is_named(
    name: str, make_dataset: Any, endpoint: Endpoint
) -> None:
    (row,) = stored(make_dataset(1))
    for step in CHAIN[:3]:
        row |= step(row)
    added = add_answers(row | {name: None}, base_url=endpoint.base_url)
    assert added["answer_status"] == "boxes_invalid"
    assert added["answer_error"] == f"the boxes cannot be asked about: {name} is null"
    assert endpoint.count == 0


def raising(image: Any) -> Any:
    raise ZeroDivisionError("no detector")


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_what_propose_raises_is_its_rows_affair(
    error: type[BaseException], make_dataset: Any
) -> None:
    def propose(image: Any) -> Any:
        raise error("mine")

    table = make_dataset(3, regions=0).with_format("arrow")[:]
    options: dict[str, Any] = {"base_url": "offline", "answer_store": None, "propose": propose}
    for row in add_region_captions(table, **options).to_pylist():
        assert row["answer_status"] == "no_boxes"
        assert row["answer_error"] == f"propose raised {error.__name__}: mine"


def test_why_propose_raised_is_all_that_the_chain_loses(make_dataset: Any) -> None:
    (row,) = stored(make_dataset(1, regions=0))
    options: dict[str, Any] = {"base_url": "offline", "propose": raising}
    fused, chained = add_region_captions(row, **options), {}
    for step in CHAIN:
        chained |= step(row | chained, **options)
    assert "ZeroDivisionError: no detector" in fused["answer_error"]
    assert chained == fused | {"answer_error": "the row has no boxes"}


@pytest.mark.parametrize("single", [True, False])
def test_plain_dicts_give_the_new_columns_only_and_stay_as_they_are(
    single: bool, make_dataset: Any, endpoint: Endpoint
) -> None:
    rows = stored(make_dataset(2))
    given: dict[str, Any] = rows[0] if single else {k: [r[k] for r in rows] for k in rows[0]}
    before = pickle.dumps(given)
    added = add_region_captions(given, base_url=endpoint.base_url)
    assert list(added) == list(ALL_COLUMNS)
    assert pickle.dumps(given) == before
    overlays = [added["image_with_bbox"]] if single else added["image_with_bbox"]
    captions = [added["region_captions"]] if single else added["region_captions"]
    for overlay, said in zip(overlays, captions, strict=True):
        assert said == [expected_caption(overlay["bytes"], region) for region in (1, 2)]


# Options that cannot work

WRONG = [
    ({"max_box": 3}, ["unknown option 'max_box'", "max_boxes"]),
    ({"view": "side"}, ["view must be one of", "'overlay'", "'side'"]),
    ({"box_format": "coco"}, ["box_format", "'xywh'", "'coco'"]),
    ({"box_unit": "inch"}, ["box_unit", "'fraction'", "'percent'"]),
    ({"concurrency": 0}, ["concurrency must be a whole number from 1", "got 0"]),
    ({"concurrency": True}, ["concurrency", "got True"]),
    ({"temperature": 3}, ["temperature must be a number from 0 to 2", "got 3"]),
    ({"reask": -1}, ["reask", "got -1"]),
    ({"timeout": 0}, ["timeout", "got 0"]),
    ({"on_error": "ignore"}, ["on_error", "'record'", "'raise'", "'ignore'"]),
    ({"mark": "circle"}, ["mark", "'box'", "'circle'"]),
    ({"parse": "json"}, ["parse", "callable", "'json'"]),
    ({"propose": "yolo"}, ["propose", "'contours'", "'yolo'"]),
    ({"base_url": "localhost:8000"}, ["base_url", "http://localhost:8000/v1", "'localhost:8000'"]),
    ({"base_url": "http://me:pw@localhost/v1"}, ["base_url", "api_key_env"]),
    ({"api_key_env": "NO_SUCH_KEY"}, ["api_key_env", "'NO_SUCH_KEY' is not set"]),
    ({"base_url": "https://example.com/v1"}, ["api_key_env", "example.com", "api_key_env=''"]),
    ({"image_column": "picture"}, ["'picture'", "image_column", "'image'", "'bbox'"]),
    ({"bbox_column": "boxes"}, ["'boxes'", "bbox_column='bbox'"]),
    ({"label_column": "label"}, ["'label'", "label_column", "'number'"]),
    ({"label_names": ["cat"]}, ["label_names needs label_column"]),
    ({"prompt": "What is {city}?"}, ["'city'", "prompt"]),
    ({"prompt": "{count"}, ["prompt is not a template"]),
    ({"prompt": "{labels}"}, ["{labels} needs label_column"]),
    ({"prompt": "?", "prompt_column": "number"}, ["prompt and prompt_column exclude each other"]),
    ({"prompt_column": "question"}, ["'question'", "prompt_column"]),
    ({"box_unit": "fraction"}, ["box_unit", "'pixel'"]),
    ({"extra_body": {"model": "x"}}, ["extra_body", "model"]),
    ({"extra_headers": "Authorization: x"}, ["extra_headers must be a mapping"]),
]


@pytest.mark.parametrize(("wrong", "words"), WRONG, ids=[str(case[0])[:40] for case in WRONG])
def test_options_that_cannot_work_are_named_before_any_request(
    wrong: dict[str, Any], words: list[str], make_dataset: Any, endpoint: Endpoint
) -> None:
    dataset = make_dataset(12)
    with pytest.raises(OptionError) as raised:
        dataset.map(
            add_region_captions, batched=True, fn_kwargs={"base_url": endpoint.base_url} | wrong
        )
    assert all(word in str(raised.value) for word in words), str(raised.value)
    assert endpoint.count == 0
    assert pickle.loads(pickle.dumps(raised.value)).args == raised.value.args


NAMED: list[tuple[dict[str, float], str, list[str]]] = [
    # a box with its names, the format they were taken for, the ways out
    ({"xmin": 4, "ymin": 5, "xmax": 30, "ymax": 25}, "xywh", ["xyxy"]),
    ({"x1": 4, "y1": 5, "x2": 30, "y2": 25}, "xywh", ["xyxy"]),
    ({"x1": 4, "y1": 5, "x2": 30, "y2": 25}, "cxcywh", ["xyxy"]),
    ({"x": 4, "y": 5, "width": 26, "height": 20}, "xyxy", ["xywh", "cxcywh"]),
    ({"x": 4, "y": 5, "w": 26, "h": 20}, "xyxy", ["xywh", "cxcywh"]),
]


@pytest.mark.parametrize(("box", "wrong", "ways_out"), NAMED, ids=str)
def test_names_of_a_boxs_numbers_that_say_another_format(
    box: dict[str, float], wrong: str, ways_out: list[str], make_dataset: Any, endpoint: Endpoint
) -> None:
    plain = make_dataset(1).remove_columns("bbox")
    dataset = Dataset.from_list([row | {"bbox": [box, box]} for row in stored(plain)])
    dataset = dataset.cast_column("image", Image())
    options = {"base_url": endpoint.base_url, "box_format": wrong}
    with pytest.raises(OptionError) as raised:
        dataset.map(add_region_captions, batched=True, fn_kwargs=options)
    assert f"bbox_column 'bbox' holds boxes as {{{', '.join(box)}}}" in str(raised.value)
    assert f"box_format='{wrong}'" in str(raised.value)
    advice = " or ".join(f"box_format='{way}'" for way in ways_out)
    assert str(raised.value).endswith(f"pass {advice}")
    assert endpoint.count == 0
    for way in ways_out:
        placed = dataset.map(add_boxes, batched=True, fn_kwargs={"box_format": way})
        x, y = (4.0, 5.0) if way != "cxcywh" else (0.0, 0.0)
        assert placed["region_boxes"][0][0][:2] == [x, y]


@pytest.mark.parametrize("function", STEPS)
def test_a_name_that_is_taken_and_the_way_out(
    function: str, make_dataset: Any, endpoint: Endpoint
) -> None:
    names = {
        "add_boxes": "box_status",
        "add_overlays": "image_with_bbox",
        "add_prompts": "prompt",
        "add_answers": "answer",
        "add_region_captions": "usage",
    }
    dataset = make_dataset(2)
    options: dict[str, Any] = {"base_url": endpoint.base_url, "column_prefix": "new_"}
    before = CHAIN[: [*STEPS].index(function)] if function != "add_region_captions" else ()
    plain = dataset
    for step in before:
        dataset = dataset.map(step, batched=True, fn_kwargs=options)
        plain = plain.map(step, batched=True, fn_kwargs={"base_url": endpoint.base_url})
    dataset = dataset.add_column(names[function], ["the user's own"] * 2)
    plain = plain.add_column(names[function], ["the user's own"] * 2)
    with pytest.raises(OptionError, match=f"'{names[function]}' already: pass column_prefix="):
        plain.map(STEPS[function], batched=True, fn_kwargs={"base_url": endpoint.base_url})
    assert endpoint.count == 0
    done = dataset.map(STEPS[function], batched=True, fn_kwargs=options)
    assert done[names[function]] == ["the user's own"] * 2
    assert done["new_" + names[function]] is not None


def test_the_later_functions_ask_for_the_earlier(make_dataset: Any, endpoint: Endpoint) -> None:
    for function in CHAIN[1:]:
        with pytest.raises(OptionError, match="add_boxes, add_overlays and add_prompts come"):
            make_dataset(1).map(function, fn_kwargs={"base_url": endpoint.base_url})
    assert endpoint.count == 0


# The callable


@pytest.mark.parametrize("name", STEPS)
def test_the_callables_show_and_pickle_themselves(name: str) -> None:
    function = STEPS[name]
    parameters = inspect.signature(function).parameters
    assert parameters["max_boxes"].default == 10
    assert parameters["max_boxes"].kind is inspect.Parameter.KEYWORD_ONLY
    assert "given" not in parameters
    shown = pydoc.plain(pydoc.render_doc(function))
    assert f"{name}(" in shown
    assert "temperature" in shown
    assert ">>> " in shown
    assert pickle.loads(pickle.dumps(function)) is function
    import dill  # what `datasets` pickles with

    assert dill.loads(dill.dumps(function)) is function


@pytest.mark.parametrize(
    ("what", "value"), [("RECIPE", columns.RECIPE + 1), ("__version__", "99.0")]
)
def test_another_recipe_or_version_is_another_fingerprint(
    what: str, value: Any, monkeypatch: pytest.MonkeyPatch, make_dataset: Any, on_disk: Any
) -> None:
    dataset = on_disk(make_dataset(2))
    first = dataset.map(add_boxes, batched=True)
    assert dataset.map(ColumnFunction(add_boxes._function), batched=True)._fingerprint == (
        first._fingerprint
    )
    monkeypatch.setattr(columns, what, value)
    upgraded = ColumnFunction(add_boxes._function)
    assert Hasher.hash(upgraded) != Hasher.hash(add_boxes)
    assert dataset.map(upgraded, batched=True)._fingerprint != first._fingerprint


# What is asked again


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Change to another answer store without changing what `map` is called with."""
    return lambda name: monkeypatch.setenv("HF_REGIONCAP_HOME", str(tmp_path / name))


def test_a_second_identical_map_asks_nothing_and_maps_nothing(
    make_dataset: Any, on_disk: Any, endpoint: Endpoint, home: Callable[[str], None]
) -> None:
    dataset = on_disk(make_dataset(6))
    options = {"base_url": endpoint.base_url}
    first = dataset.map(add_region_captions, batched=True, fn_kwargs=options)
    assert endpoint.count == 6
    home("an empty store")  # whoever maps again would have to ask
    second = dataset.map(add_region_captions, batched=True, fn_kwargs=options)
    assert endpoint.count == 6
    assert second.cache_files == first.cache_files
    assert stored(second) == stored(first)


UNCHANGED: list[dict[str, Any]] = [
    {"concurrency": 3},
    {"timeout": 7},
    {"api_key_env": "ANOTHER_KEY"},
    {"extra_headers": {"x-trace": "7"}},
    {"extra_query": {"api-version": "2"}},
    {"on_error": "raise"},
    {"max_tokens": 999},
    {"reask": 3},
    {"quality": 90},
]


@pytest.mark.parametrize("change", [*UNCHANGED, "batch size", "endpoint"], ids=str)
def test_changes_that_change_no_answer_ask_nothing(
    change: Any, make_dataset: Any, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANOTHER_KEY", "sk-another")
    dataset, options = make_dataset(5), {"base_url": endpoint.base_url}
    first = dataset.map(add_region_captions, batched=True, fn_kwargs=options)
    with Endpoint() as other:
        if change == "endpoint":
            options = {"base_url": other.base_url}
        if isinstance(change, dict):
            options |= change
        size = 2 if change == "batch size" else 1000
        second = dataset.map(add_region_captions, batched=True, batch_size=size, fn_kwargs=options)
        assert (endpoint.count, other.count) == (5, 0)
    assert stored(second) == stored(first)


CHANGED: list[dict[str, Any]] = [
    {"prompt": "What is in {regions}?"},
    {"system_prompt": "Be brief."},
    {"model": "another"},
    {"temperature": 0.7},
    {"seed": 1},
    {"caption_style": "phrase"},
    {"language": "German"},
    {"mark": "corners"},
    {"quality": 80},
    {"detail": "low"},
    {"extra_body": {"top_p": 0.5}},
    {"store_tag": "second"},
    {"box_format": "cxcywh"},
]


@pytest.mark.parametrize("change", CHANGED, ids=str)
def test_changes_that_change_the_answers_ask_anew(
    change: dict[str, Any], make_dataset: Any, endpoint: Endpoint
) -> None:
    dataset, options = make_dataset(3), {"base_url": endpoint.base_url}
    dataset.map(add_region_captions, batched=True, fn_kwargs=options)
    dataset.map(add_region_captions, batched=True, fn_kwargs=options | change)
    assert endpoint.count == 6


def test_only_new_or_changed_rows_are_asked_about(
    make_dataset: Any, endpoint: Endpoint, assert_own: Callable[..., None]
) -> None:
    def ask(dataset: Any) -> int:
        before = endpoint.count
        captioned = dataset.map(
            add_region_captions, batched=True, fn_kwargs={"base_url": endpoint.base_url}
        )
        assert_own(captioned)
        return endpoint.count - before

    from datasets import concatenate_datasets

    dataset = make_dataset(8)
    assert ask(dataset) == 8
    assert ask(dataset.shuffle(seed=4)) == 0
    assert ask(dataset.select([5, 1, 1, 3])) == 0
    assert ask(concatenate_datasets([make_dataset(2, start=50), dataset])) == 2
    moved = stored(dataset)
    moved[3]["bbox"] = [[1.0, 1.0, 9.0, 9.0], *moved[3]["bbox"][1:]]
    moved[5]["image"] = stored(make_dataset(1, start=70))[0]["image"]
    assert ask(Dataset.from_list(moved, features=dataset.features)) == 2


# Where it runs


def test_two_maps_at_once_in_threads(make_dataset: Any, assert_own: Callable[..., None]) -> None:
    with Endpoint(latency=lambda number: 0.002 * (number * 7 % 5)) as endpoint:
        done: dict[int, Any] = {}

        def ask(start: int) -> None:
            done[start] = make_dataset(40, start=start).map(
                add_region_captions, batched=True, fn_kwargs={"base_url": endpoint.base_url}
            )

        threads = [threading.Thread(target=ask, args=(start,)) for start in (0, 1000)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        for start in (0, 1000):
            assert_own(done[start])
            assert done[start]["number"] == list(range(start, start + 40))
        assert endpoint.count == 80
        assert endpoint.max_in_flight <= 32


def test_workers_forked_from_a_process_that_has_asked_before(
    make_dataset: Any, assert_own: Callable[..., None]
) -> None:
    with Endpoint(latency=lambda number: 0.002 * (number * 7 % 5)) as endpoint:
        options = {"base_url": endpoint.base_url, "concurrency": 8}
        make_dataset(8, start=500).map(add_region_captions, batched=True, fn_kwargs=options)
        captioned = make_dataset(60).map(
            add_region_captions, batched=True, batch_size=15, num_proc=2, fn_kwargs=options
        )
        assert_own(captioned)
        assert captioned["number"] == list(range(60))
        assert endpoint.count == 68
        assert endpoint.max_in_flight <= 16
        again = make_dataset(8, start=700).map(add_region_captions, batched=True, fn_kwargs=options)
        assert_own(again)


JUPYTER = """
import asyncio, json
from datasets import load_from_disk
from hf_regioncap import add_region_captions, caption_dataset

assert asyncio.get_running_loop().is_running()
dataset = load_from_disk({folder!r})
options = dict(base_url={url!r})
mapped = dataset.map(add_region_captions, batched=True, fn_kwargs=options)
whole = caption_dataset(dataset, store_tag="again", **options)
print(json.dumps([mapped["region_captions"][:], whole["region_captions"][:]]))
"""


def test_in_a_jupyter_kernel_with_its_running_loop(
    make_dataset: Any, endpoint: Endpoint, tmp_path: Path
) -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    dataset = make_dataset(4)
    dataset.save_to_disk(tmp_path / "rows")
    code = JUPYTER.format(folder=str(tmp_path / "rows"), url=endpoint.base_url)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    printed = [out.text for out in notebook.cells[0].outputs if out.get("name") == "stdout"]
    mapped, whole = json.loads("".join(printed).splitlines()[-1])
    assert mapped == whole
    assert endpoint.count == 8
    overlays = dataset.map(add_boxes, batched=True).map(add_overlays, batched=True)
    for row, captions in zip(stored(overlays), mapped, strict=True):
        image = row["image_with_bbox"]["bytes"]
        assert captions == [expected_caption(image, region) for region in (1, 2)]
