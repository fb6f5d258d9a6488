"""The notebooks run in a real kernel, without network, and keep the outputs of their own code.

After a change of a notebook or of what it shows, `python tests/test_notebooks.py` runs them again
and stores the outputs; without progress bars, and with pictures as JPEG only.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import tomllib
from collections.abc import Callable, Mapping
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import pytest
from endpoint import Endpoint
from hub import HubStandIn
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "urls"
]["Repository"]
NEW_COLUMNS = [
    "type",
    "image_status",
    "region_boxes",
    "box_status",
    "normalized_bbox",
    "valid_bboxes_num",
    "image_with_bbox",
    "prompt",
    "answer",
    "region_captions",
    "answer_status",
    "answer_error",
    "usage",
]
CAPTIONS_ARE_COMPLETE = """
used = [s in ("ok", "clipped") for statuses in captioned["box_status"] for s in statuses]
told = [c is not None for captions in captioned["region_captions"] for c in captions]
assert used == told and any(used), captioned["answer_error"]
assert set(captioned["answer_status"]) == {"ok"}, captioned["answer_status"]
"""
#: Run after the last cell, in the same kernel.
CHECKS = {
    "01_quickstart": f"""
assert captioned.column_names == ["image", "bbox", *{NEW_COLUMNS}]
assert list(map(len, captioned["region_captions"])) == [1, 3]
assert captioned["region_captions"][1][1] is None
assert mapped.features == captioned.features
assert list(mapped["answer"]) == list(captioned["answer"])
""",
    "02_dense_captioning": f"""
assert captioned.column_names == ["image", "objects", *{NEW_COLUMNS}]
assert ds.features["objects"]["category"].feature.names == NAMES
assert sum(map(len, captioned["region_captions"])) == 38
assert all(captions[0] for captions in done["region_captions"])
""",
    "03_publish_and_review": f"""
assert reviewed.column_names == [
    "image", "bbox", "labels", *{NEW_COLUMNS}, "caption_reviewed", "review_status"
]
assert reviewed["review_status"][1] == ["edited", "accepted", "rejected", None]
assert reviewed["caption_reviewed"][1][0] == "A white cup with a red handle."
assert reviewed["caption_reviewed"][1][2] is None
assert "sk-" not in card and recipe["view"] in card
""",
}

#: What every process of a run imports first: connections beyond this machine fail and are told.
NO_NETWORK = """
import os, socket

def inner(connect):
    def guarded(self, address):
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            with open(os.environ["NETWORK_LOG"], "a") as log:
                log.write(f"{address}\\n")
            raise OSError("there is no network in this test")
        return connect(self, address)
    return guarded

