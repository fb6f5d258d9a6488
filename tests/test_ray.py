"""Parquet to Parquet on a real Ray cluster with two workers, through the script and without it.

One cluster in a process of its own (`ray_run.py`) serves all tests but the one that is killed.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Image, load_dataset
from endpoint import Endpoint, EndpointProcess, read_ledger

from hf_regioncap import add_region_captions
from hf_regioncap.columns import ALL_COLUMNS
from hf_regioncap.errors import OptionError
from hf_regioncap.parquet import count_statuses, part_of
from hf_regioncap.ray_data import caption_files
from hf_regioncap.store import AnswerStore

pytestmark = [
    pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="needs the extra ray"),
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc"),
]

SCRIPT = Path(__file__).parent.parent / "scripts" / "caption_with_ray.py"
WORKERS, CONCURRENCY = 2, 4
FILES, ROWS = 6, 16
#: Where the runs are killed: about half, and in the midst of files, however the workers share them.
HALF = 44


# Processes


def members(session: int) -> list[int]:
    """The processes of a session; Ray's workers leave the group of what has started them."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            state, _, _, its_session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(its_session) == session and state not in "ZX":
                found.append(int(entry.name))
    return found


def kill_session(session: int) -> None:
    """Kill all of it, as when the power fails, and see that it is gone."""
    deadline = time.monotonic() + 240
    while found := members(session):
        assert time.monotonic() < deadline
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def name_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


@pytest.fixture(scope="module")
def ray_env() -> Iterator[dict[str, str]]:
    """An environment without keys in which Ray leaves nothing behind."""
    # Not under tmp_path: the paths of sockets have to be short.
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    foreign = ("OPENAI_", "RAY_")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(foreign) and not name.lower().endswith("_proxy")
    }
    yield kept | {
        "RAY_TMPDIR": folder,
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "HF_REGIONCAP_HOME": f"{folder}/regioncap",
        "WRONG_KEY": "wrong-key-canary",
    }
    shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Cluster:
    """The child of ray_run.py."""

    child: subprocess.Popen[str]
    address: str
    home: Path
    log: Path
    sent: int = 0

    def send(self, job: dict[str, Any]) -> None:
        assert self.child.stdin is not None
        self.sent += 1
        self.child.stdin.write(json.dumps({"number": self.sent, **job}) + "\n")
        self.child.stdin.flush()

    def receive(self) -> Any:
        """What came of the last job; of earlier ones a test that has failed left it unread."""
        assert self.child.stdout is not None
        number, done = 0, None
        while number != self.sent:
            line = self.child.stdout.readline()
            assert line, self.log.read_text()
            number, done = json.loads(line)
        return done

    def do(self, **job: Any) -> Any:
        self.send(job)
        return self.receive()

    def script(self, *arguments: object) -> dict[str, Any]:
        """Call the script's `main` there; its `status`, `out` and `err`."""
        done: dict[str, Any] = self.do(main=[str(argument) for argument in arguments])
        return done


@contextlib.contextmanager
def running(ray_env: dict[str, str], log: Path) -> Iterator[Cluster]:
    command = [sys.executable, str(Path(__file__).with_name("ray_run.py"))]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with (
        log.open("a") as stream,
        subprocess.Popen(
            command, stderr=stream, env=ray_env, start_new_session=True, **pipes
        ) as child,
    ):
        try:
            assert child.stdout is not None
            address = child.stdout.readline().strip()
            assert address, log.read_text()
            yield Cluster(child, address, Path(ray_env["HF_REGIONCAP_HOME"]), log)
        finally:
            kill_session(child.pid)


@pytest.fixture(scope="module")
def clusters(ray_env: dict[str, str], tmp_path_factory: Any) -> Iterator[Callable[[], Cluster]]:
    """The cluster of this module, or another where it has ended."""
    log = tmp_path_factory.mktemp("cluster") / "log.txt"
    found: list[Cluster] = []
    with contextlib.ExitStack() as stack:

        def find() -> Cluster:
            if not found or found[-1].child.poll() is not None:
                found.append(stack.enter_context(running(ray_env, log)))
            return found[-1]

        yield find


@pytest.fixture
def cluster(clusters: Callable[[], Cluster]) -> Cluster:
    return clusters()


def test_the_cluster_ends_when_its_stdin_does(ray_env: dict[str, str], tmp_path: Path) -> None:
    with running(ray_env, tmp_path / "log.txt") as cluster:
        cluster.child.communicate(timeout=240)
        assert cluster.child.returncode == 0, cluster.log.read_text()


