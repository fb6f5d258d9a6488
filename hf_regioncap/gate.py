"""When the next request may be sent: one gate for all workers of an endpoint.

No clock and no sleeping in here: every method is told the time (seconds, monotonic), so that the
rules can be tested by simulation. The rules:

- No limit is assumed until the endpoint shows one; only the very first requests leave in quick
  succession instead of all at once, so that a limit shows by a few refusals.
- A refusal (429, 503) cuts the rate to what got through lately. It climbs back along a cubic (as
  TCP CUBIC does, RFC 9438): quickly to where it was, slowly past it, then ever faster, so that a
  limit that was lifted is found again; but never far beyond what is really sent (RFC 7661).
- Right after a cut no rate limit refuses anything. What is refused all the same, after cut upon
  cut, has another cause than the rate: this share, the background, is taken for granted from then
  on, and only more refusals than it explains cut the rate.
- Where nothing gets through any more, everybody is held: a moment at first, twice that with each
  further refusal, and no longer than `Retry-After` says; then one request at a time tries.
"""

from __future__ import annotations

import math
from bisect import bisect_right, insort

#: Requests per second at the very start, and how much is added with each request: at a distance,
#: and on this machine, where a refusal is heard of before many more have left.
_START, _START_NEAR, _START_LENGTH = (60.0, 4.0), (200.0, 20.0), 1000
_MIN_RATE, _FIRST_LIMIT = 0.2, 5.0
#: The climb back: this much below the limit at first, and so many requests (within so many
#: seconds) until it is reached; while the limit is only a guess, doubling in so many seconds.
_DIP, _ROUND, _SHORTEST, _LONGEST, _DOUBLING = 0.13, 130.0, 5.0, 30.0, 2.5
#: The quiet time after a cut, in which the rate is below the limit: this part of the climb.
_QUIET, _QUIET_SENT = 0.5, 20
#: How many sent requests the judgement looks back at, and how many it needs after a cut.
_LOOK_BACK, _NEEDED = 20, 5
_MANY_TIMEOUTS = 4
_FIRST_HOLD, _LONGEST_HOLD = 0.05, 60.0
_KEPT = 4000


