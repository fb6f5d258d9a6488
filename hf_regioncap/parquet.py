"""A Parquet file in, a Parquet file out: the unit of work where datasets are larger than machines.

Files are read and written through `fsspec`, so that `s3://`, `hf://` and the like work where the
package for them is installed.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from fsspec.core import url_to_fs  # type: ignore[import-untyped]

from hf_regioncap.columns import column_features
from hf_regioncap.errors import OptionError
from hf_regioncap.options import Options
from hf_regioncap.pipeline import caption_tables, retry_tables

if TYPE_CHECKING:
    from datasets import Features
    from pyarrow.parquet import ParquetFile

#: Rows and bytes of images to read at once, and of a row group to write.
_ROWS, _BYTES = 256, 16 * 2**20
#: Bytes of each column to read from a file at once.
_BUFFER = 2**20

_PART = re.compile(r"\.(.+)\.[0-9a-f]{8}\.part", re.DOTALL)


def caption_parquet(source: str, target: str, **options: Any) -> Counter[str]:
    """Caption a Parquet file into another, in bounded memory; returns its rows by `answer_status`.

    `target` appears when it is complete, so that a file that is there is finished; a run that was
    killed leaves a hidden part beside it (`part_of`). It holds all columns of `source` and the new
    ones, and the `Features` in its schema: `load_dataset` reads the images back, also where
    `source` says nothing of them and its `image_column` holds structs of `bytes` and `path`. All
    options are those of `caption_dataset`.

    >>> import tempfile, pyarrow.parquet as pq
    >>> from PIL import Image
    >>> from hf_regioncap.images import encode_jpeg
    >>> photo = {"bytes": encode_jpeg(Image.new("RGB", (64, 48), "red")), "path": None}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pq.write_table(pa.table({"image": [photo], "bbox": [[[8, 8, 40, 30]]]}), folder + "/a")
    ...     caption_parquet(folder + "/a", folder + "/b", base_url="offline", answer_store=None)
    Counter({'ok': 1})
    """

    def captioned(file: ParquetFile) -> Iterator[pa.Table]:
        features = _features(file, source, options)
        tables = caption_tables(_FileTables(file, features), **options)
        return itertools.chain([next(tables, None) or _no_rows(features, options)], tables)

    return _rewrite(source, target, captioned, _status_column(options))


def retry_parquet(path: str, **options: Any) -> Counter[str]:
    """Ask again about the failed rows of a captioned file, in its place; the others stay.

    Boxes, pictures and prompts are taken from the file's columns, the rest from the options; see
    `retry_failed`. The file stays as it was until the new one is complete.

    >>> import tempfile, pyarrow.parquet as pq
    >>> from PIL import Image
    >>> from hf_regioncap.images import encode_jpeg
    >>> photo = {"bytes": encode_jpeg(Image.new("RGB", (64, 48), "red")), "path": None}
    >>> asked = {"base_url": "offline", "answer_store": None}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pq.write_table(pa.table({"image": [photo], "bbox": [[[8, 8, 40, 30]]]}), folder + "/a")
    ...     skipped = caption_parquet(folder + "/a", folder + "/b", max_requests=0, **asked)
    ...     skipped, retry_parquet(folder + "/b", **asked)
    (Counter({'skipped_budget': 1}), Counter({'ok': 1}))
    """
    status = _status_column(options)

    def retried(file: ParquetFile) -> Iterator[pa.Table]:
        _require_captioned(file, path, status)
        tables = _FileTables(file, _features(file, path, options))
        schema = next(iter(tables)).schema
        again = (table.cast(schema) for table in retry_tables(tables, **options))
        return itertools.chain([schema.empty_table()], again)

    return _rewrite(path, path, retried, status)


def count_statuses(path: str, *, column_prefix: str = "") -> Counter[str]:
    """Count the rows of a captioned Parquet file by `answer_status`, reading nothing else."""
    name = _status_column({"column_prefix": column_prefix})
    with _opened(path) as file:
        _require_captioned(file, path, name)
        return Counter(file.read(columns=[name])[name].to_pylist())


def find_place(path: str) -> tuple[Any, str]:
    """The file system of a path or address, and the path in it; an error where there is none.

    >>> find_place("memory://photos/a.parquet")[1]
    '/photos/a.parquet'
    """
    try:
        files, place = url_to_fs(path)
    except (ImportError, ValueError) as error:  # s3:// without s3fs, a protocol nobody knows
        raise OptionError(f"{path} cannot be used: {error}") from None
    return files, str(place)


def part_of(name: str) -> str | None:
    """The name of the file of which this one is an unfinished part; None for other names.

    >>> part_of(".a.parquet.0a1b2c3d.part"), part_of("a.parquet")
    ('a.parquet', None)
    """
    part = _PART.fullmatch(name)
    return part[1] if part else None


def _rewrite(
    source: str, target: str, change: Callable[[ParquetFile], Iterator[pa.Table]], status: str
) -> Counter[str]:
    """Write what becomes of a file's tables into another, which appears when it is complete."""
    place, complete = find_place(target)
    folder, slash, name = complete.rpartition("/")
    # A name of its own: where a worker was thought lost, another may write the same file.
    part = f"{folder}{slash}.{name}.{secrets.token_hex(4)}.part"
    statuses: Counter[str] = Counter()
    try:
        with _opened(source) as file, place.open(part, "wb") as sink:
            tables = change(file)
            first = next(tables)
            with _writer(sink, first.schema) as writer:
                for table in itertools.chain([first], tables):
                    if len(table):  # load_dataset stumbles over row groups without rows
                        writer.write_table(table)
                    statuses.update(table[status].to_pylist())
        place.mv(part, complete)
    except BaseException:
        with contextlib.suppress(OSError):  # it may not be there yet
            place.rm(part)
        raise
    return statuses


