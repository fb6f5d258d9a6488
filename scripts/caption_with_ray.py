# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-regioncap[ray]"]
#
# [tool.uv.sources]
# hf-regioncap = { path = "..", editable = true }
# ///
"""Caption many Parquet files on a Ray cluster, each into a file of the same name.

    python scripts/caption_with_ray.py 'photos/*.parquet' captions --model gpt-4o-mini
    python scripts/caption_with_ray.py 's3://bucket/photos/*.parquet' s3://bucket/captions \
        --address auto --workers 64 --answer-store /local/answers.sqlite

Files that are in OUTPUT are finished: the same command goes on where it was interrupted, and asks
again only what no store holds; `--retry-failed` asks again about the failed rows of finished files,
too. Keys are read from the environment of the workers. Each machine has an answer store of its own
(`--answer-store none`: none); to bring them together:

    python -m hf_regioncap store merge all.sqlite machine1.sqlite machine2.sqlite

Exit status: 0 all fine; 1 some rows failed; 2 wrong usage, or files that do not fit the options;
3 the endpoint cannot serve this run, or a store or file cannot be used.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from typing import Any

from hf_regioncap.captioning import FAILED
from hf_regioncap.errors import OptionError, RegionCaptionError
from hf_regioncap.flags import add_option_flags, options_from_flags
from hf_regioncap.options import read_options
from hf_regioncap.parquet import count_statuses, find_place, part_of
from hf_regioncap.ray_data import caption_files

# Arguments


def read_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("input", metavar="INPUT", help="a folder, or a pattern in quotes")
    parser.add_argument("output", metavar="OUTPUT", help="a folder that all machines see")
    run = parser.add_argument_group("the run")
    run.add_argument(
        "--address", help="of a cluster, or auto; otherwise RAY_ADDRESS, or one is started here"
    )
    run.add_argument("--num-cpus", type=one_or_more, help="of the cluster that is started here")
    run.add_argument(
        "--workers", type=one_or_more, help="files at once (otherwise one for each CPU)"
    )
    run.add_argument(
        "--retry-failed",
        action="store_true",
        help="also ask again about the failed rows of finished files",
    )
    run.add_argument("--recipe", metavar="FILE", help="take the options from a recipe.json")
    add_option_flags(parser)
    return parser.parse_args(arguments)


def one_or_more(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"must be a number of 1 or more, got {text!r}")
    return int(text)


# Files


def pair_files(pattern: str, folder: str) -> list[tuple[str, str]]:
    """Each file of the pattern, or of the folder, with its place in OUTPUT."""
    files, path = find_place(pattern)
    place, target = find_place(folder)
    if files.isdir(path):
        path = f"{path.rstrip('/')}/*.parquet"
    found = sorted(
        name for name, info in files.glob(path, detail=True).items() if info["type"] != "directory"
    )
    if not found:
        raise OptionError(f"INPUT: no file fits {pattern!r}")
    names = [name_of(path) for path in found]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise OptionError(f"INPUT: several files are named {twice[0]!r}, and OUTPUT is one folder")
    return [
        (files.unstrip_protocol(source), place.unstrip_protocol(f"{target.rstrip('/')}/{name}"))
        for source, name in zip(found, names, strict=True)
    ]


def name_of(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def finished_files(folder: str, names: set[str]) -> set[str]:
    """Those of the names that are in OUTPUT; parts that a killed run has left of them are removed.

    One listing, as each look at a remote folder takes its time.
    """
    place, path = find_place(folder)
    try:
        place.makedirs(path, exist_ok=True)
        there = {name_of(str(found)): str(found) for found in place.ls(path, detail=False)}
        for name, found in there.items():
            if part_of(name) in names:
                place.rm(found)
    except OSError as error:
        raise OptionError(f"OUTPUT: {folder!r} cannot be used: {error}") from None
    return names & set(there)


def count_failed(statuses: dict[str, int] | Counter[str]) -> int:
    return sum(statuses.get(status, 0) for status in FAILED)


# The run


def work(parsed: argparse.Namespace, options: dict[str, Any]) -> int:
    prefix = read_options(options).column_prefix
    pairs = pair_files(parsed.input, parsed.output)
    finished = finished_files(parsed.output, {name_of(target) for _, target in pairs})
    total: Counter[str] = Counter()
    todo = []
    for source, target in pairs:
        if name_of(target) in finished:
            statuses = count_statuses(target, column_prefix=prefix)
            if not (parsed.retry_failed and count_failed(statuses)):
                total.update(statuses)
                continue
        todo.append((source, target))
    print(f"{len(pairs):,} files, {len(pairs) - len(todo):,} of them finished before", flush=True)
    if todo:
        start_ray(parsed)
    run = caption_files(todo, workers=parsed.workers, retry_failed=parsed.retry_failed, **options)
    for number, (target, done) in enumerate(run, 1):
        total.update(done)
        rows, failed = sum(done.values()), count_failed(done)
        print(f"{number:,} of {len(todo):,}: {target}: {rows:,} rows, {failed:,} failed")
        sys.stdout.flush()
    return print_summary(total, parsed)


def start_ray(parsed: argparse.Namespace) -> None:
    address = parsed.address or os.environ.get("RAY_ADDRESS") or "local"
    here = {"num_cpus": parsed.num_cpus, "include_dashboard": False} if address == "local" else {}
    if parsed.num_cpus and not here:
        raise OptionError(f"--num-cpus is for a cluster that is started here, not for {address!r}")
    try:
        import ray
        from ray import data
    except ImportError:
        raise OptionError("this needs Ray Data: pip install 'hf-regioncap[ray]'") from None
    try:
        # A notebook that calls main may have Ray running.
        ray.init(address=address, ignore_reinit_error=True, **here)
    except (ConnectionError, ValueError) as error:
        raise OptionError(f"--address: no cluster at {address!r}: {error}") from None
    data.DataContext.get_current().enable_progress_bars = False


def print_summary(total: Counter[str], parsed: argparse.Namespace) -> int:
    print(f"\n{sum(total.values()):,} rows")
    for status, count in sorted(total.items(), key=lambda item: (-item[1], item[0])):
        if count:
            print(f"  {count:>9,}  {status}")
    print(f"results: {parsed.output}  (load_dataset('parquet', data_files='{parsed.output}/*'))")
    if count_failed(total):
        print("some rows failed; ask again: the same command with --retry-failed")
        return 1
    return 0


def main(arguments: list[str]) -> int:
    parsed = read_arguments(arguments)
    try:
        return work(parsed, options_from_flags(parsed, recipe=parsed.recipe))
    except OptionError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RegionCaptionError as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print(
            "\ninterrupted; finished files and the answer stores are kept, and the same command "
            "goes on from there",
            file=sys.stderr,
        )
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
