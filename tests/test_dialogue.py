"""How a question is followed up, driven by hand through every way that it can go."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_regioncap.dialogue import (
    BAD_ANSWER_TRIES,
    TRUNCATED_TRIES,
    Ask,
    Heard,
    Outcome,
    follow_up,
    read_answer,
    row_answer,
)
from hf_regioncap.questions import Question
from hf_regioncap.response import Completion

PAID = ((7, 3),)


def said(text: str | None, reason: str | None = "stop", **fields: Any) -> Heard:
    return Heard(Completion(text=text, finish_reason=reason, **fields), PAID)


def failed(status: str = "api_error", reason: str = "HTTP 500") -> Heard:
    return Heard(status=status, reason=reason)


def drive(
    replies: Sequence[Heard], regions: tuple[int, ...] = (1, 2), reask: int = 1, **options: Any
) -> tuple[list[Ask], Outcome]:
    """Answer a dialogue with one reply after another; all of them must be asked for."""
    question = Question(regions=regions, images=(b"jpeg",), text="?", max_tokens=100)
    dialogue = follow_up(question, reask=reask, **options)
    asked = [next(dialogue)]
    for number, reply in enumerate(replies, 1):
        try:
            asked.append(dialogue.send(reply))
        except StopIteration as done:
            assert number == len(replies), "the dialogue ended early"
            outcome: Outcome = done.value
            return asked, outcome
    raise AssertionError(f"the dialogue goes on: {asked[-1]}")


BOTH = said('{"1": "a cat", "2": "a dog"}')
FIRST, SECOND = said("<region1>: a cat"), said("<region2>: a dog")
BAD = said("")
CUT = said('{"1": "a ca', "length")
REFUSED = said("I'm sorry, but I can't help with that.")
CATS = {1: "a cat", 2: "a dog"}
MARKED = "<region1>: a cat\n<region2>: a dog"


# --- one completion ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("completion", "status", "captions"),
    [
        (Completion(), "api_bad_answer", {}),
        (Completion(text=""), "api_bad_answer", {}),
        (Completion(text=" \n"), "api_bad_answer", {}),
        (Completion(problem="not JSON but HTML"), "api_bad_answer", {}),
        (Completion(text="..."), "api_bad_answer", {}),
        (Completion(text="Hm.", finish_reason="stop"), "api_bad_answer", {}),
        (Completion(text='{"1": "a cat", "2": "a dog"}'), "ok", CATS),
        (Completion(text='{"1": "a cat", "2": "a dog", "3": "?"}'), "ok", CATS),
        (Completion(text='{"2": "a dog"}', finish_reason=None), "ok", {2: "a dog"}),
        (Completion(text="", finish_reason="length"), "api_truncated", {}),
        (Completion(text='{"1": "a ca', finish_reason="length"), "api_truncated", {}),
        (
            Completion(text='{"1": "a cat", "2": "a d', finish_reason="length"),
            "api_truncated",
            {1: "a cat"},
        ),
        (Completion(refusal="I won't."), "api_refused", {}),
        (Completion(text="", refusal="I won't."), "api_refused", {}),
        (Completion(text="I'm sorry, but I can't help with that."), "api_refused", {}),
        (Completion(text="", finish_reason="content_filter"), "api_refused", {}),
        (Completion(text='{"1": "a cat"}', finish_reason="content_filter"), "api_refused", {}),
        (Completion(problem="no text", finish_reason="content_filter"), "api_refused", {}),
        (Completion(problem="no text", finish_reason="RECITATION"), "api_refused", {}),
        (Completion(text="", finish_reason="MAX_TOKENS"), "api_truncated", {}),
        (Completion(text=MARKED, finish_reason="model_length"), "api_truncated", {1: "a cat"}),
        (Completion(text="<region1>: a c", finish_reason="error"), "api_bad_answer", {}),
        (Completion(text=MARKED, finish_reason="end_turn"), "ok", CATS),
        (Completion(text='{"1": "a cat", "2": "a dog"}', finish_reason="error"), "ok", CATS),
        (Completion(thoughts=("reasoning", '{"1": "a cat", "2": "a dog"}')), "ok", CATS),
        (Completion(text="", thoughts=("reasoning", '{"1": "a cat"}')), "api_bad_answer", {}),
        (Completion(thoughts=("reasoning", MARKED)), "api_bad_answer", {}),
    ],
    ids=str,
)
def test_read_answer(completion: Completion, status: str, captions: dict[int, str]) -> None:
    reading = read_answer(completion, [1, 2])
    assert (reading.status, reading.captions) == (status, captions)
    assert (reading.reason is None) == (status == "ok")
    assert not reading.final


def test_an_answer_among_the_thoughts_is_kept_as_the_answer() -> None:
    heard = Heard(Completion(text="", thoughts=("reasoning_content", '{"1": "a cat"}')), PAID)
    _, outcome = drive([heard], regions=(1,))
    assert (outcome.captions, outcome.texts) == ({1: "a cat"}, ['{"1": "a cat"}'])


def test_thoughts_without_an_answer_name_their_field_and_what_turns_them_off() -> None:
    thinking = Completion(text="", thoughts=("reasoning_content", "Region 1: a cat?"))
    reason = read_answer(thinking, [1]).reason
    assert reason is not None
    assert "reasoning_content" in reason
    assert "extra_body=" in reason


def test_what_an_unknown_finish_reason_cut_is_told() -> None:
    reading = read_answer(Completion(text=MARKED, finish_reason="network_error"), [1, 2])
    assert (reading.status, reading.captions) == ("ok", {1: "a cat"})
    assert reading.reason == "the endpoint stopped with finish_reason 'network_error'"


@pytest.mark.parametrize(
    ("found", "status", "captions"),
    [
        ({}, "api_bad_answer", {}),
        ({1: "a cat"}, "ok", {1: "a cat"}),
        ({1: "a cat", 3: "never asked for"}, "ok", {1: "a cat"}),
        ({1: "", 2: " "}, "api_bad_answer", {}),
        ({1: None, 2: 5}, "api_bad_answer", {}),
        ({"1": "a cat"}, "api_bad_answer", {}),
        (None, "api_bad_answer", {}),
        ("a cat", "api_bad_answer", {}),
        ([("1", "a cat")], "api_bad_answer", {}),
    ],
    ids=repr,
)
def test_a_users_parser(found: Any, status: str, captions: dict[int, str]) -> None:
    asked: list[tuple[str, Any]] = []

    def parse(answer: str, regions: Sequence[int]) -> Any:
        asked.append((answer, regions))
        return found

    reading = read_answer(Completion(text="some text"), (1, 2), parse)
    assert (reading.status, reading.captions) == (status, captions)
    assert asked == [("some text", [1, 2])]


@pytest.mark.parametrize(
    "error", [KeyError, SystemExit, GeneratorExit, asyncio.CancelledError, pytest.exit.Exception]
)
def test_a_parser_that_raises_is_told_and_not_tried_again(error: type[BaseException]) -> None:
    def parse(answer: str, regions: Sequence[int]) -> dict[int, str]:
        raise error("sk-abcdefghijkl")

    reading = read_answer(Completion(text="some text"), (1,), parse)
    assert reading.status == "api_bad_answer"
    assert reading.final
    assert reading.raised
    quote = "'" if error is KeyError else ""
    assert reading.reason == f"parse raised {error.__name__}: {quote}[key]{quote}"


def test_ctrl_c_is_not_the_parsers_in_the_main_thread() -> None:
    def parse(answer: str, regions: Sequence[int]) -> dict[int, str]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_answer(Completion(text="some text"), (1,), parse)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(read_answer, Completion(text="some text"), (1,), parse)
        assert read.result(60).raised


# --- dialogues --------------------------------------------------------------------------------

# replies, regions of each request, status, captions
DIALOGUES: dict[str, tuple[list[Heard], list[tuple[int, ...]], str, dict[int, str]]] = {
    "at once": ([BOTH], [(1, 2)], "ok", CATS),
    "a region is missing": ([FIRST, SECOND], [(1, 2), (2,)], "ok", CATS),
    "it stays missing": (
        [FIRST, BAD, BAD, BAD],
        [(1, 2), (2,), (2,), (2,)],
        "api_bad_answer",
        {1: "a cat"},
    ),
    "the wrong one comes": (
        [FIRST, said('{"1": "a cow"}'), said('{"1": "a cow"}'), said('{"3": "a cow"}')],
        [(1, 2), (2,), (2,), (2,)],
        "api_bad_answer",
        {1: "a cat"},
    ),
    "regions nobody asked for": (
        [said('{"7": "a cow", "1": "a cat"}'), said('{"7": "a cow", "2": "a dog"}')],
        [(1, 2), (2,)],
        "ok",
        CATS,
    ),
    "a region twice": (
        [said("<region1>: a cat\n<region1>: a cow\n<region2>: a dog")],
        [(1, 2)],
        "ok",
        CATS,
    ),
    "what came first stays": (
        [FIRST, said('{"1": "a cow", "2": "a dog"}')],
        [(1, 2), (2,)],
        "ok",
        CATS,
    ),
    "never readable": ([BAD] * 3, [(1, 2)] * 3, "api_bad_answer", {}),
    "readable at last": ([BAD, BAD, BOTH], [(1, 2)] * 3, "ok", CATS),
    "readable in part at last": ([BAD, BAD, FIRST, SECOND], [(1, 2)] * 3 + [(2,)], "ok", CATS),
    "always cut": ([CUT] * 2, [(1, 2)] * 2, "api_truncated", {}),
    "cut once": ([CUT, BOTH], [(1, 2)] * 2, "ok", CATS),
    "cut, the whole captions count": (
        [said('{"1": "a cat", "2": "a d', "length")] * 2 + [SECOND],
        [(1, 2), (1, 2), (2,)],
        "ok",
        CATS,
    ),
    "cut once, what was whole stays": (
        [said('{"1": "a cat", "2": "a do', "length"), said('{"2": "a dog"}')],
        [(1, 2), (1, 2)],
        "ok",
        CATS,
    ),
    "cut once, a later caption counts": (
        [said('{"1": "a cow", "2": "a do', "length"), BOTH],
        [(1, 2), (1, 2)],
        "ok",
        CATS,
    ),
    "cut twice, each time elsewhere": (
        [
            said('{"1": "a cat", "2": "a do', "length"),
            said('{"2": "a dog", "1": "a ca', "length"),
        ],
        [(1, 2), (1, 2)],
        "api_truncated",
        CATS,
    ),
    "cut once, then an error": (
        [said('{"1": "a cat", "2": "a do', "length"), failed(), SECOND],
        [(1, 2), (1, 2), (2,)],
        "ok",
        CATS,
    ),
    "the tries of each kind count apart": (
        [BAD, CUT, BAD, BOTH],
        [(1, 2)] * 4,
        "ok",
        CATS,
    ),
    "cut twice among others": ([BAD, CUT, BAD, CUT], [(1, 2)] * 4, "api_truncated", {}),
    "refused": ([REFUSED], [(1, 2)], "api_refused", {}),
    "refused the second time": ([BAD, REFUSED], [(1, 2)] * 2, "api_refused", {}),
    "refused when asked again": ([FIRST, REFUSED], [(1, 2), (2,)], "api_refused", {1: "a cat"}),
    "filtered": ([said(None, "content_filter")], [(1, 2)], "api_refused", {}),
    "an error": ([failed()], [(1, 2)], "api_error", {}),
    "an error after a bad answer": ([BAD, failed()], [(1, 2)] * 2, "api_error", {}),
    "an error when asked again": ([FIRST, failed()], [(1, 2), (2,)], "api_error", {1: "a cat"}),
    "no budget": ([failed("skipped_budget")], [(1, 2)], "skipped_budget", {}),
    "no budget to ask again": (
        [FIRST, failed("skipped_budget")],
        [(1, 2), (2,)],
        "skipped_budget",
        {1: "a cat"},
    ),
}


@pytest.mark.parametrize("name", DIALOGUES)
def test_dialogues(name: str) -> None:
    replies, regions, status, captions = DIALOGUES[name]
    asked, outcome = drive(replies)
    assert [ask.question.regions for ask in asked] == regions
    assert (outcome.status, outcome.captions) == (status, captions)
    assert outcome.missing == [region for region in (1, 2) if region not in captions]
    assert (outcome.reason is None) == (status == "ok")
    # A stored answer is looked at once for each question, and never again when it did not serve.
    keys = [ask.question.key for ask in asked]
    assert [ask.fresh for ask in asked] == [key in keys[:n] for n, key in enumerate(keys)]


@pytest.mark.parametrize("reask", [0, 1, 2, 3])
def test_missing_regions_are_asked_for_so_often(reask: int) -> None:
    replies = [said(f'{{"{region}": "a cat"}}') for region in range(1, 2 + reask)]
    asked, outcome = drive(replies, regions=(1, 2, 3, 4, 5), reask=reask)
    assert [ask.question.regions for ask in asked] == [
        tuple(range(1 + n, 6)) for n in range(1 + reask)
    ]
    assert [ask.question.asked_again for ask in asked] == [False, *[True] * reask]
    assert sorted(outcome.captions) == list(range(1, 2 + reask))


def test_nothing_is_asked_again_where_nothing_came() -> None:
    asked, _ = drive([BAD] * BAD_ANSWER_TRIES, reask=5)
    assert len(asked) == BAD_ANSWER_TRIES == 3


def test_a_cut_answer_gets_twice_the_tokens_once() -> None:
    asked, _ = drive([CUT] * TRUNCATED_TRIES)
    assert [ask.token_limit for ask in asked] == [100, 200]
    asked, _ = drive([BAD, CUT, BAD, BOTH])
    assert [ask.token_limit for ask in asked] == [100, 100, 200, 200]


def test_what_is_asked_again_starts_at_its_own_limit() -> None:
    asked, _ = drive([CUT, FIRST, SECOND])
    assert [ask.token_limit for ask in asked] == [100, 200, 100]


THOUGHT = said("", "length")
CUT_IN_THOUGHT = said("<think>A cat? A dog?", "MAX_TOKENS")


@pytest.mark.parametrize("thought", [THOUGHT, CUT_IN_THOUGHT])
def test_where_thoughts_use_up_the_limit_far_more_is_asked_for_once(thought: Heard) -> None:
    asked, outcome = drive([thought, BOTH])
    assert [ask.token_limit for ask in asked] == [100, 800]
    assert (outcome.status, outcome.captions) == ("ok", CATS)
    asked, outcome = drive([thought, thought])
    assert [ask.token_limit for ask in asked] == [100, 800]
    assert outcome.status == "api_truncated"
    assert outcome.reason is not None
    assert outcome.reason.startswith("the length limit was reached before any text, 800 tokens: ")
    assert "max_tokens=" in outcome.reason
    assert "extra_body=" in outcome.reason


def test_what_was_asked_with_far_more_already_is_asked_with_twice_as_many() -> None:
    asked, _ = drive([replace(THOUGHT, token_limit=800), BOTH])
    assert [ask.token_limit for ask in asked] == [100, 1600]
    asked, outcome = drive([replace(CUT, token_limit=800), replace(CUT, token_limit=1600)])
    assert [ask.token_limit for ask in asked] == [100, 1600]
    assert outcome.reason == "cut at the length limit, 1600 tokens: pass a larger max_tokens="


def test_a_parser_that_raises_ends_the_dialogue() -> None:
    def parse(answer: str, regions: Sequence[int]) -> dict[int, str]:
        raise ValueError("no")

    asked, outcome = drive([BOTH], parse=parse)
    assert len(asked) == 1
    assert outcome.status == "api_bad_answer"
    assert outcome.reason == "parse raised ValueError: no"
    assert outcome.texts == ['{"1": "a cat", "2": "a dog"}']  # what was paid for is kept


def test_a_users_parser_is_used_when_asked_again_too() -> None:
    def parse(answer: str, regions: Sequence[int]) -> dict[int, str]:
        return {regions[0]: answer}

    _, outcome = drive([said("one"), said("two")], parse=parse)
    assert outcome.captions == {1: "one", 2: "two"}


def test_a_reading_that_was_made_already_is_taken() -> None:
    question = Question(regions=(1,), images=(), text="?")
    dialogue = follow_up(question, reask=0)
    next(dialogue)
    completion = Completion(text="<region1>: a cat")
    heard = Heard(completion, reading=read_answer(Completion(text="<region1>: a cow"), [1]))
    with pytest.raises(StopIteration) as done:
        dialogue.send(heard)
    assert done.value.value.captions == {1: "a cow"}


@pytest.mark.parametrize(
    ("replies", "texts"),
    [
        ([failed()], []),
        ([said(None, "content_filter")], []),
        ([BAD] * 3, []),
        ([BOTH], ['{"1": "a cat", "2": "a dog"}']),
        ([REFUSED], ["I'm sorry, but I can't help with that."]),
        ([CUT, CUT], ['{"1": "a ca']),
        ([said("mumble"), failed()], ["mumble"]),
        ([FIRST, SECOND], ["<region1>: a cat", "<region2>: a dog"]),
        ([FIRST, failed()], ["<region1>: a cat"]),
        # A text that a caption was kept of stays, too.
        (
            [said('{"1": "a cat", "2": "a do', "length"), SECOND],
            ['{"1": "a cat", "2": "a do', "<region2>: a dog"],
        ),
        ([said('{"1": "a cow", "2": "a do', "length"), BOTH], ['{"1": "a cat", "2": "a dog"}']),
    ],
)
def test_texts_are_kept_as_received(replies: list[Heard], texts: list[str]) -> None:
    _, outcome = drive(replies)
    assert outcome.texts == texts


replies = st.sampled_from([BOTH, FIRST, SECOND, BAD, CUT, REFUSED, failed()])


@given(st.lists(replies, min_size=20, max_size=20), st.integers(0, 3))
def test_every_dialogue_ends_and_no_caption_moves(heard: list[Heard], reask: int) -> None:
    dialogue = follow_up(Question(regions=(1, 2), images=(), text="?"), reask=reask)
    ask, requests = next(dialogue), 0
    try:
        while True:
            requests += 1
            ask = dialogue.send(heard[requests % len(heard)])
            assert set(ask.question.regions) <= {1, 2}
    except StopIteration as done:
        outcome: Outcome = done.value
    assert requests <= (1 + reask) * (BAD_ANSWER_TRIES + TRUNCATED_TRIES - 1)
    assert outcome.captions.items() <= CATS.items()
    row = row_answer([outcome], 2)
    assert row.captions == [outcome.captions.get(1), outcome.captions.get(2)]
    assert (row.status == "ok") == (len(outcome.captions) == 2)
    assert (row.status == "ok_partial") == (len(outcome.captions) == 1)
    assert (row.error is None) == (row.status == "ok")


# --- what a row makes of it -------------------------------------------------------------------


def test_a_row_without_regions() -> None:
    row = row_answer([], 0)
    assert (row.answer, row.captions, row.status, row.error) == (None, [], "ok", None)
    assert row.usage == {"prompt_tokens": None, "completion_tokens": None}


@pytest.mark.parametrize("name", DIALOGUES)
def test_rows_of_dialogues(name: str) -> None:
    heard, _, status, captions = DIALOGUES[name]
    _, outcome = drive(heard)
    row = row_answer([outcome], 2)
    assert row.captions == [captions.get(1), captions.get(2)]
    if len(captions) == 2:
        assert (row.status, row.error) == ("ok", None)
    elif captions:
        assert row.status == "ok_partial"
        assert row.error == f"no caption for <region2> ({outcome.reason})"
    else:
        assert (row.status, row.error) == (status, outcome.reason)
    assert row.answer == ("\n\n".join(outcome.texts) or None)


def alone(region: int, reply: Heard) -> Outcome:
    """The outcome of a region that was asked for by itself, without asking again."""
    question = Question(regions=(region,), images=(b"jpeg",), text="?", max_tokens=100)
    dialogue = follow_up(question, reask=0)
    next(dialogue)
    while True:
        try:
            dialogue.send(reply)
        except StopIteration as done:
            outcome: Outcome = done.value
            return outcome


def test_one_request_for_each_region() -> None:
    outcomes = [alone(1, said("a cat")), alone(2, said('{"2": "a dog"}')), alone(3, failed())]
    row = row_answer(outcomes, 3, per_region=True)
    assert row.captions == ["a cat", "a dog", None]
    assert row.status == "ok_partial"
    assert row.error == "no caption for <region3> (HTTP 500)"
    assert json.loads(row.answer or "") == {"1": "a cat", "2": '{"2": "a dog"}'}


def test_each_region_refused_in_its_own_way() -> None:
    row = row_answer([alone(1, failed()), alone(2, REFUSED)], 2, per_region=True)
    assert (row.status, row.error, row.captions) == ("api_error", "HTTP 500", [None, None])
    assert json.loads(row.answer or "") == {"2": "I'm sorry, but I can't help with that."}


def test_one_request_for_each_region_and_nothing_came() -> None:
    assert row_answer([alone(1, failed())], 1, per_region=True).answer is None


def test_texts_of_other_scripts_stay_readable() -> None:
    row = row_answer([alone(1, said("一只猫"))], 1, per_region=True)
    assert row.answer == '{"1": "一只猫"}'


# --- what was paid ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paid", "prompt", "completion"),
    [
        ([], None, None),
        ([()], None, None),
        ([((0, 0),)], 0, 0),
        ([((5, 2),)], 5, 2),
        ([((5, 2), (5, 3))], 10, 5),
        ([((5, 2),), ((7, 1),)], 12, 3),
        ([((5, 2),), ()], 5, 2),
        ([((5, None),)], 5, None),
        ([((5, 2),), ((None, 1),)], None, 3),
        ([((None, None),)], None, None),
    ],
)
def test_usage_is_summed_where_it_is_known(
    paid: list[Any], prompt: int | None, completion: int | None
) -> None:
    outcome = Outcome((1,), paid={str(n): tokens for n, tokens in enumerate(paid)})
    expected = {"prompt_tokens": prompt, "completion_tokens": completion}
    assert row_answer([outcome], 1).usage == expected


def test_usage_of_unusable_answers_counts() -> None:
    question = Question(regions=(1, 2), images=(), text="?")
    dialogue = follow_up(question, reask=1)
    ask = next(dialogue)
    for reply in (said("mumble"), CUT, FIRST, SECOND):
        # As the client does: everything that was ever paid for this question.
        heard = Heard(reply.completion, (*ask.paid, *PAID))
        try:
            ask = dialogue.send(heard)
        except StopIteration as done:
            outcome = done.value
    assert row_answer([outcome], 2).usage == {"prompt_tokens": 28, "completion_tokens": 12}


def test_the_same_question_in_two_dialogues_is_paid_once() -> None:
    twins = [
        Outcome((1,), {1: "a"}, paid={"key": PAID}),
        Outcome((2,), {2: "b"}, paid={"key": PAID}),
    ]
    assert row_answer(twins, 2).usage == {"prompt_tokens": 7, "completion_tokens": 3}
