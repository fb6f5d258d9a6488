"""What this library raises; every message is one plain string, so that it survives a process pool.

::

    RegionCaptionError
    ├── OptionError     an argument that cannot work, found before any request (a ValueError too)
    ├── EndpointError   the endpoint cannot serve this run: key, model, credit, rejected parameter
    ├── StoreError      the answer store cannot be used
    └── PublishError    the dataset was not pushed
"""

from __future__ import annotations

import threading


class RegionCaptionError(Exception):
    """Base of everything that hf_regioncap raises on purpose."""

    def _render_traceback_(self) -> list[str]:
        """Show IPython the message alone: the way here leads through a dozen frames of others."""
        return [f"{type(self).__name__}: {self}"]


class OptionError(RegionCaptionError, ValueError):
    """An argument that cannot work: the message names it, its value and the way out."""


class EndpointError(RegionCaptionError, RuntimeError):
    """The endpoint cannot serve this run at all; what was answered before is in the store."""


class StoreError(RegionCaptionError, RuntimeError):
    """The answer store cannot be opened, read or written."""


class PublishError(RegionCaptionError, RuntimeError):
    """The dataset was not pushed, or not as asked."""


def one_of(argument: str, value: object, choices: tuple[str, ...]) -> str:
    """Return `value` if it is one of `choices`, else raise the error that names all three.

    >>> one_of("box_unit", "fraction", ("pixel", "fraction"))
    'fraction'
    """
    if isinstance(value, str) and value in choices:
        return value
    raise OptionError(f"{argument} must be one of {choices}, got {value!r}")


def is_interrupt(error: BaseException) -> bool:
    """Tell whether an error is Ctrl-C, which comes to the main thread only.

    Anything else that comes out of a user's callable is the callable's own, `SystemExit` too.

    >>> is_interrupt(KeyboardInterrupt()), is_interrupt(SystemExit(1))
    (True, False)
    """
    in_main = threading.current_thread() is threading.main_thread()
    return isinstance(error, KeyboardInterrupt) and in_main


def words_of(error: BaseException) -> str:
    """The kind and words of whatever a user's callable has raised, which may have no words.

    >>> words_of(ValueError("no cat")), words_of(SystemExit())
    ('ValueError: no cat', 'SystemExit')
    """
    kind = type(error).__name__
    try:
        words = str(error)
    except Exception:  # its own words may raise, too
        words = ""
    return f"{kind}: {words}" if words else kind
