"""Batch files: what is written, what comes back in any order, in part or twice."""

from __future__ import annotations

import json
import random
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from endpoint import Endpoint, expected_caption
from PIL import Image

from hf_regioncap import OptionError, caption_dataset
from hf_regioncap.batch import export_requests, import_results

BOXES = [[4, 4, 30, 20], [20, 10, 25, 30]]


def rows(count: int = 6) -> Dataset:
    pictures = [Image.new("RGB", (64, 48), (40 * n, 90, 200 - 20 * n)) for n in range(count)]
    return Dataset.from_list([{"image": picture, "bbox": BOXES} for picture in pictures])


def read(files: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for file in files for line in Path(file).read_text().splitlines()]


def answer(endpoint: Endpoint, request: dict[str, Any]) -> dict[str, Any]:
    """What a batch's output file says of one request, by a real endpoint's answer."""
    body = json.dumps(request["body"]).encode()
    headers = {"Content-Type": "application/json"}
    url = endpoint.base_url + request["url"].removeprefix("/v1")
    with urllib.request.urlopen(urllib.request.Request(url, body, headers)) as reply:
        said = {"status_code": reply.status, "request_id": "r", "body": json.loads(reply.read())}
    return {"id": "b", "custom_id": request["custom_id"], "response": said, "error": None}


