"""Reads labelled pictures that are listed in a table."""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxch5.config.applies import TABLES
from jaxch5.data.source import Source, labelled_files
from jaxch5.data.sources.download import fetch_links
from jaxch5.data.sources.lookup import Lookup
from jaxch5.errors import DataError
from jaxch5.util.address import expanded, is_address
from jaxch5.util.text import composed, counted, folded, is_text, printable

# Characters that separate the columns of a table.
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
# The first bytes of a file in UTF-16, the encoding of Excel's "Unicode text".
UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def from_csv(
    path: str | os.PathLike[str],
    image: str = "image",
    label: str = "label",
    root: str | os.PathLike[str] | None = None,
    fetch: bool = True,
) -> Source:
    """Reads pictures that are listed in a table with a header, each in a row with its class.

    Columns are separated by commas, semicolons, tabs or bars; those other than `image` and `label`
    are kept for use by `column_split`. Links (`https://...`) are fetched by this function, each
    only once, into the user's cache folder. A link that leads to no picture is still an item, which
    cannot be read; the source's `notes` count such links, and `readable` leaves them out. If no
    file has the name that the table gives, the name is tried with slashes in place of backslashes,
    then regardless of upper and lower case, and then with a picture file's extension added as well.
    If exactly one file fits, it is used, and the source's `notes` say so.

    Args:
        path: File of the table, in UTF-8 or UTF-16. In a table in UTF-8, the paths of pictures may
            also contain bytes that are not UTF-8.
        image: Name of the column of paths or links.
        label: Name of the column of class names.
        root: Folder that paths are relative to; None means the folder that the table is in.
        fetch: Whether links may be fetched; if not, a table with links is refused.

    Raises:
        DataError: The file cannot be read, lists no pictures, lacks one of the two columns, or has
            two of the same name; a row has more or fewer cells than the header, or its cell for the
            picture or the class is empty; a file does not exist, or a name matches several files;
            or a server cannot be reached, or links may not be fetched.

    Example:
        >>> import numpy as np, tempfile
        >>> from PIL import Image
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in "ab": Image.new("RGB", (4, 4)).save(folder / f"{name}.png")
        >>> _ = (folder / "pets.csv").write_text("image,label\\na.png,cat\\nb.png,dog\\n")
        >>> from_csv(folder / "pets.csv").classes
        ('cat', 'dog')
    """
    file = expanded(Path(path))
    text, notes = _read(file)
    separator = _separator(file, text, (image, label))
    if separator != ("\t" if file.suffix.lower() in (".tsv", ".tab") else ","):
        notes.append(f"columns separated by {SEPARATORS[separator]}")
    header, rows = _rows(file, text, separator)
    image, label = (_find_column(file, header, name) for name in (image, label))
    if not rows:
        raise DataError(f"{file}: lists no pictures")
    cells = {name: [row[header.index(name)] for _, row in rows] for name in header if name}
    lines = [line for line, _ in rows]
    for column in (image, label):
        empty = next((k for k, cell in enumerate(cells[column]) if not cell.strip()), None)
        if empty is not None:
            raise DataError(f"{file}, line {lines[empty]}: {column} is empty")
    for line, name in zip(lines, cells[label], strict=True):
        if not is_text(name):
            raise DataError(f"{file}, line {line}: {label} is not in UTF-8")

    folder = file.parent if root is None else expanded(Path(root))
    references, found_otherwise = _references(file, folder, lines, cells[image])
    class_names = [cell.strip() for cell in cells[label]]
    notes += found_otherwise + _repeated(references, class_names)
    links = dict.fromkeys(filter(is_address, references))
    if links and not fetch:
        raise DataError(f"{file}: lists {next(iter(links))}, and nothing is to be fetched")
    try:
        fetched = fetch_links(links)
    except DataError as error:
        raise DataError(f"{file}: {error}") from None
    others = {name: column for name, column in cells.items() if name not in (image, label)}
    notes += _dead(fetched.dead)
    source = labelled_files(folder, references, class_names, others, fetched.files, notes)

    def read(item: int) -> Any:
        if reason := fetched.dead.get(references[item]):
            raise DataError(f"{references[item]}: {reason}")
        return source.read(item)

    return replace(source, name=str(file), read=read)


def is_table(path: Path) -> bool:
    """Checks whether a path is that of a table, judging by its extension.

    Example:
        >>> is_table(Path("pets.CSV")), is_table(Path("photos"))
        (True, False)
    """
    return path.suffix.lower() in TABLES and not path.is_dir()


