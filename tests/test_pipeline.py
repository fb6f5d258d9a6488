"""Whole datasets: captioned, resumed, estimated, bounded, asked again."""

from __future__ import annotations

import io
import json
import math
import random
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import (
    Dataset,
    DatasetDict,
    Features,
    IterableDataset,
    IterableDatasetDict,
    concatenate_datasets,
)
from endpoint import FAULTS, Endpoint, Fault, Request

from hf_regioncap import add_region_captions, caption_dataset, estimate, retry_failed
from hf_regioncap.columns import ALL_COLUMNS, ANSWER_COLUMNS, column_features
from hf_regioncap.costs import Budget
from hf_regioncap.errors import EndpointError, OptionError
from hf_regioncap.options import Options
from hf_regioncap.pipeline import Progress
from hf_regioncap.window import Window

VIEWS = ["overlay", "crop", "both"]


def stored(dataset: Any, names: list[str] | None = None) -> list[dict[str, Any]]:
    dataset = dataset if names is None else dataset.select_columns(names)
    rows: list[dict[str, Any]] = dataset.with_format("arrow")[:].to_pylist()
    return rows


# Kinds of datasets


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_the_same_columns_as_the_map(rows: int, make_dataset: Any, endpoint: Endpoint) -> None:
    dataset = make_dataset(8).select(range(rows))
    options = {"base_url": endpoint.base_url}
    whole = caption_dataset(dataset, **options)
    assert isinstance(whole, Dataset)
    assert whole.features == Features({**dataset.features, **column_features()})
    assert stored(whole, dataset.column_names) == stored(dataset)
    assert endpoint.count == rows
    if rows:
        mapped = dataset.map(add_region_captions, batched=True, fn_kwargs=options)
        assert stored(mapped) == stored(whole)
        assert mapped.column_names == whole.column_names


def test_a_dict_of_splits_shares_the_budget(
    make_dataset: Any, endpoint: Endpoint, assert_own: Callable[..., None]
) -> None:
    splits = DatasetDict(
        train=make_dataset(5), test=make_dataset(4, start=50), none=make_dataset(1).select([])
    )
    seen: list[Progress] = []
    captioned = caption_dataset(
        splits, base_url=endpoint.base_url, max_requests=7, on_progress=seen.append
    )
    assert isinstance(captioned, DatasetDict)
    assert list(captioned) == ["train", "test", "none"]
    assert len({str(split.features) for split in captioned.values()}) == 1
    assert endpoint.count == 7
    assert_own(captioned["train"])
    assert Counter(captioned["test"]["answer_status"]) == {"ok": 2, "skipped_budget": 2}
    assert (seen[-1].rows, seen[-1].failed, seen[-1].requests) == (9, 2, 7)


@pytest.mark.parametrize("form", ["as it is", "arrow", "no features", "dict"])
def test_a_stream_stays_a_stream(
    form: str, make_dataset: Any, endpoint: Endpoint, assert_own: Callable[..., None]
) -> None:
    dataset = make_dataset(40)
    stream: Any = dataset.to_iterable_dataset(num_shards=3)
    if form == "arrow":
        stream = stream.with_format("arrow")
    if form == "no features":
        stream = IterableDataset.from_generator(lambda: iter(stored(dataset)))
        assert stream.features is None
    if form == "dict":
        stream = IterableDatasetDict(train=stream)
    captioned = caption_dataset(stream, base_url=endpoint.base_url, concurrency=4)
    assert type(captioned) is type(stream)
    captioned = captioned["train"] if form == "dict" else captioned
    if form == "no features":  # then an image is what its bytes and path are
        assert set(ALL_COLUMNS) < set(captioned.features)
    else:
        assert captioned.features == Features({**dataset.features, **column_features()})
    rows = list(captioned.with_format(None).decode(False))
    assert [row["number"] for row in rows] == list(range(40))
    assert endpoint.count == 40
    assert_own(Dataset.from_list(rows).cast(captioned.decode(False).features))


