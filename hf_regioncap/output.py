"""The script's OUTPUT: what an earlier run has left there, and whether this one may replace it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hf_regioncap.card import data_folder, named_splits, recipe_file
from hf_regioncap.columns import ALL_COLUMNS, column_features
from hf_regioncap.errors import OptionError
from hf_regioncap.options import OptionKwargs, Options
from hf_regioncap.review import region_keys

if TYPE_CHECKING:
    from datasets import Features

RECIPE_FILE = "recipe.json"
_WAY_OUT = "name another folder, or pass --overwrite to replace what is there"


class EarlierSplit(NamedTuple):
    """A split that an earlier run has written: its rows, its first and last one, its features."""

    rows: int
    ends: tuple[dict[str, Any], ...]
    features: Features


def earlier_splits(folder: Path) -> dict[str, EarlierSplit]:
    """Look at the splits with rows in OUTPUT's `data/`, reading no more than a row at each end."""
    import pyarrow.parquet as pq
    from datasets import Features

    splits = {}
    for name, files in _files(folder / "data").items():
        opened = [pq.ParquetFile(file) for file in files]
        filled = [file for file in opened if file.metadata.num_rows]
        if filled:
            first = next(filled[0].iter_batches(batch_size=1)).to_pylist()
            group = filled[-1].read_row_group(filled[-1].num_row_groups - 1)
            splits[name] = EarlierSplit(
                sum(file.metadata.num_rows for file in filled),
                (*first, *group.slice(len(group) - 1).to_pylist()),
                Features.from_arrow_schema(filled[0].schema_arrow),
            )
        for file in opened:
            file.close()
    return splits


def _files(data: Path) -> dict[str, list[Path]]:
    """The shards of each split in a folder, in order."""
    found: dict[str, list[Path]] = {}
    for file in sorted(data.glob("*-?????-of-?????*.parquet")):
        found.setdefault(file.name.rsplit("-of-", 1)[0][:-6], []).append(file)
    return found


def check_replaced(dataset: Any, folder: Path, options: Options) -> None:
    """Raise where writing a dataset into OUTPUT would lose rows that are of another one there.

    A split is replaced by rows that begin with its own ones, by the same images and columns; other
    splits stay, and must have the same columns.
    """
    there = earlier_splits(folder)
    given = named_splits(dataset)
    for name, earlier in there.items():
        where = f"OUTPUT {str(folder)!r} holds {earlier.rows:,} captioned rows (split {name!r})"
        if name in given:
            if why := _lost(given[name], earlier, options):
                raise OptionError(f"{where}, and {why}: {_WAY_OUT}")
        elif hasattr(dataset, "values"):
            raise OptionError(f"{where}, a split that the input has not: {_WAY_OUT}")
        elif (features := next(iter(given.values())).features) is not None:
            differ = _other_columns(features, earlier.features, options)
            if differ:
                raise OptionError(
                    f"{where}, with other columns than the input ({', '.join(differ)}), and all "
                    f"splits of a dataset have the same: {_WAY_OUT}"
                )


def _lost(part: Any, earlier: EarlierSplit, options: Options) -> str | None:
    """Why rows that are there would be lost, or None where the same rows take their place."""
    if not hasattr(part, "__len__"):
        return "what a stream will bring is not known"
    if len(part) < earlier.rows:
        return f"this run would write {len(part):,} in their place"
    if differ := _other_columns(part.features, earlier.features, options):
        return f"the input has other columns ({', '.join(differ)})"
    places = (0, earlier.rows - 1)
    rows = [part.with_format("arrow")[place : place + 1].to_pylist()[0] for place in places]
    if any(not _same(row, before, options) for row, before in zip(rows, earlier.ends, strict=True)):
        return "the input has other rows"
    return None


def _other_columns(given: Features, there: Features, options: Options) -> list[str]:
    """Name the columns that are not in both, or not of one type; of images only the name counts."""
    new = column_features(ALL_COLUMNS, options.column_prefix)
    own = {name: kind for name, kind in there.items() if name not in new}
    names = {*given} ^ {*own}
    names |= {
        name
        for name in {*given} & {*own}
        if "Image" not in repr(own[name]) and repr(given[name]) != repr(own[name])
    }
    return sorted(names)


def _same(row: Mapping[str, Any], before: Mapping[str, Any], options: Options) -> bool:
    """Whether a row is the one that was captioned: the same image, the same plain columns."""
    images = [
        region_keys(each.get(options.image_column), [None], [None], image_root=options.image_root)
        for each in (row, before)
    ]
    unknown = region_keys(None, [None], [None])
    if unknown not in images and images[0] != images[1]:
        return False
    plain = [name for name in row if name in before and not _holds_bytes(before[name])]
    texts = [json.dumps([each[name] for name in plain], default=str) for each in (row, before)]
    return texts[0] == texts[1]


def _holds_bytes(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_bytes, value.values()))
    if isinstance(value, list):
        return any(map(_holds_bytes, value))
    return isinstance(value, bytes)


def retried_recipe(folder: Path, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe of OUTPUT after a retry: its own, and beside it what the retry did otherwise.

    >>> folder = getfixture("tmp_path")
    >>> size = (folder / "recipe.json").write_text('{"model": "a", "view": "crop"}')
    >>> retried_recipe(folder, {"model": "b", "view": "crop", "versions": {}})
    {'model': 'a', 'view': 'crop', 'retried_with': {'model': 'b'}}
    """
    own: dict[str, Any] = json.loads((folder / RECIPE_FILE).read_text(encoding="utf-8"))
    options = [name for name in OptionKwargs.__annotations__ if name in recipe]
    other = {name: recipe[name] for name in options if own.get(name) != recipe[name]}
    return {**own, "retried_with": {**own.get("retried_with", {}), **other}} if other else own


def continued_recipe(
    there: Path, written: Path, config_name: str = "default", prefix: str = ""
) -> dict[str, Any] | None:
    """The recipe of a folder, where what was written to take its place are the same answers.

    So it is after a retry: the rows that were `ok` there have the answers that they had.
    """
    file, folder = there / recipe_file(config_name), data_folder(config_name)
    if not file.is_file() or not _same_answers(there / folder, written / folder, prefix):
        return None
    recipe = json.loads(file.read_text(encoding="utf-8"))
    return recipe if isinstance(recipe, dict) else None


def _same_answers(there: Path, written: Path, prefix: str) -> bool:
    """Whether a row of each split is `ok` in the folder there, and all that are have it again."""
    old, new = _files(there), _files(written)
    return bool(new) and all(
        split in old and _continues(old[split], new[split], prefix) for split in new
    )


def _continues(old: list[Path], new: list[Path], prefix: str) -> bool:
    names = [prefix + name for name in ("answer_status", "answer", "region_captions")]
    pairs = itertools.zip_longest(_rows(old, names), _rows(new, names))
    kept = [
        before == after for before, after in pairs if before is None or before[names[0]] == "ok"
    ]
    return bool(kept) and all(kept)


def _rows(files: list[Path], names: list[str]) -> Iterator[dict[str, Any]]:
    """These columns of each row, a few rows in memory at a time; none where they are not there."""
    import pyarrow.parquet as pq

    for file in files:
        with pq.ParquetFile(file) as opened:
            if {*names} <= {*opened.schema_arrow.names}:
                for batch in opened.iter_batches(batch_size=1000, columns=names):
                    yield from batch.to_pylist()
