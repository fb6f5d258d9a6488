"""Recipes: what is told of a run, and what a stranger's file can bring about."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from hf_regioncap.errors import OptionError
from hf_regioncap.flags import add_option_flags, options_from_flags
from hf_regioncap.recipe import left_out, make_recipe, published_recipe, read_recipe

CANARY = "canary-7f3a"
ELSEWHERE = "https://api.example.com/v1"


def written(tmp_path: Path, recipe: Any) -> Path:
    file = tmp_path / "recipe.json"
    file.write_text(recipe if isinstance(recipe, str) else json.dumps(recipe), encoding="utf-8")
    return file


def read(tmp_path: Path, recipe: Any, **options: Any) -> tuple[dict[str, Any], str]:
    told: list[str] = []
    taken = read_recipe(written(tmp_path, recipe), tell=told.append, **options)
    return taken, "\n".join(told)


def flags(tmp_path: Path, recipe: Any, *words: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    add_option_flags(parser)
    return options_from_flags(parser.parse_args(words), recipe=written(tmp_path, recipe))


# What is written


def test_no_value_that_may_be_a_key_or_a_place_is_written(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "api_key_env": CANARY,
        "extra_headers": {"X": CANARY},
        "extra_query": {"key": CANARY},
        "extra_body": {"auth": CANARY, "pin": 7071, "deep": {"bearer": [CANARY]}},
        "image_root": tmp_path,
        "answer_store": tmp_path / CANARY,
        "store_tag": CANARY,
        "prompt": f"as in /home/ada/{CANARY}.txt: {{count}}",
        "base_url": "http://10.1.2.3:8000/v1",
    }
    expected = [
        *("answer_store", "base_url", "extra_body.auth", "extra_body.deep", "extra_body.pin"),
        *("extra_headers.X", "extra_query.key", "image_root", "prompt", "store_tag"),
    ]
    for recipe in (make_recipe(**options), published_recipe(options)):
        assert recipe["left_out"] == expected
        text = json.dumps(recipe)
        assert recipe["prompt"] == "as in [path]: {count}"
        for secret in (CANARY, "7071", str(tmp_path), "10.1.2.3"):
            assert secret not in text
        assert published_recipe(recipe) == recipe


def test_nothing_is_said_to_be_missing_where_nothing_is() -> None:
    assert "left_out" not in make_recipe(base_url="offline", api_key_env="MINE")
    assert left_out({"seed": None, "store_tag": None, "system_prompt": ""}) == []
    assert left_out({"extra_body": {"<b>\n": 1}}) == ["extra_body"]


def find(image: Any) -> list[list[float]]:
    return [[0, 0, 1, 1]]


def test_a_callable_is_told_by_its_name() -> None:
    assert make_recipe(propose=find)["propose"] == f"{__name__}:find"


# What is read


def test_a_strangers_recipe_brings_options_and_nothing_else(tmp_path: Path) -> None:
    recipe = {
        "base_url": ELSEWHERE,
        "view": "crop",
        "parse": "cProfile:run",
        "propose": "os:system",
        "api_key_env": CANARY,
        "extra_headers": {"X-Key": CANARY},
        "extra_query": {"key": CANARY},
        "extra_body": {"api_base": "http://10.0.0.1"},
        "image_root": "/",
        "answer_store": str(tmp_path / "placed.sqlite"),
        "store_tag": "t",
        "versions": {"python": "3"},
    }
    options, told = read(tmp_path, recipe)
    assert options == {"base_url": ELSEWHERE, "view": "crop"}
    for name in set(recipe) - {"base_url", "view", "versions"}:
        assert f"{name} (" in told
        assert f"--{name.replace('_', '-')}" in told
    assert "'cProfile:run', code" in told
    assert ELSEWHERE in told
    assert CANARY not in told


def test_what_is_passed_anyway_is_not_told(tmp_path: Path) -> None:
    recipe = {"parse": "a:b", "base_url": ELSEWHERE, "left_out": ["extra_body.top_k"]}
    options, told = read(tmp_path, recipe, given=("parse", "base_url", "extra_body"))
    assert (options, told) == ({}, "")


def test_what_was_left_out_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = make_recipe(base_url="http://gpu-box:8000/v1", extra_body={"top_k": 4}, view="crop")
    with pytest.raises(OptionError, match=r"without its address, .* pass base_url"):
        read(tmp_path, recipe)
    options, told = read(tmp_path, recipe, given=("base_url",))
    assert options["view"] == "crop"
    assert "without extra_body.top_k: pass --extra-body where" in told
    monkeypatch.setenv("OPENAI_BASE_URL", ELSEWHERE)
    assert "base_url" not in read(tmp_path, recipe)[0]


@pytest.mark.parametrize("propose", ["contours", None])
def test_what_is_no_code_is_taken(propose: str | None, tmp_path: Path) -> None:
    recipe = make_recipe(base_url="offline", propose=propose, temperature=None)
    options, told = read(tmp_path, recipe)
    assert (options["propose"], options["temperature"], told) == (propose, None, "")


def test_hostile_names_and_values_stay_one_harmless_line(tmp_path: Path) -> None:
    hostile = "\x1b[2J\n" + "x" * 9000
    recipe = {"parse": hostile, "left_out": [hostile, "prompt", 7, "seed." * 99]}
    _, told = read(tmp_path, recipe)
    assert "\x1b" not in told
    assert len(told) < 600
    assert "without prompt, seed" in told
    assert read(tmp_path, {"left_out": "prompt"})[1] == ""


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("[" * 100_000, "is not JSON"),
        ("[1]", "not a JSON object"),
        ({"label_names": {"one": "cat"}}, "label_names must map numbers"),
    ],
)
def test_a_file_that_is_no_recipe_is_an_error(recipe: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=words):
        read(tmp_path, recipe)


# With flags


def test_a_flag_imports_and_a_recipe_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert flags(tmp_path, {"parse": "json:loads"}) == {}
    assert "pass --parse if that is meant" in capsys.readouterr().err
    assert flags(tmp_path, {"parse": "os:system"}, "--parse", "json:loads") == {"parse": json.loads}
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("api_key_env", "MINE"),
        ("extra_headers", '{"X": "canary"}'),
        ("extra_query", '{"key": "canary"}'),
        ("extra_body", '{"key": "canary"}'),
    ],
)
def test_no_key_goes_where_only_a_recipe_says(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--" + name.replace("_", "-"), value]
    recipe = {"base_url": ELSEWHERE}
    with pytest.raises(OptionError, match=f"{name} would go to '{ELSEWHERE}'") as raised:
        flags(tmp_path, recipe, *words)
    assert "canary" not in str(raised.value)
    assert flags(tmp_path, recipe, *words, "--base-url", ELSEWHERE)["base_url"] == ELSEWHERE
    assert flags(tmp_path, recipe, "--api-key-env", "")["base_url"] == ELSEWHERE
    assert name in flags(tmp_path, {"base_url": "https://api.openai.com/v1"}, *words)
    monkeypatch.setenv("OPENAI_BASE_URL", ELSEWHERE)
    assert name in flags(tmp_path, recipe, *words)


def test_a_flag_that_is_no_json_shows_no_key(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"extra_headers is not JSON$"):
        flags(tmp_path, {}, "--extra-headers", '{"X-Key": canary}')
