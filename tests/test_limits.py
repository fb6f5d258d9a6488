"""How long an endpoint asks to wait, in all the places where they say so."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_regioncap.limits import Told, _until_midnight_pacific, read_told, when

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC).timestamp()


def error(message: str, **more: Any) -> str:
    return json.dumps({"error": {"message": message, **more}})


GEMINI = [
    {
        "error": {
            "code": 429,
            "message": "You exceeded your current quota. Please retry in 45.6s.",
            "status": "RESOURCE_EXHAUSTED",
            "details": [{"violations": [{"quotaId": "X-FreeTier"}]}, {"retryDelay": "41s"}],
        }
    }
]
OPENROUTER = {
    "error": {
        "code": 429,
        "message": "Rate limit exceeded: free-models-per-min",
        "metadata": {"headers": {"X-RateLimit-Reset": str(int((NOW + 30) * 1000))}},
    }
}


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({}, "", None),
        ({}, error("Rate limit reached."), None),
        ({"retry-after": "7"}, "", 7.0),
        ({}, error("Rate limit reached on RPM: Limit 3. Please try again in 20s."), 20.0),
        ({}, error("Please try again in 9m38.016s."), 578.016),
        ({}, error("Please try again in 340ms. Visit https://x.test/limits"), 0.34),
        ({}, error("Please retry after 6 seconds."), 6.0),
        ({}, error("Please wait 40000 seconds before retrying."), 40000.0),
        ({}, error("Try again in 1 hour and 2 minutes"), 3720.0),
        ({}, error("Your limit will reset after 1h2m3s"), 3723.0),
        ({}, error("you requested 300 tokens in 2 messages"), None),
        ({}, error("wait for a while"), None),
        ({"retry-after": "1"}, error("Please try again in 20s."), 20.0),
        ({"retry-after": "0"}, error("busy"), 0.0),
        ({"x-ratelimit-reset-requests": "57s", "x-ratelimit-remaining-requests": "0"}, "", 57.0),
        ({"x-ratelimit-reset-requests": "57s", "x-ratelimit-remaining-requests": "9"}, "", None),
        ({"x-ratelimit-reset-tokens": "6m0s", "x-ratelimit-remaining-tokens": "0"}, "", 360.0),
        ({"x-ratelimit-reset": str(int(NOW + 50))}, "", 50.0),
        ({"x-ratelimit-reset": str(int((NOW + 50) * 1000))}, "", 50.0),
        ({"x-ratelimit-reset": "12"}, "", 12.0),
        ({"x-ratelimit-reset": "soon"}, "", None),
        ({}, json.dumps(GEMINI), 45.6),
        ({}, json.dumps(OPENROUTER), 30.0),
    ],
)
def test_how_long(headers: dict[str, str], body: str, seconds: float | None) -> None:
    told = read_told(headers, body, NOW)
    assert told.seconds == pytest.approx(seconds) if seconds is not None else not told.seconds
    assert told.seconds is not None or seconds is None
    assert not told.daily


@pytest.mark.parametrize(
    ("message", "daily"),
    [
        ("Rate limit reached on tokens per day (TPD): Limit 500000. Try again in 9m38s.", True),
        ("Rate limit reached on requests per day (RPD): Limit 200, Used 200", True),
        ("Rate limit exceeded: free-models-per-day. Add 10 credits", True),
        ("You've exceeded your daily token limit", True),
        ("quotaId: GenerateRequestsPerDayPerProjectPerModel-FreeTier", True),
        ("当日请求次数已用完", True),
        ("Rate limit reached on requests per min (RPM): Limit 3 / min.", False),
        ("Limit 3 per minute (200 per day)", False),
        ("Rate limit exceeded: free-models-per-min", False),
        ("busy today", False),
    ],
)
def test_the_limit_of_a_day(message: str, daily: bool) -> None:
    told = read_told({"retry-after": "2"}, error(message), NOW)
    assert told.daily is daily
    assert told.too_long is daily


def test_when_a_run_may_go_on() -> None:
    assert "in 10 minutes" in when(Told(578.0, daily=True), NOW)
    assert "in 11 hours" in when(Told(40_000.0), NOW)
    assert "does not tell" in when(Told(daily=True), NOW)


def test_google_renews_at_midnight_in_california() -> None:
    body = json.dumps({"error": {"details": [{"quotaId": "RequestsPerDay"}]}})
    told = read_told({}, body, NOW)
    assert told.at_google
    assert _until_midnight_pacific(NOW) == 20 * 3600  # 04:00 there
    assert "in 20 hours" in when(told, NOW)


@given(st.text(max_size=60), st.text(max_size=20))
def test_no_text_raises(body: str, header: str) -> None:
    headers = {"retry-after": header, "x-ratelimit-reset": header}
    told = read_told(headers, body, NOW)
    assert told.seconds is None or told.seconds >= 0
