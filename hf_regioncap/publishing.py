"""Captioned datasets to a folder or to the Hub: pictures embedded, nothing else taken along.

`write_dataset` and `publish` make the same files: Parquet with every image as bytes, a card, the
recipe. An image is read from where its row says only by the rule of `images.read_image_bytes`
(bytes, the named root, the Hugging Face cache); what may not be read, or is no image, becomes null.
"""

from __future__ import annotations

import functools
import json
import os
import random
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hf_regioncap import card
from hf_regioncap.boxes import USED
from hf_regioncap.cleaning import Cleaner
from hf_regioncap.errors import OptionError, PublishError
from hf_regioncap.images import encode_jpeg, open_picture, peek_picture, read_image_bytes
from hf_regioncap.metadata import image_format, without_metadata
from hf_regioncap.output import continued_recipe
from hf_regioncap.paths import safe_name, without_paths
from hf_regioncap.recipe import published_recipe
from hf_regioncap.review import caption_column_of
from hf_regioncap.tables import split_name, stored_tables, walk

if TYPE_CHECKING:
    import pyarrow as pa

#: The Hub's viewer reads whole row groups and refuses those over 286 MiB; small ones open faster.
ROW_GROUP_BYTES = 50_000_000
ROW_GROUP_ROWS = 1000
#: Rows whose pictures are in memory at a time.
_BATCH = 8
_COMMIT_TRIES = 5
_SAMPLE_SIDE = 1280
_LOCK, _SCRATCH = ".writing.lock", ".writing-"


@dataclass
class _Pictures:
    """What may be pushed of a stored image, and how many were held back."""

    image_column: str
    image_root: str | os.PathLike[str] | None
    keep_metadata: bool
    cleaner: Cleaner = field(init=False)
    withheld: int = 0
    shown: int = 0
    unread: int = 0
    reason: str | None = None

    def __post_init__(self) -> None:
        """Give the other columns a cleaner that keeps the same."""
        self.cleaner = Cleaner(self.keep_metadata)

    def publishable(self, value: Any) -> dict[str, Any] | None:
        """The stored image as bytes and a bare file name, or None."""
        path = value.get("path") if isinstance(value, Mapping) else value
        data = read_image_bytes(value, image_root=self.image_root)
        if data is not None and self.keep_metadata:
            data = data if image_format(data) else None
        elif data is not None:
            data = without_metadata(data)
        if data is None:
            self.withheld += not _is_null(value)
            return None
        return {"bytes": data, "path": safe_name(path) if isinstance(path, str) else None}

    def count(self, values: Sequence[Any], published: Sequence[Any]) -> None:
        """Count which of the rows' own images can be read from where they say."""
        for value, image in zip(values, published, strict=True):
            if image is not None:
                self.shown += 1
            elif not _is_null(value):
                peeked = peek_picture(value, image_root=self.image_root)
                if peeked.status in ("image_refused", "image_missing"):
                    self.unread += 1
                    self.reason = self.reason or peeked.reason

    def check(self) -> None:
        """Raise where not one image could be read: nulls alone would be published."""
        if self.unread and not self.shown:
            root = None if self.image_root is None else os.fspath(self.image_root)
            raise OptionError(
                f"none of the {self.unread} images of the rows may be read with "
                f"image_root={root!r}, so nothing was written: {self.reason}"
            )


def _is_null(value: Any) -> bool:
    if isinstance(value, Mapping):
        return value.get("bytes") is None and not value.get("path")
    return value is None


# Rows and features as they are published.


def _published_features(features: Any, image_column: str) -> Any:
    from datasets import Features

    if features is None:
        raise OptionError(
            "the stream does not tell its columns' types, as IterableDataset.map loses them: make "
            "it with caption_dataset(stream), or tell them, with hf_regioncap.columns: "
            "mapped.cast(Features({**stream.features, **column_features()}))"
        )
    published = {name: _published_feature(name, kind) for name, kind in features.items()}
    name, path = _image_place(features, image_column)
    if name in features:
        published[name] = _with_image_at(path, features[name], published[name])
    return Features(published)


