"""A Parquet file in, a Parquet file out: what is kept, what is added, when it appears."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Image, Value, load_dataset
from endpoint import Endpoint

from hf_regioncap import parquet
from hf_regioncap.columns import ALL_COLUMNS, column_features
from hf_regioncap.errors import EndpointError, OptionError
from hf_regioncap.parquet import caption_parquet, count_statuses, part_of, retry_parquet

#: Writes a file of numbered rows: `make_file(rows, described=False, group=3, more={...})`.
MakeFile = Callable[..., Path]


@pytest.fixture
def make_file(make_dataset: Any, tmp_path: Path) -> MakeFile:
    """Numbered rows as a file, with the features of `datasets` in its schema or without."""

    def make(
        rows: int,
        name: str = "photos.parquet",
        *,
        described: bool = True,
        group: int | None = None,
        more: dict[str, Any] | None = None,
    ) -> Path:
        table = make_dataset(max(rows, 1)).with_format("arrow")[:].slice(0, rows)
        if not described:
            table = table.replace_schema_metadata(None)
        for column, values in (more or {}).items():
            table = table.append_column(column, values)
        pq.write_table(table, tmp_path / name, row_group_size=group)
        return tmp_path / name

    return make


@pytest.fixture
def asked(endpoint: Endpoint) -> dict[str, Any]:
    """Options for the endpoint, without a store."""
    return {"base_url": endpoint.base_url, "answer_store": None}


def load(path: Path) -> Dataset:
    return load_dataset(
        "parquet", data_files=str(path), split="train", cache_dir=str(path.parent / "cache")
    )


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "regioncap")


# What comes out


@pytest.mark.parametrize("described", [True, False])
@pytest.mark.parametrize(("rows", "group"), [(0, None), (1, None), (10, 3), (260, 100)])
def test_all_rows_and_columns_come_out_in_order(
    rows: int,
    group: int | None,
    described: bool,
    make_file: MakeFile,
    make_dataset: Any,
    asked: dict[str, Any],
    endpoint: Endpoint,
    assert_own: Callable[..., None],
    tmp_path: Path,
) -> None:
    source, target = make_file(rows, described=described, group=group), tmp_path / "out.parquet"
    counts = caption_parquet(str(source), str(target), **asked)
    assert counts == count_statuses(str(target)) == Counter({"ok": rows} if rows else {})
    assert endpoint.count == rows
    old, new = pq.read_table(source), pq.read_table(target)
    assert new["number"].to_pylist() == list(range(rows))
    assert new.column_names == [*old.column_names, *ALL_COLUMNS]
    assert new.select(old.column_names).equals(old)
    features = {**make_dataset(1).features, **column_features()}
    assert Features.from_arrow_schema(new.schema) == features
    if rows:  # of no rows at all load_dataset makes an error
        captioned = load(target)
        assert captioned.features == features
        assert_own(captioned)
        assert captioned[0]["image"].size == captioned[0]["image_with_bbox"].size == (64, 48)


def test_a_file_without_rows_may_stand_beside_others(
    make_file: MakeFile, asked: dict[str, Any], tmp_path: Path
) -> None:
    for rows in (0, 3):
        source = make_file(rows, f"{rows}")
        caption_parquet(str(source), str(tmp_path / f"{rows}.parquet"), **asked)
    empty = tmp_path / "0.parquet"
    assert retry_parquet(str(empty), **asked) == count_statuses(str(empty)) == {}
    assert load(tmp_path / "*.parquet")["number"][:] == [0, 1, 2]


def test_columns_of_any_type_stay_as_they_are(
    make_file: MakeFile, asked: dict[str, Any], tmp_path: Path
) -> None:
    more = {
        "kind": pa.array(["cat", "dog", "cat"]).dictionary_encode(),
        "text": pa.array(["a", None, "c"], pa.large_string()),
        "when": pa.array([datetime(2024, 1, 2)] * 3, pa.timestamp("ns")),
        "price": pa.array([Decimal("1.20")] * 3, pa.decimal128(5, 2)),
        "nothing": pa.nulls(3),
        "pair": pa.array([[1, 2]] * 3, pa.list_(pa.int8(), 2)),
    }
    source, target = make_file(3, more=more), tmp_path / "out.parquet"
    assert caption_parquet(str(source), str(target), **asked) == {"ok": 3}
    for name, values in more.items():
        kept = pq.read_table(target)[name]
        assert (kept.type, kept.to_pylist()) == (values.type, values.to_pylist())
    assert load(target)["kind"][:] == ["cat", "dog", "cat"]


@pytest.mark.parametrize("kind", ["struct", "large struct", "bytes"])
def test_images_under_another_name(
    kind: str, make_file: MakeFile, asked: dict[str, Any], tmp_path: Path
) -> None:
    table = pq.read_table(make_file(2, described=False)).rename_columns(["n", "photo", "bbox"])
    if kind == "large struct":
        large = pa.struct([("bytes", pa.large_binary()), ("path", pa.large_string())])
        table = table.set_column(1, "photo", table["photo"].cast(large))
    if kind == "bytes":
        table = table.set_column(1, "photo", table["photo"].combine_chunks().field("bytes"))
    source, target = tmp_path / "source", tmp_path / "out.parquet"
    pq.write_table(table, source)
    assert caption_parquet(str(source), str(target), image_column="photo", **asked) == {"ok": 2}
    captioned = load(target)
    assert captioned.features["image_with_bbox"] == Image()
    assert (captioned.features["photo"] == Image()) == (kind != "bytes")
    assert captioned.with_format("arrow")[:]["photo"].to_pylist() == table["photo"].to_pylist()


def test_a_prefix_makes_room_for_a_second_run(
    make_file: MakeFile, asked: dict[str, Any], endpoint: Endpoint, tmp_path: Path
) -> None:
    source, first, second = make_file(3), tmp_path / "first", tmp_path / "second"
    caption_parquet(str(source), str(first), **asked)
    endpoint.behaviour = "refusal_words"
    counts = caption_parquet(str(first), str(second), column_prefix="b_", **asked)
    assert counts == count_statuses(str(second), column_prefix="b_") == {"api_refused": 3}
    assert count_statuses(str(second)) == {"ok": 3}
    assert pq.read_schema(second).names[3:] == [*ALL_COLUMNS, *(f"b_{n}" for n in ALL_COLUMNS)]


def test_bad_rows_keep_their_places(
    make_dataset: Any,
    asked: dict[str, Any],
    endpoint: Endpoint,
    assert_own: Callable[..., None],
    tmp_path: Path,
) -> None:
    rows = make_dataset(6).with_format("arrow")[:].to_pylist()
    rows[1]["image"] = None
    rows[2]["image"] = {"bytes": rows[2]["image"]["bytes"][:-200], "path": None}
    rows[3]["image"] = {"bytes": None, "path": "/etc/passwd"}
    rows[4]["bbox"] = [[900.0, 900.0, 5.0, 5.0]]
    dataset = Dataset.from_list(rows, features=make_dataset(1).features)
    dataset.to_parquet(tmp_path / "source")
    counts = caption_parquet(str(tmp_path / "source"), str(tmp_path / "out"), **asked)
    right = ["ok", "image_null", "image_corrupt", "image_refused", "boxes_invalid", "ok"]
    assert counts == Counter(right)
    assert endpoint.count == 2
    captioned = load(tmp_path / "out")
    assert captioned["number"][:] == list(range(6))
    assert captioned["answer_status"][:] == right
    assert_own(captioned)


@pytest.mark.parametrize("address", ["memory://regioncap/{}", "file://{folder}/{}"])
def test_addresses_of_other_file_systems(
    address: str, make_file: MakeFile, asked: dict[str, Any], tmp_path: Path
) -> None:
    source, first, second = (address.format(n, folder=tmp_path) for n in ("a", "b", "c"))
    try:
        with fsspec.open(source, "wb") as stream:
            stream.write(make_file(2).read_bytes())
        assert caption_parquet(source, first, **asked) == count_statuses(first) == {"ok": 2}
        files, place = fsspec.url_to_fs(first)
        files.cp_file(place, f"{place}.copy")
        counts = caption_parquet(f"{first}.copy", first, column_prefix="b_", **asked)  # replaced
        assert counts == count_statuses(first, column_prefix="b_") == {"ok": 2}
        with pytest.raises(OptionError, match="cannot be read"):
            caption_parquet(second, first, **asked)
        names = [name.rpartition("/")[2] for name in files.ls(place.rpartition("/")[0], False)]
        assert not [name for name in names if part_of(name)]
    finally:
        fsspec.filesystem("memory").store.clear()


# When it comes out


def test_a_target_appears_when_it_is_complete(
    make_file: MakeFile, asked: dict[str, Any], endpoint: Endpoint, tmp_path: Path
) -> None:
    source, target = make_file(5), tmp_path / "out.parquet"
    seen = []

    def look(progress: Any) -> None:
        seen.append((target.exists(), [part_of(name) for name in visible(tmp_path)]))

    caption_parquet(str(source), str(target), on_progress=look, **asked)
    # Beside the source there was a hidden part, which other programs pass over.
    assert seen == [(False, ["out.parquet", None])] * 5
    assert visible(tmp_path) == ["out.parquet", "photos.parquet"]

    whole = target.read_bytes()
    endpoint.behaviour = "http_401"
    with pytest.raises(EndpointError, match="check the key"):
        caption_parquet(str(source), str(target), **asked)
    assert target.read_bytes() == whole
    assert visible(tmp_path) == ["out.parquet", "photos.parquet"]


def test_what_is_not_complete_is_not_there_and_goes_on_from_the_store(
    make_file: MakeFile,
    endpoint: Endpoint,
    assert_own: Callable[..., None],
    tmp_path: Path,
) -> None:
    source, target = make_file(10), tmp_path / "out.parquet"
    asked = {"base_url": endpoint.base_url, "answer_store": tmp_path / "regioncap" / "store"}
    endpoint.behaviour = [*[None] * 4, "http_402"]
    with pytest.raises(EndpointError, match="Insufficient Balance"):
        caption_parquet(str(source), str(target), concurrency=1, **asked)
    assert visible(tmp_path) == ["photos.parquet"]
    answered = set(endpoint.acknowledged)
    assert len(answered) == 4
    endpoint.behaviour = None
    endpoint.reset()
    assert caption_parquet(str(source), str(target), **asked) == {"ok": 10}
    assert endpoint.count == 6
    assert not answered & set(endpoint.acknowledged)
    assert_own(load(target))


# What cannot be done


def not_parquet(make_file: MakeFile, folder: Path) -> Path:
    (folder / "source").write_text("image,bbox\n")
    return folder / "source"


def cut_off(make_file: MakeFile, folder: Path) -> Path:
    path = make_file(3)
    path.write_bytes(path.read_bytes()[:-100])
    return path


def with_a_map(make_file: MakeFile, folder: Path) -> Path:
    map_type = pa.map_(pa.string(), pa.int64())
    return make_file(2, described=False, more={"counts": pa.array([[("a", 1)], []], map_type)})


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (lambda make, folder: folder / "missing", {}, "cannot be read as Parquet"),
        (lambda make, folder: folder, {}, "cannot be read as Parquet"),
        (lambda make, folder: "nowhere://photos", {}, "Protocol not known"),
        (not_parquet, {}, "cannot be read as Parquet"),
        (cut_off, {}, "cannot be read as Parquet"),
        (with_a_map, {}, "a column that is none for datasets"),
        (lambda make, folder: make(2), {"bbox_column": "boxes"}, "no column 'boxes'"),
        (lambda make, folder: make(0), {"bbox_column": "boxes"}, "no column 'boxes'"),
        (lambda make, folder: make(0), {"box_unit": "meter"}, "box_unit must be one of"),
        (lambda make, folder: make(12), {"box_unit": "fraction"}, "box_unit='pixel'"),
        (lambda make, folder: make(2), {"column_prefix": None}, "column_prefix must be a text"),
        (lambda make, folder: make(0, more={"type": pa.nulls(0)}), {}, "a column 'type' already"),
        (lambda make, folder: make(2), {"max_box": 3}, "did you mean 'max_boxes'"),
    ],
)
def test_what_cannot_work_is_an_error_before_anything_is_sent_or_written(
    make: Callable[..., Path | str],
    options: dict[str, Any],
    words: str,
    make_file: MakeFile,
    asked: dict[str, Any],
    endpoint: Endpoint,
    tmp_path: Path,
) -> None:
    source = make(make_file, tmp_path)
    before = visible(tmp_path)
    with pytest.raises(OptionError, match=words):
        caption_parquet(str(source), str(tmp_path / "out.parquet"), **options, **asked)
    assert endpoint.count == 0
    assert visible(tmp_path) == before


def test_a_folder_that_is_not_there(
    make_file: MakeFile, asked: dict[str, Any], endpoint: Endpoint, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError):
        caption_parquet(str(make_file(2)), str(tmp_path / "missing" / "out"), **asked)
    assert endpoint.count == 0


def test_counts_are_of_captioned_files_only(make_file: MakeFile, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no column 'answer_status': it was not captioned"):
        count_statuses(str(make_file(1)))
    with pytest.raises(OptionError, match="cannot be read as Parquet"):
        count_statuses(str(tmp_path / "missing"))


# Asking again


def test_only_failed_rows_are_asked_again_and_the_others_stay(
    make_file: MakeFile,
    asked: dict[str, Any],
    endpoint: Endpoint,
    assert_own: Callable[..., None],
    tmp_path: Path,
) -> None:
    source = make_file(8, more={"kind": pa.array(["a"] * 8).dictionary_encode()})
    path = tmp_path / "out.parquet"
    endpoint.behaviour = ["refusal_words", None, "refusal_words", "forgets_second"]
    counts = caption_parquet(str(source), str(path), concurrency=1, reask=0, **asked)
    assert counts == {"api_refused": 2, "ok_partial": 1, "ok": 5}
    before = pq.read_table(path)
    endpoint.behaviour = None
    endpoint.reset()
    assert retry_parquet(str(path), **asked) == count_statuses(str(path)) == {"ok": 8}
    assert endpoint.count == 3  # though no answer was stored
    after = pq.read_table(path)
    assert after.schema.equals(before.schema, check_metadata=True)
    assert_own(load(path))
    failed = [i for i, s in enumerate(before["answer_status"].to_pylist()) if s != "ok"]
    for name in after.column_names:
        old, new = before[name].to_pylist(), after[name].to_pylist()
        changed = [i for i in range(8) if old[i] != new[i]]
        assert set(changed) <= set(failed)
    assert visible(tmp_path) == ["cache", "out.parquet", "photos.parquet"]

    again = path.read_bytes()
    assert retry_parquet(str(path), **asked) == {"ok": 8}  # nothing left to ask
    assert endpoint.count == 3
    assert pq.read_table(path).equals(after)
    assert len(again) == path.stat().st_size


def test_a_file_stays_as_it_is_where_it_cannot_be_asked_again(
    make_file: MakeFile, asked: dict[str, Any], endpoint: Endpoint, tmp_path: Path
) -> None:
    source, path = make_file(2), tmp_path / "out.parquet"
    endpoint.behaviour = "refusal_words"
    caption_parquet(str(source), str(path), **asked)
    failed, count = path.read_bytes(), endpoint.count
    for wrong, words in [
        ({"column_prefix": "b_"}, "no column 'b_answer_status': it was not captioned"),
        ({"max_box": 1}, "unknown option 'max_box'"),
    ]:
        with pytest.raises(OptionError, match=words):
            retry_parquet(str(path), **wrong, **asked)
    assert endpoint.count == count
    endpoint.behaviour = "http_401"
    with pytest.raises(EndpointError, match="check the key"):
        retry_parquet(str(path), **asked)
    assert path.read_bytes() == failed
    assert visible(tmp_path) == ["out.parquet", "photos.parquet"]


def test_a_bound_holds_for_the_whole_file(make_file: MakeFile, monkeypatch: Any) -> None:
    monkeypatch.setattr(parquet, "_ROWS", 4)
    path = make_file(12)
    target = str(path.with_name("done.parquet"))
    with Endpoint() as endpoint:
        options = {"base_url": endpoint.base_url, "answer_store": None}
        assert caption_parquet(str(path), target, max_requests=2, **options) == {
            "ok": 2,
            "skipped_budget": 10,
        }
        assert retry_parquet(target, max_requests=7, **options) == {"ok": 9, "skipped_budget": 3}
        assert endpoint.count == 9


def test_a_row_group_is_not_read_at_once(tmp_path: Path, monkeypatch: Any) -> None:
    """Photos of 100 kB, all 40 MB of them in one row group, a few in each page."""
    photos = [os.urandom(100_000) for _ in range(400)]
    pages = {"use_dictionary": False, "write_batch_size": 4, "data_page_size": 200_000}
    pq.write_table(pa.table({"image": photos}), tmp_path / "a", **pages)
    del photos
    monkeypatch.setattr(parquet, "_BYTES", 2**20)
    with parquet._opened(str(tmp_path / "a")) as file:
        assert file.num_row_groups == 1
        tables = parquet._FileTables(file, Features({"image": Value("binary")}))
        before, rows = pa.total_allocated_bytes(), 0
        for table in tables:
            assert pa.total_allocated_bytes() - before < 12 * 2**20
            rows += len(table)
    assert rows == 400