class Gate:
    """Decides when a request may leave; see the module's text for the rules.

    `near` says that the endpoint is on this machine.

    >>> gate = Gate()
    >>> gate.wait(now=0.0)
    0.0
    >>> gate.refused(now=0.1, sent_at=0.0)
    >>> gate.rate(now=0.1), round(gate.wait(now=0.2), 3)
    (5.0, 0.095)
    """

    def __init__(self, *, near: bool = False) -> None:
        self._start, self._more = _START_NEAR if near else _START
        self._sent: list[float] = []  # when requests were sent, in order
        self._bad: list[float] = []  # of these, the ones that were refused or timed out
        self._tokens, self._filled_at = 1.0, 0.0
        # The rate
        self._limit: float | None = None  # what got through before the last cut
        self._best = 0.0  # the highest limit of late
        self._guessed = False  # the limit was met once only, so it may be far too low
        self._cut_at = -math.inf
        self._cut_for = -math.inf  # when the request was sent whose refusal led to the cut
        self._climbs_from = 0.0
        # The background
        self._background = 0.0
        self._quiet_share = 0.0  # of the last quiet time
        self._judged = True
        self._vain, self._vain_sent, self._vain_bad = 0, 0, 0  # cuts in a row that changed nothing
        # The hold
        self._open_at = self._held_at = 0.0
        self._hold = 0.0
        self._row = 0  # refusals in a row
        self._last_refused = -math.inf
        self._shut_at: float | None = None  # since when nothing gets through

    def shut_for(self, now: float) -> float | None:
        """For how many seconds everything has been turned away; None where something passes."""
        return None if self._shut_at is None else now - self._shut_at

    def rate(self, now: float) -> float | None:
        """Requests per second that are let through at the moment; None where nothing limits."""
        if self._limit is None:
            begun = len(self._sent)
            return self._start + self._more * begun if begun < _START_LENGTH else None
        real = 2 * self._count(now - 2, now)[0]
        return max(_MIN_RATE, min(self._climb(now, self._limit), max(self._limit, 20.0 + real)))

    def wait(self, now: float) -> float:
        """Seconds to wait before asking again; 0.0 means: send now, and it is counted as sent."""
        if now < self._open_at:
            return self._open_at - now
        rate = self.rate(now)
        if rate is not None:
            room = max(1.0, 0.02 * rate)  # timers wake late: so much may be caught up
            self._tokens = min(room, self._tokens + (now - self._filled_at) * rate)
            self._filled_at = now
            if self._tokens < 1:
                return max(1e-3, (1 - self._tokens) / rate)
            self._tokens -= 1
        self._sent.append(now)
        if len(self._sent) > 2 * _KEPT:
            del self._sent[:_KEPT]
        if self._row > 1:
            self._open_at = now + self._hold / 2
        return 0.0

    def answered(self, now: float, sent_at: float) -> None:
        """A request got through, whatever its answer was worth."""
        if sent_at > self._last_refused:
            self._row, self._shut_at = 0, None

    def refused(self, now: float, sent_at: float, retry_after: float | None = None) -> None:
        """A request was turned away (429, 503, nobody there): slow down, hold if nothing passes."""
        if sent_at >= self._held_at:  # those sent before the hold belong to its event
            sent, bad = self._count(self._last_refused, sent_at)
            self._row = min(self._row + 1, 12) if bad + 1 >= sent else 1
            if self._row == 1 or self._shut_at is None:
                self._shut_at = now
            hold = min(_LONGEST_HOLD, _FIRST_HOLD * 2.0 ** (self._row - 1))
            self._hold = 0.0 if self._row == 1 else min(hold, retry_after or hold)
            self._held_at, self._open_at = now, now + self._hold
            if self._row > 4:  # an outage says nothing of the rate, and does not count as climbing
                self._climbs_from += 1.5 * self._hold
        self._last_refused = max(self._last_refused, sent_at)
        self._overloaded(now, sent_at, 1)

    def timed_out(self, now: float, sent_at: float) -> None:
        """A request got no answer in time: slow down where that becomes common."""
        self._overloaded(now, sent_at, _MANY_TIMEOUTS)

    def _climb(self, now: float, limit: float) -> float:
        """The rate on the way back up from the last cut."""
        seconds = max(0.0, now - self._climbs_from)
        if self._guessed:
            return limit * math.exp2(min(20.0, seconds / _DOUBLING))
        along = seconds / self._round(limit)
        if along < 1:
            return limit * (1 - _DIP * (1 - along) ** 3)
        return limit * math.exp2(min(20.0, (along - 1) ** 2))

    def _round(self, limit: float) -> float:
        """Seconds until the limit is reached again; shorter where refusals are common anyway."""
        seconds = min(_LONGEST, max(_SHORTEST, _ROUND / max(limit, self._best)))
        return seconds / (1 + 50 * self._background)

    def _overloaded(self, now: float, sent_at: float, enough: int) -> None:
        insort(self._bad, sent_at)
        if len(self._bad) > 2 * _KEPT:
            del self._bad[:_KEPT]
        # What was sent at the old rate says nothing of the new.
        if sent_at <= self._cut_at or not self._sent:
            return
        quiet_until = self._quiet_until()
        quiet = sent_at <= quiet_until
        if not quiet and not self._judged:
            self._judge(quiet_until)
        if self._is_limit(sent_at, quiet, enough):
            self._cut(now, sent_at, quiet)

    def _quiet_until(self) -> float:
        if self._limit is None or self._guessed:
            return -math.inf
        place = bisect_right(self._sent, self._cut_at) + _QUIET_SENT - 1
        if place >= len(self._sent):
            return math.inf
        return max(self._climbs_from + _QUIET * self._round(self._limit), self._sent[place])

    def _judge(self, quiet_until: float) -> None:
        """Learn the background from a quiet time; what the one before had less of was a limit's."""
        self._judged, self._vain = True, 0
        sent, bad = self._count(self._cut_at, quiet_until)
        if sent:
            share, self._quiet_share = min(bad / sent, self._quiet_share), bad / sent
            self._background += (share - self._background) * sent / (sent + 20)

    def _is_limit(self, sent_at: float, quiet: bool, enough: int) -> bool:
        """Whether there are more refusals of late than the background explains."""
        if self._limit is not None:
            sent, bad = self._count(self._cut_at, sent_at)
            if bad == sent or self._count(self._cut_for, sent_at)[0] < _NEEDED:
                return False  # nothing to measure a limit by
            if quiet:
                return bad >= max(2, enough, 0.1 * sent, self._explained(sent))
        place = bisect_right(self._sent, sent_at) - _LOOK_BACK - 1
        since = self._sent[place] if place >= 0 else -math.inf
        bad = self._count(max(self._cut_at, since), sent_at)[1]
        return bad >= max(enough, self._explained(_LOOK_BACK))

    def _explained(self, sent: int) -> int:
        """How many refusals of so many are more than chance makes of the background (3 sigma)."""
        mean = sent * self._background
        most = 1 + mean + 3 * math.sqrt(mean * (1 - self._background))
        return int(min(0.9 * sent, most))

    def _cut(self, now: float, sent_at: float, quiet: bool) -> None:
        first = self._limit is None
        through = self._let_through(sent_at)
        if quiet:
            through = min(through, 0.8 * (self.rate(now) or math.inf))
            self._vain += 1
            if self._vain > 1:  # before the first, the limit itself may have changed
                sent, bad = self._count(self._cut_at, sent_at)
                self._vain_sent, self._vain_bad = self._vain_sent + sent, self._vain_bad + bad
            else:
                self._vain_sent = self._vain_bad = 0
        in_vain = self._vain >= 3 and self._vain_sent >= 20
        if in_vain:
            self._background = self._quiet_share = self._vain_bad / self._vain_sent
            self._vain = 0
        self._guessed = first or in_vain
        self._judged = self._guessed
        self._limit = max(_FIRST_LIMIT if first else _MIN_RATE, through)
        self._best = max(self._limit, self._best / 2)
        self._cut_for = sent_at
        self._cut_at = self._climbs_from = self._filled_at = now
        self._tokens = min(self._tokens, 0.0)

    def _let_through(self, sent_at: float) -> float:
        """Requests per second that were not refused, of the last that were sent until `sent_at`.

        Those in flight count as let through: a refusal comes back at once, an answer takes long.
        Between two refusals of a token bucket this is its very rate.
        """
        place = bisect_right(self._sent, sent_at)
        look_back = 10 if self._guessed else _LOOK_BACK
        since = min(self._sent[max(0, place - look_back)], sent_at - 0.5)
        begin = max(since, self._cut_for)
        sent, bad = self._count(begin, sent_at)
        seconds = sent_at - max(begin, self._sent[0])
        if self._limit is None:  # what was let through at once may be a store that is empty now
            return (sent - bad) / max(1.0, seconds)
        return (sent - bad + (begin > self._cut_for)) / max(0.1, seconds)

    def _count(self, after: float, until: float) -> tuple[int, int]:
        """How many were sent after one time until another, and how many of them in vain."""
        sent = bisect_right(self._sent, until) - bisect_right(self._sent, after)
        bad = bisect_right(self._bad, until) - bisect_right(self._bad, after)
        return sent, min(bad, sent)  # of very old ones only those in vain may still be known
