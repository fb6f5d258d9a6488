"""How many requests an endpoint can have in flight and still answer in time.

A server with one slot (Ollama, llama.cpp) takes any number of requests and works them off one after
another; those at the end of its queue time out, and with them goes the time that it spent on them.
As in gate.py there is no clock in here: every method is told the time.
"""

from __future__ import annotations

import math
from collections import deque

#: Of what was answered within one timeout, so much is in flight from then on.
_SHARE = 0.7
#: So many that time out, and such a part of those answered, are no accident.
_MANY, _PART = 2, 0.2
_KEPT = 1000


class Room:
    """Bounds what is in flight, once requests time out, by what is answered in that time.

    >>> room = Room(timeout=6.0)
    >>> for _ in range(32):
    ...     room.enter()
    >>> for second in (1.0, 2.0, 3.0, 4.0, 5.0):
    ...     room.leave(second, sent_at=0.0)
    >>> room.is_full
    False
    >>> for _ in range(2):
    ...     room.leave(6.0, sent_at=0.0, timed_out=True)
    >>> room.most, room.is_full
    (3.5, True)
    """

    def __init__(self, timeout: float) -> None:
        self.most = math.inf
        self._timeout = timeout
        self._in_flight = 0
        self._answered: deque[float] = deque(maxlen=_KEPT)
        self._judged_at = -math.inf
        self._timed_out: deque[float] = deque(maxlen=_KEPT)

    @property
    def is_full(self) -> bool:
        """Whether the next request should wait until one of those in flight is back."""
        return self._in_flight >= self.most

    def enter(self) -> None:
        """A request leaves."""
        self._in_flight += 1

    def leave(self, now: float, sent_at: float, *, timed_out: bool = False) -> None:
        """A request is back, or has timed out."""
        if timed_out and sent_at > self._judged_at:  # the others belong to the same queue
            self._timed_out.append(now)
            self._judge(now)
        if not timed_out:
            self._answered.append(now)
            if now - sent_at < self._timeout / 2:
                self.most += 1 / self.most
        self._in_flight -= 1

    def _judge(self, now: float) -> None:
        since = now - self._timeout
        lost = sum(at > since for at in self._timed_out)
        passed = sum(at > since for at in self._answered)
        if lost >= max(_MANY, _PART * passed):
            self.most = max(1.0, min(self.most, passed * _SHARE))
            self._judged_at = now
            self._timed_out.clear()
