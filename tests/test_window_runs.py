"""The window: order, bounds, requests over batch borders; streams in bounded memory."""

from __future__ import annotations

import math
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Features, Image, IterableDataset, List, Value, load_from_disk
from endpoint import Endpoint, EndpointProcess
from hypothesis import given, settings
from hypothesis import strategies as st

import hf_regioncap.window as window_module
from hf_regioncap import OptionError, caption_dataset, captioning, reading, retry_failed
from hf_regioncap.columns import ALL_COLUMNS, column_features
from hf_regioncap.pipeline import Progress, caption_tables
from hf_regioncap.publishing import write_dataset
from hf_regioncap.reading import sample_table
from hf_regioncap.rows import SAMPLE
from hf_regioncap.tables import Rows
from hf_regioncap.window import Held, Window, then

# The window itself


def settled(condition: Callable[[], bool]) -> None:
    """Wait until something holds that other threads are about to do."""
    end = time.monotonic() + 300  # only against hanging
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.mark.parametrize("items", [[], ["one"], list(range(100))])
def test_results_come_in_order_however_they_end(items: list[Any]) -> None:
    begun: dict[Any, Future[Any]] = {}

    def begin(item: Any) -> Future[Any]:
        begun[item] = Future()
        return begun[item]

    def finish_backwards() -> None:
        settled(lambda: len(begun) == len(items))
        for item in reversed(items):
            begun[item].set_result((item,))

    with Window(items, begin, active=200, ahead=200) as window:
        finisher = threading.Thread(target=finish_backwards)
        finisher.start()
        assert list(window) == [(item,) for item in items]
        finisher.join()


@settings(max_examples=40, deadline=None)
@given(active=st.integers(1, 6), ahead=st.integers(1, 12), count=st.integers(0, 40))
def test_no_more_is_begun_than_both_bounds_allow(active: int, ahead: int, count: int) -> None:
    waiting: queue.SimpleQueue[tuple[int, Future[int]] | None] = queue.SimpleQueue()
    lock = threading.Lock()
    begun = finished = taken = 0

    def begin(item: int) -> Future[int]:
        nonlocal begun
        future: Future[int] = Future()
        with lock:
            begun += 1
            assert begun - finished <= active
            assert begun - taken <= ahead
        waiting.put((item, future))
        return future

    def finish() -> None:
        nonlocal finished
        while (one := waiting.get()) is not None:
            with lock:
                finished += 1
            one[1].set_result(one[0])

    finisher = threading.Thread(target=finish)
    finisher.start()
    try:
        with Window(range(count), begin, active=active, ahead=ahead) as window:
            for number, result in enumerate(window):
                assert result == number
                with lock:
                    taken += 1
    finally:
        waiting.put(None)
        finisher.join()
    assert taken == count


def test_errors_reach_whoever_takes_the_results() -> None:
    def items() -> Iterable[int]:
        yield 3
        yield 0
        raise OSError("the disk is gone")

    def begin(item: int) -> int:
        return 6 // item

    with Window(items(), begin, active=4, ahead=4) as window:
        results = iter(window)
        assert next(results) == 2
        with pytest.raises(ZeroDivisionError):
            next(results)
    with Window(items(), lambda item: item, active=4, ahead=4) as window:
        results = iter(window)
        assert [next(results), next(results)] == [3, 0]
        with pytest.raises(OSError, match="the disk is gone"):
            next(results)


def test_leaving_early_begins_nothing_more() -> None:
    begun: list[int] = []
    drawn: list[int] = []

    def items() -> Iterable[int]:
        for item in range(10_000):
            drawn.append(item)
            yield item

    with Window(items(), lambda item: begun.append(item) or item, active=2, ahead=4) as window:
        assert next(iter(window)) == 0
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("regioncap-f")]
    for thread in threads:
        thread.join()
    assert len(begun) <= 5 + 1
    assert len(drawn) <= len(begun) + 4 + 1  # what was taken from the items waits for room