@pytest.mark.parametrize("form", ["numpy", "pandas", "arrow", "columns", "transform"])
def test_a_dataset_keeps_its_format(form: str, make_dataset: Any, endpoint: Endpoint) -> None:
    dataset = make_dataset(3)
    shown = {
        "columns": lambda: dataset.with_format("numpy", columns=["number"]),
        "transform": lambda: dataset.with_transform(_thousands),
    }.get(form, lambda: dataset.with_format(form))()
    captioned = caption_dataset(shown, base_url=endpoint.base_url)
    again = retry_failed(captioned, base_url=endpoint.base_url)
    for done in (captioned, again):
        expected = {**shown.format, "columns": [*shown.format["columns"], *ALL_COLUMNS]}
        assert done.format == expected
        assert stored(done, dataset.column_names) == stored(dataset)
    if form == "transform":
        assert again[1] == {"thousands": 1001}
    streamed = caption_dataset(
        dataset.to_iterable_dataset().with_format("numpy"), base_url=endpoint.base_url
    )
    assert [type(row["number"]).__name__ for row in streamed] == ["int32"] * 3


def _thousands(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {"thousands": [number + 1000 for number in batch["number"]]}


def test_ctrl_c_while_the_first_rows_begin_sends_nothing_more(
    make_dataset: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Endpoint(latency=math.inf) as endpoint:
        enter = Window.__enter__

        def interrupted(window: Any) -> Any:
            enter(window)
            endpoint.wait_for(lambda here: here.count == 2)
            raise KeyboardInterrupt

        monkeypatch.setattr(Window, "__enter__", interrupted)
        options: dict[str, Any] = {"base_url": endpoint.base_url, "concurrency": 2}
        with pytest.raises(KeyboardInterrupt):
            caption_dataset(make_dataset(20), **options)
        monkeypatch.setattr(Window, "__enter__", enter)
        endpoint.release()
        again = caption_dataset(make_dataset(20), **options, store_tag="again")
        assert set(again["answer_status"]) == {"ok"}
        assert endpoint.count == 22


def test_rows_as_a_data_frame_are_refused_in_words(make_dataset: Any) -> None:
    with pytest.raises(OptionError, match=r"DataFrame.*dataset\.with_format\(None\)"):
        make_dataset(1).with_format("pandas").map(add_region_captions, batched=True)


def test_a_stream_is_read_ahead_left_early_and_read_again(
    make_dataset: Any, assert_own: Callable[..., None]
) -> None:
    with Endpoint(latency=0.01) as endpoint:
        stream = caption_dataset(
            make_dataset(60).to_iterable_dataset(), base_url=endpoint.base_url, concurrency=2
        )
        assert endpoint.count == 0  # nothing is asked before somebody reads
        first = next(iter(stream))
        assert first["answer_status"] == "ok"
        half_read = iter(stream)
        assert [next(half_read)["number"] for _ in range(3)] == [0, 1, 2]
        for row in stream:  # left while another reader is under way
            if row["number"] == 5:
                break
        assert [row["number"] for row in half_read] == list(range(3, 60))
        again = [row["answer_status"] for row in stream]
        assert again == ["ok"] * 60
        assert endpoint.count <= 60 + 3 * 2  # readers that left may have had two in flight


@pytest.mark.parametrize("take", ["arrow", "rows", "parquet", "map", "retry"])
def test_a_stream_of_plain_examples_with_nulls_keeps_its_types(
    take: str, make_dataset: Any, tmp_path: Path
) -> None:
    """Neither the boxes that come in nor the captions that go out are of one inferred type."""
    dataset = make_dataset(20)
    rows = stored(dataset)
    rows[3]["bbox"], rows[5]["bbox"] = None, []
    source = IterableDataset.from_generator(lambda: iter(rows), features=dataset.features)

    def every_third(request: Request) -> str | None:
        return "refusal_words" if request.number % 3 == 0 else None

    with Endpoint(every_third) as endpoint:
        options: dict[str, Any] = {"base_url": endpoint.base_url, "propose": None}
        stream = caption_dataset(source, **options)
        if take == "arrow":
            tables = list(stream.with_format("arrow").iter(batch_size=8))
            done = [row for table in tables for row in table.to_pylist()]
        elif take == "parquet":
            stream.to_parquet(str(tmp_path / "all.parquet"))
            done = stored(Dataset.from_parquet(str(tmp_path / "all.parquet")))
        elif take == "map":
            done = list(stream.map(lambda batch: batch, batched=True, batch_size=4))
        elif take == "retry":
            endpoint.behaviour = None
            done = list(retry_failed(stream, **options))
        else:
            done = list(stream)
    assert stream.features == Features({**dataset.features, **column_features()})
    assert [row["number"] for row in done] == list(range(20))
    statuses = Counter(row["answer_status"] for row in done)
    assert statuses["no_boxes"] == 2
    assert statuses["api_refused"] == (0 if take == "retry" else 6)
    assert [row["region_captions"] for row in done if row["answer_status"] == "no_boxes"] == [
        []
    ] * 2


def test_an_empty_stream(make_dataset: Any, endpoint: Endpoint) -> None:
    features = make_dataset(1).features
    none = IterableDataset.from_generator(lambda: iter(()), features=features)
    stream = caption_dataset(none, base_url=endpoint.base_url)
    assert list(stream) == []
    assert stream.features == Features({**features, **column_features()})
    unknown = IterableDataset.from_generator(lambda: iter(()))
    with pytest.raises(OptionError, match="no rows"):
        caption_dataset(unknown, base_url=endpoint.base_url)
    assert endpoint.count == 0


def test_what_is_no_dataset(endpoint: Endpoint) -> None:
    for wrong in ({"image": []}, [1], None):
        with pytest.raises(OptionError, match="dataset must be a Dataset, DatasetDict or Iterable"):
            caption_dataset(wrong, base_url=endpoint.base_url)
        with pytest.raises(OptionError, match="dataset must be a Dataset, DatasetDict or Iterable"):
            estimate(wrong, base_url=endpoint.base_url)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"box_unit": "fraction"}, "box_unit"),
        ({"bbox_column": "boxes"}, "bbox_column='bbox'"),
        ({"image_column": "photo"}, "image_column"),
        ({"viev": "crop"}, "did you mean 'view'"),
        ({"max_requests": -1}, "max_requests must be a number of 0 or more, got -1"),
        ({"max_cost": True}, "max_cost must be"),
        ({"price": "free"}, "price must be two numbers"),
        ({"price": (1, -1)}, "price must be two numbers"),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_options_that_do_not_fit_are_found_on_a_sample(
    wrong: dict[str, Any], words: str, streaming: bool, make_dataset: Any, endpoint: Endpoint
) -> None:
    dataset = make_dataset(20)
    dataset = dataset.to_iterable_dataset() if streaming else dataset
    with pytest.raises(OptionError) as raised:
        caption_dataset(dataset, base_url=endpoint.base_url, **wrong)
    assert words in str(raised.value)
    assert endpoint.count == 0


