"""The dataset card: what the data is, how it was made and what it is worth, as a README.md.

Pure text: metadata on top in YAML, as the Hub reads it, then one section of Markdown between two
HTML comments. Whatever else stands in an existing card was written by people and stays. Nothing
that comes from the data (captions, labels, column names, prompts, a model's name) is trusted: it
gets into the YAML only through the YAML library, and into the Markdown only as code.
"""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from hf_regioncap.errors import OptionError, PublishError
from hf_regioncap.offline import MODEL as DESCRIBER
from hf_regioncap.paths import base_name
from hf_regioncap.recipe import is_offline, left_out, public_recipe, public_text
from hf_regioncap.review import caption_column_of
from hf_regioncap.tables import stored_tables

if TYPE_CHECKING:
    import pyarrow as pa

#: What a card says of the columns that this library adds.
COLUMNS = {
    "type": "`with_bbox`, or `without_bbox` where the row came without boxes",
    "image_status": "`ok`, or why there is no picture",
    "region_boxes": "x, y, width, height in pixels of the upright image; null: no place",
    "box_status": "of each box; `ok` and `clipped` ones are used, and numbered from 1",
    "normalized_bbox": "the used boxes as x1, y1, x2, y2, fractions of the image; zeros fill up",
    "valid_bboxes_num": "how many boxes are used",
    "image_with_bbox": "the image with its used boxes drawn and numbered",
    "prompt": "what the model was asked",
    "answer": "what the model answered, as received",
    "region_captions": "a caption for each box, in the order of `region_boxes`; null: none",
    "answer_status": "`ok`, `ok_partial`, or what went wrong",
    "answer_error": "the reason in words",
    "usage": "tokens, as the endpoint counted them",
    "caption_reviewed": "the captions after review by a person",
    "review_status": "what the person who reviewed them decided",
}

_HUB_ID = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?")
_CONFIG_NAME = re.compile(r"[\w.][\w.-]{0,95}")
_SPLIT_NAME = re.compile(r"\w+(\.\w+)*")
_ADDED_LISTS = {
    "annotations_creators": ["machine-generated"],
    "task_categories": ["image-to-text", "object-detection"],
    "task_ids": ["image-captioning"],
    "tags": ["synthetic", "region-captioning"],
}
_COUNTED = ("type", "image_status", "answer_status", "box_status", "review_status")
_USAGE = ("prompt_tokens", "completion_tokens")
_BATCH = 1000


# What is in the data.


def named_splits(dataset: Any) -> dict[str, Any]:
    """Return the splits of a dataset of any kind by name; a single one is "train" unless it says.

    >>> from datasets import Dataset, DatasetDict
    >>> list(named_splits(Dataset.from_dict({"a": [1]})))
    ['train']
    >>> list(named_splits(DatasetDict({"test": Dataset.from_dict({"a": [1]})})))
    ['test']
    """
    from datasets import Dataset, IterableDataset

    if isinstance(dataset, Dataset | IterableDataset):
        return {split_name(dataset.split): dataset}
    if not isinstance(dataset, Mapping):
        raise OptionError(f"dataset must be a Dataset or DatasetDict, got {type(dataset).__name__}")
    return {_checked_split(str(name)): part for name, part in dataset.items()}


def split_name(split: Any) -> str:
    """Name the split that rows come from, without which of its rows; several become one name.

    >>> split_name("test[:2]"), split_name("train[:10%]+test"), split_name(None)
    ('test', 'train_test', 'train')
    """
    parts = (part.split("[")[0].strip() for part in str(split or "train").split("+"))
    return _checked_split("_".join(dict.fromkeys(parts)))


def _checked_split(name: str) -> str:
    if not _SPLIT_NAME.fullmatch(name):
        raise OptionError(
            f"a split's name must be letters, digits, '_' and '.', got {name!r}: give it another, "
            "DatasetDict({'NAME': dataset})"
        )
    return name


