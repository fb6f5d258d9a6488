"""Counts and names to the text of a request."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_regioncap.errors import OptionError
from hf_regioncap.prompts import (
    LABELS,
    PROMPT,
    STYLES,
    SYSTEM_PROMPT,
    answer_schema,
    fill_template,
    instructions,
    label_text,
    list_labels,
    list_regions,
    prompt_template,
    region_mark,
    region_range,
    template_fields,
)

FORMS = ["json_schema", "json_object", "text"]


# --- the seed's wording -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (
            1,
            "Describe the content of each marked region in the image. "
            "There are 1 regions: <region1> to <region1>.",
        ),
        (
            12,
            "Describe the content of each marked region in the image. "
            "There are 12 regions: <region1> to <region12>.",
        ),
    ],
)
def test_the_seeds_prompt(count: int, expected: str) -> None:
    assert fill_template(prompt_template(None, labelled=False), count=count) == expected


def test_the_seeds_system_prompt() -> None:
    assert SYSTEM_PROMPT == "You are a helpful assistant."


def test_labels_follow_the_seeds_prompt() -> None:
    template = prompt_template(None, labelled=True)
    filled = fill_template(template, count=2, labels=["cat", "dog"])
    seeds = fill_template(PROMPT, count=2)
    assert filled == seeds + ' Their labels are <region1> "cat", <region2> "dog".'


@pytest.mark.parametrize("labels", [[], [None, None], ["", "  "]])
def test_without_any_label_nothing_is_said_of_them(labels: list[str | None]) -> None:
    template = prompt_template(None, labelled=True)
    assert fill_template(template, count=2, labels=labels) == fill_template(PROMPT, count=2)
    own = "Labels: {labels}. What is there?"
    assert fill_template(own, count=2, labels=labels) == "Labels: . What is there?"


def test_a_users_own_prompt_is_taken_as_it_is() -> None:
    assert prompt_template("", labelled=True) == ""
    assert prompt_template("What?", labelled=True) == "What?"
    assert prompt_template(None, labelled=True) == PROMPT + LABELS


# --- names of regions and labels --------------------------------------------------------------


@pytest.mark.parametrize(
    ("regions", "expected"),
    [
        ([], ""),
        ([3], "<region3>"),
        ([1, 2], "<region1> and <region2>"),
        ([2, 5, 6], "<region2>, <region5> and <region6>"),
    ],
)
def test_list_regions(regions: list[int], expected: str) -> None:
    assert list_regions(regions) == expected


@pytest.mark.parametrize(("count", "last"), [(1, 1), (10, 10), (24, 24)])
def test_region_range(count: int, last: int) -> None:
    assert region_range(count) == f"{region_mark(1)} to <region{last}>"


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([], ""),
        ([None], ""),
        (["", " \t"], ""),
        (["cat"], '<region1> "cat"'),
        ([None, "dog"], '<region2> "dog"'),
        (['a "big" cat'], "<region1> \"a 'big' cat\""),
        (["two\nlines\r\n  and   spaces "], '<region1> "two lines and spaces"'),
        (["x" * 80], f'<region1> "{"x" * 80}"'),
        (["x" * 81], f'<region1> "{"x" * 79}…"'),
        (["猫"], '<region1> "猫"'),
    ],
)
def test_list_labels(labels: list[str | None], expected: str) -> None:
    assert list_labels(labels) == expected


@given(st.lists(st.none() | st.text(max_size=200), max_size=6))
def test_labels_stay_inside_their_quotes(labels: list[str | None]) -> None:
    text = list_labels(labels)
    assert text.count('"') % 2 == 0
    assert "\n" not in text
    marks = re.findall(r'<region(\d+)> "([^"]*)"(?:, |$)', text)
    assert ", ".join(f'<region{number}> "{label}"' for number, label in marks) == text
    assert all(0 < len(label) <= 80 for _, label in marks)


@pytest.mark.parametrize(
    ("value", "names", "expected"),
    [
        (None, None, None),
        (None, ["cat"], None),
        ("bird", None, "bird"),
        ("bird", ["cat"], "bird"),
        (0, ["cat", "dog"], "cat"),
        (1, ("cat", "dog"), "dog"),
        (np.int64(1), ["cat", "dog"], "dog"),
        (1.0, ["cat", "dog"], "dog"),
        (17, {17: "cat"}, "cat"),
        (1, {17: "cat"}, None),
        (1, None, None),
        (2, ["cat", "dog"], None),
        (-1, ["cat", "dog"], None),
        (0.5, ["cat", "dog"], None),
        (True, ["cat", "dog"], None),
        (float("nan"), ["cat"], None),
        (float("inf"), ["cat"], None),
        (b"1", ["cat", "dog"], None),
        ([1], ["cat", "dog"], "dog"),
        ([], ["cat"], None),
        ([[], ""], ["cat"], None),
        ({}, ["cat", "dog"], None),
    ],
)
def test_label_text(value: Any, names: Any, expected: str | None) -> None:
    assert label_text(value, names) == expected


# --- templates --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "fields"),
    [
        ("", []),
        ("no fields", []),
        ("{count}", ["count"]),
        ("{count} and {count}", ["count", "count"]),
        ("{regions} {labels} {objects.area}", ["regions", "labels", "objects.area"]),
        ("{{count}}", []),
        ('a JSON example: {{"1": "{city}"}}', ["city"]),
    ],
)
def test_template_fields(template: str, fields: list[str]) -> None:
    assert template_fields(template) == fields


@pytest.mark.parametrize(
    "template",
    [
        "{}",
        "{count",
        "count}",
        "{",
        "}",
        "{count!r}",
        "{count:>10}",
        "{count:{width}}",
        "{city[0]}",
        "{city[__class__]}",
        '{"1": "a cat"}',
    ],
)
def test_templates_that_are_refused(template: str) -> None:
    with pytest.raises(OptionError, match=r"^system_prompt"):
        template_fields(template, "system_prompt")


def test_an_attribute_is_only_ever_a_columns_name() -> None:
    asked: list[str] = []

    def column(name: str) -> str:
        asked.append(name)
        return "?"

    assert fill_template("{city.__class__}", count=1, column=column) == "?"
    assert asked == ["city.__class__"]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("", ""),
        ("{count} things", "3 things"),
        ("{regions}", "<region1> to <region3>"),
        ("{{count}} is {count}", "{count} is 3"),
        ("{city} in {year}", "Rome in 1960"),
        ("[{nothing}]", "[]"),
        ("{braces}", "{count} {0} {labels.__class__}"),  # what a row says is never a template
    ],
)
def test_fill_template(template: str, expected: str) -> None:
    row = {
        "city": "Rome",
        "year": 1960,
        "nothing": None,
        "braces": "{count} {0} {labels.__class__}",
    }
    assert fill_template(template, count=3, column=row.__getitem__) == expected


def test_own_fields_come_before_columns_of_the_same_name() -> None:
    assert fill_template("{count}", count=3, column=lambda name: "a column") == "3"


def test_a_field_without_columns_is_an_error() -> None:
    with pytest.raises(OptionError, match="no column 'city'"):
        fill_template("{city}", count=1)


@given(st.text(max_size=50))
def test_any_template_is_refused_or_filled(template: str) -> None:
    try:
        fields = template_fields(template)
    except OptionError:
        return
    filled = fill_template(template, count=2, column=lambda name: f"<{name}>")
    assert isinstance(filled, str)
    for field in set(fields) - {"count", "regions", "labels"}:
        assert f"<{field}>" in filled


# --- what goes with the prompt ----------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("view", ["overlay", "crop", "both"])
@pytest.mark.parametrize("regions", [[1], [3], [1, 2, 3], [2, 5]])
def test_every_region_asked_for_is_named(form: str, view: str, regions: list[int]) -> None:
    text = instructions(regions, form=form, view=view)
    if form == "text":
        assert region_mark(regions[0]) in text
    else:
        assert [int(key) for key in re.findall(r'"(\d+)"', text)] == regions
        assert "JSON" in text  # some endpoints refuse json_object where the text has no "JSON"


@pytest.mark.parametrize("form", FORMS)
def test_asked_again_names_what_is_missing(form: str) -> None:
    text = instructions([2, 5], form=form, asked_again=True)
    assert "<region2> and <region5> only" in text
    assert "<region2> and <region5> only" not in instructions([2, 5], form=form)


@pytest.mark.parametrize("style", [None, *STYLES])
@pytest.mark.parametrize("language", [None, "German"])
def test_style_and_language_are_said_once(style: str | None, language: str | None) -> None:
    text = instructions([1, 2], form="text", caption_style=style, language=language)
    assert text.count("Write in German.") == (language is not None)
    for name, words in STYLES.items():
        assert text.count(words) == (name == style)


def test_the_pictures_are_explained() -> None:
    assert "crop" in instructions([4], form="text", view="crop")
    both = instructions([4], form="text", view="both")
    assert both.index("whole image") < both.index("second a crop")
    assert "crop" not in instructions([4], form="text", view="overlay")


@pytest.mark.parametrize("regions", [[], [1], [2, 5, 11]])
def test_answer_schema(regions: list[int]) -> None:
    schema = answer_schema(regions)
    keys = [str(region) for region in regions]
    assert list(schema["properties"]) == schema["required"] == keys
    assert schema["additionalProperties"] is False
    assert schema["type"] == "object"
    assert json.loads(json.dumps(schema)) == schema
