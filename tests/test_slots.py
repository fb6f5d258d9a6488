"""Slots of one host: never more than whoever takes one allows, in the order of asking."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_regioncap.slots import Slots


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 3)), max_size=30), st.data())
def test_all_have_their_turn_in_order_and_within_their_bounds(
    asked: list[tuple[int, int]], data: Any
) -> None:
    """Some are cancelled on the way, waiting or at work, and leave no slot behind."""
    cancelled = data.draw(st.sets(st.integers(0, 30)))

    async def take() -> None:
        slots, order = Slots(), []

        async def work(number: int, most: int, turns: int) -> None:
            async with slots.one_of(most):
                order.append(number)
                assert 1 <= slots.taken <= max(most for most, _ in asked)
                for _ in range(turns):
                    await asyncio.sleep(0)

        tasks = [asyncio.ensure_future(work(n, *each)) for n, each in enumerate(asked)]
        await asyncio.sleep(0)
        for number in cancelled & set(range(len(tasks))):
            tasks[number].cancel()
            await asyncio.sleep(0)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not [task for task in tasks if not task.cancelled() and task.exception()]
        assert order == sorted(order)
        assert set(order) >= set(range(len(tasks))) - cancelled
        assert slots.taken == 0
        assert not slots._waiting

    asyncio.run(take())


def test_who_allows_fewer_waits_for_so_few_and_is_not_overtaken() -> None:
    async def take() -> None:
        slots, has = Slots(), []

        async def work(name: str, most: int, done: asyncio.Event) -> None:
            async with slots.one_of(most):
                has.append(name)
                await done.wait()

        ends = {name: asyncio.Event() for name in ("one", "two", "lone", "last")}
        bounds = {"one": 2, "two": 2, "lone": 1, "last": 2}
        tasks = [asyncio.ensure_future(work(name, bounds[name], ends[name])) for name in ends]
        seen = []
        for name in ("two", "one", "lone", "last"):
            for _ in range(5):
                await asyncio.sleep(0)
            seen.append(list(has))
            ends[name].set()
        await asyncio.gather(*tasks)
        assert seen[:2] == [["one", "two"]] * 2  # one is in flight, and `lone` allows none beside
        assert seen[2] == ["one", "two", "lone", "last"]

    asyncio.run(take())


def test_a_slot_is_given_back_whatever_happens() -> None:
    async def fail() -> None:
        async with slots.one_of(1):
            raise ValueError("mine")

    slots = Slots()
    for _ in range(3):
        with pytest.raises(ValueError, match="mine"):
            asyncio.run(fail())
    assert slots.taken == 0
