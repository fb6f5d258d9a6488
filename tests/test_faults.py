"""Every way in which an endpoint can fail, alone and all at once, through the column functions."""

from __future__ import annotations

import json
import math
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets import Dataset
from endpoint import FAULTS, Endpoint, EndpointProcess, Fault, Request, expected_caption

from hf_regioncap import add_region_captions, attempts, caption_dataset, verdict
from hf_regioncap.captioning import FAILED, prepare_row
from hf_regioncap.errors import EndpointError
from hf_regioncap.options import read_options
from hf_regioncap.reading import first_rows, plan_rows, tables_of

ANSWERED = ("ok", "ok_partial", "api_bad_answer", "api_truncated", "api_refused")


def stored(dataset: Dataset) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = dataset.with_format("arrow")[:].to_pylist()
    return rows


def image_of(row: Mapping[str, Any]) -> bytes:
    image: bytes = row["image_with_bbox"]["bytes"]
    return image


# Each alone


@dataclass(frozen=True)
class Met:
    """What became of a row that met one fault with every request, and of the row beside it."""

    row: dict[str, Any]
    other: dict[str, Any]
    requests: list[Request]
    followed: int


PASSING = [fault for fault in FAULTS.values() if fault.status != "permanent"]
#: Options that give a fault its cause.
OPTIONS: dict[str, dict[str, Any]] = {
    "rejects_detail": {"detail": "low"},
    "rejects_every_rung": {"detail": "low"},
}
#: Those that only the timeout ends.
ENDLESS = ("hang", "hang_in_body", "slow_drip", "slow_drip_chunked", "slow_head")


@pytest.fixture(scope="module", autouse=True)
def _no_wait_between_tries() -> Iterator[None]:
    """How long is waited is tested elsewhere; whether it is waited at all is as always."""
    waits = verdict.backoff

    def at_once(*args: Any) -> float | None:
        return None if waits(*args) is None else 0.0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verdict, "backoff", at_once)
        # An endpoint that turns everything away is given up after a row's tries, not after minutes.
        patch.setattr(attempts, "PATIENCE", 0.0)
        yield


@pytest.fixture(scope="module")
def met(make_dataset: Any, tmp_path_factory: Any) -> Iterator[Callable[[str], Met]]:
    """What became of a fault, each with an endpoint of its own; found out when it is asked for."""
    folder = tmp_path_factory.mktemp("faults")
    table: pa.Table = make_dataset(2, regions=3).with_format("arrow")[:]
    found: dict[str, Future[Met]] = {}

    def ask(name: str, number: int, url: str, **options: Any) -> dict[str, Any]:
        added = add_region_captions(
            table.slice(number, 1),
            base_url=url,
            answer_store=folder / f"{name}.sqlite",
            **{"timeout": 200, **OPTIONS.get(name, {}), **options},
        )
        row: dict[str, Any] = added.to_pylist()[0]
        return row

    def meet(name: str) -> Met:
        options = {"timeout": 0.5} if name in ENDLESS else {}
        with Endpoint(TURNS[name][0] if name in TURNS else name) as endpoint:
            row = ask(name, 0, endpoint.base_url, **options)
            endpoint.wait_for(lambda one: one.in_flight == 0)  # of what was given up, too
            requests = endpoint.requests
            endpoint.behaviour = None
            other = ask(name, 1, endpoint.base_url)
            return Met(row, other, requests, len(endpoint.followed))

    with ThreadPoolExecutor(len(ENDLESS)) as pool:

        def find(name: str) -> Met:
            # The endless ones are mostly waiting, and wait together.
            for each in ENDLESS if name in ENDLESS else (name,):
                if each not in found:
                    found[each] = pool.submit(meet, each)
            return found[name].result()

        yield find


