"""The options of a run as JSON: told in the card, kept beside the data, run again from a file.

A recipe is data, and may come from a stranger. It names no secret, no place on a machine, no host
in a private network; where it is read, code is not imported and none of these are taken. What it
leaves out is named, where it is written and where it is read.
"""

from __future__ import annotations

import ipaddress
import json
import math
import os
import platform
import re
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Unpack
from urllib.parse import urlsplit, urlunsplit

import numpy as np

from hf_regioncap.errors import OptionError
from hf_regioncap.marks import mark_as_dict, resolve_mark
from hf_regioncap.offline import MODEL as DESCRIBER
from hf_regioncap.options import OFFLINE, OPENAI_URL, OptionKwargs, Options, read_options
from hf_regioncap.paths import base_name, is_path, without_local_paths
from hf_regioncap.prompts import SYSTEM_PROMPT, prompt_template

_MAY_BE_A_KEY = "may hold a key"
_A_PLACE = "a place on the machine it was made on"
_CODE = "code"
#: Options that a recipe neither tells nor sets, and why.
PRIVATE = {
    "api_key_env": "the name of a key",
    "extra_headers": _MAY_BE_A_KEY,
    "extra_query": _MAY_BE_A_KEY,
    "extra_body": _MAY_BE_A_KEY,
    "image_root": _A_PLACE,
    "answer_store": _A_PLACE,
    "store_tag": "of use on that machine only",
}
#: Options that may be code: a recipe tells its name, and never imports it.
_CALLABLES = ("parse", "propose")
#: Options that None turns off: there it is a choice, elsewhere it says that nothing was chosen.
NONE_IS_A_CHOICE = frozenset(
    field.name
    for field in fields(Options)
    if field.default is not None and "None" in str(field.type).split(" | ")
)
#: What says nothing of the data, only of where and how fast it was made.
_PACE = frozenset(("concurrency", "timeout", "on_error"))
_SECRET = re.compile(
    r"secret|passw|credential|authori[sz]|cookie|api_?key|(?<!max_)token(?!_param|s)"
)
_NAME = re.compile(r"[\w.-]{1,64}")
#: Options that are text: a path in it is taken out, the rest stays.
_TEXTS = ("prompt", "system_prompt")
_PRIVATE_ZONES = (".local", ".localdomain", ".internal", ".intranet", ".lan", ".corp", ".home.arpa")
_PACKAGES = ("hf-regioncap", "datasets", "openai", "pillow", "pyarrow")


def make_recipe(**options: Unpack[OptionKwargs]) -> dict[str, Any]:
    """The options that made the data, with the versions, as JSON-able values.

    Takes what `caption_dataset` took. No key, header, local folder or pace is in it; callables
    are told by their names. `left_out` names the options that were chosen and are not told.

    >>> recipe = make_recipe(base_url="offline", view="crop")
    >>> recipe["model"], recipe["view"], recipe["mark"]["shape"]
    ('offline-describer', 'crop', 'box')
    >>> make_recipe(temperature=None)["temperature"] is None  # the endpoint's own, not 0
    True
    >>> make_recipe(api_key_env="MY_KEY", extra_body={"top_k": 1})["left_out"]
    ['extra_body.top_k']
    """
    return recipe_of(read_options(options))


def recipe_of(options: Options) -> dict[str, Any]:
    """The same of options that are checked already."""
    recipe: dict[str, Any] = {}
    for field in fields(Options):
        value = getattr(options, field.name)
        chosen = field.name not in PRIVATE or value != field.default
        if field.name in OptionKwargs.__annotations__ and field.name not in _PACE and chosen:
            recipe[field.name] = _place_of(value) if callable(value) else value
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
    return published_recipe(recipe)


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


