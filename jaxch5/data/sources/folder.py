"""Reads labelled pictures from folders; the class is in the folder's name or the file's."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxch5.data.parts import TEST, TRAIN, VALID, part_of
from jaxch5.data.source import FOLDER, IS_VALID, Source, labelled_files
from jaxch5.data.sources.layout import (
    ARCHIVES,
    TABLES,
    Parts,
    check_classes,
    ending_in,
    not_used,
    parts_of,
    where_classes_are,
)
from jaxch5.data.sources.listing import (
    EMPTY,
    HIDDEN,
    Listing,
    PassedOver,
    Reason,
    described,
    folders_in,
    joined,
    list_folder,
)
from jaxch5.errors import DataError
from jaxch5.util.address import expanded
from jaxch5.util.text import composed


def from_folder(
    path: str | os.PathLike[str],
    train: str | None = None,
    valid: str | Sequence[str] | None = None,
) -> Source:
    """Reads pictures in class folders, or in train and valid folders that hold class folders.

    A picture's class is the first folder of its path, counted from the train or valid folder if
    there is one, and otherwise from the set's folder. Other files are listed in the source's
    `passed_over`, with the reason. If there is a folder for validation, the column "folder" says
    which of these folders an item is in (for use by `folder_split`), and the column "is_valid"
    says whether it is held out. The usual names of these folders, such as train and val, are
    recognized in any letter case.

    Args:
        path: The set's folder.
        train: Folder of the training pictures, below `path`; "." takes all pictures that are not
            in `valid`, whatever their folders are called. If None, a training folder is looked for.
        valid: Folder of the validation pictures, or several names, of which all that exist are
            used; if None, a validation folder is looked for, unless `train` is ".".

    Raises:
        DataError: A folder or its pictures are missing, a picture is in no class folder, a class
            has no training pictures, or it is unclear which folders are the parts of the set.

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
    parts = parts_of(root, train, valid)
    found = _find(root, parts)
    classes = [name.partition("/")[0] for name in found.names]
    loose = next((item for item, name in enumerate(found.names) if name == classes[item]), None)
    if not parts.train and train is None and not (parts.valid and loose is not None):
        found = found._replace(notes=check_classes(root, found.names, set(classes)))
    if loose is not None:
        folders = [part for part in parts.all if part]
        raise DataError(
            f"{root}: {found.references[loose]} is in no class folder; "
            f"{where_classes_are(root, folders, (), found.names)}"
            f"{'' if folders else _above(root)}"
        )
    passed_over = joined(("", found.passed_over), ("", {EMPTY: found.empty}))
    found = found._replace(passed_over=passed_over)
    source = _source(root, parts, found, classes)
    if parts.valid:
        _same_classes(root, source, parts.train or TRAIN)
    return replace(source, hint=_other_classes(root, found)) if len(set(classes)) == 1 else source


