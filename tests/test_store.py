"""The answer store against real files, real processes, kill -9, and damage of every kind."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pickle
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_writer import answer_of, key_of  # the child's own questions and answers

from hf_regioncap import store_opening
from hf_regioncap.errors import OptionError, StoreError
from hf_regioncap.store import AnswerStore, StoredAnswer, default_store_path
from hf_regioncap.store_cli import store_cli
from hf_regioncap.store_merge import Source

WRITER = Path(__file__).with_name("store_writer.py")
PAGE = 1024
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="uses /proc")
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[AnswerStore]:
    store = AnswerStore(path, busy_timeout=20)
    yield store
    store.close()


def fill(store: AnswerStore, numbers: range) -> None:
    store.put_many([(key_of(n), answer_of(n)) for n in numbers])


def numbers_in(store: AnswerStore, numbers: range) -> set[int]:
    """Those of the numbers whose answer is in the store, each checked against what was put."""
    found = store.get_many(key_of(n) for n in numbers)
    present = {n for n in numbers if found[key_of(n)]}
    assert all(found[key_of(n)][0] == answer_of(n) for n in present)
    return present


def start_writer(*args: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(WRITER), *map(str, args)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


# Where it lies.


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "HOME/.cache/huggingface/regioncap/answers.sqlite"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/huggingface/regioncap/answers.sqlite"),
        ({"XDG_CACHE_HOME": "/x", "HF_HOME": "/hf"}, "/hf/regioncap/answers.sqlite"),
        ({"HF_HOME": "~/hf"}, "HOME/hf/regioncap/answers.sqlite"),
        ({"HF_HOME": ""}, "HOME/.cache/huggingface/regioncap/answers.sqlite"),
        ({"HF_HOME": "/hf", "HF_REGIONCAP_HOME": "/own"}, "/own/answers.sqlite"),
        ({"HF_REGIONCAP_HOME": "~/own"}, "HOME/own/answers.sqlite"),
    ],
)
def test_default_path(
    environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_REGIONCAP_HOME", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert default_store_path() == Path(expected.replace("HOME", str(Path.home())))


def test_making_a_store_touches_nothing_and_opening_makes_the_folders(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path / "a" / "b" / "answers.sqlite")
    assert not (tmp_path / "a").exists()
    store.open()
    assert store.path.is_file()


# There and back.

ODD = [
    answer_of(1),
    StoredAnswer("api_refused", "", "m", None, None, None, 0.0),
    StoredAnswer("api_bad_answer", "half a surrogate \ud83d, \x00 and 𝄞", "m\x00", "s", 0, 0, 1e9),
    StoredAnswer("ok", "é" * 1_000_000, "modèle", "length", 2**63 - 1, 1, 1763890000.123456),
]


@pytest.mark.parametrize("answers", [[], *([answer] for answer in ODD), ODD])
def test_what_is_put_comes_back(store: AnswerStore, answers: list[StoredAnswer]) -> None:
    for answer in answers:
        store.put(key_of(0), answer)
    expected = sorted(answers, key=lambda answer: answer.created)
    assert store.get(key_of(0)) == expected
    store.close()
    assert AnswerStore(store.path).get(key_of(0)) == expected
    assert store.get(key_of(1)) == []


text = st.text(st.characters(exclude_categories=()))
answers = st.builds(
    StoredAnswer,
    status=st.sampled_from(["ok", "api_refused"]),
    raw=text,
    model=st.text(),
    finish_reason=st.none() | st.text(),
    prompt_tokens=st.none() | st.integers(0, 2**63 - 1),
    completion_tokens=st.none() | st.integers(0, 2**63 - 1),
    created=st.floats(0, 4e9),
)


@settings(max_examples=40)
@given(answers, st.binary(min_size=32, max_size=32))
def test_any_answer_comes_back(
    tmp_path_factory: pytest.TempPathFactory, answer: StoredAnswer, key: bytes
) -> None:
    store = AnswerStore(tmp_path_factory.getbasetemp() / "any.sqlite")
    store.put(key.hex(), answer)
    assert answer in store.get(key.hex())


def test_what_no_column_can_hold_is_unknown_or_replaced(store: AnswerStore) -> None:
    odd = StoredAnswer("ok", "{}", "a\ud800b", "\udfff", 2**63, -1, 0.0)
    store.put(key_of(0), odd)
    assert store.get(key_of(0)) == [StoredAnswer("ok", "{}", "a?b", "?", None, None, 0.0)]


@pytest.mark.parametrize("key", ["", "ab", "g" * 64, "ab " * 21 + "a", "a" * 66])
def test_a_key_that_is_no_sha256_is_refused(store: AnswerStore, key: str) -> None:
    with pytest.raises(OptionError, match="64 hex digits"):
        store.put(key, answer_of(0))
    with pytest.raises(OptionError, match="64 hex digits"):
        store.get(key)


@pytest.mark.parametrize("count", [0, 1, 199, 200, 201, 1000])
def test_many_keys_at_once(store: AnswerStore, count: int) -> None:
    fill(store, range(0, count, 2))
    assert numbers_in(store, range(count)) == set(range(0, count, 2))


def test_the_files_hold_the_given_fields_and_nothing_else(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-1f0e")
    store = AnswerStore(path)
    store.put(key_of(0), answer_of(0))
    assert all(b"canary" not in each.read_bytes() for each in path.parent.iterdir())
    with contextlib.closing(sqlite3.connect(path)) as connection:
        columns = {row[1] for row in connection.execute("PRAGMA table_info(answers)")}
    fields = {field.name for field in dataclasses.fields(StoredAnswer)}
    assert columns == fields | {"id", "key", "digest"}


def test_a_store_is_not_pickled(store: AnswerStore) -> None:
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(store)


# Durable: acknowledged means kept.


def killed_run(
    path: Path, mode: str, start: int, threads: int, seconds: float, first: int = 1
) -> set[int]:
    """Let a child write until it is killed, so long after its first answers; what it promised."""
    with start_writer(mode, path, start, 0, threads) as child:
        assert child.stdout is not None
        acknowledged = [child.stdout.readline() for _ in range(first)]
        time.sleep(seconds)
        child.kill()
        acknowledged += child.stdout.readlines()
    return {int(line) for line in acknowledged if line.endswith(b"\n")}


def log_without_shared_memory(path: Path) -> None:
    """Make SQLite's log impossible here, as on a network file system: its index cannot be made."""
    Path(f"{path}-shm").symlink_to(path.parent / "no" / "such" / "folder")


