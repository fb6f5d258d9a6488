"""JSON as models write it: cut, badly quoted, with comments, anywhere in a text.

An object is a tuple of pairs, as models give keys twice; numbers other than small ones, and words
such as `true`, are None.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from hf_regioncap.answer_text import COLONS, MOST_MARKS
from hf_regioncap.wire import writable


class Found(NamedTuple):
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
_START = re.compile(rf"""\{{(?:\s++|//[^\n]*+)*+(?={_QUOTED}|{_BARE})|\[\s*+(?=["'“{{])""")
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


def json_values(text: str) -> list[Found]:
    """Find the JSON values of a text, left to right, in one pass over it."""
    found: list[Found] = []
    pos = 0
    while len(found) < MOST_MARKS and (start := _START.search(text, pos)):
        reader = _JsonReader(text, start.start())
        value = reader.value()
        pos = max(reader.pos, start.end())
        found.append(Found(value, start.start(), pos, not reader.stopped))
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
            name = key["bare"].rstrip(" :：") if key["bare"] else unescape(key[1])
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
                return unescape(self.text[start : found.start()])
            if _FORGOTTEN_QUOTE.match(self.text, found.start()):
                self.pos = found.start()  # it opens the next key: this string's end is missing
                return None
            before = self.text[max(start, found.start() - 2) : found.start()].rstrip()
            if before.endswith(COLONS) or _UNCLEAR.match(self.text, self.pos):
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


def unescape(text: str) -> str:
    """Resolve the escapes of a JSON string; what is none stays as it is."""

    def plain(found: re.Match[str]) -> str:
        code = found[1]
        if len(code) == 5:
            return chr(int(code[1:], 16))
        return _ESCAPED.get(code, code if code in _QUOTES else found[0])

    return writable(_ESCAPE.sub(plain, text))


CAPTION_FIELDS = (
    "caption", "description", "text", "content", "answer", "desc", "details", "detail", "summary",
    "value", "描述", "内容", "说明", "説明", "キャプション", "beschreibung", "descripción",
)  # fmt: skip


def text_of(value: object) -> str | None:
    """Read the caption that a region's JSON value is or holds."""
    if isinstance(value, list):
        parts = [part for part in value if isinstance(part, str)]
        return " ".join(parts) if len(parts) == len(value) else None
    if isinstance(value, tuple):
        fields = {key.strip().casefold(): part for key, part in reversed(value)}
        for name in CAPTION_FIELDS:
            if name in fields:
                return text_of(fields[name])
        strings = [part for _, part in value if isinstance(part, str)]
        return strings[0] if len(strings) == 1 and _UNFINISHED not in value else None
    return value if isinstance(value, str) else None
