"""What the types of columns tell before a row is read: options that cannot work with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from hf_regioncap.errors import OptionError
from hf_regioncap.tables import Rows


def check_prompt_column(rows: Rows, column: str) -> None:
    """Raise where the column of the user's own prompts holds no text.

    >>> check_prompt_column(Rows(pa.table({"ask": [1]}), ""), "ask")
    Traceback (most recent call last):
    hf_regioncap.errors.OptionError: prompt_column 'ask' holds int64, and no text: name a column of
    texts, or write prompt='… {ask} …'
    """
    kind = _type(rows, column)
    if kind is not None and not (_is_text(_plain(kind)) or pa.types.is_null(kind)):
        raise OptionError(
            f"prompt_column {column!r} holds {kind}, and no text: name a column of texts, or write "
            f"prompt='… {{{column}}} …'"
        )


def check_template_columns(rows: Rows, argument: str, names: Iterable[str]) -> None:
    """Raise where a template names a column that holds bytes or fields, which no text can show."""
    for name in names:
        kind = _type(rows, name)
        if kind is not None and (_is_bytes(_plain(kind)) or pa.types.is_nested(kind)) and not (
            _is_list(kind)
        ):  # fmt: skip
            raise OptionError(no_text(argument, name))


def no_text(argument: str, name: str) -> str:
    """The words for a column that a template names and cannot show."""
    return f"{argument}: column {name!r} holds no text that {{{name}}} could show"


def check_label_type(
    rows: Rows, column: str, label_names: Sequence[str] | Mapping[int, str] | None
) -> None:
    """Raise where labels are numbers and nobody has given their names.

    >>> check_label_type(Rows(pa.table({"label": [[1]]}), ""), "label", None)
    Traceback (most recent call last):
    hf_regioncap.errors.OptionError: label_column 'label' holds numbers whose names are not known
    here: pass label_names=['name of 0', 'name of 1', …]
    """
    kind = _type(rows, column)
    while kind is not None and _is_list(kind):
        kind = kind.value_type
    if kind is not None and label_names is None and pa.types.is_integer(_plain(kind)):
        raise OptionError(no_names(column))


def no_names(column: str) -> str:
    """The words for labels that are numbers of unknown names."""
    return (
        f"label_column {column!r} holds numbers whose names are not known here: "
        "pass label_names=['name of 0', 'name of 1', …]"
    )


def _type(rows: Rows, column: str) -> pa.DataType | None:
    """The Arrow type of a column or nested field; None where the rows do not tell one."""
    kind: Any = rows.fields().get(column) if rows.table is not None else None
    return kind if isinstance(kind, pa.DataType) else None


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_nested(kind) and hasattr(kind, "value_type") and not pa.types.is_map(kind)


def _is_text(kind: pa.DataType) -> bool:
    tests = pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view
    return any(test(kind) for test in tests)


def _is_bytes(kind: pa.DataType) -> bool:
    tests = pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view
    return any(test(kind) for test in (*tests, pa.types.is_fixed_size_binary))