@pytest.mark.parametrize("threads", [1, 8])
@pytest.mark.parametrize("place", ["local", "no log"])
def test_no_acknowledged_answer_is_lost_to_kill_9(path: Path, threads: int, place: str) -> None:
    if place == "no log":
        log_without_shared_memory(path)
    chance = random.Random(threads)
    promised: set[int] = set()
    for turn in range(4):
        promised |= killed_run(path, "write", turn * 100_000, threads, chance.uniform(0, 0.12))
    store = AnswerStore(path)
    kept = {
        n
        for turn in range(4)
        for n in numbers_in(store, range(turn * 100_000, turn * 100_000 + 5000))
    }
    assert promised
    assert promised <= kept
    assert store.verify().problems == ()
    store.close()


def test_a_store_that_commits_late_would_be_found_out(path: Path) -> None:
    lost = 0
    for turn in range(4):
        promised = killed_run(path, "late", turn * 100_000, 1, 0.05)
        kept = numbers_in(AnswerStore(path), range(turn * 100_000, turn * 100_000 + 5000))
        lost += len(promised - kept)
    assert lost > 0


def test_without_a_log_the_journal_is_used(path: Path) -> None:
    log_without_shared_memory(path)
    store = AnswerStore(path)
    fill(store, range(10))
    assert not Path(f"{path}-wal").exists()
    assert numbers_in(AnswerStore(path), range(12)) == set(range(10))
    store.close()


def test_a_store_with_a_log_can_move_to_where_there_is_none(path: Path) -> None:
    killed_run(path, "write", 0, 1, 0.02)  # leaves its log behind
    kept = numbers_in(AnswerStore(path), range(5000))
    killed_run(path, "write", 5000, 1, 0.02)
    assert Path(f"{path}-wal").stat().st_size > 0
    Path(f"{path}-shm").unlink()
    log_without_shared_memory(path)
    store = AnswerStore(path)
    assert numbers_in(store, range(5000)) == kept
    assert 5000 in numbers_in(store, range(5000, 5001))
    store.close()


# Many at once.


def test_threads_share_commits_and_lose_nothing(tmp_path: Path) -> None:
    """The log of 320 answers from 32 threads is far shorter than that of one by one."""
    alone, together = (AnswerStore(tmp_path / name) for name in ("alone", "together"))
    for n in range(320):
        alone.put(key_of(n), answer_of(n))
    together.open()
    barrier = threading.Barrier(32)

    def work(first: int) -> None:
        barrier.wait()
        for n in range(first, 320, 32):
            together.put(key_of(n), answer_of(n))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    logs = [Path(f"{store.path}-wal").stat().st_size for store in (alone, together)]
    assert logs[1] * 2 < logs[0]
    assert numbers_in(together, range(330)) == set(range(320))
    for store in (alone, together):
        store.close()


