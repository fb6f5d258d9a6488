"""What a run says of its rows beside their statuses: most failed, images and boxes unused."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Features, Image, List, Value
from endpoint import Endpoint

from hf_regioncap import (
    add_boxes,
    add_prompts,
    add_region_captions,
    caption_dataset,
    estimate,
    retry_failed,
)
from hf_regioncap.errors import OptionError
from hf_regioncap.remarks import remarks

OFFLINE = {"base_url": "offline", "answer_store": None}


def test_nothing_is_said_where_all_is_well() -> None:
    assert remarks({}, {}, max_boxes=10) == []
    assert remarks({"ok": 3}, {"ok": 2, "clipped": 1}, max_boxes=10) == []


def test_single_faults_are_told_where_every_row_is() -> None:
    counts: Any = {"ok": 2, "image_null": 1}, {"ok": 2, "outside": 1}
    assert remarks(*counts, max_boxes=10, at_least=0.5) == []
    assert remarks(*counts, max_boxes=10) == [
        "1 of 3 images cannot be read (1 image_null)",
        "1 of 3 boxes cannot be used: 1 outside their image",
    ]


def over_a_stream(dataset: Any, **options: Any) -> None:
    list(caption_dataset(dataset.to_iterable_dataset(), **options))


def by_map(dataset: Any, **options: Any) -> None:
    dataset.map(add_region_captions, batched=True, fn_kwargs=options)


def by_retry(dataset: Any, **options: Any) -> None:
    retry_failed(caption_dataset(dataset, max_requests=0, **options), **options)


@pytest.mark.parametrize("run", [caption_dataset, over_a_stream, by_map, by_retry])
def test_failures_of_most_rows_are_a_warning(run: Any, make_dataset: Any) -> None:
    words = "3 of 3 rows that were asked about failed, most with api_refused: refused"
    with Endpoint(["refusal_words"] * 3) as endpoint, pytest.warns(UserWarning, match=words):
        run(make_dataset(3), base_url=endpoint.base_url, answer_store=None)


def test_half_of_the_rows_may_fail_and_a_budget_may_end(make_dataset: Any) -> None:
    with Endpoint(["refusal_words", "refusal_words"]) as endpoint, warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        options = {"base_url": endpoint.base_url, "answer_store": None}
        half = caption_dataset(make_dataset(4), **options)
        assert sorted(half["answer_status"]) == ["api_refused"] * 2 + ["ok"] * 2
        skipped = caption_dataset(make_dataset(4), max_requests=0, **options)
        assert set(skipped["answer_status"]) == {"skipped_budget"}


def test_only_what_is_asked_again_counts_for_a_retry(make_dataset: Any) -> None:
    with Endpoint(["refusal_words"] * 2 + [None] * 2 + ["refusal_words"] * 2) as endpoint:
        options = {"base_url": endpoint.base_url, "answer_store": None, "concurrency": 1}
        first = caption_dataset(make_dataset(4), **options)
        assert first["answer_status"][:].count("api_refused") == 2
        with pytest.warns(UserWarning, match="2 of 2 rows that were asked about failed"):
            retry_failed(first, **options)


def test_a_dataset_without_failures_is_given_back_as_it_is(make_dataset: Any) -> None:
    done = caption_dataset(make_dataset(2), **OFFLINE)
    assert retry_failed(done) is done  # no key, no endpoint, no other model


def rows_with(images: list[Any], boxes: list[list[float]]) -> Dataset:
    features = Features({"image": Image(), "bbox": List(List(Value("float64")))})
    columns = {"image": images, "bbox": [boxes] * len(images)}
    return Dataset.from_dict(columns, features=features)


def test_images_and_boxes_that_are_not_used_are_told(make_photo: Any, on_disk: Any) -> None:
    photo = {"bytes": make_photo(0), "path": None}
    boxes = [[2.0 * k, 4.0, 12.0, 12.0] for k in range(12)]
    dataset = on_disk(rows_with([photo, None], boxes))
    told = [
        "1 of 2 images cannot be read (1 image_null)",
        "2 of 24 boxes are beyond max_boxes=10 of their image and get no caption",
    ]
    for _ in range(2):  # from the cache, too
        with pytest.warns(UserWarning, match=" of ") as warned:
            caption_dataset(dataset, **OFFLINE)
        assert {str(each.message) for each in warned} >= set(told)
    assert set(estimate(dataset, **OFFLINE).notes) >= set(told)


@pytest.mark.parametrize("take", [caption_dataset, estimate])
def test_images_of_which_none_can_be_read_are_an_error(take: Any, tmp_path: Path) -> None:
    missing = [{"bytes": None, "path": f"photos/{number}.png"} for number in range(12)]
    dataset = rows_with(missing, [[1, 2, 30, 30]])
    with pytest.raises(OptionError, match=r"not one of the first 12 images .*12 image_missing"):
        take(dataset, image_root=tmp_path, **OFFLINE)
    lists = dataset.remove_columns("image").add_column("image", [["a.png"]] * 12)
    with pytest.raises(OptionError, match=r"12 image_unsupported"):
        take(lists, **OFFLINE)


def told(function: Any, *arguments: Any, **options: Any) -> tuple[Any, list[str]]:
    """What a call gives, and what it warns of, each thing once as Python shows it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        result = function(*arguments, **options)
    return result, [str(warning.message) for warning in caught]


