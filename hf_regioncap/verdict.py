"""What a reply means for the row and for the run, when to try again, and the words for it.

Pure, on status, headers and text, but for the jitter of a wait.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, replace
from typing import Literal

from hf_regioncap import limits, rejections, wire
from hf_regioncap.endpoint import Endpoint
from hf_regioncap.transport import Reply

#: Tries in all where the network or the endpoint fails in a way that may pass.
ERROR_TRIES = 6
#: So many rejections, or the same error in place of an answer, before any success: the whole run's.
REJECTIONS = 8
#: Seconds for which an endpoint that turns everything away, or is not there, is waited for.
PATIENCE = 300.0
#: So many rows that were given up while nothing got through, or that were told to wait too long.
GIVEN_UP = 3

Kind = Literal["retry", "row", "refused", "permanent", "learn", "guess", "reform", "again"]


@dataclass(frozen=True)
class Verdict:
    """What to do about a reply that is no answer.

    `retry`: try again. `row`: this row cannot be answered. `refused`: nor may it. `permanent`: no
    row can. `learn`: go on with `dialect`. `guess`: `dialect` may be what the endpoint wants; it is
    learned where it is answered. `reform`: ask about this row in `dialect`; `again`: once more as
    it was, before that.
    """

    kind: Kind
    dialect: wire.Dialect | None = None


#: What may pass by itself: beside the usual ones a client that gave up in a proxy's eyes (499), a
#: failed dependency (424) and "too early" (425).
_PASSING = (408, 409, 424, 425, 429, 499)
#: The endpoint turns everybody away; of 502 it is the gateway before it.
_TURNED_AWAY = (429, 502, 503, 529)


def turned_away(reply: Reply) -> bool:
    """Whether a request did not get in, whatever it asked: too many, or nobody there."""
    return reply.unreachable or reply.status in _TURNED_AWAY


def settle(reply: Reply) -> Reply:
    """Give a reply the status that it means: an error may come inside a 200.

    >>> settle(Reply(200, '{"error": {"code": 429, "message": "busy"}}')).status
    429
    """
    status = rejections.status_inside(reply.body) if reply.answers else None
    return reply if status is None else replace(reply, status=status)


def judge(reply: Reply, used: wire.Dialect, *, answered: bool) -> Verdict:
    """Say what to do about a reply that is no answer; `answered` says that `used` has been taken.

    After answers in the same dialect a rejection is the row's own, whatever it names.

    >>> judge(Reply(503), wire.Dialect(), answered=False)
    Verdict(kind='retry', dialect=None)
    >>> body = '{"error": {"message": "Unsupported parameter: max_tokens"}}'
    >>> judge(Reply(400, body), wire.Dialect(), answered=False).dialect.tokens
    'max_completion_tokens'
    """
    status, body = reply.status, reply.body
    if status == 0:
        return Verdict("retry")
    if (status in (400, 403, 422, 451) or status >= 500) and rejections.is_moderated(body):
        return Verdict("refused")
    if status in (400, 403, 422) and rejections.rejects_key(body):
        return Verdict("permanent")
    if out_of_credit(reply) or status in (401, 402, 403, 404):
        return Verdict("permanent")
    if status in _PASSING:
        return Verdict("retry")
    if status in (400, 422):
        return _judge_rejection(body, used, answered)
    return _judge_failure(body, used, answered) if status >= 500 else Verdict("row")


def _judge_rejection(body: str, used: wire.Dialect, answered: bool) -> Verdict:
    other_form = wire.next_dialect(used, "response_format")
    if rejections.failed_generation(body) is not None:
        return Verdict("again", other_form)
    parameter = rejections.rejected_parameter(body)
    if answered:
        is_form = parameter == "response_format" and other_form is not None
        return Verdict("reform", other_form) if is_form else Verdict("row")
    if rejections.way_out(body):
        return Verdict("permanent")
    if parameter is not None:
        better = wire.next_dialect(used, parameter)
        return Verdict("learn", better) if better is not None else Verdict("permanent")
    if rejections.rejects_model(body):
        return Verdict("permanent")
    about_picture = rejections.about_row(body) or rejections.takes_no_pictures(body)
    if other_form is not None and not about_picture:
        return Verdict("guess", other_form)
    return Verdict("row")


def _judge_failure(body: str, used: wire.Dialect, answered: bool) -> Verdict:
    """Judge a 5xx: it passes, or says what a 400 should."""
    if "mmproj" in body or (not answered and rejections.way_out(body)):
        return Verdict("permanent")
    other_form = wire.next_dialect(used, "response_format")
    if other_form is not None and rejections.about_form(body):
        return Verdict("again" if answered else "guess", other_form)
    return Verdict("retry")


def out_of_credit(reply: Reply) -> bool:
    """Whether a refusal is one that no waiting ends (OpenAI: insufficient_quota)."""
    return reply.status in (400, 402, 403, 429) and rejections.no_credit(reply.body)


def told_to_wait(reply: Reply, now: float) -> limits.Told:
    """What a reply says of waiting; nothing where it is no refusal."""
    if reply.status not in _TURNED_AWAY:
        seconds = limits.retry_after(reply.headers, now) if reply.status else None
        return limits.Told(seconds)
    told = limits.read_told(reply.headers, reply.body, now)
    return told if reply.status == 429 else limits.Told(told.seconds)


def backoff(tries: int, told: limits.Told) -> float | None:
    """Seconds until the next try, with jitter; None where the endpoint asks for too long.

    What it asks for is the least: some always say one second, or none.
    """
    if told.too_long:
        return None
    grown = min(30.0, 0.25 * 2.0**tries) * random.uniform(0.5, 1.0)
    return grown if told.seconds is None else max(grown, told.seconds + random.uniform(0, 0.1))


# Words


def failure_words(words: str, tries: int) -> str:
    """The words of the last failure, with how often it was tried."""
    return words if tries == 1 else f"{words} ({tries} tries)"


def alike(words: str) -> str:
    """Words without numbers and identifiers, by which the same error is known again.

    >>> alike("busy (request 7f3a-99, 12 ms)") == alike("busy (request 08bd-17, 340 ms)")
    True
    """
    return re.sub(r"\b(?=\w*\d)[\w-]+", "#", words)


def permanent_words(reply: Reply, words: str, endpoint: Endpoint) -> str:
    """Why no row can be answered: what the endpoint said, and the way out."""
    return _cannot_serve(words, way_out(reply, endpoint), endpoint)


def useless_words(problem: str, endpoint: Endpoint) -> str:
    """Why a run stops that gets the same error in place of every answer."""
    if rejections.takes_no_pictures(problem):
        way = _NO_PICTURES
    elif "HTML" in problem:
        way = "check base_url: it leads to a web page, which may ask for a login"
    else:
        way = "check model and base_url"
    return _cannot_serve(f"{REJECTIONS} times in place of an answer: {problem}", way, endpoint)


def unreachable_words(words: str, endpoint: Endpoint) -> str:
    """Why a run stops that finds nobody at its endpoint."""
    way = f"start the server at {endpoint.url}, or check base_url"
    return _cannot_serve(f"{words} ({ERROR_TRIES} tries, none has succeeded)", way, endpoint)


def limit_words(told: limits.Told, words: str, endpoint: Endpoint, now: float) -> str:
    """Why a run stops that has used up what it may have for a long time."""
    return (
        f"the endpoint {endpoint.host} has reached a limit that is not waited for: "
        f"{words.rstrip('.')}. The run may go on {limits.when(told, now)}: start it again then."
    )


def outage_words(words: str, endpoint: Endpoint, seconds: float) -> str:
    """Why a run stops that waits for an endpoint in vain."""
    lasted = f"{words.rstrip('.')}, and nothing got through for {round(seconds / 60)} minutes"
    return _cannot_serve(lasted, "start the run again when the endpoint is up", endpoint)


def _cannot_serve(why: str, way: str, endpoint: Endpoint) -> str:
    return f"the endpoint {endpoint.host} cannot serve this run: {why.rstrip('.')}. Way out: {way}."


_NO_PICTURES = "pass model= of a model that takes pictures, or load the server's part for them"


def way_out(reply: Reply, endpoint: Endpoint) -> str:
    """What the user can do about a reply that no row gets past."""
    status, body = reply.status, reply.body
    named = f" {endpoint.key_name}" if endpoint.key_name else ""
    key = f"check the key in the variable{named} that api_key_env names"
    if endpoint.key is None:
        key = "check the key: none was sent, pass api_key_env='NAME' of the variable that holds it"
    if status == 401 or (status in (400, 403, 422) and rejections.rejects_key(body)):
        return key
    if out_of_credit(reply):
        return "the account has no credit or quota left"
    if (status in (400, 422) or status >= 500) and (way := rejections.way_out(body)):
        return way
    if rejections.takes_no_pictures(body):
        mmproj = "start the server with a vision projector (mmproj)"
        return mmproj if status >= 500 else _NO_PICTURES
    parameter = rejections.rejected_parameter(body) if status in (400, 422) else None
    if parameter is not None:
        return f"it does not take {parameter!r}: pass another value or leave it out"
    if 300 <= status < 400:
        return "pass the address that it redirects to as base_url"
    if reply.timed_out:
        return "pass a larger timeout=, or fewer requests at once (concurrency=)"
    if status >= 500:
        return "look at the server's own log"
    return _WAYS.get(status, "check model and base_url")


_WAYS = {
    402: "the account has no credit",
    403: "the key has no right to this model or endpoint",
    404: "check base_url (it usually ends in /v1) and model",
    413: "pictures are too large for it: pass max_side=1024",
}
