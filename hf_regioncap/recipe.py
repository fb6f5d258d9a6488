"""The options of a run as JSON: told in the card, kept beside the data, run again from a file."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Unpack

from hf_regioncap.errors import OptionError
from hf_regioncap.marks import mark_as_dict, resolve_mark
from hf_regioncap.offline import MODEL as DESCRIBER
from hf_regioncap.options import OFFLINE, OPENAI_URL, OptionKwargs, Options, read_options
from hf_regioncap.prompts import SYSTEM_PROMPT, prompt_template

#: Options that are of no use to others or that may hold a key: they are never told.
PRIVATE = frozenset(
    ("image_root", "answer_store", "store_tag", "api_key_env", "extra_headers", "extra_query")
)
#: Options that None turns off: there it is a choice, elsewhere it says that nothing was chosen.
NONE_IS_A_CHOICE = frozenset(
    field.name
    for field in fields(Options)
    if field.default is not None and "None" in str(field.type).split(" | ")
)
#: What says nothing of the data, only of where and how fast it was made.
_LEFT_OUT = PRIVATE | {"concurrency", "timeout", "on_error"}
_PACKAGES = ("hf-regioncap", "datasets", "openai", "pillow", "pyarrow")


def make_recipe(**options: Unpack[OptionKwargs]) -> dict[str, Any]:
    """The options that made the data, with the versions, as JSON-able values.

    Takes what `caption_dataset` took. No key, header, local folder or pace is in it; callables
    are told by their names.

    >>> recipe = make_recipe(base_url="offline", view="crop")
    >>> recipe["model"], recipe["view"], recipe["mark"]["shape"]
    ('offline-describer', 'crop', 'box')
    >>> make_recipe(temperature=None)["temperature"] is None  # the endpoint's own, not 0
    True
    """
    return recipe_of(read_options(options))


def recipe_of(options: Options) -> dict[str, Any]:
    """The same of options that are checked already."""
    recipe: dict[str, Any] = {}
    for field in fields(Options):
        if field.name in OptionKwargs.__annotations__ and field.name not in _LEFT_OUT:
            recipe[field.name] = _jsonable(getattr(options, field.name))
    recipe["mark"] = mark_as_dict(resolve_mark(options.mark))
    named = os.environ.get("OPENAI_BASE_URL") or OPENAI_URL
    recipe["base_url"] = options.base_url or named
    if options.base_url == OFFLINE:
        recipe["model"] = DESCRIBER
    if options.prompt_column is None:
        recipe["prompt"] = prompt_template(options.prompt, options.label_column is not None)
    if options.system_prompt is None:
        recipe["system_prompt"] = SYSTEM_PROMPT
    recipe["versions"] = {"python": platform.python_version(), **_versions()}
    return without_unchosen(recipe)


def without_unchosen(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe without the options that are None because nobody chose anything.

    >>> without_unchosen({"propose": None, "language": None})
    {'propose': None}
    """
    return {
        name: value
        for name, value in recipe.items()
        if value is not None or name in NONE_IS_A_CHOICE
    }


def is_offline(recipe: Mapping[str, Any]) -> bool:
    """Whether the built-in describer made the data, and no model.

    >>> is_offline({"base_url": "offline", "model": "gpt-4o-mini"}), is_offline({"model": "m"})
    (True, False)
    """
    return recipe.get("base_url") == OFFLINE or recipe.get("model") in (OFFLINE, DESCRIBER)


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a checkout that was never installed
            continue
    return found


def _jsonable(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(key): _jsonable(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(part) for part in value]
    if callable(value):
        return f"{value.__module__}:{getattr(value, '__qualname__', type(value).__name__)}"
    return str(value)


def read_recipe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The options in a recipe's file, to be run again; what a file cannot hold is an error.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "recipe.json")
    ...     size = file.write_text(json.dumps(make_recipe(max_boxes=3)))
    ...     read_recipe(file)["max_boxes"]
    3
    """
    try:
        recipe = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"recipe: cannot read {os.fspath(path)!r}: {error.strerror}") from None
    except ValueError:
        raise OptionError(f"recipe: {os.fspath(path)!r} is not JSON") from None
    if not isinstance(recipe, dict):
        raise OptionError(f"recipe: {os.fspath(path)!r} is not a JSON object of options")
    known = {name: recipe[name] for name in OptionKwargs.__annotations__ if name in recipe}
    if isinstance(known.get("label_names"), dict):
        known["label_names"] = {int(key): name for key, name in known["label_names"].items()}
    if known.get("model") == DESCRIBER and known.get("base_url") == OFFLINE:
        del known["model"]
    return known