def _image_place(names: Iterable[str], image_column: str) -> tuple[str, list[str]]:
    """The column of the rows' images and the path inside it."""
    try:
        return split_name(image_column, list(names))
    except OptionError:  # there is none, and nothing to be made of it
        return image_column, []


def _with_image_at(path: Sequence[str], feature: Any, published: Any) -> Any:
    """The published feature, with an Image in the place of whatever captions are made from.

    Paths and bytes of every type, bare or in a struct: as pictures, or not at all.
    """
    from datasets import Image, Value

    if path and isinstance(feature, Mapping) and path[0] in feature:
        inner = _with_image_at(path[1:], feature[path[0]], published[path[0]])
        return {**published, path[0]: inner}
    bare = isinstance(feature, Value) and ("string" in feature.dtype or "binary" in feature.dtype)
    stored = isinstance(feature, Mapping) and bool({"bytes", "path"} & set(feature))
    return Image() if not path and (bare or stored) else published


def _fields_beside(features: Any, image_column: str) -> list[str]:
    """Name the fields that stand beside the bytes and path of the rows' images."""
    name, path = _image_place(features, image_column)
    kind = features.get(name)
    for step in path:
        kind = kind.get(step) if isinstance(kind, Mapping) else None
    if not isinstance(kind, Mapping) or not {"bytes", "path"} & set(kind):
        return []
    return [f"{image_column}.{field}" for field in kind if field not in ("bytes", "path")]


def _published_feature(column: str, feature: Any) -> Any:
    from datasets import Image, LargeList, List

    if isinstance(feature, Mapping) and set(feature) == {"bytes", "path"}:
        return Image()  # an image whose type was lost on the way: its path must not get out
    if isinstance(feature, Image):
        return Image(mode=feature.mode)
    if hasattr(feature, "embed_storage"):
        raise OptionError(
            f"column {column!r} holds files of type {type(feature).__name__}, which are not "
            f"published: leave it out with dataset.remove_columns({column!r})"
        )
    if isinstance(feature, Mapping):
        return {name: _published_feature(column, kind) for name, kind in feature.items()}
    if isinstance(feature, List):
        return List(_published_feature(column, feature.feature), length=feature.length)
    if isinstance(feature, LargeList):
        return LargeList(_published_feature(column, feature.feature))
    return feature


def _holds_image(feature: Any) -> bool:
    from datasets import Image

    if isinstance(feature, Mapping):
        return any(_holds_image(kind) for kind in feature.values())
    if hasattr(feature, "feature"):
        return _holds_image(feature.feature)
    return isinstance(feature, Image)


def _with_pictures(column: str, value: Any, feature: Any, pictures: _Pictures) -> Any:
    if value is None:
        return None
    if isinstance(feature, Mapping):
        return {
            name: _with_pictures(column, value[name], kind, pictures)
            for name, kind in feature.items()
        }
    if hasattr(feature, "feature"):
        return [_with_pictures(column, item, feature.feature, pictures) for item in value]
    if _holds_image(feature):
        return pictures.publishable(value)
    return pictures.cleaner.value(column, value)


def _published_table(table: pa.Table, features: Any, pictures: _Pictures, prefix: str) -> pa.Table:
    import pyarrow as pa

    schema = features.arrow_schema
    own, path = _image_place(features, pictures.image_column)
    arrays = []
    for name, feature in features.items():
        column, kind = table[name], schema.field(name).type
        if _holds_image(feature):
            values = column.to_pylist()
            rows = [_with_pictures(name, value, feature, pictures) for value in values]
            if name == own:
                pictures.count([walk(v, path) for v in values], [walk(row, path) for row in rows])
            arrays.append(pa.array(rows, kind))
        elif name == f"{prefix}answer_error":
            arrays.append(pa.array([without_paths(text) for text in column.to_pylist()], kind))
        else:
            arrays.append(pictures.cleaner.column(name, column, kind))
    return pa.Table.from_arrays(arrays, schema=schema)


# Parquet.


@dataclass
class _Split:
    """What was written of one split."""

    name: str
    files: list[Path] = field(default_factory=list)
    rows: int = 0
    nbytes: int = 0


