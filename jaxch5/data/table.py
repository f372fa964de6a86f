"""Labelled pictures listed in a table."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from pathlib import Path

from jaxch5.data.download import fetch_links, is_link
from jaxch5.data.source import Source, labelled_files
from jaxch5.errors import DataError
from jaxch5.text import is_text


def from_csv(
    path: str | os.PathLike[str],
    image: str = "image",
    label: str = "label",
    root: str | os.PathLike[str] | None = None,
) -> Source:
    """Pictures listed in a CSV file with a header line.

    The other columns go along, for `column_split`. Links (`https://...`) are fetched now, once,
    into the user's cache folder.

    Args:
        path: of the CSV file, in UTF-8; only paths of pictures may hold other bytes.
        image: name of the column of paths or links.
        label: name of the column of class names.
        root: folder in which relative paths begin; None is the file's own.

    Raises:
        DataError: the file cannot be read, has no such columns, leaves a cell empty, lists a
            picture that is not there, or a link cannot be fetched.

    Example:
        >>> import numpy as np, tempfile
        >>> from PIL import Image
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in "ab": Image.new("RGB", (4, 4)).save(folder / f"{name}.png")
        >>> _ = (folder / "pets.csv").write_text("image,label\\na.png,cat\\nb.png,dog\\n")
        >>> from_csv(folder / "pets.csv").classes
        ('cat', 'dog')
    """
    file = Path(path).expanduser()
    try:
        with file.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as opened:
            reader = csv.DictReader(opened, strict=True)
            header = list(reader.fieldnames or [])
            rows = list(reader)
    except FileNotFoundError:
        raise DataError(f"{file}: there is no such file") from None
    except (OSError, csv.Error) as error:
        raise DataError(f"{file}: cannot be read as CSV: {error}") from None
    if not all(map(is_text, header)):
        raise DataError(f"{file}: cannot be read as CSV: its header is not in UTF-8")
    for column in (image, label):
        if column not in header:
            known = ", ".join(header) or "none"
            raise DataError(f"{file}: has no column {column} (its columns: {known})")
    if not rows:
        raise DataError(f"{file}: lists no pictures")
    for number, row in enumerate(rows, start=2):
        for column in (image, label):
            if not (row[column] or "").strip():
                raise DataError(f"{file}, row {number}: {column} is empty")
        if not is_text(row[label]):
            raise DataError(f"{file}, row {number}: {label} is not in UTF-8")

    references = [row[image].strip() for row in rows]
    folder = file.parent if root is None else Path(root).expanduser()
    _all_there(file, folder, references)
    fetched = fetch_links(dict.fromkeys(filter(is_link, references)))
    others = [column for column in header if column not in (image, label)]
    return labelled_files(
        folder,
        references,
        [row[label].strip() for row in rows],
        {column: [row[column] or "" for row in rows] for column in others},
        fetched,
    )


def _all_there(file: Path, folder: Path, references: Iterable[str]) -> None:
    """One look at each path now is better than an error in the middle of an epoch."""
    missing = [
        (number, reference)
        for number, reference in enumerate(references, start=2)
        if not is_link(reference) and not (folder / reference).is_file()
    ]
    if missing:
        number, reference = missing[0]
        if not is_text(reference):
            raise DataError(f"{file}, row {number}: cannot be read as CSV: is not in UTF-8")
        others = f" (and {len(missing) - 1} others)" if len(missing) > 1 else ""
        raise DataError(
            f"{file}, row {number}: there is no picture {folder / reference}{others}; relative "
            "paths begin at the table's folder, or at --data.root"
        )
