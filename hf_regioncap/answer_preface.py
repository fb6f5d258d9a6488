"""What stands before an answer in its text: the prompt given back, thoughts, a role."""

from __future__ import annotations

import re
from collections.abc import Sequence

# The prompt

_ROLE = re.compile(
    r"\s*+(?:(?:<\|[^<>\s]{1,24}\|>|<(?:image|start_of_turn|end_of_turn|/?s|eos)>|\[/INST\])\s*)*"
    r"(?:(?:assistant|model|answer|response|助手)\b[ \t]*[:：]?\s*)?",
    re.IGNORECASE,
)
_SPEAKER = re.compile(r"\W{0,4}(?:(?:system|user|human|用户)\W{0,4})?", re.I)
_LEAST_PROMPT = 40  # characters: shorter ones may well be what a caption says, too


def after_prompt(answer: str, prompt: Sequence[str]) -> str:
    """Cut what a server gives back of a request's texts before the answer to it.

    The `prompt` is the system prompt, the user's text, and what goes with it in each form of an
    answer. The last is in every prompt that is given back whole, and in nothing else.

    >>> given_back = "user: What is there? Answer with one line. assistant: a cat"
    >>> after_prompt(given_back, ["Be brief.", "What is there?", "Answer with one line."])
    'a cat'
    >>> after_prompt("a cat", ["Be brief.", "What is there?", "Answer with one line."])
    'a cat'
    """
    if not prompt:
        return answer
    system, text, *forms = prompt
    ends = [place + len(words) for words in forms if (place := answer.rfind(words)) >= 0]
    if ends:
        return _ROLE.sub("", answer[max(ends) :], count=1)
    place = answer.find(text) if len(text) >= _LEAST_PROMPT else -1
    before = answer[: max(place, 0)].replace(system, "", 1) if system else answer[: max(place, 0)]
    behind = answer[place + len(text) :]
    given_back = place >= 0 and behind.strip() and _SPEAKER.fullmatch(before.strip())
    return _ROLE.sub("", behind, count=1) if given_back else answer


# Thoughts

_TAG = r"(?:\w{1,12}:)?(?:think|thinking|thoughts?|reasoning|reflection|analysis|scratchpad)"
_PAIRS = {
    "◁think▷": "◁/think▷",  # Kimi
    "[think]": "[/THINK]",  # Mistral
    "<|channel>": "<channel|>",  # Gemma
    "<unused94>": "<unused95>",  # MedGemma
    "<|start_thinking|>": "<|END_THINKING|>",  # Cohere
    "<|begin_of_thought|>": "<|end_of_thought|>",
}
_OPEN = re.compile(rf"<(?P<tag>{_TAG})>|(?:{'|'.join(map(re.escape, _PAIRS))})", re.IGNORECASE)
#: The end of thoughts whose beginning the server has cut off; within a sentence it is a word.
_CLOSE = rf"(?:</{_TAG}>|(?:{'|'.join(map(re.escape, _PAIRS.values()))}))"
_THOUGHT = re.compile(
    rf"^[ \t]{{0,8}}{_CLOSE}|{_CLOSE}(?=[ \t]{{0,8}}$|[^\s\"'”’`.,;)\\])",
    re.MULTILINE | re.IGNORECASE,
)
#: OpenAI's harmony, and what is left of it without its special tokens.
_CHANNEL = re.compile(r"<\|channel\|>\s{0,4}(?P<name>\w{1,20})[^<\n]{0,60}<\|message\|>")
_BARE_CHANNEL = re.compile(r"\s*+(?:assistant)?(?:analysis|commentary)(?=[A-Z\d\"'<])")
_BARE_FINAL = "assistantfinal"
#: Words that begin thoughts, and those that end them.
_STEPS = {
    "here are my reasoning steps:": "[BEGIN FINAL RESPONSE]",  # Apriel
    "here is my thought process:": "Here is my response:",  # Granite
}
_FINAL = re.compile(r"\[BEGIN FINAL RESPONSE\](.*?)(?:\[END FINAL RESPONSE\]|\Z)", re.DOTALL)
#: Gemma's channel without its marks: nothing says where the thoughts end.
_UNMARKED = re.compile(r"(?:thought|analysis)[ \t]*\n")
_FORMAL = re.compile(r"\{|\[|```|(?:<region\d{1,3}>:[^\n]*(?:\n|\Z))+\Z")
#: One of these words is in every mark above; to look for words is much faster.
_HINTS = (
    *("think", "thought", "reason", "reflection", "analysis", "scratchpad", "commentary"),
    *("channel", "<unused9", "final response"),
)
_REACH = 80  # characters of a line that are looked at