def summarize(dataset: Any, *, column_prefix: str = "") -> dict[str, Any]:
    """Count what a captioned dataset holds, from its Arrow columns alone: no image is decoded.

    `rows`, `splits` (rows by name), `columns` (types by name), how often each value of `type`,
    `image_status`, `answer_status`, `box_status` and `review_status` occurs, `boxes`, `captions`,
    `prompt_tokens`, `completion_tokens`, `usage_unknown` (answered rows without a count), and
    `prompt`, the first one.

    >>> from datasets import Dataset
    >>> rows = {"answer_status": ["ok", "api_error"], "region_captions": [["a cat", None], [None]]}
    >>> counts = summarize(Dataset.from_dict(rows))
    >>> counts["rows"], counts["answer_status"], counts["boxes"], counts["captions"]
    (2, {'ok': 1, 'api_error': 1}, 3, 1)
    """
    summary = empty_summary(column_prefix)
    for split, part in named_splits(dataset).items():
        add_features(summary, part.features)
        names = [name for name in part.features or () if name in _read_names(column_prefix)]
        # Without any of our columns there is still something to count: the rows of the first one.
        names = names or list(part.features or ())[:1]
        read = part.select_columns(names) if names else part
        summary["splits"][split] = 0
        for table in stored_tables(read, _BATCH):
            add_rows(summary, split, table)
    return summary


def empty_summary(column_prefix: str = "") -> dict[str, Any]:
    """Return the summary of no rows, to which `add_features` and `add_rows` add.

    >>> empty_summary()["rows"]
    0
    """
    counts: dict[str, Any] = {name: {} for name in _COUNTED}
    numbers = dict.fromkeys(("rows", "boxes", "captions", *_USAGE, "usage_unknown"), 0)
    return {
        "column_prefix": column_prefix,
        "splits": {},
        "columns": {},
        **numbers,
        **counts,
        "prompt": None,
        "images_withheld": 0,
        "pictures_cleaned": {},
        "paths_removed": {},
        "fields_left_out": [],
    }


def add_features(summary: dict[str, Any], features: Mapping[str, Any] | None) -> None:
    """Note the columns and their types in words.

    >>> from datasets import Image, List, Value
    >>> summary = empty_summary()
    >>> add_features(summary, {"image": Image(), "bbox": List(List(Value("float64")))})
    >>> summary["columns"]
    {'image': 'Image', 'bbox': 'List(List(float64))'}
    """
    summary["columns"].update({name: _type_words(kind) for name, kind in (features or {}).items()})


def add_rows(summary: dict[str, Any], split: str, table: pa.Table) -> None:
    """Add the rows of a table of that split to the summary.

    >>> import pyarrow as pa
    >>> summary = empty_summary()
    >>> add_rows(summary, "train", pa.table({"box_status": [["ok", "ok"], ["outside"], []]}))
    >>> summary["splits"], summary["box_status"]
    ({'train': 3}, {'ok': 2, 'outside': 1})
    """
    prefix = summary["column_prefix"]
    summary["rows"] += len(table)
    summary["splits"][split] = summary["splits"].get(split, 0) + len(table)
    columns = {
        name.removeprefix(prefix): table[name]
        for name in table.column_names
        if name in _read_names(prefix)
    }
    for name in _COUNTED:
        if name in columns:
            _add_values(summary[name], columns[name])
    if "region_captions" in columns:
        captions = _flat(columns["region_captions"])
        summary["boxes"] += len(captions)
        summary["captions"] += len(captions) - captions.null_count
    if "usage" in columns:
        _add_usage(summary, columns)
    if summary["prompt"] is None and "prompt" in columns:
        known = columns["prompt"].drop_null()
        summary["prompt"] = known[0].as_py() if len(known) else None


@functools.cache
def _read_names(prefix: str) -> frozenset[str]:
    read = (*_COUNTED, "region_captions", "usage", "prompt", "answer")
    return frozenset(prefix + name for name in read)


