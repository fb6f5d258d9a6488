"""A real chat completions endpoint on loopback that answers, waits, limits and fails as it is told.

In a test it runs in a thread:

    with Endpoint({"http_500": 0.1, "cut_json": 0.05}, latency=Lognormal(0.02)) as endpoint:
        ...  # endpoint.base_url, endpoint.requests, endpoint.max_in_flight

and beside one, out of reach of forks and kills, in a process of its own:

    with EndpointProcess("--rate", "10", "--ledger", str(path)) as endpoint:
        ...  # endpoint.base_url, endpoint.stats(), endpoint.control(rate=3)

A caption that it gives holds the region's number and a digest of the image that it was given
(`expected_caption`), so that a test can prove to which row and box a caption belongs. `FAULTS` are
the ways to fail, each with the status of the contract in which a row ends that meets nothing else.

By hand: `python tests/endpoint.py --latency lognormal:1.0:0.6 --seed 7` prints its URL first.
It has `GET /stats?slots=32` and `POST /control` besides; both are left out of every count.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import binascii
import functools
import gzip
import hashlib
import heapq
import json
import math
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
import weakref
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs

HOST = "127.0.0.1"
#: Seconds between the bytes of a slow drip.
DRIP = 0.1
#: An endless body ends here after all, so that a careless test does not fill the memory.
ENDLESS_BYTES = 1 << 30
#: What the gzip bomb takes when it is unpacked.
BOMB_BYTES = 300 << 20

# ---------------------------------------------------------------------------------------------
# What was asked


def expected_caption(image: bytes, region: int) -> str:
    """The caption that the endpoint gives for a region of an image, as it received the image.

    >>> expected_caption(b"jpeg", 2)
    'caption for region 2 of image 41e5787e'
    """
    return _caption(hashlib.sha256(image).hexdigest(), region)


def _caption(digest: str, region: int) -> str:
    return f"caption for region {region} of image {digest[:8]}"


@dataclass(frozen=True)
class Question:
    """What a request asks: the pictures' bytes, the text of all messages, the region numbers.

    `form` is how the answer is wanted: `"json_schema"`, `"json_object"` or `"text"`; `digests` are
    the SHA-256 of the images, in hex.
    """

    images: tuple[bytes, ...] = ()
    text: str = ""
    regions: tuple[int, ...] = ()
    form: str = "text"
    digests: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """That of the last image: with several, the last is the crop."""
        return self.digests[-1] if self.digests else hashlib.sha256(b"").hexdigest()

    @functools.cached_property
    def key(self) -> str:
        """What makes two requests the same question: images, texts and regions, by SHA-256."""
        asked = json.dumps([self.digests, self.text, self.regions])
        return hashlib.sha256(asked.encode()).hexdigest()

    @property
    def captions(self) -> dict[int, str]:
        """The right answer; where no region was named, one for the whole picture as region 1."""
        return {region: _caption(self.digest, region) for region in self.regions or (1,)}


def read_question(body: Any) -> Question:
    """Read the question out of a request's JSON; what is not there is empty.

    >>> read_question([]) == Question()
    True
    >>> message = {"role": "user", "content": "There are <region1> to <region3>."}
    >>> read_question({"messages": [message]}).regions
    (1, 2, 3)
    """
    body = body if isinstance(body, dict) else {}
    parts = [part for message in _dicts(body.get("messages")) for part in _parts(message)]
    images = tuple(_image_bytes(part) for part in parts if "image_url" in part)
    texts = [str(part["text"]) for part in parts if "text" in part]
    wanted = body.get("response_format")
    form = str(wanted.get("type")) if isinstance(wanted, dict) else "text"
    regions = _schema_regions(wanted) or _text_regions(_last_user_texts(body), form)
    digests = tuple(hashlib.sha256(image).hexdigest() for image in images)
    return Question(images, "\n".join(texts), regions, form, digests)


def _dicts(values: Any) -> list[dict[str, Any]]:
    values = values if isinstance(values, list) else []
    return [value for value in values if isinstance(value, dict)]


def _parts(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = message.get("content")
    return [{"text": content}] if isinstance(content, str) else _dicts(content)


def _image_bytes(part: Mapping[str, Any]) -> bytes:
    """The bytes of a `data:` URL, given bare or in an object; of anything else its own text."""
    image = part["image_url"]
    url = str(image.get("url") if isinstance(image, dict) else image)
    head, comma, data = url.partition(",")
    if not comma or not head.endswith(";base64"):
        return url.encode()
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error:
        return url.encode()


def _schema_regions(wanted: Any) -> tuple[int, ...]:
    try:
        names = wanted["json_schema"]["schema"]["properties"]
    except (KeyError, TypeError):
        return ()
    return tuple(int(name) for name in names if name.isdecimal())


def _last_user_texts(body: Mapping[str, Any]) -> list[str]:
    users = [message for message in _dicts(body.get("messages")) if message.get("role") == "user"]
    return [str(part["text"]) for part in _parts(users[-1]) if "text" in part] if users else []


def _text_regions(texts: Sequence[str], form: str) -> tuple[int, ...]:
    """What the last text asks for, if it says so, else every `<regionN>` mark of the message.

    It says so by the quoted keys of an object, or by marks that "only" stands after.
    """
    last = texts[-1] if texts else ""
    keys = re.findall(r'"(\d+)"', last) if form == "json_object" else []
    only = re.search(r"((?:<region\d+>(?:, | and )?)+) only", last)
    if keys:
        return tuple(sorted({int(key) for key in keys}))
    return mentioned_regions(only[1] if only else "\n".join(texts))


def mentioned_regions(text: str) -> tuple[int, ...]:
    """The regions that a text names, ranges filled in.

    >>> mentioned_regions("There are 3: <region1> to <region3>."), mentioned_regions("<region5>?")
    ((1, 2, 3), (5,))
    """
    found = {int(number) for number in re.findall(r"<region(\d+)>", text)}
    for first, last in re.findall(r"<region(\d+)> to <region(\d+)>", text):
        found |= set(range(int(first), min(int(last), int(first) + 1000)))
    return tuple(sorted(found))


@dataclass(eq=False)
class Request:
    """One request as the endpoint saw it, and what became of it.

    `number` counts from 0. `outcome` is `"pending"` until it has ended, then `"ok"`, the name of
    the fault, `"unauthorized"`, `"rate_limited"`, `"not_found"`, `"bad_request"`, `"models"`, or
    `"gone"` (the client went away before an answer was written that would have been `"ok"`);
    `fate` is what was decided, before it is known whether the client stays for it.
    `acknowledged` says that the whole response was written while the client was there.
    `started` and `ended` are on time.monotonic's clock, `latency` is what was drawn, 0 where the
    answer came at once.
    """

    number: int
    method: str
    path: str
    query: str
    headers: dict[str, str]
    started: float
    elsewhere: bool = False
    body: Any = None
    question: Question = field(default_factory=Question)
    size: int = 0
    outcome: str = "pending"
    fate: str = ""
    code: int | None = None
    latency: float = 0.0
    usage: tuple[int, int] | None = None
    acknowledged: bool = False
    ended: float | None = None
    other_url: str = ""

    @property
    def paid(self) -> bool:
        """Whether a whole response with status 200 was written: what a provider charges for."""
        return self.acknowledged and self.code == 200 and self.path.endswith("/completions")


# ---------------------------------------------------------------------------------------------
# What is answered


@dataclass(frozen=True)
class Reply:
    """A response as bytes and as the way in which they are sent.

    `declared` is the Content-Length to claim in place of the real one. `pause` is the time between
    the single bytes of the body, or of the head too with `drip_head`. `silent` sends nothing at
    all. `ending` is what becomes of the connection after: `"hang"` keeps it open and says no more.
    """

    body: bytes = b""
    code: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    declared: int | None = None
    chunked: bool = False
    endless: bool = False
    pause: float = 0.0
    drip_head: bool = False
    silent: bool = False
    ending: Literal["keep", "close", "reset", "hang"] = "keep"
    usage: tuple[int, int] | None = None

    @property
    def complete(self) -> bool:
        """Whether all that the response promises is sent."""
        return not self.silent and not self.endless and self.declared in (None, len(self.body))

    @property
    def head(self) -> bytes:
        """The status line and the headers."""
        length = len(self.body) if self.declared is None else self.declared
        framing = (
            {"transfer-encoding": "chunked"}
            if self.chunked or self.endless
            else {"content-length": str(length)}
        )
        fields = {"content-type": self.content_type, **framing, **self.headers}
        if self.ending != "keep":
            fields["connection"] = "close"
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"HTTP/1.1 {self.code} {_REASONS.get(self.code, '')}\r\n{lines}\r\n".encode()


_REASONS = {status.value: status.phrase for status in HTTPStatus}


def _json(value: Any, **how: Any) -> Reply:
    # Escaped to ASCII, so that a lone surrogate leaves as its escape.
    return Reply(json.dumps(value).encode(), **how)


def error_reply(
    code: int,
    message: str,
    *,
    type: str = "invalid_request_error",
    param: str | None = None,
    error_code: str | int | None = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """An error in the form of OpenAI's."""
    error = {"message": message, "type": type, "param": param, "code": error_code}
    return _json({"error": error}, code=code, headers=headers or {})


