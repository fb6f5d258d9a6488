"""A model's answer, text of any form, to one caption per region: pure, never raises.

An answer is read as the first of three that it is: JSON (`_from_json`, in whatever state the
model left it), text with marks (`_from_marks`), and, where a single region was asked for, a
caption without any mark (`_lone`). What is decided where an answer leaves a choice:

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

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import Literal, NamedTuple

__all__ = ["format_regions", "is_refusal", "parse_answer"]


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
    text = _clean(answer)
    text, cut = text[:_MOST_TEXT], cut or len(text) > _MOST_TEXT
    asked = list(dict.fromkeys(regions))
    found = _from_json(text, asked)
    if found is None:
        found = _from_text(text, asked, cut)
    return {number: found[number] for number in asked if number in found}


def format_regions(captions: Mapping[int, str]) -> str:
    """Write captions as text that names each region, one a line, by ascending number.

    >>> print(format_regions({2: "a dog", 1: "a cat\\non a mat"}))
    <region1>: a cat on a mat
    <region2>: a dog
    """
    return "\n".join(f"<region{n}>: {' '.join(captions[n].split())}" for n in sorted(captions))


# --- numbers and names ----------------------------------------------------------------------

_NAMES = (
    "regions?|régions?|región|regiones|região|regiões|regione|regioni|regio|bereich|gebiet"
    "|область|регион|bölge|obszar|vùng|wilayah"
)
_NAMES_UNSPACED = "区域|區域|領域|리전|영역|구역|リージョン|المنطقة|منطقة|क्षेत्र"
# Captions use these for other things too: they mark a region only where the form says so.
_LOOSE_NAMES = (
    "(?:bounding[ ])?box(?:es)?|bbox|areas?|zones?|zona|área|objects?|items?|marks?|marker|labels?"
    "|objekt|objet|objeto|cadre|caja|rahmen|kasten|объект|рамка"
)
_LOOSE_UNSPACED = "框|物体|目标|对象|ボックス|枠|박스|상자"
_ALL_NAMES = f"{_NAMES}|{_NAMES_UNSPACED}|{_LOOSE_NAMES}|{_LOOSE_UNSPACED}"
_HAN = "一二三四五六七八九十"
_CIRCLED = "①②③④⑤⑥⑦⑧⑨⑩⑪⑫⑬⑭⑮⑯⑰⑱⑲⑳"

_KEY_NUMBER = re.compile(
    rf"[\s<\[(\#\"'*|]*(?:(?:{_ALL_NAMES}|r|id|no\.?|captions?|descriptions?)[\s_\#:-]{{0,3}})?"
    rf"(?P<number>\d{{1,3}})[\s>\])\"'*|.:]*"
    r"(?:[(（].{0,80}[)）][\s:]*|[_ -](?:caption|description|text))?",
    re.IGNORECASE,
)


def _int(digits: str) -> int:
    """Read decimal digits of any script, a Han numeral up to ten or a circled number."""
    for numerals in (_HAN, _CIRCLED):
        if digits in numerals:
            return numerals.index(digits) + 1
    return int(digits)


def _number(name: str) -> int | None:
    """Read the number out of a whole name such as `1`, `<region1>` or `Region 1 (left)`."""
    found = _KEY_NUMBER.fullmatch(name) if len(name) < 160 else None
    return _int(found["number"]) if found else None


# --- what all forms share -------------------------------------------------------------------


class _Item(NamedTuple):
    """A caption and the number that the answer gives it."""

    number: int | None  # None: it speaks of several regions
    caption: str | None  # None: it cannot be told from another region's
    ordinal: bool = False  # the number may be the item's place in a list


_THINKING = re.compile(r"\s*+(?:<(think|thinking|thought|reasoning)>|◁think▷)", re.IGNORECASE)
_THOUGHT = re.compile(r"^[ \t]{0,8}</think(?:ing)?>|</think(?:ing)?>[ \t]{0,8}$", re.M | re.I)
_ESCAPED_MARK = re.compile(r"(?:\\<|&lt;)(/?[\w ]{1,20})(?:\\?>|&gt;)")
_PACKAGING = re.compile(
    r"^[ \t]{0,8}(?:```|~~~)[\w+-]{0,20}[ \t]{0,8}$|</?answer>|<\|[a-z_]{1,30}\|>|</s>|\ufeff", re.M
)


def _clean(answer: str) -> str:
    """Drop what is no part of the answer: lone surrogates, thinking, fences, special tokens."""
    text = _without_lone_surrogates(answer).replace("\r\n", "\n").replace("\r", "\n")
    text = _after_thinking(text)
    return _ESCAPED_MARK.sub(r"<\1>", _PACKAGING.sub("", text)).strip()


def _without_lone_surrogates(text: str) -> str:
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _after_thinking(text: str) -> str:
    pos = 0
    while opened := _THINKING.match(text, pos):
        close = f"</{opened[1]}>" if opened[1] else "◁/think▷"
        end = text.find(close, opened.end())
        if end < 0:
            return ""
        pos = end + len(close)
    for closed in _THOUGHT.finditer(text, pos):  # some templates eat the opening tag
        pos = closed.end()
    return text[pos:]


_COLONS = (":", "：")
_MOST_TEXT = 250_000  # characters; what comes after is not read
_MOST_MARKS = 5_000  # nor what comes after so many marks or JSON values
_SAYS_NOTHING = {"n/a", "na", "none", "null", "nil", "undefined", "string"}


def _readable(caption: str) -> str | None:
    """Return the caption if it says something, else None."""
    caption = caption.strip()
    if caption.lower().strip(".- ") in _SAYS_NOTHING or not any(map(str.isalnum, caption)):
        return None
    return None if is_refusal(caption) else caption


def _keep(items: Iterable[_Item], asked: Sequence[int]) -> dict[int, str]:
    """Keep the first readable caption of each region asked for.

    A list that counts its own items shows by a number that was not asked for before one that
    was ("1. ... 2. ..." for the regions 2 and 5): unless all of them are named, such numbers
    are not trusted.
    """
    items, wanted = list(items), set(asked)
    names_all = wanted <= {item.number for item in items}
    lowest_unasked = 1_000
    kept: dict[int, str] = {}
    for number, caption, ordinal in items:
        if number is None:
            continue
        if number not in wanted:
            if number == 0:
                break
            lowest_unasked = min(lowest_unasked, number)
        elif caption is None:
            kept.setdefault(number, "")
        elif number not in kept and (not ordinal or names_all or number < lowest_unasked):
            readable = _readable(caption)
            if readable:
                kept[number] = readable
    return {number: caption for number, caption in kept.items() if caption}


# --- JSON -----------------------------------------------------------------------------------


class _Found(NamedTuple):
    """A JSON value in a text, from `start` to `end`; `whole` if nothing of it is missing."""

    value: object
    start: int
    end: int
    whole: bool


_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’"}
_STOPS = {closing: re.compile(rf"[\\{closing}]") for closing in _QUOTES.values()}
_QUOTED = r"""["'“‘]((?:\\.|[^"“”\n\\]){1,80}?)["'”’]\s*+[:：]"""
_BARE = r"[<\[]?\w[\w .\#-]{0,40}[>\]]?\s*+[:：]"
_KEY = re.compile(rf"{_QUOTED}|(?P<bare>{_BARE})")
_FORGOTTEN_QUOTE = re.compile(r"""["'“‘][^"'“”‘’,:{}\n\\]{1,60}["'”’]\s*+[:：]""")
_START = re.compile(rf"""\{{\s*+(?={_QUOTED}|{_BARE})|\[\s*+(?=["'“{{])""")
_UNCLEAR = re.compile(
    r"""\s*+(?:[,，]\s*+(?:\w{0,12}\s*+["'“:：]|\Z)|[:："“]|\w{1,12}\s*+[:：]\s*+["'“])"""
)
_SPACE = re.compile(r"(?:\s++|//[^\n]*+)*+")
_SCALAR = re.compile(r"""[^\s,}\]{\["'“”]++""")
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "", "f": "", '"': '"', "\\": "\\", "/": "/"}


