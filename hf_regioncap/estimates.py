"""What a run would send, before anything is spent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hf_regioncap.captioning import open_store, prepare_row
from hf_regioncap.client import hear_from_store
from hf_regioncap.costs import Price, find_price, image_tokens, jpeg_size
from hf_regioncap.dialogue import follow_up
from hf_regioncap.options import Options, documented, read_options
from hf_regioncap.reading import each_row, first_rows, plan_rows, splits_of, tables_of
from hf_regioncap.remarks import remarks
from hf_regioncap.rows import Row
from hf_regioncap.tables import Rows
from hf_regioncap.window import Window

if TYPE_CHECKING:
    from hf_regioncap.dialogue import Ask
    from hf_regioncap.questions import Question
    from hf_regioncap.store import AnswerStore


@dataclass(frozen=True)
class Estimate:
    """What a run would send, before anything is spent; see `estimate`.

    `requests` are the first requests: retries and questions for missing regions come on top.
    Tokens are by the model family's published formulas; None where none is published for it.
    """

    rows: int
    regions: int
    requests: int
    stored: int
    image_tokens: int | None
    text_tokens: int
    completion_tokens: int
    cost: float | None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The estimate as a few lines of text."""
        images = "unknown" if self.image_tokens is None else f"about {self.image_tokens:,}"
        cost = "unknown" if self.cost is None else f"about ${self.cost:,.2f}"
        lines = [
            f"rows:              {self.rows:,} with {self.regions:,} regions to caption",
            f"requests to send:  {self.requests:,} ({self.stored:,} more are in the answer store)",
            f"image tokens:      {images}",
            f"text tokens:       about {self.text_tokens:,}",
            f"answer tokens:     about {self.completion_tokens:,}",
            f"cost:              {cost}",
            *(f"note:              {note}" for note in self.notes),
        ]
        return "\n".join(lines)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Show the lines, not the fields, at the end of a notebook's cell."""
        printer.text(str(self))


@documented
def estimate(
    dataset: Any,
    *,
    price: tuple[float, float] | None = None,
    **options: Any,
) -> Estimate:
    """Count what captioning a dataset would send, before anything is spent.

    Every row is drawn and its question made, so that the number of requests is exact: identical
    questions count once, stored answers not at all. No endpoint is asked and no key is needed.
    `notes` tell of images that cannot be read and of boxes that are not used.

    >>> from PIL import Image
    >>> from datasets import Dataset
    >>> photo = Image.new("RGB", (1024, 1024), "red")
    >>> ds = Dataset.from_list([{"image": photo, "bbox": [[8, 8, 40, 30]]}])
    >>> seen = estimate(ds, base_url="https://api.openai.com/v1", model="gpt-4o", answer_store=None)
    >>> seen.requests, seen.image_tokens
    (1, 765)
    """
    checked = read_options(options)
    counts = _Counts(checked, find_price(checked, price))
    for _ in asks_to_send(dataset, checked, counts):
        pass
    return counts.estimate()


def asks_to_send(
    dataset: Any, options: Options, counts: _Counts | None = None
) -> Iterator[tuple[str, Ask]]:
    """What captioning a dataset would send first, each question once, with its key.

    Questions that the store can answer are followed as far as it goes: where a stored answer left
    regions out, the question for those is what would be sent.
    """
    store = open_store(options)
    seen: set[str] = set()
    counts = counts or _Counts(options, None)
    for split in splits_of(dataset):
        for row, questions in _prepared(split, options):
            counts.add_row(row, questions)
            for question in questions:
                ask, stored = _first_unanswered(question, store, options)
                counts.stored |= stored
                if ask is not None and (key := ask.question.key) not in seen:
                    seen.add(key)
                    counts.add_request(ask.question)
                    yield key, ask


def _prepared(split: Any, options: Options) -> Iterator[tuple[Row, list[Question]]]:
    """Each row of a dataset or stream with its questions, drawn on the drawing threads."""
    plan = plan_rows(first_rows(split, options.image_column), options)
    work = each_row(tables_of(split))

    def begin(item: tuple[Rows, int]) -> tuple[Row, list[Question]]:
        return prepare_row(*item, plan)

    with Window(work, begin, active=64, ahead=64) as window:
        yield from window


def _first_unanswered(
    question: Question, store: AnswerStore | None, options: Options
) -> tuple[Ask | None, set[str]]:
    """Follow a dialogue as far as the store goes: what is asked then, and the stored keys."""
    dialogue = follow_up(question, reask=options.reask, parse=options.parse)
    ask, stored = next(dialogue), set[str]()
    while True:
        key = ask.question.key
        heard, _, ask = hear_from_store(store, ask, key, options.parse)
        if heard is None:
            return ask, stored
        stored.add(key)
        try:
            ask = dialogue.send(heard)
        except StopIteration:
            return None, stored


#: Tokens of a caption by style: what to expect, not a bound.
_CAPTION_TOKENS = {"phrase": 12, "sentence": 30, "detailed": 140, "distinct": 50, None: 70}


class _Counts:
    """Adds up what rows and requests weigh."""

    def __init__(self, options: Options, price: Price | None) -> None:
        self._options = options
        self._price = price
        self.stored: set[str] = set()  # keys of questions that need not be sent
        self._rows = self._regions = self._requests = 0
        self._images, self._boxes = Counter[str](), Counter[str]()
        self._image_tokens: int | None = 0
        self._characters = self._asked_regions = 0

    def add_row(self, row: Row, questions: Sequence[Question]) -> None:
        """Count one row."""
        self._rows += 1
        self._images[row.image_status] += 1
        self._boxes.update(row.box_status)
        self._regions += sum(len(question.regions) for question in questions)

    def add_request(self, question: Question) -> None:
        """Count one request that would be sent."""
        self._requests += 1
        self._asked_regions += len(question.regions)
        text = question.text + question.system + question.instructions("json_schema")
        self._characters += len(text)
        for image in question.images:
            tokens = image_tokens(question.model, jpeg_size(image), question.detail)
            known = self._image_tokens
            self._image_tokens = None if tokens is None or known is None else known + tokens

    def estimate(self) -> Estimate:
        """The sums."""
        text = self._characters // 4  # about four characters a token
        answers = self._asked_regions * _CAPTION_TOKENS[self._options.caption_style]
        cost = None
        notes = remarks(self._images, self._boxes, max_boxes=self._options.max_boxes)
        if self._price == Price(0.0, 0.0):
            cost = 0.0
        elif self._price is None:
            notes.append("no price is known for this model here: pass price=(prompt, completion)")
        elif self._image_tokens is None:
            notes.append("no formula for this model's image tokens is published")
        else:
            cost = self._price.of(self._image_tokens + text, answers)
        notes.append("retries and questions for missing regions come on top")
        return Estimate(
            self._rows,
            self._regions,
            self._requests,
            len(self.stored),
            self._image_tokens,
            text,
            answers,
            cost,
            tuple(notes),
        )