ONCE = (
    "http_400_context_length",
    "http_400_image",
    "http_413",
    "http_422",
    "http_429_retry_after_absurd",
    "redirect_307",
    "redirect_308",
)
#: Requests for a row that meets nothing else, by the contract's table.
TRIES = {"ok": 1, "api_error": 6, "api_bad_answer": 3, "api_truncated": 2, "api_refused": 1}
OTHER_TRIES = {
    **dict.fromkeys(ONCE, 1),
    "http_400": 3,  # tried in each form, as it names no cause
    "forgets_last_once": 2,
    "forgets_second": 1 + 3,  # asked again, the region is the last and the object is empty
    "cut_in_last": 2 + 2,  # twice the tokens, then the missing region, cut as well
}
WORDS = {
    "http_408": "HTTP 408: Request timed out",
    "http_429": "HTTP 429: Rate limit reached",
    "http_502_html": "HTTP 502",
    "http_503": "HTTP 503: Loading model",
    "http_413": "HTTP 413: Request Entity Too Large",
    "redirect_307": "redirects are not followed",
    "reset_before_reading": "connection",
    "reset_after_reading": "connection",
    "close_without_a_byte": "broke off",
    "hang": "no complete answer within the timeout",
    "hang_in_body": "no complete answer within the timeout",
    "slow_drip": "no complete answer within the timeout",
    "slow_head": "no complete answer within the timeout",
    "half_a_body": "cut off",
    "reset_in_body": "cut off",
    "gzip_bomb": "gzip",
    "endless_body": "more than 16 MB",
    "html_200": "HTML",
    "cut_json": "cut off or garbled",
    "empty_body": "empty body",
    "deep_json": "garbled",
    "error_200": "The engine is overloaded",
    "invalid_utf8": "UTF-8",
    "no_choices": "no choices",
    "message_null": "no message",
    "wrong_types": "in place of text",
    "content_null": "no text",
    "content_empty": "empty answer",
    "content_filter": "content filter",
    "refusal_field": "refused: I'm sorry",
    "refusal_words": "refused: I'm sorry",
    "cut_at_length": "length limit",
    "reasoning_only": "length limit was reached before any text",
    "cut_in_last": "no caption for <region3> (cut at the length limit, 896 tokens: pass a larger",
    "forgets_second": "no caption for <region2>",
    "megabyte": "no caption could be read",
}


@pytest.mark.parametrize("fault", [fault.name for fault in PASSING])
def test_a_fault_ends_in_its_status_after_its_tries_and_says_why(
    fault: str, met: Callable[[str], Met]
) -> None:
    row, requests = met(fault).row, met(fault).requests
    status = FAULTS[fault].status
    assert row["answer_status"] == status, row["answer_error"]
    rungs = sum(request.fate == fault and request.code in (400, 422) for request in requests)
    rungs = rungs if status == "ok" else 0
    tries = OTHER_TRIES.get(fault, TRIES.get(status, 1))
    if fault in ENDLESS:  # on a busy machine the timeout ends some before they arrive
        assert len(requests) <= tries
        assert f"({tries} tries)" in row["answer_error"]
    else:
        assert len(requests) - rungs == tries
    if status == "ok":
        assert row["answer_error"] is None
        clean = ["".join(c for c in text if c.isprintable()) for text in row["region_captions"]]
        right = [expected_caption(image_of(row), region) for region in (1, 2, 3)]
        assert [text.replace("\ufffd", "").removesuffix("[0m").strip() for text in clean] == right
    else:
        assert WORDS.get(fault, "") in row["answer_error"]
        assert len(row["answer_error"].split()) >= 3
        assert len(row["answer_error"]) < 500
    if status not in ("ok", "ok_partial"):
        assert row["region_captions"] == [None] * 3
    if not any(request.code == 200 for request in requests):
        assert row["answer"] is None
        assert row["usage"] == {"prompt_tokens": None, "completion_tokens": None}


@pytest.mark.parametrize("fault", [fault.name for fault in PASSING])
def test_the_row_beside_it_is_answered(fault: str, met: Callable[[str], Met]) -> None:
    other = met(fault).other
    assert other["answer_status"] == "ok", other["answer_error"]
    assert other["region_captions"] == [expected_caption(image_of(other), k) for k in (1, 2, 3)]


@pytest.mark.parametrize(("fault", "times"), [("cut_at_length", 2), ("reasoning_only", 8)])
def test_a_cut_answer_is_asked_for_once_more_with_more_tokens(
    fault: str, times: int, met: Callable[[str], Met]
) -> None:
    first, second = (request.body["max_tokens"] for request in met(fault).requests)
    assert second == times * first


@pytest.mark.parametrize("fault", [name for name in FAULTS if name.startswith("redirect")])
def test_redirects_are_not_followed(fault: str, met: Callable[[str], Met]) -> None:
    assert met(fault).followed == 0


