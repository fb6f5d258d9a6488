"""What decides the content of rows, as texts and numbers that a cache's fingerprint is made of.

`datasets` hashes a function that can be imported by its name and a file by its path: edited, both
would be served the rows of before. Here functions count by their code and what it uses, files by
size and time.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_regioncap.endpoint import find_address
from hf_regioncap.errors import OptionError
from hf_regioncap.options import OFFLINE, Options, read_options
from hf_regioncap.proposals import can_propose
from hf_regioncap.tables import split_name
from hf_regioncap.wire import is_key

if TYPE_CHECKING:
    from datasets import Dataset

_PLAIN = (type(None), bool, int, float, complex, bytes, type(Ellipsis))
_INSTALLED = tuple(
    {os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")}
)


_NOT_IN_ROWS = (
    "given",
    "base_url",  # the address that it comes to counts
    "concurrency",
    "timeout",
    "api_key_env",
    "extra_headers",
    "extra_query",
    "answer_store",
    "on_error",
)


def what_decides(options: Options, dataset: Dataset) -> dict[str, Any]:
    """What the rows depend on beside the dataset's own: no key, no pace."""
    kept = {
        name: getattr(options, name)
        for name in Options.__dataclass_fields__
        if name not in _NOT_IN_ROWS
    }
    return {
        **kept,
        "extra_body": dict(options.extra_body or {}),
        "address": OFFLINE if options.base_url == OFFLINE else find_address(options),
        "parse": what_runs(options.parse),
        "propose": what_runs(options.propose),
        "files": what_lies_behind(dataset, options.image_column, options.image_root),
        "can_propose": can_propose(),  # rows without boxes tell where OpenCV is missing
    }


def what_map_does() -> dict[str, Any] | None:
    """The same for a `Dataset.map` that is hashing its function just now; None where none is.

    A function is pickled without what it is called with, and `fn_kwargs` by name: only the frame
    of the call knows the dataset, and the functions and folders among the options.
    """
    datasets = sys.modules.get("datasets")
    frame = sys._getframe() if datasets is not None else None
    while frame is not None and datasets is not None:
        if frame.f_code.co_name == "map" and {"self", "function", "fn_kwargs"} <= set(
            frame.f_code.co_varnames
        ):
            call = frame.f_locals
            if isinstance(call["self"], datasets.Dataset):
                bound = getattr(call["function"], "keywords", {})  # of a functools.partial
                return _decides({**bound, **(call["fn_kwargs"] or {})}, call["self"])
        frame = frame.f_back
    return None


def _decides(given: Mapping[str, Any], dataset: Dataset) -> dict[str, Any] | None:
    try:
        return what_decides(read_options(given), dataset)
    except OptionError:  # which the function will raise itself when it is called
        return None


# Functions


def what_runs(function: Any) -> Any:
    """A callable as what it does: code, defaults, closure, and the functions and values it uses.

    Of installed packages the name and version count, of what a module merely holds (a model, a
    client) the type. Raises where the callable carries something that cannot be pickled.

    >>> what_runs(functools.partial(round, ndigits=1))
    ('partial', ('builtin', 'builtins', 'round'), ('tuple',), ('dict', ('ndigits', 1)))
    """
    return _Seen().walk(function)


class _Seen:
    """One walk through what a callable uses; what was seen before counts by its number."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._kept: list[Any] = []  # so that no other object gets the same id

    def walk(self, value: Any, *, held: bool = False) -> Any:
        """Describe a value; `held` says that a module holds it, not the callable itself."""
        if isinstance(value, str):
            return "key" if is_key(value) else value  # another key makes no other rows
        if isinstance(value, _PLAIN):
            return value
        walk = functools.partial(self.walk, held=held)
        # Equal constants may be one object or two, as Python's own caches have it.
        if not isinstance(value, tuple | frozenset | CodeType):
            if id(value) in self._numbers:
                return ("seen", self._numbers[id(value)])
            self._numbers[id(value)] = len(self._numbers)
            self._kept.append(value)
        match value:
            case list() | tuple():
                return (type(value).__name__, *map(walk, value))
            case set() | frozenset():
                return ("set", *sorted(map(repr, map(walk, value))))
            case dict():
                return ("dict", *((walk(key), walk(each)) for key, each in value.items()))
            case np.ndarray() if value.dtype != object:
                return (str(value.dtype), value.shape, hashlib.sha256(value.tobytes()).hexdigest())
            case PurePath():
                return ("path", str(value))
            case functools.partial():
                return ("partial", walk(value.func), walk(value.args), walk(value.keywords))
            case MethodType():
                return ("method", walk(value.__func__), walk(value.__self__))
            case CodeType():
                return ("code", *self._code(value))
            case BuiltinFunctionType():
                return ("builtin", value.__module__, value.__qualname__)
            case ModuleType():
                return _named(value)
            case FunctionType():
                return self._function(value)
            case type():
                return self._class(value)
        return self._instance(value, held=held)

    def _function(self, function: FunctionType) -> Any:
        if installed := _installed(function.__module__):
            return (installed, function.__qualname__)
        cells = [_content(cell) for cell in function.__closure__ or ()]
        return (
            "function",
            *self._code(function.__code__),
            self.walk(function.__defaults__),
            self.walk(function.__kwdefaults__),
            [self.walk(cell) for cell in cells],
            list(self._globals(function)),
        )

    def _code(self, code: CodeType) -> tuple[Any, ...]:
        return code.co_code, code.co_names, code.co_flags, self.walk(code.co_consts)

    def _globals(self, function: FunctionType) -> Iterator[Any]:
        """What the function uses of its module, and of the user's modules that it imports."""
        names = sorted(set(_names(function.__code__)))
        for name in names:
            if name in function.__globals__:
                value = function.__globals__[name]
                yield name, self._used(value, names)
        package = function.__globals__.get("__package__") or ""
        for name in sorted(set(_imports(function.__code__))):
            yield name, *(self._imported(full, names) for full in (name, f"{package}.{name}"))

    def _used(self, value: Any, names: list[str]) -> Any:
        if isinstance(value, ModuleType) and not _installed(value.__name__):
            return [(name, self.walk(vars(value)[name], held=True)) for name in names
                    if name in vars(value)]  # fmt: skip
        return self.walk(value, held=True)

    def _imported(self, name: str, names: list[str]) -> Any:
        """A module that is imported where the function runs: as it is, or as its file."""
        if _installed(name) or not all(part.isidentifier() for part in name.split(".")):
            return name
        if name in sys.modules:
            return self._used(sys.modules[name], names)
        parent = name.rpartition(".")[0]
        if parent and parent not in sys.modules:  # finding it would import its package
            return name
        spec = importlib.util.find_spec(name)
        file = spec.origin if spec is not None else None
        if file is None or _lies_in_packages(file) or not Path(file).is_file():
            return name
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()

    def _class(self, kind: type) -> Any:
        if installed := _installed(kind.__module__):
            return (installed, kind.__qualname__)
        skipped = ("__dict__", "__weakref__", "__module__", "__doc__", "__firstlineno__")
        inside = [(k, _unwrapped(v)) for k, v in vars(kind).items() if k not in skipped]
        return (
            "class",
            kind.__qualname__,
            [self.walk(base, held=True) for base in kind.__bases__],
            [(name, self.walk(value, held=True)) for name, value in inside],
        )

    def _instance(self, value: Any, *, held: bool) -> Any:
        kind = type(value)
        described = self.walk(kind, held=True)
        if not _installed(kind.__module__):
            slots = [name for each in kind.__mro__ for name in getattr(each, "__slots__", ())]
            state = {**getattr(value, "__dict__", {})}
            state |= {name: getattr(value, name, None) for name in slots if name != "__dict__"}
            return ("instance", described, self.walk(state, held=held))
        if held:
            return ("held", described)
        from datasets.fingerprint import Hasher

        return ("pickled", described, Hasher.hash(value))


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a name that is not bound yet
        return "empty"


