"""The script, as people run it: every kind of input, what it writes, how it ends."""

from __future__ import annotations

import functools
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Features, Image, List, Value, load_dataset
from endpoint import Endpoint
from PIL import Image as Pillow

from hf_regioncap.columns import ALL_COLUMNS
from hf_regioncap.publishing import write_dataset

SCRIPT = Path(__file__).parent.parent / "scripts" / "caption_dataset.py"
NINE = [
    "image",
    "type",
    "bbox",
    "normalized_bbox",
    "result_file",
    "image_with_bbox",
    "valid_bboxes_num",
    "prompt",
    "answer",
]
BOXES = [[4, 4, 30, 20], [20, 10, 25, 30]]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three small photos in a folder."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        pixels = rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
        Pillow.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def script(run_main: Callable[..., Any]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the script."""
    return functools.partial(run_main, SCRIPT)


@pytest.fixture
def child(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the script as people do."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(SCRIPT), *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def seed_rows(count: int = 3) -> list[dict[str, Any]]:
    return [{"image": f"{number}.png", "bbox": BOXES} for number in range(count)]


def read_lines(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "regions.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def as_jsonl(photos: Path) -> list[object]:
    return [write_lines(photos / "rows.jsonl", seed_rows())]


def as_coco(photos: Path) -> list[object]:
    data = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 64, "height": 48} for n in range(3)],
        "annotations": [
            {"id": n * 2 + k, "image_id": n, "bbox": box, "category_id": 7}
            for n in range(3)
            for k, box in enumerate(BOXES)
        ],
        "categories": [{"id": 7, "name": "thing"}],
    }
    (photos / "coco.json").write_text(json.dumps(data))
    return [photos / "coco.json", "--image-root", photos, "--label-column", "category"]


def as_folder(photos: Path) -> list[object]:
    rows = [{"file_name": f"{n}.png", "objects": {"bbox": BOXES}} for n in range(3)]
    write_lines(photos / "metadata.jsonl", rows)
    return [photos, "--bbox-column", "objects.bbox"]


def as_parquet(photos: Path) -> list[object]:
    images = [{"bytes": (photos / f"{n}.png").read_bytes(), "path": None} for n in range(3)]
    features = Features({"image": Image(), "bbox": List(List(Value("float64")))})
    dataset = Dataset.from_dict({"image": images, "bbox": [BOXES] * 3}, features=features)
    dataset.to_parquet(photos / "rows.parquet")
    return [photos / "rows.parquet"]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("prepare", [as_jsonl, as_coco, as_folder, as_parquet])
def test_every_input_becomes_the_same_output(
    prepare: Callable[[Path], list[object]],
    streaming: bool,
    photos: Path,
    tmp_path: Path,
    script: Callable[..., Any],
) -> None:
    source, *options = prepare(photos)
    more = ["--streaming"] if streaming else []
    done = script(source, "out", "--base-url", "offline", *options, *more)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    dataset = load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))
    assert set(ALL_COLUMNS) <= set(dataset.column_names)
    assert dataset["answer_status"][:] == ["ok"] * 3
    assert dataset[0]["image"].size == dataset[0]["image_with_bbox"].size == (64, 48)
    assert all(len(captions) == 2 and all(captions) for captions in dataset["region_captions"])
    lines = read_lines(out)
    assert [list(line) for line in lines] == [NINE] * 3
    assert all((out / line["image"]).is_file() for line in lines)
    assert all((out / line["image_with_bbox"]).is_file() for line in lines)
    assert all(line["answer"].startswith("<region1>: ") for line in lines)
    assert "offline-describer" in (out / "README.md").read_text(encoding="utf-8")
    assert (out / "gallery.html").stat().st_size > 10_000
    assert json.loads((out / "recipe.json").read_text())["base_url"] == "offline"
    assert "3 rows, 6 captions" in done.stdout


def test_the_seeds_example(tmp_path: Path, script: Callable[..., Any]) -> None:
    Pillow.new("RGB", (1536, 832), "white").save(tmp_path / "20.jpg")
    write_lines(tmp_path / "in.jsonl", [{"image": "20.jpg", "bbox": [[196, 104, 310, 495]]}])
    assert script("in.jsonl", "out", "--base-url", "offline").returncode == 0
    [line] = read_lines(tmp_path / "out")
    assert line["normalized_bbox"] == [[0.128, 0.125, 0.329, 0.72]] + [[0.0] * 4] * 9
    assert line["valid_bboxes_num"] == 1
    assert line["type"] == "with_bbox"
    assert line["bbox"] == [[196, 104, 310, 495]]
    assert line["prompt"] == (
        "Describe the content of each marked region in the image. "
        "There are 1 regions: <region1> to <region1>."
    )


def test_failed_rows_exit_1_and_can_be_retried(
    photos: Path, tmp_path: Path, script: Callable[..., Any]
) -> None:
    source = write_lines(photos / "rows.jsonl", seed_rows())
    with Endpoint(["refusal_words", None, None]) as endpoint:
        asked = ["--base-url", endpoint.base_url, "--concurrency", "1"]
        first = script(source, "out", *asked)
        assert first.returncode == 1, first.stdout + first.stderr
        assert "api_refused" in first.stdout
        assert "--retry-failed" in first.stdout
        count = endpoint.count
        again = script(source, "out", *asked, "--retry-failed")
        assert again.returncode == 0, again.stdout + again.stderr
        assert endpoint.count == count + 1
    assert all(line["answer"] for line in read_lines(tmp_path / "out"))


@pytest.mark.parametrize(
    "prepare", [as_jsonl, pytest.param(as_folder, marks=pytest.mark.filterwarnings("ignore"))]
)
def test_a_stream_is_captioned_once(
    prepare: Callable[[Path], list[object]],
    photos: Path,
    tmp_path: Path,
    script: Callable[..., Any],
) -> None:
    source, *options = prepare(photos)
    with Endpoint() as endpoint:
        asked = ["--base-url", endpoint.base_url, "--answer-store", "none", *options]
        done = script(source, "out", "--streaming", "--max-requests", "3", *asked)
        assert done.returncode == 0, done.stdout + done.stderr
        assert endpoint.count == 3
    assert all(line["answer"] for line in read_lines(tmp_path / "out"))
    assert "3 sent, 0 from" in done.stdout


def test_a_stream_reads_back_no_split_of_an_earlier_run(
    photos: Path, tmp_path: Path, script: Callable[..., Any]
) -> None:
    source = write_lines(photos / "rows.jsonl", seed_rows())
    assert script(source, "out", "--base-url", "offline").returncode == 0
    earlier = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    both = DatasetDict({"train": earlier, "test": earlier})
    write_dataset(both, tmp_path / "both", recipe={"model": "m"})
    done = script(source, "both", "--base-url", "offline", "--streaming", "--overwrite")
    assert done.returncode == 0, done.stderr
    assert len(read_lines(tmp_path / "both")) == 3
    assert set(load_dataset(str(tmp_path / "both"), streaming=True)) == {"train"}


def retry_line(done: Any) -> list[str]:
    [line] = [line for line in done.stdout.splitlines() if "ask again: " in line]
    python, *words = shlex.split(line.split("ask again: ")[1])
    assert python == "python"
    return words


def test_the_command_that_retries_runs(
    photos: Path, tmp_path: Path, script: Callable[..., Any]
) -> None:
    source = write_lines(photos / "rows.jsonl", seed_rows())
    with Endpoint() as endpoint:
        headers = ["--extra-headers", '{"X-Key": "header-canary"}', "--seed", "-1"]
        headers += ["--extra-body", '{"user": "body-canary"}', "--extra-query", '{"k": "canary"}']
        more = ["--limit", "2", "--max-requests", "1", "--language", "- German"]
        more[-2:] = [f"--language={more[-1]}"]
        done = script(source, "out", "--base-url", endpoint.base_url, *headers, *more)
        assert done.returncode == 1
        assert "canary" not in done.stdout + done.stderr
        for name in ("headers", "query", "body"):
            assert f"with --extra-{name} as before" in done.stdout
        out = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
        assert {"README.md", "recipe.json", "gallery.html"} <= {path.name for path in out}
        assert not any(b"canary" in path.read_bytes() for path in out)
        called, *words = retry_line(done)
        assert Path(called) == SCRIPT
        again = script(*words)
        assert again.returncode == 0, again.stdout + again.stderr
        assert endpoint.count == 2
    assert all(line["answer"] for line in read_lines(tmp_path / "out"))


def test_the_command_that_retries_the_demo_runs(tmp_path: Path, script: Callable[..., Any]) -> None:
    pytest.importorskip("skimage")
    with Endpoint() as endpoint:
        asked = ["--base-url", endpoint.base_url]
        done = script("--demo", "mine", *asked, "--limit", "2", "--max-requests", "1")
        assert done.returncode == 1
        again = script(*retry_line(done)[1:])
        assert again.returncode == 0, again.stdout + again.stderr
        assert endpoint.count == 2
    assert all(line["answer"] for line in read_lines(tmp_path / "mine"))


def test_the_script_is_named_as_it_was_called(photos: Path, tmp_path: Path) -> None:
    write_lines(photos / "rows.jsonl", seed_rows(1))
    called = os.path.relpath(SCRIPT, tmp_path)
    with Endpoint(["refusal_words"]) as endpoint:
        words = [called, "photos/rows.jsonl", "out", "--base-url", endpoint.base_url]
        done = subprocess.run(
            [sys.executable, *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert retry_line(done) == [*words[:3], "--retry-failed", *words[3:]]


def test_a_shorter_run_leaves_nothing_of_the_longer_one(
    photos: Path, tmp_path: Path, script: Callable[..., Any]
) -> None:
    source = write_lines(photos / "rows.jsonl", seed_rows())
    assert script(source, "out", "--base-url", "offline").returncode == 0
    own = tmp_path / "out" / "images" / "00000007.png"
    own.write_bytes(b"somebody else's")
    shorter = ["--base-url", "offline", "--limit", "1", "--overwrite"]
    assert script(source, "out", *shorter).returncode == 0
    names = sorted(path.name for path in own.parent.iterdir())
    assert names == ["00000001.png", "00000001_bbox_vis.jpg", "00000007.png"]


def test_a_recipe_says_what_was_turned_off(
    photos: Path, tmp_path: Path, script: Callable[..., Any]
) -> None:
    source = write_lines(photos / "rows.jsonl", [*seed_rows(2), {"image": "2.png", "bbox": []}])
    with Endpoint() as endpoint:
        asked = ["--base-url", endpoint.base_url, "--propose", "none", "--temperature", "none"]
        assert script(source, "out", *asked).returncode == 0
        again = script(source, "other", "--recipe", "out/recipe.json", "--answer-store", "none")
        assert again.returncode == 0, again.stderr
        assert endpoint.count == 4
        assert not any("temperature" in request.body for request in endpoint.requests)
    assert read_lines(tmp_path / "out") == read_lines(tmp_path / "other")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "proposed for them by contours" not in card


def test_a_second_run_and_a_recipe_ask_nothing(
    photos: Path, tmp_path: Path, script: Callable[..., Any]
) -> None:
    source = write_lines(photos / "rows.jsonl", seed_rows())
    with Endpoint() as endpoint:
        asked = ["--base-url", endpoint.base_url, "--caption-style", "phrase"]
        assert script(source, "out", *asked).returncode == 0
        count = endpoint.count
        again = script(source, "other", "--recipe", "out/recipe.json")
        assert again.returncode == 0, again.stderr
        assert endpoint.count == count == 3
    assert read_lines(tmp_path / "out") == read_lines(tmp_path / "other")


def test_a_dry_run_sends_and_writes_nothing(
    photos: Path, tmp_path: Path, script: Callable[..., Any]
) -> None:
    source = write_lines(photos / "rows.jsonl", seed_rows())
    with Endpoint() as endpoint:
        done = script(source, "out", "--base-url", endpoint.base_url, "--dry-run")
        assert endpoint.count == 0
        pushed = ["--push-to-hub", "ada/captions"]  # no token is needed yet
        again = script(source, "out", "--base-url", endpoint.base_url, "--dry-run", *pushed)
        assert again.returncode == 0, again.stderr
        assert endpoint.count == 0
    assert done.returncode == 0
    assert "requests to send:  3" in done.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rows.jsonl"], "INPUT and OUTPUT"),
        (["rows.jsonl", "out", "--box-format", "coco"], "box_format must be one of"),
        (["rows.jsonl", "out", "--max-boxes", "many"], "max_boxes must be a number"),
        (["rows.jsonl", "out", "--bbox-column", "boxes"], "no column 'boxes'"),
        (["rows.jsonl", "out", "--box-unit", "fraction", "--limit", "0"], "limit"),
        (["missing.jsonl", "out"], "cannot be read"),
        (["broken.jsonl", "out"], "line 2"),
        (["rows.jsonl", "taken"], "was not written by this script"),
        (["rows.jsonl", "out", "--retry-failed"], "no earlier run"),
        (
            ["rows.jsonl", "out", "--retry-failed", "--limit", "1"],
            "not with --dry-run, --limit, --streaming",
        ),
        (["rows.jsonl", "out", "--demo"], "--demo has photos of its own"),
        (["rows.jsonl", "out", "--public"], "--public publishes nothing by itself"),
        (["rows.jsonl", "out", "--push-to-hub", "ada/x"], "--push-to-hub needs a token"),
        (["rows.jsonl", "out", "--price", "1"], "price must be"),
        (["rows.jsonl", "out", "--base-url", "https://example.com/v1"], "api_key_env"),
    ],
)
def test_wrong_usage_exits_2_before_any_request(
    arguments: list[str],
    words: str,
    photos: Path,
    tmp_path: Path,
    script: Callable[..., Any],
) -> None:
    rows = [{"image": f"photos/{n}.png", "bbox": BOXES} for n in range(3)]
    write_lines(tmp_path / "rows.jsonl", rows)
    (tmp_path / "broken.jsonl").write_text('{"image": "a.png"}\n{"image":\n')
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("mine")
    with Endpoint() as endpoint:
        more = [] if "--base-url" in arguments else ["--base-url", endpoint.base_url]
        done = script(*arguments, *more)
        assert endpoint.count == 0
    assert done.returncode == 2, done.stdout + done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "taken" / "thesis.txt").read_text() == "mine"


def test_a_wrong_key_exits_3(photos: Path, script: Callable[..., Any]) -> None:
    source = write_lines(photos / "rows.jsonl", seed_rows())
    with Endpoint(api_key="right") as endpoint:
        asked = ["--base-url", endpoint.base_url, "--api-key-env", "MY_KEY"]
        done = script(source, "out", *asked, MY_KEY="wrong-key-canary")
        assert 1 <= endpoint.count <= 3
    assert done.returncode == 3, done.stdout + done.stderr
    assert "check the key" in done.stderr
    assert "canary" not in done.stdout + done.stderr


def test_a_path_outside_is_refused_and_never_written(
    photos: Path, tmp_path: Path, script: Callable[..., Any]
) -> None:
    secret = tmp_path / "secret.png"
    Pillow.new("RGB", (640, 480), (1, 2, 3)).save(secret)
    rows = [*seed_rows(2), {"image": "../secret.png", "bbox": BOXES}]
    source = write_lines(photos / "rows.jsonl", rows)
    done = script(source, "out", "--base-url", "offline")
    assert done.returncode == 0, done.stderr
    assert "image_refused" in done.stdout
    content = secret.read_bytes()
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not [path for path in written if content[40:200] in path.read_bytes()]
    assert read_lines(tmp_path / "out")[2]["image"] is None


def test_limit_and_requests_are_bounds(photos: Path, script: Callable[..., Any]) -> None:
    source = write_lines(photos / "rows.jsonl", seed_rows())
    with Endpoint() as endpoint:
        asked = ["--base-url", endpoint.base_url]
        assert script(source, "out", *asked, "--limit", "1").returncode == 0
        assert endpoint.count == 1
        done = script(source, "other", *asked, "--max-requests", "1")
        assert done.returncode == 1
        assert "skipped_budget" in done.stdout
        assert endpoint.count == 2  # the first row is in the store


def test_the_demo(tmp_path: Path, child: Callable[..., Any]) -> None:
    pytest.importorskip("skimage")
    done = child("--demo")
    assert done.returncode == 0, done.stderr
    lines = read_lines(tmp_path / "demo_output")
    assert [line["type"] for line in lines] == ["with_bbox"] * 4 + ["without_bbox"]
    assert all(line["answer"] for line in lines)
    assert "requests: 5 sent" in done.stdout
    assert "next:" in done.stdout


def test_fields_of_other_names(photos: Path, tmp_path: Path, script: Callable[..., Any]) -> None:
    rows = [{"photo": f"{number}.png", "objects": {"boxes": BOXES}} for number in range(3)]
    rows[1]["objects"]["boxes"] = [BOXES[0], [1, 2, "wide", 4]]
    source = write_lines(photos / "rows.jsonl", rows)
    named = ["--image-column", "photo", "--bbox-column", "objects.boxes"]
    done = script(source, "out", "--base-url", "offline", *named)
    assert done.returncode == 0, done.stderr
    assert [line["valid_bboxes_num"] for line in read_lines(tmp_path / "out")] == [2, 1, 2]
    dataset = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "c"))
    assert dataset["box_status"][1] == ["ok", "invalid_value"]
    assert script(source, "other", "--base-url", "offline").returncode == 2


def test_images_that_are_all_missing_leave_what_is_there(
    photos: Path, tmp_path: Path, script: Callable[..., Any]
) -> None:
    source = write_lines(photos / "rows.jsonl", seed_rows())
    assert script(source, "out", "--base-url", "offline").returncode == 0
    lines = read_lines(tmp_path / "out")
    (tmp_path / "empty").mkdir()
    moved = write_lines(tmp_path / "empty" / "rows.jsonl", seed_rows())
    done = script(moved, "out", "--base-url", "offline", "--overwrite")
    assert done.returncode == 2
    assert "none of the 3 images" in done.stderr
    assert read_lines(tmp_path / "out") == lines
    assert load_dataset(str(tmp_path / "out"), split="train", streaming=True).take(1)


def test_a_data_set_that_is_not_there(child: Callable[..., Any]) -> None:
    done = child("nobody/nothing", "out", "--base-url", "offline")
    assert done.returncode == 2
    assert "'nobody/nothing' cannot be loaded" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("flags", [[], ["--dry-run"]])
def test_what_stands_in_the_way_is_found_before_anything_is_paid_for(
    flags: list[str], photos: Path, script: Any, endpoint: Endpoint, tmp_path: Path
) -> None:
    lines = write_lines(photos / "rows.jsonl", seed_rows())
    asked = ["--base-url", endpoint.base_url, *flags]
    (tmp_path / "file").write_text("no folder")
    below = script(lines, tmp_path / "file" / "out", *asked)
    kept = script(lines, "out", "--answer-store", tmp_path / "file" / "a.sqlite", *asked)
    if flags:  # which looks and writes nothing
        assert not (tmp_path / "out").exists()
    else:
        assert (below.returncode, kept.returncode) == (2, 2)
        assert "OUTPUT" in below.stderr
        assert "answer store" in kept.stderr
    assert endpoint.count == 0


def test_a_split_keeps_its_name(photos: Path, script: Any, endpoint: Endpoint) -> None:
    write_dataset(
        DatasetDict(
            test=Dataset.from_list([{"image": str(photos / "0.png"), "bbox": BOXES}]).cast_column(
                "image", Image()
            )
        ),
        photos / "set",
        image_root=photos,
    )
    for number, flags in enumerate([[], ["--streaming"]]):
        done = script(
            photos / "set",
            f"out{number}",
            "--split",
            "test",
            "--base-url",
            endpoint.base_url,
            *flags,
        )
        assert done.returncode == 0, done.stderr
        assert list(load_dataset(f"out{number}")) == ["test"]


def written(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_retry_goes_by_what_made_the_rows(
    photos: Path, tmp_path: Path, script: Callable[..., Any]
) -> None:
    source = write_lines(photos / "rows.jsonl", seed_rows())
    with Endpoint(["refusal_words"]) as endpoint:
        asked = ["--base-url", endpoint.base_url, "--model", "the-model", "--language", "German"]
        assert script(source, "out", *asked).returncode == 1
        recipe = json.loads((tmp_path / "out" / "recipe.json").read_text())
        again = script(source, "out", "--retry-failed")
        assert again.returncode == 0, again.stdout + again.stderr
        assert {request.body["model"] for request in endpoint.requests} == {"the-model"}
        assert json.loads((tmp_path / "out" / "recipe.json").read_text()) == recipe
        before = written(tmp_path / "out")
        count = endpoint.count
        idle = script(source, "out", "--retry-failed", "--model", "another")
        assert (idle.returncode, endpoint.count) == (0, count)
        assert "nothing was asked: OUTPUT stays as it is" in idle.stdout
    assert written(tmp_path / "out") == before


def test_a_retry_by_another_model_is_told_beside_the_first(
    photos: Path, tmp_path: Path, script: Callable[..., Any]
) -> None:
    source = write_lines(photos / "rows.jsonl", seed_rows())
    with Endpoint(["refusal_words"]) as endpoint:
        asked = ["--base-url", endpoint.base_url, "--model"]
        assert script(source, "out", *asked, "first").returncode == 1
        assert script(source, "out", *asked, "second", "--retry-failed").returncode == 0
    recipe = json.loads((tmp_path / "out" / "recipe.json").read_text())
    assert (recipe["model"], recipe["retried_with"]) == ("first", {"model": "second"})
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "The captions were written by `first`" in card
    assert '| some rows asked again with | `{"model": "second"}` |' in card


def more_boxes(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*rows[:2], {**rows[2], "bbox": [BOXES[0]]}]


def other_photos(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "image": "1.png"} for row in rows]


def another_column(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "city": "Rome"} for row in rows]


@pytest.mark.parametrize(
    ("change", "flags", "words"),
    [
        (None, ["--limit", "1"], "this run would write 1 in their place"),
        (more_boxes, [], "the input has other rows"),
        (other_photos, [], "the input has other rows"),
        (another_column, [], r"the input has other columns (city)"),
        (None, ["--streaming"], "what a stream will bring is not known"),
    ],
)
def test_rows_of_an_earlier_run_are_not_replaced_unasked(
    change: Any, flags: list[str], words: str, photos: Path, tmp_path: Path, script: Any
) -> None:
    rows = seed_rows()
    source = write_lines(photos / "rows.jsonl", rows)
    assert script(source, "out", "--base-url", "offline").returncode == 0
    before = written(tmp_path / "out")
    write_lines(source, change(rows) if change else rows)
    with Endpoint() as endpoint:
        asked = ["--base-url", endpoint.base_url, *flags]
        done = script(source, "out", *asked)
        assert (done.returncode, endpoint.count) == (2, 0), done.stdout + done.stderr
        assert "holds 3 captioned rows" in done.stderr
        assert words in done.stderr
        assert "--overwrite" in done.stderr
        assert written(tmp_path / "out") == before
        dry = script(source, "out", *asked, "--dry-run")
        assert (dry.returncode, endpoint.count) == (0, 0)
        assert words in dry.stdout
        assert script(source, "out", *asked, "--overwrite").returncode == 0
        assert endpoint.count > 0
    assert len(read_lines(tmp_path / "out")) == (1 if "--limit" in flags else 3)


def test_the_same_rows_and_more_of_them_are_written_again(
    photos: Path, tmp_path: Path, script: Any
) -> None:
    source = write_lines(photos / "rows.jsonl", seed_rows())
    for flags in (["--limit", "2"], [], [], ["--caption-style", "phrase"]):
        done = script(source, "out", "--base-url", "offline", *flags)
        assert done.returncode == 0, done.stderr
    assert len(read_lines(tmp_path / "out")) == 3


def test_other_splits_are_not_lost_or_mixed_with_other_columns(
    photos: Path, tmp_path: Path, script: Any
) -> None:
    rows = Dataset.from_list([{"image": str(photos / "0.png"), "bbox": BOXES}] * 2)
    rows = rows.cast_column("image", Image())
    write_dataset(DatasetDict(train=rows, test=rows), photos / "set", image_root=photos)
    asked = ["--base-url", "offline"]
    assert script(photos / "set", "out", *asked).returncode == 0
    assert script(photos / "set", "out", *asked, "--split", "test").returncode == 0
    assert set(load_dataset(str(tmp_path / "out"))) == {"train", "test"}
    other = rows.add_column("city", ["Rome"] * 2)
    write_dataset(DatasetDict(more=other), photos / "other", image_root=photos)
    done = script(photos / "other", "out", *asked)
    assert done.returncode == 2
    assert "with other columns than the input (city)" in done.stderr
    assert script(photos / "other", "out", *asked, "--overwrite").returncode == 0
    assert set(load_dataset(str(tmp_path / "out"))) == {"more"}


def test_what_is_not_used_is_told(photos: Path, script: Any) -> None:
    many = [[2 * k, 4, 12, 12] for k in range(12)]
    rows = [{"image": "0.png", "bbox": many}, {"image": "missing.png", "bbox": many}]
    source = write_lines(photos / "rows.jsonl", rows)
    for flags in ([], ["--dry-run"]):
        done = script(source, "out", "--base-url", "offline", *flags)
        assert done.returncode == 0, done.stderr
        assert "1 of 2 images cannot be read (1 image_missing)" in done.stdout
        assert "2 of 24 boxes are beyond max_boxes=10" in done.stdout


def test_an_endpoint_that_is_not_there_is_told_once(photos: Path, script: Any) -> None:
    source = write_lines(photos / "rows.jsonl", seed_rows() * 20)
    done = script(source, "out", "--base-url", "http://127.0.0.1:9/v1")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "Way out" in done.stderr
