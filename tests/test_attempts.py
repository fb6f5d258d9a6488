"""When to give a question up, and in which form it is asked next."""

from __future__ import annotations

import asyncio

import pytest

from hf_regioncap.attempts import Attempts
from hf_regioncap.verdict import PATIENCE, Verdict
from hf_regioncap.wire import Dialect

OTHER = Dialect(form="json_object")


@pytest.mark.parametrize(
    ("failures", "shut_for", "used_up"),
    [
        ([], None, False),
        ([False] * 5, None, False),
        ([False] * 6, None, True),  # its own failures, while others pass
        ([False] * 6, 1.0, True),
        ([True] * 20, 1.0, False),  # nothing gets through: no fault of this question
        ([True] * 20, PATIENCE, True),
        ([True] * 5, PATIENCE, False),
        ([True, False] * 5, 1.0, False),
        ([True, False] * 6, 1.0, True),
    ],
)
def test_when_a_question_is_given_up(
    failures: list[bool], shut_for: float | None, used_up: bool
) -> None:
    attempts = Attempts(counted=0)
    for blocked in failures:
        attempts.fail(blocked=blocked)
    assert attempts.are_used_up(shut_for) is used_up


def test_failures_of_before_count() -> None:
    attempts = Attempts(counted=5)
    attempts.fail(blocked=False)
    assert attempts.seen == 6
    assert attempts.are_used_up(None)


def test_a_form_is_changed_at_once_or_after_two_failures() -> None:
    attempts = Attempts(counted=0)
    attempts.change_form(Verdict("again", OTHER))
    assert attempts.trial is None
    attempts.change_form(Verdict("again", OTHER))
    assert attempts.trial == OTHER
    at_once = Attempts(counted=0)
    at_once.change_form(Verdict("reform", OTHER))
    assert at_once.trial == OTHER
    at_once.change_form(Verdict("reform", None))
    assert at_once.trial == OTHER


def test_the_end_of_a_guess_is_told() -> None:
    attempts = Attempts(counted=0, trial=OTHER, guessing=asyncio.Event())
    told = attempts.guessing
    attempts.end_guess()
    attempts.end_guess()
    assert told is not None
    assert told.is_set()
    assert (attempts.trial, attempts.guessing) == (None, None)