def _flat(column: Any) -> Any:
    import pyarrow.compute as pc

    while hasattr(column.type, "value_type"):
        column = pc.list_flatten(column)
    return column


def _add_values(counts: dict[str, int], column: Any) -> None:
    for pair in _flat(column).drop_null().value_counts().to_pylist():
        counts[str(pair["values"])] = counts.get(str(pair["values"]), 0) + pair["counts"]


def _add_usage(summary: dict[str, Any], columns: Mapping[str, Any]) -> None:
    import pyarrow.compute as pc

    usage = columns["usage"]
    for name in _USAGE:
        field = pc.struct_field(usage, name)
        summary[name] += pc.sum(field).as_py() or 0
    if "answer" in columns:
        unknown = pc.and_(pc.is_null(usage), pc.is_valid(columns["answer"]))
        summary["usage_unknown"] += pc.sum(unknown).as_py() or 0


def _type_words(feature: Any) -> str:
    if isinstance(feature, Mapping):
        return (
            "{" + ", ".join(f"{name}: {_type_words(kind)}" for name, kind in feature.items()) + "}"
        )
    if hasattr(feature, "feature"):
        return f"List({_type_words(feature.feature)})"
    if type(feature).__name__ == "Value":
        return str(feature.dtype)
    return type(feature).__name__


def _host(recipe: Mapping[str, Any]) -> str | None:
    base_url = recipe.get("base_url")
    if not isinstance(base_url, str) or not base_url:
        return None
    return urlsplit(base_url).hostname or base_url


# Text from the data, made harmless.


def as_code(text: Any, limit: int = 300) -> str:
    """Return any text as one line of Markdown code, in which nothing is markup.

    >>> print(as_code("a <b>cat</b> [x](javascript:y) `z`"))
    `` a <b>cat</b> [x](javascript:y) `z` ``
    >>> as_code("")
    '` `'
    """
    line = " ".join(_printable(str(text)).split())
    line = line if len(line) <= limit else line[: limit - 1] + "…"
    fence = "`" * (_longest_run(line, "`") + 1)
    pad = " " if "`" in line else ""
    return f"{fence}{pad}{line or ' '}{pad}{fence}"


def as_code_block(text: Any, language: str = "text", limit: int = 4000) -> str:
    """Return any text as a fenced block of Markdown code, which nothing in it can end.

    >>> print(as_code_block("``` it"))
    ````text
    ``` it
    ````
    """
    whole = _printable(str(text))
    whole = whole if len(whole) <= limit else whole[: limit - 1] + "…"
    fence = "`" * max(3, _longest_run(whole, "`") + 1)
    return f"{fence}{language}\n{whole}\n{fence}"


def _printable(text: str) -> str:
    """Text without control and direction characters, and without the marks of our own section."""
    kept = "".join(
        character
        for character in text.replace("\r\n", "\n")
        if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co")
    )
    return kept.replace("<!--", "<! --")


def _longest_run(text: str, character: str) -> int:
    return max((len(run) for run in re.findall(f"{re.escape(character)}+", text)), default=0)


# The card.


def data_folder(config_name: str) -> str:
    """Return the folder of a configuration's Parquet files in the repository.

    >>> data_folder("default"), data_folder("crops")
    ('data', 'crops')
    >>> data_folder("../up")
    Traceback (most recent call last):
    hf_regioncap.errors.OptionError: config_name must be letters, digits, '.', '-', '_', got '../up'
    """
    if not _CONFIG_NAME.fullmatch(config_name) or config_name in ("data", "assets", ".", ".."):
        raise OptionError(
            f"config_name must be letters, digits, '.', '-', '_', got {config_name!r}"
        )
    return "data" if config_name == "default" else config_name


def recipe_file(config_name: str = "default") -> str:
    """Return the name under which the recipe lies beside the card.

    >>> recipe_file(), recipe_file("crops")
    ('recipe.json', 'recipe-crops.json')
    """
    return "recipe.json" if config_name == "default" else f"recipe-{config_name}.json"


