"""Coordinates in place of captions or beside them, and numbers that are part of what is seen."""

from __future__ import annotations

import json
import time

import pytest

from hf_regioncap.answer_coordinates import without_coordinates
from hf_regioncap.answers import parse_answer

NOTHING_ELSE = [
    "[112, 34, 560, 780]",
    "[[112, 34, 560, 780]]",
    "[112 34 560 780]",
    "(112, 34, 560, 780)",
    "(112,34),(560,780)",
    "((112, 34), (560, 780))",
    "[(112, 34), (560, 780)]",
    "[0.12, 0.3, 0.56, 0.78]",
    "112, 34, 560, 780",
    "(112, 34)",
    "<box>(112,34),(560,780)</box>",
    "<|box_start|>(112,34),(560,780)<|box_end|>",
    "<box>[[112, 34, 560, 780]]</box>",
    "<loc0112><loc0034><loc0560><loc0780>",
    "<loc_112><loc_34><loc_560><loc_780>",
    '<point x="12.5" y="30.1" alt="car"></point>',
    "bbox_2d: [112, 34, 560, 780]",
    "Bounding box: [112, 34, 560, 780].",
    "The bounding box is [112, 34, 560, 780]",
    "x1: 112, y1: 34, x2: 560, y2: 780",
    "xmin=112, ymin=34, xmax=560, ymax=780",
    '{"x": 112, "y": 34, "w": 560, "h": 780}',
    "坐标：(112,34),(560,780)",
]
BESIDE = [
    ("a red car [112, 34, 560, 780]", "a red car"),
    ("a red car [112, 34, 560, 780].", "a red car"),
    ("a red car. [112, 34, 560, 780]", "a red car."),
    ("a red car (112,34),(560,780)", "a red car"),
    ("a red car ((112, 34), (560, 780))", "a red car"),
    ("a red car <box>(112,34),(560,780)</box>", "a red car"),
    ("a red car<box>[[112, 34, 560, 780]]</box>", "a red car"),
    ("<ref>a red car</ref><box>(112,34),(560,780)</box>", "a red car"),
    ("a red car<|box_start|>(112,34),(560,780)<|box_end|>", "a red car"),
    ("<|object_ref_start|>a red car<|object_ref_end|>", "a red car"),
    ("a red car<loc_112><loc_34><loc_560><loc_780>", "a red car"),
    ("<loc0112><loc0034><loc0560><loc0780> a red car", "a red car"),
    ('<point x="12.5" y="30.1" alt="car">a red car</point>', "a red car"),
    ("a red car at [112, 34, 560, 780]", "a red car"),
    ("a red car, located at (112, 34), (560, 780).", "a red car"),
    ("a red car at coordinates [112, 34, 560, 780]", "a red car"),
    ("a red car (bounding box: [112, 34, 560, 780])", "a red car"),
    ("a red car with bounding box [1, 2, 3, 4]", "a red car"),
    ("a red car, bbox: [0.12, 0.3, 0.56, 0.78]", "a red car"),
    ("[112, 34, 560, 780] a red car", "a red car"),
    ("[112, 34, 560, 780]: a red car", "a red car"),
    ("bbox_2d: [112, 34, 560, 780], a red car", "a red car"),
    ("two cars [112, 34, 560, 780] [12, 34, 56, 78]", "two cars"),
    ("ein rotes Auto, Koordinaten: [112, 34, 560, 780]", "ein rotes Auto"),
    ("une voiture rouge [112, 34, 560, 780]", "une voiture rouge"),
    ("un coche rojo (112,34),(560,780)", "un coche rojo"),
    ("一辆红色汽车[112, 34, 560, 780]", "一辆红色汽车"),
    ("一辆红色汽车，坐标：(112,34),(560,780)", "一辆红色汽车"),
    ("赤い車 [112, 34, 560, 780]", "赤い車"),
]
SEEN = [
    "23",
    "[23]",
    "10:30",
    "12 34 56 78",
    "1, 2, 3",
    "a clock at 10:30",
    "a clock (10:30)",
    "a jersey [23]",
    "a man (23)",
    "a player with the number [23] on the back",
    "a keypad with the keys [1, 2, 3, 4]",
    "a keypad [1, 2, 3, 4]",
    "a display that reads [12, 34, 56, 78]",
    "a lottery ticket with the numbers [12, 23, 34, 45]",
    "a row of plates showing (12, 34, 56, 78)",
    "bus lines 12, 34, 56, 78",
    "a ruler from 0 to 30, marked 10, 20, 30",
    "a book from [1984]",
    "a sign [sic] on a wall",
    "a car (a red one, with 4 doors)",
    "a score of (3, 1)",
    "a box at position 4",
    "a box (2, 3 or 4 metres wide)",
    "ein Schild mit den Zahlen [12, 34, 56, 78]",
    "un panneau avec [12, 34, 56, 78]",
    "写着[12, 34, 56, 78]",
    "<3 printed on a shirt",
]


@pytest.mark.parametrize("caption", NOTHING_ELSE)
def test_coordinates_are_no_caption(caption: str) -> None:
    assert parse_answer(caption, [1]) == {}
    assert parse_answer(json.dumps({"1": caption, "2": "a dog"}), [1, 2]) == {2: "a dog"}
    assert parse_answer(f"<region1>: {caption}\n<region2>: a dog", [1, 2]) == {2: "a dog"}


@pytest.mark.parametrize(("answer", "caption"), BESIDE)
def test_coordinates_beside_a_caption_are_cut(answer: str, caption: str) -> None:
    assert parse_answer(answer, [1]) == {1: caption}
    both = {1: caption, 2: "a dog"}
    assert parse_answer(json.dumps({"1": answer, "2": "a dog"}), [1, 2]) == both
    assert parse_answer(f"<region1>: {answer}\n<region2>: a dog", [1, 2]) == both


@pytest.mark.parametrize("caption", SEEN)
def test_numbers_that_are_seen_stay(caption: str) -> None:
    assert without_coordinates(caption) == caption
    assert parse_answer(json.dumps({"1": caption}), [1]) == {1: caption}


@pytest.mark.parametrize(
    "answer", ['{"1": [112, 34, 560, 780]}', '{"1": {"bbox_2d": [1, 2, 3, 4]}}']
)
def test_lists_of_numbers_are_no_caption(answer: str) -> None:
    assert parse_answer(answer, [1]) == {}


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "unit", ["(1,2),", "[1, 2, 3, 4] ", "<loc1>", "<point ", "12, ", "x1: 1 ", " "]
)
def test_no_caption_takes_long(unit: str) -> None:
    started = time.process_time()
    without_coordinates("a cat " + unit * (1_000_000 // len(unit)))
    assert time.process_time() - started < 60, "a bound against hanging: 0.2 s is usual"
