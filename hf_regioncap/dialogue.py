"""How a question is followed up until its regions have captions, and what a row makes of it.

Pure: `follow_up` is a generator that yields what to ask and is sent what came back; the client
drives it. Statuses are those of the `answer_status` column.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

from hf_regioncap.answer_preface import after_prompt
from hf_regioncap.errors import is_interrupt, words_of
from hf_regioncap.options import Parse
from hf_regioncap.prompts import list_regions
from hf_regioncap.questions import Question
from hf_regioncap.response import Completion, ending
from hf_regioncap.wire import redact, writable

#: Tries in all where the answer is no use: not a completion, null, empty, nothing readable.
BAD_ANSWER_TRIES = 3
#: Tries in all where the answer is cut at length: the second with twice the tokens, or with
#: `FAR_MORE` times as many as are asked for at first where thoughts have used up all of them.
TRUNCATED_TRIES = 2
FAR_MORE = 8

#: Characters; a model that has run away from its length limit says no caption.
LONGEST_CAPTION = 50_000

#: Of one answer, prompt and completion; None where the endpoint did not say.
Tokens = tuple[int | None, int | None]


@dataclass(frozen=True)
class Reading:
    """What one completion says about the regions asked for.

    `status` is `ok` where there is at least one caption to keep and nothing is wrong with the
    answer as such; regions that are missing all the same are asked for again.
    """

    status: str
    captions: dict[int, str] = field(default_factory=dict)
    reason: str | None = None
    final: bool = False  # asking again at once could not help
    thought: bool = False  # the length limit was reached before any text
    raised: bool = False  # the user's parser failed: what the text is worth is not known yet


def read_answer(
    completion: Completion,
    regions: Sequence[int],
    parse: Parse | None = None,
    prompt: Sequence[str] = (),
) -> Reading:
    """Judge a completion: its captions by region, or the status and the reason why there are none.

    `prompt` are the texts of the question, which some servers give back before the answer.

    >>> read_answer(Completion(text="<region1>: a cat", finish_reason="stop"), [1]).captions
    {1: 'a cat'}
    >>> read_answer(Completion(text="I'm sorry, but I can't help with that."), [1]).status
    'api_refused'
    """
    from hf_regioncap.answer_text import clean
    from hf_regioncap.refusals import is_refusal  # its patterns compile while answers are awaited

    end, text = ending(completion.finish_reason), answer_text(completion, regions)
    if end == "refused":  # its text may be null, which is a problem elsewhere
        named = completion.finish_reason or ""
        said = "" if named == "content_filter" else f" ({redact(named)})"
        return Reading("api_refused", reason=f"stopped by the endpoint's content filter{said}")
    if completion.refusal is not None and not text:
        return Reading("api_refused", reason=f"refused: {redact(completion.refusal)}")
    if not text:
        return _without_text(completion, end)
    own = after_prompt(text, prompt)
    if not own.strip():
        return Reading("api_bad_answer", reason="nothing but the prompt came back")
    if end == "cut" and not clean(own):
        return _without_text(completion, end)
    if is_refusal(own):
        return Reading("api_refused", reason=f"refused: {redact(own)}")
    try:
        said = own if parse is None else text
        captions = _captions(said, regions, end in ("cut", "other"), parse)
    except BaseException as error:  # a user's parser may raise anything; the row keeps the reason
        if is_interrupt(error):
            raise
        words = redact(f"parse raised {words_of(error)}")
        return Reading("api_bad_answer", reason=words, final=True, raised=True)
    if set(regions) <= set(captions):
        return Reading("ok", captions)
    if end == "cut":
        return Reading("api_truncated", captions, "cut at the length limit")
    words = f"the endpoint stopped with finish_reason {completion.finish_reason!r}"
    told = redact(words) if end == "other" else None
    if not captions:
        final = parse is not None and told is None
        told = told or "no caption could be read out of the answer"
        return Reading("api_bad_answer", reason=told, final=final)
    return Reading("ok", captions, told)


def answer_text(completion: Completion, regions: Sequence[int]) -> str | None:
    """The text that the model answered with; None where there is none.

    Servers take a model's whole answer for its thoughts where thinking is switched off in one
    place only. A JSON object that has a text for each region is no thought.
    """
    from hf_regioncap.answers import answers_all

    if completion.text is not None and completion.text.strip():
        return completion.text
    thoughts = completion.thoughts[1] if completion.thoughts else ""
    return thoughts if answers_all(thoughts, regions) else None


#: What keeps a model from thinking, as servers have it.
_THINKING_OFF = (
    "turn thinking off, with extra_body={'chat_template_kwargs': {'enable_thinking': False}} "
    "(vLLM, SGLang) or {'reasoning_effort': 'none'} (Gemini, Ollama)"
)


def _without_text(completion: Completion, end: str) -> Reading:
    """What an answer comes to that has no text, or none but thoughts."""
    if end == "cut":
        words = "the length limit was reached before any text"
        return Reading("api_truncated", reason=words, thought=True)
    words = completion.problem or "an empty answer"
    if completion.thoughts is not None:
        words = f"{words}, but the endpoint gave text as {completion.thoughts[0]}: {_THINKING_OFF}"
    return Reading("api_bad_answer", reason=words)


def _captions(text: str, regions: Sequence[int], cut: bool, parse: Parse | None) -> dict[int, str]:
    """The captions of the regions asked for, by the user's parser or the built-in one."""
    if parse is None:
        from hf_regioncap.answers import parse_answer

        found = parse_answer(text, regions, cut=cut)
        return {region: said for region, said in found.items() if len(said) <= LONGEST_CAPTION}
    said = parse(text, list(regions))
    return {
        region: writable(said[region])
        for region in regions
        if isinstance(said.get(region), str) and said[region].strip()
    }


