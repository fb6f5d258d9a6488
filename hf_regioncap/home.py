"""One private event loop for each process, in a daemon thread, and the lines that live on it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from hf_regioncap.endpoint import Endpoint, is_loopback
from hf_regioncap.gate import Gate
from hf_regioncap.line import Line
from hf_regioncap.slots import Slots
from hf_regioncap.threads import Threads, start_thread

_T = TypeVar("_T")


class Home:
    """The private event loop of one process and the lines to the endpoints it talks to."""

    def __init__(self) -> None:
        self.pid, self.parent = os.getpid(), os.getppid()
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(Threads(8, "regioncap-io"))
        self._lines: dict[Endpoint, Line] = {}
        self._slots: dict[str, Slots] = {}
        self._gates: dict[tuple[str, str | None], Gate] = {}
        try:
            start_thread(self._run, "regioncap")
        except BaseException:
            self._loop.close()
            raise

    def _run(self) -> None:
        """Run the loop for ever: of what would end it, the one that has raised it is told."""
        while True:
            with contextlib.suppress(SystemExit, KeyboardInterrupt):
                self._loop.run_forever()

    def start(self, task: Coroutine[Any, Any, _T]) -> concurrent.futures.Future[_T]:
        """Run a task on the loop; the future has its result."""
        return asyncio.run_coroutine_threadsafe(task, self._loop)

    def call(self, what: Callable[[], object]) -> None:
        """Call something on the loop, without waiting for it."""
        self._loop.call_soon_threadsafe(what)

    async def at(self, endpoint: Endpoint, ask: Callable[[Line], Awaitable[_T]]) -> _T:
        """Ask something of an endpoint's line."""
        return await ask(self.line(endpoint))

    def line(self, endpoint: Endpoint) -> Line:
        """The line to an endpoint, made when it is asked for first."""
        if endpoint not in self._lines:
            # What differs between runs (a header, a timeout, a path) does not make another server.
            place = endpoint.place
            slots = self._slots.setdefault(place, Slots())
            near = is_loopback(endpoint.host)
            gate = self._gates.setdefault((place, endpoint.key), Gate(near=near))
            self._lines[endpoint] = Line(endpoint, gate, slots)
        return self._lines[endpoint]


_homes: list[Home] = []
_lock = threading.Lock()


def home() -> Home:
    """This process's loop. A child that was forked never uses its parent's."""
    with _lock:
        if not _homes or _homes[-1].pid != os.getpid():
            _homes[:] = [Home()]
        return _homes[-1]


def _forget_parent() -> None:
    global _lock
    _lock = threading.Lock()  # the parent may have held it at the moment of the fork
    _abandoned.extend(_homes)  # closing would close the parent's connections
    _homes.clear()


_abandoned: list[Home] = []
if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_forget_parent)


def orphaned(parent_pid: int) -> bool:
    """Whether this is a pool's worker whose parent was killed.

    `parent_pid` is what it was at first. The pool's own sign, a pipe that closes, is kept open by
    the workers that were forked later.
    """
    for name in ("multiprocess.process", "multiprocessing.process"):  # datasets uses the first
        module = sys.modules.get(name)
        parent = module.parent_process() if module is not None else None
        if parent is not None:
            return os.getppid() != parent_pid or not parent.is_alive()
    return False
