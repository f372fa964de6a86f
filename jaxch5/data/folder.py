"""Pictures in folders: which there are, in which order, and links that lead in circles."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxch5.data.image import SUFFIXES
from jaxch5.errors import DataError


def existing_folder(path: str | os.PathLike[str]) -> Path:
    """The path, if it is a folder that can be listed.

    Raises:
        DataError: it is not.
    """
    root = Path(path).expanduser()
    try:
        os.scandir(root).close()
    except FileNotFoundError:
        raise DataError(f"{root}: there is no such folder (--data.path)") from None
    except NotADirectoryError:
        raise DataError(f"{root}: is a file, not a folder of pictures (--data.path)") from None
    except OSError as error:
        raise DataError(f"{root}: cannot be read: {error.strerror}") from None
    return root


def find_pictures(root: Path) -> Iterator[str]:
    """Relative paths of the pictures below a folder, with slashes, in the order of their names.

    Links are followed, but never into the folder itself, and within each folder in it (a class)
    to no folder twice: links that lead in circles end, and show no picture again. What is hidden
    (a name that begins with a dot) is left out.
    """

    def walk(folder: str, prefix: str, seen: set[tuple[int, int]]) -> Iterator[str]:
        status = os.stat(folder)
        identity = (status.st_dev, status.st_ino)
        if identity in seen:
            return
        seen.add(identity)
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: sort_key(entry.name))
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.name.lower().endswith(SUFFIXES):
                if _leads_to(entry.is_file):
                    yield prefix + entry.name
            elif _leads_to(entry.is_dir):
                within = seen if prefix else set(seen)
                yield from walk(entry.path, f"{prefix}{entry.name}/", within)

    return walk(os.fspath(root), "", set())


def _leads_to(kind: Callable[[], bool]) -> bool:
    try:
        return kind()
    except OSError:
        # A link to itself.
        return False


def folders_in(folder: Path) -> set[str]:
    """Names of the folders in a folder, links to folders among them."""
    with os.scandir(folder) as listing:
        return {entry.name for entry in listing if _leads_to(entry.is_dir)}


def sort_key(name: str) -> str:
    """Names compare by code points, composed: file systems differ in how they store an umlaut."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)
