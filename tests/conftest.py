"""What the tests share: folders of their own, an environment without keys, small real photos."""

from __future__ import annotations

import atexit
import importlib.util
import io
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from endpoint import Endpoint, expected_caption
from hypothesis import HealthCheck, settings
from PIL import Image

# No test may depend on how fast the machine is, and a run in CI tries what the last one tried.
settings.register_profile(
    "regioncap",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
)
settings.load_profile("regioncap")

# A shell starts what runs in the background with Ctrl-C ignored, and so would be all our children.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

# `datasets` and `huggingface_hub` read these when they are imported, which is after this.
_HOME = tempfile.mkdtemp(prefix="regioncap-tests-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
os.environ |= {"HF_HOME": _HOME, "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
for _name in ("HF_DATASETS_CACHE", "HF_HUB_CACHE", "HF_TOKEN", "HF_ENDPOINT", "XDG_CACHE_HOME"):
    os.environ.pop(_name, None)

#: Makes a dataset: `make_dataset(rows, regions=2, start=0)`.
MakeDataset = Callable[..., Any]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key, address or proxy of whoever runs the tests, and an answer store for each test."""
    for name in list(os.environ):
        if name.startswith("OPENAI_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_REGIONCAP_HOME", str(tmp_path / "regioncap"))


@pytest.fixture(scope="session")
def photos() -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    """Photos that scikit-image ships inside its wheel: an astronaut, a cup of coffee, a cat."""
    data = pytest.importorskip("skimage.data")
    return [np.asarray(data.astronaut()), np.asarray(data.coffee()), np.asarray(data.chelsea())]


@pytest.fixture(scope="session")
def make_photo(photos: list[np.ndarray[Any, np.dtype[np.uint8]]]) -> Callable[..., bytes]:
    """`make_photo(number, size_wh, format)`: a piece of a photo, another for each number."""

    def make(number: int, size_wh: tuple[int, int] = (64, 48), format: str = "PNG") -> bytes:
        photo, (width, height) = photos[number % 3], size_wh
        x = number * 7 % (photo.shape[1] - width)
        y = (number * 13 + number // 50) % (photo.shape[0] - height)
        piece = photo[y : y + height, x : x + width].copy()
        piece[:4, :4] = (number % 256, number // 256 % 256, 77)  # no two are the same
        buffer = io.BytesIO()
        Image.fromarray(piece).save(buffer, format)
        return buffer.getvalue()

    return make


@pytest.fixture(scope="session")
def make_dataset(make_photo: Callable[..., bytes]) -> MakeDataset:
    """`make_dataset(rows, regions=2, start=0)`: numbered rows with a photo and boxes each."""

    def make(rows: int, regions: int = 2, start: int = 0) -> Any:
        from datasets import Dataset, Features, Image, List, Value

        features = Features(
            {"number": Value("int32"), "image": Image(), "bbox": List(List(Value("float64")))}
        )
        boxes = [[2.0 + 6 * k, 3.0 + 4 * k, 20.0, 16.0] for k in range(regions)]
        examples = [
            {"number": number, "image": {"bytes": make_photo(number), "path": None}, "bbox": boxes}
            for number in range(start, start + rows)
        ]
        return Dataset.from_list(examples, features=features)

    return make


@pytest.fixture
def on_disk(tmp_path: Path) -> Callable[[Any], Any]:
    """Save a dataset and load it from there: only what has files has a cache."""
    from datasets import load_from_disk

    def save(dataset: Any) -> Any:
        folder = tempfile.mkdtemp(prefix="saved-", dir=tmp_path)
        dataset.save_to_disk(folder)
        return load_from_disk(folder)

    return save


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """An endpoint that answers rightly and at once."""
    with Endpoint() as running:
        yield running


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all wait for the first request's answer, however slow the machine is."""
    monkeypatch.setattr("hf_regioncap.line._PATIENCE_NEAR", 1_000_000)


@pytest.fixture(scope="session")
def assert_own() -> Callable[..., None]:
    """Assert that every caption of a captioned dataset is that of its row's picture and region.

    `whole` asserts that each used box has one, too.
    """

    def check(dataset: Any, *, whole: bool = True, prefix: str = "") -> None:
        names = ["image_with_bbox", "region_captions", "box_status"]
        table = dataset.select_columns([prefix + name for name in names]).with_format("arrow")[:]
        for row in table.to_pylist():
            image, captions, statuses = row.values()
            used = [i for i, status in enumerate(statuses) if status in ("ok", "clipped")]
            assert len(captions) == len(statuses)
            assert all(captions[i] is None for i in range(len(captions)) if i not in used)
            for region, place in enumerate(used, 1):
                right = expected_caption(image["bytes"], region)
                assert captions[place] == right or (captions[place] is None and not whole)

    return check


@pytest.fixture
def run_main(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a script's `main` in this process: starting Python anew takes longer than the work."""
    monkeypatch.chdir(tmp_path)

    def run(script: Path, *arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
        spec = importlib.util.spec_from_file_location(script.stem, script)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        try:
            code = module.main([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse
            code = int(stop.code or 0)
        out, err = capfd.readouterr()
        return subprocess.CompletedProcess(list(arguments), code, out, err)

    return run