def test_a_map_tells_what_it_leaves_out_once_for_all_batches(make_dataset: Any) -> None:
    rows = make_dataset(6, regions=4)
    options = {"batched": True, "batch_size": 1, "fn_kwargs": {"max_boxes": 3}}
    boxed, words = told(rows.map, add_boxes, **options)
    assert words == ["boxes are beyond max_boxes=3 of their image and get no caption"]
    assert told(boxed.map, add_prompts, **options)[1] == []  # told before
    gone = {
        "image": [{"bytes": b"not a picture", "path": None}] * 12,
        "bbox": [[[1, 2, 30, 40]]] * 12,
    }
    assert told(add_boxes, gone)[1] == ["no image of a batch can be read (image_corrupt)"]


# --- labels -----------------------------------------------------------------------------------


def test_labels_that_are_left_out_of_prompts(make_dataset: Any, endpoint: Endpoint) -> None:
    rows = make_dataset(2).add_column("label", [[0, 7], [1, None]])
    options = {"label_column": "label", "label_names": ["cat", "dog"]}
    captioned, words = told(caption_dataset, rows, base_url=endpoint.base_url, **options)
    assert 'labels are <region1> "cat".' in captioned["prompt"][0]
    assert words == [
        "1 labels of label_column 'label' cannot be read and are not in the prompts, for example 7"
    ]
    (row,) = rows.select([0]).with_format(None).map(add_boxes).to_list()
    added, words = told(add_prompts, row, **options)
    assert added["prompt"] == captioned["prompt"][0]
    assert words == ["labels of label_column 'label' cannot be read and are not in the prompts"]


@pytest.mark.parametrize(
    ("labels", "error"),
    [
        (
            [1.0, 2.0],
            "holds numbers whose names are not known",
        ),  # as pandas writes them beside gaps
        ([1, None], "holds numbers whose names are not known"),
        ([{"text": "cat"}, {"text": "dog"}], "none of 24 labels can be read, for example {'text'"),
        ([0.5, 0.25], "none of 24 labels can be read, for example 0.5"),
    ],
    ids=str,
)
@pytest.mark.parametrize("function", [caption_dataset, estimate])
def test_labels_none_of_which_can_be_read_are_told_before(
    function: Any, labels: list[Any], error: str, make_dataset: Any, endpoint: Endpoint
) -> None:
    rows = make_dataset(12).add_column("label", [labels] * 12)
    with pytest.raises(OptionError, match=error):
        function(rows, label_column="label", base_url=endpoint.base_url)
    assert endpoint.count == 0


@pytest.mark.parametrize(
    "labels",
    [
        [["cat", "kitty"], ["dog"]],  # Visual Genome
        [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    ],
    ids=str,
)
def test_labels_with_several_names_or_an_id(labels: list[Any], make_dataset: Any) -> None:
    rows = make_dataset(1).add_column("label", [labels])
    prompts = rows.map(add_boxes).map(add_prompts, fn_kwargs={"label_column": "label"})["prompt"]
    assert prompts[0].endswith('Their labels are <region1> "cat", <region2> "dog".')