def sample_file(config_name: str = "default") -> str:
    """Return the path of the sample picture in the repository.

    >>> sample_file(), sample_file("crops")
    ('assets/sample.jpg', 'assets/sample-crops.jpg')
    """
    return f"assets/sample{'' if config_name == 'default' else f'-{config_name}'}.jpg"


def dataset_card(
    summary: Mapping[str, Any],
    *,
    recipe: Mapping[str, Any] | None = None,
    source: str | None = None,
    license: str | Sequence[str] | Mapping[str, Any] | None = None,
    existing: str | None = None,
    repo_id: str | None = None,
    config_name: str = "default",
    kept_splits: Sequence[str] = (),
    dataset_info: Mapping[str, Any] | None = None,
    sample: str | None = None,
    sample_captions: Mapping[int, str] | None = None,
    keep_metadata: bool = False,
) -> str:
    """Write the card of a captioned dataset: YAML metadata and Markdown, as the Hub reads them.

    `summary` is what `summarize` counts, `recipe` the options of the run. `source` is the Hub id of
    the dataset that was captioned. `license` is an identifier, several, or a mapping of the
    metadata's licence keys; without it the existing card's stays, and if there is none, none is
    stated. `existing` is the card to merge with: its metadata is kept and completed, its text is
    kept, only the section of this configuration is replaced. `sample` is the path of a picture in
    the repository, `sample_captions` its captions by region number. Raises PublishError where the
    existing card's metadata cannot be read.

    >>> card = dataset_card(empty_summary(), recipe={"model": "m"}, existing="# Made by hand")
    >>> "- machine-generated" in card, "# Made by hand" in card
    (True, True)
    """
    from huggingface_hub import DatasetCard

    shown = public_recipe(recipe)
    card = DatasetCard(_with_front_matter(existing, repo_id))
    _merge_metadata(
        card.data,
        summary,
        source=source,
        license=license,
        config_name=config_name,
        kept_splits=kept_splits,
        dataset_info=dataset_info,
    )
    licensed = bool(card.data.get("license"))
    picture = _sample_part(sample, sample_captions or {})
    parts = [
        "## What this is",
        _about_part(summary, shown, source),
        *picture,
        *_loading_part(summary, repo_id, config_name),
        *_making_part(summary, shown, config_name, left_out(recipe)),
        *_counts_part(summary),
        *_columns_part(summary),
        *_limits_part(summary, shown, licensed=licensed, keep_metadata=keep_metadata),
    ]
    card.text = _merged_text(card.text, "\n\n".join(part for part in parts if part), config_name)
    return str(card)


def _with_front_matter(existing: str | None, repo_id: str | None) -> str:
    from huggingface_hub import DatasetCard
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    text = (existing or "").lstrip("\ufeff")
    if not text.strip():
        text = f"\n# {base_name(repo_id) if repo_id else 'Region captions'}\n"
    if not REGEX_YAML_BLOCK.search(text):
        return "---\n{}\n---\n" + text
    try:
        DatasetCard(text)
    except Exception as error:  # the YAML reader's own classes: whatever it is, a person wrote it
        raise PublishError(
            f"the metadata of the existing README.md cannot be read, so nothing was written over "
            f"it: {str(error).splitlines()[0]}"
        ) from None
    return text