def _after_string(another: str, unseparated: str) -> re.Pattern[str]:
    """What follows the quote that really ends a string: models leave quotes in it unescaped."""
    return re.compile(
        rf"\s*+(?:[}}\]]|[,，]\s*+(?:[}}\]]|{another}|//|\Z)|{unseparated}|//|\Z)", re.DOTALL
    )


_KEY_CUT = r"""["“][^"“”\n]{0,80}["”]?\s*+\Z"""
_AFTER_VALUE = _after_string(f"{_QUOTED}|{_KEY_CUT}", _FORGOTTEN_QUOTE.pattern)
_AFTER_BARE_VALUE = _after_string(f"{_QUOTED}|{_BARE}", f"\n\\s*+{_BARE}")
_AFTER_ITEM = _after_string(r"""["'“{\[\d]|null""", r"""["'“{]""")
_MAX_DEPTH = 12
_UNFINISHED = ("", None)  # the last pair of an object that does not end


def _json_values(text: str) -> list[_Found]:
    """Find the JSON values of a text, left to right, in one pass over it."""
    found: list[_Found] = []
    pos = 0
    while len(found) < _MOST_MARKS and (start := _START.search(text, pos)):
        reader = _JsonReader(text, start.start())
        value = reader.value()
        pos = max(reader.pos, start.end())
        found.append(_Found(value, start.start(), pos, not reader.stopped))
    return found


class _JsonReader:
    """Reads one JSON value, forgiving what models get wrong; stops where it makes no sense.

    Strings that do not end are None. Nothing is read twice, so that no text takes long.
    """

    def __init__(self, text: str, pos: int) -> None:
        self.text, self.pos, self.stopped = text, pos, False

    def value(self, depth: int = 0, after: re.Pattern[str] = _AFTER_VALUE) -> object:
        self._skip_space()
        char = self.text[self.pos : self.pos + 1]
        if char in ("{", "["):
            self.stopped = self.stopped or depth > _MAX_DEPTH
            return self._object(depth) if char == "{" else self._array(depth)
        return self._string(after) if char in _QUOTES else self._scalar()

    def _object(self, depth: int) -> tuple[tuple[str, object], ...]:
        self.pos += 1
        pairs = []
        while not self._closed_by("}"):
            key = _KEY.match(self.text, self.pos)
            if key is None:
                self.stopped = True
                break
            self.pos = key.end()
            name = key["bare"].rstrip(" :：") if key["bare"] else _unescape(key[1])
            after = _AFTER_BARE_VALUE if key["bare"] else _AFTER_VALUE
            pairs.append((name, self.value(depth + 1, after)))
        return (*pairs, _UNFINISHED) if self.stopped else tuple(pairs)

    def _array(self, depth: int) -> list[object]:
        self.pos += 1
        items: list[object] = []
        while not self._closed_by("]"):
            before = self.pos
            items.append(self.value(depth + 1, _AFTER_ITEM))
            self.stopped = self.stopped or self.pos == before
        return items

    def _closed_by(self, bracket: str) -> bool:
        """Skip to what comes next; True at the end of this object or array."""
        self._skip_space()
        while self.text.startswith(",", self.pos) or self.text.startswith("，", self.pos):
            self.pos += 1
            self._skip_space()
        if not self.stopped and self.text.startswith(bracket, self.pos):
            self.pos += 1
            return True
        return self.stopped

    def _string(self, after: re.Pattern[str]) -> str | None:
        closing = _QUOTES[self.text[self.pos]]
        start = self.pos = self.pos + 1
        while found := _STOPS[closing].search(self.text, self.pos):
            self.pos = found.end() + (found[0] == "\\")
            if found[0] == "\\":
                continue
            if self._ends_string(closing, after):
                return _unescape(self.text[start : found.start()])
            if _FORGOTTEN_QUOTE.match(self.text, found.start()):
                self.pos = found.start()  # it opens the next key: this string's end is missing
                return None
            before = self.text[max(start, found.start() - 2) : found.start()].rstrip()
            if before.endswith(_COLONS) or _UNCLEAR.match(self.text, self.pos):
                break
        else:
            self.pos = len(self.text)
        self.stopped = True
        return None

    def _ends_string(self, closing: str, after: re.Pattern[str]) -> bool:
        """Whether the quote just read is the string's end, not one that stands inside it."""
        follows = after.match(self.text, self.pos)
        if follows is None:
            return False
        # The last apostrophe of a text may be one inside a string that was cut there.
        return closing in '"”' or bool(follows[0].strip(",， \t\n"))

    def _scalar(self) -> int | None:
        scalar = _SCALAR.match(self.text, self.pos)
        if scalar is None:
            self.stopped = True
            return None
        self.pos = scalar.end()
        return int(scalar[0]) if scalar[0].isdecimal() and len(scalar[0]) <= 3 else None

    def _skip_space(self) -> None:
        space = _SPACE.match(self.text, self.pos)
        self.pos = space.end() if space else self.pos