def test_readers_do_not_wait_for_one_another(store: AnswerStore) -> None:
    fill(store, range(200))
    seen: list[set[int]] = []
    threads = [
        threading.Thread(target=lambda: seen.append(numbers_in(store, range(200))))
        for _ in range(40)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert seen == [set(range(200))] * 40


def test_eight_processes_at_once_from_the_first_moment(store: AnswerStore) -> None:
    children = [start_writer("write", store.path, k * 100, 100, 4) for k in range(8)]
    promised = 0
    for child in children:
        out, _ = child.communicate(timeout=120)
        assert child.returncode == 0
        promised += len(out.splitlines())
    assert promised == 800
    assert numbers_in(store, range(810)) == set(range(800))
    assert store.summary().answers == 800
    assert store.verify().problems == ()


def test_the_log_is_folded_into_the_file_as_it_grows(store: AnswerStore) -> None:
    for n in range(24):
        store.put(key_of(n), dataclasses.replace(answer_of(n), raw="x" * 500_000))
    assert Path(f"{store.path}-wal").stat().st_size < 6 << 20
    assert store.summary().size_bytes > 24 * 500_000
    assert store.verify().problems == ()


def test_a_reader_for_long_does_not_stop_writers(store: AnswerStore) -> None:
    fill(store, range(10))
    with contextlib.closing(sqlite3.connect(store.path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM answers").fetchone()
        for n in range(100, 112):
            store.put(key_of(n), dataclasses.replace(answer_of(n), raw="x" * 1_000_000))
    assert store.summary().answers == 22


def test_a_group_that_cannot_be_committed_fails_for_each_and_is_not_half_there(
    path: Path,
) -> None:
    store = AnswerStore(path, busy_timeout=0.3)
    store.open()
    failed: list[int] = []

    def work(n: int) -> None:
        try:
            store.put(key_of(n), answer_of(n))
        except StoreError:
            failed.append(n)

    with start_writer("hold", path) as child:
        assert child.stdout is not None
        child.stdout.readline()
        threads = [threading.Thread(target=work, args=(n,)) for n in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        child.communicate()
    assert sorted(failed) == list(range(12))
    assert numbers_in(store, range(12)) == set()
    for n in failed:
        store.put(key_of(n), answer_of(n))
    assert numbers_in(store, range(12)) == set(range(12))
    store.close()


def test_ctrl_c_in_the_thread_that_commits_for_others(path: Path) -> None:
    """The main thread leads a group that waits for a locked file when Ctrl-C comes."""
    store = AnswerStore(path, busy_timeout=30)
    store.open()
    threads = [
        threading.Thread(target=store.put, args=(key_of(n), answer_of(n))) for n in range(10)
    ]
    with start_writer("hold", path) as child:
        assert child.stdout is not None
        child.stdout.readline()
        threads[0].start()
        time.sleep(0.2)
        later = [threading.Timer(0.3, thread.start) for thread in threads[1:]]
        interrupt = threading.Timer(0.8, os.kill, (os.getpid(), signal.SIGINT))
        for timer in (*later, interrupt):
            timer.start()
        with pytest.raises(KeyboardInterrupt):
            store.put(key_of(10), answer_of(10))
        for timer in later:
            timer.join()
        child.communicate()
    for thread in threads:
        thread.join(timeout=60)
    assert numbers_in(store, range(10)) == set(range(10))
    store.close()


def test_ctrl_c_while_a_locked_file_is_waited_for(path: Path) -> None:
    AnswerStore(path).open()
    with start_writer("hold", path) as child:
        assert child.stdout is not None
        child.stdout.readline()
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            AnswerStore(path, busy_timeout=100).open()
        assert time.monotonic() - start < 50  # not until the lock is given up on
        child.communicate()


def test_one_bad_answer_does_not_take_its_neighbours_along(store: AnswerStore) -> None:
    threads = [
        threading.Thread(target=store.put, args=(key_of(n), answer_of(n))) for n in range(20)
    ]
    for thread in threads:
        thread.start()
    wrong = dataclasses.replace(answer_of(99), model=None)
    with pytest.raises(AttributeError):
        store.put(key_of(99), wrong)
    for thread in threads:
        thread.join()
    assert numbers_in(store, range(100)) == set(range(20))


# Who may read it.


@pytest.mark.skipif(os.name == "nt", reason="Windows has other rights")
@pytest.mark.parametrize("journal", ["WAL", "TRUNCATE"])
def test_only_its_owner_may_read_what_is_made(
    journal: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_opening, "_on_network", lambda _: journal == "TRUNCATE")
    before = os.umask(0o022)
    try:
        store = AnswerStore(path)
        fill(store, range(3))
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
        assert len(modes) >= 2  # the file and its journal
        assert set(modes.values()) == {0o600}
        store.close()
        path.chmod(0o640)  # the owner's own wish stays
        fill(store, range(3, 6))
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        store.close()
    finally:
        os.umask(before)


# Forks.


def in_child(action: Callable[[], None]) -> int:
    """Fork, act in the child, and leave at once with 0 if that went well."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    return pid


def ended_well(pid: int) -> bool:
    """Wait for a child, but not for ever."""
    for _ in range(6000):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False


@forks
def test_a_child_keeps_its_answers_when_the_parent_closes(store: AnswerStore) -> None:
    """With a connection open across the fork, SQLite deletes the log that the child writes to."""
    fill(store, range(5))
    told, tell = os.pipe()
    go, let_go = os.pipe()

    def child() -> None:
        store.put(key_of(5), answer_of(5))
        os.write(tell, b"x")
        os.read(go, 1)
        fill(store, range(6, 9))

    pid = in_child(child)
    os.read(told, 1)
    fill(store, range(20, 25))
    store.close()
    os.write(let_go, b"x")
    assert ended_well(pid)
    assert numbers_in(store, range(30)) == {*range(9), *range(20, 25)}
    for end in (told, tell, go, let_go):
        os.close(end)


@forks
def test_forks_in_the_midst_of_reading_and_writing(store: AnswerStore) -> None:
    fill(store, range(10))
    stop = threading.Event()
    written: list[set[int]] = []

    def work(first: int) -> None:
        mine = set()
        for n in range(first, first + 900):
            if stop.is_set():
                break
            store.put(key_of(n), answer_of(n))
            store.get(key_of(n - 1))
            mine.add(n)
        written.append(mine)

    threads = [threading.Thread(target=work, args=(1000 * k,)) for k in range(1, 5)]
    for thread in threads:
        thread.start()
    children = [
        in_child(lambda first=10_000 + 100 * k: fill(store, range(first, first + 10)))
        for k in range(12)
    ]
    ends = [ended_well(pid) for pid in children]
    assert all(ends)
    stop.set()
    for thread in threads:
        thread.join()
    expected = set(range(10)).union(*written)
    expected |= {10_000 + 100 * k + n for k in range(12) for n in range(10)}
    assert numbers_in(store, range(12_000)) == expected
    assert store.verify().problems == ()


@forks
def test_a_fork_in_the_midst_of_a_merge(store: AnswerStore, tmp_path: Path) -> None:
    """Neither waits for the other: a merge holds no connection while it writes to another file."""
    other = AnswerStore(tmp_path / "other.sqlite")
    fill(other, range(1000))
    fill(store, range(3))
    chunks = Source(other.path, 20).chunks()
    taken = len(next(chunks))
    assert 0 < taken < 1000
    forked = threading.Thread(target=lambda: ends.append(ended_well(in_child(lambda: None))))
    ends: list[bool] = []
    forked.start()
    forked.join(100)
    assert ends == [True]
    assert taken + sum(map(len, chunks)) == 1000
    assert store.merge(other.path) == 997
    other.close()


@forks
def test_a_child_of_a_child_and_stores_that_the_parent_never_opened(tmp_path: Path) -> None:
    first, second = AnswerStore(tmp_path / "first"), AnswerStore(tmp_path / "second")
    fill(first, range(3))

    def grandchild() -> None:
        fill(first, range(20, 23))
        fill(second, range(20, 23))

    def child() -> None:
        fill(second, range(10, 13))
        assert ended_well(in_child(grandchild))
        fill(first, range(30, 33))

    assert ended_well(in_child(child))
    assert numbers_in(first, range(40)) == {*range(3), *range(20, 23), *range(30, 33)}
    assert numbers_in(second, range(40)) == {*range(10, 13), *range(20, 23)}
    for store in (first, second):
        store.close()


# What stands in the way is said before money is spent.


def refused(path: Path) -> str:
    with pytest.raises(StoreError) as caught:
        AnswerStore(path, busy_timeout=0.3).open()
    message = str(caught.value)
    assert str(path) in message
    assert "answer_store=None" in message
    assert "HF_REGIONCAP_HOME" in message
    return message


def test_no_folder_where_a_file_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    assert "cannot be opened" in refused(tmp_path / "file" / "answers.sqlite")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert "is no file" in refused(tmp_path)


@linux_only
def test_devices_and_proc_are_no_place() -> None:
    assert "is no file" in refused(Path("/dev/full"))
    assert "cannot be opened" in refused(Path("/proc/answers.sqlite"))


@forks
def test_a_folder_without_permission_to_write() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)

        def child() -> None:
            if os.geteuid() == 0:  # permissions do not bind root
                os.setuid(65534)
            assert "cannot be opened" in refused(Path(folder) / "answers.sqlite")

        assert ended_well(in_child(child))


@contextlib.contextmanager
def mounted(folder: Path, *arguments: str) -> Iterator[None]:
    """Mount something on a folder for a while; skip where that is not allowed."""
    folder.mkdir(exist_ok=True)
    try:
        done = subprocess.run(["mount", *arguments, str(folder)], capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if done.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@linux_only
def test_a_read_only_file_system(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    with mounted(folder, "-t", "tmpfs", "tmpfs"):
        store = AnswerStore(folder / "answers.sqlite")
        fill(store, range(3))
        store.close()
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        assert "cannot be opened and written" in refused(store.path)
        assert "cannot be opened and written" in refused(folder / "new" / "answers.sqlite")
        # What needs no writing works.
        assert store.summary().answers == 3
        other = AnswerStore(tmp_path / "other.sqlite")
        assert other.merge(store.path) == 3
        other.close()


def fill_up(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


@linux_only
def test_a_full_disk(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    with mounted(folder, "-t", "tmpfs", "-o", "size=512k", "tmpfs"):
        (folder / "ballast").write_bytes(b"x" * 20_000)
        store = AnswerStore(folder / "answers.sqlite")
        store.open()
        kept = 0
        with contextlib.suppress(StoreError):
            for kept in range(10_000):
                store.put(key_of(kept), answer_of(kept))
        with pytest.raises(StoreError, match="disk is full"):
            fill(store, range(kept, kept + 500))
        assert kept > 10
        assert numbers_in(store, range(kept + 500)) == set(range(kept))
        store.close()
        fill_up(folder / "ballast")
        assert "full" in refused(store.path)
        assert "full" in refused(folder / "new.sqlite")
        (folder / "ballast").unlink()
        (folder / "new.sqlite").unlink(missing_ok=True)
        store.put(key_of(kept), answer_of(kept))
        assert numbers_in(store, range(kept + 2)) == set(range(kept + 1))
        assert store.verify().problems == ()
        store.close()


@linux_only
def test_no_file_may_grow_any_more(store: AnswerStore) -> None:
    out, _ = start_writer("small", store.path, 0, 5000).communicate(timeout=60)
    *acknowledged, reason = out.decode().splitlines()
    assert "answer_store=None" in reason
    assert len(acknowledged) > 10
    kept = len(acknowledged)
    assert numbers_in(store, range(5000)) == set(range(kept))
    assert store.verify().problems == ()


def test_a_lock_that_another_process_does_not_let_go(path: Path) -> None:
    AnswerStore(path).open()
    with start_writer("hold", path) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert "another process has kept it locked for 0.3 seconds" in refused(path)
        child.communicate()
    AnswerStore(path, busy_timeout=0.3).open()


def test_a_lock_that_is_let_go_in_time_is_waited_for(store: AnswerStore) -> None:
    store.open()
    with start_writer("hold", store.path) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        child.stdout.readline()
        timer = threading.Timer(0.5, child.stdin.close)
        timer.start()
        store.put(key_of(0), answer_of(0))
        timer.join()
        child.wait()
    assert numbers_in(store, range(2)) == {0}


def test_a_file_that_is_removed_or_replaced_is_noticed(store: AnswerStore) -> None:
    fill(store, range(3))
    store.close()
    store.get(key_of(0))  # open again
    store.path.rename(store.path.with_suffix(".old"))
    Path(f"{store.path}-wal").unlink(missing_ok=True)
    fill(store, range(5, 7))
    assert numbers_in(AnswerStore(store.path), range(10)) == {5, 6}
    assert numbers_in(AnswerStore(store.path.with_suffix(".old")), range(10)) == {0, 1, 2}


# Other people's files.


def make_foreign(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE bookmarks (url)")
        connection.commit()


def make_newer(path: Path) -> None:
    store = AnswerStore(path)
    fill(store, range(3))
    store.close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 2")


@pytest.mark.parametrize(
    ("make", "words"), [(make_foreign, "another program's"), (make_newer, "newer hf_regioncap")]
)
def test_a_file_that_is_not_ours_is_not_touched(
    path: Path, make: Callable[[Path], None], words: str
) -> None:
    make(path)
    before = path.read_bytes()
    assert words in refused(path)
    for use in (AnswerStore(path).summary, AnswerStore(path).verify):
        with pytest.raises(StoreError, match=words):
            use()
    with pytest.raises(StoreError, match=words):
        AnswerStore(path.with_name("mine")).merge(path)
    assert path.read_bytes() == before
    assert {each.name for each in path.parent.iterdir()} <= {path.name, "mine"}


# Damage.


@pytest.fixture
def whole(path: Path) -> Path:
    """A closed store of the answers 0 to 299."""
    store = AnswerStore(path)
    for n in range(0, 300, 3):
        fill(store, range(n, n + 3))
    store.close()
    return path


def overwrite(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def page_with(path: Path, content: bytes) -> int:
    """Where the page begins that holds this content."""
    return path.read_bytes().index(content) // PAGE * PAGE


def saved_from(path: Path) -> tuple[set[int], int]:
    """The numbers that a merge saves from a damaged store, and how many it says are lost."""
    rescue = AnswerStore(path.with_name("rescue.sqlite"))
    merged = rescue.merge_counted(path)
    saved = numbers_in(rescue, range(400))
    assert merged.added == len(saved)
    assert rescue.merge_counted(path).added == 0
    rescue.close()
    return saved, merged.lost


def test_an_empty_file_is_a_new_store(path: Path) -> None:
    path.touch()
    store = AnswerStore(path)
    fill(store, range(3))
    assert numbers_in(store, range(4)) == {0, 1, 2}
    store.close()


@pytest.mark.parametrize("content", [b"x", b"not a database " * 1000, b"\0" * 8192])
def test_garbage_is_said_to_be_damage(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    message = refused(path)
    assert "damaged" in message
    assert "store verify" in message
    assert "store merge" in message
    assert len(AnswerStore(path).verify().problems) == 1
    with pytest.raises(StoreError, match="damaged"):
        AnswerStore(path.with_name("rescue.sqlite")).merge(path)
    assert path.read_bytes() == content


def test_a_header_that_is_gone_loses_nothing(whole: Path) -> None:
    overwrite(whole, 0, b"\0" * PAGE)
    assert "damaged" in refused(whole)
    assert saved_from(whole) == (set(range(300)), 0)


def test_the_root_of_the_table_loses_nothing(whole: Path) -> None:
    with contextlib.closing(sqlite3.connect(whole)) as connection:
        sql = "SELECT rootpage FROM sqlite_schema WHERE name = 'answers'"
        root = connection.execute(sql).fetchone()[0]
    overwrite(whole, (root - 1) * PAGE, b"\xff" * PAGE)
    assert "damaged" in refused(whole)
    assert AnswerStore(whole).verify().problems
    assert saved_from(whole) == (set(range(300)), 0)


def test_the_index_loses_nothing(whole: Path) -> None:
    """A page of the index, where the next answer might have to go, is missed at the start."""
    at = whole.read_bytes().rindex(bytes.fromhex(key_of(150))) // PAGE * PAGE
    assert whole.read_bytes()[at] == 0x0A  # a leaf of an index
    overwrite(whole, at, b"\0" * PAGE)
    assert "damaged" in refused(whole)
    assert saved_from(whole) == (set(range(300)), 0)


def test_pages_in_the_middle_lose_only_their_own_answers(whole: Path) -> None:
    middle = page_with(whole, answer_of(150).raw[-60:-30].encode())
    overwrite(whole, middle, os.urandom(6 * PAGE))
    check = AnswerStore(whole).verify()
    assert check.problems
    assert check.whole_rows < 300
    saved, lost = saved_from(whole)
    assert len(saved) >= 290
    assert 150 not in saved
    assert lost == 300 - len(saved)


def test_a_file_cut_short_keeps_its_beginning(whole: Path) -> None:
    size = whole.stat().st_size
    os.truncate(whole, size * 2 // 3)
    assert "damaged" in refused(whole)
    saved, lost = saved_from(whole)
    assert set(range(150)) <= saved
    assert lost >= max(saved) + 1 - len(saved)


@pytest.mark.parametrize("word", ["answer", "key", "status"])
def test_a_flipped_bit_is_never_served(
    whole: Path, word: str, caplog: pytest.LogCaptureFixture
) -> None:
    content = whole.read_bytes()
    at = {
        "answer": content.index(answer_of(7).raw[-60:-30].encode()),
        "key": content.index(bytes.fromhex(key_of(7)) + b"ok"),
        "status": content.index(bytes.fromhex(key_of(7)) + b"ok") + 32,
    }[word]
    overwrite(whole, at, bytes([content[at] ^ 1]))
    store = AnswerStore(whole)
    if word == "key":  # the index still has the key and leads to the true answer
        assert store.get(key_of(7)) in ([], [answer_of(7)])
    else:
        assert store.get(key_of(7)) == []
        assert "1 damaged answers" in caplog.text
    problems = store.verify().problems
    assert "row 8 does not match its digest" in problems
    with pytest.raises(StoreError, match="row 8"):
        store.export_parquet(whole.with_name("out.parquet"))
    assert not whole.with_name("out.parquet").exists()
    store.close()
    assert saved_from(whole) == (set(range(300)) - {7}, 1)


def test_rows_out_of_order_do_not_go_round_for_ever(path: Path) -> None:
    store = AnswerStore(path)
    small = dataclasses.replace(answer_of(0), raw="small")
    store.put_many([(key_of(n), small) for n in range(3)])
    store.close()
    content = path.read_bytes()
    at = content.index(bytes.fromhex(key_of(2)))
    header = content.rindex(b"\x03", at - 20, at)  # the third row's id, before its record
    overwrite(path, header, b"\x01")
    check = AnswerStore(path).verify()
    assert any("out of order" in problem for problem in check.problems)
    rescue = AnswerStore(path.with_name("rescue.sqlite"))
    assert rescue.merge(path) == 3


def test_a_damaged_end_of_the_log_keeps_what_comes_before(path: Path) -> None:
    promised = killed_run(path, "write", 0, 1, 0, first=50)
    log = Path(f"{path}-wal")
    frame = 24 + PAGE
    overwrite(log, 32 + (log.stat().st_size - 32) // frame // 2 * frame + 100, b"\xff" * 50)
    store = AnswerStore(path)
    kept = numbers_in(store, range(5000))
    assert 0 < len(kept) < len(promised)
    assert kept == set(range(len(kept)))
    assert store.verify().problems == ()
    fill(store, range(5000, 5010))
    assert numbers_in(store, range(5000, 5010)) == set(range(5000, 5010))
    store.close()


@pytest.mark.parametrize("damage", [lambda path: os.truncate(path, 0), Path.unlink])
def test_a_log_without_its_file_is_not_thrown_away(
    path: Path, damage: Callable[[Path], None]
) -> None:
    """SQLite deletes the log of an empty file, and the answers in it."""
    promised = killed_run(path, "write", 0, 1, 0.02)
    damage(path)
    assert "its log answers.sqlite-wal is not" in refused(path)
    assert Path(f"{path}-wal").exists()
    rescue = AnswerStore(path.with_name("rescue.sqlite"))
    rescue.merge(path)
    assert promised <= numbers_in(rescue, range(5000))
    rescue.close()


def test_long_answers_are_saved_from_a_damaged_file(path: Path) -> None:
    store = AnswerStore(path)
    sizes = [0, 1, 700, 800, 900, 988, 989, 990, 1000, 1023, 1024, 2000, 3100, 100_000]
    for size in sizes:
        fill_up = dataclasses.replace(answer_of(size), raw=chr(65 + size % 26) * size)
        store.put(key_of(size), fill_up)
    store.close()
    overwrite(path, 0, b"\0" * PAGE)
    rescue = AnswerStore(path.with_name("rescue.sqlite"))
    assert rescue.merge(path) == len(sizes)
    assert [len(rescue.get(key_of(size))[0].raw) for size in sizes] == sizes
    rescue.close()


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.integers(1, 40))
def test_whatever_is_damaged_only_true_answers_come_out(
    tmp_path_factory: pytest.TempPathFactory, seed: int, wounds: int
) -> None:
    folder = tmp_path_factory.mktemp("damage")
    store = AnswerStore(folder / "answers.sqlite")
    fill(store, range(60))
    store.close()
    chance = random.Random(seed)
    size = store.path.stat().st_size
    for _ in range(wounds):
        overwrite(store.path, chance.randrange(size), chance.randbytes(chance.choice([1, 8, 300])))
    with contextlib.suppress(StoreError):
        numbers_in(store, range(60))  # asserts that each answer is the one that was put
    store.close()
    with contextlib.suppress(StoreError):
        saved_from(store.path)


# Export and merge.


def test_export_and_merge_there_and_back(tmp_path: Path) -> None:
    first, second = AnswerStore(tmp_path / "first"), AnswerStore(tmp_path / "second")
    for number, answer in enumerate([*ODD, answer_of(1)]):
        first.put(key_of(number), answer)
    assert first.export_parquet(tmp_path / "out.parquet") == 5
    assert second.merge(tmp_path / "out.parquet") == 5
    assert second.merge(tmp_path / "out.parquet") == 0
    assert second.merge(first.path) == 0
    for number in range(5):
        assert second.get(key_of(number)) == first.get(key_of(number))
    for store in (first, second):
        store.close()


def test_the_exported_table(store: AnswerStore, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    assert AnswerStore.export_parquet(opened(store), out) == 0
    assert pq.read_table(out).num_rows == 0
    store.put(key_of(0), answer_of(0))
    store.put(key_of(1), ODD[2])
    store.export_parquet(out)
    table = pq.read_table(out)
    assert table.schema.field("raw").type == pa.string()
    assert table.column("key").to_pylist() == [key_of(0), key_of(1)]
    assert table.column("raw").to_pylist() == [answer_of(0).raw, ODD[2].raw.replace("\ud83d", "?")]
    assert table.column("created").to_pylist() == [0.0, 1e9]
    assert not out.with_name("out.parquet.part").exists()


def opened(store: AnswerStore) -> AnswerStore:
    store.open()
    return store


def test_merge_adds_what_is_new_only(tmp_path: Path) -> None:
    here, there = AnswerStore(tmp_path / "here"), AnswerStore(tmp_path / "there")
    fill(here, range(300))
    fill(there, range(200, 700))
    again = dataclasses.replace(answer_of(250), created=9e9)  # the same question, paid for twice
    there.put(key_of(250), again)
    assert here.merge(there.path) == 401
    assert here.merge(there.path) == 0
    assert here.get(key_of(250)) == [answer_of(250), again]
    assert numbers_in(here, range(710)) == set(range(700))
    for store in (here, there):
        store.close()


def test_merge_reads_the_log_of_a_killed_process(path: Path, tmp_path: Path) -> None:
    promised = killed_run(path, "write", 0, 4, 0.02)
    rescue = AnswerStore(tmp_path / "rescue.sqlite")
    rescue.merge(path)
    assert promised <= numbers_in(rescue, range(5000))
    rescue.close()


def test_merge_says_what_it_cannot_read(store: AnswerStore, tmp_path: Path) -> None:
    fill(store, range(3))
    with pytest.raises(StoreError, match="there is no answer store at"):
        store.merge(tmp_path / "none.sqlite")
    with pytest.raises(OptionError, match="into itself"):
        store.merge(store.path)
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(StoreError, match="no export of an answer store"):
        store.merge(tmp_path / "other.parquet")
    (tmp_path / "half.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(StoreError, match="cannot read"):
        store.merge(tmp_path / "half.parquet")


def test_an_export_that_was_edited_is_not_believed(store: AnswerStore, tmp_path: Path) -> None:
    fill(store, range(3))
    store.export_parquet(tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    models = pa.array(["gpt-4o-mini", "gpt-4o-mini", "gpt-9"])
    pq.write_table(table.set_column(4, "model", models), tmp_path / "out.parquet")
    other = AnswerStore(tmp_path / "other.sqlite")
    assert other.merge_counted(tmp_path / "out.parquet") == (2, 1)
    assert numbers_in(other, range(3)) == {0, 1}
    other.close()


def test_export_to_where_nothing_can_be_written(store: AnswerStore, tmp_path: Path) -> None:
    fill(store, range(3))
    with pytest.raises(StoreError, match="cannot write"):
        store.export_parquet(tmp_path / "no" / "folder" / "out.parquet")


# The command line.


def test_the_command_line(
    store: AnswerStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(store, range(3))
    store.put(key_of(0), dataclasses.replace(answer_of(0), status="api_refused", model="llava"))
    path, out, other = str(store.path), str(tmp_path / "out.parquet"), str(tmp_path / "other")
    assert store_cli(["show", path]) == 0
    shown = capsys.readouterr().out
    for words in ("4 answers to 3 questions", "80 completion tokens", "api_refused", "llava"):
        assert words in shown
    assert "1970-01-01 00:00 UTC" in shown
    assert store_cli(["verify", path]) == 0
    assert "4 answers match their digests" in capsys.readouterr().out
    assert store_cli(["export", path, out]) == 0
    assert "4 answers written" in capsys.readouterr().out
    assert store_cli(["merge", other, out, path]) == 0
    assert capsys.readouterr().out.count("answers added") == 2


def test_the_command_line_uses_the_default_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_REGIONCAP_HOME", str(tmp_path))
    assert store_cli(["show"]) == 2
    assert f"there is no answer store at {tmp_path}" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    fill(AnswerStore(default_store_path()), range(2))
    assert store_cli(["export", str(tmp_path / "out.parquet")]) == 0
    assert store_cli(["verify"]) == 0
    assert store_cli(["show"]) == 0


def test_the_command_line_tells_damage(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overwrite(whole, page_with(whole, answer_of(150).raw[-60:-30].encode()), b"\0" * PAGE)
    assert store_cli(["verify", str(whole)]) == 1
    assert len(capsys.readouterr().out.splitlines()) > 1
    assert store_cli(["merge", str(whole.with_name("new")), str(whole)]) == 1
    assert "at least 1 answers are lost" in capsys.readouterr().out
    assert store_cli(["export", str(whole), str(whole.with_name("out"))]) == 2
    assert "store merge" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [[], ["drop"], ["merge"], ["export"]])
def test_wrong_usage(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        store_cli(wrong)
    assert left.value.code == 2
    assert "usage:" in capsys.readouterr().err
