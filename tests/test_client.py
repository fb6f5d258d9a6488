"""The client by itself: questions that are asked at once, shared, bounded, stopped, tried again."""

from __future__ import annotations

import asyncio
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from endpoint import Endpoint, Fault, Request, completion, completion_reply, error_reply
from endpoint import Reply as Said

from hf_regioncap import attempts, gate, transport, verdict
from hf_regioncap.client import Run, Tally
from hf_regioncap.costs import Budget
from hf_regioncap.dialogue import Outcome, follow_up
from hf_regioncap.endpoint import Endpoint as Where
from hf_regioncap.errors import EndpointError, StoreError
from hf_regioncap.home import home
from hf_regioncap.options import Parse
from hf_regioncap.questions import Question
from hf_regioncap.store import AnswerStore
from hf_regioncap.transport import Reply


def question(number: int, regions: Sequence[int] = (1, 2)) -> Question:
    marks = ", ".join(f"<region{region}>" for region in regions)
    return Question(
        regions=tuple(regions),
        images=(b"\xff\xd8 picture %d" % number,),
        text=f"Describe {marks}.",
        model="m",
    )


def where(endpoint: Endpoint, **more: Any) -> Where:
    return Where(endpoint.base_url, None, **more)


def submit(run: Run, *questions: Question, reask: int = 1) -> Future[list[Outcome]]:
    return run.submit([follow_up(each, reask=reask) for each in questions])


def outcomes(asked: Sequence[Future[list[Outcome]]]) -> list[Outcome]:
    assert not wait(asked, timeout=240).not_done  # only against hanging
    return [outcome for future in asked for outcome in future.result()]


def said(outcome: Outcome) -> str:
    return outcome.captions[1]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AnswerStore]:
    store = AnswerStore(tmp_path / "answers.sqlite")
    yield store
    store.close()


# Shared, bounded, in any thread


def test_nothing_to_ask(endpoint: Endpoint) -> None:
    run = Run(where(endpoint))
    assert submit(run).result(240) == []
    run.drain()
    assert endpoint.count == 0


@pytest.mark.parametrize("with_store", [True, False])
def test_the_same_question_in_flight_is_asked_once(with_store: bool, store: AnswerStore) -> None:
    with Endpoint(latency=math.inf) as endpoint:
        run = Run(where(endpoint), store=store if with_store else None)
        asked = [submit(run, question(n % 3)) for n in range(60)]
        endpoint.release()
        captions = Counter(said(outcome) for outcome in outcomes(asked))
        assert sorted(captions.values()) == [20, 20, 20]
        assert endpoint.count == 3
        assert run.tally.requests == 3


def test_the_same_question_fails_once_for_all_who_ask_it(store: AnswerStore) -> None:
    with Endpoint("refusal_words", latency=math.inf) as endpoint:
        run = Run(where(endpoint), store=store)
        asked = [submit(run, question(0)) for _ in range(10)]
        endpoint.release()
        assert {outcome.status for outcome in outcomes(asked)} == {"api_refused"}
        assert endpoint.count == 1


@pytest.mark.parametrize("concurrency", [1, 3, 40])
def test_never_more_in_flight_than_allowed_over_all_runs_and_threads(
    concurrency: int, store: AnswerStore
) -> None:
    with Endpoint(latency=lambda n: 0.001 * (n * 7 % 11), keep_bodies=False) as endpoint:
        place = where(endpoint, concurrency=concurrency)
        runs = [Run(place, store=store), Run(place, store=store)]

        def ask(start: int) -> list[Outcome]:
            asked = [submit(runs[n % 2], question(n)) for n in range(start, start + 60)]
            return outcomes(asked)

        with ThreadPoolExecutor(3) as pool:
            heard = [outcome for done in pool.map(ask, (0, 1000, 2000)) for outcome in done]
        assert len({said(outcome) for outcome in heard}) == 180
        assert endpoint.count == 180
        assert endpoint.max_in_flight <= concurrency