def write(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_the_lines_are_those_of_the_batch_api(tmp_path: Path) -> None:
    exported = export_requests(rows(2), tmp_path, model="gpt-4o-mini")
    lines = read(exported.files)
    assert exported.requests == len(lines) == 2
    for line in lines:
        assert set(line) == {"custom_id", "method", "url", "body"}
        assert (line["method"], line["url"]) == ("POST", "/v1/chat/completions")
        assert line["body"]["model"] == "gpt-4o-mini"
        parts = line["body"]["messages"][-1]["content"]
        assert parts[1]["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert len({line["custom_id"] for line in lines}) == 2


@pytest.mark.parametrize(
    ("options", "environ", "present", "absent"),
    [
        ({"model": "gpt-4o-mini"}, {}, "max_completion_tokens temperature", "max_tokens"),
        ({"model": "gpt-5-mini"}, {}, "max_completion_tokens", "max_tokens temperature"),
        ({"base_url": "http://localhost:8000/v1"}, {}, "max_tokens", "max_completion_tokens"),
        (
            {"model": "m"},
            {"OPENAI_BASE_URL": "https://api.example.com/v1"},
            "max_tokens",
            "max_completion_tokens",
        ),
        ({"token_parameter": "max_tokens"}, {}, "max_tokens", "max_completion_tokens"),
        ({"answer_form": "text"}, {}, "max_completion_tokens", "response_format"),
    ],
)
def test_a_line_says_what_a_live_run_would_say_first(
    options: dict[str, Any],
    environ: dict[str, str],
    present: str,
    absent: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A batch's lines are not corrected after a refusal."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    [line] = read(export_requests(rows(1), tmp_path, **options).files)
    assert set(present.split()) <= set(line["body"])
    assert not set(absent.split()) & set(line["body"])


def test_files_stay_below_both_limits(tmp_path: Path) -> None:
    many = export_requests(rows(5), tmp_path / "lines", max_file_lines=2, model="m")
    assert [len(read([file])) for file in many.files] == [2, 2, 1]
    size = max(len(line) for file in many.files for line in file.read_bytes().splitlines()) + 1
    few = export_requests(rows(5), tmp_path / "bytes", max_file_bytes=2 * size, model="m")
    assert len(few.files) >= 3
    assert all(file.stat().st_size <= 2 * size for file in few.files)
    with pytest.raises(OptionError, match="max_side"):
        export_requests(rows(1), tmp_path / "none", max_file_bytes=100, model="m")


def test_an_export_replaces_an_earlier_one(tmp_path: Path) -> None:
    export_requests(rows(5), tmp_path, max_file_lines=1, model="m")
    exported = export_requests(rows(2), tmp_path, max_file_lines=1, model="m")
    assert sorted(tmp_path.glob("*.jsonl")) == sorted(exported.files)


def test_an_export_touches_no_other_files(tmp_path: Path) -> None:
    paid = write(tmp_path / "requests-00001.results.jsonl", [{"custom_id": "a", "response": {}}])
    others = [paid, write(tmp_path / "requests-mine.jsonl", [{"mine": 1}])]
    before = [path.read_bytes() for path in others]
    for _ in range(2):
        export_requests(rows(2), tmp_path)
    assert [path.read_bytes() for path in others] == before
    results = write(tmp_path / "requests-00007.jsonl", [{"custom_id": "a", "response": {}}])
    with pytest.raises(OptionError, match=r"requests-00007.jsonl' was not written by an export"):
        export_requests(rows(2), tmp_path)
    assert results.is_file()


@pytest.mark.parametrize(
    "wrong", [{"bbox_column": "boxs"}, {"max_file_bytes": 100}, {"box_unit": "inch"}]
)
def test_an_export_that_fails_leaves_the_earlier_one(wrong: dict[str, Any], tmp_path: Path) -> None:
    export_requests(rows(2), tmp_path, model="m")
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.jsonl")}
    with pytest.raises(OptionError):
        export_requests(rows(3), tmp_path, model="m", **wrong)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.jsonl")} == before
    assert [path.name for path in tmp_path.glob(".export-*")] == []


def test_an_export_with_nothing_left_to_ask_leaves_no_files(tmp_path: Path) -> None:
    options = {"model": "m", "answer_store": tmp_path / "answers.sqlite"}
    with Endpoint() as endpoint:
        requests = read(export_requests(rows(2), tmp_path / "out", **options).files)
        results = [answer(endpoint, request) for request in requests]
    import_results([write(tmp_path / "results.jsonl", results)], **options)
    exported = export_requests(rows(2), tmp_path / "out", **options)
    assert (exported.files, exported.requests) == ((), 0)
    assert list((tmp_path / "out").iterdir()) == []


MESSAGE = {"error": {"message": "Unsupported parameter: 'max_tokens'", "code": 400}}


@pytest.mark.parametrize(
    ("response", "error", "reason"),
    [
        (None, None, "no reason given"),
        (None, {"code": "batch_expired", "message": "…"}, "batch_expired"),
        (None, {"message": "it was cancelled"}, "it was cancelled"),
        (None, "it was cancelled", "it was cancelled"),
        ({"status_code": 500}, None, "HTTP 500: no reason given"),
        ({"status_code": 400, "body": MESSAGE}, None, f"HTTP 400: {MESSAGE['error']['message']}"),
        (
            {"status_code": 400, "body": MESSAGE},
            MESSAGE["error"],
            f"HTTP 400: {MESSAGE['error']['message']}",
        ),
        (
            {"status_code": 401, "body": "no such key: sk-canary-0123"},
            None,
            "HTTP 401: no such key: [key]",
        ),
    ],
)
def test_a_failed_line_tells_why(response: Any, error: Any, reason: str, tmp_path: Path) -> None:
    line = {"id": "b", "custom_id": "c", "response": response, "error": error}
    imported = import_results([write(tmp_path / "out.jsonl", [line])])
    assert imported.reasons == {reason: 1}
    assert (imported.stored, imported.failed) == (0, 1)


def test_shuffled_missing_repeated_and_failed_lines(tmp_path: Path) -> None:
    options = {"model": "m", "answer_store": tmp_path / "answers.sqlite"}
    with Endpoint() as endpoint:
        requests = read(export_requests(rows(), tmp_path, **options).files)
        results = [answer(endpoint, request) for request in requests]
        expired = {"id": "b", "custom_id": results[0]["custom_id"], "response": None}
        expired["error"] = {"code": "batch_expired", "message": "…"}
        lines = [expired, *results[1:5], results[2]]  # the last one never came, one came twice
        random.Random(0).shuffle(lines)
        first = import_results([write(tmp_path / "out.jsonl", lines)], **options)
        assert (first.stored, first.known, first.failed) == (4, 1, 1)
        assert first.reasons == {"batch_expired": 1}
        again = import_results([tmp_path / "out.jsonl"], **options)
        assert (again.stored, again.known) == (0, 5)
        left = read(export_requests(rows(), tmp_path, **options).files)
        missing = {results[0]["custom_id"], results[5]["custom_id"]}
        assert {line["custom_id"] for line in left} == missing
        endpoint.reset()
        done = caption_dataset(rows(), base_url=endpoint.base_url, **options)
        assert endpoint.count == 2
    assert done["answer_status"][:] == ["ok"] * 6
    for row in done.cast_column("image_with_bbox", _undecoded()):
        picture = row["image_with_bbox"]["bytes"]
        assert row["region_captions"] == [expected_caption(picture, k) for k in (1, 2)]


def _undecoded() -> Any:
    from datasets import Image as Feature

    return Feature(decode=False)


@pytest.mark.parametrize("cut", ["first", "middle", "last"])
def test_a_line_that_is_cut_off_is_counted_and_the_others_are_stored(
    cut: str, tmp_path: Path
) -> None:
    options = {"model": "m", "answer_store": tmp_path / "answers.sqlite"}
    requests = read(export_requests(rows(3), tmp_path, **options).files)
    message = {"role": "assistant", "content": '{"1": "a box", "2": "a box"}'}
    body = {"choices": [{"message": message, "finish_reason": "stop"}]}
    said = {"status_code": 201, "body": body}
    lines = [
        json.dumps({"custom_id": request["custom_id"], "response": said, "error": None})
        for request in requests
    ]
    place = {"first": 0, "middle": 1, "last": 2}[cut]
    lines[place] = lines[place][: len(lines[place]) // 2]
    file = tmp_path / "results.jsonl"
    file.write_text("\ufeff" + "\n".join(lines))
    imported = import_results([file], **options)
    assert (imported.stored, imported.failed) == (2, 1)
    assert imported.reasons == {"a line that is cut off or no result": 1}
    left = read(export_requests(rows(3), tmp_path, **options).files)
    assert [line["custom_id"] for line in left] == [requests[place]["custom_id"]]


def test_missing_regions_are_exported_next(tmp_path: Path) -> None:
    options = {"model": "m", "answer_store": tmp_path / "answers.sqlite"}
    [request] = read(export_requests(rows(1), tmp_path, **options).files)
    message = {"role": "assistant", "content": '{"1": "a box"}'}
    body = {"choices": [{"message": message, "finish_reason": "stop"}]}
    said = {"status_code": 200, "body": body}
    line = {"custom_id": request["custom_id"], "response": said, "error": None}
    import_results([write(tmp_path / "out.jsonl", [line])], **options)
    [again] = read(export_requests(rows(1), tmp_path, **options).files)
    assert again["custom_id"] != request["custom_id"]
    schema = again["body"]["response_format"]["json_schema"]["schema"]
    assert list(schema["properties"]) == ["2"]


@pytest.mark.parametrize(
    "line", ['{"custom_id": 3}', "[]", "nonsense", '{"custom_id": "x", "body": {}}']
)
def test_a_file_that_holds_no_results(line: str, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(line)
    with pytest.raises(OptionError, match="line 1"):
        import_results([tmp_path / "in.jsonl"], answer_store=tmp_path / "answers.sqlite")
