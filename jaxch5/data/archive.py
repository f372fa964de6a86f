"""Labelled pictures in an archive at an address."""

from __future__ import annotations

from pathlib import Path

from jaxch5.data.download import fetch_archive
from jaxch5.data.folder import find_pictures, from_folder, from_regex
from jaxch5.data.source import Source
from jaxch5.errors import DataError


def from_archive(url: str, sha256: str | None = None, pattern: str | None = None) -> Source:
    r"""Pictures in a zip or tar file, fetched once into the user's cache folder.

    Folders around the pictures that hold nothing else are passed through.

    Args:
        url: the file's address.
        sha256: of the file, in hexadecimal; None takes it unchecked.
        pattern: tells the class from the file name, as `from_regex` does; None takes the class
            from the folder, as `from_folder` does.

    Raises:
        DataError: the file cannot be fetched, is not the one expected, or holds no pictures that
            can be told apart.

    Example:
        >>> url = "https://example.org/pets.tar.gz"  # any address of yours
        >>> source = from_archive(url, pattern=r"(.+)_\d+\.jpg")  # doctest: +SKIP
    """
    folder = fetch_archive(url, sha256)
    try:
        return from_folder(_inner(folder)) if pattern is None else from_regex(folder, pattern)
    except DataError as error:
        raise DataError(f"{url}: {error}; it is fetched again once {folder} is removed") from None


def _inner(folder: Path) -> Path:
    """The folder itself, or the only folder in it as long as all pictures lie in there."""
    while True:
        inner = {name.partition("/")[0] for name in find_pictures(folder)}
        if len(inner) != 1 or not (folder / next(iter(inner))).is_dir():
            return folder
        folder = folder / inner.pop()
