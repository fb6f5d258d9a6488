"""Members of zip files, which `datasets` leaves in their archive: `zip://a.jpg::/path/photos.zip`."""

from __future__ import annotations

import functools
import os
import zipfile
import zlib
from pathlib import Path

#: What Arrow could not hold anyway is not unpacked.
MAX_MEMBER_BYTES = 2**30


def split_member(path: str) -> tuple[str, str] | None:
    """A member's name and its archive's path; None for other paths.

    >>> split_member("zip://val/a.jpg::/data/photos.zip"), split_member("/data/a.jpg")
    (('val/a.jpg', '/data/photos.zip'), None)
    """
    name, separator, archive = path.removeprefix("zip://").rpartition("::")
    return (name, archive) if path.startswith("zip://") and separator else None


def read_member(archive: Path, name: str) -> bytes:
    """Read a member of a zip file.

    FileNotFoundError where there is none of that name, OverflowError where it is too large, and
    OSError where the archive cannot be read.
    """
    stat = archive.stat()
    try:
        opened = _opened(archive, stat.st_mtime_ns, stat.st_size, os.getpid())
        if opened.getinfo(name).file_size > MAX_MEMBER_BYTES:
            raise OverflowError(f"more than {MAX_MEMBER_BYTES} bytes in a zip file")
        return opened.read(name)
    except KeyError:
        raise FileNotFoundError(name) from None
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        # RuntimeError: it is encrypted, or packed in a way that is not known here.
        raise OSError(0, f"the zip file cannot be read ({type(error).__name__})") from None


@functools.lru_cache(maxsize=8)
def _opened(archive: Path, *_version: int) -> zipfile.ZipFile:
    """An open archive: its list of members is long. Each process has its own place in the file."""
    return zipfile.ZipFile(archive)
