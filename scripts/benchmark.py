"""Measure how close a run comes to what the endpoint allows, beside other ways to do the same.

    python scripts/benchmark.py                    three runs of everything, about half an hour
    python scripts/benchmark.py --quick            does it work? seconds, the figures mean nothing
    python scripts/benchmark.py --only wall memory --runs 5

Each way (see `benchmark_ways.py`) runs as a process of its own, from its start to its end, against
an endpoint on loopback that draws its latencies from a seed: all ways meet the same ones. "Ideal"
is list scheduling of these latencies over the slots. The photos are scikit-image's, cropped, noisy
and no two alike, 640×480 and 1920×1080, with 1 to 12 boxes each. Needs the extra `test`, and a
machine that does nothing else: the figures are of all its cores, the endpoint's share included.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parent
sys.path.insert(0, str(SCRIPTS.parent / "tests"))

from endpoint import (  # type: ignore[import-not-found]  # noqa: E402  # by the line above
    Endpoint,
    Lognormal,
    list_schedule,
)

SMALL, LARGE = (640, 480), (1920, 1080)


# One process


@dataclass
class Measured:
    """What one process took, by its own account and by the endpoint's."""

    wall: float  # seconds, from before its start to after its end
    cpu: float  # seconds of all its threads and children
    anonymous: float  # MB of memory that is its own, at most
    resident: float  # MB, with the files that are mapped
    written: float  # bytes that it has made the file system write
    requests: int
    most_in_flight: int
    first: float  # seconds from its start to its first request
    last: float  # seconds from its first request to its last answer
    ideal: float  # seconds by list scheduling