# Files


@pytest.fixture(scope="module")
def sources(make_dataset: Any, tmp_path_factory: Any) -> Path:
    """Files of numbered rows: the first row of `3.parquet` is number 48."""
    folder: Path = tmp_path_factory.mktemp("photos")
    for number in range(FILES):
        table = make_dataset(ROWS, start=ROWS * number).with_format("arrow")[:]
        pq.write_table(table, folder / f"{number}.parquet")
    return folder


def visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def hidden(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.startswith(".")]


def written(path: Path) -> tuple[int, int]:
    return path.stat().st_ino, path.stat().st_mtime_ns


@pytest.fixture
def assert_whole(
    assert_own: Callable[..., None], sources: Path, tmp_path: Path
) -> Callable[..., None]:
    """Assert that a folder holds the first files, all rows with their own captions."""

    def check(folder: Path, files: int = FILES) -> None:
        names = [f"{number}.parquet" for number in range(files)]
        assert sorted(path.name for path in folder.iterdir()) == names  # no hidden part either
        for name in names:
            old, new = pq.read_table(sources / name), pq.read_table(folder / name)
            assert new.column_names == [*old.column_names, *ALL_COLUMNS]
            assert new.select(old.column_names).equals(old)  # their number and order, too
            assert set(new["answer_status"].to_pylist()) == {"ok"}
        captioned = load(folder / "*", tmp_path)
        assert captioned["number"][:] == list(range(files * ROWS))
        assert captioned.features["image"] == captioned.features["image_with_bbox"] == Image()
        assert captioned[0]["image"].size == captioned[0]["image_with_bbox"].size
        assert_own(captioned)

    return check


def load(pattern: Path, folder: Path) -> Any:
    """What the script's last line says."""
    cache = tempfile.mkdtemp(dir=folder)
    return load_dataset("parquet", data_files=str(pattern), split="train", cache_dir=cache)


# kill -9


def test_kill_9_of_script_and_workers(
    cluster: Cluster,
    ray_env: dict[str, str],
    sources: Path,
    tmp_path: Path,
    assert_whole: Callable[..., None],
) -> None:
    out, log, ledger = tmp_path / "out", tmp_path / "log.txt", tmp_path / "ledger.jsonl"
    store = ["--answer-store", str(tmp_path / "answers.sqlite")]
    # A little later it gives no answers, so that no file is finished between a look and the kill.
    brake = json.dumps([None] * (HALF + 3) + ["hang"] * FILES * ROWS)
    flags = ["--latency", "lognormal:0.05:0.6", "--ledger", str(ledger), "--faults", brake]
    with EndpointProcess(*flags) as endpoint:
        asked = ["--base-url", endpoint.base_url, "--concurrency", str(CONCURRENCY), *store]
        command = [sys.executable, str(SCRIPT), str(sources), str(out), *asked]
        with log.open("w") as stream:
            child = subprocess.Popen(
                [*command, "--num-cpus", str(WORKERS)],
                stdout=stream,
                stderr=stream,
                env=ray_env,
                start_new_session=True,
            )
        try:
            deadline = time.monotonic() + 240
            while len(read_ledger(ledger)) < HALF or not visible(out):
                assert child.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            os.killpg(child.pid, signal.SIGKILL)
        finally:
            kill_session(child.pid)
            child.wait()
        settle(endpoint)
        before = [line["key"] for line in read_ledger(ledger)]
        finished = {path: written(path) for path in visible(out)}
        assert all(count_statuses(str(path)) == {"ok": ROWS} for path in finished)
        # More was answered of unfinished files than may be asked again.
        assert 0 < len(finished) * ROWS < len(before) - WORKERS * CONCURRENCY
        assert len(load(out / "*", tmp_path)) == ROWS * len(finished)  # parts are passed over

        endpoint.control(behaviour=None)
        again = subprocess.run(
            [*command, "--address", cluster.address],
            capture_output=True,
            text=True,
            env=ray_env,
            timeout=240,
            check=False,
        )
        assert again.returncode == 0, again.stdout + again.stderr
        assert f"{FILES} files, {len(finished)} of them finished before" in again.stdout
        assert f"{FILES * ROWS:>9,}  ok" in again.stdout
        assert endpoint.stats()["max_in_flight"] <= WORKERS * CONCURRENCY
    keys = [line["key"] for line in read_ledger(ledger)]
    twice = {key: count for key, count in Counter(keys).items() if count > 1}
    assert len(twice) <= WORKERS * CONCURRENCY
    assert set(twice.values()) <= {2}
    assert len(set(keys)) == FILES * ROWS
    assert {path: written(path) for path in finished} == finished
    assert_whole(out)