def _write_split(
    folder: Path, name: str, tables: Iterable[pa.Table], features: Any, max_shard_size: int
) -> _Split:
    """Write shards of about `max_shard_size` bytes, named as `datasets` names them."""
    split = _Split(name)
    writer, shard_bytes = None, 0
    try:
        for group in _row_groups(tables, min(max_shard_size, ROW_GROUP_BYTES)):
            if writer is not None and shard_bytes + group.nbytes > max_shard_size:
                writer.close()
                writer = None
            if writer is None:
                split.files.append(folder / f"{name}-{len(split.files):05d}.part")
                writer, shard_bytes = _parquet_writer(split.files[-1], features), 0
            writer.write_table(group, row_group_size=len(group))
            shard_bytes += group.nbytes
            split.rows += len(group)
            split.nbytes += group.nbytes
        if not split.files:  # no rows: a file that holds the types, and no row group
            split.files.append(folder / f"{name}.part")
            writer = _parquet_writer(split.files[-1], features)
    finally:
        if writer is not None:
            writer.close()
    count = len(split.files)
    split.files = [
        part.rename(folder / f"{name}-{index:05d}-of-{count:05d}.parquet")
        for index, part in enumerate(split.files)
    ]
    return split


def _parquet_writer(path: Path, features: Any) -> Any:
    import pyarrow.parquet as pq
    from datasets import config
    from datasets.arrow_writer import get_parquet_column_options

    # As `datasets` itself writes: pictures plain, pages cut by content, so that a changed dataset
    # uploads only what changed, and an index of pages, so that a viewer reads single rows.
    schema = features.arrow_schema
    return pq.ParquetWriter(
        path,
        schema,
        use_content_defined_chunking=config.DEFAULT_CDC_OPTIONS,
        write_page_index=True,
        **get_parquet_column_options(features, schema),
    )


def _row_groups(tables: Iterable[pa.Table], most_bytes: int) -> Iterator[pa.Table]:
    """Join small tables and cut large ones into row groups of bounded bytes and rows."""
    import pyarrow as pa

    pending: list[pa.Table] = []
    nbytes = nrows = 0
    for piece in _pieces(tables, most_bytes):
        if pending and (nbytes + piece.nbytes > most_bytes or nrows + len(piece) > ROW_GROUP_ROWS):
            yield pa.concat_tables(pending)
            pending, nbytes, nrows = [], 0, 0
        pending.append(piece)
        nbytes, nrows = nbytes + piece.nbytes, nrows + len(piece)
    if pending:
        yield pa.concat_tables(pending)


def _pieces(tables: Iterable[pa.Table], most_bytes: int) -> Iterator[pa.Table]:
    for table in tables:
        if table.nbytes <= most_bytes:
            yield table
        else:
            yield from (table.slice(row, 1) for row in range(len(table)))


def _size_in_bytes(size: int | str) -> int:
    """Read a size like "500MB" (powers of 1000) or "1GiB" (of 1024)."""
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return size
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B", str(size), re.IGNORECASE)
    if not found:
        raise OptionError(f"max_shard_size must be bytes or a text like '500MB', got {size!r}")
    power = " KMGT".index(found[2].upper() or " ")
    return max(1, int(float(found[1]) * (1024 if found[3] else 1000) ** power))


# A folder: the data, the card, the recipe, a sample.


@dataclass
class _Result:
    """What was written into a folder, before the card."""

    folder: Path
    config_name: str
    features: Any
    summary: dict[str, Any]
    replaced: list[str]
    splits: list[_Split] = field(default_factory=list)
    whole: bool = False
    sample: str | None = None
    sample_captions: dict[int, str] = field(default_factory=dict)


