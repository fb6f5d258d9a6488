"""What `datasets` loads: folders of photos or Parquet, saved datasets, the Hub.

The splits of a folder are told to `datasets` and not left for it to guess: it takes the photo
`test_1.jpg` for a split, and leaves out what is in none.
"""

from __future__ import annotations

import glob
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_regioncap.errors import OptionError
from hf_regioncap.inputs_fields import Tell
from hf_regioncap.wire import redact

#: The name of one of the shards of a split, as `datasets` writes them.
_SHARD = re.compile(r"(\w+(?:\.\w+)*)-\d{5}-of-\d{5}(?:-[0-9a-f]+)?")


def _row_group_by_row_group() -> Any:
    """How a stream reads Parquet: by default it holds whole files in memory."""
    from pyarrow.dataset import ParquetFragmentScanOptions

    return ParquetFragmentScanOptions(pre_buffer=False)


def load_dataset_from(
    name: str,
    split: str | None,
    config: str | None,
    revision: str | None,
    *,
    streaming: bool,
    tell: Tell,
) -> Any:
    """Load a folder, Parquet or a dataset of the Hub; one split, or all in a dict."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    path = Path(name)
    try:
        if _is_saved(path):
            check_not_hub(name, config, revision)
            loaded = _load_saved(path, split, streaming=streaming)
        else:
            given = _given(path, name, tell)
            if "data_files" in given:
                check_not_hub(name, config, revision)
            else:
                given |= {"name": config, "revision": revision}
            if streaming and given["path"] == "parquet":
                given["fragment_scan_options"] = _row_group_by_row_group()
            loaded = load_dataset(**given, split=split, streaming=streaming)
    except OptionError:
        raise
    except DatasetGenerationError as error:  # its cause says what is wrong with which file
        raise OptionError(_cannot(name, error.__cause__ or error)) from None
    except (OSError, ValueError) as error:  # not found, no such split or configuration, offline
        raise OptionError(_cannot(name, error)) from None
    if path.is_dir() and not streaming:
        _tell_read(path, name, loaded, tell)
    if split is None and isinstance(loaded, Mapping) and len(loaded) == 1:
        return next(iter(loaded.values()))
    return loaded


def check_not_hub(name: str, config: str | None, revision: str | None) -> None:
    """Raise where a file or folder is given what only datasets of the Hub have."""
    for option, value in (("config", config), ("revision", revision)):
        if value is not None:
            raise OptionError(
                f"--{option} is for datasets of the Hub, and {name!r} is a file or folder"
            )


def _cannot(name: str, error: BaseException) -> str:
    path = Path(name)
    if not path.exists() and (path.is_absolute() or name.startswith(".") or name.count("/") > 1):
        words = "there is no such file or folder"
    elif path.is_file() and "parquet" not in path.suffix:
        words = "it is no .jsonl, COCO .json, Parquet or folder; bring it into one of these forms"
    else:
        words = redact(" ".join(str(error).split()))[:400]
    return f"INPUT {name!r} cannot be loaded: {words}"


# What is in a folder


def _given(path: Path, name: str, tell: Tell) -> dict[str, Any]:
    """What `load_dataset` is to be given: a builder and the files of each split, or the name."""
    if path.is_dir() and not _has_configuration(path):
        return _given_folder(path, name, tell)
    if not path.is_dir() and ("parquet" in path.suffix or "*" in name):
        return {"path": "parquet", "data_files": name}
    return {"path": name}


def _has_configuration(path: Path) -> bool:
    """Whether the folder's card says which files are its data."""
    card = path / "README.md"
    return card.is_file() and "\nconfigs:" in card.read_text(encoding="utf-8", errors="replace")


def _given_folder(path: Path, name: str, tell: Tell) -> dict[str, Any]:
    files = _files(path)
    photos = [file for file in files if _is_photo(file)]
    metadata = [file for file in files if file.stem == "metadata"]
    # Spark and Delta write files of their own beside the data, with such names.
    own = [file for file in files if not any(part.startswith("_") for part in file.parts)]
    tables = [file for file in own if file.suffix == ".parquet" and file not in metadata]
    archives = [file for file in files if file.suffix.lower() == ".zip"]
    if metadata:
        return _files_of("imagefolder", path, _by_folder(metadata))
    if tables:
        _check_columns(path, name, tables)
        return _files_of("parquet", path, _by_name(tables))
    if photos:
        _check_annotations(path, name, files)
        left = Counter(file.suffix or file.name for file in set(files) - set(photos))
        if left:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(left.items())[:5])
            tell(f"INPUT {name!r}: not read beside the photos: {kinds}")
        return _files_of("imagefolder", path, _by_folder(photos))
    if archives:
        return _files_of("imagefolder", path, _by_name(archives))
    return {"path": name}


def _check_columns(path: Path, name: str, tables: Sequence[Path]) -> None:
    """Raise where Parquet files have not the same columns; `datasets` tells that in 20 lines."""
    import pyarrow.parquet as pq

    first, *others = [(file, set(pq.read_schema(path / file).names)) for file in tables]
    for file, names in others:
        if odd := sorted(names ^ first[1]):
            raise OptionError(
                f"INPUT {name!r} is a folder with Parquet files of other columns: only one of "
                f"{str(first[0])!r} and {str(file)!r} has {odd}: name one file as INPUT"
            )