def _unwrapped(value: Any) -> Any:
    """The function in a static or class method or a property."""
    if isinstance(value, property):
        return [value.fget, value.fset]
    return getattr(value, "__func__", value)


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _nested(each)


def _names(code: CodeType) -> Iterator[str]:
    return (name for each in _nested(code) for name in each.co_names)


def _imports(code: CodeType) -> Iterator[str]:
    for each in _nested(code):
        for step in dis.get_instructions(each):
            if step.opname == "IMPORT_NAME" and step.argval:
                yield step.argval


def _installed(module: str | None) -> str | None:
    """The name and version of a module that no user edits; None for the user's own."""
    top = (module or "").partition(".")[0]
    if top == "__main__":
        return None
    loaded = sys.modules.get(top)
    file = getattr(loaded, "__file__", None)
    own = top == __name__.partition(".")[0]  # of which the recipe's version counts
    if loaded is None:
        return top if top in sys.stdlib_module_names else None
    if own or (file is None and not hasattr(loaded, "__path__")) or _lies_in_packages(file or ""):
        return _named(sys.modules.get(module or "", loaded))
    return None


def _lies_in_packages(file: str) -> bool:
    return bool(file) and os.path.realpath(file).startswith(_INSTALLED)


def _named(module: ModuleType) -> str:
    top = sys.modules.get(module.__name__.partition(".")[0])
    return f"{module.__name__} {getattr(top, '__version__', '')}"


# Files


def what_lies_behind(dataset: Dataset, image_column: str, image_root: Any) -> str | None:
    """A digest of the files that a dataset names: path, size and time; None where it names none."""
    paths = _paths(dataset, image_column)
    if paths is None:
        return None
    root = str(Path(image_root).expanduser()) if image_root is not None else ""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(repr((path, _state(root, path))).encode("utf-8", "replace"))
    return digest.hexdigest()


def _state(root: str, path: str | None) -> tuple[int, int] | None:
    if path is None:
        return None
    try:
        # Of an image in an archive, zip://a.jpg::/photos.zip, the archive counts.
        place = os.path.join(root, path.rpartition("::")[2])  # noqa: PTH118  # a million of them
        found = os.stat(place)  # noqa: PTH116
    except (OSError, ValueError):  # none there; a NUL byte
        return None
    return found.st_size, found.st_mtime_ns


def _paths(dataset: Dataset, column: str) -> Iterator[str | None] | None:
    """The paths of images that are in files, read without the bytes of those that are not."""
    name, path = split_name(column, dataset.column_names)
    values = dataset.data.column(name)
    for step in path:
        if not pa.types.is_struct(values.type) or values.type.get_field_index(step) < 0:
            return None
        values = pc.struct_field(values, step)
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_struct(values.type) and values.type.get_field_index("path") >= 0:
        inside, values = values, pc.struct_field(values, "path")
        if inside.type.get_field_index("bytes") >= 0:
            in_file = pc.is_null(pc.struct_field(inside, "bytes"))
            values = pc.if_else(in_file, values, pa.scalar(None, values.type))
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        return None
    if dataset._indices is not None:  # shuffled or selected
        values = values.take(dataset._indices.column(0))
    if values.null_count == len(values):
        return None
    return (value.as_py() for value in values)