def _unescape(text: str) -> str:
    def plain(found: re.Match[str]) -> str:
        code = found[1]
        if len(code) == 5:
            return chr(int(code[1:], 16))
        return _ESCAPED.get(code, code if code in _QUOTES else found[0])

    return _without_lone_surrogates(_ESCAPE.sub(plain, text))


_NUMBER_FIELDS = (
    "region", "region_id", "region_number", "number", "id", "index", "no", "num",
    "box", "label", "name", "key", "mark", "编号", "区域",
)  # fmt: skip
_CAPTION_FIELDS = (
    "caption", "description", "text", "content", "answer", "desc", "details", "detail", "summary",
    "value", "描述", "内容", "说明", "説明", "キャプション", "beschreibung", "descripción",
)  # fmt: skip
_ORDINAL_FIELDS = ("id", "index", "number", "no", "num", "key")
_TEXT_FIELDS = (*_CAPTION_FIELDS, "region", "regions", "captions", "result", "response", "output")


def _from_json(text: str, asked: Sequence[int]) -> dict[int, str] | None:
    """Read captions out of JSON; None if the answer is no JSON, {} if it is but of no use."""
    values = _json_values(text)
    if not values:
        return None
    first = values[0]
    before, after = text[: first.start], text[first.end :]
    alone = not before.rpartition("\n")[2].strip()
    if not alone and any(mark.kind == "label" for mark in _strong_marks(before)):
        return None  # braces inside a caption, or JSON behind each mark
    items = [item for found in values for item in _json_items(found.value)]
    if items:
        return _keep(items, asked)
    if len(values) == 1 and first.whole and alone and not _starts(f"{before}\n{after}"):
        captions = _without_numbers(first.value, asked)
        if captions is not None:
            return captions
    is_cut = not first.whole and not after and text[first.start] == "{"
    return {} if is_cut or (alone and not (before and first.whole)) else None


def _json_items(value: object) -> list[_Item]:
    """Read the numbered captions of a JSON value in any of the forms that models choose."""
    if isinstance(value, list):
        return [item for part in value for item in _json_items(part)]
    if not isinstance(value, tuple):
        return []
    numbered = [(_number(key), part) for key, part in value]
    items = [_Item(n, _own_part(_text_of(part) or "", n)) for n, part in numbered if n is not None]
    if items:
        return items
    record = _record(value)
    if record is not None:
        return [record]
    described = sorted(value, key=lambda pair: not re.search("capt|desc", pair[0], re.I))
    return [item for _, part in described for item in _json_items(part)]


def _record(pairs: tuple[tuple[str, object], ...]) -> _Item | None:
    """Read an object such as {"region": 1, "caption": "a cat"}."""
    fields = {key.strip().casefold(): value for key, value in reversed(pairs)}
    for name in _NUMBER_FIELDS:
        number = _field_number(fields.get(name))
        if number is not None:
            rest = tuple(pair for pair in pairs if pair[0].strip().casefold() != name)
            caption = _text_of(rest)
            if caption is None and any(isinstance(part, list | tuple) for _, part in rest):
                return None  # {"id": 7, "regions": {...}}
            return _Item(number, _own_part(caption or "", number), name in _ORDINAL_FIELDS)
    return None


def _field_number(value: object) -> int | None:
    if isinstance(value, str):
        return _number(value)
    return value if isinstance(value, int) else None


def _text_of(value: object) -> str | None:
    """Read the caption that a region's JSON value is or holds."""
    if isinstance(value, list):
        parts = [part for part in value if isinstance(part, str)]
        return " ".join(parts) if len(parts) == len(value) else None
    if isinstance(value, tuple):
        fields = {key.strip().casefold(): part for key, part in reversed(value)}
        for name in _CAPTION_FIELDS:
            if name in fields:
                return _text_of(fields[name])
        strings = [part for _, part in value if isinstance(part, str)]
        return strings[0] if len(strings) == 1 and _UNFINISHED not in value else None
    return value if isinstance(value, str) else None


def _own_part(caption: str, number: int) -> str | None:
    """Cut a JSON caption's own label; if its lines label other regions, take its own part only."""
    labels = [
        mark
        for mark in _strong_marks(caption)
        if mark.kind == "label" and not mark.loose and caption[: mark.start][-1:] in ("", "\n")
    ]
    return _keep(_items(caption, labels, cut=False), [number]).get(number) if labels else caption


def _without_numbers(value: object, asked: Sequence[int]) -> dict[int, str] | None:
    """Read JSON that names no region: the one caption, or one for each place."""
    if isinstance(value, tuple):
        texts = [part for key, part in value if key.strip().casefold() in _TEXT_FIELDS]
        if len(texts) == 1 and isinstance(texts[0], str):
            return _from_text(texts[0].strip(), asked, cut=False)
        lists = [part for _, part in value if isinstance(part, list)]
        value = lists[0] if len(lists) == 1 else None
    if not isinstance(value, list) or not all(isinstance(part, str | None) for part in value):
        return None
    marked = _from_marks("\n".join(part or "" for part in value), asked, cut=False)
    if marked is not None:
        return marked
    if list(asked) != list(range(1, len(value) + 1)):
        return {}
    return _keep((_Item(place, part or "") for place, part in enumerate(value, 1)), asked)


