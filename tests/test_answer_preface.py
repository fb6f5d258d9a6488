"""Thoughts, prompts given back and roles before an answer; captions that only look like them."""

from __future__ import annotations

import json

import pytest

from hf_regioncap.answer_preface import after_prompt
from hf_regioncap.answers import parse_answer
from hf_regioncap.dialogue import read_answer
from hf_regioncap.questions import Question
from hf_regioncap.response import Completion

THOUGHTS = "The user wants captions.\nRegion 1: maybe a cow? No.\n<region2>: a cow?\nI answer now."
# how thoughts stand before an answer: the text before and behind them
WRAPPED = {
    "think": ("<think>\n", "\n</think>\n\n"),
    "think, one line": ("<think>", "</think>"),
    "thinking": ("<Thinking>", "</Thinking>"),
    "reflection": ("<reflection>\n", "\n</reflection>\n"),
    "analysis": ("<analysis>", "</analysis>"),
    "seed": ("<seed:think>", "</seed:think>"),
    "mistral": ("[THINK]", "[/THINK]"),
    "kimi": ("◁think▷", "◁/think▷"),
    "gemma": ("<|channel>\n", "\n<channel|>\n"),
    "gemma, named": ("<|channel>thought\n", "\n<channel|>"),
    "medgemma": ("<unused94>thought\n", "<unused95>"),
    "cohere": ("<|START_THINKING|>", "<|END_THINKING|><|START_RESPONSE|>"),
    "open thoughts": ("<|begin_of_thought|>", "<|end_of_thought|>\n<|begin_of_solution|>"),
    "harmony": (
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
    ),
    "harmony, bare": ("analysis", "assistantfinal"),
    "steps": ("Here are my reasoning steps:\n", "\n[BEGIN FINAL RESPONSE]\n"),
    "process": ("Here is my thought process: ", "\nHere is my response: "),
    "after a label": ("Answer: <think>", "</think>\n"),
    "after a word": ("Sure.\n<think>", "</think>\n"),
}
OPENING_LOST = {
    "think": "\n</think>\n\n",
    "think, one line": "</think>",
    "mistral": "[/THINK]",
    "gemma": "<channel|>",
    "seed": "\n</seed:think>",
}
ANSWERS = {
    "text": "<region1>: a cat\n<region2>: a dog",
    "json": '{"1": "a cat", "2": "a dog"}',
    "fenced": '```json\n{"1": "a cat", "2": "a dog"}\n```',
}
CATS = {1: "a cat", 2: "a dog"}


@pytest.mark.parametrize("form", ANSWERS)
@pytest.mark.parametrize("wrap", WRAPPED)
def test_thoughts_are_no_captions(wrap: str, form: str) -> None:
    before, behind = WRAPPED[wrap]
    assert parse_answer(before + THOUGHTS + behind + ANSWERS[form], [1, 2]) == CATS


@pytest.mark.parametrize("wrap", [wrap for wrap in WRAPPED if not wrap.startswith("after")])
def test_thoughts_before_a_bare_caption_or_without_an_answer(wrap: str) -> None:
    before, behind = WRAPPED[wrap]
    assert parse_answer(f"{before}Perhaps a cow.{behind}A cat.", [1]) == {1: "A cat."}
    assert parse_answer(f"{before}Perhaps a cow.", [1]) == {}
    assert parse_answer(before + THOUGHTS, [1, 2], cut=True) == {}


@pytest.mark.parametrize("form", ANSWERS)
@pytest.mark.parametrize("close", OPENING_LOST.values(), ids=OPENING_LOST.keys())
def test_the_opening_mark_may_be_lost(close: str, form: str) -> None:
    assert parse_answer(THOUGHTS + close + ANSWERS[form], [1, 2]) == CATS


@pytest.mark.parametrize(
    ("answer", "captions"),
    [
        ("thought\n%s\n\n<region1>: a cat\n<region2>: a dog", CATS),
        ('thought\n%s\n\n{"1": "a cat", "2": "a dog"}', CATS),
        ("thought\n%s\n\nA cat and a dog.", {}),
        ("thought\n%s", {}),
        ("thought\n%s\n\n<region1>: a cat\n\n<region2>: a dog", {2: "a dog"}),
    ],
)
def test_of_thoughts_without_any_mark_only_a_formal_end_is_read(
    answer: str, captions: dict[int, str]
) -> None:
    assert parse_answer(answer % THOUGHTS, [1, 2]) == captions


