"""How close a run comes to a rate limit, how much of it is refused, and that no row is lost.

    python scripts/rate_limit.py
    python scripts/rate_limit.py --latency lognormal:4:0.3 --retry-after none

Runs `caption_dataset` against the tests' endpoint, which permits so many requests a second (a
token bucket that holds one second's worth) and refuses the others with 429. The limit stays, is
cut on the way, or is lifted on the way. The rate is that of the requests that were let through;
its share of what was permitted is taken from `--warm-up` seconds after the start, and after the
change. Refused are those of each part, and the share of all requests of both parts.
"""

from __future__ import annotations

import argparse
import importlib
import io
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_regioncap import caption_dataset

TESTS = Path(__file__).resolve().parents[1] / "tests"


@dataclass(frozen=True)
class Case:
    """Rows at a limit per second, and so many more at another."""

    name: str
    rate: float
    rows: int
    then: float = 0.0
    more: int = 0


def read_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1000, help="rows at the first limit")
    parser.add_argument("--more", type=int, default=300, help="rows at the second")
    parser.add_argument("--workers", type=int, default=64, help="concurrency")
    parser.add_argument("--rate", type=float, default=10.0, help="permitted a second")
    parser.add_argument("--cut", type=float, default=3.0, help="what the limit is cut to")
    parser.add_argument("--warm-up", type=float, default=5.0, help="seconds that do not count")
    parser.add_argument("--latency", default="lognormal:1.0:0.6", help="of an answer")
    parser.add_argument("--retry-after", default="seconds", help="seconds, ms, date or none")
    return parser.parse_args(arguments)


def make_rows(count: int) -> Any:
    """Small pictures of noise, no two the same, with one box each."""
    import numpy as np
    from datasets import Dataset, Features, Image, List, Value
    from PIL import Image as PILImage

    rows, random = [], np.random.default_rng(0)
    for _ in range(count):
        buffer = io.BytesIO()
        noise = random.integers(0, 256, (32, 48, 3), dtype=np.uint8)
        PILImage.fromarray(noise).save(buffer, "PNG")
        rows.append({"image": {"bytes": buffer.getvalue(), "path": None}, "bbox": [[4, 4, 30, 20]]})
    features = Features({"image": Image(), "bbox": List(List(Value("float64")))})
    return Dataset.from_list(rows, features=features)


def run(case: Case, arguments: argparse.Namespace) -> Iterator[list[str]]:
    """One line of the table for each limit."""
    tools = importlib.import_module("endpoint")
    limits = None if arguments.retry_after == "none" else arguments.retry_after
    with tools.Endpoint(
        latency=tools.parse_latency(arguments.latency),
        rate=case.rate,
        retry_after=limits,
        keep_bodies=False,
    ) as endpoint:
        changes: list[float] = []

        def change() -> None:
            endpoint.wait_for(
                lambda endpoint: endpoint.outcomes["ok"] + endpoint.in_flight >= case.rows,
                timeout=3600,
            )
            endpoint.rate = case.then
            changes.append(time.monotonic())

        if case.more:
            threading.Thread(target=change, daemon=True).start()
        captioned = caption_dataset(
            make_rows(case.rows + case.more),
            base_url=endpoint.base_url,
            concurrency=arguments.workers,
            answer_store=None,
        )
        requests = endpoint.requests
    all_refused = sum(request.outcome == "rate_limited" for request in requests)
    lost = sum(status != "ok" for status in captioned["answer_status"])
    bounds = [requests[0].started, *changes, requests[-1].started]
    for rate, start, end in zip((case.rate, case.then), bounds, bounds[1:], strict=False):
        within = [request for request in requests if start <= request.started <= end]
        settled = [at for at in within if at.started >= start + arguments.warm_up]
        passed = sum(request.outcome == "ok" for request in settled)
        seconds = max(end - start - arguments.warm_up, 1e-9)
        refused = sum(request.outcome == "rate_limited" for request in within)
        yield [
            case.name,
            f"{rate:g}/s",
            f"{passed / seconds:.2f}/s",
            f"{passed / seconds / rate:.1%}",
            f"{refused} of {len(within)}",
            f"{all_refused / len(requests):.1%}",
            f"{end - start:.0f} s",
            f"{lost}",
        ]


HEADS = ["limit", "permitted", "reached", "share", "refused", "of all", "took", "rows lost"]


def print_table(rows: list[list[str]]) -> None:
    widths = [max(len(row[place]) for row in [HEADS, *rows]) for place in range(len(HEADS))]
    for row in [HEADS, ["-" * width for width in widths], *rows]:
        print("| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |")


def main(arguments: argparse.Namespace) -> int:
    from datasets import disable_progress_bars

    sys.path.insert(0, str(TESTS))
    disable_progress_bars()
    rate, cut, rows, more = arguments.rate, arguments.cut, arguments.rows, arguments.more
    cases = [
        Case("stays", rate, rows),
        Case("is cut", rate, rows // 2, cut, more),
        Case("is lifted", cut, more, rate, rows // 2),
    ]
    lines = [line for case in cases for line in run(case, arguments)]
    print_table(lines)
    return 1 if any(line[-1] != "0" for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main(read_arguments(sys.argv[1:])))
