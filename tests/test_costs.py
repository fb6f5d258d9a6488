"""What a request weighs and costs: published examples, prices, a budget that holds."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from endpoint import Endpoint, Request
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hf_regioncap import caption_dataset
from hf_regioncap.client import Tally
from hf_regioncap.costs import (
    LONGEST_ANSWER,
    Budget,
    Price,
    find_price,
    image_tokens,
    jpeg_size,
    most_image_tokens,
    most_prompt_tokens,
)
from hf_regioncap.dialogue import Ask
from hf_regioncap.errors import OptionError
from hf_regioncap.options import TOKEN_PARAMETERS, Options
from hf_regioncap.questions import Question
from hf_regioncap.transport import Reply
from hf_regioncap.wire import Dialect, most_tokens


@pytest.mark.parametrize(
    ("model", "size_wh", "detail", "tokens"),
    [
        ("someone/else", (640, 480), None, None),
        ("", (640, 480), None, None),
        # OpenAI, "Images and vision", "Calculating costs": its own examples.
        ("gpt-4o", (1024, 1024), "high", 765),
        ("gpt-4o", (2048, 4096), "high", 1105),
        ("gpt-4o", (4096, 8192), "low", 85),
        ("gpt-4.1-mini", (1024, 1024), None, 1659),  # 1,024 patches
        ("gpt-4.1-mini", (1800, 2400), None, 2353),  # 1,452 patches
        ("gpt-4o-mini", (512, 512), None, 2833 + 5667),
        ("openai/gpt-4o-2024-11-20", (1024, 1024), None, 765),
        ("gpt-4o", (1, 1), None, 255),
        ("gpt-4o", (8192, 64), None, 85 + 4 * 170),
        ("o1", (1024, 1024), None, 75 + 4 * 150),
        ("gpt-5", (1024, 1024), None, 70 + 4 * 140),
        # Qwen's smart_resize: sides rounded to the factor, one token each factor squared.
        ("Qwen/Qwen2.5-VL-7B-Instruct", (1092, 784), None, 39 * 28 + 2),
        ("qwen2-vl-7b", (28, 28), None, 4 + 2),  # enlarged to 3,136 pixels
        ("qwen3-vl-8b", (1024, 1024), None, 32 * 32 + 2),
    ],
)
def test_image_tokens(
    model: str, size_wh: tuple[int, int], detail: str | None, tokens: int | None
) -> None:
    assert image_tokens(model, size_wh, detail) == tokens


sides = st.integers(1, 12_000)


@given(
    st.sampled_from(["gpt-4o", "gpt-4.1-mini", "o4-mini", "qwen2.5-vl", "qwen3-vl", "else"]),
    st.tuples(sides, sides),
)
def test_image_tokens_are_bounded_and_do_not_care_for_turning(
    model: str, size_wh: tuple[int, int]
) -> None:
    tokens, most = image_tokens(model, size_wh), most_image_tokens(model, size_wh)
    assert most >= 1
    if tokens is None:
        return
    assert 1 <= tokens <= most
    bounds = {"gpt-4o": 85 + 8 * 170, "gpt-4.1-mini": 2489, "o4-mini": 2642}
    assert tokens <= bounds.get(model, 17_000)
    if max(size_wh) <= 200 * min(size_wh):  # Qwen refuses longer ones
        turned = image_tokens(model, size_wh[::-1])
        assert turned is not None
        assert turned == tokens


def test_jpeg_size() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (31, 7)).save(buffer, "JPEG")
    assert jpeg_size(buffer.getvalue()) == (31, 7)


# Prices


@pytest.mark.parametrize(
    ("options", "given", "price"),
    [
        ({"base_url": "https://api.example.com/v1"}, None, None),
        ({"base_url": "https://api.example.com/v1"}, (1, 2.5), Price(1.0, 2.5)),
        ({"base_url": "https://api.openai.com/v1"}, None, Price(0.15, 0.60)),
        ({}, None, Price(0.15, 0.60)),
        ({"base_url": "https://api.openai.com/v1"}, (0, 0), Price(0.0, 0.0)),
        ({"base_url": "https://api.openai.com/v1", "model": "not-known"}, None, None),
        ({"base_url": "http://localhost:8000/v1"}, None, Price(0.0, 0.0)),
        ({"base_url": "offline"}, None, Price(0.0, 0.0)),
    ],
)
def test_find_price(
    options: dict[str, Any], given: tuple[float, float] | None, price: Price | None
) -> None:
    assert find_price(Options(**options), given) == price


@pytest.mark.parametrize(
    "wrong", [(), (1,), (1, 2, 3), "12", (1, -1), (1, None), (float("nan"), 1)]
)
def test_a_price_that_is_none(wrong: Any) -> None:
    with pytest.raises(OptionError, match="price must be two numbers"):
        find_price(Options(base_url="offline"), wrong)


# The budget


def ask(tokens: int = 100) -> Ask:
    return Ask(Question(regions=(1,), images=(), text="?" * 100, model="gpt-4o"), tokens)


def reply(status: int, prompt: int | None = None, said: int | None = None) -> Reply:
    usage = {"prompt_tokens": prompt, "completion_tokens": said}
    return Reply(status, json.dumps({"choices": [], "usage": usage}))


def test_a_budget_of_requests() -> None:
    budget = Budget(None, max_requests=2)
    assert budget.take(ask()) == 0.0
    budget.settle(0.0, reply(500))  # a failure counts as well
    assert budget.take(ask()) == 0.0
    assert budget.take(ask()) is None
    assert budget.reason == "max_requests=2 is used up"
    assert not budget.may_free()
    assert Budget(None, max_requests=0).take(ask()) is None
    free = Budget(None)
    assert [free.take(ask()) for _ in range(1000)] == [0.0] * 1000


def test_a_budget_of_dollars_holds_the_worst_case_until_the_answer_is_there() -> None:
    price = Price(1.0, 2.0)
    worst = price.of(most_prompt_tokens(ask()), 100)
    budget = Budget(price, max_cost=2.5 * worst)
    assert budget.take(ask()) == worst
    assert budget.take(ask()) is None  # the first goes alone
    assert budget.may_free()
    budget.settle(worst, reply(200, 1, 1))
    first, second = budget.take(ask()), budget.take(ask())
    assert first == second == worst
    assert budget.take(ask()) is None
    assert budget.may_free()
    budget.settle(worst, reply(200, 10, 5))  # costs next to nothing
    assert budget.take(ask()) == worst
    budget.settle(worst, Reply(0))  # broke off: may have been paid for
    assert budget.take(ask()) is None
    budget.settle(worst, reply(429))  # turned away: not paid
    assert not budget.may_free()
    assert budget.take(ask()) == worst
    budget.settle(worst, reply(200))  # does not say what it cost
    assert budget.take(ask()) is None
    assert not budget.may_free()


def test_what_costs_more_than_its_worst_case_is_learned_from() -> None:
    """Of most models it is not known what an image costs."""
    price = Price(1.0, 2.0)
    worst = price.of(most_prompt_tokens(ask()), 100)
    budget = Budget(price, max_cost=10 * worst)
    budget.settle(budget.take(ask()) or 0, reply(500))  # says nothing of the cost
    budget.settle(budget.take(ask()) or 0, reply(200, round(4 * worst * 1e6), 0))
    assert budget.take(ask()) == worst
    assert budget.take(ask()) is None  # as each may cost four times as much: 4 + 4 + 4 > 10
    assert budget.may_free()
    budget.settle(worst, Reply(0))
    assert budget.take(ask()) is None
    assert not budget.may_free()
    assert budget.reason == (
        f"max_cost={10 * worst:g} has no room for another request, which may cost ${4 * worst:.2g}"
    )


def test_an_answer_that_nothing_bounds_costs_what_a_model_may_write() -> None:
    price, boundless = Price(0.0, 10.0), Dialect(tokens=None)
    worst = price.of(0, LONGEST_ANSWER)
    budget = Budget(price, max_cost=1.5 * worst)
    assert budget.take(ask(), boundless) == worst
    budget.settle(worst, reply(200, 10, 500))
    assert budget.take(ask(), boundless) == worst
    assert budget.take(ask(), boundless) is None
    assert budget.take(ask()) == price.of(0, 100)
    poor = Budget(price, max_cost=0.1)
    assert poor.take(ask(), boundless) is None
    assert "nothing that is sent bounds its answer" in poor.reason


@pytest.mark.parametrize(
    ("extra", "most"),
    [
        ({}, 100),
        ({"top_p": 0.9, "logprobs": True, "stop": ["max_tokens"]}, 100),
        ({"max_tokens": 9000}, 9000),
        ({"max_completion_tokens": 9000}, 9100),  # which of the two counts is not known
        ({"options": {"num_predict": 500}}, 600),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, 2100),
        ({"extra": [{"thinkingBudget": 2000}]}, 2100),
        ({"max_tokens": None}, None),
        ({"max_tokens": -1}, None),
        ({"n_predict": 0}, None),
        ({"max_tokens": "9000"}, None),
    ],
    ids=str,
)
def test_how_long_an_answer_may_be_by_what_is_sent(extra: dict[str, Any], most: int | None) -> None:
    asked = Question(regions=(1,), images=(), text="?", extra_body=extra)
    assert most_tokens(asked, Dialect(), 100) == most


def test_max_cost_holds_where_the_endpoint_takes_no_length_limit(
    make_dataset: Callable[..., Any],
) -> None:
    def refuse(request: Request) -> str | None:
        name = next((name for name in TOKEN_PARAMETERS if name in request.body), None)
        return f"rejects_{name}" if name else None

    with Endpoint(refuse) as endpoint:
        options = {"base_url": endpoint.base_url, "answer_store": None, "price": (0.0, 10.0)}
        none = caption_dataset(make_dataset(5), max_cost=1.0, **options)
        assert set(none["answer_status"]) == {"skipped_budget"}
        assert "nothing that is sent bounds its answer" in none["answer_error"][0]
        assert endpoint.usage == (0, 0)
        some = caption_dataset(make_dataset(5), max_cost=2.0, **options)
        assert set(some["answer_status"]) == {"ok"}


def test_what_was_spent_is_what_was_told() -> None:
    budget, tally = Budget(Price(1.0, 2.0)), Tally(prompt_tokens=1_000_000, completion_tokens=500)
    assert budget.spent is None
    budget.follow(tally)
    assert budget.spent == pytest.approx(1.001)
    unknown = Budget(None)
    unknown.follow(tally)
    assert unknown.spent is None


@pytest.mark.parametrize(
    ("price", "spent"), [(Price(1.0, 2.0), None), (Price(0.0, 2.0), None), (Price(0.0, 0.0), 0.0)]
)
def test_what_was_spent_is_unknown_where_an_answer_did_not_tell(
    price: Price, spent: float | None
) -> None:
    budget = Budget(price)
    budget.follow(Tally(prompt_tokens=1_000_000, completion_tokens=500, unknown_usage=1))
    assert budget.spent == spent


def test_an_endpoint_without_usage_is_not_shown_as_free(
    make_dataset: Callable[..., Any], endpoint: Endpoint
) -> None:
    endpoint.behaviour = "usage_missing"
    seen: list[float | None] = []
    options = {"base_url": endpoint.base_url, "on_progress": lambda told: seen.append(told.cost)}
    caption_dataset(make_dataset(2), price=(1.0, 2.0), answer_store=None, **options)
    assert seen[-1] is None
    caption_dataset(make_dataset(2, start=2), answer_store=None, **options)
    assert seen[-1] == 0.0  # on this machine nothing is paid


def test_a_price_needs_an_address_that_can_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:8000/v1")
    assert find_price(Options()) == Price(0.0, 0.0)
    monkeypatch.setenv("OPENAI_BASE_URL", "localhost")
    with pytest.raises(OptionError, match="OPENAI_BASE_URL must be an address"):
        find_price(Options())


@given(st.text(st.characters(exclude_categories=()), max_size=300), st.integers(1, 20))
def test_no_text_has_more_tokens_than_its_bound(text: str, count: int) -> None:
    """Byte-level tokenizers make at most one token of a byte."""
    question = Question(regions=tuple(range(1, count + 1)), images=(), text=text)
    known = len(text.encode("utf-8", "surrogatepass"))
    assert most_prompt_tokens(Ask(question, 1)) >= known - 2 * sum(
        "\ud800" <= c <= "\udfff" for c in text
    )
