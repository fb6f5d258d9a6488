"""How long an endpoint asks to wait, in headers or in words, and when a day's limit ends.

Pure: every function is told the time.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass

from hf_regioncap.rejections import error_words

#: Longer waits than this are not waited for.
LONGEST_WAIT = 120.0


@dataclass(frozen=True)
class Told:
    """What a refusal says of waiting: for how many seconds, and whether for a day's limit."""

    seconds: float | None = None
    daily: bool = False
    at_google: bool = False

    @property
    def too_long(self) -> bool:
        """Whether nobody should sit and wait for it."""
        return self.daily or (self.seconds is not None and self.seconds > LONGEST_WAIT)


def read_told(headers: Mapping[str, str], body: str, now: float) -> Told:
    """Read what a 429 or 503 says of waiting.

    >>> read_told({}, '{"error": {"message": "Please try again in 1m20s."}}', now=0.0)
    Told(seconds=80.0, daily=False, at_google=False)
    >>> read_told({"retry-after": "578"}, '{"error": "on tokens per day (TPD)"}', now=0.0).daily
    True
    """
    words = error_words(body)
    waits = [
        retry_after(headers, now),
        _in_words(words),
        _reset(headers, now),
        _in_details(body, now),
    ]
    known = [seconds for seconds in waits if seconds is not None]
    daily = bool(_PER_DAY_NAME.search(body)) or (
        bool(_PER_DAY.search(words)) and not _PER_MINUTE.search(words)
    )
    at_google = daily and "PerDay" in body
    return Told(max(known, default=None), daily, at_google)


_PER_DAY = re.compile(
    r"\b(?:TPD|RPD)\b|per[- ](?:day|week|month)\b|\b(?:daily|weekly|monthly)\b|每[日天]|当日",
    re.IGNORECASE,
)
_PER_DAY_NAME = re.compile(r"PerDay|[-_]per[-_]day\b")  # of a quota
_PER_MINUTE = re.compile(r"per[- ]min|\b[RT]PM\b|/ ?min", re.IGNORECASE)

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_NUMBER = r"\d{1,9}(?:\.\d{1,12})?"
_PIECE = re.compile(
    rf"({_NUMBER})\s?(ms|milliseconds?|d|days?|h|hours?|hrs?|m|min(?:ute)?s?|s|sec(?:ond)?s?)"
    r"(?![a-z])",
    re.IGNORECASE,
)
_ASKS = re.compile(
    r"(?:try again|retry|retrying|wait|available|resets?)\b[^.\n]{0,30}?\b(?:in|after|for|least)?\s"
    rf"(?P<time>(?:{_PIECE.pattern}[\s,]*(?:and\s)?)+)",
    re.IGNORECASE,
)


def _in_words(words: str) -> float | None:
    """The wait in a message: "Please try again in 9m38.016s", "retry after 6 seconds"."""
    found = _ASKS.search(words)
    return _duration(found["time"]) if found else None


def _duration(text: str) -> float | None:
    """Seconds of "1h2m", "340ms", "6 seconds"; None of what is no time.

    >>> _duration("6m0s"), _duration("340ms"), _duration("2 hours"), _duration("soon")
    (360.0, 0.34, 7200.0, None)
    """
    pieces = _PIECE.findall(text)
    if not pieces:
        return None
    return sum(float(number) * _UNITS[_unit(unit.lower())] for number, unit in pieces)


def _unit(name: str) -> str:
    return "ms" if name.startswith(("ms", "milli")) else name[0]


def _reset(headers: Mapping[str, str], now: float) -> float | None:
    """When the limit that has nothing left is filled again (OpenAI, Groq, OpenRouter)."""
    waits = []
    for end in ("-requests", "-tokens", ""):
        left = headers.get(f"x-ratelimit-remaining{end}", "").strip()
        told = headers.get(f"x-ratelimit-reset{end}", "").strip()
        if told and left in ("", "0"):
            waits.append(_moment(told, now))
    known = [seconds for seconds in waits if seconds is not None]
    return max(known, default=None)


def _moment(told: str, now: float) -> float | None:
    """Seconds until a moment that is told as a duration, as seconds, or as a time since 1970."""
    if not re.fullmatch(_NUMBER.replace("9}", "15}"), told):
        return _duration(told)
    number = float(told)
    for unit in (1000.0, 1.0):
        if abs(number / unit - now) < 400 * 86400:
            return max(0.0, number / unit - now)
    return number if number < 400 * 86400 else None


_RETRY_DELAY = re.compile(rf'"retryDelay"\s*:\s*"({_NUMBER})s"')
_RESET_FIELD = re.compile(r'"X-RateLimit-Reset"\s*:\s*"?(\d{9,15})\b', re.IGNORECASE)


def _in_details(body: str, now: float) -> float | None:
    """The wait in Google's details, or in the headers that OpenRouter repeats in the body."""
    if delay := _RETRY_DELAY.search(body):
        return float(delay[1])
    reset = _RESET_FIELD.search(body)
    return _moment(reset[1], now) if reset else None


def when(told: Told, now: float) -> str:
    """When a run may go on, in words, by this machine's clock.

    >>> when(Told(daily=True), now=0.0)
    'when the limit is renewed, which the endpoint does not tell'
    """
    seconds = _until_midnight_pacific(now) if told.at_google else told.seconds
    if seconds is None:
        return "when the limit is renewed, which the endpoint does not tell"
    moment = datetime.datetime.fromtimestamp(now + seconds).astimezone()
    return f"at {moment:%Y-%m-%d %H:%M %Z} at the earliest (in {_spoken(seconds)})"


def _until_midnight_pacific(now: float) -> float | None:
    """Google renews the limits of a day at midnight in California."""
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        there = datetime.datetime.fromtimestamp(now, ZoneInfo("America/Los_Angeles"))
    except ZoneInfoNotFoundError:  # Windows has no table of its own
        return None
    tomorrow = (there + datetime.timedelta(days=1)).replace(hour=0, minute=0, second=0)
    return tomorrow.timestamp() - now


def _spoken(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{round(seconds)} seconds"
    return f"{minutes} minutes" if minutes < 120 else f"{round(seconds / 3600)} hours"


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that `Retry-After` or `retry-after-ms` asks to wait; None where neither does.

    The header's two forms, seconds and a date, are those of RFC 9110, section 10.2.3; the one in
    milliseconds is OpenAI's and Azure's.

    >>> retry_after({"retry-after": "2"}, now=0.0), retry_after({"retry-after-ms": "250"}, now=0.0)
    (2.0, 0.25)
    """
    from email.utils import parsedate_to_datetime

    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) / unit
        except ValueError:
            try:
                seconds = parsedate_to_datetime(value).timestamp() - now
            except (ValueError, TypeError, OverflowError):
                continue
        if seconds == seconds and seconds != float("inf"):
            return max(0.0, seconds)
    return None
