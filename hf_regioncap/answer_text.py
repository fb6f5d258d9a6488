"""What all forms of an answer share: its text without packaging, and the names of regions."""

from __future__ import annotations

import re

from hf_regioncap.answer_preface import after_thoughts, own_turn
from hf_regioncap.wire import writable

COLONS = (":", "：")
MOST_MARKS = 5_000  # marks or JSON values; what comes after so many is not read

NAMES = (
    "regions?|régions?|región|regiones|região|regiões|regione|regioni|regio|bereich|gebiet"
    "|область|регион|bölge|obszar|vùng|wilayah"
)
NAMES_UNSPACED = "区域|區域|領域|리전|영역|구역|リージョン|المنطقة|منطقة|क्षेत्र"
# Captions use these for other things too: they mark a region only where the form says so.
LOOSE_NAMES = (
    "(?:bounding[ ])?box(?:es)?|bbox|areas?|zones?|zona|área|objects?|items?|marks?|marker|labels?"
    "|objekt|objet|objeto|cadre|caja|rahmen|kasten|объект|рамка"
)
LOOSE_UNSPACED = "框|物体|目标|对象|ボックス|枠|박스|상자"
ALL_NAMES = f"{NAMES}|{NAMES_UNSPACED}|{LOOSE_NAMES}|{LOOSE_UNSPACED}"
HAN = "一二三四五六七八九十"
CIRCLED = "①②③④⑤⑥⑦⑧⑨⑩⑪⑫⑬⑭⑮⑯⑰⑱⑲⑳"

_KEY_NUMBER = re.compile(
    rf"[\s<\[(\#\"'*|]*(?:(?:{ALL_NAMES}|r|id|no\.?|captions?|descriptions?)[\s_\#:-]{{0,3}})?"
    rf"(?P<number>\d{{1,3}})[\s>\])\"'*|.:]*"
    r"(?:[(（].{0,80}[)）][\s:]*|[_ -](?:caption|description|text))?",
    re.IGNORECASE,
)


def to_int(digits: str) -> int:
    """Read decimal digits of any script, a Han numeral up to ten or a circled number."""
    for numerals in (HAN, CIRCLED):
        if digits in numerals:
            return numerals.index(digits) + 1
    return int(digits)


def named_number(name: str) -> int | None:
    """Read the number out of a whole name such as `1`, `<region1>` or `Region 1 (left)`."""
    found = _KEY_NUMBER.fullmatch(name) if len(name) < 160 else None
    return to_int(found["number"]) if found else None


_ESCAPED_MARK = re.compile(r"(?:\\<|&lt;)(/?[\w ]{1,20})(?:\\?>|&gt;)")
_PACKAGING = re.compile(
    r"^[ \t]{0,8}(?:```|~~~)[\w+-]{0,20}[ \t]{0,8}$|</?answer>|<\|\w{1,30}\|>"
    r"|<(?:end_of_turn|end_of_utterance|eos|pad)>|<turn\|>|</s>|\ufeff",
    re.M,
)


def clean(answer: str) -> str:
    """Drop what is no part of the answer: lone surrogates, thoughts, fences, special tokens."""
    text = writable(answer).replace("\r\n", "\n").replace("\r", "\n")
    text = own_turn(after_thoughts(text))
    return _ESCAPED_MARK.sub(r"<\1>", _PACKAGING.sub("", text)).strip()
