"""What is asked of the model about a row: one question for all its regions, or one for each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hf_regioncap import prompts

#: Raised when the same key would no longer mean the same question.
_KEY_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Question:
    """One request in the terms of its meaning; how an endpoint wants it said is `wire.Dialect`.

    `images` are JPEG bytes in the order in which they are shown; `regions` the numbers asked for,
    from 1; `extra_body` what the user adds to the request (and the boxes, for the built-in
    describer); `describer` that describer's version, None for a model.
    """

    regions: tuple[int, ...]
    images: tuple[bytes, ...]
    text: str
    system: str = prompts.SYSTEM_PROMPT
    model: str = ""
    view: str = "overlay"
    caption_style: str | None = None
    language: str | None = None
    temperature: float | None = None
    seed: int | None = None
    detail: str | None = None
    answer_form: str | None = None
    max_tokens: int | None = None
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    store_tag: str | None = None
    describer: str | None = None
    asked_again: bool = False

    def instructions(self, form: str) -> str:
        """The text that goes with the prompt: view, style, language and the form of the answer."""
        return prompts.instructions(
            self.regions,
            form=form,
            view=self.view,
            asked_again=self.asked_again,
            caption_style=self.caption_style,
            language=self.language,
        )

    @property
    def texts(self) -> tuple[str, ...]:
        """All that is said: the system prompt, the prompt, what goes with it in either form."""
        forms = self.instructions("json_schema"), self.instructions("text")
        return self.system, self.text, *forms

    def only(self, regions: Sequence[int]) -> Question:
        """The same question for the regions that are missing."""
        return replace(self, regions=tuple(regions), asked_again=True)

    @property
    def token_limit(self) -> int:
        """The bound of the answer: the user's, or room for a paragraph about each region."""
        return self.max_tokens or 256 + 192 * len(self.regions)

    @property
    def key(self) -> str:
        """A hash of everything that changes the answer, images included, and of nothing else.

        Not in it: where the endpoint lies, the key, retries, timeouts, the length limit, and how
        the endpoint wants things said.
        """
        # Kept by hand: until Python 3.12 a cached_property has one lock for all threads, which a
        # child that is forked meanwhile would find locked for ever.
        known = self.__dict__
        if "_key" not in known:
            known["_key"] = self._hashed()
        return str(known["_key"])

    def _hashed(self) -> str:
        asked = {
            "version": _KEY_VERSION,
            "model": self.model,
            "system": self.system,
            "text": self.text,
            "instructions": self.instructions(self.answer_form or "json_schema"),
            "answer_form": self.answer_form,
            "images": [hashlib.sha256(image).hexdigest() for image in self.images],
            "regions": self.regions,
            "temperature": self.temperature,
            "seed": self.seed,
            "detail": self.detail,
            "extra_body": dict(self.extra_body),
            "store_tag": self.store_tag,
        }
        if self.describer is not None:  # a newer one has other words
            asked["describer"] = self.describer
        canonical = json.dumps(asked, sort_keys=True, ensure_ascii=True, default=repr)
        return hashlib.sha256(canonical.encode()).hexdigest()
