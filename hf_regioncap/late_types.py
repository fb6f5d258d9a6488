"""Streams that do not say their types: those of the first rows, widened by what comes later."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING

import pyarrow as pa

from hf_regioncap.errors import OptionError

if TYPE_CHECKING:
    from datasets import Features


def widen(
    tables: Iterable[pa.Table], features: Features, unexpected: Collection[str] = ()
) -> Iterator[pa.Table]:
    """Tables of one type, to which `features` grow in place; columns that are missing are null.

    A null becomes whatever comes, a whole number any number, a struct gains fields. What cannot be
    of one type, and a column of one of the `unexpected` names, is an error before its row is asked
    about.

    >>> from datasets import Features
    >>> tables = [pa.table({"n": [1], "of": [None]}), pa.table({"n": [1.5], "of": ["x"]})]
    >>> features = Features.from_arrow_schema(tables[0].schema)
    >>> [table.to_pylist() for table in widen(tables, features)]
    [[{'n': 1, 'of': None}], [{'n': 1.5, 'of': 'x'}]]
    >>> features
    {'n': Value('float64'), 'of': Value('string')}
    """
    schema = features.arrow_schema
    place = 0
    for table in tables:
        if table.schema.remove_metadata() != schema.remove_metadata():
            for field in table.schema:
                _take_in(field, features, schema, unexpected, place)
            schema = features.arrow_schema
        yield fit(table, features)
        place += len(table)


def fit(table: pa.Table, features: Features) -> pa.Table:
    """The table with the types of these features, which are as wide as its own or wider."""
    from datasets.table import cast_table_to_features

    schema = features.arrow_schema
    if table.schema == schema:
        return table
    for field in schema:
        if field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(len(table), field.type))
    return cast_table_to_features(table.select(schema.names), features)


def _take_in(
    field: pa.Field,
    features: Features,
    schema: pa.Schema,
    unexpected: Collection[str],
    place: int,
) -> None:
    from datasets.features.features import generate_from_arrow_type

    name = field.name
    if name not in features:
        if name in unexpected:
            raise OptionError(f"column {name!r} is not in the first rows, but later: {_WAY_OUT}")
        features[name] = generate_from_arrow_type(field.type)
        return
    known = schema.field(name).type
    if known == field.type:
        return
    try:
        kind = pa.unify_schemas(
            [pa.schema({name: known}), pa.schema({name: field.type})], promote_options="permissive"
        )[0].type
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        raise OptionError(
            f"column {name!r} is {field.type} from row {place} on, and {known} before: {_WAY_OUT}"
        ) from None
    if kind != known:
        features[name] = generate_from_arrow_type(kind)


_WAY_OUT = (
    "say what the stream holds, IterableDataset.from_generator(…, features=Features(…)) or "
    "stream.cast(Features(…))"
)