@contextlib.contextmanager
def _opened(path: str) -> Iterator[ParquetFile]:
    import pyarrow.parquet as pq

    files, place = find_place(path)
    with contextlib.ExitStack() as stack:
        try:
            source = stack.enter_context(files.open(place, "rb"))
            # Page by page: a row group may hold gigabytes of photos.
            file = pq.ParquetFile(source, pre_buffer=False, buffer_size=_BUFFER)
        except (OSError, pa.ArrowException) as error:
            raise OptionError(f"{path} cannot be read as Parquet: {error}") from None
        yield file


@dataclass(frozen=True)
class _FileTables:
    """A file's rows as tables of a few megabytes, with the features in their schema."""

    file: ParquetFile
    features: Features

    def __iter__(self) -> Iterator[pa.Table]:
        file = self.file
        if not file.metadata.num_rows:  # by which the options can be checked all the same
            yield _described(file.schema_arrow.empty_table(), self.features)
            return
        sizes = [file.metadata.row_group(k).total_byte_size for k in range(file.num_row_groups)]
        mean = sum(sizes) / file.metadata.num_rows
        rows = max(1, min(_ROWS, int(_BYTES / max(1.0, mean))))
        for batch in file.iter_batches(batch_size=rows):
            yield _described(pa.Table.from_batches([batch]), self.features)


def _described(table: pa.Table, features: Features) -> pa.Table:
    """The table with its features in its schema, and images in the one form that they have there.

    Other writers store bytes with large offsets, of which `load_dataset` would make no images.
    """
    from datasets import Image

    schema = features.arrow_schema
    for place, (name, feature) in enumerate(features.items()):
        if isinstance(feature, Image) and table.schema.field(name).type != schema.field(name).type:
            image = feature.cast_storage(table[name].combine_chunks())
            table = table.set_column(place, name, image)
    return table.replace_schema_metadata(schema.metadata)


def _features(file: ParquetFile, path: str, options: Mapping[str, Any]) -> Features:
    """The file's features; structs of bytes and path in the image column are images."""
    from datasets import Features, Image

    try:
        features = Features.from_arrow_schema(file.schema_arrow)
    except (ValueError, NotImplementedError) as error:  # a map, a union
        raise OptionError(f"{path} has a column that is none for datasets: {error}") from None
    name = options.get("image_column", Options.image_column)
    if isinstance(features.get(name), dict) and set(features[name]) == {"bytes", "path"}:
        features[name] = Image()
    return features


def _no_rows(features: Features, options: Mapping[str, Any]) -> pa.Table:
    from datasets import Features

    new = column_features(prefix=options.get("column_prefix", ""))
    return Features({**features, **new}).arrow_schema.empty_table()


def _status_column(options: Mapping[str, Any]) -> str:
    return f"{options.get('column_prefix', '')}answer_status"


def _require_captioned(file: ParquetFile, path: str, status: str) -> None:
    if status not in file.schema_arrow.names:
        raise OptionError(f"{path} has no column {status!r}: it was not captioned")


def _writer(sink: Any, schema: pa.Schema) -> Any:
    import pyarrow.parquet as pq
    from datasets import Features
    from datasets.arrow_writer import get_parquet_column_options

    # As `datasets` writes: pictures, which are compressed already, plain.
    columns = get_parquet_column_options(Features.from_arrow_schema(schema), schema)
    return pq.ParquetWriter(sink, schema, write_page_index=True, **columns)