socket.socket.connect = inner(socket.socket.connect)
socket.socket.connect_ex = inner(socket.socket.connect_ex)
"""


def machine(home: Path, **more: str) -> dict[str, str]:
    """The environment of a kernel that knows neither keys nor caches nor the network."""
    (home / "python").mkdir()
    (home / "python" / "sitecustomize.py").write_text(NO_NETWORK, encoding="utf-8")
    private = re.compile(r"OPENAI_|HF_|HUGGING|XDG_|JPY_|.*_proxy$", re.IGNORECASE)
    return {
        **{name: value for name, value in os.environ.items() if not private.match(name)},
        "HF_HOME": str(home / "hf"),
        "HF_REGIONCAP_HOME": str(home / "regioncap"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "IPYTHONDIR": str(home / "ipython"),
        "NETWORK_LOG": str(home / "network.log"),
        "PYTHONPATH": os.pathsep.join([str(home / "python"), str(ROOT)]),
        # What tqdm says once where the widgets of Jupyter are not installed.
        "PYTHONWARNINGS": "ignore:IProgress not found",
        **more,
    }


def execute(notebook: Any, home: Path, env: Mapping[str, str]) -> Path:
    """Run all cells in a kernel of this Python; returns the folder that it worked in."""
    folder = home / "work"
    folder.mkdir()
    client = NotebookClient(
        notebook,
        timeout=500,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
    )
    client.execute(env=dict(env))
    for cell in code_cells(notebook):
        cell.outputs = joined(cell.outputs)
    log = Path(env["NETWORK_LOG"])
    assert not log.exists(), f"asked for {log.read_text(encoding='utf-8')}"
    return folder


def joined(outputs: list[Any]) -> list[Any]:
    """What was printed in one go, and sent in pieces, as one output."""
    whole: list[Any] = []
    for output in outputs:
        name = output.get("name")
        if whole and name and whole[-1].get("name") == name:
            whole[-1].text += output.text
        else:
            whole.append(output)
    return whole


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def digest(notebook: Any) -> str:
    sources = [[cell.id, cell.source] for cell in code_cells(notebook)]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()[:16]


def set_settings(notebook: Any, **values: Any) -> None:
    """Change the one cell, as its text tells the reader to."""
    [cell] = [cell for cell in notebook.cells if cell.id == "settings"]
    for name, value in values.items():
        cell.source, count = re.subn(
            rf"^{name} = .*$", f"{name} = {value!r}", cell.source, count=1, flags=re.MULTILINE
        )
        assert count == 1


def add_checks(notebook: Any, name: str) -> None:
    checks = CAPTIONS_ARE_COMPLETE + CHECKS[name]
    notebook.cells.append(nbformat.v4.new_code_cell(checks, id="checks"))


def all_outputs(notebook: Any) -> list[Any]:
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def texts(cell: Any) -> str:
    """What a cell has put out as plain text."""
    return "\n".join(
        output.text if output.output_type == "stream" else output.data.get("text/plain", "")
        for output in cell.outputs
    )


def kinds(cell: Any) -> set[str]:
    found = set()
    for output in cell.outputs:
        found |= {output.name} if output.output_type == "stream" else set(output.data)
    return found - {"image/png"}


def masked(text: str) -> str:
    """Numbers and addresses differ from run to run, words do not."""
    return re.sub(r"\d[\d,.]*", "#", re.sub(r"0x[0-9A-Fa-f]+", "0x", text))


# Runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], tuple[Any, Path]]:
    """Each notebook executed once as it is: (the notebook with new outputs, its folder)."""
    done: dict[Path, tuple[Any, Path]] = {}

    def run(path: Path) -> tuple[Any, Path]:
        if path not in done:
            home, notebook = tmp_path_factory.mktemp(path.stem), read(path)
            add_checks(notebook, path.stem)
            done[path] = notebook, execute(notebook, home, machine(home))
        return done[path]

    return run


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    value: Path = request.param
    return value


def test_there_are_three_and_each_is_checked() -> None:
    assert [path.stem for path in NOTEBOOKS] == sorted(CHECKS)


def test_runs_offline_from_top_to_bottom(path: Path, runs: Any) -> None:
    notebook, _ = runs(path)
    assert not [output for output in all_outputs(notebook) if output.output_type == "error"]
    assert "stderr" not in {name for cell in code_cells(notebook) for name in kinds(cell)}


def test_stored_outputs_are_those_of_the_code(path: Path, runs: Any) -> None:
    stored, (fresh, _) = read(path), runs(path)
    assert stored.metadata["hf_regioncap"]["executed"] == digest(stored), (
        "the code has changed since it was run: python tests/test_notebooks.py"
    )
    for old, new in zip(code_cells(stored), code_cells(fresh), strict=False):
        assert kinds(old) == kinds(new), old.id
        # Captions of the describer may differ by a word where another JPEG library is at work.
        likeness = SequenceMatcher(None, masked(texts(old)), masked(texts(new)), autojunk=False)
        assert likeness.ratio() > 0.9, f"{old.id}: {texts(old)}\nis now\n{texts(new)}"


class Elsewhere(NamedTuple):
    """A notebook that was run with another endpoint, and what that and the Hub were asked."""

    notebook: Any
    asked: int
    repos: Mapping[str, Any]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Elsewhere]:
    """Each notebook executed once with another endpoint, changed in the one cell for it.

    The second is begun again when it is done, the third finds a stored token.
    """
    done: dict[Path, Elsewhere] = {}

    def run(path: Path) -> Elsewhere:
        if path in done:
            return done[path]
        notebook, home = read(path), tmp_path_factory.mktemp(path.stem)
        with Endpoint(latency=0.02) as endpoint, HubStandIn() as hub:
            set_settings(notebook, endpoint={"base_url": endpoint.base_url, "model": "m"})
            add_checks(notebook, path.stem)
            notebook.cells += second_time(notebook) if path == NOTEBOOKS[1] else []
            execute(notebook, home, machine(home, **(hub_of(hub) if path == NOTEBOOKS[2] else {})))
            done[path] = Elsewhere(notebook, len(endpoint.requests), hub.repos)
        return done[path]

    return run


def second_time(notebook: Any) -> list[Any]:
    """The cells up to the run that goes on where another was killed."""
    [resumed] = [at for at, cell in enumerate(notebook.cells) if cell.id == "resumed"]
    first = notebook.cells[: resumed + 1]
    return [nbformat.from_dict({**cell, "id": f"{cell.id}-2"}) for cell in first]


def hub_of(hub: HubStandIn) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": "hf_write", "HF_HUB_DISABLE_XET": "1"}


def test_runs_with_another_endpoint_by_one_cell(path: Path, elsewhere: Any) -> None:
    notebook, asked, _ = elsewhere(path)
    captions = "caption for region"
    assert captions in "".join(str(output) for output in all_outputs(notebook))
    # One request a photo, or one a box; of the killed run what was not yet on disk is asked again.
    least, most = {"01": (2, 2), "02": (50, 58), "03": (5, 5)}[path.stem[:2]]
    assert least <= asked <= most


def test_runs_a_second_time_in_the_same_folder(elsewhere: Any) -> None:
    """All of a notebook's files are there already: nothing is in the way, and nothing is asked."""
    notebook, asked, _ = elsewhere(NOTEBOOKS[1])
    assert asked <= 58
    assert "killed: 38 answers are kept, 0 requests are left" in texts(notebook.cells[-2])