# --- marks in text --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Mark:
    """A region's mark in a text, and what it does there.

    `label` names the caption that follows it; `subject` begins a sentence at the start of a line,
    `inner` one within a line; `clause` and `tangle` may begin another region's description inside
    a sentence (as its subject, or in a label's form); `mention` only refers to a region; `close`
    is a closing tag.
    """

    number: int | None
    kind: Literal["label", "subject", "inner", "clause", "tangle", "mention", "close"]
    start: int  # where the caption before it ends
    end: int  # where its own caption begins
    after: int  # where the mark itself ends
    ordinal: bool = False
    loose: bool = False
    row: bool = False  # of a table
    quoted: bool = False
    opener: str = ""  # emphasis that begins before the mark and goes on behind the label
    heading: int = 0  # its level


_N = r"\d{1,3}(?!_?[A-Za-z\d]|\d|\.\d)"
_MARK = re.compile(
    rf"""(?:
      (?:(?<![A-Za-z0-9])(?:{_NAMES}|(?P<loose>{_LOOSE_NAMES}))(?![^\W\d_])
         |{_NAMES_UNSPACED}|(?P<loose2>{_LOOSE_UNSPACED}))
      (?:\s(?:id|number|index)\s?=\s?["']?)?
      [ \t\xa0_\-\#.]{{0,3}}(?:(?:no|nr|number|nummer)\b[. ]{{0,2}}|[nN№]?[°º]?[ ]?)
      (?P<number>{_N}|[{_HAN}](?![{_HAN}]))["']?
     |[第제][ ]?(?P<place>{_N}|[{_HAN}])[ ]?[个個番目の]{{0,3}}(?:{_ALL_NAMES})
     |(?P<close>(?<=</)(?:region|box)(?=>))
    )[ ]?\|?(?P<shut>[>\])）】」』》〉＞}}])?""",
    re.IGNORECASE | re.VERBOSE,
)
_OPENING = re.compile(r"[<\[(（【「『《〈＜{][|/*_ ]{0,2}$")
_LEAD = r"""(?:
    (?:in|for|within|inside|at|on|as[ ]for|regarding|im|dans|en|nel|em|na)[ ]
      (?:the[ ](?:(?:marked|green|red)[ ])?|la[ ]|der[ ]|el[ ])?
    |[在对于]{1,2}[ ]?
    |in[ ](?:the|this)[ ](?:image|picture|photo),[ ]
    |(?:here[ ]is[ ])?(?:the[ ]|a[ ])?
      (?:contents?|image|scene|area|object|item|subject|descriptions?|captions?
        |marked[ ]\w{1,12})[ ]
      (?:of|for|in|inside|within|marked(?:[ ](?:as|by))?|labell?ed(?:[ ]as)?)[ ](?:the[ ])?
    |(?:the[ ])?[a-z-]{3,14}[ ](?:marked[ ])?(?:region|box|area|object),?[ ]
    )"""
_LINE_START = re.compile(
    rf"""(?P<decor>(?:[^\w\n{{]|_){{0,24}}(?:\d{{1,3}}(?:[^\w\n{{]|_){{1,8}})?)
    (?P<lead>{_LEAD})?""",
    re.I | re.X,
)
_BOUNDARY = re.compile(
    rf"""(?P<stop>[.!?:;…。！？；>]|[,，/|])["'”’)*_\]]{{0,3}}(?:[ \t]{{1,3}}|(?<=[。！？；，>]))
    (?P<decor>[*_`"'“•-]{{0,3}}[ ]?)(?P<joined>(?:and|und|et|y|e)[ ]|和)?(?P<lead>{_LEAD})?$""",
    re.I | re.X,
)
# A mark behind such a word is part of the sentence, whatever follows it.
_PREPOSITION = re.compile(
    r"""(?:(?<!and[ ])(?<!while[ ])(?<!but[ ])(?<![,;][ ])\bin
      |\b(?:of|to|with|than|from|by|near|behind|beside|at|on|as|like|for|under|above|below|over
        |see|the|into|inside|within|around|between|against|von|im|zu|mit|de|du|à|del|con)
    )[ \n]["'(*_]?$
    |[在与和跟]$""",
    re.I | re.X,
)
_ASIDE = r"[ \t]?[(（\[【](?:[^()（）\[\]【】\n]|[(（][^()（）\n]{0,60}[)）]){1,100}[)）\]】]"
_CLOSERS = r"[*_`\"'”’»]{0,4}"
_LABEL = re.compile(
    rf"""{_CLOSERS}(?:[ ](?:caption|description|content)\b)?(?:{_ASIDE})?{_CLOSERS}
    [ \t\xa0\u202f\u3000]{{0,3}}
    (?:(?P<firm>[:：﹕︰]|(?P<row>\|)|(?<=[\s*_`)\]】>])(?:[-–—=~]{{1,2}}>?|→)(?=[ \t\n]))
      |[.)、．](?=\s|\Z)|(?=\n|\Z))""",
    re.I | re.X,
)
_PLAIN_LABEL = re.compile(
    r"""[*_`]{0,3}[ \t]{0,3}["“'(*_]{0,3}(?:(?:an?|the|two|three|several|some|eine?|der|die|das|une?
    |le|la|les|el|una)[ ]|(?P<first>\w))""",
    re.I | re.X,
)
_SAYS = re.compile(
    r"""[*_`"')]{0,3}[ ]?(?:,|'s\b|(?:is|are|was|were|has|have|also|appears?|seems?|likely|can|could
    |may|might|contains?|shows?|features?|depicts?|displays?|includes?|highlights?|captures?|covers?
    |represents?|presents?|portrays?|illustrates?|focuses|encloses|consists|encompasses|frames
    |marks|outlines|indicates|reveals|holds|which|zeigt|enthält|ist|montre|contient|est|muestra
    |contiene|es|mostra|contém|è)\b|[是为为显展包有中内里上のにはが은는이가에])""",
    re.I | re.X,
)
_JOINT = re.compile(
    rf"""(?:[ ]?(?:[,，、]?[ ]?(?:and|&|\+|or|to|through|und|bis|et|à|y|和|与|及|到|至|と)[ ]?
      |[,，、/][ ]?)|[-–~～])
    ["'*_`]{{0,3}}[<\[(]?(?:(?:{_ALL_NAMES})[ _-]?)?{_N}[>\])]?""",
    re.I | re.X,
)
# "Other regions:", "<region>:": nobody's, but the end of the caption before it.
_NAMELESS = re.compile(
    rf"""^(?![^\n:：]{{0,80}}\d)[^\w\n{{]{{0,12}}(?:[A-Za-z]{{1,16}}[ ]){{0,2}}
    (?:{_NAMES}|{_NAMES_UNSPACED})[ ]?[>\])】]?
    {_CLOSERS}(?:{_ASIDE})?{_CLOSERS}[ ]{{0,3}}[:：]""",
    re.I | re.M | re.X,
)
_OPENER = re.compile(r"(\*{1,3}|_{1,3})[<\[(`\"'“]*$")
_BOXES = ("[", "(", "【", "（")
_REACH = 90  # how far before a mark its sentence or line is looked for
_AT_LINE_START = ("label", "subject")