def after_thoughts(text: str) -> str:
    """Cut a model's thoughts, in the marks of many templates; all of it where they do not end.

    >>> after_thoughts("<think>A dog?</think>a cat"), after_thoughts("[THINK]A dog?")
    ('a cat', '')
    >>> after_thoughts('a sign that says "</think>" in red')
    'a sign that says "</think>" in red'
    """
    lower = text.lower()
    if not any(hint in lower for hint in _HINTS):
        return text
    text = _without_blocks(_final_message(text))
    ended = 0
    for closed in _THOUGHT.finditer(text):
        ended = closed.end()
    text = text[ended:]
    unmarked = _UNMARKED.match(text.lstrip())
    if unmarked:
        last = re.split(r"\n[ \t]*\n", text.strip())[-1].strip()
        return last if last != text.strip() and _FORMAL.match(last) else ""
    return text


def _final_message(text: str) -> str:
    """The text that is marked as the final one, where a text is marked in this way."""
    channels = list(_CHANNEL.finditer(text))
    if channels:
        final = [channel for channel in channels if channel["name"].lower() == "final"]
        return text[final[-1].end() :] if final else ""
    if _BARE_CHANNEL.match(text):
        return text.rpartition(_BARE_FINAL)[2] if _BARE_FINAL in text else ""
    finals = _FINAL.findall(text)
    if finals:
        return str(finals[-1])
    head = text[:80].lstrip().lower()
    for begin, end in _STEPS.items():
        if head.startswith(begin):
            return text.partition(end)[2]
    return text


def _without_blocks(text: str) -> str:
    """Cut thoughts between marks that begin a line or a caption; those that do not end, too."""
    kept: list[str] = []
    done = 0
    endless: set[str] = set()  # each search for a mark's end is made once, so that no text is long
    for opened in _OPEN.finditer(text):
        line = (
            text[max(done, opened.start() - _REACH) : opened.start()].rpartition("\n")[2].rstrip()
        )
        if opened.start() < done or (line and line[-1] not in ":：>"):
            continue  # of thoughts already, or a word of a sentence
        close = f"</{opened['tag']}>" if opened["tag"] else _PAIRS[opened[0].lower()]
        end = -1 if close in endless else text.find(close, opened.end())
        if end >= 0:
            kept.append(text[done : opened.start()])
            done = end + len(close)
            continue
        endless.add(close)
        if not line:
            return "".join(kept) + text[done : opened.start()]
    return "".join(kept) + text[done:]


# A role, and what comes after the end

_BEGINS = re.compile(
    r"\s*+(?:(?:<\|(?:im_start|start|start_header_id)\|>|<start_of_turn>|<\|turn>)\s*"
    r"(?:assistant|model)\b(?:<\|end_header_id\|>)?|assistant[ \t]*(?=\n)|assistant[ \t]*[:：])\s*",
    re.IGNORECASE,
)
_ENDS = re.compile(
    r"<\|(?:im_end|eot_id|eom_id|endoftext|end_of_text|end|return)\|>"
    r"|<end_of_turn>|<end_of_utterance>|<turn\|>|<eos>"
)


def own_turn(text: str) -> str:
    """Keep what the model said in its own turn: some go on with a next question of their own.

    >>> own_turn("<|im_start|>assistant\\na cat<|im_end|>\\n<|im_start|>user\\nAnd here?")
    'a cat'
    """
    begins = _BEGINS.match(text)
    text = text[begins.end() :] if begins else text
    if not any(hint in text for hint in ("<|", "<end_of_", "<turn|>", "<eos>")):
        return text
    for ends in _ENDS.finditer(text):
        if text[: ends.start()].strip():
            return text[: ends.start()]
    return text