def test_a_budget_in_dollars_needs_a_price(make_dataset: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("KEY", "x")
    with pytest.raises(OptionError, match="max_cost needs a price"):
        caption_dataset(
            make_dataset(1), base_url="http://192.0.2.1/v1", api_key_env="KEY", max_cost=1
        )


# Order, window, cache


def test_order_holds_and_no_more_are_in_flight_than_allowed(
    make_dataset: Any, assert_own: Callable[..., None]
) -> None:
    def wild(number: int) -> float:
        return random.Random(number).choice([0.0, 0.0, 0.01, 0.05, 0.4])

    dataset = make_dataset(400, regions=1)
    with Endpoint(latency=wild) as endpoint:
        captioned = caption_dataset(dataset, base_url=endpoint.base_url, concurrency=24)
        assert captioned["number"] == list(range(400))
        assert_own(captioned)
        assert endpoint.count == 400
        assert 12 < endpoint.max_in_flight <= 24


def test_a_second_run_maps_nothing_and_other_pace_asks_nothing(
    make_dataset: Any, on_disk: Any, endpoint: Endpoint, monkeypatch: Any, tmp_path: Path
) -> None:
    dataset = on_disk(make_dataset(6))
    options: dict[str, Any] = {"base_url": endpoint.base_url}
    first = caption_dataset(dataset, **options)
    monkeypatch.setenv("HF_REGIONCAP_HOME", str(tmp_path / "an empty store"))
    monkeypatch.setenv("ANOTHER_KEY", "x")
    seen: list[Progress] = []
    for change in (
        {},
        {"concurrency": 2},
        {"timeout": 9},
        {"api_key_env": "ANOTHER_KEY"},
        {"extra_headers": {"x-trace": "1"}},
        {"on_error": "raise"},
    ):
        again = caption_dataset(dataset, on_progress=seen.append, **options | change)
        assert stored(again) == stored(first)
    assert endpoint.count == 6
    # The rows come from the cache: they are told, and nothing was sent for them.
    assert {(told.rows, told.requests) for told in seen} == {(6, 0)}
    caption_dataset(dataset, caption_style="phrase", **options)
    assert endpoint.count == 12


def test_failures_from_the_cache_raise_too_where_that_is_wanted(
    make_dataset: Any, on_disk: Any
) -> None:
    dataset = on_disk(make_dataset(3))
    with Endpoint("refusal_words") as endpoint:
        options: dict[str, Any] = {"base_url": endpoint.base_url}
        assert set(caption_dataset(dataset, **options)["answer_status"]) == {"api_refused"}
        with pytest.raises(EndpointError, match="row 0: api_refused, from the cache"):
            caption_dataset(dataset, on_error="raise", **options)
        assert endpoint.count == 3


def test_splits_that_come_from_the_cache_are_counted_too(make_dataset: Any, on_disk: Any) -> None:
    old, new = on_disk(make_dataset(4)), on_disk(make_dataset(3, start=50))
    seen: list[Progress] = []
    with Endpoint() as endpoint:
        options: dict[str, Any] = {"base_url": endpoint.base_url}
        caption_dataset(old, **options)
        splits = DatasetDict(new=new, old=old)
        caption_dataset(splits, on_progress=seen.append, **options)
        assert endpoint.count == 7
    assert (seen[-1].rows, seen[-1].requests) == (7, 3)


def test_shuffled_and_selected_rows(
    make_dataset: Any, endpoint: Endpoint, assert_own: Callable[..., None], on_disk: Any
) -> None:
    dataset = on_disk(make_dataset(12))
    caption_dataset(dataset, base_url=endpoint.base_url)
    for other in (
        dataset.shuffle(seed=2),
        dataset.select([7, 3, 3, 0]),
        dataset.filter(lambda number: number % 2 == 0, input_columns="number"),
        dataset.with_format("numpy"),
        concatenate_datasets([dataset.select([4]), dataset.select([1])]),
    ):
        captioned = caption_dataset(other, base_url=endpoint.base_url)
        assert stored(captioned, dataset.column_names) == stored(other)
        assert_own(captioned)
    assert endpoint.count == 12


@pytest.mark.parametrize("retry", [False, True])
def test_shuffled_rows_are_not_copied(
    retry: bool,
    make_dataset: Any,
    endpoint: Endpoint,
    assert_own: Callable[..., None],
    on_disk: Any,
) -> None:
    dataset = on_disk(make_dataset(12))
    own = {file["filename"] for file in dataset.cache_files}
    options: dict[str, Any] = {"base_url": endpoint.base_url}
    for other, shared in (
        (dataset.shuffle(seed=2), True),
        (dataset.shuffle(seed=3).select([5, 0, 7]), True),
        (dataset.filter(lambda number: number % 3 == 0, input_columns="number"), True),
        (dataset.select([3, 3, 1]), False),  # one row twice: each with an answer of its own
    ):
        skipped = caption_dataset(other, max_requests=0 if retry else None, **options)
        captioned = retry_failed(skipped, **options) if retry else skipped
        assert stored(captioned, dataset.column_names) == stored(other)
        assert_own(captioned)
        again = captioned.shuffle(seed=1)
        assert_own(again)
        assert sorted(again["number"]) == sorted(other["number"])
        files = {file["filename"] for file in captioned.cache_files}
        assert (own <= files) == shared


def test_a_few_of_many_rows(
    make_dataset: Any, endpoint: Endpoint, assert_own: Callable[..., None], on_disk: Any
) -> None:
    dataset = on_disk(make_dataset(203, regions=1)).shuffle(seed=1)
    few = dataset.select([9, 4])
    captioned = caption_dataset(few, base_url=endpoint.base_url)
    assert len(captioned.data) == 2  # not 203, nearly all of them null
    assert stored(captioned, dataset.column_names) == stored(few)
    assert_own(captioned)


def test_all_splits_are_checked_before_the_first_is_paid(
    make_dataset: Any, endpoint: Endpoint
) -> None:
    good = make_dataset(3)
    for other, words in (
        (good.rename_column("bbox", "boxes"), "bbox_column='boxes'"),
        (good.add_column("prompt", ["x"] * 3), "a column 'prompt' already"),
    ):
        with pytest.raises(OptionError, match=words):
            caption_dataset(DatasetDict(train=good, test=other), base_url=endpoint.base_url)
    captioned = caption_dataset(good, base_url=endpoint.base_url, max_requests=0)
    with pytest.raises(OptionError, match="was captioned before"):
        retry_failed(DatasetDict(train=captioned, test=good), base_url=endpoint.base_url)
    assert endpoint.count == 0


def test_an_interrupted_run_goes_on_where_it_was(make_dataset: Any, on_disk: Any) -> None:
    dataset = on_disk(make_dataset(80))
    with Endpoint(latency=0.01) as endpoint:

        def interrupt(progress: Progress) -> None:
            if progress.rows == 20:
                raise RuntimeError("the user's own")

        with pytest.raises(RuntimeError, match="the user's own"):
            caption_dataset(
                dataset, base_url=endpoint.base_url, concurrency=4, on_progress=interrupt
            )
        endpoint.wait_for(lambda endpoint: endpoint.in_flight == 0)
        before = endpoint.count
        assert 20 <= before < 80
        captioned = caption_dataset(dataset, base_url=endpoint.base_url, concurrency=4)
        assert set(captioned["answer_status"]) == {"ok"}
        keys = Counter(request.question.key for request in endpoint.requests)
        assert max(keys.values()) == 1  # those in flight were heard and kept, too
        assert len(keys) == 80


def test_the_progress_tells_what_was_spent(make_dataset: Any) -> None:
    dataset = concatenate_datasets([make_dataset(6), make_dataset(3)])
    seen: list[Progress] = []
    with Endpoint([None, "http_500", "content_empty", "refusal_words"]) as endpoint:
        caption_dataset(
            dataset, base_url=endpoint.base_url, price=(2.0, 8.0), on_progress=seen.append
        )
        last, (prompt, said) = seen[-1], endpoint.usage
        assert [progress.rows for progress in seen] == list(range(1, 10))
        assert last.requests == endpoint.count
        assert (last.prompt_tokens, last.completion_tokens) == (prompt, said)
        assert last.cost == pytest.approx((2 * prompt + 8 * said) / 1e6)
        assert 1 <= last.failed <= 2  # the refused row, and its twin if there is one
        assert str(last).startswith(f"9 rows, {last.failed} failed, {last.requests} requests")


# Estimates


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("filled", [0, 4, 10])
def test_an_estimate_is_what_is_then_sent(
    view: str, filled: int, make_dataset: Any, endpoint: Endpoint
) -> None:
    plain = make_dataset(6, regions=3)
    dataset = concatenate_datasets(
        [plain, plain.select([2, 2, 5]), make_dataset(2, regions=0, start=70)]
    )
    dataset = concatenate_datasets([dataset, dataset.select([0])])
    options: dict[str, Any] = {"base_url": endpoint.base_url, "view": view, "propose": None}
    if filled:
        caption_dataset(dataset.select(range(filled)), **options)
    endpoint.reset()
    seen = estimate(dataset, **options)
    assert endpoint.count == 0
    assert seen.rows == 12
    assert seen.regions == 3 * 10
    caption_dataset(dataset, **options)
    assert endpoint.count == seen.requests
    assert seen.requests == (6 - min(filled, 6)) * (1 if view == "overlay" else 3)
    assert estimate(dataset, **options).requests == 0


def test_an_estimate_counts_on_from_partial_answers(make_dataset: Any) -> None:
    dataset = make_dataset(5, regions=3)
    with Endpoint("forgets_last_once") as endpoint:
        options: dict[str, Any] = {"base_url": endpoint.base_url}
        caption_dataset(dataset, reask=0, **options)
        assert endpoint.count == 5
        seen = estimate(DatasetDict(train=dataset), **options)
        assert (seen.requests, seen.stored) == (5, 5)
        caption_dataset(dataset, **options)
        assert endpoint.count == 10
    with Endpoint("content_empty") as endpoint:  # kept as evidence, but no answer
        other = make_dataset(3, start=30)
        options = {"base_url": endpoint.base_url}
        caption_dataset(other, **options)
        assert endpoint.count == 9
        assert estimate(other.to_iterable_dataset(), **options).requests == 3


def test_an_estimate_needs_no_key_and_tells_what_it_knows(make_dataset: Any) -> None:
    dataset = make_dataset(3)
    known = estimate(dataset, base_url="https://api.openai.com/v1", model="gpt-4o")
    assert known.image_tokens == 3 * 255
    assert known.cost is not None
    assert known.cost > 3 * 255 * 2.5e-6
    unknown = estimate(dataset, base_url="https://api.example.com/v1", model="someone/else")
    assert unknown.image_tokens is None
    assert unknown.cost is None
    assert "unknown" in str(unknown)
    priced = estimate(
        dataset, base_url="https://api.example.com/v1", model="qwen2.5-vl-7b", price=(1, 1)
    )
    assert priced.image_tokens == 3 * 6
    assert priced.cost == pytest.approx(
        (priced.image_tokens + priced.text_tokens + priced.completion_tokens) / 1e6
    )


# Budgets


@pytest.mark.parametrize("faulty", [False, True])
@pytest.mark.parametrize("most", [0, 1, 37])
def test_max_requests_is_never_exceeded(
    most: int, faulty: bool, make_dataset: Any, assert_own: Callable[..., None]
) -> None:
    faults = {"content_empty": 0.2, "forgets_second": 0.2, "http_409": 0.1} if faulty else None
    with Endpoint(faults, latency=0.005) as endpoint:
        captioned = caption_dataset(
            make_dataset(80), base_url=endpoint.base_url, max_requests=most, concurrency=32
        )
        assert endpoint.count == most
    statuses = Counter(captioned["answer_status"])
    assert_own(captioned, whole=False)
    if not faulty:
        assert statuses == Counter({"ok": most, "skipped_budget": 80 - most}) - Counter()
    skipped = [row for row in captioned if row["answer_status"] == "skipped_budget"]
    assert {row["answer_error"] for row in skipped} == {f"max_requests={most} is used up"}


@pytest.mark.parametrize("latency", [0.0, 0.05])
def test_max_cost_is_never_exceeded_and_used_as_far_as_it_goes(
    latency: float, make_dataset: Any
) -> None:
    price, most = (1.0, 2.0), 0.03
    faults = {"content_empty": 0.1, "forgets_second": 0.1}
    with Endpoint(faults, latency=latency) as endpoint:
        captioned = caption_dataset(
            make_dataset(300, regions=2),
            base_url=endpoint.base_url,
            model="gpt-4o",  # whose image tokens are known: the worst case is not so bad
            price=price,
            max_cost=most,
            concurrency=32,
        )
        prompt, said = endpoint.usage
        spent = (prompt * price[0] + said * price[1]) / 1e6
        assert most - 0.005 < spent <= most  # the rest has no room for another worst case
        assert Counter(captioned["answer_status"])["skipped_budget"] > 10
        assert endpoint.max_in_flight >= (4 if latency else 1)


def test_a_budget_counts_what_is_not_told_at_its_worst(make_dataset: Any) -> None:
    with Endpoint("usage_missing") as endpoint:
        captioned = caption_dataset(
            make_dataset(10), base_url=endpoint.base_url, price=(1.0, 2.0), max_cost=0.03
        )
        assert endpoint.count == 2
        assert captioned["usage"][0] == {"prompt_tokens": None, "completion_tokens": None}


@pytest.mark.usefixtures("patient")
def test_rejected_requests_count_too(make_dataset: Any) -> None:
    with Endpoint("rejects_every_rung") as endpoint:
        captioned = caption_dataset(
            make_dataset(5), base_url=endpoint.base_url, max_requests=6, detail="low"
        )
        assert endpoint.count == 6
        assert Counter(captioned["answer_status"]) == {"ok": 1, "skipped_budget": 4}


# Asked again

KINDS: list[str | None] = [
    *(None, "http_413", "content_empty", "refusal_words", "cut_at_length", "forgets_second"),
    *("cut_in_last", "http_422", None, "null_captions"),
]


def by_number(kinds: list[str | None], dataset: Any) -> Callable[[Request], Fault | None]:
    """Each row meets its own kind of failure."""
    from hf_regioncap import add_boxes, add_overlays

    drawn = stored(dataset.map(add_boxes, batched=True).map(add_overlays, batched=True))
    images = [row["image_with_bbox"]["bytes"] for row in drawn]

    def behave(request: Request) -> Fault | None:
        kind = kinds[images.index(request.question.images[0])]
        return FAULTS[kind] if kind else None

    return behave


@pytest.mark.parametrize("form", ["dataset", "dict", "stream"])
def test_only_failed_rows_and_missing_regions_are_asked_for_again(
    form: str, make_dataset: Any, assert_own: Callable[..., None]
) -> None:
    dataset = make_dataset(len(KINDS), regions=3)
    with Endpoint(by_number(KINDS, dataset)) as endpoint:
        options: dict[str, Any] = {"base_url": endpoint.base_url}
        failed = caption_dataset(dataset, **options)
        assert failed["answer_status"] == [FAULTS[k].status if k else "ok" for k in KINDS]
        endpoint.behaviour = None
        endpoint.reset()
        given: Any = failed
        if form == "dict":
            given = DatasetDict(train=failed)
        if form == "stream":
            given = failed.to_iterable_dataset()
        done = retry_failed(given, **options)
        assert type(done) is type(given)
        if form == "dict":
            done = done["train"]
        if form == "stream":
            done = Dataset.from_list(list(done.decode(False))).cast(failed.features)
        assert done.features == failed.features
        assert set(done["answer_status"]) == {"ok"}
        assert_own(done)
        asked = Counter(request.question.regions for request in endpoint.requests)
        assert asked == {(1, 2, 3): 6, (2,): 1, (3,): 1}
        same = [name for name in failed.column_names if name not in ANSWER_COLUMNS]
        assert stored(done, same) == stored(failed, same)
        for before, after, kind in zip(stored(failed), stored(done), KINDS, strict=True):
            if kind is None:
                assert before == after
            else:
                assert after["answer_error"] is None
                assert after["usage"]["prompt_tokens"] > (before["usage"]["prompt_tokens"] or 0)
        # Nothing is left: no endpoint is needed any more.
        count = endpoint.count
        assert stored(retry_failed(done, **options)) == stored(done)
        assert endpoint.count == count
        retry_failed(done, base_url="http://192.0.2.1/v1", api_key_env="NO_SUCH_KEY")


def test_what_the_budget_skipped_is_asked_for(
    make_dataset: Any, endpoint: Endpoint, assert_own: Callable[..., None], on_disk: Any
) -> None:
    options: dict[str, Any] = {"base_url": endpoint.base_url, "concurrency": 2}
    captioned = on_disk(caption_dataset(make_dataset(12), max_requests=5, **options))
    for most in (4, 0, None):
        captioned = retry_failed(captioned, max_requests=most, **options)
        assert_own(captioned, whole=False)
    assert set(captioned["answer_status"]) == {"ok"}
    assert endpoint.count == 12


def test_a_row_that_fails_again_keeps_what_it_has(make_dataset: Any) -> None:
    with Endpoint("forgets_second") as endpoint:
        options: dict[str, Any] = {"base_url": endpoint.base_url}
        first = caption_dataset(make_dataset(4, regions=3), **options)
        endpoint.behaviour = "http_413"
        again = retry_failed(first, **options)
        assert again["answer_status"] == ["ok_partial"] * 4
        assert again["region_captions"] == first["region_captions"]
        assert [
            text.startswith(old) for text, old in zip(again["answer"], first["answer"], strict=True)
        ] == [True] * 4
        assert "413" in again["answer_error"][0]
        endpoint.behaviour = "http_401"
        with pytest.raises(EndpointError, match="check the key"):
            retry_failed(again, **options)


@pytest.mark.parametrize("view", VIEWS)
def test_retries_in_every_view_with_a_prefix(
    view: str, make_dataset: Any, assert_own: Callable[..., None]
) -> None:
    def second(request: Request) -> str | None:
        return "content_empty" if 2 in request.question.regions else None

    with Endpoint(second) as endpoint:
        options: dict[str, Any] = {
            "base_url": endpoint.base_url,
            "view": view,
            "column_prefix": "cap_",
            "mark": "corners",
        }
        failed = caption_dataset(make_dataset(3, regions=2), **options)
        wrong = "api_bad_answer" if view == "overlay" else "ok_partial"
        assert failed["cap_answer_status"] == [wrong] * 3
        endpoint.behaviour = None
        endpoint.reset()
        done = retry_failed(failed, **options)
        assert done["cap_answer_status"] == ["ok"] * 3
        assert endpoint.count == 3
        straight = caption_dataset(make_dataset(3, regions=2), **options)
        assert done["cap_region_captions"] == straight["cap_region_captions"]
        if view == "overlay":
            assert_own(done, prefix="cap_")
        with pytest.raises(OptionError, match="captioned before"):
            retry_failed(failed, **options | {"column_prefix": ""})


@pytest.mark.parametrize("store", ["default", None])
@pytest.mark.parametrize("view", VIEWS)
def test_a_retried_row_tells_all_that_it_has_cost(
    view: str, store: str | None, make_dataset: Any
) -> None:
    """Whether or not the store tells of the first try again, each answer counts once."""

    def second(request: Request) -> str | None:
        return "refusal_words" if 2 in request.question.regions else None

    with Endpoint(second) as endpoint:
        options: dict[str, Any] = {"base_url": endpoint.base_url, "view": view}
        options["answer_store"] = store
        failed = caption_dataset(make_dataset(2, regions=2), **options)
        endpoint.behaviour = None
        done = retry_failed(failed, **options)
        paid = endpoint.usage
        told = [
            sum(row[name] for row in done["usage"])
            for name in ("prompt_tokens", "completion_tokens")
        ]
    assert done["answer_status"] == ["ok", "ok"]
    assert tuple(told) == paid
    if view != "overlay":
        for row in done["answer"]:
            assert list(json.loads(row)) == ["1", "2"]


def test_counts_are_shown_beside_bars_that_other_threads_open(monkeypatch: Any) -> None:
    from datasets.utils import tqdm

    from hf_regioncap.pipeline import _Bar, _Job

    opened = threading.Event()

    def open_bar() -> None:
        tqdm(total=1, disable=False, file=io.StringIO()).close()
        opened.set()

    class Bars(weakref.WeakSet[Any]):
        def __iter__(self) -> Iterator[Any]:
            if not opener.ident:
                opener.start()
                assert not opened.wait(0.2)  # it has to wait until all bars are listed
            return super().__iter__()

    opener = threading.Thread(target=open_bar)
    with tqdm(total=1, desc="Captioning", disable=False, file=io.StringIO()) as bar:
        monkeypatch.setattr(tqdm, "_instances", Bars([bar]))
        _Bar("Captioning").show(_Job(Options(), Budget(None), None), last=True)
        opener.join()
        assert bar.postfix == "0 rows, 0 failed, 0 requests, 0 tokens"
