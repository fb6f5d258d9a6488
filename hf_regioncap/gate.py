"""When the next request may be sent: one gate for all workers of an endpoint.

No clock and no sleeping in here: every method is told the time (seconds, monotonic), so that the
rules can be tested by simulation. The rules:

- No limit is assumed until the endpoint shows one.
- A refusal (429, 503) holds everybody for a moment: as long as `Retry-After` says, but a short
  time at first and twice that with each further refusal in a row, as the wait that one request is
  told is not always meant for all.
- Where a fifth of the last twenty requests were refused or timed out, the rate becomes nine tenths
  of what was let through lately. A single refusal lowers a known rate by a twentieth.
- The rate climbs back along a cubic (as TCP CUBIC does, RFC 9438): quickly to where it was,
  slowly past it, then ever faster, so that a limit that was lifted is found again.
- Where cutting again and again changes nothing, refusals have another cause than the rate, and
  the limit is dropped for a while.
"""

from __future__ import annotations

from collections import deque

_LOOK_BACK = 20
_TOO_MANY = 4
_MIN_RATE = 0.2
_FIRST_HOLD, _LONGEST_HOLD = 0.25, 60.0
_SPAN = 2.0
_IN_VAIN, _DEAF = 4, 500


class Gate:
    """Decides when a request may leave; see the module's text for the rules.

    >>> gate = Gate()
    >>> gate.wait(now=0.0)
    0.0
    >>> gate.refused(now=0.1, sent_at=0.0, retry_after=3.0)
    >>> round(gate.wait(now=0.2), 3)
    0.15
    """

    def __init__(self) -> None:
        self._open_at = 0.0
        self._streak = 0
        self._sent: deque[float] = deque(maxlen=4000)
        self._refused: deque[float] = deque(maxlen=4000)  # when those were sent that were refused
        self._outcomes: deque[bool] = deque(maxlen=_LOOK_BACK)  # since the last cut; True: refused
        self._ceiling: float | None = None
        self._start = 0.94
        self._cut_at = -1.0
        self._tokens = 1.0
        self._filled_at = 0.0
        self._vain = 0
        self._deaf = 0

    def rate(self, now: float) -> float | None:
        """Requests per second that are let through at the moment; None where nothing limits."""
        if self._ceiling is None:
            return None
        seconds = min(30.0, max(1.0, 100.0 / self._ceiling))
        along = (now - self._cut_at) / seconds - 1
        return max(_MIN_RATE, self._ceiling * (1 + (1 - self._start) * along**3))

    def wait(self, now: float) -> float:
        """Seconds to wait before asking again; 0.0 means: send now, and it is counted as sent."""
        if now < self._open_at:
            return self._open_at - now
        rate = self.rate(now)
        if rate is not None:
            room = max(1.0, 0.1 * rate)  # so much may be caught up after a hold
            self._tokens = min(room, self._tokens + (now - self._filled_at) * rate)
            self._filled_at = now
            if self._tokens < 1:
                return max(1e-3, (1 - self._tokens) / rate)
            self._tokens -= 1
        self._sent.append(now)
        return 0.0

    def answered(self, now: float, sent_at: float) -> None:
        """A request got through, whatever its answer was worth."""
        self._streak = 0
        self._deaf = max(0, self._deaf - 1)
        if sent_at > self._cut_at:
            self._outcomes.append(False)
            if len(self._outcomes) == _LOOK_BACK and not any(self._outcomes):
                self._vain = 0

    def refused(self, now: float, sent_at: float, retry_after: float | None = None) -> None:
        """A request was turned away (429, 503): hold everybody, and slow down."""
        if sent_at >= self._open_at:  # those sent before the last hold belong to its event
            hold = min(_LONGEST_HOLD, _FIRST_HOLD * 2**self._streak)
            self._open_at = now + (hold if retry_after is None else min(hold, retry_after))
            self._streak = min(self._streak + 1, 10)
        self._overloaded(now, sent_at)

    def timed_out(self, now: float, sent_at: float) -> None:
        """A request got no answer in time: slow down where that becomes common."""
        self._overloaded(now, sent_at)

    def _overloaded(self, now: float, sent_at: float) -> None:
        self._refused.append(sent_at)
        if sent_at <= self._cut_at or self._deaf:  # sent at the old rate: says nothing of the new
            return
        self._outcomes.append(True)
        rate = self.rate(now)
        if sum(self._outcomes) >= _TOO_MANY:
            self._cut_deep(now)
        elif rate is not None:
            self._cut(now, rate)

    def _cut_deep(self, now: float) -> None:
        some_pass = not all(self._outcomes)
        self._vain += 1
        if self._vain > _IN_VAIN and some_pass:
            self._ceiling, self._vain, self._deaf = None, 0, _DEAF
        else:
            self._cut(now, 0.9 * self._let_through(now))
        self._outcomes.clear()

    def _cut(self, now: float, ceiling: float) -> None:
        self._ceiling = max(_MIN_RATE, ceiling)
        self._cut_at = self._filled_at = now
        self._tokens = min(self._tokens, 0.0)

    def _let_through(self, now: float) -> float:
        """Requests per second that were not refused, over the last seconds.

        Those in flight count as let through: a refusal comes back at once, an answer takes long.
        """
        since = now - _SPAN
        sent = sum(at >= since for at in self._sent)
        refused = sum(at >= since for at in self._refused)
        begun = self._sent[0] if self._sent else now
        return max(0, sent - refused) / max(1.0, min(_SPAN, now - begun))
