"""The tries of one question: how many there were, in which dialect, when to give up."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from hf_regioncap.verdict import ERROR_TRIES, PATIENCE, Verdict
from hf_regioncap.wire import Dialect


@dataclass
class Attempts:
    """What was tried for one question so far.

    `counted` are the failures that count: one that came while nothing at all got through says
    nothing of this question. `trial` is a dialect that is tried for this question only; `guessing`
    is set when it has been found out whether it is the one for all.

    >>> attempts = Attempts(counted=0)
    >>> attempts.fail(blocked=False), attempts.fail(blocked=True), attempts.counted
    (None, None, 1)
    """

    counted: int
    seen: int = 0
    trial: Dialect | None = None
    guessing: asyncio.Event | None = None
    unformed: int = 0

    def __post_init__(self) -> None:
        self.seen = self.counted

    def fail(self, *, blocked: bool) -> None:
        """Count a failure."""
        self.seen += 1
        self.counted += not blocked

    def are_used_up(self, shut_for: float | None) -> bool:
        """Whether to give up; `shut_for` is how long nothing has got through, in seconds."""
        waited = shut_for is None or shut_for >= PATIENCE
        return self.counted >= ERROR_TRIES or (self.seen >= ERROR_TRIES and waited)

    def change_form(self, judged: Verdict) -> None:
        """Ask in another form; after `again` only where the same form has failed twice."""
        self.unformed += 1
        if judged.dialect is not None and (judged.kind == "reform" or self.unformed % 2 == 0):
            self.trial = judged.dialect

    def end_guess(self) -> None:
        """Let those who wait for a guess know that it is over."""
        if self.guessing is not None:
            self.guessing.set()
            self.guessing = self.trial = None
