"""Every option, its check and the words of its error."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hf_regioncap import prompts
from hf_regioncap.errors import OptionError, RegionCaptionError
from hf_regioncap.options import MOST_PIXELS, OptionKwargs, Options, read_options

# The contract's defaults.
DEFAULTS: dict[str, Any] = {
    "image_column": "image",
    "image_root": None,
    "max_pixels": 64_000_000,
    "max_side": None,
    "quality": 90,
    "bbox_column": "bbox",
    "box_format": "xywh",
    "box_unit": "pixel",
    "max_boxes": 10,
    "propose": "contours",
    "label_column": None,
    "label_names": None,
    "prompt": None,
    "system_prompt": None,
    "prompt_column": None,
    "caption_style": None,
    "language": None,
    "view": "overlay",
    "mark": "box",
    "model": "gpt-4o-mini",
    "base_url": None,
    "api_key_env": None,
    "concurrency": 32,
    "temperature": 0,
    "max_tokens": None,
    "seed": None,
    "timeout": 120,
    "extra_headers": None,
    "extra_query": None,
    "extra_body": None,
    "reask": 1,
    "parse": None,
    "on_error": "record",
}


def test_no_options() -> None:
    assert read_options({}) == Options()
    assert read_options({}).given == frozenset()


@pytest.mark.parametrize(("name", "default"), DEFAULTS.items())
def test_the_contracts_defaults(name: str, default: Any) -> None:
    assert getattr(Options(), name) == default


def test_every_option_is_a_keyword_argument_and_nothing_else() -> None:
    names = {field.name for field in dataclasses.fields(Options)}
    assert set(OptionKwargs.__annotations__) == names - {"given"}
    with pytest.raises(TypeError):
        Options("image")  # type: ignore[call-arg]


def test_the_defaults_themselves_pass() -> None:
    given_options = {name: getattr(Options(), name) for name in OptionKwargs.__annotations__}
    assert read_options(given_options).given == set(given_options)


def test_what_was_given_is_remembered() -> None:
    assert read_options({"bbox_column": "bbox", "seed": 3}).given == {"bbox_column", "seed"}


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("max_box", "did you mean 'max_boxes'?"),
        ("baseurl", "did you mean 'base_url'?"),
        ("Model", "did you mean 'model'?"),
        ("xyzzy", "the options are image_column, image_root, "),
        ("given", "the options are "),
    ],
)
def test_an_unknown_option(name: str, hint: str) -> None:
    with pytest.raises(OptionError, match=f"unknown option '{name}'") as caught:
        read_options({name: 1})
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("box_format", ["xywh", "xyxy", "cxcywh"]),
        ("box_unit", ["pixel", "fraction", "permille"]),
        ("view", ["overlay", "crop", "both"]),
        ("caption_style", [None, "phrase", "sentence", "detailed", "distinct"]),
        ("detail", [None, "auto", "low", "high"]),
        ("answer_form", [None, "json_schema", "json_object", "text"]),
        ("token_parameter", [None, "max_tokens", "max_completion_tokens"]),
        ("on_error", ["record", "raise"]),
        ("mark", ["box", "corners", "tag", "dim", "blur", "dataflow"]),
        ("propose", ["contours", None]),
    ],
)
def test_choices(name: str, choices: list[Any]) -> None:
    for choice in choices:
        assert getattr(read_options({name: choice}), name) == choice
    wrong = ["", "coco", 1, True, b"box", *([] if None in choices else [None])]
    for value in wrong:
        with pytest.raises(OptionError, match=name) as caught:
            read_options({name: value})
        assert all(repr(choice) in str(caught.value) for choice in choices if choice)
        assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("max_pixels", [1, 178_956_970], [0, -1, 1.5, 178_956_971, math.inf, None]),
        ("max_side", [None, 28, 4000], [0, 27, 100.0]),
        ("quality", [1, 100], [0, 101, None]),
        ("max_boxes", [1, 1000], [0, 1001, 2.0, None]),
        ("concurrency", [1, 4096], [0, 4097, None]),
        ("temperature", [None, 0, 0.7, 2], [-0.1, 2.1, math.nan, math.inf]),
        ("max_tokens", [None, 1, 10**6], [0, 1.5]),
        ("seed", [None, 0, -5, 2**70], [1.5]),
        ("timeout", [0.5, 120, math.inf], [0, -1, math.nan, None]),
        ("reask", [0, 10], [-1, 11, None]),
    ],
)
def test_numbers(name: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert getattr(read_options({name: value}), name) == value
    for value in [*bad, "3", True, [3], 3j]:
        with pytest.raises(OptionError, match=f"{name} must be a"):
            read_options({name: value})


def test_more_pixels_than_pillow_opens_are_refused_in_clear_words() -> None:
    assert 2 * (Image.MAX_IMAGE_PIXELS or 0) == MOST_PIXELS
    words = (
        r"max_pixels must be .* from 1 to 178956970 \(Pillow opens no larger image\), got 10{9}$"
    )
    with pytest.raises(OptionError, match=words):
        read_options({"max_pixels": 10**9})


def test_every_style_that_has_words_can_be_asked_for() -> None:
    for style in prompts.STYLES:
        assert read_options({"caption_style": style}).caption_style == style


@pytest.mark.parametrize(
    "name",
    [
        *("image_column", "bbox_column", "label_column", "prompt", "system_prompt"),
        *("prompt_column", "language", "model", "api_key_env", "store_tag", "column_prefix"),
    ],
)
def test_texts(name: str) -> None:
    assert getattr(read_options({name: "a text"}), name) == "a text"
    for value in (5, b"a text", ["a text"], Path("a text")):
        with pytest.raises(OptionError, match=f"{name} must be "):
            read_options({name: value})


@pytest.mark.parametrize("name", ["image_root", "answer_store"])
def test_paths(name: str, tmp_path: Path) -> None:
    for value in (str(tmp_path), tmp_path, None):
        assert getattr(read_options({name: value}), name) == value
    for wrong in (5, b"a/b", ["a/b"]):
        with pytest.raises(OptionError, match=name):
            read_options({name: wrong})


def test_a_root_that_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"image_root must be a folder, got .*missing"):
        read_options({"image_root": tmp_path / "missing"})


@pytest.mark.parametrize("name", ["image_column", "bbox_column", "model", "column_prefix"])
def test_texts_that_must_be_there(name: str) -> None:
    with pytest.raises(OptionError, match=f"{name} must be"):
        read_options({name: None})


@pytest.mark.parametrize(
    "address",
    [
        None,
        "offline",
        "http://localhost:8000/v1",
        "https://api.example.com/v1/",
        "http://[::1]:8080/v1",
        "HTTP://EXAMPLE.COM",
    ],
)
def test_addresses(address: str | None) -> None:
    assert read_options({"base_url": address}).base_url == address


@pytest.mark.parametrize(
    "address",
    [
        "",
        "localhost:8000/v1",
        "api.example.com/v1",
        "http://",
        "https:///v1",
        "ftp://example.com",
        "file:///etc/passwd",
        "http://[::1",
        "http://example.com:port/v1",
        "http://example.com:99999/v1",
        " http://example.com/v1",
        "http://example.com/v1\n",
        "Offline",
    ],
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(OptionError, match="base_url must be 'offline' or an address like"):
        read_options({"base_url": address})


@pytest.mark.parametrize(
    "address", ["https://user:hunter22@example.com/v1", "https://api.openai.com@example.com/v1"]
)
def test_no_key_in_an_address(address: str) -> None:
    with pytest.raises(OptionError, match="api_key_env") as caught:
        read_options({"base_url": address})
    assert "hunter22" not in str(caught.value)


@pytest.mark.parametrize("name", ["extra_headers", "extra_query", "extra_body"])
def test_mappings(name: str) -> None:
    for value in ({}, {"x-a": "b"}, None):
        assert getattr(read_options({name: value}), name) == value
    for wrong in ("sk-secret", [("Authorization", "sk-secret")], 5):
        with pytest.raises(OptionError, match=f"{name} must be a mapping") as caught:
            read_options({name: wrong})
        assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["model", "messages", "stream", "n"])
def test_fields_that_are_the_librarys_own(name: str) -> None:
    with pytest.raises(OptionError, match=f"must not hold .*'{name}'"):
        read_options({"extra_body": {name: 1, "top_p": 0.5}})


@pytest.mark.parametrize(
    "body", [{"a": object()}, {"a": {1, 2}}, {"a": math.nan}, {1: "a", "b": 2}, {"a": b"bytes"}]
)
def test_fields_that_json_cannot_hold(body: Mapping[Any, Any]) -> None:
    with pytest.raises(OptionError, match="extra_body must be what JSON can hold"):
        read_options({"extra_body": body})


@pytest.mark.parametrize(
    "headers", [{"X-A": "two\r\nlines"}, {"X A\n": "b"}, {"X-A": "sk-secret é"}, {"X-A": "\x00"}]
)
def test_headers_that_http_cannot_carry(headers: dict[str, str]) -> None:
    with pytest.raises(OptionError, match=r"extra_headers: .* no HTTP header can carry") as caught:
        read_options({"extra_headers": headers})
    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize("names", [["cat"], ("cat", "dog"), {17: "cat"}, []])
def test_label_names(names: Any) -> None:
    assert read_options({"label_column": "label", "label_names": names}).label_names == names


@pytest.mark.parametrize("names", ["cat", 5, object()])
def test_what_is_no_label_names(names: Any) -> None:
    with pytest.raises(OptionError, match="label_names must be a list of names or a mapping"):
        read_options({"label_column": "label", "label_names": names})


def test_options_that_need_or_exclude_each_other() -> None:
    with pytest.raises(OptionError, match="label_names needs label_column"):
        read_options({"label_names": ["cat"]})
    with pytest.raises(OptionError, match="prompt and prompt_column exclude each other"):
        read_options({"prompt": "?", "prompt_column": "question"})


@pytest.mark.parametrize("name", ["propose", "parse"])
def test_callables(name: str) -> None:
    assert callable(getattr(read_options({name: print}), name))
    with pytest.raises(OptionError, match=f"{name} must be"):
        read_options({name: 5})


@pytest.mark.parametrize("mark", [{}, {"thickness": 3}])
def test_a_mark_by_its_parameters(mark: dict[str, Any]) -> None:
    assert read_options({"mark": mark}).mark == mark


@pytest.mark.parametrize("mark", [{"thick": 3}, 5, None, {"thickness": "wide"}])
def test_a_mark_that_cannot_be_drawn(mark: Any) -> None:
    with pytest.raises(OptionError):
        read_options({"mark": mark})


def test_options_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Options().model = "another"  # type: ignore[misc]


anything = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
nested = anything | st.lists(anything, max_size=3) | st.dictionaries(st.text(max_size=5), anything)


@given(st.dictionaries(st.sampled_from(list(OptionKwargs.__annotations__)), nested, max_size=4))
def test_any_value_is_taken_or_refused_in_words(options: dict[str, Any]) -> None:
    with contextlib.suppress(OptionError):
        read = read_options(options)
        for name, value in options.items():
            assert getattr(read, name) == value


def test_an_option_error_is_a_value_error_too() -> None:
    assert issubclass(OptionError, RegionCaptionError)
    assert issubclass(OptionError, ValueError)