def settle(endpoint: EndpointProcess) -> None:
    """Wait until the endpoint is busy with nothing any more."""
    deadline = time.monotonic() + 240
    while endpoint.stats()["in_flight"]:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def begun(
    cluster: Cluster, sources: Path, tmp_path: Path
) -> Iterator[tuple[Endpoint, list[object]]]:
    """A run of the script that has half of its answers, and waits for more.

    Both workers do, or one where Ray has not yet started the other.
    """
    with Endpoint(latency=lambda number: 0.0 if number < HALF else math.inf) as endpoint:
        flags = ["--base-url", endpoint.base_url, "--concurrency", CONCURRENCY]
        arguments = [sources, tmp_path / "out", *flags, "--answer-store", tmp_path / "answers"]
        cluster.send({"main": [str(argument) for argument in arguments]})
        try:
            endpoint.wait_for(
                lambda endpoint: (
                    len(endpoint.acknowledged) == HALF and endpoint.in_flight >= CONCURRENCY
                )
            )
            endpoint.latency = 0.0  # for those to come; these are held until they are released
            yield endpoint, arguments
        finally:
            endpoint.release()


def test_other_workers_take_over_from_those_that_are_killed(
    begun: tuple[Endpoint, list[object]],
    cluster: Cluster,
    tmp_path: Path,
    assert_whole: Callable[..., None],
) -> None:
    endpoint, arguments = begun
    busy = [pid for pid in members(cluster.child.pid) if name_of(pid).startswith("ray::Map")]
    assert 1 <= len(busy) <= WORKERS
    for pid in busy:
        os.kill(pid, signal.SIGKILL)
    done = cluster.receive()
    assert done["status"] == 0, done
    counts = Counter(endpoint.acknowledged)
    assert len(counts) == FILES * ROWS
    assert counts.total() <= FILES * ROWS + WORKERS * CONCURRENCY
    # What the killed ones have left goes with the next run.
    names = {f"{number}.parquet" for number in range(FILES)}
    left = [part_of(path.name) for path in hidden(tmp_path / "out")]
    assert 1 <= len(left) <= len(busy)
    assert set(left) < names
    assert cluster.script(*arguments)["status"] == 0
    assert_whole(tmp_path / "out")


def test_ctrl_c_says_how_to_go_on(
    begun: tuple[Endpoint, list[object]],
    cluster: Cluster,
    tmp_path: Path,
    assert_whole: Callable[..., None],
) -> None:
    endpoint, arguments = begun
    os.kill(cluster.child.pid, signal.SIGINT)
    done = cluster.receive()
    endpoint.release()
    assert done["status"] == 130, done
    assert "the same command goes on from there" in done["err"]
    assert "Traceback" not in done["err"]
    assert len(visible(tmp_path / "out")) < FILES
    assert cluster.script(*arguments)["status"] == 0
    counts = Counter(endpoint.acknowledged)
    assert len(counts) == FILES * ROWS
    assert counts.total() <= FILES * ROWS + WORKERS * CONCURRENCY
    assert_whole(tmp_path / "out")


# How it ends


def test_a_wrong_key_exits_3_with_one_clear_line(
    cluster: Cluster, sources: Path, tmp_path: Path
) -> None:
    with Endpoint(api_key="right-key-canary") as endpoint:
        done = cluster.script(
            *(sources / "[0-1].parquet", tmp_path / "out", "--base-url", endpoint.base_url),
            *("--api-key-env", "WRONG_KEY", "--answer-store", "none", "--concurrency", "4"),
        )
        assert 1 <= endpoint.count <= WORKERS * 4
        assert {*endpoint.outcomes} == {"unauthorized"}
    assert done["status"] == 3, done
    [line] = done["err"].splitlines()
    assert line.startswith("error: ")
    assert "check the key" in line
    assert "canary" not in done["out"] + done["err"]
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--box-unit", "fraction"], "box_unit='pixel'"),
        (["--bbox-column", "boxes"], "no column 'boxes'"),
        (["--api-key-env", "NO_SUCH_KEY"], "NO_SUCH_KEY"),
        (["--prompt", "{city}"], "no column 'city'"),
    ],
)
def test_what_only_the_files_or_workers_tell_exits_2_before_any_request(
    options: list[str], words: str, cluster: Cluster, sources: Path, tmp_path: Path
) -> None:
    with Endpoint() as endpoint:
        done = cluster.script(
            *(sources / "[0-1].parquet", tmp_path / "out", "--base-url", endpoint.base_url),
            *("--answer-store", "none", *options),
        )
        assert endpoint.count == 0
    assert done["status"] == 2, done
    [line] = done["err"].splitlines()
    assert line.startswith("error: file:")
    assert words in line
    assert list((tmp_path / "out").iterdir()) == []