@pytest.mark.parametrize(
    "differs",
    [
        [{"timeout": 60.0}, {"timeout": 61.0}],
        [{"headers": (("x-run", "1"),)}, {"headers": (("x-run", "2"),)}],
        [{"query": (("run", "1"),)}, {"query": (("run", "2"),)}],
        [{"key": "key-of-one"}, {"key": "key-of-another"}],
        [{"concurrency": 2}, {"concurrency": 3}],
        [{"host": "127.0.0.1"}, {"host": "localhost"}],
    ],
    ids=str,
)
def test_runs_at_one_host_share_its_slots_whatever_else_differs(
    differs: list[dict[str, Any]],
) -> None:
    def place(key: str | None = None, host: str = "127.0.0.1", **more: Any) -> Where:
        return Where(endpoint.base_url.replace("127.0.0.1", host), key, **more)

    most = max(each.get("concurrency", 3) for each in differs)
    with Endpoint(latency=lambda number: 0.002 * (number % 5)) as endpoint:
        runs = [Run(place(**({"concurrency": most} | each))) for each in differs]
        asked = [submit(run, question(n)) for n in range(30) for run in runs]
        assert {outcome.status for outcome in outcomes(asked)} == {"ok"}
        assert endpoint.max_in_flight <= most


def test_a_host_is_the_same_under_any_path_and_another_at_another_port() -> None:
    urls = ["http://a.example/v1", "http://A.example:80/v2/openai", "http://a.example:81/v1"]
    places = [Where(url, None).place for url in urls]
    assert places == ["a.example:80", "a.example:80", "a.example:81"]


def test_idle_connections_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "IDLE_SECONDS", 0.05)
    with Endpoint() as endpoint:
        run = Run(where(endpoint))
        for first in (0, 100):  # and opened again
            asked = [submit(run, question(n)) for n in range(first, first + 20)]
            assert {outcome.status for outcome in outcomes(asked)} == {"ok"}
            endpoint.wait_for(lambda endpoint: endpoint.connections == 0)


def test_a_waiting_retry_holds_no_slot() -> None:
    """While one question waits to be tried again, the others go on."""

    def behave(request: Request) -> str | None:
        return "http_409" if b"picture 0" in request.question.images[0] else None

    with Endpoint(behave) as endpoint:
        run = Run(where(endpoint, concurrency=1))
        slow = submit(run, question(0))
        endpoint.wait_for(lambda endpoint: endpoint.count == 2)
        rest = [submit(run, question(n)) for n in range(1, 6)]
        assert {outcome.status for outcome in outcomes(rest)} == {"ok"}
        assert not slow.done()
        run.drain()


def test_several_questions_of_one_row_come_back_in_order() -> None:
    with Endpoint(latency=lambda number: 0.05 if number % 2 else 0.0) as endpoint:
        run = Run(where(endpoint))
        asked = [question(n, (n % 3 + 1,)) for n in range(12)]
        [row] = [submit(run, *asked).result(240)]
        assert [outcome.regions for outcome in row] == [each.regions for each in asked]
        assert len({text for outcome in row for text in outcome.captions.values()}) == 12


# Stopped


def test_a_stopped_run_sends_nothing_more_but_hears_and_keeps(store: AnswerStore) -> None:
    with Endpoint(latency=math.inf) as endpoint:
        run = Run(where(endpoint, concurrency=4), store=store)
        asked = [submit(run, question(n)) for n in range(20)]
        endpoint.wait_for(lambda endpoint: endpoint.in_flight == 4)
        run.stop(EndpointError("enough"))
        run.stop(EndpointError("not the first reason"))
        endpoint.release()
        run.drain()
        assert endpoint.count == 4
        errors = [future.exception(240) for future in asked]
        assert sum(error is None for error in errors) == 4
        assert {str(error) for error in errors if error} == {"enough"}
        assert len({id(error) for error in errors}) > 10  # no trace grows by all who raise it
        assert store.summary().answers == 4
        other = run.another()
        assert outcomes([submit(other, question(0))])[0].status == "ok"
        assert endpoint.count == 4
        assert run.tally.from_store == other.tally.from_store == 1


def test_draining_waits_for_what_is_in_flight(store: AnswerStore) -> None:
    with Endpoint(latency=math.inf) as endpoint:
        run = Run(where(endpoint), store=store)
        asked = submit(run, question(0))
        endpoint.wait_for(lambda endpoint: endpoint.in_flight == 1)
        threading.Timer(0.2, endpoint.release).start()
        run.drain()
        assert store.summary().answers == 1
        assert asked.result(240)[0].status == "ok"


# The loop is its own