def completion(
    request: Request, content: Any, *, finish_reason: str | None = "stop", **message: Any
) -> dict[str, Any]:
    """A chat completion with `content` as the message's text; usage counts images and words."""
    said = len(content.split()) if isinstance(content, str) else 0
    asked = 100 * len(request.question.images) + len(request.question.text.split())
    body = request.body if isinstance(request.body, dict) else {}
    return {
        "id": f"chatcmpl-{request.number}",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": body.get("model", "stand-in"),
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content, **message},
                "finish_reason": finish_reason,
            }
        ],
        "usage": {
            "prompt_tokens": asked,
            "completion_tokens": said,
            "total_tokens": asked + said,
        },
    }


def completion_reply(value: Mapping[str, Any]) -> Reply:
    """A completion on its way, with its usage noted where that is in order."""
    usage = value.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    prompt, said = counts.get("prompt_tokens"), counts.get("completion_tokens")
    told = isinstance(prompt, int) and isinstance(said, int)
    return _json(value, usage=(prompt, said) if told else None)


def answer_text(captions: Mapping[int, str], question: Question) -> str:
    """Captions in the form in which they were asked for."""
    if question.form != "text":
        return json.dumps({str(region): caption for region, caption in captions.items()})
    if not question.regions:
        return " ".join(captions.values())
    return "\n".join(f"<region{region}>: {caption}" for region, caption in captions.items())


def good_reply(request: Request) -> Reply:
    """The right answer."""
    return completion_reply(_good(request))


def _good(request: Request) -> dict[str, Any]:
    question = request.question
    return completion(request, answer_text(question.captions, question))


# ---------------------------------------------------------------------------------------------
# How it can fail

#: Statuses of the contract, and "permanent" for what stops a run.
Status = Literal[
    "ok", "ok_partial", "api_error", "api_bad_answer", "api_truncated", "api_refused", "permanent"
]


@dataclass(frozen=True)
class Fault:
    """One way to go wrong.

    `status` is how a row of two or three regions must end, under default options and with a short
    timeout, when all of its requests meet this fault and those of other rows do not (a generic 400
    on every row is permanent: by the contract eight in a row are).
    `reply` may return None: the request gives no cause, and is answered as it should be.
    `needs` names the parameter without which there is no cause; it may be one that is not sent
    by default. `before_body` is for what happens while the request is still coming in.
    """

    name: str
    status: Status
    reply: Callable[[Request], Reply | None]
    needs: str | None = None
    before_body: bool = False


def _fixed(name: str, status: Status, reply: Reply, **how: Any) -> Fault:
    return Fault(name, status, lambda request: reply, **how)


def _error(name: str, status: Status, code: int, message: str, **error: Any) -> Fault:
    return _fixed(name, status, error_reply(code, message, **error))


def _content(
    name: str, status: Status, content: Callable[[Question], Any], **message: Any
) -> Fault:
    """A completion that is well formed around a content that is not what was asked for."""
    return Fault(
        name,
        status,
        lambda request: completion_reply(completion(request, content(request.question), **message)),
    )


def _captions(
    name: str, status: Status, captions: Callable[[dict[int, str]], dict[int, str]]
) -> Fault:
    """An answer in the form that was asked for, with other captions than those asked for."""
    return _content(
        name, status, lambda question: answer_text(captions(question.captions), question)
    )


def _changed(name: str, status: Status, change: Callable[[dict[str, Any]], Any]) -> Fault:
    """The right completion, changed into another value."""
    return Fault(name, status, lambda request: completion_reply(change(_good(request))))


def _without(key: str, value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: kept for name, kept in value.items() if name != key}


def _with_choice(value: Mapping[str, Any], change: Callable[[dict[str, Any]], Any]) -> Any:
    """A completion with its only choice changed."""
    return {**value, "choices": [change(value["choices"][0])]}


def _sent(name: str, status: Status, change: Callable[[Reply], Reply]) -> Fault:
    """The right answer, sent in another way."""
    return Fault(name, status, lambda request: change(good_reply(request)))


def _rejects(
    name: str,
    carries: Callable[[dict[str, Any]], bool],
    message: str,
    *,
    status: Status = "ok",
    needs: str,
    code: int = 400,
    **error: Any,
) -> Fault:
    """A 400 that names a parameter, for requests that carry it; the others are answered."""
    rejection = error_reply(code, message, **error)

    def reply(request: Request) -> Reply | None:
        return rejection if isinstance(request.body, dict) and carries(request.body) else None

    return Fault(name, status, reply, needs=needs)


def in_turn(name: str, status: Status, *faults: Fault) -> Fault:
    """One fault out of several: the first that finds cause."""

    def reply(request: Request) -> Reply | None:
        replies = (fault.reply(request) for fault in faults)
        return next((reply for reply in replies if reply is not None), None)

    return Fault(name, status, reply, needs=" ".join(fault.needs or "" for fault in faults))


def _form(body: Mapping[str, Any]) -> Any:
    wanted = body.get("response_format")
    return wanted.get("type") if isinstance(wanted, dict) else None


def _image_urls(body: Mapping[str, Any]) -> list[Any]:
    parts = [part for message in _dicts(body.get("messages")) for part in _parts(message)]
    return [part["image_url"] for part in parts if "image_url" in part]


def _has_detail(body: Mapping[str, Any]) -> bool:
    return any(isinstance(image, dict) and "detail" in image for image in _image_urls(body))


