"""What a run costs: image tokens by published formulas, known prices, a hard budget."""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from PIL import Image

from hf_regioncap.endpoint import find_address, is_loopback, is_openai
from hf_regioncap.errors import OptionError
from hf_regioncap.options import OFFLINE, Options
from hf_regioncap.response import Completion, read_completion
from hf_regioncap.wire import Dialect, most_tokens

if TYPE_CHECKING:
    from hf_regioncap.client import Tally
    from hf_regioncap.dialogue import Ask
    from hf_regioncap.transport import Reply

# Image tokens

#: (base, per tile) of the models that count tiles of 512 pixels, the longest name that fits wins.
#: OpenAI, guide "Images and vision", section "Calculating costs".
_TILES = {
    "gpt-4o-mini": (2833, 5667),
    "gpt-4o": (85, 170),
    "chatgpt-4o": (85, 170),
    "gpt-4.1": (85, 170),
    "gpt-4.5": (85, 170),
    "gpt-4-turbo": (85, 170),
    "gpt-5": (70, 140),
    "o1": (75, 150),
    "o3": (75, 150),
}
#: Tokens per patch of 32 pixels, at most 1,536 patches: the same guide.
_PATCHES = {
    "gpt-4.1-mini": 1.62,
    "gpt-4.1-nano": 2.46,
    "gpt-5-mini": 1.62,
    "gpt-5-nano": 2.46,
    "o4-mini": 1.72,
}
_MOST_PATCHES = 1536
#: (factor, least, most pixels) of the processors of Qwen's models: `smart_resize` in Qwen's
#: qwen-vl-utils, with the bounds of the models' preprocessor_config.json.
_QWEN = {
    "qwen3-vl": (32, 65_536, 16_777_216),
    "qwen2.5-vl": (28, 3_136, 12_845_056),
    "qwen2-vl": (28, 3_136, 12_845_056),
}


def image_tokens(model: str, size_wh: tuple[int, int], detail: str | None = None) -> int | None:
    """Count the prompt tokens of an image; None where no formula is published for the model.

    By the tables of OpenAI's guide "Images and vision" and by Qwen's `smart_resize`.

    >>> image_tokens("gpt-4o", (1024, 1024)), image_tokens("gpt-4o", (2048, 4096))
    (765, 1105)
    >>> image_tokens("gpt-4o", (4096, 8192), detail="low")
    85
    >>> image_tokens("gpt-4.1-mini", (1024, 1024)), image_tokens("someone/else", (640, 480))
    (1659, None)
    """
    name = model.lower().rpartition("/")[2]
    fitting = [key for key in (*_TILES, *_PATCHES, *_QWEN) if name.startswith(key)]
    family = max(fitting, default="", key=len)
    if family in _TILES:
        base, tile = _TILES[family]
        return base if detail == "low" else base + tile * _tiles(*size_wh)
    if family in _PATCHES:
        return math.ceil(_patches(*size_wh) * _PATCHES[family])
    if family in _QWEN:
        return _qwen(size_wh, *_QWEN[family])
    return None


def _tiles(width: float, height: float) -> int:
    """Into 2,048 squared, then the shorter side to 768, then tiles of 512."""
    shrink = min(1.0, 2048 / max(width, height))
    shrink *= min(1.0, 768 / (min(width, height) * shrink))
    width, height = width * shrink, height * shrink
    return math.ceil(round(width, 6) / 512) * math.ceil(round(height, 6) / 512)


def _patches(width: float, height: float) -> int:
    patches = math.ceil(width / 32) * math.ceil(height / 32)
    if patches <= _MOST_PATCHES:
        return patches
    scale = math.sqrt(32 * 32 * _MOST_PATCHES / (width * height))
    across, down = width * scale / 32, height * scale / 32
    scale *= min(math.floor(across) / across, math.floor(down) / down)
    return math.ceil(round(width * scale / 32, 6)) * math.ceil(round(height * scale / 32, 6))


