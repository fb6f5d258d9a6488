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

_RAISED = {kind.__name__: kind for kind in (OptionError, EndpointError, StoreError)}


def caption_files(
    files: Sequence[tuple[str, str]], *, workers: int | None = None, **options: Any
) -> Iterator[tuple[str, dict[str, int]]]:
    """Caption Parquet files on a Ray cluster: yields each target with its rows by `answer_status`.

    `files` are pairs of source and target, as every machine of the cluster sees them (see
    `caption_parquet`). At most `workers` are at work at once, by default one for each CPU, and
    each has up to `concurrency` requests in flight. `answer_store` is a path on each machine:
    one store for all workers there. Keys are read from the environment of the workers. An error
    that no file can do without (options, key, model, credit, store) is raised here and ends it.

    >>> list(caption_files([]))
    []
    """
    if not files:
        return
    try:
        from ray import data
    except ImportError:
        raise OptionError("this needs Ray Data: pip install 'hf-regioncap[ray]'") from None
    items = [{"source": source, "target": target} for source, target in files]
    work = data.from_items(items, override_num_blocks=len(items)).map(
        functools.partial(_caption_one, options=options),
        num_cpus=1,
        compute=data.TaskPoolStrategy(size=workers) if workers is not None else None,
    )
    for row in work.iter_rows():
        if row["error"] is not None:
            raise _RAISED.get(row["error"], RegionCaptionError)(row["words"])
        yield row["target"], dict(zip(row["statuses"], map(int, row["counts"]), strict=True))


def _caption_one(row: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Caption one file on a worker; an error travels as its name and words."""
    from hf_regioncap.parquet import caption_parquet

    told = {"target": row["target"], "statuses": [""], "counts": [0], "error": None, "words": None}
    try:
        counts = caption_parquet(row["source"], row["target"], **options)
    except RegionCaptionError as error:
        words = f"{row['source']}: {error}"
        return {**told, "error": type(error).__name__, "words": words}
    return {**told, "statuses": list(counts) or [""], "counts": list(counts.values()) or [0]}
