"""The README is part of the product: its commands run, its tables are the code's."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from endpoint import Endpoint
from hub import HubStandIn

import hf_regioncap
from hf_regioncap.columns import ALL_COLUMNS, column_features
from hf_regioncap.inputs import demo_dataset
from hf_regioncap.options import OptionKwargs, Options, option_docs

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A Hub with the data set that the README names, an endpoint in OpenAI's place, no network."""
    folder = tmp_path_factory.mktemp("docs")
    demo_dataset().to_parquet(folder / "train.parquet")
    with (
        HubStandIn() as hub,
        Endpoint(api_key="a-key") as endpoint,
        tempfile.TemporaryDirectory(prefix="ray") as ray_folder,  # short: it holds sockets
    ):
        for name in ("ada/boxes", "ada/BOXES"):
            hub.add(name, {"data/train.parquet": (folder / "train.parquet").read_bytes()})
        yield {
            "RAY_TMPDIR": ray_folder,
            **{k: v for k, v in os.environ.items() if not k.startswith(("OPENAI", "HF_"))},
            "HF_ENDPOINT": hub.endpoint,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(folder / "hf"),
            "HF_TOKEN": "hf_write",
            "HF_REGIONCAP_HOME": str(folder / "store"),
            "OPENAI_BASE_URL": endpoint.base_url,
            "OPENAI_API_KEY": "a-key",
            "PYTHONPATH": str(ROOT),
        }


def run(
    command: list[str], world: dict[str, str], folder: Path
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, env=world, capture_output=True, text=True, timeout=180, check=False
    )


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_every_python_block_runs(number: int, world: dict[str, str], tmp_path: Path) -> None:
    code = blocks("python")[number].replace("USER/", "ada/")
    done = run([sys.executable, "-c", code], world, tmp_path)
    assert done.returncode == 0, done.stderr


SCRIPTS = [
    line
    for block in blocks("bash")
    for line in block.splitlines()
    if line.startswith("python scripts/")
]


@pytest.mark.parametrize("line", SCRIPTS)
def test_every_command_runs(line: str, world: dict[str, str], tmp_path: Path) -> None:
    command = shlex.split(line.replace("USER/", "ada/").replace("objects.bbox", "bbox"))
    (tmp_path / "photos").mkdir()
    demo_dataset().to_parquet(tmp_path / "photos" / "one.parquet")
    done = run([sys.executable, str(ROOT / command[1]), *command[2:]], world, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_two_commands_stand_in_the_readme() -> None:
    commands = [line for block in blocks("bash") for line in block.splitlines()]
    assert 'pip install -e ".[demo]" && python scripts/caption_dataset.py --demo' in commands
    assert 'pip install -e ".[test]" && pytest' in commands


def test_the_table_of_options_is_the_code() -> None:
    docs, rows = option_docs(), ["| option | default | meaning |", "|---|---|---|"]
    for field in fields(Options):
        if field.name in OptionKwargs.__annotations__:
            shown = f'"{field.default}"' if isinstance(field.default, str) else field.default
            rows.append(f"| `{field.name}` | `{shown}` | {docs[field.name]} |")
    written = README.split("<!-- options -->\n")[1].split("\n<!-- /options -->")[0]
    assert written.strip() == "\n".join(rows)


def test_the_table_of_columns_is_the_code() -> None:
    told = dict(re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", README.split("## Try it")[0], re.M))
    assert tuple(told) == ALL_COLUMNS
    for name, feature in column_features().items():
        written = told[name].replace("{", "{'").replace(": ", "': ").replace(", c", ", 'c")
        kind = re.sub(r"Value\('(\w+)'\)", r"\1", str(feature))
        kind = re.sub(r"Image\(.*\)", "Image", kind)
        assert written == kind, name


def test_the_tree_names_every_module() -> None:
    tree = README.split("## How it is built")[1]
    modules = {path.name for path in (ROOT / "hf_regioncap").glob("*.py")}
    told = set(re.findall(r"^  (\w+\.py) ", tree, re.MULTILINE))
    assert told == modules - {"__init__.py", "__main__.py"}


def test_every_public_name_is_documented_and_told() -> None:
    for name in hf_regioncap.__all__:
        assert getattr(hf_regioncap, name).__doc__, name
    told = {name for name in hf_regioncap.__all__ if name in README}
    assert set(hf_regioncap.__all__) - told <= {"PublishError", "RegionCaptionError", "StoreError"}


def test_links_and_pictures_exist() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
