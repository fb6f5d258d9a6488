"""The test equipment itself: each fault sends what it says, and the counts are right."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import math
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from statistics import fmean
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from endpoint import (
    FAULTS,
    Behaviour,
    Endpoint,
    EndpointProcess,
    Fault,
    Lognormal,
    Request,
    TokenBucket,
    by_image,
    expected_caption,
    fault_of_image,
    gzip_bomb,
    list_schedule,
    parse_latency,
    read_ledger,
    read_question,
)

IMAGE = b"\xff\xd8 a picture"


def request_body(
    regions: Sequence[int] = (1, 2),
    images: Sequence[bytes] = (IMAGE,),
    form: str = "json_schema",
    **more: Any,
) -> dict[str, Any]:
    marks = ", ".join(f"<region{region}>" for region in regions)
    content: list[dict[str, Any]] = [{"type": "text", "text": f"Describe {marks}."}]
    for image in images:
        url = f"data:image/jpeg;base64,{base64.b64encode(image).decode()}"
        content.append({"type": "image_url", "image_url": {"url": url}})
    schema = {"type": "object", "properties": {str(n): {"type": "string"} for n in regions}}
    wanted = {
        "json_schema": {"type": form, "json_schema": {"name": "captions", "schema": schema}},
        "json_object": {"type": form},
    }
    if form in wanted:
        more["response_format"] = wanted[form]
    return {"model": "m", "messages": [{"role": "user", "content": content}], **more}


def post(
    endpoint: Endpoint | EndpointProcess,
    body: Any = None,
    headers: dict[str, str] | None = None,
    path: str = "/v1/chat/completions",
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(urlsplit(endpoint.base_url).netloc, timeout=20)
    with closing(connection):
        connection.request("POST", path, json.dumps(body or request_body()), headers or {})
        response = connection.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return response.status, names, response.read()


def captions_of(data: bytes) -> Any:
    return json.loads(json.loads(data)["choices"][0]["message"]["content"])


def good_captions(regions: Sequence[int] = (1, 2), image: bytes = IMAGE) -> dict[str, str]:
    return {str(region): expected_caption(image, region) for region in regions}


# What is read out of a request


@pytest.mark.parametrize(
    ("body", "regions", "form"),
    [
        (None, (), "text"),
        ({}, (), "text"),
        ({"messages": "none", "response_format": 3}, (), "text"),
        (request_body([3, 5]), (3, 5), "json_schema"),
        (request_body([2], form="text"), (2,), "text"),
        (request_body([2, 4], form="json_object"), (2, 4), "json_object"),
        ({"messages": [{"role": "user", "content": "<region2> to <region4>"}]}, (2, 3, 4), "text"),
        ({"messages": [{"role": "user", "content": "What is it?"}]}, (), "text"),
    ],
)
def test_the_regions_and_the_form_are_those_asked_for(
    body: Any, regions: tuple[int, ...], form: str
) -> None:
    question = read_question(body)
    assert (question.regions, question.form) == (regions, form)


@pytest.mark.parametrize(
    ("form", "last", "regions"),
    [
        ("json_object", 'Answer with the key "3".', (3,)),
        ("text", "Answer now for <region1> and <region3> only. Be short.", (1, 3)),
        ("text", "Start each line like <region1>: ...", (1, 2, 3)),
    ],
)
def test_the_last_text_says_what_is_asked_for(
    form: str, last: str, regions: tuple[int, ...]
) -> None:
    texts = ["There are 3 regions: <region1> to <region3>.", last]
    content = [{"type": "text", "text": text} for text in texts]
    body = {"messages": [{"role": "user", "content": content}], "response_format": {"type": form}}
    assert read_question(body).regions == regions


@pytest.mark.parametrize("bare", [False, True])
def test_the_images_are_the_bytes_that_were_sent(bare: bool) -> None:
    body = request_body(images=[b"whole", b"crop"])
    if bare:
        for part in body["messages"][0]["content"][1:]:
            part["image_url"] = part["image_url"]["url"]
    assert read_question(body).images == (b"whole", b"crop")


def test_the_key_tells_questions_apart_and_nothing_else() -> None:
    key = read_question(request_body()).key
    assert read_question(request_body(max_tokens=9, temperature=1)).key == key
    others = [
        request_body([1]),
        request_body(images=[b"other"]),
        request_body(images=[IMAGE, IMAGE]),
    ]
    assert len({key, *(read_question(other).key for other in others)}) == 4


# Right answers


def test_a_caption_holds_its_region_and_its_image() -> None:
    with Endpoint() as endpoint:
        code, _, data = post(endpoint, request_body([2, 7], images=[b"whole", b"crop"]))
        assert code == 200
        assert captions_of(data) == good_captions([2, 7], b"crop")
        assert expected_caption(b"crop", 2) != expected_caption(b"whole", 2)


def test_the_answer_is_in_the_form_that_was_asked_for() -> None:
    with Endpoint() as endpoint:
        _, _, data = post(endpoint, request_body([1, 2], form="json_object"))
        assert captions_of(data) == good_captions()
        _, _, data = post(endpoint, request_body([1, 2], form="text"))
        content = json.loads(data)["choices"][0]["message"]["content"]
        one, two = good_captions().values()
        assert content == f"<region1>: {one}\n<region2>: {two}"


def test_the_official_client_reads_the_answer() -> None:
    from openai import OpenAI

    with (
        Endpoint(api_key="right") as endpoint,
        OpenAI(base_url=endpoint.base_url, api_key="right", max_retries=0) as client,
    ):
        answer = client.chat.completions.create(**request_body([1]))
        assert json.loads(answer.choices[0].message.content or "") == good_captions([1])
        assert (answer.model, answer.choices[0].finish_reason) == ("m", "stop")
        assert answer.usage
        assert endpoint.usage == (answer.usage.prompt_tokens, answer.usage.completion_tokens)
        assert [model.id for model in client.models.list()] == ["stand-in"]


def test_a_connection_is_kept_for_the_next_request() -> None:
    with Endpoint() as endpoint:
        connection = http.client.HTTPConnection(urlsplit(endpoint.base_url).netloc, timeout=20)
        with closing(connection):
            for number in range(3):
                connection.request("POST", "/v1/chat/completions", json.dumps(request_body()))
                answer = json.loads(connection.getresponse().read())
                assert answer["id"] == f"chatcmpl-{number}"


# Faults


@dataclass
class Arrival:
    """What came over a socket: `how` is complete, closed, reset, or timeout."""

    code: int | None
    headers: dict[str, str]
    body: bytes
    how: str

    @property
    def content(self) -> Any:
        return json.loads(self.body)["choices"][0]["message"].get("content")


def receive(connection: socket.socket, seconds: float, most: int = 3 << 20) -> tuple[bytes, str]:
    """All bytes until the response is complete, the end, a reset, the time or the size."""
    data, until = b"", time.monotonic() + seconds
    while len(data) < most:
        connection.settimeout(max(0.001, until - time.monotonic()))
        try:
            piece = connection.recv(1 << 20)
        except TimeoutError:
            return data, "timeout"
        except ConnectionResetError:
            return data, "reset"
        if not piece:
            return data, "closed"
        data += piece
        if is_complete(data):
            return data, "complete"
    return data, "endless"


def is_complete(data: bytes) -> bool:
    head, end, body = data.partition(b"\r\n\r\n")
    lengths = [line[16:] for line in head.split(b"\r\n") if line.startswith(b"content-length: ")]
    if lengths:
        return bool(end) and len(body) >= int(lengths[0])
    return bool(end) and body.endswith(b"0\r\n\r\n")


def read_arrival(data: bytes, how: str) -> Arrival:
    head, _, body = data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 "):
        return Arrival(None, {}, data, how)
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    if "transfer-encoding" in headers:
        body = b"".join(chunks(body))
    return Arrival(int(first.split(" ")[1]), headers, body, how)


def chunks(body: bytes) -> Iterator[bytes]:
    while b"\r\n" in body:
        size, _, body = body.partition(b"\r\n")
        yield body[: int(size, 16)]
        body = body[int(size, 16) + 2 :]


def arrive(
    fault: str | Fault, body: dict[str, Any] | None = None, seconds: float = 5.0
) -> tuple[Arrival, Request]:
    """What a fault sends, as seen from the other end of a socket and by the endpoint."""
    data = json.dumps(body or request_body()).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
    with Endpoint(fault) as endpoint:
        address = urlsplit(endpoint.base_url)
        with socket.create_connection((address.hostname or "", address.port or 0)) as connection:
            connection.sendall(head.encode() + data)
            arrival = read_arrival(*receive(connection, seconds))
        endpoint.wait_for(lambda endpoint: endpoint.in_flight == 0)
        return arrival, endpoint.requests[0]


def error_of(arrival: Arrival) -> Any:
    return json.loads(arrival.body)["error"]


def keyed(arrival: Arrival) -> Any:
    return json.loads(arrival.content)


def finish(arrival: Arrival) -> Any:
    return json.loads(arrival.body)["choices"][0].get("finish_reason")


def is_half(arrival: Arrival) -> bool:
    return len(arrival.body) == int(arrival.headers["content-length"]) // 2


def is_good(arrival: Arrival) -> bool:
    return bool(keyed(arrival) == good_captions())


def not_json(arrival: Arrival) -> bool:
    try:
        json.loads(arrival.body)
    except (ValueError, RecursionError):
        return True
    return False


def names_both(template: str) -> Callable[[Arrival], bool]:
    lines = "\n".join(
        template.format(region=region, caption=expected_caption(IMAGE, region)) for region in (1, 2)
    )
    return lambda arrival: bool(arrival.content == lines)


def retry_date(arrival: Arrival) -> bool:
    wait = parsedate_to_datetime(arrival.headers["retry-after"]).timestamp() - time.time()
    return -5 < wait < 5


Check = Callable[[Arrival], bool]

#: For each fault: the status that arrives, how the transfer ends, and what else must be true.
SENT: dict[str, tuple[int | None, str, Check]] = {
    "http_400": (400, "complete", lambda got: error_of(got)["param"] is None),
    "http_400_context_length": (
        400,
        "complete",
        lambda got: error_of(got)["code"] == "context_length_exceeded",
    ),
    "http_400_image": (400, "complete", lambda got: "image" in error_of(got)["message"]),
    "http_400_unknown_model": (400, "complete", lambda got: error_of(got)["param"] == "model"),
    "http_401": (401, "complete", lambda got: error_of(got)["code"] == "invalid_api_key"),
    "http_402": (402, "complete", lambda got: "Balance" in error_of(got)["message"]),
    "http_403": (403, "complete", lambda got: bool(error_of(got)["message"])),
    "http_404": (404, "complete", lambda got: error_of(got)["code"] == "model_not_found"),
    "http_408": (408, "complete", lambda got: error_of(got)["type"] == "timeout"),
    "http_409": (409, "complete", lambda got: bool(error_of(got)["message"])),
    "http_413": (413, "complete", lambda got: bool(error_of(got)["message"])),
    "http_422": (422, "complete", lambda got: error_of(got)["param"] is None),
    "http_429": (429, "complete", lambda got: "retry-after" not in got.headers),
    "http_429_retry_after": (429, "complete", lambda got: got.headers["retry-after"] == "1"),
    "http_429_retry_after_ms": (
        429,
        "complete",
        lambda got: got.headers["retry-after-ms"] == "50",
    ),
    "http_429_retry_after_date": (429, "complete", retry_date),
    "http_429_retry_after_absurd": (
        429,
        "complete",
        lambda got: got.headers["retry-after"] == "9999",
    ),
    "http_429_no_credit": (
        429,
        "complete",
        lambda got: error_of(got)["code"] == "insufficient_quota",
    ),
    "http_500": (500, "complete", lambda got: error_of(got)["code"] is None),
    "http_500_integer_code": (500, "complete", lambda got: error_of(got)["code"] == 500),
    "http_502_html": (502, "complete", lambda got: got.body.startswith(b"<html>")),
    "http_503": (503, "complete", lambda got: error_of(got)["message"] == "Loading model"),
    "http_503_retry_after": (503, "complete", lambda got: got.headers["retry-after"] == "1"),
    "http_504_html": (504, "complete", lambda got: got.body.startswith(b"<html>")),
    "http_529": (529, "complete", lambda got: error_of(got)["type"] == "overloaded_error"),
    "redirect_307": (307, "complete", lambda got: got.headers["location"].startswith("http://")),
    "redirect_308": (308, "complete", lambda got: got.headers["location"].startswith("http://")),
    "rejects_json_schema": (400, "complete", lambda got: "json_schema" in str(error_of(got))),
    "rejects_json_object": (200, "complete", is_good),
    "rejects_max_tokens": (200, "complete", is_good),
    "rejects_max_completion_tokens": (200, "complete", is_good),
    "rejects_both_token_limits": (200, "complete", is_good),
    "rejects_temperature": (200, "complete", is_good),
    "rejects_detail": (200, "complete", is_good),
    "rejects_seed": (200, "complete", is_good),
    "rejects_every_rung": (400, "complete", lambda got: "json_schema" in str(error_of(got))),
    "rejects_response_format": (
        400,
        "complete",
        lambda got: error_of(got)["param"] == "response_format",
    ),
    "rejects_response_format_422": (
        422,
        "complete",
        lambda got: json.loads(got.body)["detail"][0]["loc"] == ["body", "response_format"],
    ),
    "rejects_image_object": (400, "complete", lambda got: "must be a string" in str(error_of(got))),
    "reset_before_reading": (None, "reset", lambda got: got.body == b""),
    "reset_after_reading": (None, "reset", lambda got: got.body == b""),
    "close_without_a_byte": (None, "closed", lambda got: got.body == b""),
    "hang": (None, "timeout", lambda got: got.body == b""),
    "hang_in_body": (200, "timeout", is_half),
    "reset_in_body": (200, "reset", is_half),
    "half_a_body": (200, "closed", is_half),
    "slow_drip": (200, "timeout", lambda got: 0 < len(got.body) < 50),
    "slow_drip_chunked": (200, "timeout", lambda got: 0 < len(got.body) < 50),
    "slow_head": (None, "timeout", lambda got: 0 < len(got.body) < 50),
    "chunked": (200, "complete", lambda got: is_good(got) and "content-length" not in got.headers),
    "connection_close": (200, "complete", is_good),
    "gzip_bomb": (
        200,
        "complete",
        lambda got: got.headers["content-encoding"] == "gzip" and len(got.body) < 1 << 20,
    ),
    "endless_body": (200, "endless", lambda got: not got.body.strip()),
    "html_200": (200, "complete", lambda got: got.headers["content-type"] == "text/html"),
    "cut_json": (200, "complete", not_json),
    "empty_body": (200, "complete", lambda got: got.body == b""),
    "json_null": (200, "complete", lambda got: json.loads(got.body) is None),
    "json_list": (200, "complete", lambda got: json.loads(got.body) == []),
    "deep_json": (200, "complete", not_json),
    "error_200": (200, "complete", lambda got: bool(error_of(got)["message"])),
    "error_200_integer_code": (200, "complete", lambda got: error_of(got)["code"] == 502),
    "invalid_utf8": (200, "complete", lambda got: b"\xff\xfe" in got.body and not_json(got)),
    "no_choices": (200, "complete", lambda got: json.loads(got.body)["choices"] == []),
    "choices_null": (200, "complete", lambda got: json.loads(got.body)["choices"] is None),
    "choices_missing": (200, "complete", lambda got: "choices" not in json.loads(got.body)),
    "message_null": (
        200,
        "complete",
        lambda got: json.loads(got.body)["choices"][0]["message"] is None,
    ),
    "wrong_types": (200, "complete", lambda got: got.content == 7),
    "wrong_types_throughout": (
        200,
        "complete",
        lambda got: isinstance(json.loads(got.body)["choices"], dict),
    ),
    "usage_strings": (
        200,
        "complete",
        lambda got: is_good(got) and json.loads(got.body)["usage"]["prompt_tokens"] == "12",
    ),
    "usage_missing": (
        200,
        "complete",
        lambda got: is_good(got) and "usage" not in json.loads(got.body),
    ),
    "usage_null": (200, "complete", lambda got: is_good(got) and not json.loads(got.body)["usage"]),
    "finish_reason_missing": (200, "complete", lambda got: is_good(got) and finish(got) is None),
    "bare_minimum": (
        200,
        "complete",
        lambda got: is_good(got) and list(json.loads(got.body)) == ["choices"],
    ),
    "content_null": (200, "complete", lambda got: got.content is None and finish(got) == "stop"),
    "content_empty": (200, "complete", lambda got: got.content == ""),
    "content_blank": (200, "complete", lambda got: got.content.strip() == ""),
    "content_parts": (
        200,
        "complete",
        lambda got: json.loads(got.content[0]["text"]) == good_captions(),
    ),
    "refusal_field": (200, "complete", lambda got: b'"refusal": "I\'m sorry' in got.body),
    "refusal_words": (200, "complete", lambda got: got.content.startswith("I'm sorry")),
    "content_filter": (200, "complete", lambda got: finish(got) == "content_filter"),
    "content_filter_empty": (200, "complete", lambda got: finish(got) == "content_filter"),
    "cut_at_length": (
        200,
        "complete",
        lambda got: finish(got) == "length" and got.content == '{"1": "caption for ',
    ),
    "cut_in_last": (
        200,
        "complete",
        lambda got: finish(got) == "length" and expected_caption(IMAGE, 1) + '"' in got.content,
    ),
    "reasoning_only": (200, "complete", lambda got: finish(got) == "length" and not got.content),
    "megabyte": (200, "complete", lambda got: 900_000 < len(got.content) < 1_100_000),
    "lone_surrogate": (200, "complete", lambda got: "\ud83d" in keyed(got)["1"]),
    "lone_surrogate_raw": (200, "complete", lambda got: "\ud83d" in got.content),
    "null_characters": (200, "complete", lambda got: keyed(got)["2"].startswith("\x00")),
    "leading_space": (200, "complete", lambda got: is_good(got) and got.content[0] == " "),
    "reverses_regions": (200, "complete", lambda got: list(keyed(got)) == ["2", "1"]),
    "forgets_last_once": (200, "complete", lambda got: keyed(got) == good_captions([1])),
    "forgets_second": (200, "complete", lambda got: keyed(got) == good_captions([1])),
    "invents_regions": (
        200,
        "complete",
        lambda got: keyed(got).items() > good_captions().items() and len(keyed(got)) == 5,
    ),
    "other_regions_only": (200, "complete", lambda got: list(keyed(got)) == ["101", "102"]),
    "repeats_regions": (
        200,
        "complete",
        lambda got: (
            json.loads(got.content, object_pairs_hook=list)[:2] == list(good_captions().items())
            and keyed(got)["1"] == "region 1 said again"
        ),
    ),
    "null_captions": (200, "complete", lambda got: keyed(got) == {"1": None, "2": None}),
    "empty_captions": (200, "complete", lambda got: keyed(got) == {"1": " ", "2": " "}),
    "text_marks": (200, "complete", names_both("<region{region}>: {caption}")),
    "text_names": (200, "complete", names_both("Region {region}: {caption}")),
    "text_bold": (200, "complete", names_both("- **Region {region} (left):** {caption}")),
    "text_numbered": (200, "complete", names_both("{region}. {caption}")),
    "text_brackets": (200, "complete", names_both("[{region}] {caption}")),
    "text_bullets": (200, "complete", names_both("**<region{region}>**\n- {caption}")),
    "fenced_json": (
        200,
        "complete",
        lambda got: json.loads(got.content[8:-4]) == good_captions() and got.content[:3] == "```",
    ),
    "trailing_comma": (200, "complete", lambda got: got.content.endswith('",\n}')),
    "prose_around_json": (
        200,
        "complete",
        lambda got: (
            json.loads(got.content[got.content.index("{") : got.content.rindex("}") + 1])
            == good_captions()
        ),
    ),
}

#: Nothing more comes: how long to look.
SILENT = {"hang", "hang_in_body", "slow_drip", "slow_drip_chunked", "slow_head"}


def test_every_fault_is_looked_at() -> None:
    assert SENT.keys() == FAULTS.keys()
    assert len(FAULTS) >= 30


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_sends_what_it_says(name: str) -> None:
    code, how, check = SENT[name]
    arrival, request = arrive(name, seconds=0.7 if name in SILENT else 10.0)
    assert (arrival.code, arrival.how) == (code, how)
    assert check(arrival)
    caused = not name.startswith("rejects_") or code != 200
    assert request.outcome == (name if caused else "ok")
    assert request.acknowledged == (how == "complete")


@pytest.mark.parametrize(
    ("name", "body", "parameter"),
    [
        ("rejects_json_object", request_body(form="json_object"), "response_format"),
        ("rejects_response_format", request_body(form="json_object"), "response_format"),
        ("rejects_max_tokens", request_body(max_tokens=5), "max_tokens"),
        (
            "rejects_max_completion_tokens",
            request_body(max_completion_tokens=5),
            "max_completion_tokens",
        ),
        ("rejects_both_token_limits", request_body(max_tokens=5), "max_tokens"),
        ("rejects_temperature", request_body(temperature=0), "temperature"),
        ("rejects_seed", request_body(seed=3), "seed"),
    ],
)
def test_a_parameter_is_rejected_by_name_where_it_is_sent(
    name: str, body: dict[str, Any], parameter: str
) -> None:
    arrival, _ = arrive(name, body)
    assert arrival.code == 400
    assert parameter in error_of(arrival)["message"]


def test_detail_is_rejected_where_it_is_sent() -> None:
    body = request_body()
    body["messages"][0]["content"][1]["image_url"]["detail"] = "low"
    assert arrive("rejects_detail", body)[0].code == 400


def test_each_rung_is_rejected_in_turn() -> None:
    body = request_body(max_tokens=5, temperature=0)
    with Endpoint("rejects_every_rung") as endpoint:
        named = []
        for fix in ({"response_format": {"type": "json_object"}}, "response_format", "max_tokens"):
            named.append(json.loads(post(endpoint, body)[2])["error"]["param"])
            body = body | fix if isinstance(fix, dict) else {k: body[k] for k in body if k != fix}
        named.append(json.loads(post(endpoint, body)[2])["error"]["param"])
        del body["temperature"]
        assert post(endpoint, body)[0] == 200
    assert named == ["response_format", "response_format", "max_tokens", "temperature"]


def test_a_reset_before_reading_cuts_a_large_request_off() -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 100000000\r\n\r\n"
    with Endpoint("reset_before_reading") as endpoint:
        address = urlsplit(endpoint.base_url)
        with socket.create_connection((address.hostname or "", address.port or 0)) as connection:
            connection.sendall(head)
            assert receive(connection, 10.0) == (b"", "reset")


def test_the_bomb_is_sound_and_small() -> None:
    small = gzip.decompress(gzip_bomb(4 << 20))
    assert len(small) == 4 << 20
    assert json.loads(small)["choices"][0]["message"]["content"] == "boom"
    assert len(gzip_bomb()) < 1 << 20


def test_a_followed_redirect_is_told() -> None:
    with Endpoint("redirect_307") as endpoint:
        _, headers, _ = post(endpoint)
        assert endpoint.followed == []
        target = urlsplit(headers["location"])
        assert target.port != urlsplit(endpoint.base_url).port
        connection = http.client.HTTPConnection(target.netloc, timeout=20)
        with closing(connection):
            connection.request("POST", target.path, json.dumps(request_body([1])))
            assert captions_of(connection.getresponse().read()) == good_captions([1])
        assert [request.question.images for request in endpoint.followed] == [(IMAGE,)]


# Which fault when


def outcomes(behaviour: Behaviour, images: Sequence[bytes], seed: int = 0) -> list[str]:
    with Endpoint(behaviour, seed=seed) as endpoint:
        for image in images:
            post(endpoint, request_body(images=[image]))
        return [request.outcome for request in endpoint.requests]


def test_a_schedule_goes_by_request_number() -> None:
    assert outcomes(["http_500", None, FAULTS["cut_json"]], [IMAGE] * 4) == [
        "http_500",
        "ok",
        "cut_json",
        "ok",
    ]


def test_probabilities_are_drawn_by_seed() -> None:
    chances = {"http_500": 0.3, "content_null": 0.3}
    drawn = outcomes(chances, [IMAGE] * 40, seed=1)
    assert set(drawn) == {"ok", *chances}
    assert outcomes(chances, [IMAGE] * 40, seed=1) == drawn
    assert outcomes(chances, [IMAGE] * 40, seed=2) != drawn


def test_a_function_sees_the_question() -> None:
    def behaviour(request: Request) -> str | None:
        return "http_500" if request.question.images == (b"bad",) else None

    assert outcomes(behaviour, [b"good", b"bad", b"good"]) == ["ok", "http_500", "ok"]


def test_an_image_keeps_its_fault() -> None:
    chances = {"http_500": 0.4, "content_null": 0.4}
    images = [bytes([number]) for number in range(12)]
    fates = [fault_of_image(image, chances, seed=5) for image in images]
    named = [fate.name if fate else "ok" for fate in fates]
    assert set(named) == {"ok", *chances}
    assert outcomes(by_image(chances, seed=5), images * 2) == named * 2


def test_a_broken_behaviour_is_heard_of() -> None:
    def behaviour(request: Request) -> str:
        raise RuntimeError("a mistake in the test")

    endpoint = Endpoint(behaviour)
    with pytest.raises(http.client.RemoteDisconnected):
        post(endpoint)
    with pytest.raises(RuntimeError, match="a mistake in the test"):
        endpoint.close()


# What is counted


def test_nothing_is_counted_before_anything_came() -> None:
    with Endpoint() as endpoint:
        assert (endpoint.count, endpoint.in_flight, endpoint.max_in_flight) == (0, 0, 0)
        assert (endpoint.requests, endpoint.acknowledged, endpoint.usage) == ([], [], (0, 0))
        assert endpoint.stats(slots=2)["ideal_seconds"] == 0.0


def in_parallel(job: Callable[[int], Any], count: int) -> list[Any]:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(job, range(count)))


def test_requests_in_flight_are_counted_exactly() -> None:
    with Endpoint(latency=math.inf) as endpoint:

        def job(number: int) -> Any:
            if number == 128:  # the one that lets the others go, once all of them are there
                endpoint.wait_for(lambda one: one.in_flight == 128)
                endpoint.release()
                return good_captions(image=b""), b""
            image = b"image %d" % number
            return captions_of(post(endpoint, request_body(images=[image]))[2]), image

        for captions, image in in_parallel(job, 129):
            assert captions == good_captions(image=image)
        assert (endpoint.count, endpoint.in_flight) == (128, 0)
        assert endpoint.max_in_flight == 128
        endpoint.reset()
        post(endpoint)
        assert (endpoint.count, endpoint.max_in_flight) == (1, 1)
        assert endpoint.requests[0].number == 0


def test_slots_are_never_counted_twice() -> None:
    with Endpoint(latency=0.005) as endpoint:

        def job(_: int) -> None:
            for _ in range(25):
                post(endpoint)

        in_parallel(job, 4)
        assert endpoint.count == 100
        assert endpoint.max_in_flight <= 4


def test_a_client_that_leaves_is_no_longer_in_flight() -> None:
    with Endpoint(latency=60.0) as endpoint:
        address = urlsplit(endpoint.base_url)
        data = json.dumps(request_body()).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(data)
        with socket.create_connection((address.hostname or "", address.port or 0)) as connection:
            connection.sendall(head + data)
            endpoint.wait_for(lambda endpoint: endpoint.in_flight == 1)
        endpoint.wait_for(lambda endpoint: endpoint.in_flight == 0)
        (request,) = endpoint.requests
        assert (request.outcome, request.acknowledged) == ("gone", False)
        assert endpoint.acknowledged == []


def test_waiting_for_what_never_comes_ends() -> None:
    with Endpoint() as endpoint, pytest.raises(TimeoutError):
        endpoint.wait_for(lambda endpoint: endpoint.count == 1, timeout=0.05)


def test_closing_cuts_off_what_hangs() -> None:
    endpoint = Endpoint("hang")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(post, endpoint)
        endpoint.wait_for(lambda endpoint: endpoint.in_flight == 1)
        endpoint.close()
        assert isinstance(waiting.exception(20), OSError)
    address = urlsplit(endpoint.base_url)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address.hostname or "", address.port or 0), timeout=5)


def test_usage_is_summed_over_all_that_is_paid() -> None:
    with Endpoint(["content_empty", "http_500", "usage_missing", None]) as endpoint:
        answers = [json.loads(post(endpoint)[2]) for _ in range(4)]
        told = [answer["usage"] for answer in answers if "usage" in answer]
        assert len(told) == 2
        assert endpoint.usage == (
            sum(usage["prompt_tokens"] for usage in told),
            sum(usage["completion_tokens"] for usage in told),
        )


def test_bodies_are_kept_unless_told_not_to() -> None:
    for keep in (True, False):
        with Endpoint(keep_bodies=keep) as endpoint:
            post(endpoint)
            (request,) = endpoint.requests
            assert (request.body is not None) == keep
            assert request.question.images == ((IMAGE,) if keep else ())
            assert endpoint.acknowledged == [read_question(request_body()).key]


# Who is let in


def test_the_key_must_match() -> None:
    with Endpoint(api_key="right") as endpoint:
        assert post(endpoint)[0] == 401
        assert post(endpoint, headers={"Authorization": "Bearer wrong"})[0] == 401
        assert post(endpoint, headers={"authorization": "Bearer right"})[0] == 200
        assert [request.outcome for request in endpoint.requests] == [
            "unauthorized",
            "unauthorized",
            "ok",
        ]


def test_headers_and_query_are_recorded() -> None:
    with Endpoint() as endpoint:
        post(endpoint, headers={"X-Secret": "canary"}, path="/v1/chat/completions?version=2")
        (request,) = endpoint.requests
        assert request.headers["x-secret"] == "canary"
        assert (request.path, request.query) == ("/v1/chat/completions", "version=2")


def test_unknown_paths_and_broken_requests_are_refused() -> None:
    with Endpoint() as endpoint:
        assert post(endpoint, path="/v2/chat")[0] == 404
        connection = http.client.HTTPConnection(urlsplit(endpoint.base_url).netloc, timeout=20)
        with closing(connection):
            connection.request("POST", "/v1/chat/completions", "{")
            assert connection.getresponse().status == 400
        assert [request.outcome for request in endpoint.requests] == ["not_found", "bad_request"]


# How many are let in


@given(
    rate=st.floats(0.5, 50),
    burst=st.floats(1, 20),
    gaps=st.lists(st.floats(0, 0.5), max_size=200),
)
def test_a_bucket_permits_its_rate_and_burst_at_most(
    rate: float, burst: float, gaps: list[float]
) -> None:
    bucket = TokenBucket(rate, burst)
    now, permitted = 0.0, 0
    for gap in gaps:
        now += gap
        wait = bucket.take(now)
        permitted += wait == 0.0
        assert permitted <= burst + rate * now + 0.001
        if wait:
            now += wait
            assert bucket.take(now) == 0.0
            permitted += 1


def test_a_bucket_fills_no_higher_than_its_burst() -> None:
    bucket = TokenBucket(10.0, 3.0)
    bucket.take(0.0)
    assert sum(bucket.take(1000.0) == 0.0 for _ in range(10)) == 3


def test_over_the_rate_is_refused_until_the_rate_is_raised() -> None:
    with Endpoint(rate=0.001, burst=3) as endpoint:
        codes = [post(endpoint)[0] for _ in range(5)]
        assert codes == [200, 200, 200, 429, 429]
        assert endpoint.outcomes == {"ok": 3, "rate_limited": 2}
        endpoint.rate = None
        assert post(endpoint)[0] == 200
        endpoint.rate = 0.001
        assert [post(endpoint)[0] for _ in range(4)] == [200, 200, 200, 429]


def test_a_rate_that_is_cut_gives_no_new_burst() -> None:
    with Endpoint(rate=0.002, burst=2) as endpoint:
        assert [post(endpoint)[0] for _ in range(3)] == [200, 200, 429]
        endpoint.rate = 0.001
        assert endpoint.rate == 0.001
        assert post(endpoint)[0] == 429


@pytest.mark.parametrize(
    ("form", "names"),
    [
        ("seconds", {"retry-after"}),
        ("date", {"retry-after"}),
        ("ms", {"retry-after-ms"}),
        (None, set()),
    ],
)
def test_the_wait_is_told_in_the_form_asked_for(form: Any, names: set[str]) -> None:
    with Endpoint(rate=0.1, burst=1, retry_after=form) as endpoint:
        post(endpoint)
        _, headers, _ = post(endpoint)
        assert {name for name in headers if name.startswith("retry-after")} == names
        value = headers.get("retry-after-ms") or headers.get("retry-after")
        waits = {
            "seconds": lambda: float(value or 0),
            "ms": lambda: float(value or 0) / 1000,
            "date": lambda: parsedate_to_datetime(value or "").timestamp() - time.time(),
        }
        assert form is None or 4 < waits[form]() < 12


# How long it takes


def test_latencies_are_the_same_for_the_same_seed_and_number() -> None:
    latency = Lognormal(seed=3)
    assert [latency(number) for number in range(9)] == [Lognormal(seed=3)(n) for n in range(9)]
    assert latency(0) != latency(1)
    assert latency(0) != Lognormal(seed=4)(0)


def test_latencies_have_the_mean_and_the_tail_that_they_say() -> None:
    base = [Lognormal(2.0, 0.6)(number) for number in range(4000)]
    assert fmean(base) == pytest.approx(2.0, rel=0.05)
    tail = [Lognormal(2.0, 0.6, slow=0.02)(number) for number in range(4000)]
    slow = [
        number for number, (one, other) in enumerate(zip(base, tail, strict=True)) if one != other
    ]
    assert 50 < len(slow) < 110
    assert all(tail[number] == pytest.approx(10 * base[number]) for number in slow)


def test_the_latencies_that_were_drawn_are_told() -> None:
    latency = Lognormal(0.01, seed=2)
    with Endpoint(["http_500"], latency=latency) as endpoint:
        for _ in range(3):
            post(endpoint)
        stats = endpoint.stats(slots=1)
        assert stats["latencies"] == [latency(1), latency(2)]
        assert stats["ideal_seconds"] == pytest.approx(latency(1) + latency(2))
        assert stats["seconds"] >= stats["ideal_seconds"]
        assert stats["codes"] == {"500": 1, "200": 2}


@given(st.lists(st.floats(0.001, 100), max_size=60), st.integers(1, 20))
def test_a_list_schedule_keeps_its_bounds(latencies: list[float], slots: int) -> None:
    seconds = list_schedule(latencies, slots)
    least = max(max(latencies, default=0.0), sum(latencies) / slots)
    most = sum(latencies) / slots + max(latencies, default=0.0)
    assert least - 1e-6 <= seconds <= most + 1e-6


@pytest.mark.parametrize(
    ("text", "latency"),
    [
        ("0", 0.0),
        ("constant:0.02", 0.02),
        ("lognormal", Lognormal(1.0, 0.6, 9)),
        ("lognormal:2:0.5", Lognormal(2.0, 0.5, 9)),
        ("heavy:1:0.6:0.05:20", Lognormal(1.0, 0.6, 9, 0.05, 20.0)),
    ],
)
def test_a_latency_is_read_from_a_flag(text: str, latency: Any) -> None:
    assert parse_latency(text, seed=9) == latency


# What outlives a kill


def test_the_ledger_holds_what_was_acknowledged(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    assert read_ledger(ledger) == []
    schedule = [None, "half_a_body", "http_500", "content_null", None]
    with Endpoint(schedule, ledger=ledger) as endpoint:
        for number in range(5):
            with ThreadPoolExecutor(1) as pool:
                pool.submit(post, endpoint, request_body(images=[bytes([number])])).exception()
        assert endpoint.in_flight == 0
        lines = read_ledger(ledger)
        assert [line["number"] for line in lines] == [0, 3, 4]
        assert [line["outcome"] for line in lines] == ["ok", "content_null", "ok"]
        keys = [line["key"] for line in lines if line["outcome"] == "ok"]
        assert endpoint.acknowledged == keys
        assert keys[0] == read_question(request_body(images=[bytes([0])])).key


def test_the_ledger_outlives_a_killed_endpoint(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    endpoint = EndpointProcess("--ledger", str(ledger))
    post(endpoint)
    assert endpoint.stats()["in_flight"] == 0
    endpoint.process.kill()
    endpoint.close()
    assert [line["outcome"] for line in read_ledger(ledger)] == ["ok"]
    ledger.write_text(ledger.read_text() + '{"number": 1, "ke')
    assert len(read_ledger(ledger)) == 1


# In other processes


def test_a_process_of_its_own_answers_counts_and_obeys() -> None:
    flags = ["--latency", "lognormal:0.01:0.6", "--seed", "7", "--rate", "0.001", "--burst", "2"]
    with EndpointProcess(*flags, "--faults", '["http_500"]', "--api-key", "k") as endpoint:
        headers = {"Authorization": "Bearer k"}
        assert [post(endpoint, headers=headers)[0] for _ in range(3)] == [500, 200, 429]
        stats = endpoint.stats(slots=2)
        assert (stats["count"], stats["in_flight"], stats["max_in_flight"]) == (3, 0, 1)
        assert stats["outcomes"] == {"http_500": 1, "ok": 1, "rate_limited": 1}
        assert stats["latencies"] == [Lognormal(0.01, seed=7)(1)]
        assert endpoint.control(rate=None, behaviour="cut_json", reset=True) == {"rate": None}
        assert not_json(Arrival(200, {}, post(endpoint, headers=headers)[2], "complete"))
        assert endpoint.stats()["count"] == 1


def test_a_process_that_cannot_start_says_so() -> None:
    with pytest.raises(RuntimeError, match="did not start"):
        EndpointProcess("--latency", "soon")


def test_a_process_ends_with_its_parent() -> None:
    endpoint = EndpointProcess()
    assert endpoint.process.stdin is not None
    endpoint.process.stdin.close()
    assert endpoint.process.wait(30) == 0
    assert endpoint.process.stdout is not None
    endpoint.process.stdout.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_keeps_no_connection_open() -> None:
    held, release = os.pipe()
    with Endpoint(["hang", "close_without_a_byte"]) as endpoint:
        address = urlsplit(endpoint.base_url)
        where = (address.hostname or "", address.port or 0)
        data = json.dumps(request_body()).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(data)
        with socket.create_connection(where) as hanging, socket.create_connection(where) as other:
            hanging.sendall(head + data)
            endpoint.wait_for(lambda endpoint: endpoint.in_flight == 1)
            other.sendall(head)
            endpoint.wait_for(lambda endpoint: endpoint.in_flight == 2)
            child = os.fork()
            if child == 0:
                os.read(held, 1)
                os._exit(0)
            try:
                other.sendall(data)
                assert receive(other, 10.0) == (b"", "closed")
                endpoint.close()
                assert receive(hanging, 10.0)[1] in ("closed", "reset")
                with pytest.raises(ConnectionRefusedError):
                    socket.create_connection(where, timeout=5)
            finally:
                os.write(release, b"x")
                os.waitpid(child, 0)
                os.close(held)
                os.close(release)
