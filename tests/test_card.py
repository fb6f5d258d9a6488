"""The card as the Hub's own classes read it, and with people's words and hostile data in it."""

from __future__ import annotations

import json
import re
from typing import Any

import pyarrow as pa
import pytest
import yaml
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from huggingface_hub import DatasetCard
from hypothesis import given
from hypothesis import strategies as st

from hf_regioncap.card import (
    add_rows,
    as_code,
    as_code_block,
    data_folder,
    dataset_card,
    empty_summary,
    named_splits,
    public_recipe,
    summarize,
)
from hf_regioncap.columns import column_features
from hf_regioncap.errors import OptionError, PublishError

RECIPE = {
    "model": "gpt-4o-mini",
    "base_url": "https://user:pw@api.example.com:8443/v1/secret-account?key=SECRET",
    "view": "overlay",
    "mark": {"preset": "dim", "strength": 0.3},
    "max_boxes": 10,
    "temperature": 0.0,
    "versions": {"hf_regioncap": "0.1.0", "datasets": "5.2.0"},
}
HOSTILE = [
    "<script>alert(1)</script>",
    '<img src=x onerror="alert(1)">',
    "![pixel](http://evil.example/x.png)",
    "[click](javascript:alert(1))",
    "one ` two `` three ``` four",
    "a | b | c \\| d",
    "line\n---\nlicense: mit\n---\n# Heading",
    "<!-- hf_regioncap:end default --> free text",
    "- item\n\n> quote\n\n    code",
    "\u202egnitirw\u202c \x1b[31mred\x00",
    "http://evil.example www.evil.example @everyone",
]


def rows(captions: list[list[str | None]], **columns: Any) -> Dataset:
    count = len(captions)
    filled: dict[str, Any] = {name: [None] * count for name in column_features()}
    filled |= {
        "type": ["with_bbox"] * count,
        "image_status": ["ok"] * count,
        "box_status": [["ok" if text else "outside" for text in row] for row in captions],
        "region_captions": captions,
        "answer_status": ["ok"] * count,
        "answer": ["…"] * count,
        "usage": [{"prompt_tokens": 100, "completion_tokens": 10}] * count,
        "prompt": ["Describe them."] * count,
        **columns,
    }
    return Dataset.from_dict(filled, features=column_features())


def read(card: str) -> DatasetCard:
    return DatasetCard(card)


