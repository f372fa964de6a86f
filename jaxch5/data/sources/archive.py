"""Reads labelled pictures from an archive, which is given by its path or its URL."""

from __future__ import annotations

import os
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jaxch5.data.source import Source
from jaxch5.data.sources.content import head_of, kind_of
from jaxch5.data.sources.download import cache_folder, fetch_archive
from jaxch5.data.sources.folder import from_folder, from_regex
from jaxch5.data.sources.layout import ARCHIVES
from jaxch5.data.sources.listing import joined, list_folder
from jaxch5.data.sources.unpack import unpack
from jaxch5.errors import DataError
from jaxch5.util.address import expanded, is_address
from jaxch5.util.files import sha256_of


def from_archive(
    url: str | os.PathLike[str],
    sha256: str | None = None,
    pattern: str | None = None,
    train: str | None = None,
    valid: str | Sequence[str] | None = None,
) -> Source:
    r"""Reads pictures from a zip or tar file, which is unpacked once into the user's cache folder.

    Outer folders that contain nothing but the folder of the pictures are skipped.

    Args:
        url: The file's URL, from which it is fetched once, or its path.
        sha256: Checksum of the file, in hexadecimal; None means that it is not checked.
        pattern: Regular expression that finds the class in a file name, as for `from_regex`; if
            None, the name of its folder is the class, as for `from_folder`.
        train, valid: Folders of the training and of the validation pictures, as for `from_folder`.

    Raises:
        DataError: The file cannot be fetched or unpacked or does not have the checksum `sha256`, or
            `from_folder` or `from_regex` raises an error about its content.

    Example:
        >>> url = "https://example.org/pets.tar.gz"  # put your own URL here
        >>> source = from_archive(url, pattern=r"(.+)_\d+\.jpg")  # doctest: +SKIP
    """
    place = os.fspath(url)
    linked = is_address(place)
    folder = fetch_archive(place, sha256) if linked else _unpacked(Path(place), sha256)
    parts = [train, *([valid] if isinstance(valid, str) else valid or ())]
    inner = _inner(folder, parts, by_folder=pattern is None)
    try:
        if pattern is None:
            source = from_folder(inner, train, valid)
        else:
            source = from_regex(inner, pattern, train, valid)
    except DataError as error:
        again = f"; to fetch the archive again, remove {folder}" if linked else ""
        raise DataError(f"{place}: {error}{again}") from None
    source = replace(source, name=place)
    if inner == folder:
        return source
    around = list_folder(folder, {os.fspath(inner)}).passed_over
    back = os.path.relpath(folder, inner) + "/"
    return replace(source, passed_over=joined(("", source.passed_over), (back, around)))


def is_archive(file: Path) -> bool:
    """Checks whether a file is a zip or tar file, judging by its content or its name."""
    if not file.is_file():
        return False
    try:
        # zipfile recognizes a zip file by its end, which a truncated one lacks.
        is_zip = kind_of(head_of(file)) == "a zip file" or zipfile.is_zipfile(file)
        return is_zip or tarfile.is_tarfile(file) or file.name.lower().endswith(ARCHIVES)
    except OSError:
        return False


def _unpacked(file: Path, sha256: str | None) -> Path:
    """Returns an archive's folder, named after its checksum; unpacks the archive if necessary."""
    file = expanded(file)
    try:
        digest = sha256_of(file)
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from None
    if sha256 is not None and digest != sha256.lower():
        raise DataError(f"{file}: has the SHA-256 {digest}, not the one given")
    folder = cache_folder("archives") / digest
    if not folder.is_dir():
        unpack(file, folder, os.fspath(file))
    return folder


def _inner(folder: Path, parts: Sequence[str | None], by_folder: bool) -> Path:
    """Returns the folder, or the innermost one if the folders around it contain nothing else.

    If folders are classes, a single folder that directly contains all pictures is not a wrapper.
    """
    named = [part for part in parts if part not in (None, ".")]
    while not any((folder / str(part)).is_dir() for part in named):
        pictures = list_folder(folder).pictures
        inner = {name.partition("/")[0] for name in pictures}
        if len(inner) != 1 or not (folder / next(iter(inner))).is_dir():
            return folder
        if by_folder and all(name.count("/") == 1 for name in pictures):
            return folder
        folder = folder / inner.pop()
    return folder