def _merge_metadata(
    data: Any,
    summary: Mapping[str, Any],
    *,
    source: str | None,
    license: str | Sequence[str] | Mapping[str, Any] | None,
    config_name: str,
    kept_splits: Sequence[str],
    dataset_info: Mapping[str, Any] | None,
) -> None:
    added = dict(_ADDED_LISTS)
    if source and _HUB_ID.fullmatch(source):
        added["source_datasets"] = [source]
    for key, values in added.items():
        data[key] = _union(data.get(key), values)
    if isinstance(license, Mapping):
        for key in ("license", "license_name", "license_link"):
            if license.get(key):
                data[key] = license[key]
    elif license:
        data["license"] = license if isinstance(license, str) else list(license)
    infos = dataset_info or {}
    rows = sum(split.get("num_examples", 0) for split in infos.get("splits", ()))
    data["size_categories"] = [_size_category(rows or summary["rows"])]
    folder = data_folder(config_name)
    splits = list(dict.fromkeys([*kept_splits, *summary["splits"]]))
    known_files = data_files(data.get("configs"), config_name)
    paths = {split: f"{folder}/{split}-*" for split in splits}
    paths |= {split: known_files[split] for split in kept_splits if split in known_files}
    files = [{"split": split, "path": path} for split, path in paths.items()]
    configs = _entries(data.get("configs"))
    configs[config_name] = {**configs.get(config_name, {}), "data_files": files}
    data["configs"] = [{"config_name": name, **entry} for name, entry in configs.items()]
    known = _entries(data.get("dataset_info"))
    known.pop(config_name, None)
    if dataset_info is not None:
        known[config_name] = {k: v for k, v in dataset_info.items() if k != "config_name"}
    if list(known) == ["default"]:
        data["dataset_info"] = known["default"]
    else:
        entries = [{"config_name": name, **entry} for name, entry in known.items()]
        data["dataset_info"] = entries or None


def _union(existing: Any, added: Sequence[str]) -> list[Any]:
    known = existing if isinstance(existing, list) else [existing] if existing else []
    return list(dict.fromkeys([*known, *added]))


def _entries(value: Any) -> dict[str, dict[str, Any]]:
    """Metadata that is one mapping or a list of them, by `config_name`."""
    listed = value if isinstance(value, list) else [value] if value else []
    named = [dict(entry) for entry in listed if isinstance(entry, Mapping)]
    return {entry.pop("config_name", "default"): entry for entry in named}


def data_files(configs: Any, config_name: str) -> dict[str, Any]:
    """Return the paths of each split that a card's metadata lists for a configuration.

    >>> data_files([{"config_name": "a", "data_files": [{"split": "s", "path": "p/*"}]}], "a")
    {'s': 'p/*'}
    """
    listed = _entries(configs).get(config_name, {}).get("data_files")
    entries = [entry for entry in listed if isinstance(entry, Mapping)] if listed else []
    return {
        str(entry["split"]): entry["path"] for entry in entries if {"split", "path"} <= {*entry}
    }


def _size_category(rows: int) -> str:
    """Name the Hub's size category of a number of rows."""
    names = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B")
    for power, name in enumerate(names, start=3):
        if rows < 10**power:
            return name
    return "1B<n<10B"


def change_words(summary: Mapping[str, Any]) -> list[str]:
    """Say by column what was changed so that no place, camera or person is told.

    >>> change_words({"paths_removed": {"file_name": 2}})
    ['local paths taken out of `file_name` (2)']
    """
    kinds = {
        "paths_removed": "local paths taken out of",
        "pictures_cleaned": "metadata removed from pictures that are bytes or text in",
    }
    words = [
        f"{said} {', '.join(f'{as_code(name)} ({count:,})' for name, count in counts.items())}"
        for key, said in kinds.items()
        if (counts := summary.get(key))
    ]
    fields = ", ".join(map(as_code, summary.get("fields_left_out") or ()))
    return [*words, *([f"fields beside the image left out: {fields}"] if fields else [])]


def _merged_text(text: str, section: str, config_name: str) -> str:
    begin = f"<!-- hf_regioncap:begin {config_name}"
    end = f"<!-- hf_regioncap:end {config_name} -->"
    note = "written by hf_regioncap; what stands between these marks is replaced by the next push"
    ours = f"{begin} ({note}) -->\n\n{section}\n\n{end}"
    found = re.search(f"{re.escape(begin)} .*?{re.escape(end)}", text, re.DOTALL)
    if found:
        merged = text[: found.start()] + ours + text[found.end() :]
    else:
        merged = f"{text.rstrip()}\n\n{ours}\n"
    return merged.replace("\r\n", "\n").replace("\n", "\r\n") if "\r\n" in text else merged