def write_dataset(
    dataset: Any,
    folder: str | os.PathLike[str],
    *,
    recipe: Mapping[str, Any] | None = None,
    source: str | None = None,
    license: str | Sequence[str] | Mapping[str, Any] | None = None,
    config_name: str = "default",
    image_column: str = "image",
    image_root: str | os.PathLike[str] | None = None,
    column_prefix: str = "",
    keep_metadata: bool = False,
    sample: bool = True,
    max_shard_size: int | str = "500MB",
) -> dict[str, Any]:
    """Write a dataset into a folder so that `load_dataset(folder)` reads it, with a card.

    The folder gets `data/*.parquet`, `README.md`, `recipe.json` and a sample picture; a card that
    is there is merged with, see `card.dataset_card`. A Dataset or IterableDataset replaces its
    split, a DatasetDict all splits. Images are embedded as bytes and lose their metadata unless
    `keep_metadata`; those that may not be read (see `image_root`) become null and are counted. If
    not one of them may be read, an OptionError says so, and what is there stays as it is. What
    stands in `image_column` is written as an Image, whatever its type. Pictures in other columns
    (as bytes or base64) lose their metadata, too, and local paths become the bare names of their
    files; a warning and the card say in which columns. Without a `recipe` the card keeps to the one
    that is there where the same answers take their place, as after `retry_failed`. Returns the
    summary that the card shows, see `card.summarize`.

    >>> from datasets import Dataset
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     summary = write_dataset(Dataset.from_dict({"answer_status": ["ok"]}), folder)
    ...     sorted(path.name for path in Path(folder).rglob("*.*"))
    ['README.md', 'train-00000-of-00001.parquet']
    >>> summary["answer_status"]
    {'ok': 1}
    """
    _common_features(card.named_splits(dataset), image_column)  # raises before a folder is made
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    with _writing(target) as scratch:
        readme = target / "README.md"
        existing = readme.read_text(encoding="utf-8") if readme.is_file() else None
        known = _known(existing, config_name)
        result = _write_files(
            dataset,
            scratch,
            _Pictures(image_column, image_root, keep_metadata),
            recipe=recipe,
            config_name=config_name,
            column_prefix=column_prefix,
            sample=sample,
            shard_bytes=_size_in_bytes(max_shard_size),
        )
        made = recipe or continued_recipe(target, scratch, config_name, column_prefix)
        told: dict[str, Any] = {"recipe": made, "source": source, "license": license}
        text = _card_text(result, existing, known, **told, keep_metadata=keep_metadata)
        _put_in_place(result, target, text)
    return result.summary