def _files_of(builder: str, path: Path, splits: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    base = glob.escape(str(path.absolute()))  # its name may hold what means something in a pattern
    patterns = {split: [f"{base}/{part}" for part in parts] for split, parts in splits.items()}
    return {"path": builder, "data_files": patterns}


def _files(folder: Path) -> list[Path]:
    """The files in and below a folder, relative to it, without hidden ones."""
    return sorted(
        relative
        for file in folder.rglob("*")
        for relative in [file.relative_to(folder)]
        if not any(part.startswith((".", "__")) for part in relative.parts) and file.is_file()
    )


def _is_photo(file: Path) -> bool:
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

    return file.suffix.lower() in ImageFolder.EXTENSIONS


def _check_annotations(path: Path, name: str, files: Sequence[Path]) -> None:
    """Raise where photos lie beside a person's boxes, in whose place others would be proposed."""
    for file in (file for file in files if file.suffix == ".json"):
        if _is_coco(path / file):
            raise OptionError(
                f"INPUT {name!r} is a folder with COCO's JSON: name that file as INPUT, "
                f"{str(path / file)!r}, and the folder of its photos as --image-root"
            )
    for file in (file for file in files if file.suffix == ".jsonl"):
        raise OptionError(
            f"INPUT {name!r} is a folder with JSON lines: name that file as INPUT, "
            f"{str(path / file)!r}, or call it metadata.jsonl if its rows have a file_name"
        )


def _is_coco(file: Path) -> bool:
    try:
        data = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(data, dict) and {"images", "annotations"} <= set(data)


def _tell_read(path: Path, name: str, loaded: Any, tell: Tell) -> None:
    parts = loaded if isinstance(loaded, Mapping) else {str(loaded.split or "train"): loaded}
    rows = ", ".join(f"{len(part):,} in {split}" for split, part in parts.items())
    photos = sum(map(_is_photo, _files(path)))
    found = f"{photos:,} photos found, " if photos else ""
    tell(f"INPUT {name!r}: {found}{sum(map(len, parts.values())):,} rows read ({rows})")


# Splits


def _by_folder(files: Sequence[Path]) -> dict[str, list[str]]:
    """Patterns by the split that folders name; one of all files where not all lie in such.

    >>> _by_folder([Path("val2017/1.jpg"), Path("train2017/COCO_val2014_2.jpg")])
    {'validation': ['val2017/**'], 'train': ['train2017/**']}
    >>> _by_folder([Path("1.jpg"), Path("train.jpg"), Path("test/3.jpg")])
    {'train': ['**']}
    """
    patterns: dict[str, list[str]] = {}
    for file in files:
        depth = _split_depth(file)
        if depth is None:
            return {"train": ["**"]}
        split, pattern = str(_split_in(file.parts[depth])), "/".join(file.parts[: depth + 1])
        known = patterns.setdefault(split, [])
        if (escaped := f"{glob.escape(pattern)}/**") not in known:
            known.append(escaped)
    return patterns


def _by_name(files: Sequence[Path]) -> dict[str, list[str]]:
    """Patterns by the split that folders or names say; one of all files where not all do.

    >>> [len(part) for part in _by_name([Path("a.parquet"), Path("test.parquet")]).values()]
    [2]
    >>> list(_by_name([Path("data/dev-00000-of-00001.parquet"), Path("data/train.parquet")]))
    ['validation', 'train']
    """
    shards = [_SHARD.fullmatch(file.stem) for file in files]
    if all(shards):
        splits = [shard[1] if shard else None for shard in shards]
    else:
        depths = [_split_depth(file) for file in files]
        splits = [
            _split_in(file.name.split(".")[0] if depth is None else file.parts[depth])
            for file, depth in zip(files, depths, strict=True)
        ]
    if None in splits:
        splits = ["train"] * len(files)
    patterns: dict[str, list[str]] = {}
    for file, split in zip(files, splits, strict=True):
        patterns.setdefault(str(split), []).append(glob.escape(file.as_posix()))
    return patterns


def _split_depth(file: Path) -> int | None:
    """Which of the folders of a file names a split, the outermost that does."""
    named = (depth for depth, part in enumerate(file.parts[:-1]) if _split_in(part))
    return next(named, None)


def _split_in(name: str) -> str | None:
    """The split that a name says, if it says one.

    >>> [_split_in(name) for name in ("val2017", "coco-train_1", "latest", "test_train")]
    ['validation', 'train', None, None]
    """
    from datasets.data_files import SPLIT_KEYWORDS

    words = set(re.split(r"[-._ 0-9]+", name))
    found = [str(split) for split, keywords in SPLIT_KEYWORDS.items() if words & set(keywords)]
    return found[0] if len(found) == 1 else None


# save_to_disk


def _is_saved(path: Path) -> bool:
    """Whether `save_to_disk` has written the folder."""
    one = (path / "state.json").is_file() and (path / "dataset_info.json").is_file()
    return one or (path / "dataset_dict.json").is_file()


def _load_saved(path: Path, split: str | None, *, streaming: bool) -> Any:
    from datasets import IterableDatasetDict, load_from_disk

    loaded: Any = load_from_disk(str(path))
    if split is not None and isinstance(loaded, Mapping):
        if split not in loaded:
            raise ValueError(f"there is no split {split!r}; it has {list(loaded)}")
        loaded = loaded[split]
    elif split is not None and split != str(loaded.split or "train"):
        raise ValueError(f"it is one split, {str(loaded.split or 'train')!r}, not {split!r}")
    if not streaming:
        return loaded
    if isinstance(loaded, Mapping):
        parts = {name: part.to_iterable_dataset() for name, part in loaded.items()}
        return IterableDatasetDict(parts)
    return loaded.to_iterable_dataset()
