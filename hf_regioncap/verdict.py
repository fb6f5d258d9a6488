"""What a reply means for the row and for the run, and when to try again."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

from hf_regioncap import limits, rejections, wire
from hf_regioncap.endpoint import Endpoint
from hf_regioncap.transport import Reply

if TYPE_CHECKING:
    from hf_regioncap.client import Tally

#: Tries in all where the network or the endpoint fails in a way that may pass.
ERROR_TRIES = 6
#: So many rejections before any success mean that the run as such is rejected.
REJECTIONS = 8
#: Longer waits than this are not waited for.
LONGEST_RETRY_AFTER = 120.0


def judge(reply: Reply, tally: Tally, used: wire.Dialect) -> str | wire.Dialect:
    """`retry`, `row` (this row only), `permanent`, or the dialect to go on with."""
    status = reply.status
    if status == 0 or status in (408, 409):
        return "retry"
    if status == 429:
        return "permanent" if out_of_credit(reply) else "retry"
    if status in (401, 402, 403, 404):
        return "permanent"
    if status >= 500:
        return "permanent" if "mmproj" in reply.body else "retry"
    if status in (400, 422):
        parameter = rejections.rejected_parameter(reply.body)
        if parameter is not None:
            return wire.next_dialect(used, parameter) or "permanent"
        if rejections.rejects_model(reply.body):
            return "permanent"
    tally.rejections += 1
    if not tally.answered and tally.rejections >= REJECTIONS:
        return "permanent"
    return "row"


def out_of_credit(reply: Reply) -> bool:
    """Whether a refusal is one that no waiting ends (OpenAI: insufficient_quota)."""
    return reply.status == 429 and "insufficient_quota" in rejections.code_of(reply.body)


def backoff(tries: int, reply: Reply) -> float | None:
    """Seconds until the next try, with jitter; None where the endpoint asks for too long."""
    asked = limits.retry_after(reply.headers, time.time()) if reply.status else None
    if asked is not None and asked > LONGEST_RETRY_AFTER:
        return None
    grown = min(30.0, 0.25 * 2.0**tries) * random.uniform(0.5, 1.0)
    return grown if asked is None else asked + random.uniform(0, 0.1)


def failure_words(words: str, tries: int) -> str:
    """The words of the last failure, with how often it was tried."""
    return words if tries == 1 else f"{words} ({tries} tries)"


def permanent_words(reply: Reply, words: str, endpoint: Endpoint, kept: bool) -> str:
    """The error that a run ends with: what the endpoint said, and the way out."""
    ways = {
        401: "check the key in the variable that api_key_env names",
        402: "the account has no credit",
        403: "the key has no right to this model or endpoint",
        404: "check base_url (it usually ends in /v1) and model",
        413: "pictures are too large for it: pass max_side=1024",
        429: "the account has no credit or quota left",
    }
    parameter = rejections.rejected_parameter(reply.body) if reply.status in (400, 422) else None
    default = "check model and base_url"
    if parameter is not None:
        default = f"it does not take {parameter!r}: pass another value or leave it out"
    elif reply.status >= 500:
        default = "start the server with a vision projector (mmproj)"
    elif 300 <= reply.status < 400:
        default = "pass the address that it redirects to as base_url"
    way = ways.get(reply.status, default)
    told = f"the endpoint {endpoint.host} cannot serve this run: {words.rstrip('.')}. "
    after = " What was answered before is kept in the answer store." if kept else ""
    return f"{told}Way out: {way}.{after}"
