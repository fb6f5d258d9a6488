"""Folders: all of their files are read, or it is told which are not."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, IterableDatasetDict
from PIL import Image as Pictures

from hf_regioncap.errors import OptionError
from hf_regioncap.inputs import load

BOX = [4.0, 4.0, 30.0, 20.0]


def photo(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Pictures.new("RGB", (64, 48), "tan").save(path)
    return path


def parquet(path: Path, rows: int = 1, **columns: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"bbox": [[BOX]] * rows, **columns}), path)


def read(path: Path, **options: Any) -> tuple[Any, list[str]]:
    told: list[str] = []
    dataset, root = load(str(path), tell=told.append, **options)
    assert root == (str(path) if path.is_dir() else None)
    return dataset, told


def sizes(dataset: Any) -> dict[str, int]:
    parts = dataset if isinstance(dataset, dict) else {str(dataset.split): dataset}
    return {name: len(part) for name, part in parts.items()}


NAMES = ["test_1.jpg", "train.jpg", "val-2.png", "a[1].jpg", "_DSC1.jpg", "b.JPG", "c.jpg"]


@pytest.mark.parametrize("folder", ["photos", "test", "x[1]"])
def test_a_folder_of_photos_is_one_split_with_all_of_them(folder: str, tmp_path: Path) -> None:
    for name in [*NAMES, ".hidden.jpg", "sub/test/deep.jpg"]:
        photo(tmp_path / folder / name)
    dataset, told = read(tmp_path / folder)
    assert len(dataset) == 8
    assert told == [f"INPUT '{tmp_path / folder}': 8 photos found, 8 rows read (8 in train)"]
    streamed, _ = read(tmp_path / folder, streaming=True)
    assert sum(1 for _ in streamed) == 8
    assert len(read(tmp_path / folder, limit=2)[0]) == 2


def test_folders_of_splits_are_splits_where_all_photos_lie_in_such(tmp_path: Path) -> None:
    for folder in ("train", "valid", "test2017/cats"):
        photo(tmp_path / folder / "train_1.jpg")
    dataset, _ = read(tmp_path)
    assert sizes(dataset) == {"test": 1, "train": 1, "validation": 1}
    assert len(read(tmp_path, split="validation")[0]) == 1
    photo(tmp_path / "more.jpg")
    assert sizes(read(tmp_path)[0]) == {"train": 4}


def test_what_lies_beside_photos_is_told(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg")
    for name in ("a.txt", "b.txt", "a.xml"):
        (tmp_path / name).write_text("x")
    assert f"INPUT '{tmp_path}': not read beside the photos: 2 .txt, 1 .xml" in read(tmp_path)[1]


@pytest.mark.parametrize(
    ("name", "words"),
    [("train/_annotations.coco.json", "COCO's JSON"), ("rows.jsonl", "JSON lines")],
)
def test_boxes_beside_photos_are_not_passed_over(name: str, words: str, tmp_path: Path) -> None:
    photo(tmp_path / "train" / "a.jpg")
    (tmp_path / name).write_text(json.dumps({"images": [], "annotations": []}))
    with pytest.raises(OptionError, match=rf"folder with {words}: name that file .*{name}"):
        load(str(tmp_path))


def test_a_zipped_folder_is_read_whatever_it_is_called(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg")
    for name in ("photos.zip", "test_more.zip"):
        (tmp_path / "zipped").mkdir(exist_ok=True)
        with zipfile.ZipFile(tmp_path / "zipped" / name, "w") as archive:
            archive.write(tmp_path / "a.jpg", "a.jpg")
    assert sizes(read(tmp_path / "zipped")[0]) == {"train": 2}


# Parquet


def test_what_spark_writes_beside_its_data_is_no_data(tmp_path: Path) -> None:
    parquet(tmp_path / "part-00000.snappy.parquet", 3)
    parquet(tmp_path / "day=2" / "part-00001.snappy.parquet", 2)
    parquet(tmp_path / "_temporary" / "0.parquet", other=[1])
    (tmp_path / "_SUCCESS").touch()
    assert sizes(read(tmp_path)[0]) == {"train": 5}


def test_photos_beside_parquet_belong_to_it(tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    parquet(tmp_path / "boxes.parquet", image=["a.png"])
    dataset, _ = read(tmp_path)
    assert dataset.to_list() == [{"bbox": [BOX], "image": "a.png"}]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train.parquet", "test-b.parquet"], {"test": 1, "train": 1}),
        (["train.parquet", "more.parquet"], {"train": 2}),
        (["dev-00000-of-00001.parquet", "mine-00000-of-00001.parquet"], {"dev": 1, "mine": 1}),
        (["data/train-1.parquet", "data/eval.parquet"], {"test": 1, "train": 1}),
    ],
)
def test_splits_of_parquet_are_those_that_all_names_say(
    names: list[str], expected: dict[str, int], tmp_path: Path
) -> None:
    for name in names:
        parquet(tmp_path / "x[1]" / name)
    assert sizes(read(tmp_path / "x[1]")[0]) == expected


def test_parquet_that_does_not_go_together_is_refused_in_words(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet")
    parquet(tmp_path / "b.parquet", extra=[1])
    with pytest.raises(OptionError, match=r"only one of 'a.parquet' and 'b.parquet' has \['ext"):
        load(str(tmp_path))
    pq.write_table(pa.table({"bbox": [[[1, 2, 3, 4]]]}), tmp_path / "a.parquet")
    parquet(tmp_path / "b.parquet", bbox=[[[0.1, 0.2, 0.3, 0.4]]])
    with pytest.raises(OptionError, match=r"cannot be loaded: .* truncated"):
        load(str(tmp_path))
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    with pytest.raises(OptionError, match="cannot be loaded"):
        load(str(tmp_path))


# save_to_disk


@pytest.mark.parametrize("streaming", [False, True])
def test_saved_datasets_are_read(streaming: bool, tmp_path: Path) -> None:
    one = Dataset.from_dict({"bbox": [[BOX]] * 3})
    one.save_to_disk(str(tmp_path / "one"))
    DatasetDict(train=one, mine=one.select([0])).save_to_disk(str(tmp_path / "two"))
    dataset, _ = read(tmp_path / "one", streaming=streaming)
    assert [row["bbox"] for row in dataset] == [[BOX]] * 3
    splits, _ = read(tmp_path / "two", streaming=streaming)
    assert type(splits) is (IterableDatasetDict if streaming else DatasetDict)
    assert {name: sum(1 for _ in part) for name, part in splits.items()} == {"train": 3, "mine": 1}
    assert [*read(tmp_path / "two", split="mine", streaming=streaming)[0]] == [{"bbox": [BOX]}]
    with pytest.raises(OptionError, match=r"no split 'test'; it has \['train', 'mine'\]"):
        load(str(tmp_path / "two"), split="test")
    with pytest.raises(OptionError, match=r"one split, 'train', not 'test'"):
        load(str(tmp_path / "one"), split="test")


# What is none of these


@pytest.mark.parametrize("name", ["none.csv", "sub/none", "rows.tsv", "empty"])
def test_what_cannot_be_read_is_refused_in_words(name: str, tmp_path: Path) -> None:
    (tmp_path / "rows.tsv").write_text("a\tb\n")
    (tmp_path / "empty").mkdir()
    with pytest.raises(OptionError, match=r"cannot be loaded: .*(no such|it is no|any data)"):
        load(str(tmp_path / name))


@pytest.mark.parametrize("option", ["config", "revision"])
def test_folders_have_no_configuration(option: str, tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg")
    with pytest.raises(OptionError, match=f"--{option} is for datasets of the Hub"):
        load(str(tmp_path), **{option: "x"})  # type: ignore[arg-type]