def _strong_marks(text: str) -> list[_Mark]:
    """Find the marks that name a region (`<region1>`, `Box 1`) and say what each does."""
    marks: list[_Mark] = []
    done = 0  # a mark within "<region1> and <region2>" has been taken with the first
    for found in _MARK.finditer(text):
        if found.start() < done:
            continue
        joint = None
        while another := _JOINT.match(text, joint.end() if joint else found.end()):
            joint = another
        done = joint.end() if joint else 0
        marks.append(_strong_mark(text, found, done))
        if len(marks) >= _MOST_MARKS:
            break
    for found in islice(_NAMELESS.finditer(text), _MOST_MARKS):
        marks.append(_Mark(None, "label", found.start(), found.end(), found.end()))
    return _with_paired_tags(sorted(marks, key=lambda mark: mark.start))


def _strong_mark(text: str, found: re.Match[str], joint_end: int) -> _Mark:
    opening = _OPENING.search(text, max(0, found.start() - 3), found.start())
    start = opening.start() if opening else found.start()
    bracket = opening[0][0] if opening and found["shut"] else ""
    after = joint_end or found.end()
    digits = found["number"] or found["place"]
    mark = _Mark(
        number=None if joint_end or not digits else _int(digits),
        kind="mention",
        start=start,
        end=start,
        after=after,
        ordinal=bool(found["place"]),
        loose=bool(found["loose"] or found["loose2"]) and bracket != "<",
    )
    if found["close"] or (opening and "/" in opening[0]):
        return replace(mark, kind="close", number=_int(digits) if digits else None, end=after)
    line = text.rfind("\n", max(0, start - _REACH), start) + 1
    if line or start <= _REACH:
        at_line = _LINE_START.fullmatch(text, line, start)
        if at_line:
            return _at_line_start(text, mark, at_line, bracket)
    return _within_line(text, mark, max(line, start - _REACH))


def _at_line_start(text: str, mark: _Mark, line: re.Match[str], bracket: str) -> _Mark:
    says = _SAYS.match(text, mark.after)
    label = _LABEL.match(text, mark.after)
    plain = not mark.loose and not says and (bracket in _BOXES or _plain_label(text, mark))
    if label or plain:
        return _as_label(text, mark, line["decor"], line.start(), label)
    wrapped = _PREPOSITION.search(text, max(0, line.start() - 20), line.start())
    if wrapped or (mark.loose and not says):
        return mark
    sentence = line.start() + len(line["decor"].rstrip("*_`\"'“"))
    return replace(mark, kind="subject", start=line.start(), end=sentence)


def _within_line(text: str, mark: _Mark, head: int) -> _Mark:
    says = _SAYS.match(text, mark.after)
    label = _LABEL.match(text, mark.after)
    firm = bool(label and label["firm"])
    boundary = _BOUNDARY.search(text, head, mark.start)
    if boundary:
        start = boundary.start("decor")
        if firm:
            return _as_label(text, mark, boundary["decor"], start, label)
        sentence = boundary["stop"] in ".!?:;…。！？；>" and not boundary["joined"]
        if sentence and (says or not mark.loose):
            return replace(mark, kind="inner", start=start, end=start)
    if _PREPOSITION.search(text, head, mark.start):
        return mark
    if firm or (not mark.loose and not says and _plain_label(text, mark)):
        return replace(mark, kind="tangle")
    return replace(mark, kind="clause") if says and not mark.loose else mark


def _plain_label(text: str, mark: _Mark) -> bool:
    """Whether what follows a mark without a colon begins a caption: "<region1> A cat"."""
    follows = _PLAIN_LABEL.match(text, mark.after)
    return follows is not None and (follows["first"] or "A").isupper()


def _as_label(text: str, mark: _Mark, decor: str, start: int, label: re.Match[str] | None) -> _Mark:
    end = label.end() if label else mark.after
    emphasis = _OPENER.search(decor)
    opener = emphasis[1] if emphasis else ""
    if opener and opener in text[mark.after : end]:
        opener = ""
    elif opener and text.startswith(opener, end):
        end, opener = end + len(opener), ""
    return replace(
        mark,
        kind="label",
        start=start,
        end=end,
        opener=opener,
        row=bool(label and label.groupdict().get("row")),
        quoted=decor.endswith('"'),
        heading=decor.count("#"),
    )


def _with_paired_tags(marks: list[_Mark]) -> list[_Mark]:
    """Take the `<region1>` that a `</region1>` closes for a label, wherever it stands."""
    behind_last = 0
    for place, closing in enumerate(marks):
        if closing.kind == "close":
            within = range(behind_last, place)
            same = [at for at in within if closing.number in (marks[at].number, None)]
            last = max(same, default=-1)
            opening = next((at for at in same if marks[at].kind != "mention"), last)
            if opening >= 0 and marks[opening].kind != "label":
                marks[opening] = replace(marks[opening], kind="label", end=marks[opening].after)
            behind_last = place + 1
    return marks


