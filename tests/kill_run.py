"""A child program of test_kill.py and test_properties.py: runs that may be killed at any moment.

Imports once, then forks a process, leader of a group of its own, for each job on stdin:

    {"dataset": FOLDER, "output": FILE, "log": FILE, "rows": FILE, "options": {...}}

and prints its pid. `{"wait": PID}` waits for its end and prints the exit status, negative for a
signal. A job's `"map"` runs `Dataset.map` with so many processes (0: none) in place of
`caption_dataset`; `"quick"` spares the interpreter's end; `"file_limit"` bounds the size of every
file that it writes; `"late"` commits answers as a careless store would, fifty at a time. The
number of each row is noted in `rows` when the row has come back, an error in `log`.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import datasets

from hf_regioncap import add_region_captions, caption_dataset
from hf_regioncap.store import AnswerStore

for _name in ("openai", "httpx2", "hf_regioncap.client", "PIL.JpegImagePlugin"):
    importlib.import_module(_name)


def note(path: str, numbers: list[int]) -> None:
    with Path(path).open("ab", buffering=0) as file:
        file.write("".join(f"{number}\n" for number in numbers).encode())


def mapped(batch: Any, rows: str, **options: Any) -> Any:
    table = add_region_captions(batch, **options)
    note(rows, table["number"].to_pylist())
    return table


def commit_late() -> None:
    waiting: list[Any] = []
    put_many = AnswerStore.put_many

    def put_late(self: AnswerStore, answers: Any) -> None:
        waiting.extend(answers)
        if len(waiting) >= 50:
            put_many(self, waiting)
            waiting.clear()

    AnswerStore.put_many = put_late  # type: ignore[method-assign]


def run(job: dict[str, Any]) -> None:
    dataset: Any = datasets.load_from_disk(job["dataset"])
    numbers, options = dataset["number"][:], job["options"]
    if job.get("late"):
        commit_late()
    if job.get("file_limit"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_limit"],) * 2)
    if job.get("map") is None:
        captioned = caption_dataset(
            dataset,
            on_progress=lambda progress: note(job["rows"], [numbers[progress.rows - 1]]),
            **options,
        )
    else:
        captioned = dataset.map(
            mapped,
            batched=True,
            batch_size=8,
            num_proc=job["map"] or None,
            fn_kwargs={"rows": job["rows"], **options},
        )
    captioned.to_parquet(job["output"])


def be_a_child(job: dict[str, Any]) -> int:
    """Run the job as a program of its own would, with its own end."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    try:
        run(job)
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # told to the test, whatever it is
        traceback.print_exc()
        print(f"{type(error).__name__}: {error}", flush=True)
        return 3
    if job.get("quick"):
        os._exit(0)
    return 0


def main() -> int:
    datasets.disable_caching()
    datasets.disable_progress_bars()
    print("ready", flush=True)
    for line in iter(sys.stdin.readline, ""):
        job = json.loads(line)
        if "wait" in job:
            _, status = os.waitpid(job["wait"], 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            return be_a_child(job)
        print(pid, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
