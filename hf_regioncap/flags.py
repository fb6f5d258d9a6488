"""The options as flags of a command line, for the scripts."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

from hf_regioncap.endpoint import is_named
from hf_regioncap.errors import OptionError
from hf_regioncap.options import OFFLINE, OptionKwargs, option_docs
from hf_regioncap.recipe import PRIVATE, read_recipe


def add_option_flags(parser: argparse.ArgumentParser) -> None:
    """Give a parser every option of the library as a flag of the same name."""
    group = parser.add_argument_group("options, as in the library")
    docs = option_docs()
    for name in OptionKwargs.__annotations__:
        flag = "--" + name.replace("_", "-")
        group.add_argument(flag, metavar="VALUE", help=docs[name].replace("%", "%%"))


def options_from_flags(
    parsed: argparse.Namespace, *, recipe: str | os.PathLike[str] | None = None
) -> dict[str, Any]:
    """The options that were given as flags, over those of a recipe's file.

    >>> parser = argparse.ArgumentParser()
    >>> add_option_flags(parser)
    >>> options_from_flags(parser.parse_args(["--max-boxes", "3", "--temperature", "none"]))
    {'max_boxes': 3, 'temperature': None}
    """
    texts = {name: getattr(parsed, name) for name in OptionKwargs.__annotations__}
    given = {name: read_value(name, text) for name, text in texts.items() if text is not None}
    options = read_recipe(recipe, given=given, tell=_say) if recipe else {}
    _check_where_keys_go(given, options.get("base_url"))
    for name in ("propose", "parse"):  # only as a flag: a recipe may be a stranger's
        if isinstance(given.get(name), str) and ":" in given[name]:
            given[name] = _imported(name, given[name])
    return {**options, **given}


def _say(words: str) -> None:
    sys.stderr.write(words + "\n")


def _check_where_keys_go(given: Mapping[str, Any], address: Any) -> None:
    """Refuse to send a key that a flag names to an address that only a recipe's file names."""
    may_be_keys = ("api_key_env", "extra_headers", "extra_query", "extra_body")
    sent = [name for name in may_be_keys if given.get(name)]
    if sent and isinstance(address, str) and address != OFFLINE and not is_named(address):
        raise OptionError(
            f"{sent[0]} would go to {address!r}, which only the recipe names: pass "
            f"base_url={address!r} too (--base-url) if that is meant"
        )


def read_value(name: str, text: str) -> Any:
    """A flag's text as the option's type: `none`, numbers, JSON for mappings, names by commas.

    >>> read_value("mark", '{"preset": "tag"}'), read_value("label_names", "cat, dog")
    ({'preset': 'tag'}, ['cat', 'dog'])
    """
    hint = get_type_hints(OptionKwargs)[name]
    kinds = get_args(hint) or (hint,)
    if text.lower() == "none" and type(None) in kinds:
        return None
    if text.lstrip()[:1] in ("{", "[") and "Mapping" in str(hint):
        try:
            return json.loads(text)
        except ValueError:
            shown = "" if name in PRIVATE else f": {text!r}"  # it may hold a key
            raise OptionError(f"{name} is not JSON{shown}") from None
    if name == "label_names":
        return [part.strip() for part in text.split(",")]
    for kind in (int, float):
        if kind in kinds:
            return number(name, text, kind)
    return text


def number(name: str, text: str, kind: type[int] | type[float]) -> int | float:
    """A flag's text as a number, or an error that names the flag."""
    try:
        return kind(text)
    except ValueError:
        raise OptionError(f"{name} must be a number, got {text!r}") from None


def _imported(name: str, place: str) -> Any:
    """A callable that is named as module:function."""
    module, _, function = place.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # as `python -m` does; a script's own folder is another
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise OptionError(f"{name}: cannot import {place!r}: {error}") from None
