"""Columns beside the image: pictures lose their metadata, text its local paths, all else stays."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pictures

from hf_regioncap.cleaning import Cleaner
from hf_regioncap.errors import OptionError
from hf_regioncap.paths import without_local_paths, without_paths

SECRET = b"SECRET-7f3a"


def tagged(kind: str = "JPEG") -> bytes:
    exif = Pictures.Exif()
    exif[0x010E] = SECRET.decode()
    buffer = io.BytesIO()
    Pictures.new("RGB", (16, 16), "tan").save(buffer, kind, exif=exif)
    return buffer.getvalue()


def cleaned(column: pa.Array | pa.ChunkedArray, kind: pa.DataType | None = None) -> pa.Array:
    cleaner = Cleaner()
    chunked = pa.chunked_array([column]) if isinstance(column, pa.Array) else column
    result = cleaner.column("x", chunked, kind or column.type)
    return result if isinstance(result, pa.Array) else result.combine_chunks()


def holds_secret(column: pa.Array) -> bool:
    return SECRET in repr(column.to_pylist()).encode()


JPEG = tagged()
BASE64 = base64.b64encode(JPEG).decode()


# Pictures


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([JPEG, None], pa.binary()),
        ([JPEG, None], pa.large_binary()),
        ([JPEG, None], pa.binary_view()),
        ([None, [JPEG, None]], pa.list_(pa.binary())),
        ([None, [JPEG, None]], pa.large_list(pa.large_binary())),
        ([None, [JPEG, b"1"]], pa.list_(pa.binary(), 2)),
        ([None, {"bytes": JPEG, "w": 3}], pa.struct({"bytes": pa.binary(), "w": pa.int8()})),
        ([[{"a": {"b": JPEG}}]], pa.list_(pa.struct({"a": pa.struct({"b": pa.binary()})}))),
        ([list(JPEG), None], pa.list_(pa.uint8())),
        ([[list(JPEG)], None], pa.list_(pa.large_list(pa.uint8()))),
    ],
    ids=str,
)
def test_a_picture_loses_its_metadata_wherever_it_lies(values: Any, kind: pa.DataType) -> None:
    column = pa.array(values, kind)
    for given_column in (column, pa.concat_arrays([column, column]).slice(1, len(column))):
        result = cleaned(given_column)
        assert result.type == kind
        assert result.is_null().to_pylist() == given_column.is_null().to_pylist()
        assert not holds_secret(result)
        assert JPEG[-40:] in str_bytes(result)  # the pixels are as they were


def str_bytes(value: Any) -> bytes:
    """All bytes in a value, one after another."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, pa.Array):
        value = value.to_pylist()
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list) and value and all(isinstance(part, int) for part in value):
        return bytes(value)
    return b"".join(map(str_bytes, value)) if isinstance(value, list) else b""


def test_a_dictionary_is_looked_into() -> None:
    column = pa.array([JPEG, JPEG]).dictionary_encode()
    assert not holds_secret(cleaned(column, pa.binary()))
    assert cleaned(pa.array(["a", "a"]).dictionary_encode(), pa.string()).to_pylist() == ["a", "a"]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "AVIF", "MPO"])
def test_other_formats_are_recognised(kind: str) -> None:
    assert not holds_secret(cleaned(pa.array([tagged(kind)])))


@pytest.mark.parametrize("head", [b"\0\0\0\x18ftypheic", b"8BPS\0\1", b"\xff\xd8\xff\xe1 cut"])
def test_a_picture_that_cannot_be_cleaned_is_withheld(head: bytes) -> None:
    cleaner = Cleaner()
    column = pa.chunked_array([pa.array([head + SECRET * 9, b"mine"])])
    assert cleaner.column("x", column, pa.binary()).to_pylist() == [None, b"mine"]
    assert cleaner.withheld == {"x": 1}


def test_base64_is_a_picture_too() -> None:
    url = f"data:image/jpeg;base64,{BASE64}"
    wrapped = base64.encodebytes(JPEG).decode()
    safe = base64.urlsafe_b64encode(JPEG).decode().rstrip("=")
    cleaner = Cleaner()
    for text in (BASE64, wrapped, safe, url, f'[{{"url": "{url}"}}, "more"]'):
        [told] = cleaner.column("x", pa.chunked_array([[text]]), pa.string()).to_pylist()
        longest = max(told.replace('"', ",").split(","), key=len)
        assert SECRET not in base64.b64decode(longest)
        assert Pictures.open(io.BytesIO(base64.b64decode(longest))).size == (16, 16)
    assert cleaner.pictures == {"x": 5}
    assert not cleaner.paths
    broken = f"data:image/heic;base64,{base64.b64encode(b'....ftypheic' + SECRET).decode()}"
    assert cleaner.value("x", broken) == "data:image/heic;base64,[picture]"