def _about_part(summary: Mapping[str, Any], recipe: Mapping[str, Any], source: str | None) -> str:
    splits = ", ".join(f"{as_code(name)} {n:,}" for name, n in summary["splits"].items())
    used = sum(summary["box_status"].get(status, 0) for status in ("ok", "clipped"))
    model = as_code(recipe["model"]) if recipe.get("model") else "a program; which is not recorded"
    origin = f" The images come from {as_code(_source_words(source))}." if source else ""
    if is_offline(recipe):
        author = (
            "**No model looked at these images.** The captions were computed from colours and "
            f"positions by the built-in `{DESCRIBER}`, for trying the tools: they recognise "
            "nothing and are of no use for training"
        )
    else:
        author = f"The captions were written by {model}"
    return (
        f"{summary['rows']:,} rows ({splits}), {summary['boxes']:,} boxes, of which {used:,} are "
        f"used, and {summary['captions']:,} captions of them.{origin} {author}."
    )


def _source_words(source: str) -> str:
    if _HUB_ID.fullmatch(source) or re.match(r"https?://", source):
        return public_text(source)
    return base_name(source)


def _sample_part(sample: str | None, captions: Mapping[int, str]) -> list[str]:
    if not sample or not re.fullmatch(r"[\w./-]+", sample):
        return []
    lines = [f"- region {number}: {as_code(caption)}" for number, caption in captions.items()]
    return [f"![An image of the dataset with its numbered regions]({sample})", "\n".join(lines)]


def _loading_part(summary: Mapping[str, Any], repo_id: str | None, config_name: str) -> list[str]:
    where = json.dumps(repo_id or "PATH/TO/THIS/FOLDER", ensure_ascii=False)
    config = "" if config_name == "default" else f', "{config_name}"'
    split = next(iter(summary["splits"]), "train")
    prefix = summary["column_prefix"]
    named = (f"{prefix}region_boxes", caption_column_of(summary["columns"], prefix))
    boxes, captions = map(json.dumps, named)
    code = (
        "from datasets import load_dataset\n\n"
        f'ds = load_dataset({where}{config}, split="{split}")\n'
        "row = ds[0]\n"
        f"for box, caption in zip(row[{boxes}], row[{captions}]):\n"
        "    print(box, caption)"
    )
    return ["### Load it", as_code_block(code, "python")]


def _making_part(
    summary: Mapping[str, Any],
    recipe: Mapping[str, Any],
    config_name: str,
    missing: Sequence[str],
) -> list[str]:
    if not recipe:
        return ["### How it was made", "With `hf_regioncap`; the settings were not recorded."]
    offline = is_offline(recipe)
    told = {
        "model": DESCRIBER if offline else recipe.get("model"),
        "endpoint": "built in, offline" if offline else _host(recipe),
        "view": recipe.get("view"),
        "marks": recipe.get("mark"),
        "boxes per image, at most": recipe.get("max_boxes"),
        "boxes for rows without any": recipe.get("propose"),
        "labels in the prompt": recipe.get("label_column"),
        "caption style": recipe.get("caption_style"),
        "language": recipe.get("language"),
        "temperature": recipe.get("temperature"),
        "versions": _versions_words(recipe.get("versions")),
        "some rows asked again with": recipe.get("retried_with"),
    }
    rows = [f"| {name} | {_as_cell(value)} |" for name, value in told.items() if value is not None]
    rows.append(f"| tokens | {_token_words(summary)} |")
    prompts = [
        f"{label}:\n\n{as_code_block(text)}"
        for label, text in (
            ("The system message", recipe.get("system_prompt")),
            ("The prompt of the first row", summary["prompt"]),
            ("The template of the prompts", recipe.get("prompt")),
        )
        if text
    ]
    return [
        "### How it was made",
        "\n".join(["| setting | value |", "|---|---|", *rows]),
        *prompts,
        f"All settings are in [`{recipe_file(config_name)}`]({recipe_file(config_name)}), which "
        f"the script of `hf_regioncap` runs again with `--recipe`{_left_out_words(missing)}.",
    ]