@pytest.mark.parametrize(
    "caption",
    [
        'a screen with the word "</think>" on it',
        "a page of HTML that shows <think> and </think> tags",
        "a poster that reads [THINK]",
        "Thought bubbles above a man's head",
        "thought-provoking graffiti on a wall",
        "analysis charts on a screen",
        "analysis of a blood sample under a microscope",
        "An assistant: a woman behind a desk",
        "an assistant at a desk",
        "a final response team at work",
        "a model of a ship",
        "a user manual on a table",
        "答案写在黑板上",
        "助手站在桌旁",
    ],
)
def test_captions_that_only_look_like_thoughts_stay(caption: str) -> None:
    assert parse_answer(caption, [1]) == {1: caption}
    assert parse_answer(f"<region1>: {caption}\n<region2>: a dog", [1, 2])[1] == caption
    assert parse_answer(json.dumps({"1": caption}), [1]) == {1: caption}


@pytest.mark.parametrize(
    ("answer", "captions"),
    [
        ("<|im_start|>assistant\na cat<|im_end|>", {1: "a cat"}),
        ("<|start_header_id|>assistant<|end_header_id|>\n\na cat<|eot_id|>", {1: "a cat"}),
        ("<start_of_turn>model\na cat<end_of_turn>", {1: "a cat"}),
        ("<|turn>model\na cat<turn|>", {1: "a cat"}),
        ("assistant\na cat", {1: "a cat"}),
        ("Assistant: a cat<end_of_utterance>", {1: "a cat"}),
        ("a cat<|im_end|>\n<|im_start|>user\nAnd the next?", {1: "a cat"}),
        ("a cat<|endoftext|>The weather is fine.", {1: "a cat"}),
        ("<|endoftext|>a cat", {1: "a cat"}),
    ],
)
def test_only_the_models_own_turn_is_read(answer: str, captions: dict[int, str]) -> None:
    assert parse_answer(answer, [1]) == captions


# --- the prompt given back ----------------------------------------------------------------------

PROMPT = "Describe the content of each marked region in the image. There are 2 regions."
FORMS = ("json_schema", "json_object", "text")
TEMPLATES = [
    "system\n{system}\nuser\n{text}\n{form}\nassistant\n",
    "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{text}<image>{form}<|im_end|>\n"
    "<|im_start|>assistant\n",
    "USER: <image>\n{text} {form} ASSISTANT: ",
    "{system} {text} {form} ",
    "[INST] {text}\n{form} [/INST] ",
]


def read_back(
    template: str, form: str, answer: str, regions: tuple[int, ...], view: str = "overlay"
) -> tuple[str, dict[int, str]]:
    question = Question(regions=regions, images=(), text=PROMPT, view=view)
    words = question.instructions(form)
    text = template.format(system=question.system, text=PROMPT, form=words) + answer
    reading = read_answer(Completion(text=text), regions, prompt=question.texts)
    return reading.status, reading.captions


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_prompt_given_back_is_no_caption(template: str, form: str) -> None:
    for answer in ANSWERS.values():
        assert read_back(template, form, answer, (1, 2)) == ("ok", CATS)
    assert read_back(template, form, "A cat.", (3,), "crop") == ("ok", {3: "A cat."})
    assert read_back(template, form, "", (1, 2)) == ("api_bad_answer", {})
    assert read_back(template, form, "", (3,), "crop") == ("api_bad_answer", {})


@pytest.mark.parametrize("form", FORMS)
def test_only_the_users_part_may_come_back(form: str) -> None:
    for template in ("{text}\n", "user\n{text}\n", "{system}\n{text}\nAnswer: "):
        assert read_back(template, form, "<region1>: a cat", (1,)) == ("ok", {1: "a cat"})
        assert read_back(template, form, "A cat.", (1,)) == ("ok", {1: "A cat."})


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("a cat", "cat"),
        ("a cat on a mat", "a cat"),
        ("a man in a red jacket rides a brown horse", "a man in a red jacket rides a brown horse"),
        (
            '{"1": "a man in a red jacket rides a brown horse"}',
            "a man in a red jacket rides a brown horse",
        ),
        ("a sign: Describe the content of each marked region in the image. Thanks", PROMPT),
    ],
)
def test_a_caption_may_say_what_the_prompt_says(answer: str, text: str) -> None:
    question = Question(regions=(1,), images=(), text=text)
    assert after_prompt(answer, question.texts) == answer
    assert after_prompt(answer, ()) == answer
