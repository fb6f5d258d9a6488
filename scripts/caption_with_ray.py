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
again only what no store holds. Keys are read from the environment of the workers. Each machine has
an answer store of its own (`--answer-store none`: none); to bring them together:

    python -m hf_regioncap store merge all.sqlite machine1.sqlite machine2.sqlite

Exit status: 0 all fine; 1 some rows failed; 2 wrong usage, or files that do not fit the options;
3 the endpoint cannot serve this run.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from typing import Any

from hf_regioncap.captioning import FAILED
from hf_regioncap.errors import EndpointError, OptionError, StoreError
from hf_regioncap.flags import add_option_flags, options_from_flags
from hf_regioncap.parquet import count_statuses
from hf_regioncap.ray_data import caption_files

# Arguments


def read_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("input", metavar="INPUT", help="Parquet files, as a pattern in quotes")
    parser.add_argument("output", metavar="OUTPUT", help="a folder that all machines see")
    run = parser.add_argument_group("the run")
    run.add_argument("--address", help="of a cluster, or auto; otherwise one is started here")
    run.add_argument("--num-cpus", type=int, help="of the cluster that is started here")
    run.add_argument("--workers", type=int, help="files at once (otherwise one for each CPU)")
    run.add_argument(
        "--retry-failed",
        action="store_true",
        help="also do finished files with failed rows again; what is in the store costs nothing",
    )
    run.add_argument("--recipe", metavar="FILE", help="take the options from a recipe.json")
    add_option_flags(parser)
    return parser.parse_args(arguments)


# Files


def pair_files(pattern: str, folder: str) -> list[tuple[str, str]]:
    """Each file of the pattern with its place in the folder."""
    from fsspec.core import url_to_fs  # type: ignore[import-untyped]

    files, path = url_to_fs(pattern)
    place, target = url_to_fs(folder)
    found = sorted(files.glob(path))
    if not found:
        raise OptionError(f"INPUT: no file fits {pattern!r}")
    names = [name.rsplit("/", 1)[-1] for name in found]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise OptionError(f"INPUT: several files are named {twice[0]!r}, and OUTPUT is one folder")
    place.makedirs(target, exist_ok=True)
    return [
        (files.unstrip_protocol(source), place.unstrip_protocol(f"{target.rstrip('/')}/{name}"))
        for source, name in zip(found, names, strict=True)
    ]


def is_finished(target: str) -> bool:
    from fsspec.core import url_to_fs

    place, path = url_to_fs(target)
    return bool(place.exists(path))


def count_failed(statuses: dict[str, int] | Counter[str]) -> int:
    return sum(statuses.get(status, 0) for status in FAILED)


# The run


def work(parsed: argparse.Namespace, options: dict[str, Any]) -> int:
    pairs = pair_files(parsed.input, parsed.output)
    prefix = options.get("column_prefix", "")
    total: Counter[str] = Counter()
    todo = []
    for source, target in pairs:
        if is_finished(target):
            statuses = count_statuses(target, column_prefix=prefix)
            if not (parsed.retry_failed and count_failed(statuses)):
                total.update(statuses)
                continue
        todo.append((source, target))
    print(f"{len(pairs):,} files, {len(pairs) - len(todo):,} of them finished before", flush=True)
    if todo:
        start_ray(parsed)
    for number, (target, done) in enumerate(caption_files(todo, workers=parsed.workers, **options)):
        total.update(done)
        rows, failed = sum(done.values()), count_failed(done)
        print(f"{number + 1:,} of {len(todo):,}: {target}: {rows:,} rows, {failed:,} failed")
        sys.stdout.flush()
    return print_summary(total, parsed)


def start_ray(parsed: argparse.Namespace) -> None:
    import ray

    if parsed.address is not None:
        ray.init(address=parsed.address)
    else:
        ray.init(num_cpus=parsed.num_cpus, include_dashboard=False)
    ray.data.DataContext.get_current().enable_progress_bars = False


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
    except (EndpointError, StoreError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
