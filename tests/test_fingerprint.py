"""Rows come from the cache of `datasets` only where nothing has changed that decides them."""

from __future__ import annotations

import functools
import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from endpoint import Endpoint

import hf_regioncap
from hf_regioncap import add_region_captions, caption_dataset
from hf_regioncap.fingerprint import what_lies_behind, what_runs


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], ModuleType]:
    """Write a module and import it, anew each time: `load(source, name)`."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(source: str, name: str = "edited") -> ModuleType:
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
        importlib.invalidate_caches()
        monkeypatch.delitem(sys.modules, name, raising=False)
        return importlib.import_module(name)

    return write


#: Modules whose `f` changes with N.
SOURCES = {
    "body": "def f(a): return a + N",
    "default": "def f(a, b=N): return a + b",
    "keyword": "def f(a, *, b=N): return a + b",
    "constant": "END = N\ndef f(a): return a + END",
    "helper": "def g(): return N\ndef f(a): return g()",
    "nested": "def f(a): return [x for x in a if x > N]",
    "set": "def f(a): return a in {'x', 'y', N}",
    "closure": "def m(n): return lambda a: a + n\nf = m(N)",
    "partial": "from functools import partial\ndef g(n, a): return n\nf = partial(g, N)",
    "array": "import numpy as np\nW = np.full(3, N)\ndef f(a): return a * W",
    "method": "class C:\n  n = N\n  def f(self, a): return self.n\nf = C().f",
    "property": "class C:\n  n = property(lambda s: N)\n  def __call__(s, a): return s.n\nf = C()",
    "slots": "class C:\n  __slots__ = 'n'\n  def __call__(s, a): return s.n\nf = C()\nf.n = N",
    "base": """
class B:
    def g(self): return N
class C(B):
    def __call__(self, a): return self.g()
f = C()
""",
    "decorated": """
from functools import wraps
def d(g):
    @wraps(g)
    def h(*a): return g(*a)
    return h
