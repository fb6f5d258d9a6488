"""Many Parquet files over many machines, by Ray Data (the extra `ray`).

Ray's own `map_batches` takes the library's table function as it is:

    ray.data.read_parquet("photos/").map_batches(
        add_region_captions, batch_format="pyarrow", batch_size=256, fn_kwargs=options
    )

There a batch waits for its slowest row, and Ray's writer drops the features of `datasets`.
`caption_files` gives each worker a whole file instead, through which requests run without a pause;
Ray places the work, moves it when a machine is lost, and bounds how much of it runs at once.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

from hf_regioncap.errors import EndpointError, OptionError, RegionCaptionError, StoreError
from hf_regioncap.options import read_options

_RAISED = {kind.__name__: kind for kind in (OptionError, EndpointError, StoreError)}


def caption_files(
    files: Sequence[tuple[str, str]],
    *,
    workers: int | None = None,
    retry_failed: bool = False,
    **options: Any,
) -> Iterator[tuple[str, dict[str, int]]]:
    """Caption Parquet files on a Ray cluster: yields each target with its rows by `answer_status`.

    `files` are pairs of source and target, as every machine of the cluster sees them (see
    `caption_parquet`). At most `workers` are at work at once, by default one for each CPU, and
    each has up to `concurrency` requests in flight. `answer_store` is a path on each machine:
    one store for all workers there. Keys are read from the environment of the workers. With
    `retry_failed`, of a target that is there only the failed rows are asked again. An error that
    no file can do without (options, key, model, credit, store) is raised here and ends it.

    >>> list(caption_files([]))
    []
    """
    read_options(options)
    if workers is not None and workers < 1:
        raise OptionError(f"workers must be a number of 1 or more, got {workers!r}")
    if not files:
        return
    try:
        from ray import data
    except ImportError:
        raise OptionError("this needs Ray Data: pip install 'hf-regioncap[ray]'") from None
    items = [{"source": source, "target": target} for source, target in files]
    work = data.from_items(items, override_num_blocks=len(items)).map(
        functools.partial(_caption_one, retry=retry_failed, options=options),
        num_cpus=1,
        compute=data.TaskPoolStrategy(size=workers) if workers is not None else None,
    )
    for row in work.iter_rows():
        if row["error"] is not None:
            raise _RAISED.get(row["error"], RegionCaptionError)(row["words"])
        counts = zip(row["statuses"], map(int, row["counts"]), strict=True)
        yield row["target"], {status: count for status, count in counts if count}


def _caption_one(row: dict[str, Any], retry: bool, options: dict[str, Any]) -> dict[str, Any]:
    """Caption one file on a worker; an error travels as its name and words."""
    import datasets
    import pyarrow as pa

    from hf_regioncap.parquet import caption_parquet, find_place, retry_parquet

    datasets.disable_progress_bars()  # a worker's would run through the driver's output
    source, target = row["source"], row["target"]
    # Lists with something in them, of which Arrow knows the type.
    told = {"target": target, "statuses": ["ok"], "counts": [0], "error": None, "words": None}
    try:
        place, path = find_place(target)
        if retry and place.exists(path):
            counts = retry_parquet(target, **options)
        else:
            counts = caption_parquet(source, target, **options)
    except (RegionCaptionError, OSError, pa.ArrowException) as error:
        return {**told, "error": type(error).__name__, "words": f"{source}: {error}"}
    return {**told, "statuses": ["ok", *counts], "counts": [0, *counts.values()]}
