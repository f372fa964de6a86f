"""Splits: which items are trained on and which are held out.

A split is a function from a source to two arrays of item numbers, for training and for validation.
Every item is in exactly one of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Int

from jaxch5.data.source import FOLDER, Source
from jaxch5.errors import DataError
from jaxch5.text import sort_key

TRUE, FALSE = ("true", "1", "yes"), ("false", "0", "no", "")

# What people call the parts of a set, for folders and for words in a table.
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
    """The part of a set that a name stands for: train, valid or test; None where it is no such.

    Case does not matter, and neither does what people add: a set, images, a year.

    Args:
        name: of a folder, or a word in a table.

    Example:
        >>> part_of("Training_Set"), part_of("val2017"), part_of("test images"), part_of("trains")
        ('train', 'valid', 'test', None)
    """
    word = re.sub(r"[\s_.-]+|(19|20)\d\d$", "", name.casefold())
    word = re.sub(r"(sets?|data|split|images?|imgs?)$", "", word) or word
    return next((part for part, names in PART_NAMES.items() if word in names), None)


def random_split(valid_fraction: float = 0.2, seed: int = 42, stratify: bool = False) -> Split:
    """Holds out items at random, the same ones wherever the same files are.

    Args:
        valid_fraction: share of the items, between 0 and 1.
        seed: of the draw.
        stratify: draws from each class separately, so that shares are the same in both parts.

    Raises:
        DataError: from the split, where the fraction leaves one part empty or a class has a
            single item.

    Example:
        >>> from jaxch5.data.source import digits
        >>> train, valid = random_split(0.2)(digits())
        >>> len(train), len(valid)
        (1438, 359)
    """
    if not 0 < valid_fraction < 1:
        raise DataError(f"valid_fraction = {valid_fraction}: should be between 0 and 1")

    def split(source: Source) -> tuple[np.ndarray, np.ndarray]:
        counts = np.bincount(source.labels, minlength=len(source.classes))
        if np.any(counts < 2):
            number = int(np.argmin(counts))
            raise DataError(
                f"class {source.classes[number]} has {counts[number]} picture: it cannot be both "
                "trained on and validated; add one or remove the class"
            )
        # The draw goes by the names, so that the order in which a source lists them is no matter.
        references = source.references
        by_name = np.array(sorted(range(len(source)), key=lambda i: sort_key(references[i])))
        shuffled = by_name[np.random.Generator(np.random.PCG64(seed)).permutation(len(source))]
        if not stratify:
            held_out = shuffled[: int(valid_fraction * len(source))]
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
        return _parts(in_valid, f"valid_fraction = {valid_fraction}")

    return split


def folder_split(train: str = "train", valid: str | Sequence[str] = ("valid", "val")) -> Split:
    """Splits by the folders that `from_folder` found.

    Args:
        train: name of the folder of training pictures.
        valid: name, or possible names, of the folder of validation pictures.

    Raises:
        DataError: from the split, where the source has no such folders.

    Example:
        >>> from dataclasses import replace
        >>> from jaxch5.data.source import from_arrays
        >>> pictures = np.zeros((3, 8, 8), np.uint8)
        >>> source = from_arrays(pictures, np.array([0, 1, 0]), ["cat", "dog"])
        >>> source = replace(source, columns={"folder": ["train", "train", "test"]})
        >>> [part.tolist() for part in folder_split(valid="test")(source)]
        [[0, 1], [2]]
    """
    names = (valid,) if isinstance(valid, str) else tuple(valid)

    def split(source: Source) -> tuple[np.ndarray, np.ndarray]:
        folders = _column(source, FOLDER)
        unknown = sorted(set(map(str, folders)) - {train, *names})
        if unknown:
            raise DataError(
                f"folder {unknown[0]}: is neither {train} nor {' or '.join(names)}; name it in "
                "folder_split, or leave it out of the source"
            )
        return _parts(np.array([folder in names for folder in folders]), "folder_split")

    return split


def column_split(column: str = "is_valid") -> Split:
    """Holds out the items whose column is true: True, true, 1 or yes in a table.

    Args:
        column: its name.

    Raises:
        DataError: from the split, where the source has no such column, or a value in it is neither
            true nor false (False, false, 0, no, or empty).

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
        in_valid = [_truth(value, column) for value in _column(source, column)]
        return _parts(np.array(in_valid, bool), f"column {column}")

    return split


def _truth(value: str | bool, column: str) -> bool:
    word = str(value).strip().lower()
    if word not in TRUE + FALSE:
        raise DataError(
            f"column {column}: {value} is neither true ({', '.join(TRUE)}) nor false "
            f"({', '.join(filter(None, FALSE))}, or empty)"
        )
    return word in TRUE


def given_split() -> Split:
    """The source's own split: its training and validation folders, or its `is_valid` column.

    Raises:
        DataError: from the split, where the source has neither.

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
        chosen = folder_split() if FOLDER in source.columns else column_split()
        return chosen(source)

    return split


def _column(source: Source, name: str) -> Sequence[str | bool]:
    if name not in source.columns:
        known = ", ".join(source.columns) or "none"
        raise DataError(
            f"split: the source has no column {name} (it has {known}); a table's column or train "
            "and valid folders make one, and --data.split random needs none"
        )
    return source.columns[name]


def _parts(in_valid: Bool[np.ndarray, "items"], what: str) -> tuple[np.ndarray, np.ndarray]:
    train, valid = np.flatnonzero(~in_valid), np.flatnonzero(in_valid)
    if not len(train) or not len(valid):
        raise DataError(
            f"{what}: leaves {len(train)} pictures for training and {len(valid)} for validation; "
            "each needs at least one"
        )
    return train, valid