@contextmanager
def _writing(folder: Path) -> Iterator[Path]:
    """A place in a folder for what is being written; one process at a time has one there.

    So what lies there when the lock is free was left by a process that was killed.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        words = f"another process writes into {os.fspath(folder)!r}: waiting until it has ended"
        warnings.warn(words, stacklevel=4)
        lock.acquire()
    try:
        for left in folder.glob(f"{_SCRATCH}*"):
            shutil.rmtree(left)
        with tempfile.TemporaryDirectory(dir=folder, prefix=_SCRATCH) as scratch:
            yield Path(scratch)
    finally:
        if (
            os.name == "posix"
        ):  # elsewhere a file cannot go while it is open, and goes with its lock
            (folder / _LOCK).unlink(missing_ok=True)
        lock.release()


def _put_in_place(result: _Result, target: Path, card_text: str) -> None:
    """Move what was written to where it is read; only then does what it replaces go.

    Killed in between, all rows are there, some of them twice: the next run mends that.
    """
    present = [path.relative_to(target).as_posix() for path in target.glob("*/*.parquet")]
    stale = _stale_files(result, present)
    for file in _files_in(result.folder):
        place = target / file.relative_to(result.folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        file.replace(place)
    for path in stale:
        (target / path).unlink()
    readme = result.folder / "README.md"
    readme.write_text(card_text, encoding="utf-8", newline="")
    readme.replace(target / "README.md")


def _write_files(
    dataset: Any,
    folder: Path,
    pictures: _Pictures,
    *,
    recipe: Mapping[str, Any] | None,
    config_name: str,
    column_prefix: str,
    sample: bool,
    shard_bytes: int,
) -> _Result:
    named = card.named_splits(dataset)
    features = _common_features(named, pictures.image_column)
    summary = card.empty_summary(column_prefix)
    card.add_features(summary, features)
    result = _Result(folder, config_name, features, summary, replaced=list(named))
    result.whole = isinstance(dataset, Mapping)
    data = folder / card.data_folder(config_name)
    data.mkdir()
    for name, part in named.items():
        summary["splits"].setdefault(name, 0)
        tables = _published_tables(part, name, result, pictures, sample=sample)
        written = _write_split(data, name, tables, features, shard_bytes)
        result.splits.append(written)
    pictures.check()
    _drop_empty_splits(result)
    cleaner = pictures.cleaner
    summary["images_withheld"] = pictures.withheld + cleaner.withheld.total()
    summary["pictures_cleaned"] = dict(cleaner.pictures)
    summary["paths_removed"] = dict(cleaner.paths)
    first = next(iter(named.values()))
    summary["fields_left_out"] = _fields_beside(first.features, pictures.image_column)
    if changes := card.change_words(summary):
        warnings.warn(f"published otherwise than given: {'; '.join(changes)}", stacklevel=3)
    if recipe is not None:
        text = json.dumps(published_recipe(recipe), indent=2, ensure_ascii=False)
        (folder / card.recipe_file(config_name)).write_text(text + "\n", encoding="utf-8")
    return result


def _drop_empty_splits(result: _Result) -> None:
    """Leave out splits without rows beside others: `load_dataset` fails on such a split."""
    for split in [split for split in result.splits if not split.rows]:
        if len(result.splits) > 1:
            split.files[0].unlink()
            result.splits.remove(split)
            del result.summary["splits"][split.name]


def _common_features(named: Mapping[str, Any], image_column: str) -> Any:
    if not named:
        raise OptionError("the dataset has no splits: there is nothing to write")
    first, *others = (_published_features(part.features, image_column) for part in named.values())
    if any(features != first for features in others):
        raise OptionError("all splits of a dataset must have the same features")
    return first


def _published_tables(
    part: Any, split: str, result: _Result, pictures: _Pictures, *, sample: bool
) -> Iterator[pa.Table]:
    for table in stored_tables(part, _BATCH):
        prefix = result.summary["column_prefix"]
        published = _published_table(table, result.features, pictures, prefix)
        card.add_rows(result.summary, split, published)
        if sample and result.sample is None:
            _take_sample(published, result)
        yield published


def _take_sample(table: pa.Table, result: _Result) -> None:
    """Keep the first drawn image that has captions, bounded in size, for the card."""
    prefix = result.summary["column_prefix"]
    captions = caption_column_of(table.column_names, prefix)
    drawn, *texts = f"{prefix}image_with_bbox", f"{prefix}box_status", captions
    if not {drawn, *texts} <= set(table.column_names):
        return
    for row in range(len(table)):
        said = _numbered_captions(*(table[name][row].as_py() for name in texts))
        picture = open_picture(table[drawn][row].as_py(), max_side=_SAMPLE_SIDE) if said else None
        if picture is not None and picture.image is not None:
            result.sample, result.sample_captions = card.sample_file(result.config_name), said
            file = result.folder / result.sample
            file.parent.mkdir()
            file.write_bytes(encode_jpeg(picture.image))
            return


def _numbered_captions(
    box_status: Sequence[str] | None, captions: Sequence[str | None] | None
) -> dict[int, str]:
    used = [
        caption
        for status, caption in zip(box_status or (), captions or (), strict=False)
        if status in USED
    ]
    return {number: caption for number, caption in enumerate(used, start=1) if caption}


def _files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


class _Known(NamedTuple):
    """What an existing card states of a configuration: its `DatasetInfo`, and its splits."""

    info: Any = None
    splits: tuple[str, ...] = ()


def _known(existing: str | None, config_name: str) -> _Known:
    from datasets.info import DatasetInfosDict
    from huggingface_hub import DatasetCard

    if not existing or not existing.lstrip("\ufeff \n").startswith("---"):
        return _Known()
    try:
        data = DatasetCard(existing).data
        info = DatasetInfosDict.from_dataset_card_data(data).get(config_name)
    except Exception as error:  # the YAML reader's own classes, or features of a newer `datasets`
        raise PublishError(_words("the existing README.md cannot be read", error)) from None
    listed = card.data_files(data.get("configs"), config_name)
    return _Known(info, tuple({**(info.splits or {} if info else {}), **listed}))


def _kept_splits(result: _Result, known: _Known) -> list[str]:
    """Name the splits that stay beside those that were written; their features must be the same."""
    kept = [] if result.whole else [name for name in known.splits if name not in result.replaced]
    stated = known.info.features if known.info else None
    if kept and stated is not None and stated != result.features:
        raise PublishError(
            f"the dataset there has split(s) {kept} with other features, and all splits of a "
            "configuration must have the same: pass a DatasetDict with all splits, or another "
            "config_name"
        )
    return kept


def _stale_files(result: _Result, present: Iterable[str]) -> list[str]:
    """Of the files that are there, the Parquet files of splits that are replaced."""
    folder = re.escape(card.data_folder(result.config_name))
    shard = re.compile(folder + r"/(\w+(?:\.\w+)*)-\d{5}-of-\d{5}(?:-[0-9a-f]+)?\.parquet")
    new = {path.relative_to(result.folder).as_posix() for path in _files_in(result.folder)}
    found = [(path, shard.fullmatch(path)) for path in present if path not in new]
    return [
        path for path, match in found if match and (result.whole or match[1] in result.replaced)
    ]


def _card_text(
    result: _Result, existing: str | None, known: _Known, *, repo_id: str | None = None, **told: Any
) -> str:
    kept = _kept_splits(result, known)
    return card.dataset_card(
        result.summary,
        existing=existing,
        repo_id=repo_id,
        config_name=result.config_name,
        kept_splits=kept,
        dataset_info=_dataset_info(result, known.info, kept),
        sample=result.sample,
        sample_captions=result.sample_captions,
        **told,
    )


def _dataset_info(result: _Result, stated: Any, kept: Sequence[str]) -> dict[str, Any] | None:
    """Features, rows and bytes as `datasets` keeps them in a card's metadata, if all are known."""
    from datasets import DatasetInfo
    from datasets.info import DatasetInfosDict
    from datasets.splits import SplitDict, SplitInfo
    from huggingface_hub import DatasetCardData

    known = (stated.splits if stated else None) or {}
    if any(name not in known for name in kept):
        return None  # a wrong number of rows would be an error in `load_dataset`
    splits = SplitDict()
    for name in kept:
        splits.add(known[name])
    for split in result.splits:
        splits.add(SplitInfo(name=split.name, num_bytes=split.nbytes, num_examples=split.rows))
    info = DatasetInfo(
        features=result.features,
        splits=splits,
        download_size=sum(f.stat().st_size for split in result.splits for f in split.files),
        dataset_size=sum(split.num_bytes or 0 for split in splits.values()),
    )
    data = DatasetCardData()
    DatasetInfosDict({"default": info}).to_dataset_card_data(data)
    return dict(data["dataset_info"])


