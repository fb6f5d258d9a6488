"""A child program of test_ray.py: a Ray cluster with two workers, and what is to run on it.

Ray stays out of the process of the tests, which others of them fork. Prints the cluster's address,
then does each job on stdin and prints its number and what came of it, as lines of JSON. Beside its
number a job has:

    {"main": ["photos", "captions", ...]}              the script, called with these arguments
    {"files": [[SOURCE, TARGET], ...], "options": {}}  caption_files
    {"map_batches": FOLDER, "target": FOLDER, "options": {}}

It ends when its stdin does.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import ray

from hf_regioncap import add_region_captions
from hf_regioncap.errors import RegionCaptionError
from hf_regioncap.ray_data import caption_files

SCRIPT = Path(__file__).parent.parent / "scripts" / "caption_with_ray.py"


def load_script() -> Any:
    spec = importlib.util.spec_from_file_location("caption_with_ray", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_script(arguments: list[str]) -> dict[str, Any]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = load_script().main(arguments)
        except SystemExit as stop:  # argparse
            status = stop.code
    return {"status": status, "out": out.getvalue(), "err": err.getvalue()}


def run_files(files: list[tuple[str, str]], options: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"done": dict(caption_files(files, **options))}
    except RegionCaptionError as error:
        return {"error": type(error).__name__, "words": str(error)}


def run_map_batches(source: str, target: str, options: dict[str, Any]) -> dict[str, Any]:
    dataset = ray.data.read_parquet(source).map_batches(
        add_region_captions, batch_format="pyarrow", batch_size=4, fn_kwargs=options
    )
    dataset.write_parquet(target)
    return {}


def run(job: dict[str, Any]) -> dict[str, Any]:
    if "main" in job:
        return run_script(job["main"])
    if "files" in job:
        return run_files([tuple(pair) for pair in job["files"]], job["options"])
    return run_map_batches(job["map_batches"], job["target"], job["options"])


def main() -> None:
    # What Ray prints is for the log.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    ray.init(address="local", num_cpus=2, include_dashboard=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    print(ray.get_runtime_context().gcs_address, file=answers)
    for line in iter(sys.stdin.readline, ""):
        job = json.loads(line)
        print(json.dumps([job["number"], run(job)]), file=answers)
    ray.shutdown()


if __name__ == "__main__":
    main()