def _read(file: Path) -> tuple[str, list[str]]:
    """Returns the text of a table, and notes on how it was read."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{file}: there is no such file") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read as CSV: {error}") from None
    if content.startswith(UTF_16):
        try:
            return content.decode("utf-16"), ["read as UTF-16"]
        except UnicodeDecodeError as error:
            raise DataError(f"{file}: cannot be read as CSV: {error}; save it as UTF-8") from None
    if b"\0" in content:
        raise DataError(
            f"{file}: cannot be read as CSV: it is not text in UTF-8 (it contains null bytes); "
            "save it as CSV in UTF-8"
        )
    return content.decode("utf-8-sig", errors="surrogateescape"), []


def _separator(file: Path, text: str, wanted: Sequence[str]) -> str:
    """Returns the separator with which the header has the most of the wanted columns."""

    def columns(separator: str) -> list[str]:
        try:
            return next(_records(file, text, separator), (0, []))[1]
        except DataError:
            return []

    def fits(separator: str) -> tuple[int, int]:
        header = columns(separator)
        known = {folded(name.strip()) for name in header}
        return sum(folded(name.strip()) in known for name in wanted), len(header)

    # If several fit equally well, this is the first of them.
    return max(SEPARATORS, key=fits)


def _records(file: Path, text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yields the rows of a table that are not empty, with the lines on which they begin."""
    opened = io.StringIO(text, newline="")
    # A quote also begins a quoted cell if a space precedes it: cells are stripped later anyway.
    reader = csv.reader(opened, delimiter=separator, skipinitialspace=True, strict=True)
    begin = 1
    try:
        for row in reader:
            # A line such as "sep=;" before the header tells Excel the separator.
            told = begin == 1 and re.fullmatch("sep=.", separator.join(row))
            if not told and any(cell.strip() for cell in row):
                yield begin, row
            begin = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{file}, line {begin}: cannot be read as CSV: {error}") from None


def _rows(file: Path, text: str, separator: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Returns the names of the columns, and the rows with their line numbers."""
    records = _records(file, text, separator)
    _, first = next(records, (1, []))
    if not all(map(is_text, first)):
        raise DataError(f"{file}: cannot be read as CSV: its header is not in UTF-8")
    header = [name.strip() for name in first]
    for name, count in Counter(filter(None, header)).items():
        if count > 1:
            raise DataError(
                f"{file}: has {count} columns named {name}; rename or remove all but one"
            )
    rows = list(records)
    for line, row in rows:
        if len(row) != len(header):
            cells = counted(len(row), "cell")
            way_out = f"a cell with {SEPARATORS[separator]} in it needs quotes"
            if len(row) < len(header):
                way_out = "a cell may be empty, but not left out"
            raise DataError(
                f"{file}, line {line}: has {cells} where the header has {len(header)}; {way_out}"
            )
    return header, rows


def _find_column(file: Path, header: Sequence[str], name: str) -> str:
    """Finds a column by its name, or the only one that fits apart from case and outer spaces."""
    close = [column for column in header if folded(column) == folded(name.strip())]
    if name in close or len(close) == 1:
        return name if name in close else close[0]
    known = ", ".join(filter(None, header)) or "none"
    raise DataError(
        f"{file}: has no column {name} (its columns: {known}); the first line names the columns, "
        "and --data.image-column and --data.label-column say which two are meant"
    )


def _references(
    file: Path, folder: Path, lines: Sequence[int], cells: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Returns the reference of each row's picture, and what had to be guessed to find it.

    One look at each path now is better than an error in the middle of an epoch. Rows that name the
    same file, in whatever form, get the same reference, because a split must not separate them.
    """
    lookup = Lookup(folder)
    first: dict[object, str] = {}
    references, missing = [], []
    for line, cell in zip(lines, cells, strict=True):
        name = cell.strip()
        if is_address(name) and is_text(name):
            references.append(name)
            continue
        found = lookup.find(name)
        if len(found) != 1:
            missing.append((line, name, found))
            continue
        reference, identity = found[0]
        references.append(first.setdefault(identity, reference))
    if not missing:
        return references, lookup.notes()
    line, name, found = missing[0]
    where = f"{file}, line {line}"
    if found:
        candidates = ", ".join(reference for reference, _ in found)
        raise DataError(f"{where}: {name} may be {candidates}; name the one that is meant")
    if not is_text(name):
        raise DataError(f"{where}: cannot be read as CSV: it is not in UTF-8")
    others = f" (and {counted(len(missing) - 1, 'other')})" if len(missing) > 1 else ""
    raise DataError(
        f"{where}: there is no picture {folder / name}{others}; "
        "paths are relative to the table's folder, or to --data.root"
    )


def _repeated(references: Sequence[str], class_names: Sequence[str]) -> list[str]:
    """Returns notes on pictures that are in several rows."""
    classes: dict[str, set[str]] = {}
    for reference, name in zip(references, class_names, strict=True):
        classes.setdefault(reference, set()).add(composed(name))
    notes = []
    if repeats := len(references) - len(classes):
        notes.append(counted(repeats, "row repeats a picture", "rows repeat a picture"))
    torn = [reference for reference, names in classes.items() if len(names) > 1]
    if torn:
        names = ", ".join(sorted(classes[torn[0]]))
        notes.append(
            f"{counted(len(torn), 'picture has', 'pictures have')} more than one class "
            f"({printable(torn[0])}: {printable(names)})"
        )
    return notes


def _dead(links: Mapping[str, str]) -> list[str]:
    """Returns a note on links that lead to no picture, if there are any."""
    if not links:
        return []
    first, reason = next(iter(links.items()))
    count = counted(len(links), "link leads", "links lead")
    return [f"{count} to no picture ({printable(first)}: {reason})"]
