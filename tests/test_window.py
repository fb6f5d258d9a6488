"""Work that runs ahead, within bounds, and comes back in order."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_regioncap.threads import start_thread
from hf_regioncap.window import DRAWING_THREADS, Window, then

pytestmark = pytest.mark.timeout(600)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("regioncap-")]


@pytest.fixture(autouse=True)
def _no_thread_is_left_behind() -> Iterator[None]:
    before = threads()
    yield
    deadline = time.monotonic() + 240  # only against hanging
    while len(threads()) > len(before) and time.monotonic() < deadline:
        time.sleep(0.005)
    assert len(threads()) <= len(before)


class Endpoint:
    """Begun work that finishes when the test says so; counts what is begun and unfinished."""

    def __init__(self) -> None:
        self.begun: dict[int, Future[int]] = {}
        self.most = 0
        self._changed = threading.Condition()

    def begin(self, item: int) -> Future[int]:
        with self._changed:
            self.begun[item] = Future()
            open_ones = [future for future in self.begun.values() if not future.done()]
            self.most = max(self.most, len(open_ones))
            self._changed.notify_all()
            return self.begun[item]

    def finish(self, item: int) -> None:
        assert self.wait_for(lambda: item in self.begun)
        self.begun[item].set_result(item)

    def wait_for(self, condition: Any, seconds: float = 240) -> bool:
        with self._changed:
            return bool(self._changed.wait_for(condition, seconds))


@pytest.mark.parametrize(
    ("items", "expected"),
    [([], []), ([3], [9]), (range(50), [n * n for n in range(50)])],
)
@pytest.mark.parametrize("active", [1, 3, 100])
@pytest.mark.parametrize("ahead", [1, 3, 100])
def test_results_come_in_order(items: Any, expected: list[int], active: int, ahead: int) -> None:
    with Window(items, lambda n: n * n, active=active, ahead=ahead) as window:
        assert list(window) == expected


@settings(max_examples=20)
@given(
    count=st.integers(0, 40),
    active=st.integers(1, 8),
    ahead=st.integers(1, 20),
    seed=st.integers(0, 99),
)
def test_work_that_finishes_in_any_order_comes_back_in_its_own(
    count: int, active: int, ahead: int, seed: int
) -> None:
    chance = random.Random(seed)
    endpoint, taken = Endpoint(), 0

    def finish() -> None:
        done = 0
        while done < count:
            waiting = [n for n, future in list(endpoint.begun.items()) if not future.done()]
            if waiting:
                endpoint.finish(chance.choice(waiting))
                done += 1
            else:
                time.sleep(0.0005)

    finisher = threading.Thread(target=finish)
    finisher.start()
    with Window(range(count), endpoint.begin, active=active, ahead=ahead) as window:
        for result in window:
            assert result == taken
            taken += 1
            assert len(endpoint.begun) <= taken + ahead
    finisher.join()
    assert taken == count
    assert endpoint.most <= active


def test_a_slow_one_does_not_hold_up_those_behind_it() -> None:
    endpoint = Endpoint()
    with Window(range(6), endpoint.begin, active=2, ahead=4) as window:
        results = iter(window)
        for number in (1, 2, 3):  # behind 0, which takes its time
            endpoint.finish(number)
        assert not endpoint.wait_for(lambda: 4 in endpoint.begun, 0.1)  # as far ahead as it may
        assert sorted(endpoint.begun) == [0, 1, 2, 3]
        endpoint.finish(0)
        assert next(results) == 0
        assert next(results) == 1
        endpoint.finish(4)
        assert next(results) == 2
        endpoint.finish(5)
        assert list(results) == [3, 4, 5]
    assert endpoint.most <= 2


def test_no_more_are_begun_than_may_be_active() -> None:
    endpoint = Endpoint()
    with Window(range(20), endpoint.begin, active=3, ahead=50) as window:
        assert endpoint.wait_for(lambda: len(endpoint.begun) == 3)
        assert not endpoint.wait_for(lambda: len(endpoint.begun) > 3, 0.1)
        for number in range(20):
            endpoint.finish(number)
        assert list(window) == list(range(20))


def test_work_is_begun_on_a_few_threads_at_once() -> None:
    running, most, lock = 0, 0, threading.Lock()
    names = set()

    def draw(item: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            names.add(threading.current_thread().name)
        time.sleep(0.002)
        with lock:
            running -= 1
        return item

    with Window(range(30), draw, active=100, ahead=100) as window:
        assert len(list(window)) == 30
    assert 1 <= most <= DRAWING_THREADS
    assert all(name.startswith("regioncap-draw") for name in names)


def test_items_are_read_as_there_is_room() -> None:
    read = 0

    def endless() -> Iterator[int]:
        nonlocal read
        while True:
            read += 1
            yield read

    with Window(endless(), lambda n: n, active=2, ahead=5) as window:
        results = iter(window)
        assert [next(results) for _ in range(10)] == list(range(1, 11))
    assert read <= 10 + 5 + 2


# --- failures ---------------------------------------------------------------------------------


def failing(item: int) -> int:
    if item == 2:
        raise ValueError("two")
    return item


def failing_later(item: int) -> Future[int]:
    future: Future[int] = Future()
    if item == 2:
        future.set_exception(ValueError("two"))
    else:
        future.set_result(item)
    return future


@pytest.mark.parametrize("begin", [failing, failing_later])
def test_an_error_comes_in_its_place(begin: Any) -> None:
    with Window(range(5), begin, active=2, ahead=3) as window:
        results = iter(window)
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(ValueError, match="two"):
            next(results)


def test_cancelled_work_comes_in_its_place() -> None:
    cancelled: Future[int] = Future()
    cancelled.cancel()
    with (
        Window([0], lambda _: cancelled, active=1, ahead=1) as window,
        pytest.raises(CancelledError),
    ):
        list(window)


def test_an_error_of_the_items_comes_after_those_before_it() -> None:
    def items() -> Iterator[int]:
        yield 0
        yield 1
        raise OSError("no more")

    with Window(items(), lambda n: n, active=2, ahead=3) as window:
        results = iter(window)
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(OSError, match="no more"):
            next(results)


@pytest.mark.parametrize("bound", ["active", "ahead"])
def test_leaving_early_starts_nothing_more(bound: str) -> None:
    endpoint = Endpoint()
    bounds = {"active": 2, "ahead": 100} if bound == "active" else {"active": 100, "ahead": 2}
    with Window(range(1000), endpoint.begin, **bounds):
        assert endpoint.wait_for(lambda: len(endpoint.begun) == 2)
    for future in list(endpoint.begun.values()):
        future.set_result(0)
    time.sleep(0.05)
    assert len(endpoint.begun) <= 3


def test_leaving_by_an_error() -> None:
    def leave() -> None:
        with Window(range(1000), lambda n: n, active=2, ahead=4) as window:
            for result in window:
                if result == 3:
                    raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leave()


def test_leaving_without_ever_taking_a_result() -> None:
    with Window(range(100), lambda n: n, active=4, ahead=8):
        pass


def test_two_windows_at_once() -> None:
    with (
        Window(range(20), lambda n: n, active=2, ahead=4) as one,
        Window(range(20), lambda n: -n, active=2, ahead=4) as other,
    ):
        assert [(a, b) for a, b in zip(one, other, strict=True)] == [(n, -n) for n in range(20)]


# --- then -------------------------------------------------------------------------------------


def test_then_hands_on_what_is_made_of_a_result() -> None:
    source: Future[int] = Future()
    squared = then(source, lambda n: n * n)
    assert not squared.done()
    source.set_result(3)
    assert squared.result(0) == 9


def test_then_of_what_is_done_already() -> None:
    source: Future[int] = Future()
    source.set_result(3)
    assert then(source, str).result(0) == "3"


def test_then_hands_on_errors_and_cancellation() -> None:
    source: Future[int] = Future()
    result = then(source, lambda n: n)
    source.set_exception(ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        result.result(0)
    source = Future()
    result = then(source, lambda n: n)
    source.cancel()
    source.set_running_or_notify_cancel()
    with pytest.raises(CancelledError):
        result.result(0)


def test_an_error_in_what_is_applied_is_the_results() -> None:
    source: Future[int] = Future()
    result = then(source, lambda n: n // 0)
    source.set_result(1)
    with pytest.raises(ZeroDivisionError):
        result.result(0)


def test_ctrl_c_while_the_window_opens_leaves_nothing_running(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[threading.Thread] = []
    fed = threading.Event()

    def interrupted(run: Any, name: str) -> threading.Thread:
        started.append(start_thread(run, name))
        assert fed.wait(60)
        raise KeyboardInterrupt

    monkeypatch.setattr("hf_regioncap.window.start_thread", interrupted)
    pending: list[Future[int]] = []

    def begin(item: int) -> Future[int]:
        pending.append(Future())
        if len(pending) == 3:
            fed.set()
        return pending[-1]

    with pytest.raises(KeyboardInterrupt), Window(range(99), begin, active=3, ahead=9):
        pass
    started[0].join(60)
    assert not started[0].is_alive()
    assert len(pending) == 3
