"""kill -9, Ctrl-C, a full disk and many processes: nothing that was paid for is lost.

Real processes against an endpoint in another one, which keeps its own ledger of what it has
answered. `HF_REGIONCAP_LONG=1` kills 50 times where the default kills four times.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from endpoint import Endpoint, EndpointProcess, read_ledger

from hf_regioncap import add_region_captions, caption_dataset, estimate
from hf_regioncap.errors import StoreError
from hf_regioncap.store import AnswerStore

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

ROUNDS = 50 if os.environ.get("HF_REGIONCAP_LONG") else 4
ROWS = 60
CONCURRENCY = 4
LATENCY = "lognormal:0.02:0.6"


class Runner:
    """The processes of kill_run.py."""

    def __init__(self, **variables: str) -> None:
        self._child = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("kill_run.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | variables,
        )
        assert self._read() == "ready"

    def _read(self) -> str:
        assert self._child.stdout is not None
        return self._child.stdout.readline().strip()

    def _order(self, order: dict[str, Any]) -> int:
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(order) + "\n")
        self._child.stdin.flush()
        return int(self._read())

    def start(self, job: dict[str, Any]) -> int:
        return self._order(job)

    def wait(self, pid: int) -> int:
        return self._order({"wait": pid})

    def close(self) -> None:
        self._child.communicate(timeout=240)


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    runner = Runner()
    yield runner
    runner.close()


@dataclass
class Stage:
    """One store, one dataset and the endpoint's ledger from here on."""

    runner: Runner
    endpoint: EndpointProcess
    ledger_path: Path
    folder: Path
    dataset: Path
    more: dict[str, Any] = field(default_factory=dict)
    start: int = 0

    @property
    def ledger(self) -> list[str]:
        """The questions that were answered with 200, to the last byte."""
        lines = read_ledger(self.ledger_path)[self.start :]
        return [line["key"] for line in lines if line["outcome"] == "ok"]

    @property
    def store(self) -> Path:
        return self.folder / "answers.sqlite"

    def run(self, name: str = "run", **more: Any) -> int:
        options = {
            "base_url": self.endpoint.base_url,
            "answer_store": str(self.store),
            "concurrency": CONCURRENCY,
        }
        job = {
            "dataset": str(self.dataset),
            "output": str(self.folder / f"{name}.parquet"),
            "log": str(self.folder / "log.txt"),
            "rows": str(self.folder / f"{name}.rows"),
            **self.more,
            **more,
        }
        job["options"] = options | job.get("options", {})
        return self.runner.start(job)

    def finish(self, name: str = "run", **more: Any) -> list[dict[str, Any]]:
        """Run to the end; the rows that came of it."""
        self.endpoint.control(behaviour=None)
        status = self.runner.wait(self.run(name, quick=True, **more))
        assert status == 0, self.log
        return self.output(name)

    def output(self, name: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = pq.read_table(self.folder / f"{name}.parquet").to_pylist()
        return rows

    def returned(self, name: str = "run") -> list[int]:
        """The numbers of the rows that came back before the end, whatever end it was."""
        path = self.folder / f"{name}.rows"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [int(line) for line in lines if line.endswith("\n")]

    @property
    def log(self) -> str:
        path = self.folder / "log.txt"
        return path.read_text() if path.exists() else ""

    def hang_after(self, count: int) -> None:
        """Let the endpoint answer so many requests from now on, and none that comes later."""
        sent = self.endpoint.stats()["count"]
        self.endpoint.control(behaviour=[None] * (sent + count) + ["hang"] * 10 * ROWS)

    def wait_for_answers(self, count: int) -> None:
        deadline = time.monotonic() + 240
        while len(self.ledger) < count:
            assert time.monotonic() < deadline, self.log
            time.sleep(0.005)


@pytest.fixture(scope="module")
def saved(make_dataset: Any, tmp_path_factory: Any) -> Path:
    folder: Path = tmp_path_factory.mktemp("saved") / "rows"
    make_dataset(ROWS).save_to_disk(folder)
    return folder


@pytest.fixture(scope="module")
def keys(make_dataset: Any) -> list[str]:
    """The endpoint's name for the question about each row."""
    with Endpoint() as endpoint:
        captioned = caption_dataset(
            make_dataset(ROWS), base_url=endpoint.base_url, answer_store=None
        )
        by_caption = {
            request.question.captions[1]: request.question.key for request in endpoint.requests
        }
    return [by_caption[captions[0]] for captions in captioned["region_captions"]]


@pytest.fixture(scope="module")
def address(tmp_path_factory: Any) -> Iterator[tuple[EndpointProcess, Path]]:
    ledger = tmp_path_factory.mktemp("ledger") / "ledger.jsonl"
    with EndpointProcess("--latency", LATENCY, "--ledger", str(ledger)) as endpoint:
        yield endpoint, ledger


@pytest.fixture
def make_stage(
    runner: Runner, saved: Path, tmp_path: Path, address: tuple[EndpointProcess, Path]
) -> Callable[..., Stage]:
    def make(name: str = "stage", **more: Any) -> Stage:
        folder = tmp_path / name
        folder.mkdir()
        endpoint, ledger = address
        stage = Stage(runner, endpoint, ledger, folder, saved, more)
        stage.start = len(read_ledger(ledger))
        return stage

    return make


@pytest.fixture(scope="module")
def expected(runner: Runner, saved: Path, tmp_path_factory: Any) -> list[dict[str, Any]]:
    """What an uninterrupted run makes of the rows."""
    with EndpointProcess() as endpoint:
        folder = tmp_path_factory.mktemp("expected")
        return Stage(runner, endpoint, folder / "none", folder, saved).finish()


# kill -9


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("processes", [1, 2])
def test_kill_9_at_random_moments(
    processes: int,
    make_stage: Callable[..., Stage],
    keys: list[str],
    expected: list[dict[str, Any]],
) -> None:
    rounds, figures = random.Random(processes), Counter[str]()
    for number in range(ROUNDS):
        stage = make_stage(str(number), **({"map": 2} if processes == 2 else {}))
        pid = stage.run()
        stage.wait_for_answers(rounds.randrange(ROWS - 10))
        time.sleep(rounds.random() * 0.05)
        with contextlib.suppress(ProcessLookupError):  # all of it, as when the power fails
            os.killpg(pid, signal.SIGKILL)
        stage.runner.wait(pid)
        settle(stage.endpoint)
        before, returned = stage.ledger, stage.returned()
        assert stage.finish("again") == expected
        asked_again = stage.ledger[len(before) :]
        repeats = set(before) & set(asked_again)
        assert Counter(stage.ledger).most_common(1)[0][1] <= 2
        assert len(repeats) <= CONCURRENCY * processes
        assert not repeats & {keys[row] for row in returned}  # what came back was on disk
        assert set(stage.ledger) == set(keys)
        assert AnswerStore(stage.store).verify().problems == ()
        figures += Counter(kills=1, repeats=len(repeats), returned=len(returned))
    print(f"{processes} processes: {dict(figures)}")


def settle(endpoint: EndpointProcess) -> None:
    """Wait until the endpoint is busy with nothing any more."""
    deadline = time.monotonic() + 240
    while endpoint.stats()["in_flight"]:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_store_that_commits_late_would_be_found_out(
    make_stage: Callable[..., Stage], keys: list[str]
) -> None:
    """The test above is able to fail."""
    stage = make_stage(late=True)
    pid = stage.run()
    stage.wait_for_answers(40)
    os.killpg(pid, signal.SIGKILL)
    stage.runner.wait(pid)
    settle(stage.endpoint)
    before, returned = stage.ledger, stage.returned()
    stage.finish("again", late=False)
    repeats = set(before) & set(stage.ledger[len(before) :])
    assert len(repeats) > CONCURRENCY
    assert repeats & {keys[row] for row in returned}


def test_workers_whose_parent_is_killed_stop_asking(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage(map=2)
    stage.endpoint.control(latency="0.3")  # so that much is left when the parent is gone
    pid = stage.run()
    try:
        stage.wait_for_answers(10)
        os.kill(pid, signal.SIGKILL)  # the parent alone
        stage.runner.wait(pid)
        killed_at = stage.endpoint.stats()["count"]
        count = -1
        while count != (count := stage.endpoint.stats()["count"]):
            settle(stage.endpoint)
            time.sleep(1)
        assert count <= killed_at + 4 * CONCURRENCY
        before = stage.ledger
        assert len(before) < ROWS
    finally:
        kill_group(pid)
        stage.endpoint.control(latency=LATENCY)
    stage.finish("again", map=None)
    assert not set(before) & set(stage.ledger[len(before) :])  # those in flight were kept


def kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def group_is_gone(pid: int) -> bool:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        try:
            os.killpg(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


# Ctrl-C


@pytest.mark.parametrize("way", ["caption_dataset", "map", "num_proc"])
def test_ctrl_c_ends_promptly_and_keeps_what_was_answered(
    way: str,
    make_stage: Callable[..., Stage],
    expected: list[dict[str, Any]],
    keys: list[str],
) -> None:
    more = {"caption_dataset": {}, "map": {"map": 0}, "num_proc": {"map": 2}}[way]
    stage = make_stage(**more)
    stage.hang_after(30)
    pid = stage.run()
    try:
        stage.wait_for_answers(20)
        os.killpg(pid, signal.SIGINT)  # a terminal sends it to all
        status = stage.runner.wait(pid)
        # `datasets` lets a TimeoutError of its pool out, in place of what has ended the workers.
        assert status == (3 if way == "num_proc" else 130), stage.log
        assert "KeyboardInterrupt" in stage.log or way != "num_proc"
        assert group_is_gone(pid)  # though the endpoint keeps silent
    finally:
        kill_group(pid)
    settle(stage.endpoint)
    before = stage.ledger
    assert len(before) < ROWS
    assert stage.finish("again") == expected
    repeats = set(before) & set(stage.ledger[len(before) :])
    assert len(repeats) <= CONCURRENCY * (2 if way == "num_proc" else 1)
    assert not repeats & {keys[row] for row in stage.returned()}


def test_ctrl_c_of_the_script(
    tmp_path: Path, make_photo: Callable[..., bytes], run_main: Callable[..., Any]
) -> None:
    script = Path(__file__).parents[1] / "scripts" / "caption_dataset.py"
    rows, half = 60, 20
    lines = []
    for number in range(rows):
        (tmp_path / f"{number}.png").write_bytes(make_photo(number))
        lines.append(json.dumps({"image": f"{number}.png", "bbox": [[2, 2, 20, 20]]}))
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    with Endpoint(latency=lambda number: 0.0 if number < half else math.inf) as endpoint:
        arguments = [str(tmp_path / "rows.jsonl"), str(tmp_path / "out")]
        arguments += ["--base-url", endpoint.base_url, "--concurrency", "4"]
        with subprocess.Popen(
            [sys.executable, str(script), *arguments],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as child:
            endpoint.wait_for(lambda one: len(one.acknowledged) == half and one.in_flight == 4)
            os.killpg(child.pid, signal.SIGINT)
            _, told = child.communicate(timeout=240)  # though the endpoint keeps silent
        assert child.returncode == 130
        assert "the same command goes on from there" in told
        assert "Traceback" not in told
        answered = set(endpoint.acknowledged)
        endpoint.release()
        endpoint.reset()
        done = run_main(script, *arguments)
        assert done.returncode == 0, done.stderr
        assert len(answered & set(endpoint.acknowledged)) <= 4
        assert len(answered | set(endpoint.acknowledged)) == rows


# Many processes, one store


def test_five_processes_on_the_same_rows(
    make_stage: Callable[..., Stage], expected: list[dict[str, Any]], keys: list[str]
) -> None:
    stage = make_stage()
    pids = [stage.run(str(number)) for number in range(5)]
    assert [stage.runner.wait(pid) for pid in pids] == [0] * 5, stage.log
    check = AnswerStore(stage.store).verify()
    assert check.problems == ()
    assert check.whole_rows == len(stage.ledger)  # each answer that was given is kept
    assert set(stage.ledger) == set(keys)
    for number in range(5):
        for row, right in zip(stage.output(str(number)), expected, strict=True):
            assert row | {"usage": None} == right | {"usage": None}
    print(f"5 processes: {len(stage.ledger) - ROWS} of {len(stage.ledger)} asked more than once")
    before = len(stage.ledger)
    stage.finish("sixth")
    assert len(stage.ledger) == before


# Places that cannot be written


def test_a_disk_that_fills_up_on_the_way(
    make_stage: Callable[..., Stage], expected: list[dict[str, Any]], keys: list[str]
) -> None:
    stage = make_stage()
    pid = stage.run(file_limit=120_000)
    assert stage.runner.wait(pid) == 3
    assert "StoreError: the answer store" in stage.log
    assert "cannot be used" in stage.log
    before = stage.ledger
    assert 5 < len(before) < ROWS
    assert AnswerStore(stage.store).verify().problems == ()
    assert stage.finish("again") == expected
    repeats = set(before) & set(stage.ledger[len(before) :])
    assert len(repeats) <= CONCURRENCY  # those that were in flight when the disk was full
    assert not repeats & {keys[row] for row in stage.returned()}


def unusable(folder: Path) -> dict[str, Path]:
    (folder / "file").write_text("no folder")
    (folder / "folder").mkdir()
    (folder / "garbage").write_bytes(b"not an SQLite file at all, whatever it is" * 30)
    with contextlib.closing(sqlite3.connect(folder / "other.sqlite")) as connection:
        connection.execute("CREATE TABLE theirs (x)")
        connection.commit()
    return {
        "under a file": folder / "file" / "answers.sqlite",
        "a folder": folder / "folder",
        "garbage": folder / "garbage",
        "another program's": folder / "other.sqlite",
    }


@pytest.mark.parametrize("kind", ["under a file", "a folder", "garbage", "another program's"])
def test_a_store_that_cannot_be_used_is_an_error_before_money_is_spent(
    kind: str, tmp_path: Path, make_dataset: Any, endpoint: Endpoint
) -> None:
    options: dict[str, Any] = {
        "base_url": endpoint.base_url,
        "answer_store": unusable(tmp_path)[kind],
    }
    dataset = make_dataset(12)
    with pytest.raises(StoreError, match="answer_store="):
        caption_dataset(dataset, **options)
    with pytest.raises(StoreError, match="answer_store="):
        dataset.map(add_region_captions, batched=True, fn_kwargs=options)
    with pytest.raises(StoreError, match="answer_store="):
        estimate(dataset, **options)
    assert endpoint.count == 0
    options["answer_store"] = None
    assert set(caption_dataset(dataset, **options)["answer_status"]) == {"ok"}