def without_code(markdown: str) -> str:
    """What of a card is markup: the text outside fenced blocks and code spans (CommonMark)."""
    text = re.sub(r"^(`{3,})\w*\n.*?^\1$", "", markdown, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", "", text)


def cells(card: str) -> list[int]:
    """How many bars each line of a table has: one more would be a cell more."""
    return [line.count("|") for line in card.splitlines() if line.startswith("|")]


# summarize


def test_nothing_is_counted_as_nothing() -> None:
    empty = Dataset.from_dict({name: [] for name in column_features()}, features=column_features())
    summary = summarize(empty)
    assert {k: summary[k] for k in ("rows", "boxes", "captions", "prompt_tokens")} == {
        "rows": 0,
        "boxes": 0,
        "captions": 0,
        "prompt_tokens": 0,
    }
    assert summary["splits"] == {"train": 0}
    assert summarize(DatasetDict())["splits"] == {}


def test_everything_is_counted() -> None:
    data = rows(
        [["a", None], [], [None]],
        answer_status=["ok", "no_boxes", "api_error"],
        image_status=["ok", "ok", "image_null"],
        type=["with_bbox", "without_bbox", "with_bbox"],
        usage=[{"prompt_tokens": 7, "completion_tokens": None}, None, None],
        answer=["a", None, "cut"],
    )
    summary = summarize(DatasetDict({"train": data, "test": data.select([0])}))
    assert summary["rows"] == 4
    assert summary["splits"] == {"train": 3, "test": 1}
    assert summary["answer_status"] == {"ok": 2, "no_boxes": 1, "api_error": 1}
    assert summary["image_status"] == {"ok": 3, "image_null": 1}
    assert summary["type"] == {"with_bbox": 3, "without_bbox": 1}
    assert summary["box_status"] == {"ok": 2, "outside": 3}
    assert (summary["boxes"], summary["captions"]) == (5, 2)
    assert (summary["prompt_tokens"], summary["completion_tokens"]) == (14, 0)
    assert summary["usage_unknown"] == 1
    assert summary["prompt"] == "Describe them."
    assert json.loads(json.dumps(summary)) == summary


def test_a_prefix_and_a_stream_count_the_same() -> None:
    data = rows([["a"], ["b", "c"]])
    plain = summarize(data)
    assert summarize(data.to_iterable_dataset()) == plain
    prefixed = data.rename_columns({name: f"my_{name}" for name in data.column_names})
    named = summarize(prefixed, column_prefix="my_")
    for key in ("rows", "captions", "answer_status", "box_status", "prompt_tokens", "prompt"):
        assert named[key] == plain[key]
    assert summarize(prefixed)["answer_status"] == {}


def test_counting_decodes_no_image() -> None:
    features = Features({"image": Image(), **column_features()})
    broken = {"bytes": b"not an image", "path": None}
    listed = [
        {
            "image": broken,
            "image_with_bbox": broken,
            **rows([["a"]]).remove_columns("image_with_bbox")[0],
        }
    ]
    assert summarize(Dataset.from_list(listed, features=features))["captions"] == 1


def test_rows_without_our_columns_are_counted() -> None:
    assert summarize(Dataset.from_dict({"text": ["a", "b"]}))["rows"] == 2


def test_long_columns_are_counted_in_parts() -> None:
    summary = empty_summary()
    chunked = pa.chunked_array([[["ok"], ["outside", "ok"]], [["ok"]]])
    add_rows(summary, "train", pa.table({"box_status": chunked}))
    assert summary["box_status"] == {"ok": 3, "outside": 1}


def test_split_names() -> None:
    data = rows([["a"]])
    assert list(named_splits(data)) == ["train"]
    with pytest.raises(OptionError, match="got 'a/b'"):
        named_splits({"a/b": data})
    with pytest.raises(OptionError, match="got str"):
        named_splits("data")


# public_recipe


@pytest.mark.parametrize(
    ("recipe", "shown"),
    [
        ({}, {}),
        (None, {}),
        ({"model": None, "view": "crop"}, {"view": "crop"}),
        ({"propose": None, "temperature": None},) * 2,
        ({"seed": None, "answer_store": None}, {}),
        ({"base_url": "offline"}, {"base_url": "offline"}),
        (
            {"base_url": "https://ada:pw@host.example:8000/v1?key=k#f"},
            {"base_url": "https://host.example:8000/v1"},
        ),
        ({"model": "/home/ada/models/m.gguf"}, {"model": "m.gguf"}),
        ({"model": "local:/home/ada/m.gguf"}, {"model": "local:m.gguf"}),
        ({"model": "C:\\Users\\ada\\m.gguf"}, {"model": "m.gguf"}),
        ({"model": "org/model"}, {"model": "org/model"}),
        ({"input": "../data/rows.jsonl"}, {"input": "rows.jsonl"}),
        ({"prompt": "/no_think Describe {count}"}, {"prompt": "/no_think Describe {count}"}),
        ({"extra_headers": {"X-Key": "k"}, "extra_query": {"k": "v"}, "api_key_env": "K"}, {}),
        ({"image_root": "/home/ada", "answer_store": "/home/ada/a.sqlite", "store_tag": "t"}, {}),
        ({"api_key": "k", "hf_token": "t", "OPENAI_API_KEY": "k", "password": "p"}, {}),
        ({"max_tokens": 9, "token_parameter": "max_tokens"},) * 2,
        (
            {
                "extra_body": {"top_k": 1, "api_key": "k"},
                "left_out": ["extra_query.k"],
                "view": "v",
            },
            {"view": "v"},
        ),
        ({"prompt": "as in /home/ada/p.txt: {count}"}, {"prompt": "as in [path]: {count}"}),
        ({"base_url": "http://127.0.0.1:8000/v1"},) * 2,
        ({"base_url": "http://10.1.2.3:8000/v1"}, {}),
        ({"base_url": "http://[fd00::1]:8000/v1"}, {}),
        ({"base_url": "http://gpu-box:8000/v1"}, {}),
        ({"base_url": "https://vllm.ada.internal/v1"}, {}),
        ({"parse": public_recipe}, {"parse": "public_recipe"}),
        (
            {"propose": lambda image: image, "x": float("nan"), "y": object()},
            {"propose": "<lambda>"},
        ),
        ({"label_names": ["cat", "dog"], "mark": {"colors": ("#fff",)}},) * 2,
    ],
)
def test_a_recipe_loses_what_is_nobodys_business(recipe: Any, shown: Any) -> None:
    public = public_recipe(recipe)
    assert json.loads(json.dumps(public)) == json.loads(json.dumps(shown))


# The text


def test_the_metadata_is_what_the_hub_expects() -> None:
    card = read(dataset_card(summarize(rows([["a"]])), recipe=RECIPE, source="ada/photos"))
    data = card.data.to_dict()
    assert data["annotations_creators"] == ["machine-generated"]
    assert data["source_datasets"] == ["ada/photos"]
    assert {"synthetic", "region-captioning"} <= set(data["tags"])
    assert data["task_categories"] == ["image-to-text", "object-detection"]
    assert data["size_categories"] == ["n<1K"]
    assert data["configs"] == [
        {"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}
    ]
    assert "license" not in data


def test_it_says_how_the_data_was_made() -> None:
    text = dataset_card(summarize(rows([["a"], [None]])), recipe=RECIPE, repo_id="ada/captions")
    for words in ("`gpt-4o-mini`", "api.example.com", "overlay", "dim", "200 in, 20 out"):
        assert words in text
    for words in ("hf_regioncap 0.1.0", "Describe them.", "recipe.json", "No licence is stated"):
        assert words in text
    assert 'load_dataset("ada/captions", split="train")' in text
    assert "# captions\n" in text
    for secret in ("SECRET", "user:pw", "secret-account", "8443"):
        assert secret not in text


def test_the_describer_is_called_what_it_is() -> None:
    for recipe in ({"base_url": "offline", "model": "gpt-4o-mini"}, {"model": "offline-describer"}):
        text = dataset_card(summarize(rows([["a"]])), recipe=recipe)
        assert "No model looked at these images" in text
        assert "gpt-4o-mini" not in text
    assert "No model looked" not in dataset_card(summarize(rows([["a"]])), recipe=RECIPE)


def test_boxes_that_nobody_proposed_are_not_called_proposed() -> None:
    summary = summarize(rows([["a"]], type=["without_bbox"]))
    words = "Boxes proposed for them by contours"
    assert words in dataset_card(summary, recipe=RECIPE)
    for propose in (None, "detectors:find"):
        assert words not in dataset_card(summary, recipe={**RECIPE, "propose": propose})


def test_a_review_is_told() -> None:
    summary = summarize(rows([["a"], ["b"]]))
    assert "no person has reviewed" in dataset_card(summary, recipe=RECIPE)
    summary["review_status"] = {"accepted": 1}
    text = dataset_card(summary, recipe=RECIPE)
    assert "no person has reviewed" not in text
    assert "people have reviewed 1 of 2 captions" in text


def test_failures_and_withheld_images_are_told() -> None:
    summary = summarize(
        rows([["a"], [None]], answer_status=["ok", "api_error"], type=["with_bbox", "without_bbox"])
    )
    text = dataset_card({**summary, "images_withheld": 3}, recipe=RECIPE)
    assert "Rows without some or all of their captions: 1." in text
    assert "Rows that came without boxes: 1." in text
    assert "Images that are null here: 3." in text
    whole = dataset_card(summarize(rows([["a"]])), recipe=RECIPE)
    for words in ("Rows without", "Rows that came", "Images that are"):
        assert words not in whole


def test_without_a_recipe_nothing_is_made_up() -> None:
    text = dataset_card(summarize(rows([["a"]])))
    assert "the settings were not recorded" in text
    assert "recipe.json" not in text


def test_the_sample_shows_its_captions_by_number() -> None:
    summary = summarize(rows([["a"]]))
    text = dataset_card(
        summary, sample="assets/sample.jpg", sample_captions={2: "a <b>cat</b>", 10: "a dog"}
    )
    assert "](assets/sample.jpg)" in text
    assert "- region 2: `a <b>cat</b>`\n- region 10: `a dog`" in text
    assert "![" not in dataset_card(summary, sample="x.jpg) [evil](http://evil")


# Merging with what is there

BY_HAND = """---
license: cc-by-4.0
language:
- de
tags:
- photos
annotations_creators: expert-generated
task_categories:
- image-classification
configs:
- config_name: raw
  data_files: raw/*.jpg
  default: true
my_own_key:
  nested: [1, 2]
---

# Our street

Written by hand, with *care* and a table:

| a | b |
|---|---|
| 1 | 2 |
"""


def test_what_people_wrote_stays() -> None:
    card = read(dataset_card(summarize(rows([["a"]])), recipe=RECIPE, existing=BY_HAND))
    body = BY_HAND.partition("---\n\n")[2]
    assert card.text.strip().startswith(body.strip())
    data = card.data.to_dict()
    assert data["license"] == "cc-by-4.0"
    assert data["language"] == ["de"]
    assert data["tags"] == ["photos", "synthetic", "region-captioning"]
    assert data["annotations_creators"] == ["expert-generated", "machine-generated"]
    assert data["my_own_key"] == {"nested": [1, 2]}
    raw, ours = data["configs"]
    assert raw == {"config_name": "raw", "data_files": "raw/*.jpg", "default": True}
    assert ours["config_name"] == "default"
    assert "No licence is stated" not in card.text


def test_a_second_push_replaces_our_section_only() -> None:
    first = dataset_card(summarize(rows([["a"]])), recipe=RECIPE, existing=BY_HAND)
    edited = first + "\nA postscript.\n"
    second = dataset_card(
        summarize(rows([["a"], ["b"]])), recipe={**RECIPE, "model": "other"}, existing=edited
    )
    assert second.count("hf_regioncap:begin") == second.count("hf_regioncap:end") == 1
    assert "Our street" in second
    assert second.rstrip().endswith("A postscript.")
    assert "`other`" in second
    assert "`gpt-4o-mini`" not in second
    again = dataset_card(
        summarize(rows([["a"], ["b"]])), recipe={**RECIPE, "model": "other"}, existing=second
    )
    assert again == second


def test_each_configuration_has_its_own_section() -> None:
    first = dataset_card(summarize(rows([["a"]])), recipe=RECIPE)
    both = dataset_card(
        summarize(rows([["b"]])), recipe=RECIPE, existing=first, config_name="crops"
    )
    assert both.count("hf_regioncap:begin") == 2
    configs = {c["config_name"]: c["data_files"] for c in read(both).data.to_dict()["configs"]}
    assert configs["crops"] == [{"split": "train", "path": "crops/train-*"}]
    assert configs["default"] == [{"split": "train", "path": "data/train-*"}]
    assert 'load_dataset("PATH/TO/THIS/FOLDER", "crops", split="train")' in both
    for name in ("../up", "a b", "data", "", "a/b", ".."):
        with pytest.raises(OptionError, match="config_name"):
            data_folder(name)


def test_licences_are_given_inherited_or_missing() -> None:
    summary = summarize(rows([["a"]]))
    stated = read(dataset_card(summary, license="apache-2.0", existing=BY_HAND)).data
    assert stated["license"] == "apache-2.0"
    mapping = {"license": "other", "license_name": "mine", "license_link": "LICENSE", "x": 1}
    inherited = read(dataset_card(summary, license=mapping)).data.to_dict()
    assert (inherited["license"], inherited["license_name"]) == ("other", "mine")
    assert "x" not in inherited
    assert "license" not in read(dataset_card(summary)).data.to_dict()


@pytest.mark.parametrize(
    "existing",
    [None, "", "\n", "# Only text\n", "\ufeff---\ntags: [a]\n---\ntext", "---\n---\ntext"],
)
def test_every_kind_of_card_can_be_merged_with(existing: str | None) -> None:
    card = read(dataset_card(summarize(rows([["a"]])), recipe=RECIPE, existing=existing))
    assert "synthetic" in card.data["tags"]
    assert "hf_regioncap:begin default" in card.text


def test_windows_line_ends_stay() -> None:
    existing = BY_HAND.replace("\n", "\r\n")
    text = dataset_card(summarize(rows([["a"]])), recipe=RECIPE, existing=existing)
    assert "\r\n| 1 | 2 |\r\n" in text
    assert not re.search(r"(?<!\r)\n", read(text).text)


@pytest.mark.parametrize(
    "broken", ["---\n- a\n- b\n---\n", "---\na: [1\n---\n", "---\na: b: c\n---\n"]
)
def test_a_card_that_cannot_be_read_is_not_overwritten(broken: str) -> None:
    with pytest.raises(PublishError, match="cannot be read, so nothing was written over it"):
        dataset_card(summarize(rows([["a"]])), existing=broken)


# Hostile data


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_from_the_data_becomes_markup(text: str) -> None:
    summary = summarize(rows([[text]], prompt=[text]))
    summary["answer_status"] = {text: 1}
    summary["columns"] = {text: text}
    recipe = {**RECIPE, "model": text, "language": text, "versions": {text: text}, "prompt": text}
    innocent = dataset_card(
        {**summary, "prompt": "x", "answer_status": {"x": 1}, "columns": {"x": "x"}},
        recipe={**RECIPE, "model": "x", "language": "x", "versions": {"x": "x"}, "prompt": "x"},
        sample="assets/sample.jpg",
        sample_captions={1: "x"},
    )
    card = dataset_card(
        summary, recipe=recipe, source=text, sample="assets/sample.jpg", sample_captions={1: text}
    )
    assert read(card).data.to_dict() == read(innocent).data.to_dict()
    origin = re.compile(r" The images come from [^\n]*?\. (?=The captions)")
    markup = origin.sub(" ", without_code(read(card).text))
    assert markup == without_code(read(innocent).text)
    assert card.count("<!--") == 2
    assert cells(card) == cells(innocent)


def test_nothing_from_the_data_gets_out_of_the_yaml() -> None:
    label = "cat\n---\nlicense: mit\n---\n<script>"
    features = Features({"label": ClassLabel(names=[label, "!!python/object:os.system"])})
    info = {"features": features._to_yaml_list(), "splits": [{"name": "train", "num_examples": 2}]}
    text = dataset_card(summarize(rows([["a"]])), dataset_info=info, source="a: b\n---")
    card = read(text)
    assert "license" not in card.data.to_dict()
    assert "source_datasets" not in card.data.to_dict()
    front = text.split("\n---\n")[0].removeprefix("---\n")
    names = yaml.safe_load(front)["dataset_info"]["features"][0]["dtype"]["class_label"]["names"]
    assert names["0"] == label
    assert names["1"] == "!!python/object:os.system"


def test_a_source_that_is_a_local_folder_is_not_told_in_full() -> None:
    text = dataset_card(summarize(rows([["a"]])), source="/home/ada/secret project/photos")
    assert "secret project" not in text
    assert "`photos`" in text


@given(st.text())
def test_code_holds_any_text(text: str) -> None:
    code = as_code(text)
    fence = re.match(r"`+", code)[0]
    inner = code[len(fence) : -len(fence)]
    assert code.endswith(fence)
    assert fence not in re.findall("`+", inner)
    assert "\n" not in inner
    block = as_code_block(text)
    fence = re.match(r"`+", block)[0]
    assert block.count(fence) == 2
    assert "<!--" not in code + block


def test_long_texts_are_cut() -> None:
    assert len(as_code("x" * 10_000)) < 400
    assert len(as_code_block("x\n" * 100_000)) < 5_000


def test_types_are_told_in_words() -> None:
    features = Features(
        {"image": Image(), "label": List(ClassLabel(names=["a"])), "n": {"k": Value("int8")}}
    )
    empty = Dataset.from_dict({"image": [], "label": [], "n": []}, features=features)
    assert summarize(empty)["columns"] == {
        "image": "Image",
        "label": "List(ClassLabel)",
        "n": "{k: int8}",
    }
