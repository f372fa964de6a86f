"""Defines splits, which decide which items are trained on and which are held out.

A split is a function from a source to two arrays of item numbers, for training and for validation.
No item, and no item's name, may be in both arrays. Items that are in neither array, such as test
pictures, are not used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Int

from jaxch5.data.source import FOLDER, IS_VALID, Source, check_several
from jaxch5.errors import DataError
from jaxch5.util.text import composed, counted, folded, shown_as_call

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

Split = Callable[[Source], tuple[Int[np.ndarray, "train"], Int[np.ndarray, "valid"]]]


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


@shown_as_call
def random_split(valid_fraction: float = 0.2, seed: int = 42, stratify: bool = False) -> Split:
    """Holds out items at random, the same ones on every machine with the same files.

    Args:
        valid_fraction: Share of the items to hold out, between 0 and 1.
        seed: Seed for the draw.
        stratify: Whether to draw from each class separately, to hold out the same share of each.

    Raises:
        DataError: The fraction is not between 0 and 1. The split itself raises it if a part is
            empty, or if a class has fewer than two items or no item for training.

    Example:
        >>> from jaxch5.data.source import digits
        >>> train, valid = random_split(0.2)(digits())
        >>> len(train), len(valid)
        (1438, 359)
    """
    if not 0 < valid_fraction < 1:
        raise DataError(f"valid_fraction = {valid_fraction}: should be between 0 and 1")

    def split(source: Source) -> tuple[np.ndarray, np.ndarray]:
        # A picture that a source lists twice is drawn only once, so that it is in only one part.
        first: dict[str, int] = {}
        same = [first.setdefault(name, item) for item, name in enumerate(source.references)]
        distinct = list(first.values())
        counts = np.bincount(source.labels[distinct], minlength=len(source.classes))
        if np.any(counts < 2):
            number = int(np.argmin(counts))
            pictures = "1 picture" if counts[number] else "no picture"
            raise DataError(
                f"class {source.classes[number]} has {pictures}: training and validation "
                "need one each; add pictures, or remove the class"
            )
        # Sorted by name before the draw, so that the order of items in a source does not matter.
        by_name = np.array(sorted(distinct, key=lambda item: composed(source.references[item])))
        shuffled = by_name[np.random.Generator(np.random.PCG64(seed)).permutation(len(by_name))]
        if not stratify:
            held_out = shuffled[: int(valid_fraction * len(shuffled))]
        else:
            labels = source.labels[shuffled]
            held_out = np.concatenate(
                [
                    shuffled[labels == number][
                        : min(max(1, round(valid_fraction * count)), count - 1)
                    ]
                    for number, count in enumerate(counts)
                ]
            )
        in_valid = np.zeros(len(source), bool)
        in_valid[held_out] = True
        train, valid = _parts(in_valid[same], f"valid_fraction = {valid_fraction}")
        way_out = "--data.stratify (stratify=True) holds out the same share of each class"
        check_classes(source, train, way_out)
        return train, valid

    return split


@shown_as_call
def folder_split(train: str | None = None, valid: str | Sequence[str] | None = None) -> Split:
    """Splits by the folder of each item, which `from_folder` and some other functions record.

    None stands for the usual names of a part's folder. If both arguments are None, a column
    `is_valid`, such as the one that `from_folder` adds, takes precedence over the folders' names.

    Args:
        train: Name of the folder of training pictures.
        valid: Name of the folder of validation pictures, or several names that it may have.

    Raises:
        DataError: Raised by the split if a part has no folder, or a folder belongs to neither part.

    Example:
        >>> from dataclasses import replace
        >>> from jaxch5.data.source import from_arrays
        >>> pictures = np.zeros((3, 8, 8), np.uint8)
        >>> source = from_arrays(pictures, np.array([0, 1, 0]), ["cat", "dog"])
        >>> source = replace(source, columns={"folder": ["train", "train", "test"]})
        >>> [part.tolist() for part in folder_split(valid="test")(source)]
        [[0, 1], [2]]
    """
    names = (valid,) if isinstance(valid, str) else valid

    def part(folder: str) -> str | None:
        if names is not None and folder in names:
            return VALID
        if train is not None and folder == train:
            return TRAIN
        called = part_of(folder)
        asked = {TRAIN: train, VALID: names}
        return called if called in asked and asked[called] is None else None

    def split(source: Source) -> tuple[np.ndarray, np.ndarray]:
        folders = list(map(str, _column(source, FOLDER)))
        if train is None and names is None and IS_VALID in source.columns:
            return _parts(np.array(source.columns[IS_VALID], bool), "folder_split")
        parts = {folder: part(folder) for folder in set(folders)}
        unknown = sorted(folder for folder, known in parts.items() if known is None)
        if unknown:
            asked = f"{train or TRAIN} nor {' or '.join(names or PART_NAMES[VALID])}"
            raise DataError(
                f"folder {unknown[0]}: is neither {asked}; choose --data.split random, or "
                "move the folder elsewhere"
            )
        return _parts(np.array([parts[folder] == VALID for folder in folders]), "folder_split")

    return split


@shown_as_call
def column_split(column: str = IS_VALID) -> Split:
    """Holds out the items for which a column is true, which tables write as true, 1 or yes.

    The column may instead name each item's part (train, valid or test). Items for testing are then
    not used, unless no item is for validation: in that case they are held out.

    Args:
        column: Name of the column.

    Raises:
        DataError: Raised by the split if there is no such column, a part has no items, or a value
            is neither true nor false (false, 0 or no, or empty if no value names a part) and does
            not name a part.

    Example:
        >>> from dataclasses import replace
        >>> from jaxch5.data.source import from_arrays
        >>> pictures = np.zeros((3, 8, 8), np.uint8)
        >>> source = from_arrays(pictures, np.array([0, 1, 0]), ["cat", "dog"])
        >>> source = replace(source, columns={"is_valid": ["no", "yes", ""]})
        >>> [part.tolist() for part in column_split()(source)]
        [[0, 2], [1]]
    """

    def split(source: Source) -> tuple[np.ndarray, np.ndarray]:
        parts = np.array(_parts_in(_column(source, column), column))
        # As with folders, items for testing are held out if no item is for validation.
        valid = parts == (VALID if VALID in parts else TEST)
        return _checked(np.flatnonzero(parts == TRAIN), np.flatnonzero(valid), f"column {column}")

    return split


def _parts_in(values: Sequence[str | bool], column: str) -> list[str]:
    """Returns the part that each value of a column names; true means validation, false training."""
    words = [str(value).strip().casefold() for value in values]
    known = {word: part for word in set(words) if (part := _part(word))}
    if unknown := [word for word in dict.fromkeys(words) if word not in known]:
        raise DataError(
            f"column {column}: {unknown[0]} is neither true ({', '.join(TRUE)}) nor false "
            f"({', '.join(filter(None, FALSE))}, or empty), nor train, valid or test"
        )
    if "" in known and any(map(part_of, known)):
        raise DataError(
            f"column {column}: is empty in one row and names a part in another; fill it everywhere"
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

    Raises:
        DataError: There is no column `is_valid`, and several columns name parts.

    Example:
        >>> from dataclasses import replace
        >>> from jaxch5.data.source import digits
        >>> parts = ["train", "valid", "test"] * 599
        >>> own_column(replace(digits(), columns={"Subset": parts, "by": ["me"] * 1797}))
        'Subset'
    """
    if (column := find_column(source, IS_VALID)) is not None:
        return column
    found = [name for name, values in source.columns.items() if names_parts(values)]
    if len(found) > 1:
        known = " and ".join(found)
        raise DataError(f"columns {known} name parts; say which one with --data.split-column")
    return found[0] if found else None


