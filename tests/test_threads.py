"""Threads that take calls, whatever these raise, and where no more can be started."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_regioncap.errors import RegionCaptionError
from hf_regioncap.threads import Threads, start_thread


def test_calls_share_the_threads_that_there_are() -> None:
    together = threading.Barrier(3)  # three at once, or nobody goes on
    with Threads(3, "three") as threads:
        done = [threads.submit(together.wait, 60) for _ in range(9)]
        assert sorted(each.result(60) for each in done) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        names = {threads.submit(lambda: threading.current_thread().name).result(60)}
        assert names <= {"three_0", "three_1", "three_2"}
    assert not [each for each in threading.enumerate() if each.name.startswith("three")]


def test_a_call_after_another_needs_no_second_thread() -> None:
    with Threads(5, "lone") as threads:
        for number in range(20):
            assert threads.submit(int, number).result(60) == number
            while not threads._idle._value:  # the thread is about to wait
                threading.Event().wait(0.001)
        assert len(threads._crew) == 1


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_what_a_call_raises_is_its_own(error: type[BaseException]) -> None:
    def fail() -> None:
        raise error("mine")

    with Threads(1, "one") as threads:
        assert isinstance(threads.submit(fail).exception(60), error)
        assert threads.submit(int, "3").result(60) == 3


def test_threads_end_with_whoever_gives_them_work() -> None:
    threads = Threads(1, "forgotten")
    [thread] = threads.submit(lambda: [threading.current_thread()]).result(60)
    del threads
    gc.collect()
    thread.join(60)
    assert not thread.is_alive()


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let only so many threads be started from now on, as a limit of the system does."""

    def allow(count: int) -> None:
        start, left = threading.Thread.start, [None] * count

        def limited(self: threading.Thread) -> None:
            if not left:
                raise RuntimeError("can't start new thread")
            left.pop()
            start(self)

        monkeypatch.setattr(threading.Thread, "start", limited)

    return allow


def test_fewer_threads_do_the_work_and_none_is_an_error(few: Callable[[int], None]) -> None:
    few(1)
    release = threading.Event()
    with Threads(4, "few") as threads:
        waiting = threads.submit(release.wait, 60)
        later = [threads.submit(int, number) for number in range(5)]
        release.set()
        assert waiting.result(60)
        assert [each.result(60) for each in later] == list(range(5))
    with pytest.raises(RegionCaptionError, match=r"no thread can be started .can't start new"):
        Threads(4, "none").submit(int)
    with pytest.raises(RegionCaptionError, match="ulimit -u"):
        start_thread(int, "none")


@pytest.mark.parametrize("count", [0, 1])
def test_columns_where_no_thread_can_be_started(
    count: int, few: Callable[[int], None], make_dataset: Any
) -> None:
    from hf_regioncap import add_boxes

    table = make_dataset(3).with_format("arrow")[:]
    few(count)  # the one that reads the rows, but none that draws
    with pytest.raises(RegionCaptionError, match="no thread can be started"):
        add_boxes(table)


def test_asyncio_takes_them() -> None:
    async def name() -> str:
        asyncio.get_running_loop().set_default_executor(Threads(1, "mine"))
        return await asyncio.to_thread(lambda: threading.current_thread().name)

    assert asyncio.run(name()) == "mine_0"


AFTER_MAIN = """
import sys, threading
import pyarrow as pa
from hf_regioncap import add_region_captions
from hf_regioncap.threads import Threads

hung = Threads(1, "hung").submit(threading.Event().wait)  # keeps no process alive
table = pa.table({"image": [open(sys.argv[1], "rb").read()], "bbox": [[[8, 8, 40, 30]]]})

def caption():
    threading.main_thread().join()
    done = add_region_captions(
        table, base_url="offline", answer_store=sys.argv[2],
        parse=lambda answer, regions: {1: "parsed"},
    )
    print(done["region_captions"].to_pylist(), hung.done())

threading.Thread(target=caption).start()
"""


def test_captioning_goes_on_after_the_main_thread_has_ended(
    tmp_path: Path, make_photo: Callable[..., bytes]
) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes(make_photo(1))
    command = [sys.executable, "-c", AFTER_MAIN, photo, tmp_path / "answers.sqlite"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert (done.stdout, done.returncode) == ("[['parsed']] False\n", 0), done.stderr