_REJECTIONS = [
    _rejects(
        "rejects_json_schema",
        lambda body: _form(body) == "json_schema",
        "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this "
        "model.",
        needs="json_schema",
        param="response_format",
    ),
    _rejects(
        "rejects_json_object",
        lambda body: _form(body) == "json_object",
        "'response_format.type' must be 'json_schema' or 'text'",
        needs="json_object",
        param="response_format",
    ),
    _rejects(
        "rejects_max_tokens",
        lambda body: "max_tokens" in body,
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
        "'max_completion_tokens' instead.",
        needs="max_tokens",
        param="max_tokens",
        error_code="unsupported_parameter",
    ),
    _rejects(
        "rejects_temperature",
        lambda body: "temperature" in body,
        "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) "
        "value is supported.",
        needs="temperature",
        param="temperature",
        error_code="unsupported_value",
    ),
    _rejects(
        "rejects_detail",
        _has_detail,
        "Unknown parameter: 'messages[1].content[1].image_url.detail'.",
        needs="detail",
        param="messages[1].content[1].image_url.detail",
        error_code="unknown_parameter",
    ),
]


def _extra_forbidden(name: str) -> Reply:
    """The body of a server that checks requests with pydantic and forbids what it does not know."""
    problem = {
        "type": "extra_forbidden",
        "loc": ["body", name],
        "msg": "Extra inputs are forbidden",
    }
    return _json({"detail": [problem]}, code=422)


def _has(name: str) -> Callable[[Request], bool]:
    return lambda request: isinstance(request.body, dict) and name in request.body


_PARAMETERS = [
    *_REJECTIONS,
    in_turn("rejects_every_rung", "ok", *_REJECTIONS),
    _rejects(
        "rejects_response_format",
        lambda body: "response_format" in body,
        "response_format is not supported by this model",
        needs="response_format",
        param="response_format",
    ),
    Fault(
        "rejects_response_format_422",
        "ok",
        lambda request: (
            _extra_forbidden("response_format") if _has("response_format")(request) else None
        ),
        needs="response_format",
    ),
    _rejects(
        "rejects_max_completion_tokens",
        lambda body: "max_completion_tokens" in body,
        "Unrecognized request argument supplied: max_completion_tokens",
        needs="max_completion_tokens",
    ),
    _rejects(
        "rejects_both_token_limits",
        lambda body: "max_completion_tokens" in body or "max_tokens" in body,
        "Unrecognized request argument supplied: max_tokens or max_completion_tokens",
        needs="max_tokens max_completion_tokens",
    ),
    _rejects(
        "rejects_image_object",
        lambda body: any(isinstance(image, dict) for image in _image_urls(body)),
        "messages[1].content[1].image_url must be a string",
        needs="image_url",
        param="messages[1].content[1].image_url",
    ),
    _rejects(
        "rejects_seed",
        lambda body: "seed" in body,
        "Unrecognized request argument supplied: seed",
        status="permanent",
        needs="seed",
        param="seed",
    ),
]

_QUOTA = "You exceeded your current quota, please check your plan and billing details."

_STATUS_CODES = [
    _error("http_400", "api_error", 400, "The request could not be understood."),
    _error(
        "http_400_context_length",
        "api_error",
        400,
        "This model's maximum context length is 4096 tokens. However, your messages resulted in "
        "5211 tokens. Please reduce the length of the messages.",
        param="messages",
        error_code="context_length_exceeded",
    ),
    _error("http_400_image", "api_error", 400, "The image could not be processed."),
    _error(
        "http_400_unknown_model",
        "permanent",
        400,
        "The model `stand-in` does not exist.",
        param="model",
        error_code="model_not_found",
    ),
    _error(
        "http_401",
        "permanent",
        401,
        "Incorrect API key provided. You can find your API key in your account.",
        error_code="invalid_api_key",
    ),
    _error("http_402", "permanent", 402, "Insufficient Balance"),
    _error("http_403", "permanent", 403, "Your organisation may not use this model."),
    _error(
        "http_404",
        "permanent",
        404,
        "The model `stand-in` does not exist or you do not have access to it.",
        error_code="model_not_found",
    ),
    _error("http_408", "api_error", 408, "Request timed out.", type="timeout"),
    _error("http_409", "api_error", 409, "The resource is locked.", type="conflict"),
    _error("http_413", "api_error", 413, "Request Entity Too Large"),
    _error("http_422", "api_error", 422, "This picture cannot be handled."),
    _error("http_429", "api_error", 429, "Rate limit reached.", error_code="rate_limit_exceeded"),
    _error(
        "http_429_retry_after",
        "api_error",
        429,
        "Rate limit reached. Please try again in 1s.",
        error_code="rate_limit_exceeded",
        headers={"retry-after": "1"},
    ),
    _error(
        "http_429_retry_after_ms",
        "api_error",
        429,
        "Rate limit reached. Please try again in 50ms.",
        error_code="rate_limit_exceeded",
        headers={"retry-after-ms": "50", "retry-after": "1"},
    ),
    Fault(
        "http_429_retry_after_date",
        "api_error",
        lambda request: error_reply(
            429,
            "Rate limit reached.",
            headers={"retry-after": formatdate(math.ceil(time.time()) + 1, usegmt=True)},
        ),
    ),
    _error(
        "http_429_retry_after_absurd",
        "api_error",
        429,
        "Come back tomorrow.",
        headers={"retry-after": "9999"},
    ),
    _error(
        "http_429_no_credit",
        "permanent",
        429,
        _QUOTA,
        type="insufficient_quota",
        error_code="insufficient_quota",
    ),
    _error("http_500", "api_error", 500, "The server had an error.", type="server_error"),
    _error(
        "http_500_integer_code",
        "api_error",
        500,
        "failed to process image",
        type="server_error",
        error_code=500,
    ),
    _fixed(
        "http_502_html",
        "api_error",
        Reply(b"<html><h1>502 Bad Gateway</h1></html>", 502, content_type="text/html"),
    ),
    _error("http_503", "api_error", 503, "Loading model", type="unavailable_error", error_code=503),
    _error("http_503_retry_after", "api_error", 503, "Overloaded.", headers={"retry-after": "1"}),
    _fixed(
        "http_504_html",
        "api_error",
        Reply(b"<html><h1>504 Gateway Time-out</h1></html>", 504, content_type="text/html"),
    ),
    _error("http_529", "api_error", 529, "Overloaded", type="overloaded_error"),
    Fault(
        "redirect_307",
        "api_error",
        lambda request: Reply(code=307, headers={"location": request.other_url}),
    ),
    Fault(
        "redirect_308",
        "api_error",
        lambda request: Reply(code=308, headers={"location": request.other_url}),
    ),
]


@functools.cache
def gzip_bomb(size: int = BOMB_BYTES) -> bytes:
    """A small gzip member that unpacks to `size` bytes (a multiple of 1 MiB) of JSON and blanks.

    Made in 0.3 s: each full flush makes the packed blanks repeatable.
    """
    start = b'{"choices":[{"message":{"content":"boom"}}]}'.ljust(1 << 20)
    blanks = b" " * (1 << 20)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    first = packer.compress(start) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(blanks) + packer.flush(zlib.Z_FULL_FLUSH)
    repeats = size // len(blanks) - 1
    check = functools.reduce(
        lambda crc, _: zlib.crc32(blanks, crc), range(repeats), zlib.crc32(start)
    )
    head = gzip.compress(b"")[:10]
    return head + first + again * repeats + packer.flush() + struct.pack("<II", check, size % 2**32)