def from_regex(
    path: str | os.PathLike[str],
    pattern: str,
    train: str | None = None,
    valid: str | Sequence[str] | None = None,
) -> Source:
    r"""Reads pictures whose file names contain their class.

    Args:
        path: The set's folder; folders in it are searched too.
        pattern: Regular expression for the whole file name; its first group is the class, as in
            `r"(.+)_\d+\.jpg"`. How a file system stores an umlaut does not matter.
        train, valid: Folders of the training and of the validation pictures, as for `from_folder`;
            if both are None, all pictures are read, whatever folder they are in.

    Raises:
        DataError: A folder or pictures are missing, or the pattern is not valid or finds no class.

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
    option = f"--data.pattern {pattern}"
    try:
        expression = re.compile(composed(pattern))
    except re.error as error:
        raise DataError(f"{option}: is not a regular expression: {error}") from None
    if expression.groups < 1:
        raise DataError(f"{option}: has no group for the class, as in (.+)_\\d+\\.jpg")
    whole = train is None and valid is None
    parts = Parts() if whole else parts_of(root, train, valid)
    found = _find(root, parts)
    names = [name.rpartition("/")[2] for name in found.names]
    matches = [expression.fullmatch(composed(name)) for name in names]
    _check_all(option, root, names, [match is not None for match in matches], "does not match")
    classes = [match[1] or "" for match in matches if match]
    reason = "finds no class (its first group is empty) in"
    _check_all(option, root, names, [name.strip() != "" for name in classes], reason)
    if whole:
        found = found._replace(notes=_mixed(found.names))
    return _source(root, parts, found, classes)


class _Found(NamedTuple):
    """Holds what is below a set's folder.

    Attributes:
        references: Paths of the pictures, relative to the set's folder.
        names: Paths of the pictures, relative to the folders of their parts.
        parts: The part that each picture is in.
        passed_over: All other files, grouped by reason.
        empty: Folders that would be classes, but hold no pictures.
        notes: Phrases for the line that describes the data.
    """

    references: list[str]
    names: list[str]
    parts: list[str]
    passed_over: dict[Reason, list[str]]
    empty: list[str]
    notes: tuple[str, ...] = ()


def _find(root: Path, parts: Parts) -> _Found:
    """Returns all pictures of a set's parts.

    Raises:
        DataError: A part's folder cannot be listed, or the parts hold no pictures.
    """
    folders = {os.path.join(root, part) for part in parts.all if part}
    found = _Found([], [], [], {}, [])
    passed_over: list[tuple[str, PassedOver]] = []
    for part in parts.all:
        listing = list_folder(existing_folder(root / part), folders)
        prefix = f"{part}/" if part else ""
        names = listing.pictures
        found.references.extend([prefix + name for name in names] if prefix else names)
        found.names.extend(names)
        found.parts.extend([part] * len(names))
        found.empty.extend(prefix + name for name in _without_pictures(listing))
        passed_over.append((prefix, listing.passed_over))
    if parts.train:
        rest = list_folder(root, folders)
        passed_over += [("", not_used(parts, rest.pictures)), ("", rest.passed_over)]
    found.passed_over.update(joined(*passed_over))
    if not found.names:
        raise DataError(_no_pictures(root, found.passed_over))
    return found


def _source(root: Path, parts: Parts, found: _Found, classes: Sequence[str]) -> Source:
    columns: dict[str, list[str | bool]] = {}
    if parts.valid:
        columns[FOLDER] = [part or TRAIN for part in found.parts]
        columns[IS_VALID] = [part in parts.valid for part in found.parts]
    source = labelled_files(root, found.references, classes, columns)
    notes = (*source.notes, *found.notes, *_left_beside(root))
    in_parts = bool(parts.valid)
    return replace(source, in_parts=in_parts, passed_over=found.passed_over, notes=notes)


def existing_folder(path: str | os.PathLike[str]) -> Path:
    """Returns the path, if it is a folder that can be listed.

    Raises:
        DataError: The path is not such a folder.
    """
    root = expanded(Path(path))
    try:
        os.scandir(root).close()
    except FileNotFoundError:
        raise DataError(f"{root}: there is no such folder (--data.path)") from None
    except NotADirectoryError:
        raise DataError(f"{root}: is a file, not a folder of pictures (--data.path)") from None
    except OSError as error:
        raise DataError(f"{root}: cannot be read: {error.strerror}") from None
    return root


def _no_pictures(root: Path, passed_over: Mapping[Reason, Sequence[str]]) -> str:
    """Returns the message about a folder without pictures."""
    line = f"{root}: holds no pictures"
    if passed_over:
        line += f"; passed over: {described(passed_over)}"
    if inside := [*ending_in(root, TABLES), *ending_in(root, ARCHIVES)]:
        line += f"; {os.path.basename(inside[0])} is there; to use it: --data.path {inside[0]}"
    return line


def _check_all(
    option: str, root: Path, names: Sequence[str], good: Sequence[bool], reason: str
) -> None:
    bad = [name for name, is_good in zip(names, good, strict=True) if not is_good]
    if bad:
        shown = ", ".join(bad[:3]) + (", ..." if len(bad) > 3 else "")
        raise DataError(
            f"{option}: {reason} {len(bad)} of {len(names)} file names in {root}: {shown}"
        )


def _without_pictures(listing: Listing) -> list[str]:
    """Returns folders that hold no pictures, but seem to be meant as classes."""
    # An empty folder "runs" is not a class: it stays behind when the runs in it are removed.
    taken = {"runs"}
    for reason, paths in listing.passed_over.items():
        for path in paths:
            top, _, below = path.partition("/")
            if not below or (reason is not HIDDEN and not reason.suspect):
                taken.add(top)
    return [f"{name}/" for name in listing.barren if name not in taken]


def _mixed(names: Iterable[str]) -> tuple[str, ...]:
    """Returns a note if, because of a pattern, the folders of several parts are read as one set."""
    tops = sorted({name.partition("/")[0] for name in names if "/" in name})
    parts = {part_of(top): top for top in tops if part_of(top)}
    if len(parts) < 2:
        return ()
    train, valid = parts.get(TRAIN), parts.get(VALID) or parts.get(TEST)
    way = f"; --data.train {train} --data.valid {valid} does" if train and valid else ""
    folders = " and ".join(f"{top}/" for top in parts.values())
    return (f"--data.pattern does not tell {folders} apart{way}",)


def _other_classes(root: Path, found: _Found) -> str:
    """Returns advice for a set whose only class may not be meant as a class."""
    part, only = found.parts[0], found.names[0].partition("/")[0]
    folders = {name.rpartition("/")[0] for name in found.names}
    if folders == {only}:
        return where_classes_are(root, [], [os.path.join(part, only)], found.names)
    # The deepest folder that holds all folders with pictures; if only one folder has pictures, the
    # first folder of its path.
    above = os.path.commonpath(folders) if len(folders) > 1 else only
    return f"if its folders are the classes, use --data.path {root / part / above}"


def _above(root: Path) -> str:
    """Returns advice if the root is probably a class folder, given instead of the set's folder."""
    above, beside = _beside(root)
    return f"; or --data.path {above} if {root.absolute().name} is a class" if beside[1:] else ""


def _left_beside(root: Path) -> tuple[str, ...]:
    """Returns a note if the root is a training folder and a validation folder is beside it."""
    above, beside = _beside(root)
    own = root.absolute().name
    return tuple(
        f"{name}/ beside {own}/ is not used; --data.path {above} validates on it"
        for name in beside
        if part_of(own) == TRAIN and part_of(name) == VALID
    )


def _beside(root: Path) -> tuple[Path, list[str]]:
    """Returns a folder's parent, and the names of the parent's folders if it can be listed."""
    above = root.absolute().parent
    with suppress(OSError):
        return above, folders_in(above)
    return above, []


def _same_classes(root: Path, source: Source, train: str) -> None:
    in_valid = np.array(source.columns[IS_VALID], bool)
    for number in np.setdiff1d(source.labels[in_valid], source.labels[~in_valid]):
        raise DataError(
            f"{root}: class {source.classes[number]} has validation pictures "
            f"but none in {train}/; put some there, or remove the class"
        )
