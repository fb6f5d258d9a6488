"""Columns as they may leave: pictures in plain bytes or text lose their metadata, text local paths.

Nothing but these changes. A column is looked at through Arrow first, and only where something in it
looks like a picture or a path do its values become Python's.
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_regioncap.errors import OptionError
from hf_regioncap.metadata import without_metadata
from hf_regioncap.paths import SUSPECT, without_local_paths

if TYPE_CHECKING:
    import pyarrow as pa

#: First bytes of picture files that hold metadata; only the first five formats can be cleaned as
#: they are, the others become PNG or, where Pillow does not read them (HEIC, raw photos), null.
_PICTURE = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8|RIFF.{4}WEBP|II[*+]\0|MM\0[*+]|\0\0\0\x0c(?:jP  |JXL )"
    rb"|.{4}ftyp(?:hei|hev|mif|msf|avi[fs]|crx)|8BPS|FUJIFILM",
    re.DOTALL,
)
_HEAD_BYTES = 16
#: Shorter lists of numbers are no files.
_LEAST_BYTES = 64
#: The same in base64, as far as three bytes tell.
_ENCODED = r"(?:[/_]9j[/_]|iVBORw0KGgo|R0lGOD|UklGR|SUkqA|TU0AK|AAAA[\w+/-]{4}Z0eX)"
_BASE64 = re.compile(rf"\s*{_ENCODED}[\w+/\s-]{{60,}}=*\s*")
_DATA_URL = re.compile(r"(data:image/[\w.+-]+;base64,)([\w+/=-]+)")
_ENCODED_SUSPECT = rf"data:image/|^\s*{_ENCODED}"
_UNREADABLE = "[picture]"


@dataclass
class Cleaner:
    """Cleans columns, and counts by column what it has changed or taken out."""

    keep_metadata: bool = False
    pictures: Counter[str] = field(default_factory=Counter)
    withheld: Counter[str] = field(default_factory=Counter)
    paths: Counter[str] = field(default_factory=Counter)

    def column(self, name: str, column: pa.ChunkedArray, kind: pa.DataType) -> Any:
        """Return a column as the type `kind`, cleaned; as it is where it holds nothing of both."""
        import pyarrow as pa

        if any(_is_suspect(chunk) for chunk in column.chunks):
            values = column.to_pylist()
            cleaned = [self.value(name, value) for value in values]
            if cleaned != values:
                try:
                    return pa.array(cleaned, kind)
                except pa.ArrowException as error:
                    raise OptionError(
                        f"column {name!r} holds pictures or local paths, and cannot hold them "
                        f"cleaned ({error}): leave it out with dataset.remove_columns({name!r})"
                    ) from None
        return column if column.type == kind else column.cast(kind)

    def value(self, name: str, value: Any) -> Any:
        """Return a value of any depth, cleaned.

        >>> cleaner = Cleaner()
        >>> cleaner.value("file", {"name": ["/home/ada/cat.jpg", None], "size": 3})
        {'name': ['cat.jpg', None], 'size': 3}
        >>> cleaner.paths
        Counter({'file': 1})
        """
        if isinstance(value, str):
            return self._text(name, value)
        if isinstance(value, bytes):
            return self._bytes(name, value)
        if isinstance(value, Mapping):
            return {key: self.value(name, part) for key, part in value.items()}
        if isinstance(value, list) and len(value) >= _LEAST_BYTES and isinstance(value[0], int):
            return self._numbers(name, value)
        if isinstance(value, list):
            return [self.value(name, part) for part in value]
        return value

    def _bytes(self, name: str, data: bytes) -> bytes | None:
        if self.keep_metadata or not _PICTURE.match(data[:_HEAD_BYTES]):
            return data
        cleaned = without_metadata(data)
        if cleaned is None:
            self.withheld[name] += 1
        elif cleaned != data:
            self.pictures[name] += 1
        return cleaned

    def _numbers(self, name: str, values: list[Any]) -> list[Any] | None:
        """A list of numbers, which may be the bytes of a file."""
        try:
            head = bytes(values[:_HEAD_BYTES])
            data = bytes(values) if _PICTURE.match(head) else b""
        except (TypeError, ValueError):  # nulls, fractions, larger numbers
            return values
        if not data:
            return values
        cleaned = self._bytes(name, data)
        return None if cleaned is None else list(cleaned)

    def _text(self, name: str, text: str) -> str:
        if _BASE64.fullmatch(text):
            return self._encoded(name, text)
        text = _DATA_URL.sub(lambda found: found[1] + self._encoded(name, found[2]), text)
        cleaned = without_local_paths(text)
        if cleaned != text:
            self.paths[name] += 1
        return cleaned

    def _encoded(self, name: str, text: str) -> str:
        try:
            data = base64.b64decode(text.translate(_PLAIN) + "==")
        except ValueError:  # no base64 after all
            return text
        cleaned = self._bytes(name, data)
        if cleaned == data:
            return text
        return _UNREADABLE if cleaned is None else base64.b64encode(cleaned).decode()


#: The alphabet of addresses to the plain one; what wraps lines goes.
_PLAIN = str.maketrans("-_", "+/", "\r\n\t =")


def _is_suspect(array: Any) -> bool:
    """Whether an Arrow array holds, however deep, what looks like a picture or a local path."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import types

    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return _is_suspect(array.storage)
    if types.is_dictionary(kind):
        return _is_suspect(array.dictionary)
    if types.is_struct(kind):
        return any(_is_suspect(part) for part in array.flatten())
    if hasattr(kind, "value_type"):
        part = array.flatten()
        return any(map(_PICTURE.match, _heads(array, part))) or _is_suspect(part)
    if types.is_string_view(kind):
        array, kind = array.cast(pa.large_string()), pa.large_string()
    if types.is_string(kind) or types.is_large_string(kind):
        found = pc.match_substring_regex(array, f"{SUSPECT}|{_ENCODED_SUSPECT}")
        return bool(pc.any(found).as_py())
    if types.is_binary_view(kind):
        array, kind = array.cast(pa.large_binary()), pa.large_binary()
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        heads = (value.as_buffer()[:_HEAD_BYTES] for value in array if value.is_valid)
        return any(_PICTURE.match(head) for head in heads)
    return False


def _heads(array: Any, flat: Any) -> Iterator[bytes]:
    """The first bytes of what lists of bytes hold."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if flat.type == pa.uint8() and not flat.null_count:
        lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
        numbers = flat.to_numpy()
        for start in (np.cumsum(lengths) - lengths)[lengths >= _LEAST_BYTES]:
            yield numbers[start : start + _HEAD_BYTES].tobytes()