def test_a_stored_token_alone_pushes_nothing(elsewhere: Any) -> None:
    assert not elsewhere(NOTEBOOKS[2]).repos


def resumption(notebook: Any) -> dict[str, int]:
    [killed] = [texts(cell) for cell in notebook.cells if cell.id == "killed"]
    [resumed] = [texts(cell) for cell in notebook.cells if cell.id == "resumed"]
    [(kept, left)] = re.findall(r"killed: (\d+) answers are kept, (\d+) requests are left", killed)
    counts = re.findall(r"(\d+) failed, (\d+) requests \(\+(\d+) stored\)", resumed)
    (failed, sent, found), again = counts
    assert again == ("0", "0", "38")
    names = ("left", "kept", "failed", "sent", "found")
    return dict(zip(names, map(int, (left, kept, failed, sent, found)), strict=True))


def test_a_killed_run_asks_only_for_what_is_missing(runs: Any) -> None:
    for notebook in (runs(NOTEBOOKS[1])[0], read(NOTEBOOKS[1])):
        counts = resumption(notebook)
        assert counts["sent"] == counts["left"]
        assert counts["found"] == counts["kept"]
        assert counts["sent"] + counts["found"] == 38
        assert 7 <= counts["kept"] < 38, "the kill came too late to show anything"
        assert counts["failed"] == 0
        [retried] = [texts(cell) for cell in notebook.cells if cell.id == "retried"]
        assert "bounded: {'ok': 4, 'skipped_budget': 8}" in retried
        assert "retried: {'ok': 12}" in retried


