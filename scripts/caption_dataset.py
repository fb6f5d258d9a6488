# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-regioncap[demo]"]
#
# [tool.uv.sources]
# hf-regioncap = { path = "..", editable = true }
# ///
"""Download, process, push: caption the regions of a dataset, from the command line.

    python scripts/caption_dataset.py --demo
    python scripts/caption_dataset.py photos.jsonl captions --model gpt-4o-mini
    python scripts/caption_dataset.py USER/BOXES captions --bbox-column objects.bbox --dry-run

Exit status: 0 all fine; 1 some rows failed; 2 wrong usage, or a dataset that does not fit the
options, before any request; 3 the endpoint cannot serve this run.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from hf_regioncap.captioning import open_store
from hf_regioncap.errors import EndpointError, OptionError, PublishError, StoreError
from hf_regioncap.flags import add_option_flags, number, options_from_flags
from hf_regioncap.options import Options
from hf_regioncap.output import RECIPE_FILE, check_replaced, retried_recipe

DEMO_OUTPUT = "demo_output"
#: Flags that a later `--retry-failed` has no use for: of the input, and the bounds of one run.
OF_ONE_RUN = {"split", "config", "revision", "limit", "streaming", "max_requests", "max_cost"}
#: Options whose values may be keys, and are not printed.
UNTOLD = {"extra_headers", "extra_query", "extra_body"}

# Arguments


def read_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Caption the regions of a dataset, to a local folder and to the Hub.",
        epilog="INPUT: a Hub dataset id, a .jsonl with image paths and boxes, a COCO .json with "
        "--image-root, a folder with metadata.jsonl, or Parquet.",
    )
    parser.add_argument("input", nargs="?", metavar="INPUT", help="what to caption, see below")
    parser.add_argument("output", nargs="?", metavar="OUTPUT", help="a local folder")
    run = parser.add_argument_group("the run")
    run.add_argument("--demo", action="store_true", help="caption a few photos, offline")
    run.add_argument("--split", help="which split (all, if not given)")
    run.add_argument("--config", help="which configuration of a Hub dataset")
    run.add_argument("--revision", help="which revision of a Hub dataset")
    run.add_argument("--limit", type=int, metavar="N", help="only the first N rows of each split")
    run.add_argument("--streaming", action="store_true", help="never hold the dataset on disk")
    run.add_argument("--dry-run", action="store_true", help="print the estimate, send nothing")
    run.add_argument("--retry-failed", action="store_true", help="ask again what failed in OUTPUT")
    run.add_argument("--overwrite", action="store_true", help="replace what OUTPUT holds")
    run.add_argument("--recipe", metavar="FILE", help="take the options from a recipe.json")
    run.add_argument("--max-requests", type=int, metavar="N", help="a hard stop, retries included")
    run.add_argument("--max-cost", type=float, metavar="DOLLARS", help="a hard stop")
    run.add_argument("--price", metavar="IN,OUT", help="dollars per million tokens")
    push = parser.add_argument_group("publishing")
    push.add_argument("--push-to-hub", metavar="USER/NAME", help="publish it, privately")
    push.add_argument("--public", action="store_true", help="publish it for everybody")
    push.add_argument("--license", help="the licence to name in the card")
    push.add_argument("--keep-metadata", action="store_true", help="leave EXIF in the originals")
    add_option_flags(parser)
    parsed = parser.parse_args(arguments)
    if parsed.demo and parsed.input is not None and parsed.output is None:
        parsed.input, parsed.output = None, parsed.input  # --demo FOLDER
    if parsed.demo and parsed.input is not None:
        parser.error("--demo has photos of its own: name OUTPUT only, or leave --demo out")
    if parsed.demo:
        parsed.output = parsed.output or DEMO_OUTPUT
    elif parsed.input is None or parsed.output is None:
        parser.error("INPUT and OUTPUT are needed (or --demo)")
    reads_input = ("dry_run", "limit", "streaming", "split", "config", "revision", "overwrite")
    if parsed.retry_failed and any(getattr(parsed, name) for name in reads_input):
        flags = ", ".join(map(flag, reads_input))
        parser.error(f"--retry-failed asks OUTPUT's failed rows: not with {flags}")
    if parsed.public and not parsed.push_to_hub:
        parser.error("--public publishes nothing by itself: it needs --push-to-hub USER/NAME")
    if parsed.limit is not None and parsed.limit < 1:
        parser.error(f"--limit must be 1 or more, got {parsed.limit}")
    return parsed


def read_options_of(parsed: argparse.Namespace) -> dict[str, Any]:
    """The library's options from a recipe and from flags; the demo has its own defaults.

    A retry goes by the recipe that OUTPUT holds.
    """
    demo = {"base_url": "offline", "label_column": "labels"} if parsed.demo else {}
    own = Path(parsed.output) / RECIPE_FILE
    recipe = parsed.recipe or (own if parsed.retry_failed and own.is_file() else None)
    return {**demo, **options_from_flags(parsed, recipe=recipe)}


# Input


def load_input(parsed: argparse.Namespace, options: dict[str, Any]) -> Any:
    """The dataset that INPUT names; images stay as they are stored."""
    from hf_regioncap import inputs

    if parsed.demo:
        return inputs.first_rows(inputs.demo_dataset(), parsed.limit)
    columns = {n: options[n] for n in ("image_column", "bbox_column") if n in options}
    dataset, root = inputs.load(
        parsed.input,
        image_root=options.get("image_root"),
        **columns,
        split=parsed.split,
        config=parsed.config,
        revision=parsed.revision,
        streaming=parsed.streaming,
        limit=parsed.limit,
        tell=note,
    )
    if root is not None:
        options.setdefault("image_root", root)
    return dataset


def note(words: str) -> None:
    """Say on the way what is not as one might think."""
    print(f"note: {words}", file=sys.stderr)


def load_output(folder: Path) -> Any:
    """What an earlier run has written, to be retried."""
    from datasets import load_dataset

    if not (folder / "data").is_dir():
        raise OptionError(f"--retry-failed: {str(folder)!r} holds no earlier run (no data/)")
    return load_dataset(str(folder))


def check_token(parsed: argparse.Namespace) -> None:
    """Find out that nothing can be pushed before anything is paid for."""
    if parsed.push_to_hub and not parsed.dry_run:
        from huggingface_hub import get_token

        if get_token() is None:
            raise OptionError("--push-to-hub needs a token: `hf auth login`, or set HF_TOKEN")


def check_output(folder: Path) -> None:
    """Never write over a folder that something else has made."""
    if folder.is_file():
        raise OptionError(f"OUTPUT {str(folder)!r} is a file: name a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / RECIPE_FILE).is_file():
        raise OptionError(
            f"OUTPUT {str(folder)!r} exists and was not written by this script (no recipe.json): "
            "name another folder"
        )


def may_write(
    dataset: Any, folder: Path, parsed: argparse.Namespace, options: dict[str, Any]
) -> list[str]:
    """Raise where rows of an earlier run would be lost; a dry run is only told why."""
    try:
        if not parsed.overwrite:
            check_replaced(dataset, folder, Options(**options))
    except OptionError as error:
        if not parsed.dry_run:
            raise
        return [str(error)]
    return []


def make_output(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"OUTPUT {str(folder)!r} cannot be made: {error.strerror}") from None


def check_store(options: dict[str, Any]) -> None:
    """Find out that no answer can be kept before one is paid for."""
    store = open_store(Options(**options))
    try:
        if store is not None:
            store.open()
    except StoreError as error:
        raise OptionError(str(error)) from None


# Output


def write_output(
    dataset: Any, folder: Path, parsed: argparse.Namespace, options: dict[str, Any]
) -> tuple[dict[str, Any], Any]:
    """Parquet and card, the recipe, the seed's lines with their images, the page.

    Gives the summary, and the dataset to push: of a stream, what was written, as every reading
    of it asks again.
    """
    from hf_regioncap.exports import write_seed_jsonl
    from hf_regioncap.gallery import write_gallery
    from hf_regioncap.publishing import write_dataset

    checked = Options(**options)
    recipe = recipe_to_tell(folder, parsed, checked)
    prefix, root = checked.column_prefix, checked.image_root
    summary = write_dataset(
        all_splits(dataset) if parsed.overwrite else dataset,
        folder,
        recipe=recipe,
        source=source_of(parsed),
        license=parsed.license,
        image_column=checked.image_column,
        image_root=root,
        column_prefix=prefix,
        keep_metadata=parsed.keep_metadata,
    )
    if parsed.streaming:
        dataset = load_written(folder, dataset)
    reading: dict[str, Any] = {
        "image_column": checked.image_column,
        "image_root": root,
        "column_prefix": prefix,
    }
    write_seed_jsonl(
        dataset,
        folder,
        bbox_column=checked.bbox_column,
        box_format=checked.box_format,
        box_unit=checked.box_unit,
        **reading,
    )
    write_gallery(
        dataset,
        folder / "gallery.html",
        label_column=checked.label_column,
        label_names=checked.label_names,
        recipe=recipe,
        title=Path(parsed.input or "Demo").stem,
        **reading,
    )
    return {**summary, "reasons": commonest_reasons(dataset, prefix)}, dataset


def summary_of(dataset: Any, options: dict[str, Any]) -> dict[str, Any]:
    """The summary of a dataset that is not written."""
    from hf_regioncap.card import summarize

    prefix = Options(**options).column_prefix
    summary = summarize(dataset, column_prefix=prefix)
    return {**summary, "reasons": commonest_reasons(dataset, prefix)}


def recipe_to_tell(folder: Path, parsed: argparse.Namespace, options: Options) -> dict[str, Any]:
    """The recipe of this run, or that of OUTPUT where some of its rows were asked again."""
    from hf_regioncap.recipe import recipe_of

    recipe = recipe_of(options)
    return retried_recipe(folder, recipe) if parsed.retry_failed else recipe


def all_splits(dataset: Any) -> Any:
    """The dataset as one of named splits, which replaces all that are there."""
    from datasets import Dataset, DatasetDict, IterableDatasetDict

    from hf_regioncap.card import named_splits

    if hasattr(dataset, "values"):
        return dataset
    kind = DatasetDict if isinstance(dataset, Dataset) else IterableDatasetDict
    return kind(named_splits(dataset))


def load_written(folder: Path, dataset: Any) -> Any:
    """Stream what was written of a dataset: the same splits, and no others of an earlier run."""
    from datasets import load_dataset

    from hf_regioncap.card import named_splits

    written = load_dataset(str(folder), streaming=True)
    return written if hasattr(dataset, "values") else written[next(iter(named_splits(dataset)))]


def commonest_reasons(dataset: Any, prefix: str) -> dict[str, tuple[str, int]]:
    """For each status the reason that is told most often, and how often."""
    from hf_regioncap.card import named_splits

    told: dict[str, Counter[str]] = {}
    names = [f"{prefix}answer_status", f"{prefix}answer_error"]
    for split in named_splits(dataset).values():
        for row in split.select_columns(names):
            if row[names[1]]:
                told.setdefault(row[names[0]], Counter())[row[names[1]]] += 1
    return {status: counts.most_common(1)[0] for status, counts in told.items()}


def source_of(parsed: argparse.Namespace) -> str | None:
    """The Hub id of the source, if it is one."""
    if parsed.demo or parsed.input is None or Path(parsed.input).exists():
        return None
    return str(parsed.input)


def push(dataset: Any, parsed: argparse.Namespace, options: dict[str, Any]) -> str:
    from hf_regioncap.publishing import publish

    checked = Options(**options)
    return publish(
        dataset,
        parsed.push_to_hub,
        private=not parsed.public,
        recipe=recipe_to_tell(Path(parsed.output), parsed, checked),
        source=source_of(parsed),
        license=parsed.license,
        image_column=checked.image_column,
        image_root=checked.image_root,
        column_prefix=checked.column_prefix,
        keep_metadata=parsed.keep_metadata,
    )


# The summary


def print_summary(
    summary: dict[str, Any],
    progress: Any,
    parsed: argparse.Namespace,
    options: dict[str, Any],
    script: str,
) -> int:
    """Say what came of it and what to do next; the number of failed rows."""
    from hf_regioncap.captioning import FAILED
    from hf_regioncap.remarks import remarks

    statuses = Counter(summary["answer_status"])
    failed = sum(statuses[status] for status in FAILED)
    print(f"\n{summary['rows']:,} rows, {summary['captions']:,} captions")
    for status, count in sorted(statuses.items(), key=lambda item: (-item[1], item[0])):
        print(f"  {count:>7,}  {status}")
    max_boxes = Options(**options).max_boxes
    for told in remarks(summary["image_status"], summary["box_status"], max_boxes=max_boxes):
        print(told)
    for status, (reason, count) in summary["reasons"].items():
        print(f"{status}: {reason}" + (f" ({count:,} times)" if count > 1 else ""))
    if progress is not None:
        print(
            f"requests: {progress.requests:,} sent, {progress.from_store:,} from the answer store"
        )
        cost = "unknown" if progress.cost is None else f"${progress.cost:.4f}"
        print(
            f"tokens:   {progress.prompt_tokens:,} prompt, {progress.completion_tokens:,} "
            f"completion, cost {cost}"
        )
    folder = Path(parsed.output)
    print(f"results:  {folder}/  (data/*.parquet, regions.jsonl, images/, README.md)")
    print(f"page:     {folder}/gallery.html")
    if failed:
        print(f"{failed:,} rows failed; ask again: {retry_command(parsed, script)}")
        for name in sorted(UNTOLD):
            if getattr(parsed, name) is not None:
                print(f"          with {flag(name)} as before, whose values are not shown here")
    if parsed.demo:
        real = ["python", script, "--demo", "--base-url", "https://api.openai.com/v1"]
        print(
            "next:     the same with a real model: export OPENAI_API_KEY=… && " + shlex.join(real)
        )
    return failed


def retry_command(parsed: argparse.Namespace, script: str) -> str:
    """The command that asks again what failed in OUTPUT."""
    words = ["python", script, *([] if parsed.demo else [parsed.input]), parsed.output]
    given = {**vars(parsed), "retry_failed": True}
    for name, value in given.items():
        if name in {"input", "output"} | OF_ONE_RUN | UNTOLD or value is None or value is False:
            continue
        if value is True:
            words.append(flag(name))
        elif str(value).startswith("-"):
            words.append(f"{flag(name)}={value}")  # it would be read as a flag
        else:
            words += [flag(name), str(value)]
    return shlex.join(words)


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def main(arguments: list[str], script: str = __file__) -> int:
    parsed = read_arguments(arguments)
    try:
        options = read_options_of(parsed)
        return work(parsed, options, script)
    except OptionError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (EndpointError, StoreError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    except PublishError as error:
        print(f"error: not published: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print(
            "\ninterrupted; what was answered is kept in the answer store, and the same command "
            "goes on from there",
            file=sys.stderr,
        )
        return 130


def work(parsed: argparse.Namespace, options: dict[str, Any], script: str) -> int:
    from hf_regioncap import caption_dataset, estimate, retry_failed

    folder = Path(parsed.output)
    check_output(folder)
    check_token(parsed)
    if not parsed.dry_run:
        make_output(folder)
        check_store(options)
    price = read_price(parsed.price)
    bounds = {"max_requests": parsed.max_requests, "max_cost": parsed.max_cost, "price": price}
    seen: list[Any] = []

    def remember(progress: Any) -> None:
        seen[:] = [progress]

    if parsed.retry_failed:
        dataset = load_output(folder)
        captioned = retry_failed(dataset, on_progress=remember, **bounds, **options)
    else:
        dataset = load_input(parsed, options)
        in_the_way = may_write(dataset, folder, parsed, options)
        if parsed.dry_run:
            print(estimate(dataset, price=price, **options))
            print("".join(f"note:              {why}\n" for why in in_the_way), end="")
            return 0
        captioned = caption_dataset(dataset, on_progress=remember, **bounds, **options)
    if parsed.retry_failed and not was_asked(seen):
        summary, written = summary_of(captioned, options), captioned
        print("nothing was asked: OUTPUT stays as it is")
    else:
        summary, written = write_output(captioned, folder, parsed, options)
    failed = print_summary(summary, seen[0] if seen else None, parsed, options, script)
    if parsed.push_to_hub and not summary["captions"]:
        print("not pushed: there is no caption")
    elif parsed.push_to_hub:
        print(f"pushed:   {push(written, parsed, options)}")
    return 1 if failed else 0


def was_asked(seen: list[Any]) -> bool:
    """Whether a run has asked anything, of an endpoint or of the answer store."""
    return bool(seen and (seen[0].requests or seen[0].from_store))


def read_price(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != 2:
        raise OptionError(f"price must be IN,OUT in dollars per million tokens, got {text!r}")
    return number("price", parts[0], float), number("price", parts[1], float)


if __name__ == "__main__":
    warnings.formatwarning = lambda message, *where: f"warning: {message}\n"
    sys.exit(main(sys.argv[1:], sys.argv[0]))