def test_inside_a_running_loop_and_beside_it(endpoint: Endpoint) -> None:
    run = Run(where(endpoint))

    async def from_a_loop() -> str:
        future = submit(run, question(1))
        return said((await asyncio.wrap_future(future))[0])

    assert asyncio.run(from_a_loop()) == said(outcomes([submit(run, question(1))])[0])

    async def blocking() -> str:  # as a cell of a notebook does
        return said(submit(run, question(2)).result(240)[0])

    assert asyncio.run(blocking())
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("regioncap") == 1


# What the user's parser does


def parsed(run: Run, numbers: Sequence[int], parse: Parse) -> list[Future[list[Outcome]]]:
    return [run.submit([follow_up(question(n), reask=1, parse=parse)]) for n in numbers]


@pytest.mark.parametrize("error", [KeyError, SystemExit, KeyboardInterrupt, asyncio.CancelledError])
def test_a_parser_that_fails_is_its_rows_affair_and_is_paid_once(
    error: type[BaseException], store: AnswerStore, endpoint: Endpoint
) -> None:
    def fail(answer: str, regions: Sequence[int]) -> dict[int, str]:
        raise error("mine")

    for _ in range(2):  # the answer is stored: asking again would be paid, and fail again
        run = Run(where(endpoint), store=store, parse=fail)
        for outcome in outcomes(parsed(run, range(3), fail)):
            assert outcome.status == "api_bad_answer"
            assert outcome.reason is not None
            assert outcome.reason.startswith(f"parse raised {error.__name__}: ")
        assert endpoint.count == 3
    mended = Run(where(endpoint), store=store)
    asked = [submit(mended, question(n)) for n in range(3)]
    assert {outcome.status for outcome in outcomes(asked)} == {"ok"}
    assert endpoint.count == 3


def test_a_parser_that_finds_nothing_is_asked_for_once_a_run(
    store: AnswerStore, endpoint: Endpoint
) -> None:
    for runs in (1, 2):  # here another answer may help, so a new run asks anew
        run = Run(where(endpoint), store=store, parse=lambda answer, regions: {})
        [outcome] = outcomes(parsed(run, [0], run._parse))
        assert outcome.status == "api_bad_answer"
        assert endpoint.count == runs


def test_a_slow_parser_holds_up_no_request_and_no_answer(store: AnswerStore) -> None:
    """All answers are on disk while the first is still being read."""
    release, threads = threading.Event(), set()

    def slow(answer: str, regions: Sequence[int]) -> dict[int, str]:
        threads.add(threading.current_thread().name)
        assert release.wait(200)
        return dict.fromkeys(regions, answer)

    with Endpoint() as endpoint:
        run = Run(where(endpoint, concurrency=2), store=store, parse=slow)
        asked = parsed(run, range(12), slow)
        beside = Run(where(endpoint), store=store)
        assert outcomes([submit(beside, question(99))])[0].status == "ok"
        while store.summary().answers < 13:  # the test's own bound ends this
            time.sleep(0.01)
        assert not any(each.done() for each in asked)
        release.set()
        assert {outcome.status for outcome in outcomes(asked)} == {"ok"}
        assert endpoint.count == 13
    assert threads == {"regioncap-parse_0"}  # one, as it need not be safe in several


def test_the_loop_outlives_what_would_end_it(endpoint: Endpoint) -> None:
    async def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        home().start(leave()).result(240)
    assert outcomes([submit(Run(where(endpoint)), question(0))])[0].status == "ok"


# Rejections


def test_eight_rejections_in_a_row_reject_the_run_unless_one_was_answered() -> None:
    for answered, stopped in ((0, 8), (1, None)):
        tally = Tally(succeeded=answered)
        run = Run(Where("http://127.0.0.1:9/v1", None), tally=tally)
        for number in range(1, 10):
            try:
                run._reject(Reply(422), "HTTP 422")
            except EndpointError:
                assert number == stopped
                break
        else:
            assert stopped is None


# Lines


def test_two_endpoints_and_two_keys_have_lines_of_their_own(monkeypatch: Any) -> None:
    with Endpoint("rejects_max_tokens") as strict, Endpoint() as easy:
        for endpoint in (strict, easy):
            run = Run(where(endpoint))
            assert outcomes([submit(run, question(0))])[0].status == "ok"
        assert [len(endpoint.requests) for endpoint in (strict, easy)] == [2, 1]
        keyed = Run(Where(easy.base_url, "sk-one"))
        other = Run(Where(easy.base_url, "sk-two"))
        outcomes([submit(keyed, question(1)), submit(other, question(2))])
        sent = {request.headers.get("authorization") for request in easy.requests}
        assert sent == {None, "Bearer sk-one", "Bearer sk-two"}


