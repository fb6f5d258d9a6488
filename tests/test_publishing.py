"""Datasets to a folder and to a stand-in for the Hub: what arrives, and what must not."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Image,
    IterableDataset,
    IterableDatasetDict,
    List,
    Value,
    config,
    load_dataset,
)
from hub import HubStandIn
from huggingface_hub import DatasetCard, HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from PIL import Image as Pictures
from skimage import data as photos

from hf_regioncap import add_region_captions, caption_dataset, make_recipe, retry_failed
from hf_regioncap.columns import column_features
from hf_regioncap.errors import OptionError, PublishError
from hf_regioncap.images import encode_jpeg
from hf_regioncap.metadata import without_metadata
from hf_regioncap.publishing import (
    ROW_GROUP_BYTES,
    ROW_GROUP_ROWS,
    _size_in_bytes,
    _writing,
    publish,
    safe_name,
    source_license,
    write_dataset,
)

SECRET = b"SECRET-7f3a"
RECIPE = {"model": "m", "base_url": "http://127.0.0.1:1/v1?key=SECRET-7f3a", "view": "overlay"}
FEATURES = Features(
    {
        "image": Image(),
        "bbox": List(List(Value("float64"))),
        "label": List(ClassLabel(names=["cat: [x]\n---\nlicense: mit", "<b>dog</b>"])),
        "id": Value("int64"),
        **column_features(),
    }
)


def jpeg(color: str = "tan", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture = Pictures.fromarray(photos.coffee()).resize((96, 64))
    picture.paste(color, (0, 0, 8, 8))
    picture.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def tagged() -> bytes:
    """A photo that says where it was taken, and lies on its side."""
    exif = Pictures.Exif()
    exif[0x0112] = 6
    exif[0x010E] = SECRET.decode()
    exif.get_ifd(0x8825).update({1: "N", 2: (51.0, 31.0, 25.0), 29: SECRET.decode()})
    return jpeg(exif=exif, comment=SECRET)


def row(number: int = 0, **changes: Any) -> dict[str, Any]:
    columns = {
        "image": {"bytes": jpeg(), "path": None},
        "bbox": [[1.0, 2.0, 30.0, 40.0], [0.0, 0.0, 0.0, 0.0]],
        "label": [0, 1],
        "id": number,
        "type": "with_bbox",
        "image_status": "ok",
        "region_boxes": [[1.0, 2.0, 30.0, 40.0], None],
        "box_status": ["ok", "too_small"],
        "normalized_bbox": [[0.01, 0.03, 0.32, 0.65]] + [[0.0] * 4] * 9,
        "valid_bboxes_num": 1,
        "image_with_bbox": {"bytes": encode_jpeg(Pictures.new("RGB", (96, 64), "red"))},
        "prompt": "Describe <region1>.",
        "answer": '{"1": "a cup"}',
        "region_captions": ["a <script>alert(1)</script> cup", None],
        "answer_status": "ok",
        "answer_error": None,
        "usage": {"prompt_tokens": 11, "completion_tokens": 3},
    }
    return {**columns, **changes}


def table(*rows: dict[str, Any]) -> Dataset:
    return Dataset.from_list(list(rows) or [row(0), row(1)], features=FEATURES)


def stored(dataset: Dataset) -> list[dict[str, Any]]:
    """The rows with images as they are stored."""
    for name, feature in dataset.features.items():
        if isinstance(feature, Image):
            dataset = dataset.cast_column(name, Image(decode=False))
    return dataset.to_list()


def loaded(folder: Path, split: str = "train", **options: Any) -> Dataset:
    return load_dataset(str(folder), split=split, cache_dir=str(folder.parent / "cache"), **options)


def all_bytes(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


# A folder


def test_a_folder_is_read_back_with_equal_rows(tmp_path: Path) -> None:
    source = table(row(0), row(1, image=None, image_with_bbox=None, region_captions=[None, None]))
    summary = write_dataset(source, tmp_path / "out", recipe=RECIPE)
    back = loaded(tmp_path / "out")
    assert back.features == FEATURES
    assert stored(back) == stored(source)
    assert back[0]["image"].size == (96, 64)
    assert summary["rows"] == 2
    assert summary["images_withheld"] == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("README.md", "assets", "data", "recipe.json")
    ]


def test_no_rows_keep_their_types(tmp_path: Path) -> None:
    empty = Dataset.from_dict({name: [] for name in FEATURES}, features=FEATURES)
    write_dataset(empty, tmp_path / "out")
    [file] = (tmp_path / "out").glob("data/*.parquet")
    assert pq.read_table(file).num_rows == 0
    assert Features.from_arrow_schema(pq.read_schema(file)) == FEATURES


def test_a_split_without_rows_does_not_spoil_the_others(tmp_path: Path) -> None:
    both = DatasetDict({"train": table(row(1)), "test": table(row(2)).select([])})
    write_dataset(both, tmp_path / "out")
    everything = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {name: part["id"][:] for name, part in everything.items()} == {"train": [1]}


@pytest.mark.parametrize("kind", ["dict", "stream", "streams", "shuffled"])
def test_every_kind_of_dataset_is_written(tmp_path: Path, kind: str) -> None:
    source = table(row(0), row(1), row(2))
    given, splits = {
        "dict": (DatasetDict({"train": source, "test": source}), ["train", "test"]),
        "stream": (source.to_iterable_dataset(), ["train"]),
        "streams": (
            IterableDatasetDict({"test": source.to_iterable_dataset()}),
            ["test"],
        ),
        "shuffled": (source.select([2, 0, 1]), ["train"]),
    }[kind]
    write_dataset(given, tmp_path / "out")
    for split in splits:
        back = loaded(tmp_path / "out", split)
        assert back.features == FEATURES
        assert sorted(back["id"]) == [0, 1, 2]
        if kind == "shuffled":
            assert back["id"][:] == [2, 0, 1]


def test_the_source_stays_as_it_is_and_nothing_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = table(row(0, image={"bytes": tagged(), "path": "a.jpg"}))
    before = source.with_format("arrow")[:]
    capsys.readouterr()
    write_dataset(source, tmp_path / "out")
    assert capsys.readouterr().out == ""
    assert source.with_format("arrow")[:] == before


def test_features_that_do_not_decode_are_published_decoding(tmp_path: Path) -> None:
    write_dataset(table().cast_column("image", Image(decode=False)), tmp_path / "out")
    assert loaded(tmp_path / "out").features == FEATURES


def test_a_second_write_replaces_its_split_and_keeps_the_others(tmp_path: Path) -> None:
    out = tmp_path / "out"
    both = DatasetDict({"train": table(*map(row, range(20))), "test": table(row(7))})
    write_dataset(both, out, max_shard_size="10kB", recipe=RECIPE)
    assert len(list(out.glob("data/train-*"))) > 2
    readme = out / "README.md"
    readme.write_text(readme.read_text(encoding="utf-8") + "\nBy hand.\n", encoding="utf-8")
    write_dataset(table(row(42)), out)
    assert [path.name for path in out.glob("data/train-*")] == ["train-00000-of-00001.parquet"]
    assert loaded(out)["id"][:] == [42]
    assert loaded(out, "test")["id"][:] == [7]
    assert "By hand." in readme.read_text(encoding="utf-8")
    info = DatasetCard(readme.read_text(encoding="utf-8")).data["dataset_info"]
    assert {split["name"]: split["num_examples"] for split in info["splits"]} == {
        "train": 1,
        "test": 1,
    }
    write_dataset(DatasetDict({"train": table(row(43))}), out)
    assert [path.name for path in out.glob("data/*")] == ["train-00000-of-00001.parquet"]
    assert not list(out.glob(".writing-*"))


@pytest.mark.parametrize(
    ("split", "written"),
    [
        ("test[:2]", {"train": 3, "test": 2}),
        ("train[34%:]", {"train": 2, "test": 4}),
        ("test[:1]+test[-1:]", {"train": 3, "test": 2}),
        ("train+test", {"train": 3, "test": 4, "train_test": 7}),
    ],
)
def test_a_slice_of_a_split_is_not_written_as_another(
    split: str, written: dict[str, int], tmp_path: Path
) -> None:
    out, source = tmp_path / "out", tmp_path / "source"
    parts = {"train": table(*map(row, range(3))), "test": table(*map(row, range(10, 14)))}
    write_dataset(DatasetDict(parts), source)
    write_dataset(DatasetDict(parts), out)
    part = loaded(source, split)
    write_dataset(part, out)
    read = load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    assert {name: len(rows) for name, rows in read.items()} == written
    assert part["id"][:] in [rows["id"][:] for rows in read.values()]


def test_a_split_with_a_name_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    named = Dataset.from_dict({"answer_status": ["ok"]}, split="my-split")
    with pytest.raises(OptionError, match=r"split's name .* 'my-split'.*DatasetDict\("):
        write_dataset(named, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_splits_of_other_features_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_dataset(DatasetDict({"train": table(), "test": table()}), out)
    with pytest.raises(PublishError, match=r"split\(s\) \['test'\] with other features"):
        write_dataset(table().remove_columns("id"), out)
    assert loaded(out).features == FEATURES
    mixed = DatasetDict({"train": table(), "test": table().remove_columns("id")})
    with pytest.raises(OptionError, match="same features"):
        write_dataset(mixed, tmp_path / "other")


def test_a_split_that_a_card_only_lists_stays_listed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "mine").mkdir(parents=True)
    table(row(5)).to_parquet(out / "mine" / "held-out.parquet")
    listed = "configs:\n- config_name: default\n  data_files:\n  - split: test\n    path: mine/*\n"
    (out / "README.md").write_text(f"---\n{listed}---\n# Mine\n", encoding="utf-8")
    write_dataset(table(row(1)), out)
    assert loaded(out, "test")["id"][:] == [5]
    assert loaded(out)["id"][:] == [1]
    write_dataset(DatasetDict({"train": table(row(2))}), out)
    assert list(load_dataset(str(out), cache_dir=str(tmp_path / "cache2"))) == ["train"]


def test_configurations_lie_side_by_side(tmp_path: Path) -> None:
    write_dataset(table(row(1)), tmp_path / "out", recipe=RECIPE)
    write_dataset(table(row(2)), tmp_path / "out", recipe=RECIPE, config_name="crops")
    assert loaded(tmp_path / "out", name="default")["id"][:] == [1]
    assert loaded(tmp_path / "out", name="crops")["id"][:] == [2]


@pytest.mark.parametrize(
    ("size", "expected"), [("1MB", 10**6), ("2 GiB", 2**31), ("1.5kB", 1500), (7, 7), ("9B", 9)]
)
def test_sizes_are_read(size: Any, expected: int) -> None:
    assert _size_in_bytes(size) == expected


@pytest.mark.parametrize("size", ["", "MB", "-1MB", 0, -5, True, None, "1XB"])
def test_other_sizes_are_refused(size: Any, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="max_shard_size"):
        write_dataset(table(), tmp_path, max_shard_size=size)


def test_row_groups_stay_within_what_a_viewer_reads(tmp_path: Path) -> None:
    many = Dataset.from_dict({"id": list(range(2500)), "answer_status": ["ok"] * 2500})
    write_dataset(many, tmp_path / "small")
    [file] = (tmp_path / "small").glob("data/*.parquet")
    metadata = pq.ParquetFile(file).metadata
    sizes = [metadata.row_group(k).num_rows for k in range(metadata.num_row_groups)]
    assert sum(sizes) == 2500
    assert max(sizes) <= ROW_GROUP_ROWS
    noise = os.urandom(6_000_000)
    png = io.BytesIO()
    Pictures.frombytes("RGB", (2000, 1000), noise).save(png, "PNG", compress_level=0)
    large = [{"image": {"bytes": png.getvalue(), "path": None}} for _ in range(20)]
    write_dataset(
        Dataset.from_list(large, features=Features({"image": Image()})),
        tmp_path / "large",
        max_shard_size="100MB",
    )
    files = sorted((tmp_path / "large").glob("data/*.parquet"))
    assert len(files) == 2
    for file in files:
        metadata = pq.ParquetFile(file).metadata
        for k in range(metadata.num_row_groups):
            assert metadata.row_group(k).total_byte_size <= ROW_GROUP_BYTES * 1.01


# Writers that are killed, and others


def ids(folder: Path) -> list[int]:
    """The numbers of the rows in a folder, past the cache of `load_dataset`."""
    return pq.read_table(folder / "data", columns=["id"])["id"].to_pylist()


def write_and_stop(folder: str) -> None:
    """Begin to write, say so, and go no further."""

    def rows() -> Iterator[dict[str, Any]]:
        yield from [row(1), row(2)]
        sys.stdout.write("begun\n")
        sys.stdout.flush()
        threading.Event().wait()

    write_dataset(IterableDataset.from_generator(rows, features=FEATURES), folder)


def test_a_killed_write_leaves_nothing_for_ever(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_dataset(table(row(7)), out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    code = "import sys, test_publishing as t; t.write_and_stop(sys.argv[1])"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    words = [sys.executable, "-c", code, str(out)]
    with subprocess.Popen(words, env=env, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"begun\n"
        finally:
            child.send_signal(signal.SIGKILL)
    assert list(out.glob(".writing-*/data"))
    assert {path: path.read_bytes() for path in before} == before
    assert ids(out) == [7]
    write_dataset(table(row(8)), out)
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "assets", "data"]
    assert ids(out) == [8]


def test_writers_of_one_folder_take_turns(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_dataset(table(row(7)), out)
    with ThreadPoolExecutor(1) as pool, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with _writing(out) as place:
            other = pool.submit(write_dataset, table(row(8)), out)
            while not (told or other.done()):
                time.sleep(0.01)
            assert "waiting until it has ended" in str(told[0].message)
            assert place.is_dir()
            assert ids(out) == [7]
        other.result(60)
    assert ids(out) == [8]
    assert not list(out.glob(".writing*"))


def test_an_interrupted_move_loses_no_row(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_dataset(table(*map(row, range(9))), out, max_shard_size="5kB")
    (out / "data" / "train-00000-of-00001.parquet").mkdir()  # where the new file would go
    with pytest.raises(OSError, match="directory"):
        write_dataset(table(row(42)), out)
    (out / "data" / "train-00000-of-00001.parquet").rmdir()
    assert sorted(ids(out)) == list(range(9))


# What must not leave


def test_a_secret_file_is_never_written(tmp_path: Path) -> None:
    secret = tmp_path / "passwd"
    secret.write_bytes(b"root:x:0:0:" + SECRET)
    picture = tmp_path / "private.jpg"
    picture.write_bytes(jpeg(comment=SECRET))
    root = tmp_path / "root"
    root.mkdir()
    (root / "own.jpg").write_bytes(jpeg("blue"))
    (root / "notes.txt").write_bytes(SECRET)
    (root / "link.jpg").symlink_to(picture)
    paths = [
        *(str(secret), str(picture), f"{root}/../passwd", "/etc/hostname"),
        *(f"{root}/notes.txt", f"{root}/link.jpg", "https://example.com/a.jpg"),
        *(secret.as_uri(), f"{root}/missing.jpg", "own.jpg", str(root)),
    ]
    rows = [row(k, image={"bytes": None, "path": path}) for k, path in enumerate(paths)]
    own = row(99, image={"bytes": jpeg("blue"), "path": "own.jpg"})
    for image_root, more in ((None, [own]), (root, [])):
        out = tmp_path / f"out-{len(more)}"
        summary = write_dataset(table(*rows, *more), out, image_root=image_root, keep_metadata=True)
        back = stored(loaded(out))
        assert [r["image"]["path"] for r in back if r["image"]] == ["own.jpg"]
        withheld = len(paths) + len(more) - 1
        assert summary["images_withheld"] == withheld
        written = all_bytes(out)
        assert SECRET not in written
        assert str(tmp_path).encode() not in written
        card = (out / "README.md").read_text(encoding="utf-8")
        assert f"Images that are null here: {withheld}." in card


@pytest.mark.parametrize("named", [False, True])
def test_nothing_is_replaced_by_images_that_may_not_be_read(named: bool, tmp_path: Path) -> None:
    out, root = tmp_path / "out", tmp_path / "root"
    root.mkdir()
    write_dataset(table(), out, recipe=RECIPE)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    paths = [str(root / "missing.jpg"), "other.jpg"]
    rows = [row(k, image={"bytes": None, "path": path}) for k, path in enumerate(paths)]
    image_root = root if named else None
    with pytest.raises(OptionError, match=r"none of the 2 images .* may be read .*image_root="):
        write_dataset(table(*rows, row(image=None)), out, image_root=image_root)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_images_that_are_none_are_told_and_no_error(tmp_path: Path) -> None:
    rows = [row(image={"bytes": b"no image", "path": None}), row(image=None)]
    assert write_dataset(table(*rows), tmp_path / "out")["images_withheld"] == 1


def test_a_mapped_stream_is_written_in_the_way_that_the_error_names(tmp_path: Path) -> None:
    source = table().select_columns(["image", "bbox"]).to_iterable_dataset()
    asked = {"base_url": "offline", "answer_store": None}
    mapped = source.map(add_region_captions, batched=True, fn_kwargs=asked)
    with pytest.raises(OptionError, match=r"mapped\.cast\(Features\(") as error:
        write_dataset(mapped, tmp_path / "out")
    way = str(error.value).rpartition(": ")[2]
    names = {"Features": Features, "column_features": column_features}
    told = eval(way, {"mapped": mapped, "stream": source, **names})
    assert write_dataset(told, tmp_path / "out")["answer_status"] == {"ok": 2}


def test_a_bad_dataset_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no splits"):
        write_dataset(DatasetDict({}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_that_datasets_has_put_in_its_cache_are_embedded(tmp_path: Path) -> None:
    cached = Path(config.HF_DATASETS_CACHE) / "regioncap-test" / "photo.jpg"
    cached.parent.mkdir(parents=True, exist_ok=True)
    cached.write_bytes(jpeg("blue"))
    try:
        source = table(row(image={"bytes": None, "path": str(cached)}))
        write_dataset(source, tmp_path / "out")
        [back] = stored(loaded(tmp_path / "out"))
        assert back["image"] == {"bytes": jpeg("blue"), "path": "photo.jpg"}
    finally:
        cached.unlink()
        cached.parent.rmdir()


def test_gps_goes_and_the_photo_stays_upright(tmp_path: Path) -> None:
    rows = [row(image={"bytes": tagged(), "path": None}, image_with_bbox={"bytes": tagged()})]
    write_dataset(table(*rows), tmp_path / "clean")
    assert SECRET not in all_bytes(tmp_path / "clean")
    back = loaded(tmp_path / "clean")
    assert back[0]["image"].size == (64, 96)
    assert back[0]["image"].tobytes() == table(*rows)[0]["image"].tobytes()
    write_dataset(table(*rows), tmp_path / "kept", keep_metadata=True)
    assert SECRET in all_bytes(tmp_path / "kept")
    assert "was removed" not in (tmp_path / "kept" / "README.md").read_text(encoding="utf-8")


BYTES_AND_PATH = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
#: How people's tools store an image, and the column to name for it.
STORED: list[tuple[Any, pa.DataType, str]] = [
    *((tagged(), kind, "image") for kind in (pa.binary(), pa.large_binary(), pa.binary_view())),
    (tagged(), pa.binary(len(tagged())), "image"),
    ({"bytes": tagged()}, pa.struct([("bytes", pa.binary())]), "image"),
    ({"bytes": tagged()}, pa.struct([("bytes", pa.binary_view())]), "image"),
    (
        {"bytes": tagged(), "path": None, "w": 1},
        pa.struct([*BYTES_AND_PATH, ("w", pa.int8())]),
        "image",
    ),
    ({"data": tagged()}, pa.struct([("data", pa.large_binary())]), "image.data"),
    ({"data": {"bytes": tagged()}}, pa.struct([("data", BYTES_AND_PATH)]), "image.data"),
    *(("ada.jpg", kind, "image") for kind in (pa.string(), pa.large_string(), pa.string_view())),
    ({"path": "ada.jpg"}, pa.struct([("path", pa.string())]), "image"),
    ({"file": "ada.jpg"}, pa.struct([("file", pa.string())]), "image.file"),
]


@pytest.mark.parametrize(("value", "kind", "column"), STORED, ids=str)
def test_an_image_column_of_every_type_is_published_as_a_clean_image(
    value: Any, kind: pa.DataType, column: str, tmp_path: Path
) -> None:
    root = tmp_path / "private"
    root.mkdir()
    (root / "ada.jpg").write_bytes(tagged())
    if "ada.jpg" in str(value):
        value = json.loads(json.dumps(value).replace("ada.jpg", str(root / "ada.jpg")))
    source = Dataset(pa.table({"image": pa.array([value, None], kind), "id": [1, 2]}))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        summary = write_dataset(source, tmp_path / "out", image_column=column, image_root=root)
    back = loaded(tmp_path / "out").with_format("arrow")[:]
    images = back["image"] if column == "image" else pc.struct_field(back["image"], 0)
    assert images.type == Image().pa_type
    assert images[0]["bytes"].as_py() == without_metadata(tagged())
    assert not images[1].is_valid or images[1].as_py() == {"bytes": None, "path": None}
    assert str(root).encode() not in all_bytes(tmp_path / "out")
    assert summary["images_withheld"] == 0
    left_out = ["image.w"] if isinstance(value, dict) and "w" in value else []
    assert summary["fields_left_out"] == left_out
    assert [bool(left_out)] * len(told) == ["`image.w`" in str(each.message) for each in told]


def test_other_columns_are_cleaned_and_it_is_said(tmp_path: Path) -> None:
    features = Features(
        {
            "image": Image(),
            "raw": Value("large_binary"),
            "files": List({"name": Value("string"), "thumb": Image(), "data": Value("binary")}),
            "note": Value("string"),
        }
    )
    home = "/home/ada/photos/"
    file = {"name": f"{home}cat.jpg", "thumb": {"bytes": tagged(), "path": f"{home}cat.jpg"}}
    one = {
        "image": {"bytes": tagged(), "path": f"{home}cat.jpg"},
        "raw": tagged(),
        "files": [{**file, "data": tagged()}, {**file, "data": b"\0\0\0\x18ftypheic" + SECRET}],
        "note": "a cat",
    }
    source = Dataset.from_list([one], features=features)
    with pytest.warns(
        UserWarning, match=r"paths taken out of `files` \(2\); .* `\w+` \(1\), "
    ) as told:
        summary = write_dataset(source, tmp_path / "out")
    assert told[0].filename == __file__
    assert SECRET not in all_bytes(tmp_path / "out")
    assert b"ada/photos" not in all_bytes(tmp_path / "out")
    [back] = loaded(tmp_path / "out").with_format("arrow")[:].to_pylist()
    assert [each["name"] for each in back["files"]] == ["cat.jpg"] * 2
    assert [each["data"] is None for each in back["files"]] == [False, True]
    assert summary["paths_removed"] == {"files": 2}
    assert summary["pictures_cleaned"] == {"raw": 1, "files": 1}
    assert summary["images_withheld"] == 1
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "local paths taken out of `files` (2)" in card
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what holds neither is not spoken of
        write_dataset(source.select_columns(["image", "note"]), tmp_path / "plain")


def test_no_path_in_a_prompt_gets_out(tmp_path: Path) -> None:
    write_dataset(table(row(prompt="as in /home/ada/x.txt: a")), tmp_path / "out")
    assert b"home/ada" not in all_bytes(tmp_path / "out")
    assert loaded(tmp_path / "out")["prompt"][:] == ["as in [path]: a"]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("", None),
        ("cat.jpg", "cat.jpg"),
        ("/home/ada/cat 1 (2).jpg", "cat 1 (2).jpg"),
        ("../../../etc/passwd", "passwd"),
        ("..\\..\\cat.jpg", "cat.jpg"),
        ("../..", None),
        ("..", None),
        (".hidden", None),
        ("~", None),
        ("dir/", None),
        ("<img src=x onerror=alert(1)>.jpg", None),
        ("a\nb.jpg", None),
        ("a\x00.jpg", None),
        ("$(rm -rf).jpg", None),
        ("x" * 200, None),
        ("Straße.jpg", "Straße.jpg"),
        ("s3://bucket/key.jpg?X-Signature=abc", None),
        ("C:\\Users\\ada\\cat.jpg", "cat.jpg"),
    ],
)
def test_only_bare_names_of_files_are_kept(path: str, name: str | None) -> None:
    assert safe_name(path) == name


def test_path_columns_become_pictures_or_null(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.jpg").write_bytes(jpeg("blue"))
    for kind, values in (
        (Value("string"), [f"{root}/a.jpg", "/etc/hostname", None]),
        (Value("binary"), [jpeg("blue"), SECRET, None]),
    ):
        source = Dataset.from_dict({"photo": values}, features=Features({"photo": kind}))
        out = tmp_path / kind.dtype
        summary = write_dataset(source, out, image_column="photo", image_root=root)
        back = loaded(out)
        assert back.features == Features({"photo": Image()})
        assert [r["photo"] is not None for r in back] == [True, False, False]
        assert summary["images_withheld"] == 1
        assert str(tmp_path).encode() not in all_bytes(out)
        assert SECRET not in all_bytes(out)


def test_images_that_have_lost_their_type_are_images_again(tmp_path: Path) -> None:
    features = Features({"photo": {"bytes": Value("binary"), "path": Value("string")}})
    rows = [{"photo": {"bytes": tagged(), "path": "/home/ada/x.jpg"}}]
    write_dataset(Dataset.from_list(rows, features=features), tmp_path / "out")
    back = loaded(tmp_path / "out")
    assert back.features == Features({"photo": Image()})
    assert stored(back)[0]["photo"]["path"] == "x.jpg"
    assert SECRET not in all_bytes(tmp_path / "out")


def test_images_inside_lists_and_structs_are_treated_alike(tmp_path: Path) -> None:
    features = Features(
        {"pages": List({"scan": Image(), "n": Value("int64")}), "more": List(Image())}
    )
    secret = tmp_path / "private.jpg"
    secret.write_bytes(jpeg())
    rows = [
        {
            "pages": [
                {"scan": {"bytes": tagged(), "path": "/x/p.jpg"}, "n": 1},
                {"scan": {"bytes": None, "path": str(secret)}, "n": 2},
            ],
            "more": [{"bytes": tagged(), "path": None}, None],
        },
        {"pages": None, "more": []},
    ]
    summary = write_dataset(Dataset.from_list(rows, features=features), tmp_path / "out")
    assert summary["images_withheld"] == 1
    assert SECRET not in all_bytes(tmp_path / "out")
    back = loaded(tmp_path / "out")
    assert back.features == features
    first, second = back.with_format("arrow")[:].to_pylist()
    assert [page["n"] for page in first["pages"]] == [1, 2]
    assert first["pages"][0]["scan"]["path"] == "p.jpg"
    assert first["pages"][1]["scan"] is None
    assert first["more"][1] is None
    assert (second["pages"] or [], second["more"]) == ([], [])


def test_other_files_inside_columns_are_refused_by_name(tmp_path: Path) -> None:
    from datasets import Audio

    features = Features({"sound": Audio()})
    sounds = pa.table(
        {"sound": pa.array([None], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))}
    )
    source = Dataset(sounds.cast(features.arrow_schema))
    with pytest.raises(OptionError, match="'sound' holds files of type Audio"):
        write_dataset(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (None, None),
        ("outside image_root='/home/ada/my photos'", "outside image_root=[path]"),
        ("cannot open /home/ada/a.jpg: gone", "cannot open [path]: gone"),
        ("C:\\Users\\ada\\a.jpg is missing", "[path] is missing"),
        ("429 from https://api.example.com/v1/chat", "429 from https://api.example.com/v1/chat"),
        ("model org/name: 3/4 answered", "model org/name: 3/4 answered"),
    ],
)
def test_errors_lose_the_paths_in_them(tmp_path: Path, error: str | None, told: str | None) -> None:
    write_dataset(table(row(answer_error=error)), tmp_path / "out")
    assert loaded(tmp_path / "out")["answer_error"][:] == [told]


def test_a_users_own_column_is_not_taken_for_ours(tmp_path: Path) -> None:
    own = (
        "my_answer_error"  # with a path on the web, which only in an error is taken for a local one
    )
    source = table(row(answer_error="no /views/ada/a")).add_column(own, ["see /views/ada/b"])
    write_dataset(source, tmp_path / "out")
    [back] = stored(loaded(tmp_path / "out"))
    assert (back["answer_error"], back[own]) == ("no [path]", "see /views/ada/b")
    write_dataset(source, tmp_path / "prefixed", column_prefix="my_")
    [back] = stored(loaded(tmp_path / "prefixed"))
    assert (back["answer_error"], back[own]) == ("no /views/ada/a", "see [path]")


def test_the_recipe_and_the_card_hold_no_secret(tmp_path: Path) -> None:
    recipe = {**RECIPE, "extra_headers": {"X": SECRET.decode()}, "image_root": "/home/ada"}
    write_dataset(table(), tmp_path / "out", recipe=recipe, source="/home/ada/photos")
    written = json.loads((tmp_path / "out" / "recipe.json").read_text(encoding="utf-8"))
    told = {"model": "m", "base_url": "http://127.0.0.1:1/v1", "view": "overlay"}
    assert written == {**told, "left_out": ["extra_headers.X", "image_root"]}
    assert SECRET not in all_bytes(tmp_path / "out")
    assert b"/home/ada" not in all_bytes(tmp_path / "out")


def test_hostile_data_stays_data(tmp_path: Path) -> None:
    write_dataset(table(), tmp_path / "out", recipe=RECIPE)
    card = DatasetCard((tmp_path / "out" / "README.md").read_text(encoding="utf-8"))
    assert "license" not in card.data.to_dict()
    assert "`a <script>alert(1)</script> cup`" in card.text
    assert (
        loaded(tmp_path / "out").features["label"].feature.names == FEATURES["label"].feature.names
    )


# The sample


def test_the_sample_is_the_first_drawn_and_captioned_image(tmp_path: Path) -> None:
    wide = encode_jpeg(Pictures.new("RGB", (3000, 300), "blue"))
    rows = [row(region_captions=[None, None]), row(image_with_bbox={"bytes": wide})]
    write_dataset(table(*rows), tmp_path / "out")
    sample = Pictures.open(io.BytesIO((tmp_path / "out" / "assets" / "sample.jpg").read_bytes()))
    assert sample.size == (1280, 128)
    assert sample.getpixel((9, 9))[2] > 200
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "](assets/sample.jpg)" in text
    write_dataset(table(*rows), tmp_path / "without", sample=False)
    assert not (tmp_path / "without" / "assets").exists()
    assert "![" not in (tmp_path / "without" / "README.md").read_text(encoding="utf-8")


# The Hub. `huggingface_hub` reads where it is at import, so it is used in a process of its own.


@pytest.fixture(scope="module")
def hub() -> Iterator[HubStandIn]:
    with HubStandIn() as hub:
        yield hub


@pytest.fixture(scope="module")
def environment(hub: HubStandIn, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGG"))
    }
    return {
        **kept,
        "HF_ENDPOINT": hub.endpoint,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HOME": str(tmp_path_factory.mktemp("home")),
    }


@pytest.fixture(scope="module")
def elsewhere(environment: dict[str, str]) -> Iterator[Callable[..., Any]]:
    """Call a function of this module in a process that knows the stand-in as the Hub."""
    before = dict(os.environ)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            os.environ.clear()
            os.environ.update(environment)
            pool.submit(os.getpid).result(60)
        finally:
            os.environ.clear()
            os.environ.update(before)
        yield lambda function, *args, **kwargs: pool.submit(function, *args, **kwargs).result(120)


@pytest.fixture(autouse=True)
def _repaired(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "hub" in request.fixturenames:
        hub = request.getfixturevalue("hub")
        hub.broken.clear()
        hub.conflicts, hub.create_public = 0, False


def push(rows: list[dict[str, Any]], *args: Any, split: str | None = None, **options: Any) -> str:
    dataset: Any = table(*rows)
    if split is not None:
        dataset = DatasetDict(dict.fromkeys(split.split("+"), dataset))
    return publish(dataset, *args, **{"token": "hf_write", "recipe": RECIPE, **options})


def push_split(rows: list[dict[str, Any]], repo_id: str, split: str) -> str:
    dataset = Dataset.from_list(rows, features=FEATURES, split=split)
    return publish(dataset, repo_id, token="hf_write", recipe=RECIPE)


def push_nothing(repo_id: str) -> str:
    return publish(DatasetDict({}), repo_id, token="hf_write")


def pull(repo_id: str, split: str = "train", **options: Any) -> list[dict[str, Any]]:
    return stored(load_dataset(repo_id, split=split, token="hf_write", **options))


def push_as_datasets_does(rows: list[dict[str, Any]], repo_id: str) -> None:
    table(*rows).push_to_hub(repo_id, token="hf_write")


def test_the_round_trip(hub: HubStandIn, elsewhere: Callable[..., Any]) -> None:
    named = {"bytes": tagged(), "path": "../../../etc/no-such.jpg"}
    rows = [row(0), row(1, image=named), row(2, image=None)]
    url = elsewhere(push, rows, "ada/first", source="ada/nothing")
    assert url == f"{hub.endpoint}/datasets/ada/first"
    repo = hub.repos["ada/first"]
    assert repo.private
    assert len(repo.commits) == 2  # the creation, and one of ours
    assert set(repo.files()) - {".gitattributes"} == {
        *("README.md", "recipe.json", "assets/sample.jpg", "data/train-00000-of-00001.parquet")
    }
    assert not any(SECRET in data for data in [*repo.files().values(), *hub.large.values()])
    back = elsewhere(pull, "ada/first")
    clean = {"bytes": back[1]["image"]["bytes"], "path": "no-such.jpg"}
    assert back == stored(table(row(0), row(1, image=clean), row(2, image=None)))
    card = DatasetCard(repo.files()["README.md"].decode())
    assert card.data["annotations_creators"] == ["machine-generated"]
    assert "license" not in card.data.to_dict()
    assert json.loads(repo.files()["recipe.json"])["model"] == "m"
    with pytest.raises(RepositoryNotFoundError):
        HfApi(endpoint=hub.endpoint).dataset_info("ada/first", token=False)


def test_without_a_token_nothing_is_asked(hub: HubStandIn, elsewhere: Callable[..., Any]) -> None:
    asked = len(hub.requests)
    with pytest.raises(PublishError, match="no Hugging Face token"):
        elsewhere(push, [row()], "ada/tokenless", token=None)
    assert len(hub.requests) == asked


@pytest.mark.parametrize(
    ("token", "words"),
    [("hf_wrong", "did not confirm the token.*wrong or has expired"), ("hf_read", "may only read")],
)
def test_a_token_that_does_not_do_is_told_before_anything_is_made(
    hub: HubStandIn, elsewhere: Callable[..., Any], token: str, words: str
) -> None:
    with pytest.raises(PublishError, match=words) as told:
        elsewhere(push, [row()], "ada/unmade", token=token)
    assert token not in str(told.value)
    assert "ada/unmade" not in hub.repos


def test_a_bad_dataset_leaves_no_repository(hub: HubStandIn, elsewhere: Callable[..., Any]) -> None:
    with pytest.raises(OptionError, match="no splits"):
        elsewhere(push_nothing, "ada/empty")
    hidden = [row(image={"bytes": None, "path": "/home/ada/cat.jpg"})]
    with pytest.raises(OptionError, match="none of the 1 images"):
        elsewhere(push, hidden, "ada/empty")
    assert "ada/empty" not in hub.repos
    elsewhere(push, [row(1)], "ada/full")
    with pytest.raises(OptionError, match="none of the 1 images"):
        elsewhere(push, hidden, "ada/full")
    assert [r["id"] for r in elsewhere(pull, "ada/full")] == [1]


def test_a_repository_of_somebody_else_is_told_before_any_upload(
    hub: HubStandIn, elsewhere: Callable[..., Any]
) -> None:
    hub.add("bob/public", private=False)
    uploads = hub.asked("PUT", "/large/") + hub.asked("POST", "preupload")
    with pytest.raises(PublishError, match="no right to write to bob/public"):
        elsewhere(push, [row()], "bob/public", private=False)
    with pytest.raises(PublishError, match=r"bob/new could not be created.*no right"):
        elsewhere(push, [row()], "bob/new")
    assert hub.asked("PUT", "/large/") + hub.asked("POST", "preupload") == uploads


def test_an_existing_public_repository_is_refused_unless_asked_for(
    hub: HubStandIn, elsewhere: Callable[..., Any]
) -> None:
    repo = hub.add("ada/open", {"README.md": b"# Open\n"}, private=False)
    uploads = hub.asked("PUT", "/large/") + hub.asked("POST", "preupload")
    with pytest.raises(PublishError, match=r"ada/open is public .*pass private=False"):
        elsewhere(push, [row()], "ada/open")
    assert hub.asked("PUT", "/large/") + hub.asked("POST", "preupload") == uploads
    assert repo.files() == {"README.md": b"# Open\n"}
    elsewhere(push, [row(5)], "ada/open", False)
    assert [r["id"] for r in elsewhere(pull, "ada/open")] == [5]
    assert not repo.private
    assert repo.files()["README.md"].decode().count("# Open\n") == 1


def test_private_false_never_opens_a_private_repository(
    hub: HubStandIn, elsewhere: Callable[..., Any]
) -> None:
    repo = hub.add("ada/closed")
    elsewhere(push, [row()], "ada/closed", False)
    assert repo.private
    elsewhere(push, [row()], "ada/new-open", False)
    assert not hub.repos["ada/new-open"].private


def test_a_repository_that_comes_out_public_gets_nothing(
    hub: HubStandIn, elsewhere: Callable[..., Any]
) -> None:
    hub.create_public = True
    with pytest.raises(PublishError, match=r"is public \(nothing was uploaded"):
        elsewhere(push, [row()], "ada/surprise")
    assert set(hub.repos["ada/surprise"].files()) == {".gitattributes"}


def test_a_bare_name_is_the_users_own(hub: HubStandIn, elsewhere: Callable[..., Any]) -> None:
    assert elsewhere(push, [row()], "bare-name").endswith("/datasets/ada/bare-name")
    assert "ada/bare-name" in hub.repos


def test_private_is_said_in_so_many_words() -> None:
    with pytest.raises(OptionError, match="private must be True or False, got None"):
        publish(table(), "ada/x", None, token="hf_write")


@pytest.mark.parametrize("repo_id", ["", "a/b/c", "../x", "ada/with space", "ada/", "/x"])
def test_names_that_cannot_be_are_refused(repo_id: str) -> None:
    with pytest.raises(OptionError, match="repo_id"):
        publish(table(), repo_id, token="hf_write")


def test_a_revision_leaves_main_alone(hub: HubStandIn, elsewhere: Callable[..., Any]) -> None:
    elsewhere(push, [row(1)], "ada/branched")
    main = hub.repos["ada/branched"].files()
    url = elsewhere(push, [row(2)], "ada/branched", revision="v2")
    assert url.endswith("/ada/branched/tree/v2")
    assert hub.repos["ada/branched"].files() == main
    assert [r["id"] for r in elsewhere(pull, "ada/branched", revision="v2")] == [2]
    elsewhere(push, [row(3)], "ada/branched", revision="v2")
    assert [r["id"] for r in elsewhere(pull, "ada/branched", revision="v2")] == [3]
    assert [r["id"] for r in elsewhere(pull, "ada/branched", revision="main")] == [1]


def test_a_second_push_replaces_the_data_and_keeps_what_people_wrote(
    hub: HubStandIn, elsewhere: Callable[..., Any]
) -> None:
    elsewhere(
        push, [row(k) for k in range(9)], "ada/twice", split="train+test", max_shard_size=9000
    )
    repo = hub.repos["ada/twice"]
    assert sum("data/train-" in path for path in repo.files()) > 2
    edited = repo.files()["README.md"].decode().replace("# twice\n", "# Ours\n\nBy hand.\n")
    repo.commit({**repo.files(), "README.md": edited.encode(), "extra.txt": b"theirs"})
    elsewhere(push_split, [row(77)], "ada/twice", "train")
    files = repo.files()
    assert [path for path in files if "data/train-" in path] == [
        "data/train-00000-of-00001.parquet"
    ]
    assert [r["id"] for r in elsewhere(pull, "ada/twice")] == [77]
    assert len(elsewhere(pull, "ada/twice", "test")) == 9
    assert "By hand." in files["README.md"].decode()
    assert files["README.md"].decode().count("hf_regioncap:begin") == 1
    assert files["extra.txt"] == b"theirs"
    elsewhere(push, [row(78)], "ada/twice", split="validation")
    assert [path for path in repo.files() if path.startswith("data/")] == [
        "data/validation-00000-of-00001.parquet"
    ]
    assert [r["id"] for r in elsewhere(pull, "ada/twice", "validation")] == [78]


def test_it_goes_together_with_what_datasets_itself_pushes(
    hub: HubStandIn, elsewhere: Callable[..., Any]
) -> None:
    elsewhere(push_as_datasets_does, [row(1)], "ada/mixed")
    hub.repos["ada/mixed"].private = True
    elsewhere(push_split, [row(2)], "ada/mixed", "test")
    assert [r["id"] for r in elsewhere(pull, "ada/mixed")] == [1]
    assert [r["id"] for r in elsewhere(pull, "ada/mixed", "test")] == [2]
    elsewhere(push_as_datasets_does, [row(3)], "ada/mixed")
    assert [r["id"] for r in elsewhere(pull, "ada/mixed")] == [3]
    assert [r["id"] for r in elsewhere(pull, "ada/mixed", "test")] == [2]


def test_somebody_elses_commit_in_between_is_kept(
    hub: HubStandIn, elsewhere: Callable[..., Any]
) -> None:
    elsewhere(push, [row(1)], "ada/busy")
    hub.conflicts = 1
    elsewhere(push, [row(2)], "ada/busy")
    assert hub.repos["ada/busy"].files()["theirs.txt"] == b"theirs"
    assert [r["id"] for r in elsewhere(pull, "ada/busy")] == [2]


def test_a_conflict_that_never_ends_ends_in_an_error(
    hub: HubStandIn, elsewhere: Callable[..., Any]
) -> None:
    hub.conflicts = 1000
    with pytest.raises(PublishError, match="ada/too-busy was not changed"):
        elsewhere(push, [row(1)], "ada/too-busy")
    assert hub.conflicts >= 990


@pytest.mark.parametrize("step", ["PUT /large/", "POST /commit/", "POST preupload"])
def test_a_push_that_fails_changes_nothing(
    hub: HubStandIn, elsewhere: Callable[..., Any], step: str
) -> None:
    name = f"ada/fails-{step.strip('/').split('/')[-1].split(' ')[-1]}"
    elsewhere(push, [row(1)], name)
    before = hub.repos[name].files()
    method, path = step.split(" ")
    hub.break_at(method, path, 403)
    with pytest.raises(PublishError, match=f"{name} was not changed"):
        elsewhere(push, [row(len(hub.requests))], name)  # nothing that is stored there already
    hub.broken.clear()
    assert hub.repos[name].files() == before
    assert [r["id"] for r in elsewhere(pull, name)] == [1]


def test_a_push_that_is_killed_changes_nothing(
    hub: HubStandIn, elsewhere: Callable[..., Any], environment: dict[str, str]
) -> None:
    elsewhere(push, [row(1)], "ada/killed")
    before = hub.repos["ada/killed"].files()
    arrived = hub.hold_at("PUT", "/large/")
    code = "import test_publishing as t; t.push([t.row(987654)], 'ada/killed')"
    env = {**environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen([sys.executable, "-c", code], env=env, stderr=subprocess.PIPE) as child:
        try:
            assert arrived.wait(60), child.stderr.read()
        finally:
            child.send_signal(signal.SIGKILL)
    hub.held.clear()
    assert hub.repos["ada/killed"].files() == before
    assert [r["id"] for r in elsewhere(pull, "ada/killed")] == [1]


def test_a_card_that_cannot_be_read_is_found_before_any_upload(
    hub: HubStandIn, elsewhere: Callable[..., Any]
) -> None:
    hub.add("ada/torn", {"README.md": b"---\n- a\n- b\n---\n# Torn\n"})
    uploads = hub.asked("PUT", "/large/") + hub.asked("POST", "preupload")
    with pytest.raises(PublishError, match=r"README.md cannot be read"):
        elsewhere(push, [row()], "ada/torn")
    assert hub.asked("PUT", "/large/") + hub.asked("POST", "preupload") == uploads


def test_a_licence_is_inherited_and_never_invented(
    hub: HubStandIn, elsewhere: Callable[..., Any]
) -> None:
    hub.add("ada/licensed", {"README.md": b"---\nlicense: cc-by-4.0\n---\n"})
    hub.add("ada/silent", {"README.md": b"# Silent\n"})
    for source, expected in (
        ("ada/licensed", "cc-by-4.0"),
        ("ada/silent", None),
        ("no/such", None),
    ):
        name = f"ada/from-{source.split('/')[1]}"
        elsewhere(push, [row()], name, source=source)
        data = DatasetCard(hub.repos[name].files()["README.md"].decode()).data.to_dict()
        assert data.get("license") == expected
        assert data["source_datasets"] == [source]
    elsewhere(push, [row()], "ada/stated", source="ada/licensed", license="mit")
    assert b"license: mit" in hub.repos["ada/stated"].files()["README.md"]
    assert elsewhere(source_license, "ada/licensed", token="hf_write") == {"license": "cc-by-4.0"}


def test_a_licence_that_the_hub_does_not_know_is_an_error_in_words(
    hub: HubStandIn, elsewhere: Callable[..., Any]
) -> None:
    with pytest.raises(PublishError, match=r"was not changed: Invalid metadata in README\.md"):
        elsewhere(push, [row()], "ada/odd", license="whatever I like")
    assert "README.md" not in hub.repos["ada/odd"].files()


def test_no_network_is_an_error_in_words(elsewhere: Callable[..., Any]) -> None:
    with pytest.raises(PublishError, match="did not confirm the token") as told:
        elsewhere(push, [row()], "ada/unreachable", endpoint="http://127.0.0.1:9")
    assert "hf_write" not in str(told.value)


def test_a_card_keeps_to_the_recipe_of_the_answers_that_are_written_again(
    tmp_path: Path, make_dataset: Any
) -> None:
    options: dict[str, Any] = {"base_url": "offline", "answer_store": None}
    first = caption_dataset(make_dataset(3), max_requests=2, **options)
    recipe = make_recipe(base_url="offline", language="German")
    write_dataset(first, tmp_path, recipe=recipe)
    card = (tmp_path / "README.md").read_text("utf-8")
    retried = retry_failed(first, **options)
    assert set(retried["answer_status"]) == {"ok"}
    write_dataset(retried, tmp_path)
    again = (tmp_path / "README.md").read_text("utf-8")
    line = "| language | `German` |"
    assert line in card
    assert line in again
    others = caption_dataset(make_dataset(3, start=7), **options)
    write_dataset(others, tmp_path)
    assert line not in (tmp_path / "README.md").read_text("utf-8")