@d
def f(a): return N
""",
}


@pytest.mark.parametrize("what", SOURCES)
def test_an_edit_shows(what: str, load: Any) -> None:
    one, two = (SOURCES[what].replace("N", number) for number in "12")
    first = what_runs(load(one).f)
    assert first == what_runs(load("# a comment moves its lines\n\n" + one).f)
    assert first != what_runs(load(two).f)


@pytest.mark.parametrize(
    "source",
    [
        "import helper\ndef f(a): return helper.g(a)",
        "from helper import g\ndef f(a): return g(a)",
        "def f(a):\n  import helper\n  return helper.g(a)",
        "def f(a):\n  from helper import g\n  return g(a)",
    ],
)
@pytest.mark.parametrize("loaded", [True, False])
def test_an_edit_of_an_imported_helper_shows(
    source: str, loaded: bool, load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    for number in (1, 1, 2):
        load(f"def g(a): return {number}", "helper")
        if not loaded:
            monkeypatch.delitem(sys.modules, "helper")
        seen.append(what_runs(load(source).f))
    assert seen[0] == seen[1] != seen[2]


def test_what_a_module_holds_counts_by_its_type_and_what_is_carried_must_be_pickled(
    load: Any,
) -> None:
    source = "import threading\nlock = threading.Lock()\ndef f(a):\n  with lock: return a"
    assert what_runs(load(source).f) == what_runs(load(source).f)
    with pytest.raises(TypeError, match="pickle"):
        what_runs(functools.partial(load(source).f, (row for row in "ab")))


def test_what_calls_itself_and_what_holds_itself_ends(load: Any) -> None:
    source = "rows = []\nrows.append(rows)\ndef f(a): return f(a) if a else rows"
    assert what_runs(load(source).f) == what_runs(load(source).f)


def test_it_is_the_same_in_another_process(load: Any, tmp_path: Path) -> None:
    source = "NAMES = {'a', 'b', 'c', 'd'}\ndef f(a): return a in {'x', 'y', 'z'} or a in NAMES"
    here = repr(what_runs(load(source).f))
    code = (
        "import edited; from hf_regioncap.fingerprint import what_runs; print(what_runs(edited.f))"
    )
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(tmp_path)}
        there = subprocess.run(
            [sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, check=True
        )
        assert there.stdout.decode().strip() == here


def test_no_key_is_in_it(load: Any) -> None:
    keys = ("sk-abcdefgh12345678ijkl", "hf_abcdefgh12345678ijklmnop")
    first, second = (what_runs(load(f"KEY = {key!r}\ndef f(a): return a, KEY").f) for key in keys)
    assert first == second
    assert not any(key in repr((first, second)) for key in keys)


# What lies behind paths


def files_in(folder: Path, make_photo: Any, kind: str) -> Callable[[], Any]:
    """Two photos in files, named by a Parquet file: of a path for each way to write one."""
    folder.mkdir()
    for number in range(2):
        (folder / f"{number}.png").write_bytes(make_photo(number))
    paths = [str(folder / f"{number}.png") for number in range(2)]
    images: pa.Array = {
        "struct": lambda: pa.array([{"bytes": None, "path": path} for path in paths]).cast(
            pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        ),
        "string": lambda: pa.array(["0.png", "1.png"]),
        "large_string": lambda: pa.array(paths, pa.large_string()),
    }[kind]()
    boxes = pa.array([[[2.0, 3.0, 20.0, 16.0]]] * 2)
    pq.write_table(pa.table({"image": images, "bbox": boxes}), folder / "rows.parquet")
    cache = str(folder / "cache")
    return lambda: Dataset.from_parquet(str(folder / "rows.parquet"), cache_dir=cache)


@pytest.mark.parametrize("kind", ["struct", "string", "large_string"])
@pytest.mark.parametrize("way", ["whole", "map", "partial"])
def test_a_changed_photo_behind_a_path_is_captioned_anew(
    kind: str, way: str, make_photo: Any, tmp_path: Path, endpoint: Endpoint
) -> None:
    dataset = files_in(tmp_path / "photos", make_photo, kind)
    options = {"base_url": endpoint.base_url, "image_root": str(tmp_path / "photos")}

    def captions() -> Any:
        if way == "whole":
            return caption_dataset(dataset(), **options)
        if way == "map":
            return dataset().map(add_region_captions, batched=True, fn_kwargs=options)
        return dataset().map(functools.partial(add_region_captions, **options), batched=True)

    first, again = captions(), captions()
    assert endpoint.count == 2
    assert first.cache_files == again.cache_files
    (tmp_path / "photos" / "1.png").write_bytes(make_photo(7, (80, 60)))
    changed = captions()
    assert endpoint.count == 3
    assert changed["region_captions"][0] == first["region_captions"][0]
    assert changed["region_captions"][1] != first["region_captions"][1]
    (tmp_path / "photos" / "1.png").unlink()
    assert captions()["image_status"][:] == ["ok", "image_missing"]


def test_only_the_files_of_selected_rows_count(make_photo: Any, tmp_path: Path) -> None:
    dataset = files_in(tmp_path / "photos", make_photo, "struct")()
    folder = tmp_path / "photos"
    one = dataset.select([1, 1])
    before = [what_lies_behind(each, "image", folder) for each in (dataset, one)]
    (folder / "0.png").write_bytes(b"another")
    after = [what_lies_behind(each, "image", folder) for each in (dataset, one)]
    assert before[0] != after[0]
    assert before[1] == after[1]


def test_images_that_are_in_the_dataset_name_no_files(make_dataset: Any) -> None:
    assert what_lies_behind(make_dataset(2), "image", None) is None
    assert what_lies_behind(make_dataset(2).with_format("numpy"), "bbox", None) is None


# The rest of what decides


@pytest.mark.parametrize("way", ["whole", "map"])
def test_an_edited_function_reads_anew(
    way: str, load: Any, make_dataset: Any, on_disk: Any, endpoint: Endpoint
) -> None:
    dataset = on_disk(make_dataset(2, regions=1))

    def captions(word: str) -> Any:
        source = f"def word(): return '{word}'\ndef parse(answer, regions): return {{1: word()}}"
        options = {"base_url": endpoint.base_url, "parse": load(source).parse}
        if way == "whole":
            return caption_dataset(dataset, **options)
        return dataset.map(add_region_captions, batched=True, fn_kwargs=options)

    first, again, edited = captions("old"), captions("old"), captions("new")
    assert first.cache_files == again.cache_files
    assert first["region_captions"][:] == [["old"]] * 2
    assert edited["region_captions"][:] == [["new"]] * 2
    assert endpoint.count == 2  # the answers are those of before


@pytest.mark.parametrize("way", ["whole", "map"])
def test_another_address_in_the_environment_is_asked(
    way: str, make_dataset: Any, on_disk: Any, endpoint: Endpoint, monkeypatch: Any
) -> None:
    dataset = on_disk(make_dataset(2))
    options: dict[str, Any] = {"answer_store": None}

    def caption() -> Any:
        if way == "whole":
            return caption_dataset(dataset, **options)
        return dataset.map(add_region_captions, batched=True, fn_kwargs=options)

    with Endpoint() as other:
        for address in (endpoint, endpoint, other):
            monkeypatch.setenv("OPENAI_BASE_URL", address.base_url)
            caption()
        assert (endpoint.count, other.count) == (2, 2)


def test_a_corrected_price_asks_what_was_left_out(make_dataset: Any, on_disk: Any) -> None:
    dataset = on_disk(make_dataset(2))
    with Endpoint() as endpoint:
        options = {"base_url": endpoint.base_url, "max_cost": 0.5}
        dear = caption_dataset(dataset, price=(1000, 1000), **options)
        assert set(dear["answer_status"]) == {"skipped_budget"}
        assert set(caption_dataset(dataset, price=(1, 1), **options)["answer_status"]) == {"ok"}


def test_a_newer_describer_is_asked_again(
    make_dataset: Any, on_disk: Any, monkeypatch: Any
) -> None:
    from hf_regioncap import offline

    dataset = on_disk(make_dataset(1, regions=1))
    old = caption_dataset(dataset, base_url="offline")
    assert old["region_captions"][0] != ["newer words"]
    monkeypatch.setattr(offline, "describe_region", lambda *_, **__: "newer words")
    monkeypatch.setattr(hf_regioncap, "__version__", "99.0")
    assert caption_dataset(dataset, base_url="offline")["region_captions"][0] == ["newer words"]
