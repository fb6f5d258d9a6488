"""Streams whose types widen after the first rows; columns whose types cannot work at all."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from datasets import Dataset, Features, Image, IterableDataset, List, Value
from endpoint import Endpoint

from hf_regioncap import (
    OptionError,
    add_boxes,
    add_prompts,
    add_region_captions,
    caption_dataset,
    reading,
)
from hf_regioncap.columns import ALL_COLUMNS

BOX = [2.0, 3.0, 20.0, 16.0]


@pytest.fixture
def stream(make_photo: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., IterableDataset]:
    """Twelve rows without features, of which the first four are looked at: `stream(early, late)`.

    The last four rows have the values of `late`, the others those of `early`.
    """
    monkeypatch.setattr(reading, "SAMPLE", 4)

    def make(early: dict[str, Any], late: dict[str, Any]) -> IterableDataset:
        def rows() -> Iterator[dict[str, Any]]:
            for number in range(12):
                row = {"image": {"bytes": make_photo(number), "path": None}, "bbox": [BOX]}
                values = row | (early if number < 8 else late)
                yield {name: value for name, value in values.items() if value is not ...}

        return IterableDataset.from_generator(rows)

    return make


def asked(endpoint: Endpoint) -> dict[str, Any]:
    return {"base_url": endpoint.base_url, "answer_store": None, "propose": None, "concurrency": 2}


@pytest.mark.parametrize(
    ("early", "late", "filled"),
    [
        ({"bbox": []}, {"bbox": [BOX]}, {}),
        ({"bbox": None}, {"bbox": [BOX, BOX]}, {}),
        ({"bbox": [[1, 2, 20, 16]]}, {"bbox": [BOX]}, {}),
        ({"note": None}, {"note": "x"}, {}),
        ({"note": 1}, {"note": 1.5}, {}),
        ({"note": []}, {"note": [{"a": 1}]}, {}),
        ({"note": {"a": 1}}, {"note": {"a": 1, "b": 2}}, {"note": {"a": 1, "b": None}}),
        ({"note": 1}, {"note": ...}, {}),
        ({"note": ...}, {"note": 1}, {}),
    ],
)
def test_types_that_widen_are_unified(
    early: dict[str, Any], late: dict[str, Any], filled: dict[str, Any], stream: Any
) -> None:
    source = stream(early, late)
    expected = [{**row, **(filled if number < 8 else {})} for number, row in enumerate(source)]
    with Endpoint() as endpoint:
        captioned = caption_dataset(source, **asked(endpoint))
        for _ in range(2):  # the second reader begins with what the first has learned
            rows = list(captioned)
            assert len(rows) == 12
            for row, own in zip(rows, expected, strict=True):
                assert {name: row[name] for name in own} == own
                assert all(row[name] is None for name in set(row) - set(own) - set(ALL_COLUMNS))
            with_boxes = sum(bool(row["bbox"]) for row in rows)
            statuses = Counter(row["answer_status"] for row in rows)
            assert statuses == Counter({"ok": with_boxes, "no_boxes": 12 - with_boxes})


@pytest.mark.parametrize(
    ("early", "late", "words"),
    [
        ({"note": 1}, {"note": "x"}, "column 'note' is string from row 8 on, and int64 before"),
        ({"bbox": ...}, {"bbox": [BOX]}, "column 'bbox' is not in the first rows, but later"),
        ({}, {"prompt": "x"}, "column 'prompt' is not in the first rows, but later"),
    ],
)
def test_types_that_cannot_be_one_are_refused_before_their_row_is_asked(
    early: dict[str, Any], late: dict[str, Any], words: str, stream: Any
) -> None:
    with Endpoint() as endpoint:
        captioned = caption_dataset(stream(early, late), **asked(endpoint))
        with pytest.raises(OptionError, match=words):
            list(captioned)
        assert endpoint.count <= 8


def test_a_stream_of_late_types_goes_on_from_where_it_was(stream: Any) -> None:
    with Endpoint() as endpoint:
        captioned = caption_dataset(stream({"note": 1}, {"note": 1.5}), **asked(endpoint))
        reader = iter(captioned)
        head = [next(reader)["note"] for _ in range(10)]
        state = captioned.state_dict()
        rest = [row["note"] for row in reader]
        captioned.load_state_dict(state)
        assert [row["note"] for row in captioned] == rest
        assert head + rest == [1] * 8 + [1.5] * 4


def test_images_of_such_a_stream_are_decoded_as_of_any(stream: Any) -> None:
    with Endpoint() as endpoint:
        captioned = caption_dataset(stream({"note": 1}, {"note": 1.5}), **asked(endpoint))
        assert {row["image_with_bbox"].size for row in captioned} == {(64, 48)}


# Types that cannot work


def typed(make_photo: Any, rows: int, name: str, kind: Any, value: Any, late: Any) -> Dataset:
    """A dataset whose column says its type, and has the value in its last row only."""
    features = Features({"image": Image(), "bbox": List(List(Value("float64"))), name: kind})
    table: dict[str, Any] = {
        "image": [{"bytes": make_photo(number), "path": None} for number in range(rows)],
        "bbox": [[BOX]] * rows,
        name: [*[value] * (rows - 1), late],
    }
    return Dataset.from_dict(table, features=features)


@pytest.mark.parametrize(
    ("kind", "value", "late", "options", "words"),
    [
        (List(Value("int64")), [], [3], {"label_column": "x"}, "pass label_names="),
        (Value("binary"), None, b"x", {"prompt": "{x} {count}"}, "column 'x' holds no text"),
        ({"a": Value("string")}, None, {"a": "x"}, {"system_prompt": "{x}"}, "system_prompt: co"),
        (Image(), None, None, {"prompt": "{x} {count}"}, "column 'x' holds no text"),
        (Value("int64"), None, 7, {"prompt_column": "x"}, "prompt_column 'x' holds int64"),
        (List(Value("string")), [], ["x"], {"prompt_column": "x"}, "prompt_column 'x' holds list"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("way", ["whole", "map", "stream"])
def test_types_that_cannot_work_are_found_before_the_first_request(
    kind: Any,
    value: Any,
    late: Any,
    options: dict[str, Any],
    words: str,
    way: str,
    make_photo: Any,
    endpoint: Endpoint,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "SAMPLE", 4)
    dataset = typed(make_photo, 8, "x", kind, value, late)
    options = options | {"base_url": endpoint.base_url}
    source = dataset.to_iterable_dataset() if way == "stream" else dataset
    call = {"batched": True, "fn_kwargs": options} if way == "map" else options
    function = (
        functools.partial(source.map, add_region_captions)
        if way == "map"
        else (functools.partial(caption_dataset, source))
    )
    with pytest.raises(OptionError, match=words):
        function(**call)
    assert endpoint.count == 0


@pytest.mark.parametrize(
    ("kind", "value", "options"),
    [
        (Value("large_string"), "ask {this}", {"prompt_column": "x"}),
        (Value("null"), None, {"prompt_column": "x"}),
        (Value("float64"), 0.5, {"prompt": "{x} {count}"}),
        (List(Value("string")), ["a"], {"prompt": "{x} {count}"}),
        (List(Value("int64")), [0], {"label_column": "x", "label_names": ["cat"]}),
        (List(Value("null")), [], {"label_column": "x"}),
    ],
)
def test_types_that_work(
    kind: Any, value: Any, options: dict[str, Any], make_photo: Any, endpoint: Endpoint
) -> None:
    dataset = typed(make_photo, 2, "x", kind, value, value)
    captioned = caption_dataset(dataset, base_url=endpoint.base_url, **options)
    assert captioned["answer_status"][:] == ["ok"] * 2


# Callables


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"parse": lambda answer: {}}, "parse must take two arguments, the answer and the regions"),
        ({"parse": lambda a, r, more: {}}, "parse must take two arguments"),
        ({"propose": lambda: []}, "propose must take one argument, the image"),
        ({"on_progress": "bar"}, "on_progress must be a callable or None, got 'bar'"),
    ],
)
def test_callables_that_cannot_be_called_are_found_before_the_first_request(
    wrong: dict[str, Any], words: str, make_dataset: Any, endpoint: Endpoint
) -> None:
    with pytest.raises(OptionError, match=words):
        caption_dataset(make_dataset(2), base_url=endpoint.base_url, **wrong)
    assert endpoint.count == 0


def test_callables_that_tell_no_arguments_are_taken(make_dataset: Any, endpoint: Endpoint) -> None:
    options: dict[str, Any] = {"base_url": endpoint.base_url, "propose": type, "parse": min}
    captioned = caption_dataset(make_dataset(1), **options)
    assert "parse raised" in captioned["answer_error"][0]


class Wordless(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


def test_an_exception_without_words_is_its_rows(make_dataset: Any, endpoint: Endpoint) -> None:
    def raises(*_: Any) -> Any:
        raise Wordless

    options: dict[str, Any] = {"base_url": endpoint.base_url, "answer_store": None}
    parsed = caption_dataset(make_dataset(2), parse=raises, **options)
    assert parsed["answer_error"][:] == ["parse raised Wordless"] * 2
    proposed = caption_dataset(make_dataset(2, regions=0), propose=raises, **options)
    assert proposed["answer_error"][:] == ["propose raised Wordless"] * 2


def test_labels_of_plain_rows_need_names_too(make_photo: Any) -> None:
    row = {"image": make_photo(0), "bbox": [BOX], "label": [3]}
    with pytest.raises(OptionError, match="pass label_names="):
        add_prompts(row | add_boxes(row), label_column="label")
