"""Paths on somebody's machine: told apart from other text, and taken out of it.

`/m/01g317` is the name of a class, `/api/v1` that of a route: a path is local where it begins as
paths do on the systems that people use, or with a folder that lies at the top of this one.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

#: Folders at the top of people's machines, clusters and notebooks, under which files lie.
_TOP = (
    *("home", "Users", "root", "mnt", "media", "Volumes", "tmp", "var", "private", "opt", "srv"),
    *("usr", "etc", "run", "scratch", "gpfs", "lustre", "nfs", "dbfs", "kaggle", "content"),
    *("workspace", "workspaces", "data", "datasets", "storage", "projects"),
)
_WINDOWS_TOP = r"(?:Users|Documents and Settings|Windows|Program Files[^\\/]*|ProgramData|Te?mp)"
#: A folder's name may have spaces; only where a slash follows is it known to be one.
_WINDOWS_REST = (
    r"""(?:\\+[^\\/:*?"'<>|\r\n]+(?=\\)|/+[^\s\\/:*?"'<>|,]+(?=[\\/]))*"""
    r"""[\\/]+[^\s\\/:*?"'<>|,]*"""
)
_WINDOWS = re.compile(rf"(?<![\w\\])[A-Za-z]:[\\/]+{_WINDOWS_TOP}(?:{_WINDOWS_REST})?")
_WINDOWS_WHOLE = re.compile(r"""(?:[A-Za-z]:[\\/]|\\\\[\w.-]+\\)[^:*?"<>|{}$^]*\.\w{1,5}""")
_FILE_URL = re.compile(r"""file:/+[^\s'",]*""", re.IGNORECASE)
_HOME = re.compile(r"""(?<![\w/.])~/[^\s'",:]*""")

_QUOTED_PATH = re.compile(r"""(["'])(?:/|[A-Za-z]:\\|~/).*?\1""")
_BARE_PATH = re.compile(
    r"""(?<![\w:/.])(?:/(?:[^\s/'",:]+/)+|~[\w.-]*/)[^\s'",:]*"""
    rf"|(?<![\w\\])[A-Za-z]:{_WINDOWS_REST}"
)
_SAFE_NAME = re.compile(r"\w[\w .()+-]{0,99}")


def safe_name(path: str) -> str | None:
    """Return the bare file name of an image's path, None where even that could do harm or tell.

    >>> safe_name("/home/ada/photos/cat.jpg"), safe_name("../cat.jpg")
    ('cat.jpg', 'cat.jpg')
    >>> safe_name("https://host/cat.jpg?key=k"), safe_name("../.."), safe_name("<img onerror=x>")
    (None, None, None)
    """
    if "://" in path:
        return None
    name = base_name(path) if path[-1:] not in ("/", "\\") else ""
    return name if _SAFE_NAME.fullmatch(name) and name.strip(". ") == name else None


def base_name(path: str) -> str:
    r"""Return the last part of a path of any system.

    >>> base_name("/home/ada/m.gguf"), base_name("C:\\models\\m.gguf")
    ('m.gguf', 'm.gguf')
    """
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]


def is_path(text: str) -> bool:
    """Whether an option's whole value is a path: rooted, or beginning with `./`, `../`, `~/`.

    >>> is_path("/models/m.gguf"), is_path("../m.gguf"), is_path("org/model")
    (True, True, False)
    """
    if "\n" in text or len(text) > 4096:
        return False
    rooted = PurePosixPath(text).is_absolute() or PureWindowsPath(text).drive.endswith(":")
    return rooted or text.startswith(("~/", "./", "../", "file://"))


def without_paths(text: Any) -> Any:
    """Return an error's words without anything that looks like a local path.

    >>> without_paths("the path leads out of image_root='/home/ada/photos'")
    'the path leads out of image_root=[path]'
    """
    if not isinstance(text, str):
        return text
    text = _FILE_URL.sub("[path]", without_local_paths(_QUOTED_PATH.sub("[path]", text)))
    return _BARE_PATH.sub("[path]", text)


def without_local_paths(text: str) -> str:
    r"""Return text of the user's own without local paths; a path alone becomes its file's name.

    >>> without_local_paths("/home/ada/photos/cat.jpg"), without_local_paths("see /tmp/a/b.jpg.")
    ('cat.jpg', 'see [path]')
    >>> without_local_paths("C:\\Users\\Ada Lovelace\\w.pt"), without_local_paths("/home/ada")
    ('w.pt', '[path]')
    >>> for other in ("/m/01g317", "https://host/home/ada", r"f:\alpha\beta", "and/or", "a/b.jpg"):
    ...     assert without_local_paths(other) == other
    """
    if _is_local_path(text):
        return _file_name(text) or "[path]"
    for path in (_FILE_URL, _WINDOWS, _HOME, _posix()):
        text = path.sub("[path]", text)
    return text


def _file_name(path: str) -> str | None:
    """The name of a path's file; that of a folder at the top may be a person's."""
    name = safe_name(base_name(path)) if path[-1:] not in ("/", "\\") else None
    return name if name and ("." in name or len(re.findall(r"[\\/]+", path)) > 2) else None


def _is_local_path(text: str) -> bool:
    if "\n" in text or not 2 < len(text) <= 4096 or _PARTS.search(text):
        return False
    begins = any(path.match(text) for path in (_FILE_URL, _HOME, _WINDOWS, _posix()))
    return begins or bool(_WINDOWS_WHOLE.fullmatch(text))


#: What no path alone holds: another one after it, or words after a file's ending.
_PARTS = re.compile(r"\s[/~]|\s\w:[\\/]|\.\w{1,5}\W*\s|://.*://|::")


@functools.cache
def _posix() -> re.Pattern[str]:
    here = [each.name for each in Path("/").iterdir() if len(each.name) > 1]
    tops = "|".join(sorted({*map(re.escape, (*_TOP, *here))}, key=len, reverse=True))
    name = r"""[^\s/'",:;<>|*?()\[\]{}]"""
    owner = rf"(?:home|Users)/{name}+ {name}+(?=/)"  # a name with a space in it
    return re.compile(rf"(?<![\w/.\\])/(?:{owner}|(?:{tops})(?=/+{name}))(?:/+{name}*)+")


#: What every text with a local path matches, in RE2: most texts are seen to have none by this.
SUSPECT = r"(?i)file:/|~/|[a-z]:[\\/]|\\\\\w|/\S"
