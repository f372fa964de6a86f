"""Tells which part of a set a folder's name or a word in a table stands for."""

from __future__ import annotations

import re
from collections.abc import Sequence

from jaxch5.data.source import IS_VALID, Source
from jaxch5.errors import DataError
from jaxch5.util.text import folded

TRUE, FALSE = ("true", "1", "yes"), ("false", "0", "no", "")

# The usual names of a set's parts, for folders and for words in a table.
TRAIN, VALID, TEST = "train", "valid", "test"
PART_NAMES = {
    TRAIN: ("train", "training", "trn"),
    VALID: (
        "valid",
        "val",
        "validation",
        "validate",
        "dev",
        "devel",
        "development",
        "eval",
        "evaluation",
    ),
    TEST: ("test", "testing", "tst", "holdout"),
}
# Names of columns that rarely hold anything but the parts of a set.
SPLIT_NAMES = ("split", "subset", "part", "set")


def part_of(name: str) -> str | None:
    """Returns the part of a set that a name stands for: train, valid, test, or None for no part.

    Case does not matter, and neither do common additions, such as "set", "images" or a year.

    Args:
        name: The name of a folder, or a word in a table.

    Example:
        >>> part_of("Training_Set"), part_of("val2017"), part_of("test images"), part_of("trains")
        ('train', 'valid', 'test', None)
    """
    word = re.sub(r"[\s_.-]+|(19|20)\d\d$", "", name.casefold())
    word = re.sub(r"(sets?|data|split|images?|imgs?)$", "", word) or word
    return next((part for part, names in PART_NAMES.items() if word in names), None)


def parts_in(values: Sequence[str | bool], column: str) -> list[str]:
    """Returns the part that each value of a column names; true means validation, false training."""
    words = [str(value).strip().casefold() for value in values]
    known = {word: part for word in set(words) if (part := _part(word))}
    if unknown := [word for word in dict.fromkeys(words) if word not in known]:
        raise DataError(
            f"column {column}: {unknown[0]} is neither true ({', '.join(TRUE)}) nor false "
            f"({', '.join(filter(None, FALSE))}, or empty), nor train, valid or test; "
            "correct it, or choose --data.split random"
        )
    if "" in known and any(map(part_of, known)):
        raise DataError(
            f"column {column}: is empty in one row and names a part in another; fill in every row"
        )
    return [known[word] for word in words]


def _part(word: str) -> str | None:
    return VALID if word in TRUE else TRAIN if word in FALSE else part_of(word)


def find_column(source: Source, column: str) -> str | None:
    """Returns the column with this name, ignoring case and outer spaces; None if there is none."""
    close = [name for name in source.columns if folded(name.strip()) == folded(column.strip())]
    return column if column in close else next(iter(close), None)


def own_column(source: Source) -> str | None:
    """Finds the column that splits a source: `is_valid`, else the one that names parts, else None.

    A column called `split`, `subset`, `part` or `set` is found even if some of its values name no
    part, so that a wrong value is an error and not a reason to overlook the column.

    Raises:
        DataError: There is no column `is_valid`, and either several columns name parts, or a column
            with a name such as `split` holds only true and false, which may mean either part.

    Example:
        >>> from dataclasses import replace
        >>> from jaxch5.data.source import digits
        >>> parts = ["train", "valid", "test"] * 599
        >>> own_column(replace(digits(), columns={"Subset": parts, "by": ["me"] * 1797}))
        'Subset'
    """
    if (column := find_column(source, IS_VALID)) is not None:
        return column
    found = [name for name, values in source.columns.items() if _is_split(name, values)]
    if len(found) > 1:
        known = " and ".join(found)
        raise DataError(f"columns {known} name parts; say which one with --data.split-column")
    if found:
        return found[0]
    for name, values in source.columns.items():
        words = _words(values)
        if _is_called_split(name) and words <= {*TRUE, *FALSE} and len(set(map(_part, words))) > 1:
            raise DataError(
                f"column {name}: is {' or '.join(sorted(words))}; if true means validation, choose "
                f"--data.split-column {name}, else --data.split random, or write train and valid"
            )
    return None


def unused_columns(source: Source, used: str | None) -> list[str]:
    """Returns the other columns that look as if they were meant to split a source.

    Args:
        source: Labelled pictures.
        used: Name of the column that splits them; None if they are split at random.

    Example:
        >>> from dataclasses import replace
        >>> from jaxch5.data.source import digits
        >>> unused_columns(replace(digits(), columns={"set": ["A", "B", "C"] * 599}), None)
        ['set']
    """
    return [
        name
        for name, values in source.columns.items()
        if name != used and (_is_called_split(name) or _names_parts(values))
    ]


def _is_split(name: str, values: Sequence[str | bool]) -> bool:
    """Checks, by its values and its name, whether a column is meant to name parts."""
    parts = {part_of(word) for word in _words(values)}
    if _is_called_split(name):
        # A table that names a single part, such as train alone, is to be split at random.
        return parts != {None} and len(parts) > 1
    return _names_parts(values) and None not in parts


def _names_parts(values: Sequence[str | bool]) -> bool:
    """Checks whether both train and another part are named."""
    parts = {part_of(word) for word in _words(values)} - {None}
    return TRAIN in parts and len(parts) > 1


def _is_called_split(name: str) -> bool:
    return folded(name.strip()) in SPLIT_NAMES


def _words(values: Sequence[str | bool]) -> set[str]:
    return {str(value).strip().casefold() for value in set(values)}