def test_then_hands_errors_on() -> None:
    source: Future[int] = Future()
    result = then(source, lambda number: 1 // number)
    source.set_result(0)
    assert isinstance(result.exception(), ZeroDivisionError)


@pytest.mark.parametrize(
    ("size", "at_least", "most"),
    [(10, 1, 5), (10, 8, 8), (50, 1, 1), (60, 1, 1), (60, 3, 3), (0, 1, 40)],
)
def test_what_waits_holds_no_more_than_it_may(
    size: int, at_least: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fifty bytes: fewer large items run ahead, never none, and never fewer than `at_least`."""
    monkeypatch.setattr(window_module, "DRAWING_THREADS", 1)
    begun = threading.Semaphore(0)
    lock = threading.Lock()
    waiting = highest = 0

    def begin(item: int) -> Held[int]:
        nonlocal waiting, highest
        with lock:
            waiting += 1
            highest = max(highest, waiting)
        begun.release()
        return Held(item, size)

    window = Window(range(40), begin, active=50, ahead=50, at_least=at_least, most_bytes=50)
    with window:
        for _ in range(min(most, 40)):
            assert begun.acquire(timeout=120)
        for number, item in enumerate(window):
            assert item == number
            with lock:
                waiting -= 1
    # Of the first two nobody knows the size before they are drawn.
    assert highest <= max(most, 2) + 1


# Runs


@pytest.fixture
def aside() -> Iterator[Callable[..., Future[Any]]]:
    """Call something on a thread, while the test tells its endpoint when to go on."""
    with ThreadPoolExecutor(2) as pool:
        yield pool.submit


def test_a_slow_row_holds_up_nobody(
    make_dataset: Any, assert_own: Callable[..., None], aside: Callable[..., Future[Any]]
) -> None:
    """With batches, the 120 rows here would take several; none of them waits for the first row."""
    rows = 120
    with Endpoint(latency=lambda number: 0.0 if number else math.inf) as endpoint:
        run = aside(caption_dataset, make_dataset(rows), base_url=endpoint.base_url, concurrency=8)
        endpoint.wait_for(lambda one: one.count == rows and one.in_flight == 1)
        assert endpoint.requests[0].ended is None
        endpoint.release()
        captioned = run.result()
    assert captioned["number"][:] == list(range(rows))
    assert_own(captioned)


@pytest.mark.parametrize("concurrency", [1, 5, 24])
def test_all_slots_are_used_and_no_more(
    concurrency: int, make_dataset: Any, aside: Callable[..., Future[Any]]
) -> None:
    with Endpoint(latency=math.inf) as endpoint:
        options = {"base_url": endpoint.base_url, "concurrency": concurrency}
        run = aside(caption_dataset, make_dataset(3 * concurrency), **options)
        endpoint.wait_for(lambda one: one.in_flight == concurrency)
        endpoint.release()
        run.result()
        assert endpoint.max_in_flight == concurrency
        assert endpoint.count == 3 * concurrency


def test_a_second_split_and_a_second_run_stay_within_the_bound(
    make_dataset: Any, aside: Callable[..., Future[Any]]
) -> None:
    """Two runs of one process at once share the endpoint's slots."""
    with Endpoint(latency=math.inf) as endpoint:
        options = {"base_url": endpoint.base_url, "concurrency": 6, "answer_store": None}
        runs = [
            aside(caption_dataset, make_dataset(15, start=start), **options) for start in (0, 100)
        ]
        endpoint.wait_for(lambda one: one.in_flight == 6)
        endpoint.release()
        for run in runs:
            run.result()
        assert endpoint.count == 30
        assert endpoint.max_in_flight == 6


# Streams


def test_a_stream_gives_the_same_as_the_dataset(make_dataset: Any, endpoint: Endpoint) -> None:
    dataset = make_dataset(40)
    whole = caption_dataset(dataset, base_url=endpoint.base_url)
    streamed = caption_dataset(dataset.to_iterable_dataset(3), base_url=endpoint.base_url)
    assert streamed.features == whole.features
    assert list(streamed.decode(False)) == list(whole.with_format("arrow")[:].to_pylist())
    assert endpoint.count == 40


def test_a_stream_to_parquet_and_back(
    make_dataset: Any, endpoint: Endpoint, tmp_path: Path, assert_own: Callable[..., None]
) -> None:
    from datasets import load_dataset

    seen: list[Progress] = []
    streamed = caption_dataset(
        make_dataset(50).to_iterable_dataset(), base_url=endpoint.base_url, on_progress=seen.append
    )
    summary = write_dataset(streamed, tmp_path / "out", max_shard_size=200_000)
    assert summary["rows"] == 50
    assert seen[-1].rows == 50
    assert len(list((tmp_path / "out" / "data").glob("*.parquet"))) > 1
    back = load_dataset(str(tmp_path / "out"), split="train")
    assert back.num_rows == back.info.splits["train"].num_examples == 50
    assert back[7]["image_with_bbox"].size == (64, 48)
    assert_own(back)
    streamed.to_parquet(tmp_path / "one.parquet")
    assert pq.read_table(tmp_path / "one.parquet")["number"].to_pylist() == list(range(50))
    assert endpoint.count == 50


def test_failed_rows_of_a_stream_are_asked_again(make_dataset: Any) -> None:
    with Endpoint(["refusal_words"] * 3) as endpoint:
        dataset = make_dataset(12)
        options = {"base_url": endpoint.base_url, "concurrency": 1}
        failed = caption_dataset(dataset, **options)
        assert failed["answer_status"][:].count("api_refused") == 3
        again = retry_failed(failed.to_iterable_dataset(), **options)
        assert again.features == failed.features
        rows = list(again.decode(False))
    assert [row["answer_status"] for row in rows] == ["ok"] * 12
    assert [row["number"] for row in rows] == list(range(12))
    assert endpoint.count == 12 + 3


STREAM = """
import sys
from pathlib import Path
from datasets import IterableDataset, load_from_disk
from hf_regioncap import caption_dataset
from hf_regioncap.publishing import write_dataset

folder, base_url, output = sys.argv[1:]
stream = load_from_disk(folder).to_iterable_dataset()
captioned = caption_dataset(stream, base_url=base_url, concurrency=8)
print(write_dataset(captioned, output)["rows"])
"""


def test_a_killed_stream_asks_again_only_what_was_in_flight(
    make_dataset: Any, tmp_path: Path
) -> None:
    rows, concurrency = 100, 8
    make_dataset(rows).save_to_disk(tmp_path / "in")
    half = rows // 2
    with Endpoint(latency=lambda number: 0.0 if number < half else math.inf) as endpoint:
        arguments = [str(tmp_path / "in"), endpoint.base_url, str(tmp_path / "out")]
        command = [sys.executable, "-c", STREAM, *arguments]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as first:
            endpoint.wait_for(lambda one: one.in_flight == one.count - half == concurrency)
            first.send_signal(signal.SIGKILL)
        endpoint.wait_for(lambda one: one.in_flight == 0)
        endpoint.release()
        stream = load_from_disk(str(tmp_path / "in")).to_iterable_dataset()
        again = caption_dataset(stream, base_url=endpoint.base_url, concurrency=concurrency)
        assert write_dataset(again, tmp_path / "out")["rows"] == rows
        assert endpoint.count - rows <= concurrency
        assert endpoint.max_in_flight <= concurrency


MEMORY = """
import io, sys, threading
import numpy as np
from pathlib import Path
from datasets import Features, Image, IterableDataset, List, Value
from PIL import Image as Pictures
from hf_regioncap import caption_dataset

rows, base_url = int(sys.argv[1]), sys.argv[2]
noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)

def examples():
    for number in range(rows):
        noise[:2, :2] = number % 251
        noise[2:4, :2] = number // 251
        picture = io.BytesIO()
        Pictures.fromarray(noise).save(picture, "PNG", compress_level=0)
        yield {"image": {"bytes": picture.getvalue(), "path": None}, "bbox": [[9, 9, 200, 200]]}

features = Features({"image": Image(), "bbox": List(List(Value("float64")))})
stream = IterableDataset.from_generator(examples, features=features)
captioned = caption_dataset(stream, base_url=base_url, concurrency=4, answer_store=None)
early = peak = seen = 0
for row in captioned.decode(False):
    assert row["answer_status"] == "ok" and len(row["image_with_bbox"]["bytes"]) > 50_000
    status = Path("/proc/self/status").read_text()
    peak = max(peak, int(status.partition("RssAnon:")[2].split()[0]))
    seen += 1
    early = peak if seen == 250 else early
print(seen, early, peak)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_memory_does_not_grow_with_the_rows() -> None:
    """300 kB a row: what 350 more of them hold would be 105 MB."""
    with EndpointProcess() as endpoint:
        command = [sys.executable, "-c", MEMORY, "600", endpoint.base_url]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    seen, early, peak = map(int, done.stdout.split())
    assert seen == 600
    assert (peak - early) / 1024 < 40


def heavy(make_photo: Callable[..., bytes], rows: int, produced: list[int]) -> IterableDataset:
    """A stream of photos of 50 kB that tells how many were read."""

    def examples() -> Iterator[dict[str, Any]]:
        for number in range(rows):
            produced.append(number)
            photo = make_photo(number, format="JPEG") + bytes(50_000)
            yield {"image": {"bytes": photo, "path": None}, "bbox": [[2.0, 3.0, 20.0, 16.0]]}

    features = Features({"image": Image(), "bbox": List(List(Value("float64")))})
    return IterableDataset.from_generator(examples, features=features)


def test_of_large_photos_fewer_rows_are_read_ahead(
    make_photo: Callable[..., bytes], endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captioning, "_AHEAD_BYTES", 1_500_000)
    produced: list[int] = []
    stream = caption_dataset(
        heavy(make_photo, 300, produced), base_url=endpoint.base_url, concurrency=8
    )
    produced.clear()
    for number, _ in enumerate(stream.with_format("arrow")):
        # 30 rows wait, two batches are being read or handed on; 128 rows would be let in.
        assert len(produced) - number < 30 + 3 * 16 + 2 * window_module.DRAWING_THREADS
    assert len(produced) == 300


def test_the_first_rows_do_not_stay_in_memory(
    make_photo: Callable[..., bytes], endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = pa.total_allocated_bytes()
    captioned = caption_dataset(heavy(make_photo, 60, []), base_url=endpoint.base_url)
    assert pa.total_allocated_bytes() - before < 100_000
    assert set(captioned.features) > {"image", "bbox"}


def test_of_many_large_photos_only_the_first_are_looked_at(
    make_photo: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_SAMPLE_BYTES", 500_000)
    stream = heavy(make_photo, 100, [])
    tables = (table for table in stream.with_format("arrow").iter(batch_size=4))
    sample = sample_table(tables)
    assert sample.num_rows == 100
    assert sample["image"].null_count == 100 - 8
    assert sample["bbox"].null_count == 0
    assert sample.nbytes < 600_000


# Tables


def table_of(make_photo: Callable[..., bytes], numbers: Iterable[int]) -> pa.Table:
    numbers = list(numbers)
    boxes = [[[2.0, 3.0, 20.0, 16.0]]] * len(numbers)
    kinds = pa.schema(
        {"image": pa.binary(), "bbox": pa.list_(pa.list_(pa.float64())), "number": pa.int64()}
    )
    rows = {"image": [make_photo(number) for number in numbers], "bbox": boxes, "number": numbers}
    return pa.table(rows, kinds)


@pytest.mark.parametrize("sizes", [[], [0], [1], [0, 3, 0, 0, 5, 1, 0], [SAMPLE + 9, 2]])
def test_tables_come_back_one_by_one(
    sizes: list[int], make_photo: Callable[..., bytes], endpoint: Endpoint
) -> None:
    starts = [sum(sizes[:k]) for k in range(len(sizes))]
    tables = [
        table_of(make_photo, range(start, start + size))
        for start, size in zip(starts, sizes, strict=True)
    ]
    done = list(caption_tables(tables, base_url=endpoint.base_url, column_prefix="x_"))
    assert [len(table) for table in done] == [size for size in sizes if size]
    numbers = [number for table in done for number in table["number"].to_pylist()]
    assert numbers == list(range(sum(sizes)))
    for table in done:
        assert table.column_names[:3] == ["image", "bbox", "number"]
        assert table.column_names[3:] == ["x_" + name for name in ALL_COLUMNS]
        assert set(table["x_answer_status"].to_pylist()) == {"ok"}
        assert Rows(table, "image").features.items() >= column_features(prefix="x_").items()


def test_tables_share_the_window(
    make_photo: Callable[..., bytes], aside: Callable[..., Future[Any]]
) -> None:
    tables = [table_of(make_photo, [number]) for number in range(24)]
    with Endpoint(latency=math.inf) as endpoint:
        run = aside(lambda: list(caption_tables(tables, base_url=endpoint.base_url, concurrency=6)))
        endpoint.wait_for(lambda one: one.in_flight == 6)
        endpoint.release()
        assert len(run.result()) == 24
        assert endpoint.max_in_flight == 6


def test_tables_that_do_not_fit_are_refused_before_any_request(
    make_photo: Callable[..., bytes], endpoint: Endpoint
) -> None:
    table = table_of(make_photo, range(3))
    with pytest.raises(OptionError, match="image_column"):
        caption_tables([table], base_url=endpoint.base_url, image_column="photo")
    with pytest.raises(OptionError, match="did you mean 'concurrency'"):
        caption_tables([table], base_url=endpoint.base_url, concurency=3)
    with pytest.raises(OptionError, match="max_requests"):
        caption_tables([table], base_url=endpoint.base_url, max_requests=-1)
    assert endpoint.count == 0


def test_tables_keep_within_a_budget(make_photo: Callable[..., bytes], endpoint: Endpoint) -> None:
    tables = [table_of(make_photo, range(k, k + 4)) for k in range(0, 12, 4)]
    seen: list[Progress] = []
    done = caption_tables(
        tables, base_url=endpoint.base_url, max_requests=5, on_progress=seen.append
    )
    statuses = [status for table in done for status in table["answer_status"].to_pylist()]
    assert statuses.count("ok") == endpoint.count == 5
    assert statuses.count("skipped_budget") == 7
    assert (seen[-1].rows, seen[-1].failed) == (12, 7)
