"""Finds out how a set of pictures is laid out: which folders are parts, and which are classes."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence, Set
from pathlib import Path
from typing import NamedTuple

from jaxch5.data.parts import TEST, TRAIN, VALID, part_of
from jaxch5.data.sources.listing import Reason, folders_in, list_folder
from jaxch5.errors import DataError
from jaxch5.util.address import expanded

# Names that take precedence over others of the same meaning.
USUAL = ("train", "valid", "val")
TABLES, ARCHIVES = (".csv", ".tsv"), (".zip", ".tar", ".tgz", ".gz", ".xz", ".bz2")


class Parts(NamedTuple):
    """Holds the folders of a set's parts, as paths relative to the set's folder.

    Attributes:
        train: The folder of the training pictures; "" stands for all pictures outside `valid`.
        valid: The folders of the validation pictures.
    """

    train: str = ""
    valid: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        return (self.train, *self.valid)

    def __str__(self) -> str:
        return " and ".join(f"{part}/" for part in self.all if part)


def parts_of(root: Path, train: str | None, valid: str | Sequence[str] | None) -> Parts:
    """Returns the parts of a set: the folders that are given, or else folders named like parts.

    Args:
        root: The set's folder.
        train: Folder of training pictures, relative to `root`; if None, one is looked for.
        valid: Folder of validation pictures, relative to `root`, or several names, of which all
            that exist are used; if None, a folder is looked for, unless `train` is ".".

    Raises:
        DataError: A given folder is missing or is given for both parts, or two folders are named
            like the same part.
    """
    chosen = None if train is None else _existing(root, train, "--data.train")
    if isinstance(valid, str):
        held_out = [_existing(root, valid, "--data.valid")]
    elif valid is not None:
        held_out = [name for name in valid if (root / name).is_dir()]
    else:
        held_out = [] if chosen == "" else _called(VALID, root, os.path.dirname(chosen or ""))
    if chosen in held_out:
        raise DataError(
            f"{root}: {train or '.'} is named both for training and for validation (--data.train, "
            "--data.valid); name two folders"
        )
    if chosen is not None:
        return Parts(chosen, tuple(held_out))
    called = [name for name in _called(TRAIN, root) if name not in held_out]
    if called and (held_out or _holds_the_classes(root, called[0])):
        return Parts(called[0], tuple(held_out))
    # A folder beside class folders is not a part merely because of its name; see `check_classes`.
    return Parts("", tuple(held_out) if valid is not None else ())


def _existing(root: Path, name: str, option: str) -> str:
    """Returns the path of an existing folder, relative to the root."""
    path = root / expanded(Path(name))
    if not path.is_dir():
        known = ", ".join(folders_in(root)) or "none"
        raise DataError(f"{root}: has no folder {name} ({option}); its folders: {known}")
    relative = Path(os.path.relpath(path, root)).as_posix()
    return "" if relative == "." else relative


def _called(part: str, root: Path, below: str = "") -> list[str]:
    """Returns folders that are named like a part of a set."""
    names = [name for name in folders_in(root / below) if part_of(name) == part]
    usual = [name for name in names if name in USUAL]
    # Which of them is meant matters only if they hold class folders.
    if len(names) > 1 and not usual and any(folders_in(root / below / name) for name in names):
        raise DataError(
            f"{root}: {names[0]} and {names[1]} are both named like folders of "
            f"{'training' if part == TRAIN else 'validation'} pictures; name one with --data.{part}"
        )
    return [os.path.join(below, name) for name in usual or names]


def _holds_the_classes(root: Path, train: str) -> bool:
    """Checks whether a folder named like a training folder is one, if there is none for validation.

    A folder without subfolders is a class, such as train (the vehicle) beside bus.
    """
    if not folders_in(root / train):
        return False
    others = [name for name in folders_in(root) if part_of(name) is None]
    return train in USUAL or not any(list_folder(root / name).pictures for name in others)


def check_classes(root: Path, names: Collection[str], tops: Set[str]) -> tuple[str, ...]:
    """Checks folders that would be classes although they are named like parts of a set.

    Args:
        root: The set's folder.
        names: Paths of the set's pictures.
        tops: The topmost folders that these pictures are in.

    Returns:
        Notes on these folders for the line that describes the data.

    Raises:
        DataError: The folders are probably not meant as classes.
    """
    parts = sorted(top for top in tops if part_of(top) is not None)
    if not parts:
        return ()
    shown, are = " and ".join(f"{top}/" for top in parts), "is" if len(parts) == 1 else "are"
    inner = {name.partition("/")[0] for name in names if name.count("/") > 1}
    nested = [top for top in parts if top in inner]
    if len(parts) == len(tops) and nested:
        raise DataError(
            f"{root}: {shown} {are} named like parts of a set, and none is for training; name "
            "the one for training with --data.train"
        )
    if len(parts) == len(tops):
        raise DataError(
            f"{root}: {shown} {are} named like parts of a set, and there are no class folders in "
            f"{'it' if len(parts) == 1 else 'them'}; {where_classes_are(root, parts)}"
        )
    if nested:
        option = TRAIN if part_of(nested[0]) == TRAIN else VALID
        raise DataError(
            f"{root}: {nested[0]}/ is named like a part of a set, but is beside class folders; "
            f"name it with --data.{option} {nested[0]}, or make it a class with --data.train ."
        )
    return (f"{shown} {are} treated as {'a class' if len(parts) == 1 else 'classes'}",)


# Patterns of file names that often contain a class, as in cat_1.jpg.
PATTERNS = (r"(.+)_\d+\.\w+", r"(.+)-\d+\.\w+", r"(.+) \(\d+\)\.\w+", r"([^\d]+)\d+\.\w+")


def where_classes_are(
    root: Path, parts: Sequence[str], others: Sequence[str] = (), names: Sequence[str] = ()
) -> str:
    """Returns advice on where to find the classes of a set whose folders do not tell them.

    Args:
        root: The set's folder.
        parts: Folders in `root` that are named like parts of a set.
        others: Other folders in `root` that may hold tables.
        names: Paths of the pictures, whose file names may tell the class.
    """
    folders = ("", *parts, *others)
    tables = [place for folder in folders for place in ending_in(root / folder, TABLES)]
    as_in = next((f" '{pattern}'" for pattern in PATTERNS if _tells(pattern, names)), "")
    ways = [f"--data.pattern{as_in}, if file names tell the class", "a folder for each class"]
    if tables:
        more = f" (or {', '.join(tables[1:3])})" if tables[1:] else ""
        root_too = "with --data.root to name the folder that its paths are relative to"
        ways.insert(0, f"--data.path {tables[0]}{more}, {root_too}")
    if len(parts) > 1:
        ways.append(f"--data.train . if {' and '.join(parts)} are classes")
    return "use " + "; or ".join(ways)


def _tells(pattern: str, names: Sequence[str]) -> bool:
    found = [re.fullmatch(pattern, os.path.basename(name)) for name in names]
    return all(found) and 1 < len({one and one[1] for one in found}) <= len(names) / 2


def ending_in(folder: Path, endings: tuple[str, ...]) -> list[str]:
    """Returns the files in a folder whose names end with one of `endings`, in any letter case."""
    return [
        os.path.join(folder, name)
        for name in sorted(os.listdir(folder))
        if name.lower().endswith(endings) and not name.startswith(".")
    ]


def not_used(parts: Parts, pictures: Sequence[str]) -> dict[Reason, list[str]]:
    """Groups the pictures that belong to no part by their topmost folders.

    Example:
        >>> reasons = not_used(Parts("train", ("valid",)), ["test/1.jpg", "test/2.jpg"])
        >>> next(iter(reasons)).many
        'pictures in test/, not used (--data.valid test validates on them)'
    """
    tops: dict[str, list[str]] = {}
    for name in pictures:
        tops.setdefault(name.rpartition("/")[0] and name.partition("/")[0], []).append(name)
    reasons = {}
    for top, names in tops.items():
        is_test = part_of(top) == TEST
        way = f" (--data.valid {top} validates on them)" if is_test else ""
        where = f"in {top}/, not used{way}" if top else f"beside {parts}, not used"
        reasons[Reason(f"picture {where}", f"pictures {where}", suspect=not is_test)] = names
    return reasons