_NUMBERED_LINE = re.compile(
    rf"""^(?P<indent>[ \t\u3000]{{0,16}})(?:>[ ]?)?
    (?P<decor>(?:[-*+•][ \t]{{1,3}})?[^\w\n{{(\[（【<$€£{_CIRCLED}]{{0,8}})
    (?:[(\[（【<](?P<a>\d{{1,3}})[)\]）】>]{_CLOSERS}[ \t]?[:：.|–-]?
      |(?<=\*\*)(?P<b>\d{{1,3}})\*\*[ \t]?[:：.|–-]?
      |(?P<c>\d{{1,3}}){_CLOSERS}[ \t\xa0]{{0,2}}
         (?:\\?[.:)、．：）。।](?!\d)|(?P<row>\|)|[–—-](?=[ \t])(?![ \t]\d))
      |(?P<d>\d{{1,2}})\ufe0f?\u20e3
      |(?P<e>[{_CIRCLED}])[ .:：、]?
      |第(?P<f>\d{{1,3}}|[{_HAN}])[个個]?[：:、，]
      |(?<=\#)(?P<bare>\d{{1,3}})(?=[ ]\S))""",
    re.MULTILINE | re.VERBOSE,
)
_INLINE_NUMBER = re.compile(
    r"""(?:(?<![^\s.)\]*\#|])[ ]?|[(\[\#*|]{1,3}[ ]?)
    (\d{1,3})\*{0,2}(?:[.):\]：）．、]|[ ]?\|)(?!\d)(?=.)""",
    re.X,
)
_LEAD_IN = re.compile(
    r"""\b(?:image|picture|photo|here|below|sure|certainly|regions|boxes|marked|captions?
    |descriptions?|beschreib\w*|bild|voici|aquí|imagen)\b|图|区域|以下|画像|領域""",
    re.I | re.X,
)


def _numbered_lines(text: str, asked: Sequence[int]) -> list[_Mark]:
    """Find the marks that only count: `1.`, `(1)`, `[1]:`, `| 1 |`; none if it is no such list."""
    lines = list(islice(_NUMBERED_LINE.finditer(text), _MOST_MARKS))
    lines = [line for line in lines if len(line["indent"]) <= len(lines[0]["indent"])]
    if not lines or (len(lines) == 1 and lines[0]["bare"]):
        return []
    before = text[: lines[0].start()].rstrip().rpartition("\n")[2]
    in_caption = before.endswith(_COLONS) or len(asked) == 1
    if before and in_caption and not _LEAD_IN.search(before):
        return []
    marks = [_numbered_line(text, line) for line in lines]
    for place, (mark, following) in enumerate(pairwise(marks)):
        if text[mark.end : following.start].rstrip().endswith(_COLONS):
            return marks[: place + 1]  # a list within this caption: which numbers are whose?
    return marks


def _numbered_line(text: str, line: re.Match[str]) -> _Mark:
    digits = next(line[name] for name in (*"abcdef", "bare") if line[name])
    mark = _Mark(_int(digits), "label", line.start(), line.end(), line.end(), ordinal=True)
    return _as_label(text, mark, line["decor"], line.start(), line)


def _starts(text: str) -> bool:
    """Whether any mark in the text begins a caption."""
    return _begin_captions(_strong_marks(text)) or bool(_NUMBERED_LINE.search(text))


def _begin_captions(marks: Iterable[_Mark]) -> bool:
    kinds = (*_AT_LINE_START, "inner")
    return any(mark.kind in kinds and mark.number is not None for mark in marks)


def _from_marks(text: str, asked: Sequence[int], cut: bool) -> dict[int, str] | None:
    """Read the captions behind marks; None if no mark begins one."""
    marks = _strong_marks(text)
    if not _begin_captions(marks):
        marks = _numbered_lines(text, asked)
        if not marks:
            return None
        marks = _with_doubts(text, marks, asked)
    return _keep(_items(text, marks, cut or len(marks) >= _MOST_MARKS), asked)


def _with_doubts(text: str, marks: list[_Mark], asked: Sequence[int]) -> list[_Mark]:
    """Add what may be another mark within a line of a counted list: "1. a cat 2. a dog"."""
    own = {mark.number for mark in marks}
    doubted: list[_Mark] = []
    ends = [mark.start for mark in marks[1:]] + [len(text)]
    for mark, end in zip(marks, ends, strict=True):
        doubted.append(mark)
        expected = {*asked, (mark.number or 0) + 1} - own
        for found in _INLINE_NUMBER.finditer(text, mark.end, end):
            if _int(found[1]) in expected:
                place = found.start()
                doubted.append(_Mark(None, "tangle", place, place, place))
                break
    return doubted


def _items(text: str, marks: Sequence[_Mark], cut: bool) -> list[_Item]:
    """Cut a text at its marks; captions behind labels come before those in sentences."""
    if cut:  # what touches the end may have been about to become something else
        end = len(text)
        marks = [m for m in marks if m.kind == "close" or max(m.end, m.after) < end]
    labelled = {mark.number for mark in marks if mark.kind == "label"}
    sections: list[tuple[_Mark, _Item]] = []
    current: _Mark | None = None
    doubt = len(text)  # where the current caption may begin to be another's
    for mark in marks:
        if mark.kind in _AT_LINE_START or (mark.kind == "inner" and not labelled):
            if current and current.number == mark.number and mark.kind == "inner":
                continue  # the region's next sentence
            if current:
                sections.append((current, _item(text, current, mark.start, doubt)))
            current, doubt = mark, len(text)
        elif current and mark.kind == "close":
            foreign = mark.number not in (None, current.number)
            doubt = current.end if foreign else doubt
            sections.append((current, _item(text, current, mark.start, doubt)))
            current = None
        elif current and mark.number != current.number:
            unlabelled = mark.kind in ("clause", "inner") and mark.number not in labelled
            if unlabelled or mark.kind == "tangle":
                doubt = min(doubt, mark.start)
    if current and not cut:
        sections.append((current, _item(text, current, len(text), doubt)))
    return [item for mark, item in sorted(sections, key=lambda pair: pair[0].kind != "label")]