def test_metadata_stays_where_it_is_to_stay() -> None:
    cleaner = Cleaner(keep_metadata=True)
    values = [JPEG, BASE64, "/home/ada/a.jpg"]
    assert cleaner.value("x", values) == [JPEG, BASE64, "a.jpg"]


def test_what_cannot_hold_the_cleaned_picture_is_refused() -> None:
    with pytest.raises(OptionError, match=r"column 'x' holds pictures .* leave it out"):
        cleaned(pa.array([JPEG], pa.binary(len(JPEG))))


# Paths


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", ""),
        ("/home/ada/photos/cat.jpg", "cat.jpg"),
        ("/home/Ada Lovelace/my cat.jpg", "my cat.jpg"),
        ("/Users/ada/photos/0001", "0001"),
        ("/home/ada", "[path]"),
        ("/home/ada/", "[path]"),
        ("~/photos/cat.jpg", "cat.jpg"),
        ("file:///home/ada/cat.jpg", "cat.jpg"),
        ("C:\\Users\\Ada Lovelace\\cat.jpg", "cat.jpg"),
        ("D:/photos/cat.jpg", "cat.jpg"),
        ("\\\\nas\\share\\cat.jpg", "cat.jpg"),
        ("zip://cat.jpg::/home/ada/photos.zip", "zip://cat.jpg::[path]"),
        ("see /home/ada/cat.jpg, or ~/x", "see [path], or [path]"),
        ("/tmp/a.jpg and /tmp/b.jpg", "[path] and [path]"),
        ("ada@host:/root/x", "ada@host:[path]"),
        ('{"file": "/mnt/d/cat.jpg", "n": 1}', '{"file": "[path]", "n": 1}'),
        ('{"file": "C:\\\\Users\\\\ada\\\\cat.jpg"}', '{"file": "[path]"}'),
    ],
)
def test_a_local_path_goes(text: str, told: str) -> None:
    cleaner = Cleaner()
    assert cleaner.value("x", text) == told
    assert cleaner.paths["x"] == (text != told)
    assert without_local_paths(told) == told
    for kind in (pa.string(), pa.large_string(), pa.string_view(), pa.json_()):
        if kind != pa.json_() or text[:1] == "{":
            column = pa.array([text, None], kind)
            assert cleaned(column).to_pylist() == [told, None]
            assert cleaned(column).type == kind


@pytest.mark.parametrize(
    "text",
    [
        *("/m/01g317", "/api/v1/items", "https://host.example/home/ada/cat.jpg", "images/cat.jpg"),
        *("../cat.jpg", "and/or", "50 km/h", "a ~5/10", "s3://bucket/home/ada/cat.jpg", "//tmp/x"),
        *(r"f:\alpha\beta", r"\\hline\hline x", r"T:\Omega\to\mathbb{R}", "</home>", "/home", "D:"),
        *("10:30 / 11:00", "/9j/4AAQSkZJRg", "iVBORw0KGgo=", "data:image/png;base64,"),
    ],
)
def test_other_text_stays(text: str) -> None:
    cleaner = Cleaner()
    assert cleaner.value("x", [text]) == [text]
    assert not cleaner.paths
    assert not cleaner.pictures


def test_a_path_of_this_machine_goes(tmp_path: Path) -> None:
    photo = tmp_path / "cat.jpg"
    assert without_local_paths(str(photo)) == "cat.jpg"
    assert without_local_paths(f"cannot open {photo}!") == "cannot open [path]"


def test_an_error_loses_everything_that_looks_like_a_path() -> None:
    words = "no /views/ada/x, file:///srv/x, C:\\Users\\Ada Lovelace\\w.pt or ~ada/x/y"
    assert without_paths(words) == "no [path], [path], [path] or [path]"


# What stays

VALUES = st.recursive(
    st.one_of(st.none(), st.integers(-(2**31), 2**31), st.binary(max_size=99), st.text("ab /:\\.")),
    lambda part: st.lists(part, max_size=4) | st.fixed_dictionaries({"a": part, "b": part}),
    max_leaves=12,
)


@given(VALUES)
def test_shape_and_other_values_stay(value: Any) -> None:
    result = Cleaner().value("x", value)
    assert Cleaner().value("x", result) == result
    if not isinstance(value, str | bytes):
        assert type(result) is type(value)
        assert not isinstance(value, list | dict) or len(result) == len(value)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[[1, 2], [3]], None], pa.list_(pa.list_(pa.uint8()))),
        pa.array([None, [255] * 99], pa.list_(pa.uint8())),
        pa.array([b"\xff\xd8", b"BM", b""]),
        pa.array([{"t": "a/b", "n": None}, None]),
        pa.nulls(3),
        pa.array([], pa.string()),
    ],
)
def test_a_column_without_either_is_the_same(column: pa.Array) -> None:
    assert cleaned(column).equals(column)
