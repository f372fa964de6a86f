"""Defines splits, which decide which items are trained on and which are held out.

A split is a function from a source to two arrays of item numbers, for training and for validation.
No item, and no item's name, may be in both arrays. Items that are in neither array, such as test
pictures, are not used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Int

from jaxch5.data.parts import PART_NAMES, TEST, TRAIN, VALID, own_column, part_of, parts_in
from jaxch5.data.source import FOLDER, IS_VALID, Source, check_several
from jaxch5.errors import DataError
from jaxch5.util.seeds import check_seed
from jaxch5.util.text import composed, counted, shown_as_call

Split = Callable[[Source], tuple[Int[np.ndarray, "train"], Int[np.ndarray, "valid"]]]


@shown_as_call
def random_split(valid_fraction: float = 0.2, seed: int = 42, stratify: bool = False) -> Split:
    """Holds out items at random, the same ones on every machine with the same files.

    Args:
        valid_fraction: Share of the items to hold out, between 0 and 1.
        seed: Seed for the draw.
        stratify: Whether to draw from each class separately, to hold out the same share of each.

    Raises:
        DataError: The fraction is not between 0 and 1. The split itself raises this error if a part
            is empty, or if a class has fewer than two items or no item for training.
        ConfigError: The seed is not a whole number from 0 to 2**32 - 1.

    Example:
        >>> from jaxch5.data.source import digits
        >>> train, valid = random_split(0.2)(digits())
        >>> len(train), len(valid)
        (1438, 359)
    """
    if not 0 < valid_fraction < 1:
        raise DataError(f"valid_fraction = {valid_fraction}: should be between 0 and 1")
    drawn_from = check_seed(seed, "random_split: seed")

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
        shuffled = by_name[
            np.random.Generator(np.random.PCG64(drawn_from)).permutation(len(by_name))
        ]
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
            return column_split(IS_VALID)(source)
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
    """Holds out the items for which a column is true; a table may write this as true, 1 or yes.

    The column may instead name each item's part (train, valid or test). Items for testing are then
    not used, unless no item is for validation: in that case they are held out.

    Args:
        column: Name of the column.

    Raises:
        DataError: Raised by the split if there is no such column, a part has no items, or a value
            neither names a part nor means true or false. False is written as false, 0 or no, or as
            an empty cell if no value of the column names a part.

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
        parts = np.array(parts_in(_column(source, column), column))
        # As with folders, items for testing are held out if no item is for validation.
        valid = parts == (VALID if VALID in parts else TEST)
        return _checked(np.flatnonzero(parts == TRAIN), np.flatnonzero(valid), f"column {column}")

    return split


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
        if source.in_parts:
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
        DataError: The split fails, or does not return two arrays of item numbers or masks; a part
            is empty, or has an item twice; an item, or its name, is in both parts; a class has no
            picture for training; or there is only one class.
    """
    check_several(source)
    parts = split(source)
    if not isinstance(parts, tuple | list) or len(parts) != 2:
        raise DataError(
            f"split: should return two arrays, of items for training and for validation, not "
            f"{counted(len(parts), 'part') if isinstance(parts, tuple | list) else repr(parts)}"
        )
    train = _items(parts[0], "for training", len(source))
    valid = _items(parts[1], "for validation", len(source))
    _checked(train, valid, "split")
    names = source.references
    shared = {names[item] for item in np.intersect1d(train, valid)}
    # The items of a source in parts have different names, or were compared when they were packed.
    if not source.in_parts:
        shared |= {names[item] for item in train} & {names[item] for item in valid}
    if shared:
        others = f" (and {counted(len(shared) - 1, 'other')})" if len(shared) > 1 else ""
        raise DataError(
            f"{min(shared)}{others} is both for training and for validation; put all its rows "
            "into one part, or choose --data.split random"
        )
    check_classes(source, train, "use some of its pictures for training, or remove the class")
    return train, valid


def _items(part: object, what: str, count: int) -> Int[np.ndarray, "items"]:
    """Returns the item numbers of a part, which a split may also give as a list or as a mask."""
    try:
        items = np.asarray(part)
    except ValueError:
        items = np.empty((0, 0))
    # An empty list becomes an array of floats.
    of_numbers = items.dtype == bool or np.issubdtype(items.dtype, np.integer)
    if items.ndim != 1 or not (of_numbers or not len(items)):
        wrong = f"{type(part).__name__} of items {what} is not an array of item numbers"
    elif items.dtype == bool and len(items) != count:
        wrong = f"the mask of items {what} has {len(items)} values"
    else:
        items = np.flatnonzero(items) if items.dtype == bool else items.astype(np.int64)
        numbers, times = np.unique(items, return_counts=True)
        if len(outside := numbers[(numbers < 0) | (numbers >= count)]):
            wrong = f"there is no item {outside[0]} {what}"
        elif len(numbers) < len(items):
            wrong = f"item {numbers[times > 1][0]} occurs more than once among the items {what}"
        else:
            return items
    raise DataError(
        f"split: {wrong}; return each part as different numbers from 0 to {count - 1}, or as a "
        f"mask of {count} booleans"
    )


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
