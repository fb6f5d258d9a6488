"""Threads for what must not hold up others: drawing, callables of users, the disk.

They are daemons, so that a call that never ends keeps no process alive, and they take calls after
the main thread has ended, which those of `concurrent.futures` do not.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

from hf_regioncap.errors import RegionCaptionError

_P = ParamSpec("_P")
_T = TypeVar("_T")

#: So long the end of the process waits for calls that are under way, all in all.
_LAST_SECONDS = 5.0


def start_thread(run: Callable[..., object], name: str, *arguments: Any) -> threading.Thread:
    """Start a daemon thread, or raise an error that says what stands in the way."""
    thread = threading.Thread(target=run, args=arguments, name=name, daemon=True)
    try:
        thread.start()
    except (RuntimeError, MemoryError) as error:
        raise RegionCaptionError(
            f"no thread can be started ({error}): the process may have too many, see ulimit -u, "
            "the container's limit of pids, and memory"
        ) from error
    return thread


class Threads(ThreadPoolExecutor):
    """At most `most` threads, started as they are needed; what a call raises is its future's.

    Where no more can be started those that run do the work; an error only where there is none. A
    kind of ThreadPoolExecutor because asyncio takes no other.

    >>> with Threads(2, "squares") as squares:
    ...     squares.submit(pow, 3, 2).result()
    9
    """

    def __init__(self, most: int, name: str) -> None:
        super().__init__(most, name)
        self._most, self._name = most, name
        self._crew: list[threading.Thread] = []
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._growing = threading.Lock()
        # Its threads know the queue only: they end with whoever gives them work.
        self._dismiss = weakref.finalize(self, _dismiss, self._calls, self._crew)
        self._dismiss.atexit = False
        _live.add(self)

    def submit(self, call: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Have a call made; its future has the result, or whatever it raises."""
        done: Future[_T] = Future()
        if not self._idle.acquire(blocking=False):
            self._grow()
        self._calls.put(lambda: _settle(done, lambda: call(*args, **kwargs)))
        return done

    def _grow(self) -> None:
        with self._growing:
            if len(self._crew) == self._most:
                return
            try:
                name = f"{self._name}_{len(self._crew)}"
                self._crew.append(start_thread(_work, name, self._calls, self._idle))
            except RegionCaptionError:
                if not self._crew:
                    raise

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the threads end after the calls that were submitted."""
        self._dismiss()
        if wait:
            self.join()

    def join(self, seconds: float | None = None) -> None:
        """Wait for the threads to end."""
        deadline = None if seconds is None else time.monotonic() + seconds
        for thread in self._crew:
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))


def _work(calls: SimpleQueue[Callable[[], None] | None], idle: threading.Semaphore) -> None:
    while (call := calls.get()) is not None:
        call()
        del call  # and all that it holds, while the next is waited for
        idle.release()


def _settle(done: Future[_T], call: Callable[[], _T]) -> None:
    if not done.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except BaseException as error:  # whatever it is, it is for whoever takes the result
        done.set_exception(error)
    else:
        done.set_result(result)


def _dismiss(calls: SimpleQueue[Callable[[], None] | None], crew: list[threading.Thread]) -> None:
    for _ in crew:
        calls.put(None)


_live: weakref.WeakSet[Threads] = weakref.WeakSet()


def _end() -> None:
    """Let calls that are under way come to their end before what they use is taken down."""
    deadline = time.monotonic() + _LAST_SECONDS
    for threads in list(_live):
        threads.shutdown(wait=False)
    for threads in list(_live):
        threads.join(max(0.0, deadline - time.monotonic()))


def _forget_parent() -> None:
    global _live
    _live = weakref.WeakSet()


atexit.register(_end)
if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_forget_parent)
