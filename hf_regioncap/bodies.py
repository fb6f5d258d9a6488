"""Response bodies to JSON values: what stands around the JSON, and answers that come in pieces.

Pure. Servers and the proxies before them send a byte order mark, blank lines and comments to keep
a connection open, `data: [DONE]` behind the JSON, or a whole stream of events where none was asked
for. All of it is one value here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

_DECODER = json.JSONDecoder(strict=False)  # a tab in a string is no reason to lose an answer
#: What keeps a connection open before there is an answer: blanks, and comments of a stream.
_WAITING = re.compile(r"(?:\s+|\ufeff|:[^\n]*(?:\n|$))*")
_FIELD = re.compile(r"(?:data|event|id|retry):")


def read_body(text: str) -> Any:
    """Read the value of a body; ValueError or RecursionError where there is none, or it is cut.

    >>> read_body("\\ufeff: wait\\n\\n{\\"a\\": 1}\\n\\ndata: [DONE]")
    {'a': 1}
    >>> read_body('data: {"choices": [{"delta": {"content": "a "}}]}\\n\\n'
    ...           'data: {"choices": [{"delta": {"content": "cat"}}]}\\n\\ndata: [DONE]\\n\\n')
    {'choices': [{'message': {'content': 'a cat'}, 'finish_reason': None}]}
    """
    streamed = is_stream(text)
    values = list(_values(_data(text) if streamed else text))
    if streamed or (len(values) > 1 and all(map(_is_piece, values))):
        return _merged(values, ended="[DONE]" in text[-100:])
    return values[0]


def is_stream(body: str) -> bool:
    """Tell whether a body is a stream of server-sent events.

    >>> is_stream(": wait\\n\\ndata: {}"), is_stream(": wait\\n\\n{}"), is_stream("{}")
    (True, False, False)
    """
    return _FIELD.match(body, _begin(body, 0)) is not None


def _begin(text: str, place: int) -> int:
    found = _WAITING.match(text, place)
    return found.end() if found else place


def _data(text: str) -> str:
    """The data of all events, without what says that there are no more."""
    lines = (line[5:].strip() for line in text.splitlines() if line.startswith("data:"))
    return "\n".join(line for line in lines if line != "[DONE]")


def _values(text: str) -> Iterator[Any]:
    """The JSON values that a text begins with; what follows the last is no answer's."""
    place = _begin(text, 0)
    while True:
        value, place = _DECODER.raw_decode(text, place)
        yield value
        place = _begin(text, place)
        if not text.startswith(("{", "["), place):
            return


def _is_piece(value: Any) -> bool:
    return _piece(value) is not None


def _piece(value: Any) -> dict[str, Any] | None:
    """The first choice of a piece of a stream; None where the value is none.

    The last piece may have no choice at all: it brings the usage.
    """
    choices = value.get("choices") if isinstance(value, dict) else None
    if not isinstance(choices, list):
        return None
    first = choices[0] if choices else {"delta": {}}
    return first if isinstance(first, dict) and isinstance(first.get("delta"), dict) else None


def _merged(values: list[Any], *, ended: bool) -> Any:
    """The completion that the pieces of a stream make, or the one that came as a single event."""
    whole = [value for value in values if isinstance(value, dict) and not _is_piece(value)]
    if answers := [value for value in whole if value.get("choices")]:
        return answers[-1]
    merged: dict[str, Any] = {}
    message: dict[str, Any] = {}
    reason, begun = None, False
    for value in (each for each in values if isinstance(each, dict)):
        merged |= {name: said for name, said in value.items() if said and name != "choices"}
        choice = _piece(value) if value.get("choices") else None
        if choice is None or choice.get("index"):
            continue
        begun = True
        reason = choice.get("finish_reason") or reason
        merged |= {"error": choice["error"]} if choice.get("error") else {}
        _add(message, choice["delta"])
    if not begun:
        return merged | {"choices": []}
    if reason is None and not ended and "error" not in merged:
        raise ValueError("a stream that is cut off")
    return merged | {"choices": [{"message": message, "finish_reason": reason}]}


def _add(message: dict[str, Any], delta: dict[str, Any]) -> None:
    """Add a piece to a message: texts are joined, tool calls by their index."""
    for name, said in delta.items():
        known = message.get(name)
        if name == "tool_calls" and isinstance(said, list):
            calls = message.setdefault(name, [])
            for call in said:
                _add_call(calls, call if isinstance(call, dict) else {})
        elif isinstance(said, str) and isinstance(known, str) and name != "role":
            message[name] = known + said
        elif said is not None or name not in message:
            message[name] = said


def _add_call(calls: list[dict[str, Any]], piece: dict[str, Any]) -> None:
    place, function = piece.get("index"), piece.get("function")
    said = function.get("arguments") if isinstance(function, dict) else None
    if not isinstance(place, int) or not 0 <= place < len(calls):
        calls.append({"function": {"arguments": ""}})
        place = -1
    calls[place]["function"]["arguments"] += said if isinstance(said, str) else ""