def test_an_endpoint_that_comes_and_goes(make_endpoint: Callable[..., Endpoint]) -> None:
    """A server that is started late, or again at the same port, is found by the retries."""
    first = make_endpoint()
    port = int(first.base_url.split(":")[2].split("/")[0])
    run = Run(where(first))
    assert outcomes([submit(run, question(0))])[0].status == "ok"
    first.close()
    asked = submit(run, question(1))
    time.sleep(0.3)
    make_endpoint(port=port)
    assert outcomes([asked])[0].status == "ok"


@pytest.fixture
def make_endpoint() -> Iterator[Callable[..., Endpoint]]:
    made: list[Endpoint] = []

    def make(**how: Any) -> Endpoint:
        made.append(Endpoint(**how))
        return made[-1]

    yield make
    for endpoint in made:
        endpoint.close()


# What stops a run


def test_without_room_in_the_budget_nobody_waits_at_the_gate() -> None:
    with Endpoint(rate=2, burst=2) as endpoint:
        run = Run(where(endpoint), budget=Budget(None, max_requests=1))
        asked = [submit(run, question(number)) for number in range(200)]
        done = outcomes(asked)
        assert Counter(outcome.status for outcome in done) == {"ok": 1, "skipped_budget": 199}
        line = run._home.line(where(endpoint))
        assert len(line.gate._sent) == 1  # the others never came to it


