"""Labelled pictures in folders: which there are, and how their place or name tells their class."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from jaxch5.data.image import SUFFIXES
from jaxch5.data.source import FOLDER, Source, labelled_files
from jaxch5.errors import DataError
from jaxch5.text import sort_key


def from_folder(
    path: str | os.PathLike[str], train: str = "train", valid: Sequence[str] = ("valid", "val")
) -> Source:
    """Pictures in class folders, or in train and valid folders of class folders.

    A picture's class is the first folder on its way. Hidden files are passed over, and so are
    files that do not end like a picture. Where there is a valid folder beside the train folder,
    the column "folder" says which of them an item lies in, for `folder_split`.

    Args:
        path: of the folder.
        train: name of the folder of training pictures.
        valid: possible names of the folder of validation pictures.

    Raises:
        DataError: there is no such folder, or it holds no pictures in at least two classes.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("cat", "dog"):
        ...     (folder / name).mkdir()
        ...     Image.new("RGB", (4, 4)).save(folder / name / "1.png")
        >>> source = from_folder(folder)
        >>> source.classes, list(source.references)
        (('cat', 'dog'), ['cat/1.png', 'dog/1.png'])
    """
    root = existing_folder(path)
    tops = folders_in(root)
    held_out = [name for name in valid if name in tops]
    # A folder called train that holds pictures itself is a class: trains, beside buses.
    has_parts = train in tops and (held_out or folders_in(root / train))
    parts = [train, *held_out] if has_parts else [""]
    files = [(part, name) for part in parts for name in find_pictures(root / part)]
    if not files:
        raise DataError(f"{root}: holds no pictures ({', '.join(SUFFIXES)})")
    loose = next((name for _, name in files if "/" not in name), None)
    if loose is not None:
        raise DataError(
            f"{root}: {loose} lies in no class folder; put each class into a folder of its own, "
            "or take the class from the file names with from_regex"
        )
    references = [f"{part}/{name}" if part else name for part, name in files]
    names = [name.partition("/")[0] for _, name in files]
    columns = {FOLDER: [part for part, _ in files]} if len(parts) > 1 else {}
    source = labelled_files(root, references, names, columns)
    if columns:
        _same_classes(root, source, train)
    return source


def from_regex(path: str | os.PathLike[str], pattern: str) -> Source:
    r"""Pictures whose file names tell their class.

    Args:
        path: of the folder; folders in it are searched too.
        pattern: regular expression for the whole file name; its first group is the class, as in
            `r"(.+)_\d+\.jpg"`.

    Raises:
        DataError: there is no such folder, no picture in at least two classes, or a name that the
            pattern does not match.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("Birman_1.png", "great_dane_7.png"):
        ...     Image.new("RGB", (4, 4)).save(folder / name)
        >>> from_regex(folder, r"(.+)_\d+\.png").classes
        ('Birman', 'great_dane')
    """
    root = existing_folder(path)
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise DataError(f"pattern {pattern}: is no regular expression: {error}") from None
    if expression.groups < 1:
        raise DataError(f"pattern {pattern}: has no group for the class, as in (.+)_\\d+\\.jpg")
    references = list(find_pictures(root))
    if not references:
        raise DataError(f"{root}: holds no pictures ({', '.join(SUFFIXES)})")
    matches = [expression.fullmatch(name.rpartition("/")[2]) for name in references]
    missed = [name for name, match in zip(references, matches, strict=True) if match is None]
    if missed:
        shown = ", ".join(missed[:3]) + (", ..." if len(missed) > 3 else "")
        raise DataError(
            f"pattern {pattern}: does not match {len(missed)} of {len(references)} file names "
            f"in {root}: {shown}"
        )
    return labelled_files(root, references, [match[1] for match in matches if match])


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


def _same_classes(root: Path, source: Source, train: str) -> None:
    in_train = np.array([folder == train for folder in source.columns[FOLDER]])
    for number in np.unique(source.labels[~in_train]):
        if not np.any(source.labels[in_train] == number):
            raise DataError(
                f"{root}: class {source.classes[number]} has pictures for validation "
                f"but none in {train}/; put some there, or remove the class"
            )
