"""Work that runs ahead and comes back in order, within bounds.

A batch that waits for its slowest row wastes the slots of all the others. Here rows start as soon
as there is room, finish in any order and leave in theirs; how far they run ahead of the slowest,
and what those that wait hold in memory, is bounded.
"""

from __future__ import annotations

import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

from hf_regioncap.threads import Threads, start_thread

_In = TypeVar("_In")
_Out = TypeVar("_Out")

#: Two drawing threads give 1.6 times one; more than cores only take turns.
DRAWING_THREADS = os.cpu_count() or 2


@dataclass(frozen=True)
class Held(Generic[_Out]):
    """What was begun, and the bytes that it holds until its result is taken."""

    result: Future[_Out] | _Out
    size: int


@dataclass(eq=False)
class _Begun(Generic[_Out]):
    result: Future[_Out]
    size: int = 0


class Window(Generic[_In, _Out]):
    """Start `begin(item)` for each item on drawing threads, take the results in order.

    `begin` does the CPU work of one item and returns a future of its result (or the result
    itself), and as `Held` also what it holds. At most `active` items are begun and unfinished, at
    most `ahead` are begun and not taken, and these hold no more than `most_bytes` (and what is
    just being drawn), unless they are fewer than `at_least`. Leaving the `with` block starts
    nothing more.

    >>> with Window(range(4), lambda n: n * n, active=2, ahead=8) as squares:
    ...     list(squares)
    [0, 1, 4, 9]
    """

    def __init__(
        self,
        items: Iterable[_In],
        begin: Callable[[_In], Held[_Out] | Future[_Out] | _Out],
        *,
        active: int,
        ahead: int,
        at_least: int = 0,
        most_bytes: float = math.inf,
    ) -> None:
        self._items = items
        self._begin = begin
        self._active = threading.Semaphore(active)
        self._ahead, self._at_least, self._most_bytes = ahead, max(1, at_least), most_bytes
        self._ordered: deque[_Begun[_Out]] = deque()
        self._changed = threading.Condition()
        self._waiting = 0  # begun and not taken
        self._undrawn = 0  # of these, whose size is not known yet
        self._held = 0  # bytes of the others
        self._last_size = 0
        self._fed = False
        self._closed = False

    def __enter__(self) -> Window[_In, _Out]:
        try:
            start_thread(self._feed, "regioncap-feed")
        except BaseException:  # Ctrl-C, too: the thread may run, and nobody would close the window
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:  # the feeder may be waiting for room
            self._closed = True
            self._changed.notify_all()
        self._active.release()

    def __iter__(self) -> Iterator[_Out]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ordered or self._fed)
                if not self._ordered:
                    return
                first = self._ordered.popleft()
            try:
                yield first.result.result()
            finally:
                with self._changed:
                    self._waiting -= 1
                    self._held -= first.size
                    self._changed.notify_all()

    def _has_room(self) -> bool:
        """Whether another item may begin, however large it turns out."""
        if self._closed:
            return True
        if self._waiting >= self._ahead:
            return False
        if self._waiting < self._at_least or self._most_bytes == math.inf:
            return True
        expected = self._held + (self._undrawn + 1) * self._last_size
        return self._undrawn < 2 * DRAWING_THREADS and expected <= self._most_bytes

    def _feed(self) -> None:
        try:
            with Threads(DRAWING_THREADS, "regioncap-draw") as pool:
                for item in self._items:
                    with self._changed:
                        self._changed.wait_for(self._has_room)
                        self._waiting += 1
                        self._undrawn += 1
                    self._active.acquire()
                    if self._closed:
                        break
                    begun = _Begun[_Out](Future())
                    begun.result.add_done_callback(lambda _: self._active.release())
                    pool.submit(self._run, item, begun)
                    self._put(begun)  # then: what was not begun would be waited for in vain
        except BaseException as error:  # whatever the items raise reaches whoever takes results
            failed = _Begun[_Out](Future())
            failed.result.set_exception(error)
            self._put(failed)
        finally:
            with self._changed:
                self._fed = True
                self._changed.notify_all()

    def _put(self, begun: _Begun[_Out]) -> None:
        with self._changed:
            self._ordered.append(begun)
            self._changed.notify_all()

    def _run(self, item: _In, begun: _Begun[_Out]) -> None:
        if self._closed:
            begun.result.cancel()
            return
        try:
            started = self._begin(item)
        except BaseException as error:  # handed on to whoever takes the result
            with self._changed:
                self._undrawn -= 1
            begun.result.set_exception(error)
            return
        held = started if isinstance(started, Held) else Held(started, 0)
        with self._changed:
            begun.size = self._last_size = held.size
            self._held += held.size
            self._undrawn -= 1
            self._changed.notify_all()
        if isinstance(held.result, Future):
            held.result.add_done_callback(lambda done: _hand_on(done, begun.result))
        else:
            begun.result.set_result(held.result)


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