def _cut(reply: Reply, ending: Literal["close", "reset"]) -> Reply:
    """The first half of a body under the length of the whole."""
    return replace(
        reply, body=reply.body[: len(reply.body) // 2], declared=len(reply.body), ending=ending
    )


_CONNECTIONS = [
    _fixed(
        "reset_before_reading", "api_error", Reply(silent=True, ending="reset"), before_body=True
    ),
    _fixed("reset_after_reading", "api_error", Reply(silent=True, ending="reset")),
    _fixed("close_without_a_byte", "api_error", Reply(silent=True, ending="close")),
    _fixed("hang", "api_error", Reply(silent=True, ending="hang")),
    _sent("hang_in_body", "api_error", lambda reply: replace(_cut(reply, "close"), ending="hang")),
    _sent("reset_in_body", "api_bad_answer", lambda reply: _cut(reply, "reset")),
    _sent("half_a_body", "api_bad_answer", lambda reply: _cut(reply, "close")),
    _sent("slow_drip", "api_error", lambda reply: replace(reply, pause=DRIP)),
    _sent("slow_drip_chunked", "api_error", lambda reply: replace(reply, pause=DRIP, chunked=True)),
    _sent("slow_head", "api_error", lambda reply: replace(reply, pause=DRIP, drip_head=True)),
    _sent("chunked", "ok", lambda reply: replace(reply, chunked=True)),
    _sent("connection_close", "ok", lambda reply: replace(reply, ending="close")),
    Fault(
        "gzip_bomb",
        "api_bad_answer",
        lambda request: Reply(gzip_bomb(), headers={"content-encoding": "gzip"}),
    ),
    _fixed(
        "endless_body",
        "api_bad_answer",
        Reply(b" " * 65536, endless=True, ending="close"),
    ),
]

_BODIES = [
    _fixed(
        "html_200",
        "api_bad_answer",
        Reply(b"<!DOCTYPE html><html>Please log in</html>", content_type="text/html"),
    ),
    _sent(
        "cut_json",
        "api_bad_answer",
        lambda reply: replace(reply, body=reply.body[: len(reply.body) // 2]),
    ),
    _fixed("empty_body", "api_bad_answer", Reply()),
    _fixed("json_null", "api_bad_answer", Reply(b"null")),
    _fixed("json_list", "api_bad_answer", Reply(b"[]")),
    _fixed("deep_json", "api_bad_answer", Reply(b"[" * 100_000)),
    _error("error_200", "api_bad_answer", 200, "The engine is overloaded.", type="server_error"),
    _error("error_200_integer_code", "api_error", 200, "Provider failed.", error_code=502),
    _sent(
        "invalid_utf8",
        "api_bad_answer",
        lambda reply: replace(reply, body=reply.body.replace(b"caption", b"c\xff\xfeption")),
    ),
    _changed("no_choices", "api_bad_answer", lambda value: {**value, "choices": []}),
    _changed("choices_null", "api_bad_answer", lambda value: {**value, "choices": None}),
    _changed("choices_missing", "api_bad_answer", functools.partial(_without, "choices")),
    _changed(
        "message_null",
        "api_bad_answer",
        lambda value: _with_choice(value, lambda choice: {**choice, "message": None}),
    ),
    _changed(
        "wrong_types",
        "api_bad_answer",
        lambda value: {
            "id": 5,
            "model": ["stand-in"],
            "choices": [{"index": "0", "message": {"content": 7}, "finish_reason": 1}],
            "usage": "none",
        },
    ),
    _changed(
        "wrong_types_throughout",
        "api_bad_answer",
        lambda value: {"choices": {"0": "message"}, "usage": [1, 2], "error": 0},
    ),
    _changed(
        "usage_strings",
        "ok",
        lambda value: {**value, "usage": {"prompt_tokens": "12", "completion_tokens": -3.5}},
    ),
    _changed("usage_missing", "ok", functools.partial(_without, "usage")),
    _changed("usage_null", "ok", lambda value: {**value, "usage": None}),
    _changed(
        "finish_reason_missing",
        "ok",
        lambda value: _with_choice(value, functools.partial(_without, "finish_reason")),
    ),
    _changed(
        "bare_minimum",
        "ok",
        lambda value: {
            "choices": [{"message": {"content": value["choices"][0]["message"]["content"]}}]
        },
    ),
]

_SORRY = "I'm sorry, but I can't help with identifying people in this image."


def _runaway(question: Question) -> str:
    """1 MB of words and broken marks in which no region is described."""
    return 'and then <region <<reg 1: { " [ and so on, ' * (1_000_000 // 41)


def _half_first(question: Question) -> str:
    """An answer that ends in the middle of its first caption."""
    text = answer_text(question.captions, question)
    return text[: text.index("caption") + 12]


def _half_last(question: Question) -> str:
    """An answer that ends in the middle of its last caption."""
    text = answer_text(question.captions, question)
    return text[: text.rindex("caption") + 12]


_ANSWERS = [
    _content("content_null", "api_bad_answer", lambda question: None),
    _content("content_empty", "api_bad_answer", lambda question: ""),
    _content("content_blank", "api_bad_answer", lambda question: " \n\t "),
    _content(
        "content_parts",
        "ok",
        lambda question: [{"type": "text", "text": answer_text(question.captions, question)}],
    ),
    _content("refusal_field", "api_refused", lambda question: None, refusal=_SORRY),
    _content("refusal_words", "api_refused", lambda question: _SORRY),
    _content(
        "content_filter", "api_refused", lambda question: None, finish_reason="content_filter"
    ),
    _content(
        "content_filter_empty", "api_refused", lambda question: "", finish_reason="content_filter"
    ),
    _content("cut_at_length", "api_truncated", _half_first, finish_reason="length"),
    _content("cut_in_last", "ok_partial", _half_last, finish_reason="length"),
    _content(
        "reasoning_only",
        "api_truncated",
        lambda question: None,
        finish_reason="length",
        reasoning_content="Let me look at the picture. " * 40,
    ),
    _content("megabyte", "api_bad_answer", _runaway),
    _captions(
        "lone_surrogate",
        "ok",
        lambda captions: {region: f"{text} \ud83d" for region, text in captions.items()},
    ),
    _content(
        "lone_surrogate_raw",
        "ok",
        # The surrogate stands in the content itself, not as an escape in the JSON that it holds.
        lambda question: answer_text(question.captions, question).replace(
            "caption", "\ud83dcaption"
        ),
    ),
    _captions(
        "null_characters",
        "ok",
        lambda captions: {region: f"\x00{text}\x1b[0m" for region, text in captions.items()},
    ),
    _content(
        "leading_space", "ok", lambda question: " " + answer_text(question.captions, question)
    ),
]


def _last(captions: dict[int, str]) -> int:
    return max(captions)


def _without_second(captions: dict[int, str]) -> dict[int, str]:
    return {region: text for region, text in captions.items() if region != 2}


def _twice(question: Question) -> str:
    """Each region once right and then once more with other words."""
    said = [(region, text) for region, text in question.captions.items()]
    said += [(region, f"region {region} said again") for region in question.captions]
    if question.form == "text":
        return "\n".join(f"<region{region}>: {text}" for region, text in said)
    return "{" + ", ".join(f'"{region}": {json.dumps(text)}' for region, text in said) + "}"


_REGIONS = [
    _captions(
        "reverses_regions", "ok", lambda captions: dict(sorted(captions.items(), reverse=True))
    ),
    _captions(
        "forgets_last_once",
        "ok",
        lambda captions: {
            region: text
            for region, text in captions.items()
            if len(captions) == 1 or region != _last(captions)
        },
    ),
    _captions("forgets_second", "ok_partial", _without_second),
    _captions(
        "invents_regions",
        "ok",
        lambda captions: {
            **captions,
            **{_last(captions) + n: f"invented region {n}" for n in range(1, 4)},
        },
    ),
    _captions(
        "other_regions_only",
        "api_bad_answer",
        lambda captions: {region + 100: "never asked for" for region in captions},
    ),
    _content("repeats_regions", "ok", _twice),
    _content("null_captions", "api_bad_answer", lambda q: json.dumps(dict.fromkeys(q.captions))),
    _content(
        "empty_captions", "api_bad_answer", lambda q: json.dumps(dict.fromkeys(q.captions, " "))
    ),
]


def _lines(template: str) -> Callable[[Question], str]:
    """Each caption put into `template` with its region's number."""
    return lambda question: "\n".join(
        template.format(region=region, caption=caption)
        for region, caption in question.captions.items()
    )


def _object(question: Question) -> str:
    return json.dumps({str(region): text for region, text in question.captions.items()}, indent=2)


_WORDINGS = [
    _content("text_marks", "ok", _lines("<region{region}>: {caption}")),
    _content("text_names", "ok", _lines("Region {region}: {caption}")),
    _content("text_bold", "ok", _lines("- **Region {region} (left):** {caption}")),
    _content("text_numbered", "ok", _lines("{region}. {caption}")),
    _content("text_brackets", "ok", _lines("[{region}] {caption}")),
    _content("text_bullets", "ok", _lines("**<region{region}>**\n- {caption}")),
    _content("fenced_json", "ok", lambda question: f"```json\n{_object(question)}\n```"),
    _content("trailing_comma", "ok", lambda question: _object(question).replace('"\n}', '",\n}')),
    _content(
        "prose_around_json",
        "ok",
        lambda question: f"Here is what I see:\n\n{_object(question)}\n\nAsk me for more.",
    ),
]

#: Every way to fail, by name.
FAULTS: dict[str, Fault] = {
    fault.name: fault
    for fault in (
        *_STATUS_CODES,
        *_PARAMETERS,
        *_CONNECTIONS,
        *_BODIES,
        *_ANSWERS,
        *_REGIONS,
        *_WORDINGS,
    )
}

# ---------------------------------------------------------------------------------------------
# When it fails

#: A fault by name or value for every request; a list, one for each request by number, then none;
#: probabilities by name, drawn for each request; or a function of the request, which is called
#: when its body has been read (so from a function `reset_before_reading` comes after reading).
Behaviour = (
    None
    | str
    | Fault
    | Sequence[str | Fault | None]
    | Mapping[str, float]
    | Callable[[Request], "str | Fault | None"]
)


def as_fault(fault: str | Fault | None) -> Fault | None:
    """A fault by its name.

    >>> as_fault("http_401").status, as_fault(None)
    ('permanent', None)
    """
    return FAULTS[fault] if isinstance(fault, str) else fault


def draw_fault(probabilities: Mapping[str, float], seed: object) -> Fault | None:
    """Draw a fault, or none with what is left to 1; the same for the same seed.

    >>> draw_fault({"hang": 1.0}, seed=3).name, draw_fault({}, seed=3)
    ('hang', None)
    """
    left = random.Random(f"fault {seed}").random()
    for name, probability in probabilities.items():
        left -= probability
        if left < 0:
            return FAULTS[name]
    return None


def by_image(
    probabilities: Mapping[str, float], seed: int = 0
) -> Callable[[Request], Fault | None]:
    """A behaviour that gives all requests with the same (last) image the same fault.

    What becomes of a row is then known from its image alone: `fault_of_image`.
    """
    return lambda request: draw_fault(probabilities, (seed, request.question.digest))


def fault_of_image(image: bytes, probabilities: Mapping[str, float], seed: int = 0) -> Fault | None:
    """The fault that `by_image` gives an image."""
    return draw_fault(probabilities, (seed, hashlib.sha256(image).hexdigest()))


# ---------------------------------------------------------------------------------------------
# How long it takes

#: Seconds until the answer to a request, by its number.
Latency = float | Callable[[int], float]


@dataclass(frozen=True)
class Lognormal:
    """Lognormal latencies of a mean in seconds, the same for the same seed and request number.

    A share of `slow` takes `factor` times as long: a heavy tail.
    """

    mean: float = 1.0
    sigma: float = 0.6
    seed: int = 0
    slow: float = 0.0
    factor: float = 10.0

    def __call__(self, number: int) -> float:
        """The latency of one request."""
        draw = random.Random(f"latency {self.seed} {number}")
        seconds = self.mean * math.exp(draw.gauss(0.0, self.sigma) - self.sigma**2 / 2)
        return seconds * self.factor if draw.random() < self.slow else seconds


def parse_latency(text: str, seed: int = 0) -> Latency:
    """Read a latency from a flag: seconds, or `lognormal` or `heavy` with their numbers.

    >>> parse_latency("0.02")
    0.02
    >>> parse_latency("lognormal:1.0:0.6", seed=7)
    Lognormal(mean=1.0, sigma=0.6, seed=7, slow=0.0, factor=10.0)
    >>> parse_latency("heavy:1.0:0.6").slow
    0.02
    """
    name, *numbers = text.removeprefix("constant:").split(":")
    values = [float(number) for number in numbers]
    if name in ("lognormal", "heavy"):
        mean, sigma, slow, factor = [*values, *(1.0, 0.6, 0.02, 10.0)[len(values) :]]
        return Lognormal(mean, sigma, seed, slow if name == "heavy" else 0.0, factor)
    return float(name)


def list_schedule(latencies: Iterable[float], slots: int) -> float:
    """Seconds that jobs take which are started in order, each on the slot that is free first.

    >>> list_schedule([], 2), list_schedule([1, 3, 1, 1], 2)
    (0.0, 3.0)
    """
    free = [0.0] * slots
    for latency in latencies:
        heapq.heapreplace(free, free[0] + latency)
    return max(free)


class TokenBucket:
    """Permits `rate` a second, and `burst` at once after a rest (by default a second's worth).

    >>> bucket = TokenBucket(2.0, 1.0)
    >>> bucket.take(now=0.0), bucket.take(now=0.0), bucket.take(now=0.5)
    (0.0, 0.5, 0.0)
    """

    def __init__(self, rate: float, burst: float | None = None) -> None:
        self.rate = rate
        self.burst = max(1.0, rate) if burst is None else burst
        self._tokens = self.burst
        self._at: float | None = None

    def take(self, now: float) -> float:
        """0 where one more is permitted, else the seconds until it will be."""
        past = 0.0 if self._at is None else now - self._at
        self._at = now
        self._tokens = min(self.burst, self._tokens + past * self.rate)
        # What lacks by rounding is there.
        if self._tokens >= 1.0 - 1e-6:
            self._tokens -= 1.0
            return 0.0
        return (1.0 - self._tokens) / self.rate if self.rate > 0 else math.inf

    def at_rate(self, rate: float, burst: float | None) -> TokenBucket:
        """The bucket for another rate, holding what this one has left as far as it fits."""
        other = TokenBucket(rate, burst)
        other._tokens, other._at = min(self._tokens, other.burst), self._at
        return other


def _limit_reply(wait: float, form: str | None) -> Reply:
    """The refusal of a rate limit; `form` of its Retry-After is seconds, ms, date or None."""
    wait = min(wait, 3600.0)
    headers = {
        "seconds": {"retry-after": str(math.ceil(wait))},
        "ms": {"retry-after-ms": str(math.ceil(wait * 1000))},
        "date": {"retry-after": formatdate(math.ceil(time.time() + wait), usegmt=True)},
    }
    message = "Rate limit reached for requests."
    return error_reply(
        429,
        message,
        type="requests",
        error_code="rate_limit_exceeded",
        headers=headers[form] if form else {},
    )


# ---------------------------------------------------------------------------------------------
# The server


class _Connection(asyncio.StreamReaderProtocol):
    """A connection that says at once, not at the next read, that its client has gone."""

    def __init__(self, server: Endpoint, elsewhere: bool) -> None:
        # Read ahead, so that an image is not taken in small bites.
        super().__init__(asyncio.StreamReader(limit=1 << 24), self._serve)
        self.server = server
        self.elsewhere = elsewhere
        self.gone = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None
        self.request: Request | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        # A drained writer has then handed everything to the kernel.
        transport.set_write_buffer_limits(high=0)
        self.server._connections.add(self)
        super().connection_made(transport)

    def eof_received(self) -> bool | None:
        self._leave()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        with self.server._changed:
            self.server._connections.discard(self)
            self.server._changed.notify_all()
        super().connection_lost(exc)

    def _leave(self) -> None:
        if not self.gone.done():
            self.gone.set_result(None)
        if self.request is not None:
            self.server._end(self.request)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self.server._serve_one(self, reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # The client went at some point, or the test ends with requests in flight.
        except Exception as error:  # Whatever it is, a behaviour's own say, the test is to hear it.
            self.server._errors.append(error)
        finally:
            writer.close()

    async def wait(self, seconds: float | None) -> bool:
        """Wait, or stop waiting when the client goes; tell whether it is still there."""
        if seconds is None or seconds > 0:
            await asyncio.wait([self.gone], timeout=seconds)
        return not self.gone.done()

    def reset(self) -> None:
        """End with a RST."""
        assert self.transport is not None
        connected = self.transport.get_extra_info("socket")
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


_running: weakref.WeakSet[Endpoint] = weakref.WeakSet()


class Endpoint:
    """A chat completions endpoint in a thread of this process; see the module's head.

    `rate` permits so many requests a second (`burst` at once), and may be set while it runs; what
    is over gets a 429 whose Retry-After is in `retry_after`'s form: `"seconds"`, `"ms"`, `"date"`
    or None. `api_key`: any other gets a 401. `ledger`: a file to which each response with status
    200 that was fully written is added as a JSON line, before anything else is done; it
    outlives a kill. `keep_bodies=False` forgets what was sent, for runs of many large images.
    Refusals and errors come at once, answers (status 200 and 3xx) after the latency; where that is
    `math.inf`, when `release` is called.
    """

    def __init__(
        self,
        behaviour: Behaviour = None,
        *,
        latency: Latency = 0.0,
        rate: float | None = None,
        burst: float | None = None,
        retry_after: Literal["seconds", "ms", "date"] | None = "seconds",
        api_key: str | None = None,
        seed: int = 0,
        port: int = 0,
        ledger: Path | None = None,
        keep_bodies: bool = True,
    ) -> None:
        self.behaviour = behaviour
        self.latency = latency
        self.burst = burst
        self.retry_after = retry_after
        self.api_key = api_key
        self.seed = seed
        self.keep_bodies = keep_bodies
        self._bucket: TokenBucket | None = None
        self.rate = rate
        self._changed = threading.Condition()
        self._requests: list[Request] = []
        self._in_flight: set[int] = set()
        self._max_in_flight = 0
        self._connections: set[_Connection] = set()
        self._errors: list[Exception] = []
        self._ledger = ledger.open("a", encoding="utf-8") if ledger else None
        self._listening = [
            socket.create_server((HOST, number), backlog=4096) for number in (port, 0)
        ]
        ports = [listening.getsockname()[1] for listening in self._listening]
        self.base_url = f"http://{HOST}:{ports[0]}/v1"
        #: Where redirects lead; what arrives there is in `requests` with `elsewhere` set.
        self.other_url = f"http://{HOST}:{ports[1]}/v1/chat/completions"
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._released = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="endpoint", daemon=True)
        _running.add(self)
        self._thread.start()

    # What a test reads

    @property
    def requests(self) -> list[Request]:
        """All requests so far, in the order in which they came."""
        with self._changed:
            return list(self._requests)

    @property
    def followed(self) -> list[Request]:
        """The requests that came after a redirect to where it led."""
        return [request for request in self.requests if request.elsewhere]

    @property
    def count(self) -> int:
        """How many requests came."""
        with self._changed:
            return len(self._requests)

    @property
    def connections(self) -> int:
        """How many connections are open."""
        with self._changed:
            return len(self._connections)

    @property
    def in_flight(self) -> int:
        """How many requests are being answered now."""
        with self._changed:
            return len(self._in_flight)

    @property
    def max_in_flight(self) -> int:
        """How many were being answered at once, at most."""
        with self._changed:
            return self._max_in_flight

    @property
    def outcomes(self) -> Counter[str]:
        """How many requests ended in what."""
        return Counter(request.outcome for request in self.requests)

    @property
    def acknowledged(self) -> list[str]:
        """The keys of the questions that were answered rightly and to the last byte, in order."""
        done = [request for request in self.requests if request.paid and request.outcome == "ok"]
        return [request.question.key for request in sorted(done, key=lambda one: one.ended or 0)]

    @property
    def usage(self) -> tuple[int, int]:
        """Prompt and completion tokens of all that is paid."""
        paid = [request.usage for request in self.requests if request.paid and request.usage]
        return sum(prompt for prompt, _ in paid), sum(said for _, said in paid)

    @property
    def rate(self) -> float | None:
        """Requests permitted a second; None for any number."""
        return self._bucket.rate if self._bucket else None

    @rate.setter
    def rate(self, rate: float | None) -> None:
        if rate is None:
            self._bucket = None
        elif self._bucket is None:
            self._bucket = TokenBucket(rate, self.burst)
        else:
            self._bucket = self._bucket.at_rate(rate, self.burst)

    def reset(self) -> None:
        """Forget all requests and start their numbers anew; those in flight stay in flight."""
        with self._changed:
            self._requests = []
            self._max_in_flight = len(self._in_flight)

    def wait_for(self, condition: Callable[[Endpoint], bool], timeout: float = 240.0) -> None:
        """Wait until a condition holds, looked at whenever a request comes or ends."""
        with self._changed:
            if not self._changed.wait_for(lambda: condition(self), timeout):
                raise TimeoutError(f"not within {timeout} s; {self.count} requests came")

    def release(self) -> None:
        """Answer at once what a latency of `math.inf` holds, and what comes from now on."""
        self.latency = 0.0

        def release() -> None:
            self._released.set_result(None)
            self._released = self._loop.create_future()

        self._loop.call_soon_threadsafe(release)

    def stats(self, slots: int | None = None) -> dict[str, Any]:
        """Figures as JSON values; with `slots` also what the latencies take at the least."""
        requests = self.requests
        latencies = [request.latency for request in requests if request.latency]
        ends = [request.ended for request in requests if request.ended is not None]
        figures: dict[str, Any] = {
            "count": len(requests),
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
            "outcomes": dict(self.outcomes),
            "codes": dict(Counter(str(request.code) for request in requests)),
            "bytes_received": sum(request.size for request in requests),
            "usage": self.usage,
            "latencies": latencies,
            "seconds": max(ends) - requests[0].started if ends else 0.0,
            "starts": [request.started - requests[0].started for request in requests],
        }
        if slots:
            figures["ideal_seconds"] = list_schedule(latencies, slots)
        return figures

    # Life

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End, cutting off whatever is in flight; raises what went wrong in the endpoint itself."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
        if self._ledger:
            self._ledger.close()
        if self._errors:
            raise self._errors.pop()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve_until_stopped())

    async def _serve_until_stopped(self) -> None:
        loop = asyncio.get_running_loop()
        servers = [
            await loop.create_server(
                functools.partial(_Connection, self, elsewhere), sock=listening, backlog=4096
            )
            for elsewhere, listening in zip((False, True), self._listening, strict=True)
        ]
        await self._stop.wait()
        for server in servers:
            server.close()
        for connection in list(self._connections):
            assert connection.transport is not None
            connection.transport.abort()
        # Lets the aborted connections close their sockets.
        await asyncio.sleep(0)

    def _disown(self) -> None:
        """In a forked child: let go of the sockets, so that a closed connection is closed."""
        inherited = [listening.fileno() for listening in self._listening]
        for connection in self._connections:
            assert connection.transport is not None
            inherited.append(connection.transport.get_extra_info("socket").fileno())
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in inherited:
            if descriptor >= 0:
                os.dup2(nothing, descriptor)
        os.close(nothing)

    # One request

    async def _serve_one(
        self, connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer a request; tell whether the connection may bring another."""
        head = await reader.readuntil(b"\r\n\r\n")
        method, path, query, headers = _read_head(head)
        if path in ("/stats", "/control"):
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            writer.write(_sent_bytes(self._administer(path, query, body)))
            return True
        request = self._begin(connection, method, path, query, headers)
        try:
            reply = await self._answer(request, reader)
            waits = reply.code < 400 and request.path.endswith("/completions")
            if waits and not await self._wait_out(connection, request):
                return False
            return await self._send(connection, writer, request, reply)
        finally:
            self._end(request)
            connection.request = None

    def _begin(
        self, connection: _Connection, method: str, path: str, query: str, headers: dict[str, str]
    ) -> Request:
        with self._changed:
            request = Request(
                number=len(self._requests),
                method=method,
                path=path,
                query=query,
                headers=headers,
                started=time.monotonic(),
                elsewhere=connection.elsewhere,
                other_url=self.other_url,
            )
            self._requests.append(request)
            self._in_flight.add(id(request))
            self._max_in_flight = max(self._max_in_flight, len(self._in_flight))
            self._changed.notify_all()
        connection.request = request
        return request

    async def _wait_out(self, connection: _Connection, request: Request) -> bool:
        """Wait for what the answer takes; tell whether the client is still there."""
        due = self._due(request)
        if not math.isinf(due):
            return await connection.wait(due)
        request.latency = 0.0
        await asyncio.wait([connection.gone, self._released], return_when=asyncio.FIRST_COMPLETED)
        return not connection.gone.done()

    def _due(self, request: Request) -> float:
        """Seconds left of the latency, which began when the request did."""
        latency = self.latency
        request.latency = latency(request.number) if callable(latency) else latency
        return request.latency - (time.monotonic() - request.started)

    async def _answer(self, request: Request, reader: asyncio.StreamReader) -> Reply:
        """Read the rest of the request and decide what to answer."""
        early = self._early_fault(request)
        if early and early.before_body:
            request.fate = early.name
            return early.reply(request) or Reply()
        refusal = await self._read_body(request, reader) or self._refusal(request)
        if refusal:
            return refusal
        fault = self._late_fault(request) if callable(self.behaviour) else early
        reply = fault.reply(request) if fault else None
        request.fate = fault.name if fault and reply else "ok"
        return reply or good_reply(request)

    async def _read_body(self, request: Request, reader: asyncio.StreamReader) -> Reply | None:
        if "transfer-encoding" in request.headers:
            request.fate = "bad_request"
            return replace(error_reply(411, "Content-Length is required."), ending="close")
        data = await reader.readexactly(int(request.headers.get("content-length", 0)))
        request.size = len(data)
        if not data:
            return None
        try:
            request.body = json.loads(data)
        except ValueError:
            request.fate = "bad_request"
            return error_reply(400, "The body is not JSON.")
        request.question = read_question(request.body)
        return None

    def _refusal(self, request: Request) -> Reply | None:
        """What keeps a request from being answered before anything goes wrong."""
        path = request.path
        if path not in ("/v1/chat/completions", "/v1/models"):
            request.fate = "not_found"
            return error_reply(404, f"Unknown path: {path}", error_code="not_found")
        if self.api_key and request.headers.get("authorization") != f"Bearer {self.api_key}":
            request.fate = "unauthorized"
            return error_reply(401, "Incorrect API key provided.", error_code="invalid_api_key")
        if path == "/v1/models":
            request.fate = "models"
            return _json({"object": "list", "data": [{"id": "stand-in", "object": "model"}]})
        if request.method != "POST" or request.body is None:
            request.fate = "bad_request"
            return error_reply(405, "POST a JSON body.")
        bucket = self._bucket
        wait = bucket.take(time.monotonic()) if bucket else 0.0
        if wait:
            request.fate = "rate_limited"
            return _limit_reply(wait, self.retry_after)
        return None

    def _early_fault(self, request: Request) -> Fault | None:
        """The fault that is known by the request's number alone."""
        behaviour = self.behaviour
        if request.elsewhere or callable(behaviour):
            return None
        if isinstance(behaviour, Mapping):
            return draw_fault(behaviour, (self.seed, request.number))
        if isinstance(behaviour, str | Fault):
            return as_fault(behaviour)
        schedule = behaviour or ()
        return as_fault(schedule[request.number]) if request.number < len(schedule) else None

    def _late_fault(self, request: Request) -> Fault | None:
        assert callable(self.behaviour)
        return None if request.elsewhere else as_fault(self.behaviour(request))

    async def _send(
        self,
        connection: _Connection,
        writer: asyncio.StreamWriter,
        request: Request,
        reply: Reply,
    ) -> bool:
        request.code = None if reply.silent else reply.code
        request.usage = reply.usage
        if not reply.silent:
            last = b""
            async for piece in _pieces(connection, reply):
                writer.write(last)
                await writer.drain()
                last = piece
            await self._send_last(connection, writer, request, reply, last)
        if reply.ending == "hang":
            await connection.wait(None)
        elif reply.ending == "reset":
            connection.reset()
        return reply.ending == "keep"

    async def _send_last(
        self,
        connection: _Connection,
        writer: asyncio.StreamWriter,
        request: Request,
        reply: Reply,
        piece: bytes,
    ) -> None:
        """Send the end of a response so that whoever has it finds it noted here."""
        if len(piece) > 1 << 16:
            # What the kernel may not take at once goes ahead of the last byte.
            writer.write(piece[:-1])
            await writer.drain()
            piece = piece[-1:]
        with self._changed:
            writer.write(piece)
            if writer.transport.get_write_buffer_size() == 0:
                self._sent(connection, request, reply)
                return
        await writer.drain()
        self._sent(connection, request, reply)

    def _sent(self, connection: _Connection, request: Request, reply: Reply) -> None:
        if not reply.complete or connection.gone.done():
            return
        request.acknowledged = True
        if self._ledger and request.paid:
            question = request.question
            line = {"number": request.number, "key": question.key, "outcome": request.fate}
            self._ledger.write(json.dumps(line) + "\n")
            self._ledger.flush()
        self._end(request)

    def _end(self, request: Request) -> None:
        """Note the end of a request, once."""
        with self._changed:
            if request.ended is not None:
                return
            request.ended = time.monotonic()
            left = request.fate in ("", "ok") and not request.acknowledged
            request.outcome = "gone" if left else request.fate
            self._in_flight.discard(id(request))
            if not self.keep_bodies:
                request.body = None
                request.question = replace(request.question, images=())
            self._changed.notify_all()

    # The process's own side

    def _administer(self, path: str, query: str, body: bytes) -> Reply:
        if path == "/stats":
            slots = parse_qs(query).get("slots", ["0"])[0]
            return _json(self.stats(int(slots)))
        orders = json.loads(body or b"{}")
        if "latency" in orders:
            orders["latency"] = parse_latency(str(orders["latency"]), self.seed)
        for name in {"rate", "behaviour", "latency"} & set(orders):
            setattr(self, name, orders[name])
        if orders.get("reset"):
            self.reset()
        return _json({"rate": self.rate})


def _read_head(head: bytes) -> tuple[str, str, str, dict[str, str]]:
    """Method, path, query and headers (in small letters) of a request."""
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ", 2)
    path, _, query = target.partition("?")
    headers: dict[str, str] = {}
    for line in filter(None, lines):
        name, _, value = line.partition(":")
        key, value = name.strip().lower(), value.strip()
        headers[key] = f"{headers[key]}, {value}" if key in headers else value
    return method, path, query, headers


def _sent_bytes(reply: Reply) -> bytes:
    return reply.head + reply.body


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def _pieces(connection: _Connection, reply: Reply) -> AsyncIterator[bytes]:
    """The bytes of a reply in the pieces in which they leave, in the time that they take."""
    if reply.endless:
        yield reply.head
        for _ in range(ENDLESS_BYTES // len(reply.body)):
            if connection.gone.done():
                return
            yield _chunk(reply.body)
        return
    wrap: Callable[[bytes], bytes] = _chunk if reply.chunked else bytes
    end = b"0\r\n\r\n" if reply.chunked else b""
    if not reply.pause:
        yield reply.head + (wrap(reply.body) if reply.body else b"") + end
        return
    slow = reply.head + reply.body if reply.drip_head else reply.body
    if not reply.drip_head:
        yield reply.head
    for index in range(len(slow)):
        if not await connection.wait(reply.pause):
            return
        yield wrap(slow[index : index + 1])
    yield end


def _disown_all() -> None:
    for endpoint in _running:
        endpoint._disown()
    _running.clear()


os.register_at_fork(after_in_child=_disown_all)


# ---------------------------------------------------------------------------------------------
# In a process of its own


def read_ledger(path: Path) -> list[dict[str, Any]]:
    """The lines of a ledger file: request number, question key, outcome.

    A line that was cut off by a kill of the endpoint itself is left out.
    """
    lines = path.read_text("utf-8").splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


class EndpointProcess:
    """The endpoint in a child process, which ends when this one does, however that ends.

    Takes the flags of the script as strings. Forked workers and a killed client see real
    connections here, and its work is not counted as the test's.
    """

    def __init__(self, *flags: str) -> None:
        command = [sys.executable, str(Path(__file__).resolve()), "--until-stdin-closes", *flags]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # A Ctrl-C that a test sends to its group is not meant for the endpoint.
            start_new_session=True,
        )
        assert self.process.stdout is not None
        self.base_url = self.process.stdout.readline().strip()
        if not self.base_url:
            self.close()
            raise RuntimeError("the endpoint did not start; its reason is on stderr")

    def stats(self, slots: int | None = None) -> dict[str, Any]:
        """What `Endpoint.stats` says."""
        return self._ask(f"/stats?slots={slots or 0}")

    def control(self, **orders: Any) -> dict[str, Any]:
        """Change `rate`, `behaviour` (by names), `latency` (as its flag), or `reset=True`."""
        return self._ask("/control", json.dumps(orders).encode())

    def _ask(self, path: str, body: bytes | None = None) -> dict[str, Any]:
        url = self.base_url.removesuffix("/v1") + path
        # No proxy of the environment's stands between this process and its own child.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, body, timeout=60) as response:
            answer: dict[str, Any] = json.load(response)
        return answer

    def close(self) -> None:
        """End it."""
        # Not by its stdin alone, of which a forked child may hold a copy.
        self.process.terminate()
        self.process.communicate(timeout=30)

    def __enter__(self) -> EndpointProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _flags() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    flags.add_argument("--port", type=int, default=0)
    flags.add_argument("--seed", type=int, default=0, help="of latencies and faults")
    flags.add_argument(
        "--latency", default="0", help="seconds, lognormal:MEAN:SIGMA, heavy:MEAN:SIGMA:SHARE:TIMES"
    )
    flags.add_argument("--rate", type=float, help="requests permitted a second")
    flags.add_argument("--burst", type=float, help="requests permitted at once")
    flags.add_argument(
        "--retry-after", choices=["seconds", "ms", "date", "none"], default="seconds"
    )
    flags.add_argument("--api-key", help="the only key that is let in")
    flags.add_argument(
        "--faults", default="null", help="JSON: a name, a list of names, or probabilities by name"
    )
    flags.add_argument("--ledger", type=Path, help="file for the acknowledged answers")
    flags.add_argument("--keep-bodies", action="store_true")
    flags.add_argument("--until-stdin-closes", action="store_true", help="end with the parent")
    return flags


def _wait_for_the_end(until_stdin_closes: bool) -> None:
    if until_stdin_closes:
        sys.stdin.read()
    else:
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until told to stop; the first line printed is the base URL."""
    flags = _flags().parse_args(arguments)
    # Blocked before the thread starts, so that it is this thread that waits for them.
    if not flags.until_stdin_closes:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    with Endpoint(
        json.loads(flags.faults),
        latency=parse_latency(flags.latency, flags.seed),
        rate=flags.rate,
        burst=flags.burst,
        retry_after=None if flags.retry_after == "none" else flags.retry_after,
        api_key=flags.api_key,
        seed=flags.seed,
        port=flags.port,
        ledger=flags.ledger,
        keep_bodies=flags.keep_bodies,
    ) as endpoint:
        print(endpoint.base_url, flush=True)
        _wait_for_the_end(flags.until_stdin_closes)


if __name__ == "__main__":
    main()
