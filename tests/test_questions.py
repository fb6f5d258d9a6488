"""What is asked, and the key under which its answer is kept."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from forks import forks, in_a_fork
from hypothesis import given
from hypothesis import strategies as st

from hf_regioncap.questions import Question

ASKED = Question(
    regions=(1, 2),
    images=(b"one", b"two"),
    text="Describe.",
    model="gpt-4o-mini",
    temperature=0.0,
)

# Everything that changes the answer, one change at a time.
CHANGES: list[dict[str, Any]] = [
    {"regions": (1,)},
    {"regions": (2, 1)},
    {"images": ()},
    {"images": (b"one",)},
    {"images": (b"two", b"one")},
    {"images": (b"onetwo",)},
    {"images": (b"one", b"twO")},
    {"text": "Describe!"},
    {"text": ""},
    {"system": ""},
    {"system": "You are a poet."},
    {"model": "gpt-4o"},
    {"view": "both"},
    {"view": "crop"},
    {"caption_style": "phrase"},
    {"caption_style": "sentence"},
    {"language": "German"},
    {"temperature": None},
    {"temperature": 0.5},
    {"seed": 0},
    {"seed": 1},
    {"detail": "low"},
    {"answer_form": "text"},
    {"answer_form": "json_object"},
    {"answer_form": "json_schema"},
    {"extra_body": {"top_p": 0.9}},
    {"extra_body": {"top_p": 0.8}},
    {"extra_body": {"top_p": {"nested": 0.9}}},
    {"store_tag": ""},
    {"store_tag": "a"},
    {"asked_again": True},
]


def test_the_key_changes_with_everything_that_changes_the_answer() -> None:
    keys = [ASKED.key, *(replace(ASKED, **change).key for change in CHANGES)]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"max_tokens": 50},
        {"max_tokens": 5000},
        {"extra_body": {}},
    ],
    ids=repr,
)
def test_the_key_changes_with_nothing_else(change: dict[str, Any]) -> None:
    assert replace(ASKED, **change).key == ASKED.key


def test_the_order_of_extra_fields_is_no_difference() -> None:
    one = replace(ASKED, extra_body={"top_p": 1, "top_k": 2})
    assert one.key == replace(ASKED, extra_body={"top_k": 2, "top_p": 1}).key


def test_a_key_is_kept_by_its_own_question_only() -> None:
    key = ASKED.key
    assert ASKED.key == key
    assert ASKED.only([2]).key != key
    assert replace(ASKED.only([2]), regions=(1, 2), asked_again=False).key == key


def test_the_key_is_the_same_in_another_process() -> None:
    code = (
        "from hf_regioncap.questions import Question;"
        "print(Question(regions=(1, 2), images=(b'one', b'two'), text='Describe.',"
        "model='gpt-4o-mini', temperature=0.0).key)"
    )
    told = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parents[1],
    )
    assert told.stdout.strip() == ASKED.key


@given(text=st.text(), other=st.text(), image=st.binary())
def test_keys_of_any_texts_differ_as_they_do(text: str, other: str, image: bytes) -> None:
    one = Question(regions=(1,), images=(image,), text=text, system=other)
    swapped = Question(regions=(1,), images=(image,), text=other, system=text)
    assert (one.key == swapped.key) == (text == other)
    assert len(one.key) == 64


def test_a_lone_surrogate_has_a_key() -> None:
    assert replace(ASKED, text="\ud800").key != replace(ASKED, text="\ud801").key


@pytest.mark.parametrize(("regions", "limit"), [((), 256), ((1,), 448), ((1, 2, 3), 832)])
def test_token_limit(regions: tuple[int, ...], limit: int) -> None:
    assert replace(ASKED, regions=regions).token_limit == limit
    assert replace(ASKED, regions=regions, max_tokens=77).token_limit == 77


def test_asking_for_the_rest_changes_the_regions_and_nothing_else() -> None:
    rest = ASKED.only([2])
    assert rest.regions == (2,)
    assert rest.asked_again
    assert replace(rest, regions=ASKED.regions, asked_again=False) == ASKED
    assert "<region2> only" in rest.instructions("text")


@pytest.mark.parametrize("form", ["json_schema", "json_object", "text"])
def test_instructions_carry_style_language_and_view(form: str) -> None:
    question = replace(ASKED, caption_style="phrase", language="Thai", view="both")
    text = question.instructions(form)
    assert "noun phrase" in text
    assert "Write in Thai." in text
    assert "crop" in text


class Slow:
    """Something in a question that takes long to be hashed."""

    def __init__(self) -> None:
        self.begun, self.release = threading.Event(), threading.Event()

    def __repr__(self) -> str:
        self.begun.set()
        self.release.wait(200)
        return "slow"


@forks
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_that_is_forked_while_a_key_is_made_can_make_one() -> None:
    slow = Slow()
    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(lambda: replace(ASKED, extra_body={"slow": slow}).key)
        slow.begun.wait(60)
        try:
            assert in_a_fork(lambda: replace(ASKED, text="In the child.").key) == 0
        finally:
            slow.release.set()
        assert len(made.result(60)) == 64