def test_a_run_that_stops_wakes_those_who_wait_for_another_try() -> None:
    later = error_reply(429, "Later.", headers={"Retry-After": "100"})
    with Endpoint(Fault("later", "api_error", lambda request: later)) as endpoint:
        run = Run(where(endpoint))
        asked = submit(run, question(0))
        endpoint.wait_for(lambda one: one.requests and one.requests[0].ended)
        run.stop(EndpointError("enough"))
        with pytest.raises(EndpointError, match="enough"):
            asked.result(timeout=50)
        assert endpoint.count == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SSL_CERT_FILE", "/nowhere/cert.pem"),
        ("HTTPS_PROXY", "socks9://user:secret@127.0.0.1:9"),
        ("HTTPS_PROXY", "user:secret@no address"),
    ],
)
def test_what_keeps_every_connection_from_being_made(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    run = Run(Where("https://nobody.invalid/v1", None))
    with pytest.raises(EndpointError, match=f"nobody.invalid can be set up .*{name}") as raised:
        submit(run, question(0)).result(timeout=240)
    assert "secret" not in str(raised.value)
    run.drain()  # counts nothing in flight, or this would wait for its timeout
    assert run._in_flight == 0


def test_rejections_count_for_a_run_and_not_for_the_process() -> None:
    with Endpoint([None, *["http_400"] * 30]) as endpoint:
        assert outcomes([submit(Run(where(endpoint)), question(0))])[0].status == "ok"
        run = Run(where(endpoint, concurrency=1))
        asked = [submit(run, question(number)) for number in range(1, 20)]
        assert not wait(asked, timeout=240).not_done
        assert sum(isinstance(each.exception(), EndpointError) for each in asked) == 12
        assert endpoint.count == 9 + 2  # the first tries whether another form is taken


def test_an_answer_that_cannot_be_kept_for_any_reason_ends_the_run(
    store: AnswerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(_: Any) -> None:
        raise MemoryError("no memory")

    with Endpoint() as endpoint:
        run = Run(where(endpoint), store=store)
        monkeypatch.setattr(store, "put_many", no_memory)
        with pytest.raises(StoreError, match="no memory"):
            submit(run, question(0)).result(timeout=240)


# Forms that are not taken, outages, limits


def answered_as(fault: Fault, count: int = 12, **more: Any) -> tuple[Counter[str], Endpoint, Run]:
    """How so many questions end that meet this fault; the endpoint is closed already."""
    with Endpoint(fault) as endpoint:
        run = Run(where(endpoint, **more))
        asked = [submit(run, question(number)) for number in range(count)]
        return Counter(outcome.status for outcome in outcomes(asked)), endpoint, run


def form(request: Request) -> str:
    return request.question.form


@pytest.mark.parametrize("status", [400, 422, 500])
@pytest.mark.parametrize("taken", ["json_object", "text"])
def test_a_form_that_is_rejected_without_a_name_is_found_once_for_all(
    status: int, taken: str
) -> None:
    """As Gemini and Ollama do it."""
    words = "failed to load what is required for format" if status == 500 else "Invalid argument."
    rejection = error_reply(status, words)

    def reply(request: Request) -> Any:
        return None if form(request) == taken else rejection

    ended, endpoint, _ = answered_as(Fault("odd form", "ok", reply), concurrency=4)
    assert ended == {"ok": 12}
    assert Counter(map(form, endpoint.requests))[taken] == 12
    assert endpoint.count <= 12 + 2 + 4  # those in flight before it was known


def test_a_form_that_fails_for_one_row_is_changed_for_this_row_alone() -> None:
    def reply(request: Request) -> Any:
        is_odd = b"picture 7" in request.question.images[0]
        words = "Invalid schema for response_format: too many states"
        return error_reply(400, words) if is_odd and form(request) == "json_schema" else None

    ended, endpoint, _ = answered_as(Fault("odd row", "ok", reply), concurrency=1)
    assert ended == {"ok": 12}
    assert Counter(map(form, endpoint.requests)) == {"json_schema": 12, "json_object": 1}


@pytest.mark.parametrize(
    ("written", "requests"),
    [
        ("", ["json_schema"] * 2 + ["json_object"]),
        ("I see nothing in particular.", ["json_schema"] * 2 + ["json_object"]),
        ('{"1": "a cat", "2": "a dog"}', ["json_schema"]),
    ],
)
def test_a_text_that_its_server_did_not_take_as_json(written: str, requests: list[str]) -> None:
    failed = {"code": "json_validate_failed", "failed_generation": written, "message": "Failed"}
    body = json.dumps({"error": failed}).encode()

    def reply(request: Request) -> Any:
        return Said(body, 400) if form(request) == "json_schema" else None

    ended, endpoint, _ = answered_as(Fault("not json", "ok", reply), count=1)
    assert ended == {"ok": 1}
    assert [form(request) for request in endpoint.requests] == requests


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (error_reply(429, "on tokens per day (TPD). Please try again in 9m38s."), "in 10 minutes"),
        (error_reply(429, "later", headers={"retry-after": "5000"}), "in 83 minutes"),
    ],
)
def test_a_limit_that_lasts_stops_the_run_and_tells_until_when(reply: Any, words: str) -> None:
    with Endpoint([None, None, *[Fault("limit", "api_error", lambda request: reply)] * 99]) as one:
        run = Run(where(one, concurrency=2))
        asked = [submit(run, question(number)) for number in range(40)]
        assert not wait(asked, timeout=240).not_done
        stopped = [str(each.exception()) for each in asked if each.exception()]
        assert len(stopped) >= 34
        assert all(words in each and "may go on" in each for each in stopped)
        assert one.count <= 2 + 3 + 2


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error": {"message": "Vision add-on is not loaded (id 17)"}}', "takes pictures"),
        (b"<!DOCTYPE html><title>Sign in</title>", "web page"),
        (b'{"choices": []}', "no choices in the answer"),
    ],
)
def test_the_same_error_in_place_of_every_answer_stops_the_run(body: bytes, words: str) -> None:
    with Endpoint(Fault("no use", "api_bad_answer", lambda request: Said(body))) as endpoint:
        run = Run(where(endpoint, concurrency=2))
        asked = [submit(run, question(number)) for number in range(40)]
        with pytest.raises(EndpointError, match=words):
            asked[-1].result(timeout=240)
        assert endpoint.count <= 8 + 2


def test_errors_in_place_of_answers_are_the_rows_own_after_a_success() -> None:
    with Endpoint([None, *["error_200"] * 60]) as endpoint:
        run = Run(where(endpoint, concurrency=1))
        asked = [submit(run, question(number)) for number in range(12)]
        ended = Counter(outcome.status for outcome in outcomes(asked))
        assert ended == {"ok": 1, "api_bad_answer": 11}


@pytest.mark.usefixtures("impatient")
def test_rows_that_all_fail_before_any_success_stop_the_run() -> None:
    with Endpoint("http_500") as endpoint:
        run = Run(where(endpoint, concurrency=4))
        asked = [submit(run, question(number)) for number in range(40)]
        with pytest.raises(EndpointError, match=r"The server had an error.*server's own log"):
            asked[-1].result(timeout=240)