def test_review_and_card_are_written_without_a_token(runs: Any) -> None:
    notebook, folder = runs(NOTEBOOKS[2])
    [pushed] = [texts(cell) for cell in notebook.cells if cell.id == "push"]
    assert "nothing was pushed" in pushed
    written = folder / "region_captions"
    assert "machine-generated" in (written / "README.md").read_text(encoding="utf-8")
    recipe = json.loads((written / "recipe.json").read_text(encoding="utf-8"))
    assert recipe["model"] == "offline-describer"
    assert len(list(written.glob("data/*.parquet"))) == 1


def test_pushes_to_a_private_repository_with_a_token(tmp_path: Path) -> None:
    path = NOTEBOOKS[2]
    notebook = read(path)
    set_settings(notebook, repo="region-captions-demo")
    add_checks(notebook, path.stem)
    with HubStandIn() as hub:
        execute(notebook, tmp_path, machine(tmp_path, **hub_of(hub)))
        [(name, repo)] = hub.repos.items()
    assert name == "ada/region-captions-demo"
    assert repo.private
    assert {"README.md", "recipe.json"} < set(repo.files())
    [pushed] = [texts(cell) for cell in notebook.cells if cell.id == "push"]
    assert f"pushed, private: {hub.endpoint}/datasets/{name}" in pushed


# What is stored


def test_the_badge_and_the_install_cell_have_the_address_of_the_project(path: Path) -> None:
    notebook = read(path)
    repository = REPOSITORY.removeprefix("https://github.com/")
    colab = "https://colab.research.google.com/github/"
    title = notebook.cells[0].source
    assert re.findall(re.escape(colab) + r"[^)\s]+", title) == [
        f"{colab}{repository}/blob/main/notebooks/{path.name}"
    ]
    [install] = [cell.source for cell in notebook.cells if cell.id == "install"]
    assert f"git+{REPOSITORY}" in install
    if "OWNER" in REPOSITORY:
        assert "`OWNER`" in title
        assert "placeholder" in title


def test_is_short_small_and_in_order(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    assert len(notebook.cells) < 15
    assert path.stat().st_size < 1_500_000
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    assert notebook.metadata.kernelspec.name == "python3"


def test_pictures_are_kept_as_jpeg(path: Path) -> None:
    found = set().union(*map(kinds, code_cells(read(path))))
    assert found & {"image/jpeg", "text/html"}
    assert "image/png" not in {
        kind for output in all_outputs(read(path)) for kind in output.get("data", ())
    }
    assert "data:image/jpeg;base64," in path.read_text(encoding="utf-8")


def test_nothing_of_the_machine_is_in_the_outputs(path: Path) -> None:
    notebook = read(path)
    assert "stderr" not in {name for cell in code_cells(notebook) for name in kinds(cell)}
    for cell in notebook.cells:
        assert "execution" not in cell.metadata
    text = json.dumps(all_outputs(notebook), ensure_ascii=False)
    text = re.sub(r"[A-Za-z0-9+/=\\]{200,}", "", text)  # pictures
    local = r"""["'\s(=](?:/(?:home|root|tmp|work|usr|var|opt|mnt|content|Users)/|[A-Z]:\\\\)"""
    assert not re.findall(local, text)
    assert str(Path.home()) not in text
    assert not re.search(r"Warning|Traceback|examples/s", text)


# Storing


def store(path: Path) -> None:
    """Run a notebook as the tests do, and keep its outputs."""
    notebook = read(path)
    with tempfile.TemporaryDirectory() as home:
        execute(notebook, Path(home), machine(Path(home)))
    for output in all_outputs(notebook):
        if "image/jpeg" in output.get("data", ()):
            output.data.pop("image/png", None)  # Pillow gives both; the viewer needs one
    notebook.metadata["hf_regioncap"] = {"executed": digest(notebook)}
    notebook.metadata["language_info"] = {"name": "python"}  # not this machine's version
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for each in NOTEBOOKS:
        store(each)
        print(each.name, f"{each.stat().st_size:,} bytes")