def _left_out_words(missing: Sequence[str]) -> str:
    words = ", ".join(map(as_code, missing))
    return f". Not in it, as they may be keys or places on a machine: {words}" if words else ""


def _token_words(summary: Mapping[str, Any]) -> str:
    words = f"{summary['prompt_tokens']:,} in, {summary['completion_tokens']:,} out"
    unknown = summary["usage_unknown"]
    return words + (f"; not counted by the endpoint for {unknown:,} rows" if unknown else "")


def _as_cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    # A bar ends a cell, in code too, and a backslash before it may itself be escaped.
    return as_code(text).replace("|", "¦")


def _versions_words(versions: Any) -> str | None:
    if not isinstance(versions, Mapping):
        return None if versions is None else str(versions)
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _counts_part(summary: Mapping[str, Any]) -> list[str]:
    of_what = {
        "answer_status": "rows",
        "image_status": "images",
        "box_status": "boxes",
        "review_status": "reviews",
    }
    lines = [
        f"| {what} | {_as_cell(status)} | {number:,} |"
        for name, what in of_what.items()
        for status, number in sorted(summary[name].items(), key=lambda pair: (-pair[1], pair[0]))
    ]
    table = "\n".join(["| of the | status | number |", "|---|---|---:|", *lines])
    return ["### What came out", table] if lines else []


def _columns_part(summary: Mapping[str, Any]) -> list[str]:
    prefix = summary["column_prefix"]
    lines = []
    for name, kind in summary["columns"].items():
        meaning = COLUMNS.get(name.removeprefix(prefix)) if name.startswith(prefix) else None
        lines.append(f"| {_as_cell(name)} | {_as_cell(kind)} | {meaning or 'of the source'} |")
    return ["### Columns", "\n".join(["| column | type | meaning |", "|---|---|---|", *lines])]


def _limits_part(
    summary: Mapping[str, Any],
    recipe: Mapping[str, Any],
    *,
    licensed: bool,
    keep_metadata: bool,
) -> list[str]:
    reviewed = sum(summary["review_status"].values())
    writer = "a program that recognises nothing" if is_offline(recipe) else "a model"
    limits = [f"The captions were written by {writer}, and no person has reviewed them."]
    if reviewed:
        limits = [
            f"The captions were written by {writer}; people have reviewed {reviewed:,} of "
            f"{summary['captions']:,} captions, see `review_status`."
        ]
    limits.append(
        "They can be wrong, name what is not there, mix up regions, and carry the prejudices of "
        "what the model has learned. They are no ground truth."
    )
    failed = summary["rows"] - summary["answer_status"].get("ok", 0)
    if summary["answer_status"] and failed:
        limits.append(
            f"Rows without some or all of their captions: {failed:,}. `answer_status` and "
            "`answer_error` say why; no caption was made up for them."
        )
    proposed = summary["type"].get("without_bbox", 0)
    if proposed:
        by_contours = " Boxes proposed for them by contours mark areas of the picture, not objects."
        limits.append(
            f"Rows that came without boxes: {proposed:,}."
            + (by_contours if recipe.get("propose", "contours") == "contours" else "")
        )
    if summary["images_withheld"]:
        limits.append(
            f"Images that are null here: {summary['images_withheld']:,}. They could not be read, "
            "or reading them was not allowed."
        )
    limits += [f"On publishing, {words}." for words in change_words(summary)]
    if not keep_metadata:
        limits.append(
            "The metadata inside the image files (EXIF, GPS, XMP, comments) was removed; pixels, "
            "colour profile and orientation are as they were."
        )
    if not licensed:
        limits.append(
            "No licence is stated. The rights in the images stay with their owners, and a model's "
            "terms may limit what its output may be used for: find out before you use them."
        )
    return ["### Known limits", "\n".join(f"- {limit}" for limit in limits)]