def _item(text: str, mark: _Mark, end: int, doubt: int) -> _Item:
    raw = _before_ending(text[mark.end : end], mark)
    caption = _section(raw, mark) if mark.end + len(raw) <= doubt else None
    return _Item(mark.number, caption, mark.ordinal)


_CHAT = (
    r"let me know|i hope|feel free|if you(?:'d| would| need| have| want)|please (?:let|note)|note:"
    r"|is there anything|would you like"
)
_SUMMARY = (
    r"overall,|in summary|in conclusion|to summari[sz]e|together,"
    r"|these (?:are|regions|captions|descriptions)"
)
_NEW_PARAGRAPH = r"\n[ \t]{0,8}\n[ \t]{0,8}(?:[-=*_]{3,9}\n)?[ \t>*_(\n]{0,6}"
_PARTING = re.compile(f"{_NEW_PARAGRAPH}(?:{_CHAT})", re.I)
_ENDING = re.compile(f"{_NEW_PARAGRAPH}(?:{_CHAT}|{_SUMMARY})|\n[ \t]{{0,4}}(#{{1,6}})[ \t]", re.I)
_RULE = re.compile(r"[ \t]*[-*_=~#`>]{2,}[ \t]*")


def _before_ending(raw: str, mark: _Mark) -> str:
    """Cut a closing remark, or a heading that is not within this region's own."""
    for ending in _ENDING.finditer(raw):
        if not ending[1] or not mark.heading or len(ending[1]) <= mark.heading:
            return raw[: ending.start()]
    return raw


def _section(raw: str, mark: _Mark) -> str:
    """Make a caption of the text between a mark and the next."""
    if mark.row:
        raw = raw.lstrip().partition("\n")[0]
    caption = _without_rules(_without_title(raw, mark).strip()).rstrip(" \t\n,，;；|/")
    if caption.startswith(('{"', "{'")):
        values = _json_values(caption)
        return _text_of(values[0].value) or "" if values else ""
    if mark.quoted and caption.startswith('"'):
        return _unescape(caption[1:-1]) if caption.endswith('"') else ""
    return "" if caption.endswith(_COLONS) else caption


def _without_title(raw: str, mark: _Mark) -> str:
    """Cut a title in the label's emphasis or heading: "**Region 1: Meter** It is blue."."""
    line, _, rest = raw.partition("\n")
    if mark.opener and mark.opener in line:
        title, _, behind = line.partition(mark.opener)
        caption = f"{behind.lstrip(' :：-–—')}\n{rest}"
        return caption if caption.strip() else title
    return rest if mark.heading and rest.strip() else raw


def _without_rules(text: str) -> str:
    for _ in range(3):
        before, _, last = text.rpartition("\n")
        if not before or not _RULE.fullmatch(last):
            break
        text = before.rstrip()
    return text


# --- text without marks ---------------------------------------------------------------------

_OWN_LABEL = re.compile(r"[*_\"]{0,3}(?:caption|description|answer)[*_\"]{0,3}:[*_]{0,3}\s", re.I)
_LOOKS_LIKE_JSON = re.compile(r"""^[ \t]{0,8}(?:\{|\[\s?["'{])""", re.M)


def _from_text(text: str, asked: Sequence[int], cut: bool) -> dict[int, str]:
    found = _from_marks(text, asked, cut)
    if found is not None:
        return found
    if len(asked) != 1 or cut:
        return {}
    mentioned = {mark.number for mark in _strong_marks(text) if not mark.loose}
    if mentioned and asked[0] not in mentioned:
        return {}
    return _keep([_Item(asked[0], _lone(text))], asked)


def _lone(text: str) -> str:
    """Read the whole text as the one caption asked for, without a line that leads in to it."""
    if _LOOKS_LIKE_JSON.search(text):
        return ""
    line, _, rest = text.partition("\n")
    if line.rstrip().endswith(_COLONS) and _LEAD_IN.search(line):
        text = rest.strip()
    text = _OWN_LABEL.sub("", _PARTING.split(text, maxsplit=1)[0], count=1)
    return "" if text.rstrip().endswith(_COLONS) else text


# --- refusing words -------------------------------------------------------------------------