@dataclass(frozen=True)
class Ask:
    """One request to make: the question and the bound of its answer in tokens."""

    question: Question
    token_limit: int
    fresh: bool = False  # a stored answer has been read already and did not serve
    paid: tuple[Tokens, ...] = ()  # what it has cost so far
    failures: int = 0  # tries so far that the network or the endpoint has failed


@dataclass(frozen=True)
class Heard:
    """What came of a request: a completion, or the status and the reason why there is none.

    `paid` are the tokens (prompt, completion) of every answer that was ever received for this
    question, `new` those of this request alone, None where an endpoint did not say; `reading` is
    what the completion says, where that has been found out already.
    """

    completion: Completion | None = None
    paid: tuple[Tokens, ...] = ()
    new: tuple[Tokens, ...] = ()
    status: str = "ok"
    reason: str | None = None
    failures: int = 0
    reading: Reading | None = None
    token_limit: int | None = None  # with which it was asked


@dataclass
class Outcome:
    """What one question and its follow-ups came to."""

    regions: tuple[int, ...]
    captions: dict[int, str] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)
    paid: dict[str, tuple[Tokens, ...]] = field(default_factory=dict)
    new: list[Tokens] = field(default_factory=list)
    status: str = "ok"
    reason: str | None = None

    @property
    def missing(self) -> list[int]:
        """The regions that have no caption yet."""
        return [region for region in self.regions if region not in self.captions]


def follow_up(
    question: Question, *, reask: int, parse: Parse | None = None
) -> Generator[Ask, Heard, Outcome]:
    """Ask a question, then `reask` times for the regions that are still missing.

    Captions are only ever taken for the regions that a request asked for, and the first stays.

    >>> dialogue = follow_up(Question(regions=(1, 2), images=(), text="?"), reask=1)
    >>> next(dialogue).question.regions
    (1, 2)
    >>> dialogue.send(Heard(Completion(text="<region2>: a dog"))).question.regions
    (1,)
    """
    outcome = Outcome(question.regions)
    pending = question
    for _ in range(1 + reask):
        reading, texts = yield from _read_until_usable(pending, outcome, parse)
        outcome.captions = {**reading.captions, **outcome.captions}
        outcome.status, outcome.reason = reading.status, reading.reason
        outcome.texts += texts
        if not outcome.missing or not outcome.captions:
            break
        pending = question.only(outcome.missing)
    return outcome


def _read_until_usable(
    question: Question, outcome: Outcome, parse: Parse | None
) -> Generator[Ask, Heard, tuple[Reading, list[str]]]:
    """Repeat one question within the limits of its kind of failure; the last status counts.

    Captions of every answer count, a later one for its region instead of an earlier: what stood
    whole in an answer that was cut has been paid for.
    """
    tries = {"api_bad_answer": BAD_ANSWER_TRIES, "api_truncated": TRUNCATED_TRIES}
    ask = Ask(question, question.token_limit)
    captions: dict[int, str] = {}
    said: list[tuple[str, Reading]] = []
    while True:
        heard = yield ask
        outcome.paid[question.key] = heard.paid
        outcome.new += heard.new
        if heard.completion is None:
            return Reading(heard.status, captions, heard.reason), _texts(said)
        text = answer_text(heard.completion, question.regions) or heard.completion.refusal
        reading = heard.reading or read_answer(
            heard.completion, question.regions, parse, question.texts
        )
        captions |= reading.captions
        said += [(text, reading)] if text else []
        tries[reading.status] = tries.get(reading.status, 1) - 1
        limit = heard.token_limit or ask.token_limit
        is_cut = reading.status == "api_truncated"
        if reading.status == "ok" or reading.final or tries[reading.status] <= 0:
            reason = _with_limit(reading, limit) if is_cut else reading.reason
            return Reading(reading.status, captions, reason), _texts(said)
        if is_cut:
            far = FAR_MORE * question.token_limit if reading.thought else 0
            limit = far if far > limit else 2 * limit
        ask = Ask(question, limit, True, heard.paid, heard.failures)


