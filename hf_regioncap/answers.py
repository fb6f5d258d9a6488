"""A model's answer, text of any form, to one caption per region: pure, never raises.

An answer is read as the first of three that it is: JSON, in whatever state the model left it
(answer_json.py), text with marks (answer_marks.py finds them, answer_parts.py cuts there), and,
where a single region was asked for, a caption without any mark (answer_parts.py, too). What is
decided where an answer leaves a choice:

- Nothing is guessed across regions: where a caption cannot be told from its neighbour's, or a
  list may be counting its own items instead of regions, the region is missing, not wrong.
- A mark that serves as a label (`<region1>:`, `**Region 1 (left):**`, `1.`) is cut, its bracketed
  aside or bold title too; a mark inside a sentence stays, and only one that begins a sentence
  begins a caption ("In <region1>, ... In <region2>, ...").
- A bare array of strings is read by position only if it has exactly one string per region and
  the regions asked for are 1, 2, ..., n: then the position is the number.
- "Region 1 and Region 2: both ..." is nobody's caption; it ends the one before it.
- A counted list (`1.`, `2.`) is read by its numbers, unless it counts from 1 where region 1 was
  not asked for.
- Numbers that start at 0 are not ours: nothing after a region 0 is read.
- Of a region named twice the first readable caption counts; a doubtful one before it ends that.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence

from hf_regioncap.answer_json import from_json
from hf_regioncap.answer_parts import from_csv, from_text
from hf_regioncap.answer_text import clean, named_number

__all__ = ["answers_all", "format_regions", "parse_answer"]

_MOST_TEXT = 250_000  # characters; what comes after is not read


def parse_answer(answer: str, regions: Sequence[int], *, cut: bool = False) -> dict[int, str]:
    """Read the captions of the 1-based `regions` that were asked for out of a model's answer.

    Only regions asked for and only captions that say something come back; what is missing,
    refused or cut off is absent. `cut` says that the text ends before the model did: the caption
    that the end falls into is missing too (JSON that is cut is noticed without it).

    >>> parse_answer('{"1": "a cat", "2": "a dog"}', [1, 2])
    {1: 'a cat', 2: 'a dog'}
    >>> parse_answer("**Region 2 (left):** a dog\\n**Region 1:** a cat", [1, 2, 3])
    {1: 'a cat', 2: 'a dog'}
    >>> parse_answer("<region1>: a cat\\n<region2>: a do", [1, 2], cut=True)
    {1: 'a cat'}
    """
    text = _unwrapped(clean(answer))
    text, cut = text[:_MOST_TEXT], cut or len(text) > _MOST_TEXT
    asked = list(dict.fromkeys(regions))
    found = from_json(text, asked)
    if found is None:
        found = from_csv(text, asked, cut)
    if found is None:
        found = from_text(text, asked, cut)
    return {number: found[number] for number in asked if number in found}


def _unwrapped(text: str) -> str:
    """The JSON that a text is once more encoded: some proxies escape an answer twice."""
    if text.startswith(("{&quot;", "[&quot;", "[{&quot;")):
        return html.unescape(text)
    if not text.startswith(('"{', '"[', '{\\"', '[{\\"')):
        return text
    try:
        inner = json.loads(text if text.startswith('"') else f'"{text}"', strict=False)
    except (ValueError, RecursionError):
        return text
    return clean(inner) if isinstance(inner, str) else text


def answers_all(text: str, regions: Sequence[int]) -> bool:
    """Whether a text is one JSON object that has a text for each of the regions, and is whole.

    >>> answers_all('{"1": "a cat", "2": "a dog"}', [1, 2]), answers_all('{"1": "a c', [1])
    (True, False)
    """
    try:
        read = json.loads(clean(text), strict=False)
    except (ValueError, RecursionError):
        return False
    said = read.items() if isinstance(read, dict) else ()
    named = {named_number(key) for key, caption in said if isinstance(caption, str) and caption}
    return bool(regions) and set(regions) <= named


def format_regions(captions: Mapping[int, str]) -> str:
    """Write captions as text that names each region, one a line, by ascending number.

    >>> print(format_regions({2: "a dog", 1: "a cat\\non a mat"}))
    <region1>: a cat on a mat
    <region2>: a dog
    """
    return "\n".join(f"<region{n}>: {' '.join(captions[n].split())}" for n in sorted(captions))