def _qwen(size_wh: tuple[int, int], factor: int, least: int, most: int) -> int:
    """One token for each factor × factor pixels of the resized image, and two around it."""
    width, height = (max(factor, round(side / factor) * factor) for side in size_wh)
    pixels = size_wh[0] * size_wh[1]
    if width * height > most:
        shrink = math.sqrt(pixels / most)
        width, height = (
            max(factor, math.floor(side / shrink / factor) * factor) for side in size_wh
        )
    elif width * height < least:
        grow = math.sqrt(least / pixels)
        width, height = (math.ceil(side * grow / factor) * factor for side in size_wh)
    return width * height // factor**2 + 2


def most_image_tokens(model: str, size_wh: tuple[int, int], detail: str | None = None) -> int:
    """A bound for an image's tokens, for models of which no formula is published too.

    >>> most_image_tokens("someone/else", (140, 140))
    100
    """
    known = image_tokens(model, size_wh, detail)
    if known is not None:
        return known
    # The finest grid in use: patches of 14 pixels, none merged.
    return math.ceil(size_wh[0] / 14) * math.ceil(size_wh[1] / 14)


def jpeg_size(image: bytes) -> tuple[int, int]:
    """The size of an encoded image, from its header."""
    return Image.open(io.BytesIO(image)).size


# Prices


@dataclass(frozen=True)
class Price:
    """Dollars per million tokens."""

    prompt: float
    completion: float

    def of(self, prompt_tokens: float, completion_tokens: float) -> float:
        """The cost in dollars.

        >>> Price(0.15, 0.60).of(1_000_000, 500_000)
        0.45
        """
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


#: OpenAI's list prices at its own host, standard tier, uncached, as published in 2025.
PRICES = {
    "gpt-4o": Price(2.50, 10.00),
    "gpt-4o-mini": Price(0.15, 0.60),
    "gpt-4.1": Price(2.00, 8.00),
    "gpt-4.1-mini": Price(0.40, 1.60),
    "gpt-4.1-nano": Price(0.10, 0.40),
    "gpt-5": Price(1.25, 10.00),
    "gpt-5-mini": Price(0.25, 2.00),
    "gpt-5-nano": Price(0.05, 0.40),
    "o4-mini": Price(1.10, 4.40),
}


def find_price(options: Options, price: tuple[float, float] | None = None) -> Price | None:
    """The price that was given or is known; None where it is unknown.

    Known are OpenAI's models at OpenAI's host; the built-in describer and servers on this machine
    cost nothing.

    >>> find_price(Options(base_url="https://api.openai.com/v1", model="gpt-4o-mini"))
    Price(prompt=0.15, completion=0.6)
    >>> find_price(Options(base_url="https://api.example.com/v1")) is None
    True
    """
    if price is not None:
        try:
            prompt, completion = (float(value) for value in price)
        except (TypeError, ValueError):
            prompt = -1.0
        if isinstance(price, str) or not (prompt >= 0 and completion >= 0):
            raise OptionError(
                "price must be two numbers of 0 or more, dollars per million prompt and "
                f"completion tokens, got {price!r}"
            )
        return Price(prompt, completion)
    url = find_address(options)
    if url == OFFLINE or is_loopback(urlsplit(url).hostname or ""):
        return Price(0.0, 0.0)
    return PRICES.get(options.model) if is_openai(url) else None


# The budget

#: What chat templates and answer forms add to the texts of a request, at most.
_OVERHEAD_TOKENS = 400