def _with_limit(reading: Reading, limit: int) -> str:
    """Why an answer is cut, the limit that it was cut at, and the way out."""
    way = f", or {_THINKING_OFF}" if reading.thought else ""
    return f"{reading.reason}, {limit} tokens: pass a larger max_tokens={way}"


def _texts(said: Sequence[tuple[str, Reading]]) -> list[str]:
    """The last text, and before it those that a caption was kept of."""
    sources = {region: n for n, (_, reading) in enumerate(said) for region in reading.captions}
    kept = {*sources.values(), len(said) - 1}
    return [text for n, (text, _) in enumerate(said) if n in kept]


@dataclass(frozen=True)
class RowAnswer:
    """The answer columns of one row; `captions` lists one per used box, in region order."""

    answer: str | None
    captions: list[str | None]
    status: str
    error: str | None
    usage: dict[str, int | None]


NO_USAGE: dict[str, int | None] = {"prompt_tokens": None, "completion_tokens": None}


def row_answer(
    outcomes: Sequence[Outcome],
    count: int,
    *,
    per_region: bool = False,
    before: Outcome | None = None,
) -> RowAnswer:
    """Put together what was heard about a row's `count` regions in one or several dialogues.

    `per_region` says that each region was asked for by itself, which shapes `answer`; `before` is
    what an earlier run has left in the row, tokens as `new`.

    >>> heard = Outcome((1, 2), {2: "a dog"}, ["<region2>: a dog"])
    >>> row_answer([heard], 2)
    RowAnswer(answer='<region2>: a dog', captions=[None, 'a dog'], status='ok_partial',
        error='no caption for <region1>',
        usage={'prompt_tokens': None, 'completion_tokens': None})
    """
    every = [before, *outcomes] if before is not None else outcomes
    captions = {k: text for outcome in every for k, text in outcome.captions.items()}
    listed = [captions.get(region) for region in range(1, count + 1)]
    missing = [region for region, caption in enumerate(listed, 1) if caption is None]
    status, reason = _status(outcomes, missing, count)
    answer = _answer(outcomes, per_region, before)
    return RowAnswer(answer, listed, status, reason, _usage(outcomes, before))


def _status(
    outcomes: Sequence[Outcome], missing: Sequence[int], count: int
) -> tuple[str, str | None]:
    if not missing:
        return "ok", None
    failed = [outcome for outcome in outcomes if outcome.missing]
    status, reason = failed[0].status, failed[0].reason
    if len(missing) == count and status != "ok":
        return status, reason
    why = f" ({reason})" if reason else ""
    return "ok_partial", f"no caption for {list_regions(missing)}{why}"


def _answer(
    outcomes: Sequence[Outcome], per_region: bool, before: Outcome | None = None
) -> str | None:
    """The texts as received; one request per region gives a JSON object by region number.

    An earlier text stays where a caption was kept of it, and where nothing else came.
    """
    texts = ["\n\n".join(outcome.texts) for outcome in outcomes]
    earlier = before.texts if before and (before.captions or not any(texts)) else []
    if not per_region:
        return "\n\n".join(text for text in [*earlier, *texts] if text) or None
    by_region = _by_region(earlier) | {
        str(outcome.regions[0]): text for outcome, text in zip(outcomes, texts, strict=True) if text
    }
    ordered = dict(sorted(by_region.items(), key=lambda item: int(item[0])))
    return json.dumps(ordered, ensure_ascii=False) if ordered else None


def _by_region(earlier: Sequence[str]) -> dict[str, str]:
    """An earlier answer's texts by region; nothing of what is not of that form."""
    try:
        read = json.loads(earlier[0]) if earlier else {}
    except ValueError:
        return {}
    items = read.items() if isinstance(read, dict) else ()
    return {key: text for key, text in items if key.isdecimal() and isinstance(text, str)}


def _usage(outcomes: Sequence[Outcome], before: Outcome | None = None) -> dict[str, int | None]:
    """Tokens summed over every answer received, each question's once; null where unknown.

    What the row has paid `before` is in its column, and in the store once more.
    """
    if before is not None:
        counts = [tokens for outcome in (before, *outcomes) for tokens in outcome.new]
    else:
        paid = {key: tokens for outcome in outcomes for key, tokens in outcome.paid.items()}
        counts = [tokens for answers in paid.values() for tokens in answers]
    sums: list[int | None] = []
    for place in (0, 1):
        known = [tokens[place] for tokens in counts]
        numbers = [number for number in known if number is not None]
        sums.append(sum(numbers) if numbers and len(numbers) == len(known) else None)
    return {"prompt_tokens": sums[0], "completion_tokens": sums[1]}