def test_moderation_never_stops_a_run() -> None:
    reply = error_reply(403, "Your input was flagged")
    ended, endpoint, _ = answered_as(Fault("flagged", "api_refused", lambda request: reply), 20)
    assert ended == {"api_refused": 20}
    assert endpoint.count == 20


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """All waits are short."""
    monkeypatch.setattr(verdict, "backoff", lambda tries, told: 0.01)
    monkeypatch.setattr(gate, "_LONGEST_HOLD", 0.02)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("fault", ["http_503", "http_429", "http_502_html"])
def test_an_outage_is_waited_for_and_costs_no_row_its_tries(fault: str) -> None:
    """More refusals than a row has tries, while nothing gets through."""
    with Endpoint([*[fault] * 9, *[None] * 9]) as endpoint:
        run = Run(where(endpoint))
        assert outcomes([submit(run, question(0))])[0].status == "ok"
        assert endpoint.count == 10


@pytest.mark.usefixtures("impatient")
def test_a_server_that_is_started_again_is_waited_for(
    make_endpoint: Callable[..., Endpoint],
) -> None:
    first = make_endpoint()
    port = int(first.base_url.split(":")[2].split("/")[0])
    run = Run(where(first))
    assert outcomes([submit(run, question(0))])[0].status == "ok"
    first.close()
    asked = [submit(run, question(number)) for number in range(1, 9)]
    began = run.tally.requests
    while run.tally.requests < began + 40:  # many more than one question has tries
        time.sleep(0.01)
    make_endpoint(port=port)
    assert {outcome.status for outcome in outcomes(asked)} == {"ok"}


@pytest.mark.usefixtures("impatient")
def test_an_outage_that_lasts_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "PATIENCE", 0.0)
    with Endpoint("http_503") as endpoint:
        run = Run(where(endpoint))
        asked = [submit(run, question(number)) for number in range(12)]
        assert not wait(asked, timeout=240).not_done
        stopped = [str(each.exception()) for each in asked if each.exception()]
        assert len(stopped) >= 9
        assert all("nothing got through" in each for each in stopped)


# --- a model that thinks ------------------------------------------------------------------------


def thinks(tokens: int) -> Fault:
    """A model whose thoughts count within the limit: without room for them there is no answer."""

    def reply(request: Request) -> Any:
        limit = request.body["max_tokens"]
        if limit >= tokens:
            return None
        cut = completion(request, "", finish_reason="length")
        cut["usage"] = {"prompt_tokens": 300, "completion_tokens": limit}
        return completion_reply(cut)

    return Fault("thinks", "api_truncated", reply)


def limits_of(endpoint: Endpoint) -> list[int]:
    return [request.body["max_tokens"] for request in endpoint.requests]


def test_a_model_that_needs_room_for_thoughts_is_given_it_from_then_on() -> None:
    with Endpoint(thinks(2000)) as endpoint:
        run = Run(where(endpoint))
        for number in range(3):
            assert said(outcomes([submit(run, question(number))])[0])
        assert limits_of(endpoint) == [640, 5120, 5120, 5120]


def test_a_limit_that_was_too_small_is_not_tried_again(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path / "answers.sqlite")
    with Endpoint(thinks(50_000)) as endpoint:
        [outcome] = outcomes([submit(Run(where(endpoint), store=store), question(1))])
        assert (outcome.status, limits_of(endpoint)) == ("api_truncated", [640, 5120])
        endpoint.reset()
        [outcome] = outcomes([submit(Run(where(endpoint), store=store), question(1))])
        assert (outcome.status, limits_of(endpoint)) == ("api_truncated", [10240, 20480])
        endpoint.reset()
        own = replace(question(1), max_tokens=50_000)  # no part of the key
        [outcome] = outcomes([submit(Run(where(endpoint), store=store), own)])
        assert (outcome.status, limits_of(endpoint)) == ("ok", [50_000])


def test_the_users_own_limit_is_where_each_question_begins() -> None:
    with Endpoint(thinks(2000)) as endpoint:
        run = Run(where(endpoint))
        for number in range(2):
            [outcome] = outcomes([submit(run, replace(question(number), max_tokens=300))])
            assert outcome.status == "ok"
        assert limits_of(endpoint) == [300, 2400, 300, 2400]