class Budget:
    """A hard bound on requests and dollars; a request leaves only if its worst case fits.

    Calls come from the client's one thread. A request that failed on the way keeps its
    reservation: it may have been paid for.
    """

    def __init__(
        self,
        price: Price | None,
        *,
        max_requests: int | None = None,
        max_cost: float | None = None,
    ) -> None:
        self.price = price
        self.limits = (max_requests, max_cost)
        self.reason = ""
        self._requests = 0
        self._cost = 0.0  # of what is settled
        self._held = 0.0  # the worst case of what is in flight
        self._open = 0  # requests in flight
        self._seen = False  # what one of them costs has been seen
        self._excess = 1.0  # so many times its worst case one has cost
        self._tally: Tally | None = None

    @property
    def decides(self) -> tuple[Any, ...]:
        """What it depends on which rows are asked about: the bounds, and the price of a dollar's.

        >>> Budget(Price(1.0, 2.0), max_requests=3).decides
        (3, None, None)
        """
        most_requests, most_cost = self.limits
        price = self.price if most_cost is not None else None
        return most_requests, most_cost, price and (price.prompt, price.completion)

    def follow(self, tally: Tally) -> None:
        """Know what a run has really spent."""
        self._tally = tally

    @property
    def spent(self) -> float | None:
        """Dollars spent; None where it is not known: no price, or answers that told no usage."""
        if self.price is None or self._tally is None:
            return None
        if self._tally.unknown_usage and self.price != Price(0.0, 0.0):
            return None
        return self.price.of(self._tally.prompt_tokens, self._tally.completion_tokens)

    def take(self, ask: Ask, dialect: Dialect | None = None) -> float | None:
        """Reserve what a request may cost at most; None where there is no room for it.

        A first request goes alone: what an image costs is not known of every model.
        """
        most_requests, most_cost = self.limits
        if most_requests is not None and self._requests >= most_requests:
            self.reason = f"max_requests={most_requests} is used up"
            return None
        reserved = 0.0
        if most_cost is not None and self.price is not None:
            tokens = most_tokens(ask.question, dialect or Dialect(), ask.token_limit)
            reserved = self.price.of(most_prompt_tokens(ask), tokens or LONGEST_ANSWER)
            if reserved and self._open and not self._seen:
                return None
            if self._cost + (self._held + reserved) * self._excess > most_cost:
                self.reason = _no_room(most_cost, reserved * self._excess, tokens)
                return None
        self._requests += 1
        self._held += reserved
        self._open += 1
        return reserved

    def give_back(self, reserved: float) -> None:
        """Undo a reservation of a request that was not sent."""
        self._requests -= 1
        self._held -= reserved
        self._open -= 1

    def may_free(self) -> bool:
        """Whether the cost is what there is no room for, and requests in flight hold some."""
        most_requests, most_cost = self.limits
        used_up = most_requests is not None and self._requests >= most_requests
        return most_cost is not None and self._open > 0 and not used_up

    def settle(self, reserved: float, reply: Reply) -> None:
        """Replace the reservation of a request by what it did cost."""
        self._open -= 1
        if not reserved or self.price is None:
            return
        self._held -= reserved
        if reply.status >= 300 or reply.unreachable:
            return  # turned away: not paid
        self._seen = True
        said = read_completion(reply.body) if reply.status else Completion()
        if said.prompt_tokens is None or said.completion_tokens is None:
            self._cost += reserved * self._excess
            return
        spent = self.price.of(said.prompt_tokens, said.completion_tokens)
        self._cost += spent
        self._excess = max(self._excess, spent / reserved)


#: Tokens; what the models in use write at most in one answer, where nothing that is sent says less.
LONGEST_ANSWER = 131_072


def _no_room(most_cost: float, worst: float, tokens: int | None) -> str:
    why = f"max_cost={most_cost:g} has no room for another request, which may cost ${worst:.2g}"
    if tokens is None:
        why += ", as nothing that is sent bounds its answer: use max_requests, or a higher max_cost"
    return why


def most_prompt_tokens(ask: Ask) -> int:
    """A bound for a request's prompt tokens: no token is shorter than a byte."""
    question = ask.question
    text = question.text + question.system + question.instructions("json_schema")
    images = (
        most_image_tokens(question.model, jpeg_size(image), question.detail)
        for image in question.images
    )
    extra = json.dumps(dict(question.extra_body), default=str)
    return len((text + extra).encode("utf-8", "replace")) + _OVERHEAD_TOKENS + sum(images)