class Bench:
    """A folder with data, an endpoint, and what is asked of both."""

    def __init__(self, folder: Path, quick: bool) -> None:
        self.folder = folder
        self.quick = quick
        self._data: dict[tuple[int, tuple[int, int]], Path] = {}
        packages = folder / "python"  # compiled once, as installed packages are
        self._environment = {
            **{k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"},
            "PYTHONPYCACHEPREFIX": str(packages),
            "HF_HOME": str(folder / "home"),
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        }

    def data(self, rows: int, size_wh: tuple[int, int] = SMALL) -> Path:
        """A dataset of at least so many rows, made when it is first needed."""
        known = [path for (n, size), path in self._data.items() if size == size_wh and n >= rows]
        if known:
            return known[0]
        path = self.folder / f"{size_wh[0]}x{size_wh[1]}-{rows}"
        arguments = [str(path), str(rows), *map(str, size_wh)]
        subprocess.run(
            [sys.executable, str(SCRIPTS / "benchmark_data.py"), *arguments],
            env=self._environment,
            check=True,
        )
        self._data[rows, size_wh] = path
        return path

    def run(
        self,
        way: str,
        rows: int,
        concurrency: int,
        latency: Any,
        *,
        size_wh: tuple[int, int] = SMALL,
        batch_size: int = 1000,
        keep: bool = False,
        kill_at: int | None = None,
    ) -> Measured:
        """Run one way; `keep` what earlier ones have left; `kill_at` so many requests."""
        data = self.data(rows, size_wh)
        if not keep:
            self.forget(data)
        with Endpoint(latency=latency, keep_bodies=False) as endpoint:
            command = [sys.executable, str(SCRIPTS / "benchmark_ways.py"), way, str(data)]
            command += [str(rows), endpoint.base_url, str(concurrency), str(batch_size)]
            started = time.monotonic()
            log = self.folder / "log.txt"
            with log.open("wb") as output:
                process = subprocess.Popen(
                    command, env=self._environment, stdout=output, stderr=output
                )
            with _watched(process.pid) as peaks:
                if kill_at is not None:
                    endpoint.wait_for(lambda one: one.count >= kill_at, timeout=600)
                    process.send_signal(signal.SIGKILL)
                os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
                wall = time.monotonic() - started
                written = _written(process.pid)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode and kill_at is None:
                raise SystemExit(f"{way} failed:\n{log.read_text()[-3000:]}")
            endpoint.wait_for(lambda one: one.in_flight == 0, timeout=60)
            seen = endpoint.requests
            latencies = [one.latency for one in seen if one.latency]
            begun = seen[0].started if seen else started
            ended = max((one.ended or 0.0 for one in seen), default=started)
            return Measured(
                wall=wall,
                cpu=usage.ru_utime + usage.ru_stime,
                anonymous=peaks["RssAnon"] / 1024,
                resident=peaks["VmHWM"] / 1024,
                written=written,
                requests=len(seen),
                most_in_flight=endpoint.max_in_flight,
                first=begun - started,
                last=ended - begun,
                ideal=list_schedule(latencies, concurrency),
            )

    def forget(self, data: Path) -> None:
        """Remove what runs leave: the caches of `map`, the answer store."""
        shutil.rmtree(self.folder / "home", ignore_errors=True)
        for path in data.glob("cache-*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def size_of_results(self, rows: int) -> int:
        """Bytes of new pictures and text that a run of the library over `rows` rows has made."""
        (cache,) = self.data(rows).glob("cache-*.arrow")
        code = (
            "import sys, pyarrow as pa\n"
            "table = pa.ipc.open_stream(pa.memory_map(sys.argv[1])).read_all()\n"
            "print(sum(table.column(name).get_total_buffer_size() for name in table.column_names))"
        )
        command = [sys.executable, "-c", code, str(cache)]
        return int(subprocess.run(command, check=True, capture_output=True).stdout)


@contextlib.contextmanager
def _watched(pid: int) -> Iterator[dict[str, int]]:
    """The highest values of a process's memory, in kB, looked at twenty times a second."""
    peaks = {"RssAnon": 0, "VmHWM": 0}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                    name, _, value = line.partition(":")
                    if name in peaks:
                        peaks[name] = max(peaks[name], int(value.split()[0]))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peaks
    finally:
        ended.set()
        watcher.join()


def _written(pid: int) -> int:
    """Bytes that a process has caused to be written, also when it has just ended."""
    counts = dict(
        line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines() if line
    )
    return int(counts["write_bytes"])


# What is measured


@dataclass
class Figure:
    """One line of the table: the library's values over the runs, and the other ways'."""

    name: str
    aim: str
    unit: str = ""
    values: list[float] = field(default_factory=list)
    others: dict[str, list[float]] = field(default_factory=dict)


Figures = dict[str, Figure]


def _add(figures: Figures, name: str, aim: str, unit: str, value: float, **others: float) -> None:
    figure = figures.setdefault(name, Figure(name, aim, unit))
    figure.values.append(value)
    for way, other in others.items():
        figure.others.setdefault(way, []).append(other)
    shown = "".join(f", {way} {other:.3g}" for way, other in others.items())
    print(f"    {name}: {value:.3g}{unit}{shown}", file=sys.stderr, flush=True)


def _overhead(one: Measured) -> float:
    return one.wall / one.ideal


def measure_wall(bench: Bench, figures: Figures, run: int) -> None:
    """600 rows, 32 in flight: whole process against the ideal; bytes; start; in flight."""
    rows = 64 if bench.quick else 600
    latency = Lognormal(0.1 if bench.quick else 1.0, 0.6, seed=run)
    own = bench.run("library", rows, 32, latency)
    results = bench.size_of_results(rows)
    slow = ("pictures",) if run == 0 else ()  # which takes three times as long
    ways = ("threads", *slow, "coroutines", "seed")
    others = {way: bench.run(way, rows, 32, latency) for way in ways}
    _add(
        figures,
        f"{rows} rows, 32 in flight: wall / ideal",
        "≤ 1.06",
        "",
        _overhead(own),
        **{way: _overhead(other) for way, other in others.items()},
    )
    _add(
        figures,
        "bytes written / (new images + text)",
        "≤ 1.05",
        "",
        own.written / results,
        **{way: other.written / results for way, other in others.items()},
    )
    _add(
        figures,
        f"start to first request, {rows} rows",
        "≤ 1.1",
        " s",
        own.first,
        **{way: other.first for way, other in others.items()},
    )
    _add(
        figures,
        "most in flight at 32",
        "≤ 32",
        "",
        own.most_in_flight,
        **{way: other.most_in_flight for way, other in others.items()},
    )


def measure_tail(bench: Bench, figures: Figures, run: int) -> None:
    """The same where 2 % of the answers take ten times as long."""
    rows = 64 if bench.quick else 600
    latency = Lognormal(0.1 if bench.quick else 1.0, 0.6, seed=run, slow=0.02)
    own = bench.run("library", rows, 32, latency)
    others = {way: bench.run(way, rows, 32, latency) for way in ("threads", "coroutines", "seed")}
    _add(
        figures,
        "the same under a heavy tail",
        "≤ 1.06",
        "",
        _overhead(own),
        **{way: _overhead(other) for way, other in others.items()},
    )


def measure_wide(bench: Bench, figures: Figures, run: int) -> None:
    """1,500 rows, 128 in flight; CPU per row with everything."""
    rows = 128 if bench.quick else 1500
    latency = Lognormal(0.1 if bench.quick else 1.0, 0.6, seed=run)
    own = bench.run("library", rows, 128, latency)
    others = {
        "column_1000": bench.run("column", rows, 128, latency, batch_size=1000),
        "threads_100": bench.run("threads", rows, 128, latency, batch_size=100),
        "threads_1000": bench.run("threads", rows, 128, latency, batch_size=1000),
        "coroutines": bench.run("coroutines", rows, 128, latency),
        "seed": bench.run("seed", rows, 128, latency),
    }
    _add(
        figures,
        f"{rows:,} rows, 128 in flight: wall / ideal",
        "≤ 1.10",
        "",
        _overhead(own),
        **{way: _overhead(other) for way, other in others.items()},
    )
    _add(
        figures,
        "most in flight at 128",
        "≤ 128",
        "",
        own.most_in_flight,
        **{way: other.most_in_flight for way, other in others.items()},
    )
    _add(
        figures,
        f"CPU per row at {rows:,} rows, 128 in flight",
        "≤ 5.5",
        " ms",
        1e3 * own.cpu / rows,
        **{way: 1e3 * other.cpu / rows for way, other in others.items()},
    )


def measure_fast(bench: Bench, figures: Figures, run: int) -> None:
    """An endpoint that answers in 20 ms: rows a second, start and end taken out of the account."""
    few, many = (64, 192) if bench.quick else (300, 1800)
    pace: dict[str, float] = {}
    for way in ("library", "threads", "coroutines", "seed"):
        short, long = (bench.run(way, rows, 32, 0.02) for rows in (few, many))
        pace[way] = (many - few) / (long.wall - short.wall)
    own = pace.pop("library")
    _add(figures, "answers in 20 ms: rows/s sustained", "≥ 300", "", own, **pace)
    _add(figures, "the same / the seed's", "≥ 2.6", "", own / pace["seed"])


def measure_large(bench: Bench, figures: Figures, run: int) -> None:
    """1920×1080: CPU per row against twice what decoding and encoding cost."""
    rows = 24 if bench.quick else 600
    codec = _codec_seconds(bench.data(rows, LARGE))
    own = bench.run("library", rows, 32, 0.1, size_wh=LARGE)
    others = {way: bench.run(way, rows, 32, 0.1, size_wh=LARGE) for way in ("threads", "seed")}
    _add(
        figures,
        f"1920×1080, {rows} rows: CPU per row",
        "≤ 31",
        " ms",
        1e3 * own.cpu / rows,
        **{way: 1e3 * other.cpu / rows for way, other in others.items()},
    )
    _add(
        figures,
        "the same / (decode + encode)",
        "≤ 2",
        "",
        own.cpu / rows / codec,
        **{way: other.cpu / rows / codec for way, other in others.items()},
    )


def _codec_seconds(data: Path) -> float:
    """CPU seconds to decode and encode one of the photos."""
    code = (
        "import sys, io, time\n"
        "from datasets import load_from_disk\n"
        "from PIL import Image\n"
        "table = load_from_disk(sys.argv[1]).with_format('arrow')[:24]\n"
        "photos = [image['bytes'] for image in table['image'].to_pylist()]\n"
        "def once(jpeg):\n"
        "    image = Image.open(io.BytesIO(jpeg)); image.load()\n"
        "    image.save(io.BytesIO(), 'JPEG', quality=90)\n"
        "def all():\n"
        "    start = time.process_time()\n"
        "    for jpeg in photos: once(jpeg)\n"
        "    return time.process_time() - start\n"
        "print(min(all() for _ in range(5)) / len(photos))"
    )
    command = [sys.executable, "-c", code, str(data)]
    return float(subprocess.run(command, check=True, capture_output=True).stdout)


def measure_memory(bench: Bench, figures: Figures, run: int) -> None:
    """Peak memory at 1,000 rows and how it grows to 10,000; a stream of 10,000 rows to Parquet."""
    few, many = (100, 300) if bench.quick else (1000, 10000)
    small, big, streamed = (
        bench.run(way, rows, 32, 0.02)
        for way, rows in (("library", few), ("library", many), ("stream", many))
    )
    others = {  # once: it takes them minutes, and varies little
        way: [bench.run(way, n, 32, 0.02) for n in (few, many)]
        for way in ("threads", "seed")
        if run == 0
    }
    _add(
        figures,
        f"peak memory, {many:,} rows",
        "≤ 250",
        " MB",
        big.anonymous,
        library_streaming=streamed.anonymous,
        **{way: pair[1].anonymous for way, pair in others.items()},
    )
    _add(
        figures,
        f"growth from {few:,} rows",
        "≤ 20",
        " MB",
        big.anonymous - small.anonymous,
        **{way: pair[1].anonymous - pair[0].anonymous for way, pair in others.items()},
    )
    _add(
        figures,
        "the same peak with mapped files",
        "",
        " MB",
        big.resident,
        library_streaming=streamed.resident,
        **{way: pair[1].resident for way, pair in others.items()},
    )
    _add(figures, f"start to first request, {many:,} rows", "≤ 1.1", " s", big.first)


def measure_kill(bench: Bench, figures: Figures, run: int) -> None:
    """At half kill -9, then again; and once more when all is done."""
    rows = 64 if bench.quick else 600
    latency = Lognormal(0.1 if bench.quick else 0.5, 0.6, seed=run)
    killed = bench.run("library", rows, 32, latency, kill_at=rows // 2)
    resumed = bench.run("library", rows, 32, latency, keep=True)
    again = bench.run("library", rows, 32, latency, keep=True)
    _add(
        figures,
        "asked again after kill -9 at half, 32 in flight",
        "≤ 32",
        "",
        killed.requests + resumed.requests - rows,
    )
    _add(figures, "requests of a second run", "0", "", again.requests)


MEASURES: dict[str, Callable[[Bench, Figures, int], None]] = {
    "wall": measure_wall,
    "tail": measure_tail,
    "wide": measure_wide,
    "fast": measure_fast,
    "large": measure_large,
    "memory": measure_memory,
    "kill": measure_kill,
}


# The table


def table(figures: Figures) -> str:
    """The figures as Markdown; over several runs the least, the median and the most."""
    lines = [
        "| what | aim | measured | others (median) |",
        "|---|---|---|---|",
    ]
    for figure in figures.values():
        others = ", ".join(
            f"{way} {_number(statistics.median(values))}" for way, values in figure.others.items()
        )
        lines.append(f"| {figure.name} | {figure.aim} | {_spread(figure)} | {others} |")
    return "\n".join(lines)


def _spread(figure: Figure) -> str:
    low, middle, high = min(figure.values), statistics.median(figure.values), max(figure.values)
    if len(figure.values) == 1 or low == high:
        return f"{_number(middle)}{figure.unit}"
    return f"**{_number(middle)}**{figure.unit} ({_number(low)} to {_number(high)})"


def _number(value: float) -> str:
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--runs", type=int, default=3)
    arguments.add_argument("--quick", action="store_true", help="one small run of everything")
    arguments.add_argument("--only", nargs="+", choices=MEASURES, metavar="NAME", default=MEASURES)
    arguments.add_argument("--json", type=Path, help="also write all values to this file")
    parsed = arguments.parse_args()
    figures: Figures = {}
    with tempfile.TemporaryDirectory(prefix="regioncap-benchmark-") as folder:
        bench = Bench(Path(folder), parsed.quick)
        bench.run("library", 8, 8, 0.0)  # compiles what is imported
        for run in range(1 if parsed.quick else parsed.runs):
            for name in parsed.only:
                load = os.getloadavg()[0]
                print(f"run {run + 1}, {name} (load {load:.1f})", file=sys.stderr, flush=True)
                MEASURES[name](bench, figures, run)
    cores = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    print(f"{cores}, load {os.getloadavg()[0]:.1f}\n\n{table(figures)}")
    if parsed.json:
        values = {name: vars(figure) for name, figure in figures.items()}
        parsed.json.write_text(json.dumps(values, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
