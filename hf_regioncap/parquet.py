"""A Parquet file in, a Parquet file out: the unit of work where datasets are larger than machines.

Files are read and written through `fsspec`, so that `s3://`, `hf://` and the like work where the
package for them is installed.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from fsspec.core import url_to_fs  # type: ignore[import-untyped]

from hf_regioncap.columns import column_features
from hf_regioncap.errors import OptionError
from hf_regioncap.options import Options
from hf_regioncap.pipeline import caption_tables

if TYPE_CHECKING:
    from datasets import Features
    from pyarrow.parquet import ParquetFile

#: Rows and bytes of images to read at once, and of a row group to write.
_ROWS, _BYTES = 256, 32 * 2**20


def caption_parquet(source: str, target: str, **options: Any) -> Counter[str]:
    """Caption a Parquet file into another, in bounded memory; returns its rows by `answer_status`.

    `target` appears when it is complete, so that a file that is there is finished. It holds all
    columns of `source` and the new ones, and the `Features` in its schema: `load_dataset` reads
    the images back, also where `source` says nothing of them and its `image_column` holds structs
    of `bytes` and `path`. All options are those of `caption_dataset`.

    >>> import tempfile, pyarrow.parquet as pq
    >>> from PIL import Image
    >>> from hf_regioncap.images import encode_jpeg
    >>> photo = {"bytes": encode_jpeg(Image.new("RGB", (64, 48), "red")), "path": None}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pq.write_table(pa.table({"image": [photo], "bbox": [[[8, 8, 40, 30]]]}), folder + "/a")
    ...     caption_parquet(folder + "/a", folder + "/b", base_url="offline", answer_store=None)
    Counter({'ok': 1})
    """
    import pyarrow.parquet as pq

    files, path = url_to_fs(source)
    place, complete = url_to_fs(target)
    part = f"{complete}.part"
    status = str(options.get("column_prefix", "")) + "answer_status"
    statuses: Counter[str] = Counter()
    with files.open(path, "rb") as stream, place.open(part, "wb") as sink:
        file = pq.ParquetFile(stream)
        tables = caption_tables(_tables(file, _features(file, options)), **options)
        first = next(tables, None) or _no_rows(file, options)
        with _writer(sink, first.schema) as writer:
            for table in itertools.chain([first], tables):
                writer.write_table(table)
                statuses.update(table[status].to_pylist())
    place.mv(part, complete)
    return statuses


def count_statuses(path: str, *, column_prefix: str = "") -> Counter[str]:
    """Count the rows of a captioned Parquet file by `answer_status`, reading nothing else."""
    import pyarrow.parquet as pq

    files, place = url_to_fs(path)
    name = column_prefix + "answer_status"
    with files.open(place, "rb") as stream:
        file = pq.ParquetFile(stream)
        if name not in file.schema_arrow.names:
            raise OptionError(f"{path} has no column {name!r}: it was not captioned")
        return Counter(file.read(columns=[name])[name].to_pylist())


def _tables(file: ParquetFile, features: Features) -> Iterator[pa.Table]:
    """The file's rows as tables of a few megabytes, with the features in their schema."""
    sizes = [file.metadata.row_group(k).total_byte_size for k in range(file.num_row_groups)]
    mean = sum(sizes) / max(1, file.metadata.num_rows)
    rows = max(1, min(_ROWS, int(_BYTES / max(1.0, mean))))
    metadata = features.arrow_schema.metadata
    for batch in file.iter_batches(batch_size=rows):
        yield pa.Table.from_batches([batch]).replace_schema_metadata(metadata)


def _features(file: ParquetFile, options: Mapping[str, Any]) -> Features:
    """The file's features; structs of bytes and path in the image column are images."""
    from datasets import Features, Image

    features = Features.from_arrow_schema(file.schema_arrow)
    name = options.get("image_column", Options.image_column)
    if isinstance(features.get(name), dict) and set(features[name]) == {"bytes", "path"}:
        features[name] = Image()
    return features


def _no_rows(file: ParquetFile, options: Mapping[str, Any]) -> pa.Table:
    from datasets import Features

    new = column_features(prefix=options.get("column_prefix", ""))
    return Features({**_features(file, options), **new}).arrow_schema.empty_table()


def _writer(sink: Any, schema: pa.Schema) -> Any:
    import pyarrow.parquet as pq
    from datasets import Features
    from datasets.arrow_writer import get_parquet_column_options

    # As `datasets` writes: pictures, which are compressed already, plain.
    columns = get_parquet_column_options(Features.from_arrow_schema(schema), schema)
    return pq.ParquetWriter(sink, schema, write_page_index=True, **columns)