def public_recipe(recipe: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a recipe as JSON that may be published: no keys, headers, local paths or user names.

    An endpoint's address loses user, password, query and fragment, and is left out where it lies in
    a private network; a model's path loses its folders; a callable becomes its name. What is None
    is left out, unless None is a choice, as of `temperature`.

    >>> public_recipe({"model": "/home/ada/m.gguf", "base_url": "https://ada:pw@a.org/v1?key=k",
    ...                "extra_headers": {"Authorization": "Bearer k"}, "answer_store": "/home/ada"})
    {'model': 'm.gguf', 'base_url': 'https://a.org/v1'}
    """
    shown: dict[str, Any] = {}
    for name, value in without_unchosen(recipe or {}).items():
        public = None if name == "left_out" else _public(name, value)
        if public is not None or (value is None and name not in PRIVATE):
            shown[name] = public
    return shown


def left_out(recipe: Mapping[str, Any] | None) -> list[str]:
    """Name what `public_recipe` does not tell of a recipe, and what was not told to it.

    A key is everybody's own, so that the option that names it is not missed.

    >>> left_out({"api_key_env": "MY_KEY", "extra_body": {"user": "ada"}, "view": "crop"})
    ['extra_body.user']
    """
    names = []
    for name, value in (recipe or {}).items():
        if name == "api_key_env":
            continue
        if name == "left_out":
            names += [str(each) for each in value] if isinstance(value, list) else []
        elif name in PRIVATE and isinstance(value, Mapping):
            names += [f"{name}.{key}" for key in value]
        elif value not in (None, "") and (_public(name, value) is None or _has_path(name, value)):
            names.append(name)
    # The names in a mapping are the user's, or a stranger's.
    return sorted({name if _NAME.fullmatch(name) else name.partition(".")[0] for name in names})


def published_recipe(recipe: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the recipe as it is written: what may be told, and the names of what may not.

    >>> published_recipe({"view": "crop", "base_url": "http://10.0.0.7:8000/v1"})
    {'view': 'crop', 'left_out': ['base_url']}
    """
    names = left_out(recipe)
    return {**public_recipe(recipe), **({"left_out": names} if names else {})}


def _has_path(name: str, value: Any) -> bool:
    return name in _TEXTS and isinstance(value, str) and without_local_paths(value) != value


def _public(name: str, value: Any) -> Any:
    if name in PRIVATE or _SECRET.search(name.lower()):
        return None
    if name == "base_url" and isinstance(value, str) and _is_private(value):
        return None
    if isinstance(value, Mapping):
        inner = {str(key): _public(str(key), part) for key, part in value.items()}
        return {key: part for key, part in inner.items() if part is not None}
    if isinstance(value, str):
        return without_local_paths(value) if name in _TEXTS else public_text(value)
    if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, Sequence | set) and not isinstance(value, bytes):
        return [_public("", part) for part in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return value.name
    return getattr(value, "__qualname__", None) if callable(value) else None


def public_text(text: str) -> str:
    """Return an option's text without user, password and query of an address, or a path's folders.

    >>> public_text("https://ada:pw@a.org/v1?key=k"), public_text("local:/models/m.gguf")
    ('https://a.org/v1', 'local:m.gguf')
    """
    if re.match(r"https?://", text):
        parts = urlsplit(text)
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit((parts.scheme, host, parts.path, "", ""))
    scheme, path = ("local:", text[6:]) if text.startswith("local:") else ("", text)
    return scheme + base_name(path) if is_path(path) else text


def _is_private(url: str) -> bool:
    """Whether an address lies in somebody's own network; this machine's own tells nothing."""
    try:
        host = urlsplit(url).hostname
    except ValueError:
        return True
    if not host or host == "localhost":
        return False
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith(_PRIVATE_ZONES)
    return not (address.is_global or address.is_loopback)


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


def _place_of(function: Any) -> str:
    return f"{function.__module__}:{getattr(function, '__qualname__', type(function).__name__)}"


def read_recipe(
    path: str | os.PathLike[str],
    *,
    given: Collection[str] = (),
    tell: Callable[[str], object] = warnings.warn,
) -> dict[str, Any]:
    """The options in a recipe's file, to be run again; what a file cannot hold is an error.

    The file may be a stranger's: it imports nothing, and sets no key, header or place on this
    machine. `tell` gets a sentence on what is not taken from it or was left out when it was
    written, and on where requests will go; `given` names the options that are passed anyway.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "recipe.json")
    ...     size = file.write_text(json.dumps(make_recipe(max_boxes=3) | {"parse": "os:system"}))
    ...     read_recipe(file, tell=lambda words: print(words[-56:]))["max_boxes"]
    parse ('os:system', code); pass --parse if that is meant
    3
    """
    recipe = _load(path)
    known = {name: recipe[name] for name in OptionKwargs.__annotations__ if name in recipe}
    refused = {
        name: _CODE if name in _CALLABLES else PRIVATE[name]
        for name, value in known.items()
        if (name in PRIVATE and value is not None)
        or (name in _CALLABLES and value not in (None, "contours"))
    }
    options = {
        name: value
        for name, value in known.items()
        if name not in refused and (name not in PRIVATE) and (name not in given)
    }
    _tell_untaken(tell, path, {name: (why, known[name]) for name, why in refused.items()}, given)
    _tell_left_out(tell, path, recipe, given)
    address = options.get("base_url")
    if isinstance(address, str) and address not in (OFFLINE, OPENAI_URL):
        tell(f"recipe: requests go to {address!r}, as it says")
    if isinstance(options.get("label_names"), dict):
        options["label_names"] = _numbered(options["label_names"])
    if options.get("model") == DESCRIBER and options.get("base_url") == OFFLINE:
        del options["model"]
    return options


def _load(path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        recipe = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"recipe: cannot read {os.fspath(path)!r}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise OptionError(f"recipe: {os.fspath(path)!r} is not JSON") from None
    if not isinstance(recipe, dict):
        raise OptionError(f"recipe: {os.fspath(path)!r} is not a JSON object of options")
    return recipe


def _numbered(names: dict[str, Any]) -> dict[int, Any]:
    try:
        return {int(key): name for key, name in names.items()}
    except ValueError:
        raise OptionError("recipe: label_names must map numbers to names") from None


def _tell_untaken(
    tell: Callable[[str], object],
    path: str | os.PathLike[str],
    refused: Mapping[str, tuple[str, Any]],
    given: Collection[str],
) -> None:
    names = [name for name in refused if name not in given]
    if names:
        # Only of code the value is shown, so that one can tell whose it is: others may be keys.
        words = ", ".join(
            f"{name} ({f'{refused[name][1]!r:.80}, ' * (name in _CALLABLES)}{refused[name][0]})"
            for name in names
        )
        tell(
            f"recipe {os.fspath(path)!r}: not taken from it, as a recipe is data: {words}; pass "
            f"{_flags(names)} if that is meant"
        )


def _tell_left_out(
    tell: Callable[[str], object],
    path: str | os.PathLike[str],
    recipe: Mapping[str, Any],
    given: Collection[str],
) -> None:
    listed = recipe.get("left_out")
    named = left_out({"left_out": listed if isinstance(listed, list) else []})
    missing = [
        name
        for name in named
        if name.partition(".")[0] in OptionKwargs.__annotations__
        and name.partition(".")[0] not in given
    ]
    if "base_url" in missing and not os.environ.get("OPENAI_BASE_URL"):
        raise OptionError(
            f"recipe {os.fspath(path)!r} was written without its address, which lies in a private "
            "network: pass base_url (--base-url)"
        )
    if missing:
        flags = _flags(dict.fromkeys(name.partition(".")[0] for name in missing))
        tell(
            f"recipe {os.fspath(path)!r} was written without {', '.join(missing)}: pass {flags} "
            "where this run needs the same"
        )


def _flags(names: Collection[str]) -> str:
    return ", ".join("--" + name.replace("_", "-") for name in names)