# The Hub.


def publish(
    dataset: Any,
    repo_id: str,
    private: bool = True,
    *,
    token: str | None = None,
    endpoint: str | None = None,
    revision: str | None = None,
    recipe: Mapping[str, Any] | None = None,
    source: str | None = None,
    license: str | Sequence[str] | Mapping[str, Any] | None = None,
    config_name: str = "default",
    image_column: str = "image",
    image_root: str | os.PathLike[str] | None = None,
    column_prefix: str = "",
    keep_metadata: bool = False,
    sample: bool = True,
    max_shard_size: int | str = "500MB",
    commit_message: str | None = None,
) -> str:
    """Push a captioned dataset to the Hub with a card that says how it was made; returns its URL.

    Private unless asked otherwise, and looked at before and after: an existing public repository
    is refused without `private=False`, and a private one is never opened. Token and rights are
    checked before anything is uploaded, and a new repository is made only when there is something
    to put into it. `revision` is a branch (made if missing) or `refs/pr/N`.
    The data arrives in one commit, so that an interrupted push changes nothing; a second push
    replaces the split of a Dataset, or all splits of a DatasetDict, within its `config_name`.
    `recipe` holds the options of the run; `source` is the Hub id of the dataset that was captioned,
    whose licence is inherited where none is given. For the files and what becomes of images see
    `write_dataset`; they are made in the temporary folder, which needs room for them. Raises
    PublishError, with nothing pushed unless it says so.

    >>> from datasets import Dataset
    >>> publish(Dataset.from_dict({"image": []}), "not/a/name", token="hf_…")
    Traceback (most recent call last):
    hf_regioncap.errors.OptionError: repo_id must be 'name' or 'owner/name', got 'not/a/name'
    """
    if not isinstance(private, bool):
        raise OptionError(f"private must be True or False, got {private!r}")
    card.data_folder(config_name)  # raises for a name that cannot be
    shard_bytes = _size_in_bytes(max_shard_size)
    _check_repo_id(repo_id)
    _common_features(card.named_splits(dataset), image_column)  # raises for what cannot be pushed
    hub = _Hub(repo_id, token, endpoint, revision)
    there = hub.is_there()
    if there:
        hub.open(private)
        hub.state(config_name)  # a card that cannot be read is found before the long work
    if license is None and source:
        license = source_license(source, token=token, endpoint=endpoint)
    with tempfile.TemporaryDirectory(prefix="regioncap-") as scratch:
        result = _write_files(
            dataset,
            Path(scratch),
            _Pictures(image_column, image_root, keep_metadata),
            recipe=recipe,
            config_name=config_name,
            column_prefix=column_prefix,
            sample=sample,
            shard_bytes=shard_bytes,
        )
        if not there:
            hub.create(private)
            hub.open(private)
        told: dict[str, Any] = {"recipe": recipe, "source": source, "license": license}
        readme = functools.partial(
            _card_text, result, **told, keep_metadata=keep_metadata, repo_id=hub.repo_id
        )
        message = commit_message or f"Add {result.summary['rows']:,} rows with region captions"
        hub.commit(result, readme, message)
    hub.check_private(private, "looked at after the push")
    return hub.url


