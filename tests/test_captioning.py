"""Rows that are asked again, where their pictures cannot be read any more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Image
from endpoint import Endpoint

from hf_regioncap import caption_dataset, retry_failed
from hf_regioncap.errors import OptionError


@pytest.fixture
def by_path(make_photo: Callable[..., bytes], tmp_path: Path) -> Dataset:
    """Rows whose images are files under `tmp_path`."""
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(make_photo(number))
    rows = [
        {"image": {"bytes": None, "path": f"{number}.png"}, "bbox": [[2.0, 2.0, 20.0, 20.0]]}
        for number in range(3)
    ]
    return Dataset.from_list(rows).cast_column("image", Image(decode=False))


@pytest.mark.parametrize("form", ["dataset", "stream"])
@pytest.mark.parametrize("view", ["crop", "both"])
def test_failed_rows_whose_images_are_all_refused_name_the_option(
    view: str, form: str, by_path: Dataset, endpoint: Endpoint, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"base_url": endpoint.base_url, "view": view}
    failed = caption_dataset(by_path, image_root=tmp_path, max_requests=1, **options)
    assert sorted(failed["answer_status"]) == ["ok", "skipped_budget", "skipped_budget"]
    given = failed.to_iterable_dataset() if form == "stream" else failed
    with pytest.raises(OptionError, match=r"all 2 images are refused: .* pass image_root=FOLDER"):
        retry_failed(given, **options)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "0.png").symlink_to(tmp_path / "0.png")
    (tmp_path / "elsewhere" / "1.png").symlink_to(tmp_path / "1.png")
    (tmp_path / "elsewhere" / "2.png").symlink_to(tmp_path / "2.png")
    with pytest.raises(OptionError, match=r"leads out of image_root \(image_root='.*elsewhere'\)"):
        retry_failed(given, image_root=tmp_path / "elsewhere", **options)
    assert endpoint.count == 1
    done = list(retry_failed(given, image_root=tmp_path, **options))
    assert [row["answer_status"] for row in done] == ["ok"] * 3
    assert endpoint.count == 3


def test_the_offline_describer_reads_the_image_again_too(by_path: Dataset, tmp_path: Path) -> None:
    failed = caption_dataset(by_path, image_root=tmp_path, max_requests=0, base_url="offline")
    with pytest.raises(OptionError, match="pass image_root=FOLDER"):
        retry_failed(failed, base_url="offline")
    done = retry_failed(failed, image_root=tmp_path, base_url="offline")
    assert done["answer_status"] == ["ok"] * 3


def test_overlays_are_asked_about_without_the_image(by_path: Dataset, tmp_path: Path) -> None:
    with Endpoint() as endpoint:
        options: dict[str, Any] = {"base_url": endpoint.base_url}
        failed = caption_dataset(by_path, image_root=tmp_path, max_requests=0, **options)
        assert retry_failed(failed, **options)["answer_status"] == ["ok"] * 3


@pytest.mark.parametrize("view", ["crop", "both"])
def test_a_row_whose_image_is_gone_stays_failed_until_it_is_back(
    view: str, by_path: Dataset, endpoint: Endpoint, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "base_url": endpoint.base_url,
        "view": view,
        "image_root": tmp_path,
    }
    failed = caption_dataset(by_path, max_requests=0, **options)
    (tmp_path / "1.png").rename(tmp_path / "moved.png")
    again = retry_failed(failed, **options)
    assert again["answer_status"] == ["ok", "skipped_budget", "ok"]
    assert again[1] == failed[1]
    (tmp_path / "moved.png").rename(tmp_path / "1.png")
    assert retry_failed(again, **options)["answer_status"] == ["ok"] * 3
    assert endpoint.count == 3