@pytest.mark.parametrize("fault", [*ENDLESS, "endless_body", "gzip_bomb"])
def test_what_never_ends_is_ended(fault: str, met: Callable[[str], Met]) -> None:
    """Each request is given up, not only its row."""
    assert all(request.ended is not None for request in met(fault).requests)


BOMB = """
import resource, sys
from PIL import Image
from hf_regioncap import add_region_captions
rows = {"image": Image.new("RGB", (64, 48)), "bbox": [[2, 2, 20, 20]]}
add_region_captions(rows, base_url="offline", answer_store=None)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for url in sys.argv[1:]:
    print(add_region_captions(rows, base_url=url, answer_store=None)["answer_status"])
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_bombs_take_little_memory() -> None:
    with Endpoint("gzip_bomb") as gzip, Endpoint("endless_body") as endless:
        command = [sys.executable, "-c", BOMB, gzip.base_url, endless.base_url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    bad, after_gzip, also_bad, after_both = done.stdout.split()
    assert bad == also_bad == "api_bad_answer"
    # MB; unpacked it is 300, without a bound 1,024
    assert int(after_gzip) < 150
    assert int(after_both) < 150


# What stops a run

PERMANENT = {
    "http_400_unknown_model": "check model and base_url",
    "http_401": "check the key: none was sent, pass api_key_env=",
    "http_402": "no credit",
    "http_403": "no right to this model",
    "http_404": "check base_url",
    "http_429_no_credit": "no credit or quota left",
    "rejects_seed": "does not take 'seed'",
    "http_400": "check model and base_url",
    "http_422": "check model and base_url",
    "redirect_308": "pass the address that it redirects to as base_url",
}
assert PERMANENT.keys() >= {name for name, fault in FAULTS.items() if fault.status == "permanent"}


@pytest.mark.parametrize(
    ("fault", "whole"),
    [*((fault, True) for fault in PERMANENT), ("http_401", False), ("http_422", False)],
)
def test_a_permanent_failure_stops_the_run_with_one_error_that_says_what_to_do(
    fault: str, whole: bool, make_dataset: Any
) -> None:
    dataset = make_dataset(24)
    with Endpoint(fault) as endpoint:
        options: dict[str, Any] = {"base_url": endpoint.base_url, "concurrency": 8, "seed": 1}

        def run(dataset: Any) -> Any:
            if whole:
                return caption_dataset(dataset, **options)
            return dataset.map(add_region_captions, batched=True, fn_kwargs=options)

        with pytest.raises(EndpointError) as raised:
            run(dataset)
        assert "Way out: " in str(raised.value)
        assert PERMANENT[fault] in str(raised.value)
        enough = 8 if fault in ("http_400", "http_422", "redirect_308") else 1
        forms = 2 if fault == "http_400" else 0  # other forms are tried, as it names no cause
        assert endpoint.count <= enough + forms + 8
        assert endpoint.in_flight == 0
        # The next run starts anew.
        endpoint.behaviour = None
        assert set(run(dataset)["answer_status"]) == {"ok"}


def test_eight_rows_that_are_rejected_after_a_success_are_only_these_rows(
    make_dataset: Any,
) -> None:
    with Endpoint([None, *["http_422"] * 12]) as endpoint:
        captioned = caption_dataset(make_dataset(14), base_url=endpoint.base_url, concurrency=1)
    assert Counter(captioned["answer_status"]) == {"ok": 2, "api_error": 12}


def test_a_key_that_is_revoked_on_the_way(make_dataset: Any) -> None:
    """What was answered before and what is in flight is kept; a rerun asks for the rest only."""
    dataset = make_dataset(80)
    with Endpoint([None] * 30 + ["http_401"] * 100, latency=0.02) as endpoint:
        with pytest.raises(EndpointError, match="check the key"):
            caption_dataset(dataset, base_url=endpoint.base_url, concurrency=6)
        assert endpoint.outcomes["http_401"] <= 1 + 6
        assert endpoint.outcomes["ok"] == 30
        endpoint.behaviour = None
        endpoint.reset()
        captioned = caption_dataset(dataset, base_url=endpoint.base_url, concurrency=6)
        assert set(captioned["answer_status"]) == {"ok"}
        assert endpoint.count == 50


def test_a_permanent_failure_leaves_a_map_with_processes_too(make_dataset: Any) -> None:
    with Endpoint("http_401") as endpoint, pytest.raises(EndpointError, match="check the key"):
        make_dataset(20).map(
            add_region_captions,
            batched=True,
            num_proc=2,
            fn_kwargs={"base_url": endpoint.base_url},
        )


# Policies


def test_on_error_raise(make_dataset: Any) -> None:
    with Endpoint([None, "http_413"]) as endpoint:
        options = {"base_url": endpoint.base_url, "on_error": "raise", "concurrency": 1}
        with pytest.raises(EndpointError, match=r"row \d: api_error: HTTP 413.*on_error='raise'"):
            caption_dataset(make_dataset(5), **options)
        endpoint.behaviour, dataset = "forgets_second", make_dataset(3, start=9)
        with pytest.raises(EndpointError, match="row 0: ok_partial"):
            dataset.map(add_region_captions, batched=True, fn_kwargs=options)
        endpoint.behaviour = None
        dataset = make_dataset(2, regions=0)  # nothing to ask is no failure
        options["propose"] = None
        done = dataset.map(add_region_captions, batched=True, fn_kwargs=options)
        assert done["answer_status"] == ["no_boxes"] * 2


def shouting(answer: str, regions: Any) -> dict[int, str]:
    return {int(k): v.upper() for k, v in json.loads(answer).items()}


def failing(answer: str, regions: Any) -> dict[int, str]:
    raise LookupError(f"cannot read {len(regions)} regions")


def senseless(answer: str, regions: Any) -> Any:
    return {1: 5, 2: None, 3: " ", 9: "never asked for"}


def test_a_parser_of_the_users_own(make_dataset: Any, endpoint: Endpoint) -> None:
    dataset, options = make_dataset(3), {"base_url": endpoint.base_url}
    for parse, status, words in (
        (shouting, "ok", None),
        (failing, "api_bad_answer", "parse raised LookupError: cannot read 2 regions"),
        (senseless, "api_bad_answer", "no caption could be read out of the answer"),
    ):
        captioned = caption_dataset(dataset, parse=parse, **options)
        assert captioned["answer_status"] == [status] * 3
        assert captioned["answer_error"] == [words] * 3
    assert endpoint.count == 3 + 0 + 3  # from the store; then in vain
    shouted = caption_dataset(dataset, parse=shouting, **options)
    assert shouted[0]["region_captions"][0].startswith("CAPTION FOR REGION 1")
    assert endpoint.count == 6  # what was paid for is read again by another parser


# Regions that are forgotten, repeated, swapped, invented


@pytest.mark.parametrize("form", ["json_schema", "json_object", "text"])
@pytest.mark.parametrize(
    ("fault", "requests", "status"),
    [
        ("reverses_regions", 1, "ok"),
        ("repeats_regions", 1, "ok"),
        ("invents_regions", 1, "ok"),
        ("forgets_last_once", 2, "ok"),
        ("forgets_second", 4, "ok_partial"),
    ],
)
def test_captions_are_right_or_null(
    form: str,
    fault: str,
    requests: int,
    status: str,
    make_dataset: Any,
    assert_own: Callable[..., None],
) -> None:
    with Endpoint(fault) as endpoint:
        captioned = caption_dataset(
            make_dataset(6, regions=5), base_url=endpoint.base_url, answer_form=form
        )
        assert captioned["answer_status"] == [status] * 6
        assert_own(captioned, whole=status == "ok")
        assert endpoint.count == 6 * requests
        if fault == "forgets_last_once":
            asked = Counter(request.question.regions for request in endpoint.requests)
            assert asked == {(1, 2, 3, 4, 5): 6, (5,): 6}
        if fault == "forgets_second":
            assert [captions[1] for captions in captioned["region_captions"]] == [None] * 6
            assert all(captions[4] for captions in captioned["region_captions"])


@pytest.mark.parametrize("reask", [0, 1, 3])
def test_reask_says_how_often_missing_regions_are_asked_for(reask: int, make_dataset: Any) -> None:
    def one_more(request: Request) -> Fault | None:
        """Only the first two of the regions that are asked for are described."""
        return FAULTS["first_two"] if len(request.question.regions) > 2 else None

    def first_two(request: Request) -> Any:
        from endpoint import answer_text, completion, completion_reply

        question = request.question
        some = {region: question.captions[region] for region in question.regions[:2]}
        return completion_reply(completion(request, answer_text(some, question)))

    fault = Fault("first_two", "ok_partial", first_two)
    with Endpoint(lambda request: fault) as endpoint:
        captioned = caption_dataset(
            make_dataset(2, regions=7), base_url=endpoint.base_url, reask=reask
        )
        said = [sum(bool(text) for text in row) for row in captioned["region_captions"]]
        assert said == [min(7, 2 * (1 + reask))] * 2
        assert endpoint.count == 2 * (1 + reask)
        assert captioned["answer_status"] == ["ok" if reask == 3 else "ok_partial"] * 2


# The ladder


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("concurrency", [1, 32])
@pytest.mark.parametrize("whole", [True, False], ids=["caption_dataset", "map"])
def test_each_rung_is_rejected_once_for_the_whole_run(
    concurrency: int, whole: bool, make_dataset: Any, assert_own: Callable[..., None]
) -> None:
    rungs = ["json_schema", "json_object", "max_tokens", "temperature", "detail"]
    with Endpoint("rejects_every_rung", latency=0.01) as endpoint:
        options: dict[str, Any] = {
            "base_url": endpoint.base_url,
            "concurrency": concurrency,
            "detail": "low",
        }

        def ask(dataset: Any) -> Any:
            if whole:
                return caption_dataset(dataset, **options)
            return dataset.map(add_region_captions, batched=True, fn_kwargs=options)

        captioned = ask(make_dataset(40))
        assert_own(captioned)
        assert endpoint.outcomes["rejects_every_rung"] == len(rungs)
        assert endpoint.count == 40 + len(rungs)
        body = endpoint.requests[-1].body
        assert not {"response_format", "max_tokens", "temperature"} & set(body)
        assert body["max_completion_tokens"]
        ask(make_dataset(10, start=200))  # remembered
        assert endpoint.count == 50 + len(rungs)


def test_what_the_user_has_decided_is_not_learned_away(make_dataset: Any) -> None:
    for fault, option in (
        ("rejects_json_schema", {"answer_form": "json_schema"}),
        ("rejects_max_tokens", {"token_parameter": "max_tokens"}),
        ("rejects_temperature", {"temperature": 0.5}),
    ):
        with Endpoint(fault) as endpoint, pytest.raises(EndpointError, match="does not take"):
            caption_dataset(make_dataset(3), base_url=endpoint.base_url, **option)


# What was paid


@pytest.mark.parametrize("store", [True, False])
def test_usage_counts_every_answer_that_was_received(
    store: bool, make_dataset: Any, tmp_path: Path
) -> None:
    faults = ["content_empty", "content_blank", None, "http_500", "forgets_last_once"]
    with Endpoint(faults) as endpoint:
        captioned = caption_dataset(
            make_dataset(2),
            base_url=endpoint.base_url,
            concurrency=1,
            answer_store=tmp_path / "store.sqlite" if store else None,
        )
        assert captioned["answer_status"] == ["ok", "ok"]
        sums = [sum(row[name] for row in captioned["usage"]) for name in ("prompt_tokens",)]
        sums += [sum(row["completion_tokens"] for row in captioned["usage"])]
        assert tuple(sums) == endpoint.usage


#: Bad answers between failures do not start the count of failures anew, nor the other way round.
TURNS = {
    "three bad answers": (["http_500", "content_empty"] * 3, "api_bad_answer", 6),
    "six failures": (
        [*["http_409"] * 2, "content_empty", *["http_409"] * 2, "content_empty", *["http_409"] * 2],
        "api_error",
        8,
    ),
    "in the end": (["http_500", "content_empty", "cut_at_length", "http_500", None], "ok", 5),
}


@pytest.mark.parametrize("turn", TURNS)
def test_tries_of_each_kind_are_counted_in_all(turn: str, met: Callable[[str], Met]) -> None:
    _, status, count = TURNS[turn]
    assert met(turn).row["answer_status"] == status
    assert len(met(turn).requests) == count


# All at once

#: Thirty in a hundred requests fail, in all these ways; few of those that cost time.
MANY = [
    *("http_400_image", "http_408", "http_409", "http_413", "http_422", "http_429_retry_after_ms"),
    *("http_500", "http_500_integer_code", "http_502_html", "http_503", "http_504_html"),
    *("http_529", "redirect_307", "reset_before_reading", "reset_after_reading"),
    *("close_without_a_byte", "reset_in_body", "half_a_body", "gzip_bomb", "html_200"),
    *("cut_json", "empty_body", "json_null", "json_list", "deep_json", "error_200"),
    *("invalid_utf8", "no_choices", "choices_null", "message_null", "wrong_types", "content_null"),
    *("content_empty", "refusal_words", "content_filter", "cut_at_length", "reasoning_only"),
    *("cut_in_last", "forgets_second", "invents_regions", "other_regions_only", "null_captions"),
]
RARE = {"hang": 0.0005, "slow_drip": 0.0005, "endless_body": 0.0005, "megabyte": 0.001}


def test_300_rows_with_thirty_percent_of_requests_failing(
    make_dataset: Any, assert_own: Callable[..., None]
) -> None:
    rows = 300
    flags = ("--faults", json.dumps(dict.fromkeys(MANY, 0.3 / len(MANY)) | RARE), "--seed", "1")
    with EndpointProcess(*flags, "--latency", "0.005") as endpoint:
        captioned = caption_dataset(
            make_dataset(rows), base_url=endpoint.base_url, answer_store=None, timeout=15
        )
        figures = endpoint.stats()
    outcomes = Counter(figures["outcomes"])
    failed = figures["count"] - outcomes["ok"] - outcomes["gone"]
    assert 0.25 < failed / figures["count"] < 0.35
    assert len(outcomes) > 20
    assert captioned["number"] == list(range(rows))
    statuses = Counter(captioned["answer_status"])
    assert set(statuses) <= {"ok", *FAILED}
    assert statuses["ok"] > 0.85 * rows
    assert_own(captioned, whole=False)
    for row in captioned.select_columns(["answer_status", "answer_error", "region_captions"]):
        said = [text is not None for text in row["region_captions"]]
        assert (row["answer_status"] == "ok") == all(said) == (row["answer_error"] is None)
        assert any(said) == (row["answer_status"] in ("ok", "ok_partial"))


@pytest.mark.parametrize("view", ["crop", "both"])
def test_one_request_for_each_region_with_many_in_flight(
    view: str, make_dataset: Any, tmp_path: Path
) -> None:
    dataset = make_dataset(30, regions=5)
    with Endpoint(latency=math.inf) as endpoint, ThreadPoolExecutor(1) as pool:
        options: dict[str, Any] = {"base_url": endpoint.base_url, "view": view}
        asked = pool.submit(caption_dataset, dataset, concurrency=120, timeout=280, **options)
        endpoint.wait_for(lambda one: one.in_flight == 120)
        endpoint.release()
        captioned = asked.result()
        assert endpoint.count == 150
        assert endpoint.max_in_flight == 120
    read = read_options(options)
    plan = plan_rows(first_rows(dataset, read.image_column), read)
    questions = [
        prepare_row(rows, index, plan)[1]
        for rows in tables_of(dataset)
        for index in range(len(rows))
    ]
    for row, asked in zip(stored(captioned), questions, strict=True):
        right = [expected_caption(question.images[-1], k) for k, question in enumerate(asked, 1)]
        assert row["region_captions"] == right
        assert list(json.loads(row["answer"])) == ["1", "2", "3", "4", "5"]


def test_a_row_of_which_some_regions_fail_keeps_the_others(make_dataset: Any) -> None:
    def second_region(request: Request) -> str | None:
        return "refusal_words" if request.question.regions == (2,) else None

    with Endpoint(second_region) as endpoint:
        captioned = caption_dataset(
            make_dataset(3, regions=3), base_url=endpoint.base_url, view="crop"
        )
    assert captioned["answer_status"] == ["ok_partial"] * 3
    for row in captioned:
        assert [text is not None for text in row["region_captions"]] == [True, False, True]
        assert "no caption for <region2> (refused: I'm sorry" in row["answer_error"]


@pytest.mark.parametrize("rows", [1, 40])
def test_an_endpoint_that_is_not_there_ends_the_run_early(rows: int, make_dataset: Any) -> None:
    with socket.socket() as held:  # bound, so that nobody else gets it, and not listening
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}/v1"
        for _ in range(2):  # the second run is told as well
            with pytest.raises(
                EndpointError, match=r"cannot connect .*start the server at "
            ) as told:
                caption_dataset(make_dataset(rows), base_url=url)
            assert url in str(told.value)
