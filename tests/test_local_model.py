"""A real llama.cpp server with a toy vision model, through the library's own way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from datasets import Dataset
from PIL import Image

pytest.importorskip("xllamacpp", reason="needs xllamacpp (extra 'test')")
pytest.importorskip("gguf", reason="needs gguf (extra 'test')")

from llama_server import LlamaServer

from hf_regioncap import EndpointError, add_region_captions, caption_dataset

#: Pictures whose mean colour leads the toy model to the word.
PAINT = {"red": "#d04030", "green": "#208040", "blue": "#3050c0"}
BOXES = [[4, 4, 60, 60], [70, 70, 120, 120], [10, 100, 50, 80]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaServer]:
    with LlamaServer(tmp_path_factory.mktemp("llama"), slots=4) as server:
        yield server


def rows_of(colours: list[str]) -> Dataset:
    pictures = [Image.new("RGB", (224, 224), PAINT[name]) for name in colours]
    return Dataset.from_list([{"image": picture, "bbox": BOXES} for picture in pictures])


def options(server: LlamaServer) -> dict[str, object]:
    return {
        "base_url": server.base_url,
        "model": server.model,
        "max_tokens": 400,
        # A mark of the picture's own colours: the toy model sees the mean only.
        "mark": {"colors": "#808080", "label": "none", "casing": False, "thickness": 1},
    }


@pytest.mark.parametrize("view", ["overlay", "crop", "both"])
def test_the_schema_holds_and_the_pixels_arrive(server: LlamaServer, view: str) -> None:
    colours = ["red", "green", "blue", "green"]
    done = caption_dataset(rows_of(colours), view=view, **options(server))
    assert done["answer_status"][:] == ["ok"] * 4
    for colour, row in zip(colours, done.remove_columns(["image", "image_with_bbox"]), strict=True):
        assert len(row["region_captions"]) == 3
        assert all(colour in caption for caption in row["region_captions"])
        assert set(json.loads(row["answer"])) == {"1", "2", "3"}
        assert row["usage"]["prompt_tokens"] > 0


def test_plain_map_too(server: LlamaServer) -> None:
    done = rows_of(["blue"]).map(add_region_captions, batched=True, fn_kwargs=options(server))
    assert all("blue" in caption for caption in done[0]["region_captions"])


def test_a_server_without_eyes_stops_the_run_at_once(tmp_path: Path) -> None:
    with LlamaServer(tmp_path, vision=False) as blind, pytest.raises(EndpointError, match="mmproj"):
        caption_dataset(rows_of(["red"] * 20), **options(blind))


def test_a_key_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LlamaServer(tmp_path, api_key="open-sesame") as locked:
        with pytest.raises(EndpointError, match="key"):
            caption_dataset(rows_of(["red"]), **options(locked))
        monkeypatch.setenv("LLAMA_KEY", "open-sesame")
        done = caption_dataset(rows_of(["red"]), api_key_env="LLAMA_KEY", **options(locked))
        assert done["answer_status"][0] == "ok"