def _check_repo_id(repo_id: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo_id)
    except HFValidationError:
        raise OptionError(f"repo_id must be 'name' or 'owner/name', got {repo_id!r}") from None


def source_license(
    source: str, *, token: str | None = None, endpoint: str | None = None
) -> dict[str, Any] | None:
    """Read the licence keys of a dataset's card on the Hub, as `dataset_card` takes them.

    None where it states none, is not on the Hub, or may not be read: nothing is made up.

    >>> source_license("no such id/on/the hub") is None
    True
    """
    from huggingface_hub import HfApi

    try:
        data: Any = HfApi(endpoint=endpoint, token=token).dataset_info(source).card_data
    except Exception:  # not on the Hub, not ours to see, offline: then no licence is inherited
        return None
    stated = data.to_dict() if data is not None else {}
    keys = ("license", "license_name", "license_link")
    return {key: stated[key] for key in keys if key in stated} or None


class _Hub:
    """One dataset repository on the Hub, every refusal of which is a PublishError."""

    def __init__(
        self, repo_id: str, token: str | None, endpoint: str | None, revision: str | None
    ) -> None:
        from huggingface_hub import HfApi, get_token

        self.repo_id = repo_id
        self.revision = revision
        self._token = token or get_token()
        self._api = HfApi(endpoint=endpoint, token=self._token, library_name="hf_regioncap")

    @property
    def url(self) -> str:
        tree = f"/tree/{self.revision}" if self.revision else ""
        return f"{self._api.endpoint}/datasets/{self.repo_id}{tree}"

    def is_there(self) -> bool:
        """Check the token, and look for the repository; nothing is changed."""
        from huggingface_hub.errors import RepositoryNotFoundError

        user = self._check_token()
        if "/" not in self.repo_id:
            self.repo_id = f"{user}/{self.repo_id}"
        try:
            self._api.repo_info(**self._repo)
        except RepositoryNotFoundError:
            return False
        except Exception as error:  # see `_ask`
            raise PublishError(_words(f"{self.repo_id} cannot be read", error)) from None
        return True

    def create(self, private: bool) -> None:
        """Make the repository."""
        self._ask(
            f"{self.repo_id} could not be created",
            self._api.create_repo,
            **self._repo,
            private=private,
            exist_ok=True,
        )

    def open(self, private: bool) -> None:
        """Check visibility and rights; make the branch if it is missing."""
        self.check_private(private, "nothing was uploaded")
        if self.revision is None or not self.revision.startswith("refs/pr/"):
            self._check_rights()
        if self.revision and not self.revision.startswith("refs/"):
            self._ask(
                f"branch {self.revision!r} could not be made",
                self._api.create_branch,
                **self._repo,
                branch=self.revision,
                exist_ok=True,
            )

    def _check_token(self) -> str:
        if not self._token:
            raise PublishError(
                "there is no Hugging Face token: run `hf auth login`, set HF_TOKEN, or pass token="
            )
        who = self._ask("the Hub did not confirm the token", self._api.whoami)
        if who.get("auth", {}).get("accessToken", {}).get("role") == "read":
            raise PublishError(
                f"the token of {who['name']!r} may only read: make one that may write at "
                f"{self._api.endpoint}/settings/tokens"
            )
        return str(who["name"])

    def check_private(self, private: bool, moment: str) -> None:
        """Raise where the repository is public and should not be."""
        info = self._ask("its visibility is not known", self._api.repo_info, **self._repo)
        if private and info.private is not True:
            raise PublishError(
                f"{self.repo_id} is public ({moment}): make it private on the Hub, push elsewhere, "
                "or pass private=False"
            )

    def state(self, config_name: str) -> tuple[str | None, _Known, str, list[str]]:
        """Of the branch's head: the card, what it states of the configuration, commit, files."""
        info = self._ask(
            f"{self.repo_id} cannot be read",
            self._api.repo_info,
            **self._repo,
            revision=self.revision,
        )
        files = [sibling.rfilename for sibling in info.siblings or ()]
        existing = self._readme(info.sha) if "README.md" in files else None
        return existing, _known(existing, config_name), info.sha, files

    def _readme(self, sha: str) -> str:
        with tempfile.TemporaryDirectory() as folder:
            path = self._ask(
                "the existing README.md cannot be read",
                self._api.hf_hub_download,
                **self._repo,
                filename="README.md",
                revision=sha,
                local_dir=folder,
            )
            with Path(path).open(encoding="utf-8", newline="") as file:
                return file.read()

    def commit(
        self, result: _Result, readme: Callable[[str | None, _Known], str], message: str
    ) -> None:
        """Push everything in one commit, on top of what is there; again if somebody was faster."""
        from huggingface_hub import CommitOperationAdd
        from huggingface_hub.errors import HfHubHTTPError

        additions = [
            CommitOperationAdd(path.relative_to(result.folder).as_posix(), path)
            for path in _files_in(result.folder)
        ]
        for attempt in range(1, _COMMIT_TRIES + 1):
            existing, known, parent, present = self.state(result.config_name)
            text = readme(existing, known)
            try:
                self._api.create_commit(
                    **self._repo,
                    operations=_operations(additions, text, _stale_files(result, present)),
                    commit_message=message,
                    revision=self.revision,
                    parent_commit=parent,
                )
                return
            except Exception as error:  # see `_ask`
                conflict = isinstance(error, HfHubHTTPError) and _status(error) in (409, 412)
                if not conflict or attempt == _COMMIT_TRIES:
                    raise PublishError(_words(f"{self.repo_id} was not changed", error)) from None
            time.sleep(0.1 * 2**attempt * (1 + random.random()))

    @property
    def _repo(self) -> dict[str, Any]:
        return {"repo_id": self.repo_id, "repo_type": "dataset"}

    def _check_rights(self) -> None:
        from huggingface_hub.errors import HfHubHTTPError

        try:
            self._api.auth_check(**self._repo, write=True)
        except HfHubHTTPError as error:
            if _status(error) in (401, 403):
                raise PublishError(
                    f"the token has no right to write to {self.repo_id}: nothing was uploaded"
                ) from None
            # Any other answer: the check itself is not offered there; the commit will tell.

    def _ask(self, failure: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return call(*args, **kwargs)
        except Exception as error:  # the client's errors, those of its HTTP library, and OSError
            raise PublishError(_words(failure, error)) from None


def _operations(additions: Sequence[Any], readme: str, stale: Iterable[str]) -> list[Any]:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    card_addition = CommitOperationAdd("README.md", readme.encode())
    return [*additions, card_addition, *(CommitOperationDelete(path) for path in stale)]


def _status(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _words(failure: str, error: Exception) -> str:
    """One line of what went wrong; the client's own messages hold addresses, but no token."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    hints = {401: "; the token is wrong or has expired", 403: "; the token has no right to do that"}
    hint = hints.get(_status(error) or 0, "")
    return f"{failure}: {lines[0] if lines else type(error).__name__}{hint}"