# Regular expressions by language, for the beginning of a clause.
_SORRY = {
    "en": r"i(?:'m| am) (?:\w+ )?sorry|i apologi[sz]e|my apologies",
    "de": r"es tut mir (?:\w+ )?leid",
    "fr": r"je suis (?:\w+ )?désolée?",
    "es": r"lo siento(?: mucho)?|lo lamento",
    "zh": r"(?:很|非常|实在|十分)?(?:抱歉|对不起|對不起)",
    "ja": r"(?:大変|誠に)?申し訳(?:あり|ござい)ません(?:が)?",
}
_PREAMBLE = {
    "en": r"sorry|about that|for (?:the |any )?(?:inconvenience|confusion|misunderstanding)"
    r"|it (?:seems|appears|looks like)(?: that)?|i'm afraid(?: that)?|at this time"
    r"|unfortunately|regrettably|however|but|also"
    r"|as an? (?:\w+ ){0,3}(?:ai|model|assistant)\b[^,.\n]{0,60}"
    r"|i(?:'m| am) (?:just )?an ai\b[^,.\n]{0,40}?(?=,| and\b|$)(?: and\b)?"
    r"|(?:for|due to|to protect) (?:\w+[ ']){0,4}(?:privacy|safety|ethical|security|policy)"
    r"(?: \w+){0,3}",
    "de": r"tut mir (?:\w+ )?leid|entschuldigung|leider|jedoch|aber"
    r"|als (?:\w+[ -])?ki\b[^,\n]{0,30}?(?=,| kann)",
    "fr": r"désolée?|pardon|malheureusement|mais|en tant qu[e'][^,\n]{0,60}",
    "es": r"lamentablemente|desafortunadamente|pero"
    r"|como (?:modelo|ia|asistente|una? ia)[^,\n]{0,60}",
    "zh": r"不好意思|遗憾的是|但是?"
    r"|作为(?:一个|一名)?(?:ai|人工智能|语言模型|大模型)[^，,\n]{0,20}",
    "ja": r"すみません(?:が)?|恐れ入りますが|残念ながら|私は|aiとして",
}
_HELPING = (
    r"(?:assist|help(?= *$| (?:with|you|identify|describ|in)\b)|identif|provid|describ|comply"
    r"|fulfil|process|analy[sz]|recogni[sz]|determine|answer|do (?:that|this|so)\b|generat|discuss"
    r"|access|engage|complete|continue|offer|giv(?:e|ing)|shar(?:e|ing)|respond|caption|comment"
    r"|speculat|confirm|interpret|detect|support|make (?:out|that|any)|tell (?:who|what|you)"
    r"|feel comfortable|have (?:the ability|access|enough|permission)"
    r"|(?:see|view|read|find) (?:(?:the|any|an?|this|that|what|enough|your) )?"
    r"(?:image|picture|photo|region|box|content|mark|detail|what|anything|<))"
)
_REFUSES = {
    "en": r"i ?(?:(?:really|simply|currently|also|just) )?(?:cannot|can not|can't|cant|could not"
    r"|couldn't|won't|will not|do not|don't|(?:'m|am) (?:currently )?(?:unable|not (?:able|allowed"
    r"|permitted|comfortable|going|in a position))(?: to)?) (?:be able to |\w+ly )?"
    + _HELPING
    + r"|(?:there(?:'s| is) )?no (?:image|picture|photo) (?:(?:was|is|has been) )?"
    r"(?:attached|provided|included|uploaded|to describe)"
    r"|i (?:must|have to|need to|will have to|respectfully) (?:\w+ly )?"
    r"(?:decline|refuse|refrain)|i decline to|i'd rather not"
    rf"|(?:(?:i'm |am )?(?:unable|not able) to|can(?:not|'t)(?: be)?) {_HELPING}"
    r"|(?:this|your|the) (?:request|prompt|response|content|input)\b.{0,60}"
    r"(?:violat|polic|flagged|filtered|blocked|safety)",
    "de": r"(?=.{0,50}\bich\b)(?:(?:ich|dabei|damit|dazu|das|hierbei|diese\w*) ){0,2}"
    r"(?:kann|darf|könnte|bin)\b.{0,80}\b(?:nicht|keine?n?)\b.{0,60}"
    r"\b(?:\w*helfen|identifizieren|beschreiben|erkennen|sagen|beantworten|unterstützen"
    r"|bereitstellen|angeben|bestimmen|machen|lage)\b",
    "fr": r"je n(?:e |')(?:peux|suis|pourrai|puis)\b.{0,40}(?:aider|identifier|décrire|répondre"
    r"|fournir|assister|reconnaître|traiter|mesure|capable|faire|autorisé|déterminer)",
    "es": r"(?:yo )?no (?:puedo|me es posible|soy capaz|estoy (?:autorizado|capacitado)|tengo)\b"
    r".{0,60}(?:ayudar|identificar|describir|responder|proporcionar|asistir|reconocer|procesar"
    r"|hacer|cumplir|ofrecer)",
    "zh": r"(?:我|目前我?|暂时|對此)[^，。\n]{0,8}(?:无法|不能|无权|没有办法|無法).{0,30}"
    r"(?:识别|辨认|提供|协助|帮|描述|回答|满足|完成|处理|查看|继续|讨论|分析|識別|協助|幫|滿足|處理)"
    r"|(?:无法|不能|無法)(?:为您|对此|對此)?(?:识别|辨认|提供|协助|帮助|描述|回答|满足|处理"
    r"|識別|協助|幫助)[^的]{0,40}$",
    "ja": r".{0,60}(?:特定|識別|説明|回答|お答え|お手伝い|対応|支援|提供|記述|お応え)"
    r"(?:する(?:こと)?)?[はがを]?(?:でき|いたしかね|致しかね|しかね)(?:ません|ます)",
}
_OFFERS = {
    "en": r"if you|feel free|let me know|please|thank|is there|(?:would|could|can) you"
    r"|i can (?:help|assist|try|describe|provide|offer|only)|you (?:can|may|could) |perhaps you"
    r"|i(?:'d|'ll| would| will|'m| am) (?:be )?(?:happy|glad|able)"
    r"|it(?:'s| is) (?:against|not (?:possible|appropriate))",
    "de": r"wenn sie|bitte",
    "fr": r"si vous|n'hésitez",
    "es": r"si (?:tienes|necesita|desea|hay)|por favor",
    "zh": r"如果您?|请|若",
    "ja": r"もし|他の|別の",
}


def _any(by_language: Mapping[str, str]) -> str:
    return "|".join(by_language.values())


_POLITE_START = re.compile(
    rf"(?:(?:(?P<sorry>{_any(_SORRY)})|{_any(_PREAMBLE)})[\s,，、:—–-]*)+", re.I
)
_REFUSING = re.compile(_any(_REFUSES), re.I)
_OFFERING = re.compile(_any(_OFFERS), re.I)
_BREAK = re.compile(r"""[.!?。！？;:\n{}"“”]|,?\s(?:but|however|aber|mais|pero)\s|，但""", re.I)
_MOST_CLAUSES = 40


def is_refusal(text: str) -> bool:
    """Whether a whole answer, or a whole caption, is nothing but refusing words.

    Each of its clauses has to refuse, apologise or offer something else; a caption that contains
    such words, or a refusal that goes on to describe, is none. Marks and JSON keys count for
    nothing: an answer that refuses region by region is a refusal too. English, German, French,
    Spanish, Chinese and Japanese.

    >>> is_refusal("I'm sorry, but I can't assist with that.")
    True
    >>> is_refusal("a sign that says 'I'm sorry, we can't help you'")
    False
    """
    plain = _clean(text).replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    refuses = False
    for part in _BREAK.split(plain, maxsplit=_MOST_CLAUSES):
        clause = part.strip(" ,，-–—\t\"'*_`[]()|#")
        polite = _POLITE_START.match(clause)
        said = clause[polite.end() :] if polite else clause
        sorry = polite is not None and polite["sorry"] is not None and not said
        if sorry or _REFUSING.match(said):
            refuses = True
        elif said and not _OFFERING.match(said) and _number(said) is None:
            return False
    return refuses