@pytest.fixture
def script(run_main: Callable[..., Any]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the script, for what ends before Ray is needed."""
    return functools.partial(run_main, SCRIPT)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["photos"], "OUTPUT"),
        (["photos/*.png", "out"], "no file fits 'photos/*.png'"),
        (["out", "out"], "no file fits 'out'"),
        (["*/0.parquet", "out"], "several files are named '0.parquet'"),
        (["nowhere://photos", "out"], "Protocol not known: nowhere"),
        (["photos", "nowhere://out"], "Protocol not known: nowhere"),
        (["photos", "photos/0.parquet"], "OUTPUT: 'photos/0.parquet' cannot be used"),
        (["photos", "photos"], "no column 'answer_status': it was not captioned"),
        (["photos", "out", "--box-unit", "meter"], "box_unit must be one of"),
        (["photos", "out", "--concurrency", "many"], "concurrency must be a number"),
        (["photos", "out", "--workers", "0"], "must be a number of 1 or more, got '0'"),
        (["photos", "out", "--num-cpus", "all"], "must be a number of 1 or more, got 'all'"),
        (["photos", "out", "--recipe", "missing.json"], "missing.json"),
        (["photos", "out", "--address", "here:1", "--num-cpus", "2"], "--num-cpus is for"),
        (["photos", "out", "--no-ray"], "pip install 'hf-regioncap[ray]'"),
    ],
)
def test_wrong_usage_exits_2_before_any_request(
    arguments: list[str],
    words: str,
    sources: Path,
    tmp_path: Path,
    script: Callable[..., subprocess.CompletedProcess[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for folder in ("photos", "others"):
        (tmp_path / folder).mkdir()
        shutil.copy(sources / "0.parquet", tmp_path / folder)
    if "--no-ray" in arguments:
        monkeypatch.setitem(sys.modules, "ray", None)  # which is how Python says "not installed"
        arguments = arguments[:-1]
    with Endpoint() as endpoint:
        done = script(*arguments, "--base-url", endpoint.base_url, "--answer-store", "none")
        assert endpoint.count == 0
    assert done.returncode == 2, done.stdout + done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in written} == {"0.parquet"}


def test_failed_rows_exit_1_and_can_be_retried(
    cluster: Cluster, sources: Path, tmp_path: Path, assert_whole: Callable[..., None]
) -> None:
    out = tmp_path / "out"
    with Endpoint(["refusal_words", None, "http_400_image"]) as endpoint:
        asked = ["--base-url", endpoint.base_url, "--answer-store", "none"]
        arguments = [sources / "[0-1].parquet", out, *asked]
        first = cluster.script(*arguments, "--workers", "1", "--concurrency", "1")
        assert first["status"] == 1, first
        assert "1  api_refused" in first["out"]
        assert "1  api_error" in first["out"]
        assert "the same command with --retry-failed" in first["out"]
        assert endpoint.count == 2 * ROWS
        assert endpoint.max_in_flight == 1
        fine = [path for path in visible(out) if count_statuses(str(path)) == {"ok": ROWS}]
        assert len(fine) == 1
        before = written(fine[0])

        same = cluster.script(*arguments)
        assert same["status"] == 1
        assert "2 files, 2 of them finished before" in same["out"]
        assert endpoint.count == 2 * ROWS

        retried = cluster.script(*arguments, "--retry-failed")
        assert retried["status"] == 0, retried
        assert endpoint.count == 2 * ROWS + 2  # though there is no store
        assert written(fine[0]) == before
        assert cluster.script(*arguments, "--retry-failed")["status"] == 0
        assert endpoint.count == 2 * ROWS + 2
    assert_whole(out, 2)


# Stores


def test_a_store_for_each_machine_and_all_of_them_merged(
    cluster: Cluster, sources: Path, tmp_path: Path, assert_whole: Callable[..., None]
) -> None:
    stores = [tmp_path / "machine1.sqlite", tmp_path / "machine2.sqlite"]
    with Endpoint() as endpoint:
        asked = ["--base-url", endpoint.base_url, "--answer-store"]
        for number, store in enumerate(stores):
            source = sources / f"{number}.parquet"
            assert cluster.script(source, tmp_path / "out", *asked, store)["status"] == 0
        assert endpoint.count == 2 * ROWS
        merged = tmp_path / "all.sqlite"
        command = [sys.executable, "-m", "hf_regioncap", "store", "merge", merged, *stores]
        told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert told.stdout.count(f"{ROWS} answers added") == 2
        both = sources / "[0-1].parquet"
        assert cluster.script(both, tmp_path / "again", *asked, merged)["status"] == 0
        assert endpoint.count == 2 * ROWS
        assert cluster.script(both, tmp_path / "third", *asked, "none")["status"] == 0
        assert endpoint.count == 4 * ROWS
        assert not cluster.home.exists()  # no store was made that was not asked for
        assert cluster.script(both, tmp_path / "fourth", *asked[:-1])["status"] == 0
        assert endpoint.count == 6 * ROWS
    assert AnswerStore(cluster.home / "answers.sqlite").summary().answers == 2 * ROWS
    for folder in ("out", "again", "third", "fourth"):
        assert_whole(tmp_path / folder, 2)


# Without the script


def test_caption_files_tells_what_became_of_each(
    cluster: Cluster, sources: Path, make_dataset: Any, tmp_path: Path
) -> None:
    pq.write_table(make_dataset(1).with_format("arrow")[:].slice(1), tmp_path / "empty")
    (tmp_path / "broken").write_text("image,bbox")
    good, bad = str(sources / "0.parquet"), str(tmp_path / "missing" / "out")
    out, none = str(tmp_path / "out"), str(tmp_path / "none")
    with Endpoint() as endpoint:
        options = {"base_url": endpoint.base_url, "answer_store": None}
        files = [(good, out), (str(tmp_path / "empty"), none)]
        done = cluster.do(files=files, options=options)
        assert done == {"done": {out: {"ok": ROWS}, none: {}}}
        broken = cluster.do(files=[(str(tmp_path / "broken"), out)], options=options)
        assert broken["error"] == "OptionError"
        assert "cannot be read as Parquet" in broken["words"]
        unwritable = cluster.do(files=[(good, bad)], options=options)
        assert unwritable["error"] == "RegionCaptionError"
        assert "No such file or directory" in unwritable["words"]
        assert endpoint.count == ROWS


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_requests": 5}, "unknown option 'max_requests'"),  # each worker would have its own
        ({"box_unit": "meter"}, "box_unit must be one of"),
        ({"workers": 0}, "workers must be a number of 1 or more, got 0"),
    ],
)
def test_options_are_checked_before_ray_starts(options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        list(caption_files([("a", "b")], **options))
    ray = sys.modules.get("ray")  # another test's import may have brought it
    assert ray is None or not ray.is_initialized()


def test_map_batches_gives_the_columns_of_map(
    cluster: Cluster, sources: Path, tmp_path: Path, assert_own: Callable[..., None]
) -> None:
    # One path for Ray: it looks at several in threads, and not always with success (2.60).
    source, target = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    for number in range(2):
        shutil.copy(sources / f"{number}.parquet", source)
    paths = [str(path) for path in visible(source)]
    dataset = Dataset.from_parquet(paths, cache_dir=str(tmp_path / "cache"))
    with Endpoint() as endpoint:
        options = {"base_url": endpoint.base_url, "answer_store": None}
        cluster.do(map_batches=str(source), target=str(target), options=options)
        assert endpoint.count == 2 * ROWS
        right = dataset.map(add_region_captions, batched=True, fn_kwargs=options)
    files, cache = [str(path) for path in visible(target)], str(tmp_path / "other")
    mapped = Dataset.from_parquet(files, features=right.features, cache_dir=cache)
    assert mapped.column_names == right.column_names
    rows, right_rows = (each.with_format("arrow")[:].to_pylist() for each in (mapped, right))
    assert sorted(rows, key=lambda row: row["number"]) == right_rows  # blocks come as they are done
    assert_own(mapped)
