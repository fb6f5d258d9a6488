"""How long an endpoint asks to wait."""

from __future__ import annotations

from collections.abc import Mapping


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
