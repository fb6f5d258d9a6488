"""The doctor: one line for each thing, with the fix."""

from __future__ import annotations

from pathlib import Path

import pytest
from endpoint import Endpoint

from hf_regioncap.__main__ import main
from hf_regioncap.doctor import Finding, examine
from hf_regioncap.options import read_options


def findings(**options: object) -> dict[str, Finding]:
    return {each.what: each for each in examine(read_options(options))}


def test_all_is_well_offline() -> None:
    found = findings(base_url="offline")
    assert [each.ok for each in found.values()] == [True] * 6 + [None]
    assert list(found) == ["endpoint", "model", "image", "schema", "price", "store", "hub"]


def test_a_good_endpoint() -> None:
    with Endpoint() as endpoint:
        found = findings(base_url=endpoint.base_url, model="test-model")
    assert found["endpoint"].ok
    assert found["image"].ok
    assert found["schema"].ok


def test_nobody_there() -> None:
    found = findings(base_url="http://127.0.0.1:9/v1")
    assert found["endpoint"].ok is False
    assert "is it running?" in found["endpoint"].words


def test_a_wrong_key_is_told_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-canary-0123456789")
    with Endpoint(api_key="right") as endpoint:
        found = findings(base_url=endpoint.base_url, api_key_env="MY_KEY")
    failed = [each for each in found.values() if each.ok is False]
    assert failed
    assert not [each for each in found.values() if "canary" in str(each)]


@pytest.mark.parametrize("fault", ["rejects_json_schema", "http_500", "content_null"])
def test_an_endpoint_with_ways_of_its_own(fault: str) -> None:
    with Endpoint(fault) as endpoint:
        found = findings(base_url=endpoint.base_url)
    words = " ".join(map(str, found.values()))
    if fault == "rejects_json_schema":
        assert found["parameter"].ok is None
        assert found["image"].ok
    else:
        assert found["image"].ok is False
    assert "Traceback" not in words


def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = findings(base_url="offline", answer_store=tmp_path / "file" / "answers.sqlite")
    assert found["store"].ok is False
    assert "answer_store=" in found["store"].words


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["--base-url", "offline", "--answer-store", str(tmp_path / "answers.sqlite")]
    assert main(["doctor", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7
    assert main(["doctor", "--box-unit", "inch"]) == 2
    assert "box_unit must be one of" in capsys.readouterr().out
    assert main(["store", "show", str(tmp_path / "answers.sqlite")]) == 0
    assert main(["nonsense"]) == 2
