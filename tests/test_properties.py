"""Whatever happens to a run and its store, in any order: what was paid for is not paid again.

A state machine drives real processes against an endpoint's own ledger. `HF_REGIONCAP_LONG=1` tries
many more and longer orders of events.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pytest
from endpoint import EndpointProcess, expected_caption, read_ledger
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from test_kill import CONCURRENCY, Runner, Stage, settle

from hf_regioncap import estimate
from hf_regioncap.errors import StoreError
from hf_regioncap.store import AnswerStore

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

LONG = bool(os.environ.get("HF_REGIONCAP_LONG"))
ROWS = 24
PROMPTS = ["What is in {regions}?", "Name {regions}.", None]
KEYS = {"KEY_A": "sk-key-of-yesterday", "KEY_B": "sk-key-of-today"}


@dataclass
class World:
    """What outlives an example: the processes, the rows, the ledger."""

    runner: Runner
    endpoint: EndpointProcess
    ledger: Path
    rows: Path


class Fate(RuleBasedStateMachine):
    """Runs, kills, changes and damage in any order, each step held against the ledger."""

    world: World

    @initialize()
    def begin(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="fate-")
        self.prompt: str | None = PROMPTS[0]
        self.key = "KEY_A"
        self.number = 0
        self.asked: dict[str | None, bool] = {}
        self.new_store()

    def teardown(self) -> None:
        if hasattr(self, "_folder"):
            AnswerStore(self.store).close()
            self._folder.cleanup()

    def new_store(self) -> None:
        self.number += 1
        self.store = Path(self._folder.name, f"answers-{self.number}.sqlite")

    @property
    def options(self) -> dict[str, Any]:
        return {
            "base_url": self.world.endpoint.base_url,
            "answer_store": str(self.store),
            "concurrency": CONCURRENCY,
            "api_key_env": self.key,
            "prompt": self.prompt,
        }

    def to_be_sent(self) -> int:
        """What a run would ask; the store is left closed."""
        try:
            rows = datasets.load_from_disk(str(self.world.rows))
            return estimate(rows, **self.options).requests
        finally:
            AnswerStore(self.store).close()

    def ledger(self) -> int:
        return len(read_ledger(self.world.ledger))

    def stage(self) -> Stage:
        self.number += 1
        folder = Path(self._folder.name, str(self.number))
        folder.mkdir()
        world = self.world
        return Stage(world.runner, world.endpoint, world.ledger, folder, world.rows)

    def salvaged(self) -> int:
        """What a run would ask, from what could be saved where the store is damaged."""
        with contextlib.suppress(StoreError):
            return self.to_be_sent()
        with pytest.raises(StoreError, match="damaged"):
            self.to_be_sent()
        damaged = self.store
        self.new_store()
        try:
            AnswerStore(self.store).merge(damaged)
        except StoreError:
            self.new_store()  # nothing could be read
        return self.to_be_sent()

    # The steps

    @rule()
    def run(self) -> None:
        due, before, stage = self.to_be_sent(), self.ledger(), self.stage()
        rows = stage.finish(options=self.options)
        assert self.ledger() - before == due
        assert [row["number"] for row in rows] == list(range(ROWS))
        for row in rows:
            image = row["image_with_bbox"]["bytes"]
            assert row["region_captions"] == [expected_caption(image, k) for k in (1, 2)]
            if self.prompt is not None:
                assert row["prompt"] == self.prompt.format(regions="<region1> to <region2>")
        assert self.to_be_sent() == 0

    @rule(answers=st.integers(0, ROWS - 1), processes=st.sampled_from([None, None, 2]))
    def kill(self, answers: int, processes: int | None) -> None:
        due, before, stage = self.to_be_sent(), self.ledger(), self.stage()
        pid = stage.run(options=self.options, map=processes)
        deadline = time.monotonic() + 30
        while self.ledger() - before < min(answers, due) and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(0.01 * (answers % 4))
        with contextlib.suppress(ProcessLookupError):  # was ready before
            os.killpg(pid, signal.SIGKILL)
        self.world.runner.wait(pid)
        settle(self.world.endpoint)
        self.assert_kept(due, before, CONCURRENCY * (processes or 1))

    def assert_kept(self, due: int, before: int, in_flight: int) -> None:
        """All that was answered is in the store, but for what was in flight at the most."""
        answered, left = self.ledger() - before, self.to_be_sent()
        assert due - answered <= left <= due - answered + in_flight
        assert AnswerStore(self.store).verify().problems == () if self.store.exists() else True

    @rule(room=st.integers(0, 60_000))
    def fill_the_disk(self, room: int) -> None:
        due, before, stage = self.to_be_sent(), self.ledger(), self.stage()
        sizes = [path.stat().st_size for path in self.store.parent.glob(self.store.name + "*")]
        limit = max([48_000, *sizes]) + room
        status = stage.runner.wait(stage.run(options=self.options, file_limit=limit))
        assert status in (0, 3)  # not killed, not hung
        self.assert_kept(due, before, CONCURRENCY)

    @rule(prompt=st.sampled_from(PROMPTS))
    def change_the_prompt(self, prompt: str | None) -> None:
        self.prompt = prompt

    @rule()
    def rotate_the_key(self) -> None:
        due = self.to_be_sent()
        self.key = "KEY_B" if self.key == "KEY_A" else "KEY_A"
        assert self.to_be_sent() == due

    @rule(size=st.integers(1, 20_000), cut=st.booleans(), log=st.booleans())
    def damage_the_tail(self, size: int, cut: bool, log: bool) -> None:
        path = self.store.with_name(self.store.name + ("-wal" if log else ""))
        if not path.exists() or not path.stat().st_size:
            return
        content = path.read_bytes()
        kept = content[: max(0, len(content) - size)]
        noise = random.Random(size).randbytes(len(content) - len(kept))
        path.write_bytes(kept if cut else kept + noise)
        assert 0 <= self.salvaged() <= ROWS

    @invariant()
    def the_store_says_what_is_left(self) -> None:
        if hasattr(self, "store"):
            assert 0 <= self.to_be_sent() <= ROWS


@pytest.fixture(scope="module")
def world(make_dataset: Any, tmp_path_factory: Any) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    make_dataset(ROWS).save_to_disk(folder / "rows")
    runner, ledger = Runner(**KEYS), folder / "ledger.jsonl"
    flags = ("--latency", "lognormal:0.01:0.6", "--ledger", str(ledger))
    with EndpointProcess(*flags) as endpoint:
        yield World(runner, endpoint, ledger, folder / "rows")
    runner.close()


@pytest.mark.timeout(3600 if LONG else 300)
def test_whatever_happens_in_whatever_order(world: World) -> None:
    class Here(Fate):
        pass

    Here.world = world
    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=40 if LONG else 4,
            stateful_step_count=15 if LONG else 10,
            deadline=None,
            database=None,
            derandomize=not LONG,
            suppress_health_check=list(HealthCheck),
        ),
    )
