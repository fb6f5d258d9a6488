"""Work that runs ahead and comes back in order, within bounds.

A batch that waits for its slowest row wastes the slots of all the others. Here rows start as soon
as there is room, finish in any order and leave in theirs; how far they run ahead of the slowest,
and how many wait with their pictures in memory, is bounded.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Generic, TypeVar

from hf_regioncap.threads import Threads, start_thread

_In = TypeVar("_In")
_Out = TypeVar("_Out")

#: Two drawing threads give 1.6 times one; more than cores only take turns.
DRAWING_THREADS = os.cpu_count() or 2


class Window(Generic[_In, _Out]):
    """Start `begin(item)` for each item on drawing threads, take the results in order.

    `begin` does the CPU work of one item and returns a future of its result (or the result
    itself). At most `active` items are begun and unfinished, at most `ahead` are begun and not
    taken. Leaving the `with` block starts nothing more.

    >>> with Window(range(4), lambda n: n * n, active=2, ahead=8) as squares:
    ...     list(squares)
    [0, 1, 4, 9]
    """

    def __init__(
        self,
        items: Iterable[_In],
        begin: Callable[[_In], Future[_Out] | _Out],
        *,
        active: int,
        ahead: int,
    ) -> None:
        self._items = items
        self._begin = begin
        self._active = threading.Semaphore(active)
        self._ahead = threading.Semaphore(ahead)
        self._ordered: deque[Future[_Out]] = deque()
        self._changed = threading.Condition()
        self._fed = False
        self._closed = False

    def __enter__(self) -> Window[_In, _Out]:
        start_thread(self._feed, "regioncap-feed")
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        for semaphore in (self._active, self._ahead):
            semaphore.release()  # the feeder may be waiting for room

    def __iter__(self) -> Iterator[_Out]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ordered or self._fed)
                if not self._ordered:
                    return
                first = self._ordered.popleft()
            try:
                yield first.result()
            finally:
                self._ahead.release()

    def _feed(self) -> None:
        try:
            with Threads(DRAWING_THREADS, "regioncap-draw") as pool:
                for item in self._items:
                    self._ahead.acquire()
                    self._active.acquire()
                    if self._closed:
                        break
                    result: Future[_Out] = Future()
                    result.add_done_callback(lambda _: self._active.release())
                    pool.submit(self._run, item, result)
                    self._put(result)  # then: what was not begun would be waited for in vain
        except BaseException as error:  # whatever the items raise reaches whoever takes results
            failed: Future[_Out] = Future()
            failed.set_exception(error)
            self._put(failed)
        finally:
            with self._changed:
                self._fed = True
                self._changed.notify_all()

    def _put(self, result: Future[_Out]) -> None:
        with self._changed:
            self._ordered.append(result)
            self._changed.notify_all()

    def _run(self, item: _In, result: Future[_Out]) -> None:
        if self._closed:
            result.cancel()
            return
        try:
            begun = self._begin(item)
        except BaseException as error:  # handed on to whoever takes the result
            result.set_exception(error)
            return
        if isinstance(begun, Future):
            begun.add_done_callback(lambda done: _hand_on(done, result))
        else:
            result.set_result(begun)


def then(done: Future[_In], apply: Callable[[_In], _Out]) -> Future[_Out]:
    """A future of `apply(result)`, or of the same error.

    >>> source = Future()
    >>> squared = then(source, lambda n: n * n)
    >>> source.set_result(3)
    >>> squared.result()
    9
    """
    result: Future[_Out] = Future()

    def finish(future: Future[_In]) -> None:
        try:
            result.set_result(apply(future.result()))
        except BaseException as error:  # handed on to whoever takes the result
            result.set_exception(error)

    done.add_done_callback(finish)
    return result


def _hand_on(done: Future[_Out], result: Future[_Out]) -> None:
    if done.cancelled():
        result.cancel()
        return
    error = done.exception()
    if error is not None:
        result.set_exception(error)
    else:
        result.set_result(done.result())
