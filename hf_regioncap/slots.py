"""How many requests are in flight at one host, over all that this process does with it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator


class Slots:
    """Slots for requests, given in the order in which they were asked for.

    Whoever asks says how many may be taken at most, its own with them: where runs differ in this,
    the one with fewer waits until so few are in flight, and those behind it wait with it.
    """

    def __init__(self) -> None:
        self.taken = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @contextlib.asynccontextmanager
    async def one_of(self, most: int) -> AsyncIterator[None]:
        """Have a slot; when it is given, no more than `most` are taken."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((most, turn))
        self._give()
        try:
            await turn
        except asyncio.CancelledError:
            self._leave(turn)
            raise
        try:
            yield
        finally:
            self.taken -= 1
            self._give()

    def _give(self) -> None:
        while self._waiting and self.taken < self._waiting[0][0]:
            _, turn = self._waiting.popleft()
            if not turn.cancelled():
                self.taken += 1
                turn.set_result(None)

    def _leave(self, turn: asyncio.Future[None]) -> None:
        self.taken -= not turn.cancelled()  # it was given at the same moment
        self._waiting = deque(each for each in self._waiting if each[1] is not turn)
        self._give()