def names_parts(values: Sequence[str | bool]) -> bool:
    """Checks whether every value names a part, and both train and another part are named."""
    parts = {part_of(str(word)) for word in set(values)}
    return TRAIN in parts and len(parts) > 1 and None not in parts


@shown_as_call
def given_split() -> Split:
    """Splits as the source says: by its folders, by `is_valid`, or by a column that names parts.

    Raises:
        DataError: Raised by the split if the source has none of these, or they make no valid split.

    Example:
        >>> from dataclasses import replace
        >>> from jaxch5.data.source import from_arrays
        >>> pictures = np.zeros((3, 8, 8), np.uint8)
        >>> source = from_arrays(pictures, np.array([0, 1, 0]), ["cat", "dog"])
        >>> source = replace(source, columns={"folder": ["train", "valid", "train"]})
        >>> [part.tolist() for part in given_split()(source)]
        [[0, 2], [1]]
    """

    def split(source: Source) -> tuple[np.ndarray, np.ndarray]:
        if FOLDER in source.columns:
            return folder_split()(source)
        return column_split(own_column(source) or IS_VALID)(source)

    return split


def _column(source: Source, name: str) -> Sequence[str | bool]:
    if name not in source.columns:
        known = ", ".join(source.columns) or "none"
        raise DataError(
            f"split: the source has no column {name} (it has {known}); columns come from a table, "
            "or from train and valid folders; --data.split random needs none"
        )
    return source.columns[name]


def divide(source: Source, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Splits a source into items for training and for validation, and checks that both can be used.

    Raises:
        DataError: The split fails, an item's name is in both parts, a class has no picture for
            training, or there is only one class.
    """
    check_several(source)
    train, valid = split(source)
    names = source.references
    # A folder is part of its items' names (references), so two parts cannot share a name.
    apart = FOLDER in source.columns
    shared = set() if apart else {names[item] for item in train} & {names[item] for item in valid}
    if shared:
        others = f" (and {counted(len(shared) - 1, 'other')})" if len(shared) > 1 else ""
        raise DataError(
            f"{min(shared)}: is both for training and for validation{others}; put all its rows "
            "into one part, or split by --data.split random"
        )
    check_classes(source, train, "put some into training, or remove the class")
    return train, valid


def check_classes(source: Source, train: Int[np.ndarray, "train"], way_out: str) -> None:
    """Checks that every class has training pictures.

    Raises:
        DataError: A class has no picture in training.
    """
    counts = np.bincount(source.labels[train], minlength=len(source.classes))
    if missing := [source.classes[number] for number in np.flatnonzero(counts == 0)]:
        others = f" (and {counted(len(missing) - 1, 'other')})" if len(missing) > 1 else ""
        raise DataError(f"class {missing[0]} has no picture for training{others}: {way_out}")


def _parts(in_valid: Bool[np.ndarray, "items"], what: str) -> tuple[np.ndarray, np.ndarray]:
    return _checked(np.flatnonzero(~in_valid), np.flatnonzero(in_valid), what)


def _checked(
    train: Int[np.ndarray, "train"], valid: Int[np.ndarray, "valid"], what: str
) -> tuple[np.ndarray, np.ndarray]:
    if not len(train) or not len(valid):
        raise DataError(
            f"{what}: leaves {counted(len(train), 'picture')} for training and {len(valid):,} for "
            "validation; each needs at least one"
        )
    return train, valid
