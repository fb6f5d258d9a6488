"""A stream over tables, as `Dataset.to_iterable_dataset` makes one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import pyarrow as pa

from hf_regioncap.late_types import fit

if TYPE_CHECKING:
    from datasets import Features, IterableDataset


def stream_tables(
    tables: Callable[[], Iterator[pa.Table]],
    features: Mapping[str, Any],
    split: Any,
    widened: Callable[[], Features] | None = None,
) -> IterableDataset:
    """A stream of the rows of tables, whose function is called anew for each reader.

    `widened` tells the features as they are by now, where the source does not say its types and
    later rows may have wider ones than the first: examples come with these. Whoever wants Arrow
    gets the types of the beginning, or an error.

    Not `from_generator`: its examples lose their types on the way to whoever wants Arrow, and one
    null among captions would end the stream with an error.
    """
    from datasets import DatasetInfo, Features, IterableDataset
    from datasets.iterable_dataset import ArrowExamplesIterable

    declared = Features(features)
    source = _Tables(tables, widened or (lambda: declared))
    examples = ArrowExamplesIterable if widened is None else _widening_examples()
    info = DatasetInfo(features=declared)
    return IterableDataset(examples(source, {}), info=info, split=split)


@dataclass
class _Tables:
    """The function that a stream's tables come from; it works in this process only."""

    tables: Callable[[], Iterator[pa.Table]]
    features: Callable[[], Features]

    def __post_init__(self) -> None:
        self.declared = self.features().copy()

    def __call__(self) -> Iterator[tuple[int, pa.Table]]:
        for number, table in enumerate(self.tables()):
            yield number, fit(table, self.features())

    def __reduce__(self) -> tuple[Any, ...]:
        return never_unpickled, (id(self),)


def never_unpickled(*what: Any) -> NoReturn:
    """What an object that belongs to this process is pickled as, to be hashed."""
    raise TypeError("caption_dataset works in one process; it cannot be sent to another")


def _widening_examples() -> Any:
    from datasets.formatting import PythonFormatter
    from datasets.iterable_dataset import ArrowExamplesIterable

    class WideningExamples(ArrowExamplesIterable):  # type: ignore[misc]  # of datasets
        """Examples of the types that their tables have: `datasets` would cast to the declared."""

        is_typed = True

        @property
        def features(self) -> Features:
            declared: Features = self.generate_tables_fn.declared
            return declared

        def __iter__(self) -> Iterator[tuple[Any, dict[str, Any]]]:
            state = self._state_dict or {"shard_idx": 0, "shard_example_idx": 0}
            place, begin = 0, state["shard_example_idx"]
            if state["shard_idx"]:  # resumed at its end
                return
            for key, table in self.generate_tables_fn():
                formatter = PythonFormatter(features=self.generate_tables_fn.features())
                for index in range(len(table)):
                    place += 1
                    if place > begin:
                        state["shard_example_idx"] = place
                        yield key, formatter.format_row(table.slice(index, 1))
            state |= {"shard_idx": 1, "shard_example_idx": 0}

    return WideningExamples
