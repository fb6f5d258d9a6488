"""What a run says of its rows beside their statuses: most failed, images and boxes unused."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Features, Image, List, Value
from endpoint import Endpoint

from hf_regioncap import add_region_captions, caption_dataset, estimate, retry_failed
from hf_regioncap.errors import OptionError
from hf_regioncap.remarks import remarks

OFFLINE = {"base_url": "offline", "answer_store": None}


def test_nothing_is_said_where_all_is_well() -> None:
    assert remarks({}, {}, max_boxes=10) == []
    assert remarks({"ok": 3}, {"ok": 2, "clipped": 1}, max_boxes=10) == []


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
