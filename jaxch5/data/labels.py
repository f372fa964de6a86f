"""Checks the labels and class names that a source is made from, and converts labels."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32

from jaxch5.errors import DataError
from jaxch5.util.text import composed, counted, names_in_order, printable


def check_labels(
    labels: Any, classes: Sequence[str], references: Sequence[str]
) -> Int32[np.ndarray, "items"]:
    """Returns the labels as integers, each an index into `classes`.

    Args:
        labels: The class of each item, as an index into `classes`: integers of shape [items].
        classes: Class names, each listed once.
        references: What error messages call each item.

    Raises:
        DataError: The labels are not indices into `classes`, or `check_classes` finds a fault.

    Example:
        >>> check_labels(np.array([1, 0]), ("cat", "dog"), ("a.jpg", "b.jpg"))
        array([1, 0], dtype=int32)
    """
    check_classes(classes)
    labels = np.asarray(labels)
    if labels.ndim != 1 or len(labels) != len(references):
        raise DataError(
            f"labels have shape {list(labels.shape)}, but there are {len(references)} items; give "
            "one label for each item"
        )
    if len(labels) and labels.dtype.kind not in "iu":
        raise DataError(
            f"labels should be integers, each the index of a class, but are {labels.dtype}"
        )
    if len(labels) and not (labels.min() >= 0 and labels.max() < len(classes)):
        wrong = np.flatnonzero((labels < 0) | (labels >= len(classes)))
        first = int(wrong[0])
        others = f" (and {counted(len(wrong) - 1, 'other')})" if len(wrong) > 1 else ""
        unlabelled = "; -1 often means no label: leave such items out" * int(labels[first] == -1)
        raise DataError(
            f"{printable(references[first])}{others}: label {labels[first]} is not one of the "
            f"{len(classes)} classes, 0 to {len(classes) - 1}{unlabelled}"
        )
    return labels.astype(np.int32, copy=False)


def look_alikes(classes: Sequence[str]) -> list[tuple[str, str]]:
    """Returns pairs of classes whose names look so alike that one class may be meant by both.

    Example:
        >>> look_alikes(["Cat", "cat", "dog", "great dane", "great_dane "])
        [('Cat', 'cat'), ('great dane', 'great_dane ')]
    """
    first: dict[str, str] = {}
    pairs = []
    for name in classes:
        # Invisible characters, such as a joiner or a directional mark, are ignored.
        seen = "".join(sign for sign in name.casefold() if unicodedata.category(sign) != "Cf")
        look = re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", seen)).strip()
        if look in first:
            pairs.append((first[look], name))
        first.setdefault(look, name)
    return pairs


def check_classes(classes: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of the classes as they are compared and kept; see `composed`.

    Raises:
        DataError: The classes are not a list of names, a name is empty, or it is listed twice.

    Example:
        >>> check_classes(["cat", "u\u0308ber"]) == ("cat", "über")
        True
    """
    for name in names_in_order(classes):
        if not isinstance(name, str):
            raise DataError(
                f"classes: {name!r} is {type(name).__name__}; should be a name, such as "
                f"{str(name)!r}"
            )
    names = tuple(map(composed, classes))
    if "" in names:
        raise DataError(f"classes: the name of class {names.index('')} is empty; give it a name")
    if len(set(names)) < len(names):
        ((name, count),) = Counter(names).most_common(1)
        raise DataError(f"classes: {printable(name)} is listed {count} times; list it once")
    return names


def numbers_of(labels: Any, classes: Sequence[str]) -> np.ndarray:
    """Converts labels in any unambiguous form to class numbers.

    Labels of shape [items] or [items, 1] may be integers, floats without a fraction, booleans (if
    there are two classes) or class names. Labels of shape [items, classes] should be one-hot rows.

    Args:
        labels: An array, or anything that NumPy can convert to an array.
        classes: Class names.

    Returns:
        Integers of shape [items], which may be outside the range of the classes; `check_labels`
        checks that.

    Raises:
        DataError: The labels cannot be converted, or are ambiguous.

    Example:
        >>> numbers_of(["dog", "cat"], ["cat", "dog"]), numbers_of([[0, 1], [1, 0]], ["cat", "dog"])
        (array([1, 0]), array([1, 0]))
    """
    classes = check_classes(classes)
    try:
        array = np.asarray(labels)
        if array.dtype.kind in "OT":
            # pandas stores text as objects, and NumPy has a type for text of any length.
            array = np.array(array.tolist())
    except Exception as error:
        # Another library's array may raise any kind of error.
        raise DataError(f"labels are not an array ({printable(str(error))})") from None
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if not array.size:
        return np.zeros(len(array) if array.ndim else 0, int)
    if array.ndim == 1 and array.dtype.kind == "U":
        return _numbers_of_names(array, classes)
    if array.dtype.kind not in "iufb" or array.ndim not in (1, 2):
        raise DataError(
            f"labels are {array.dtype} of shape {list(array.shape)}, but should be one class "
            "number or one class name for each item"
        )
    if array.ndim == 2:
        one_hot = ((array == 0) | (array == 1)).all() and (array.sum(axis=1) == 1).all()
        if not one_hot or array.shape[1] != len(classes):
            raise DataError(
                f"labels of shape {list(array.shape)} should be one-hot rows with "
                f"{len(classes)} columns, one for each class; or give one class for each item"
            )
        return array.argmax(axis=1)
    if array.dtype.kind == "b" and len(classes) != 2:
        raise DataError(f"labels are booleans, but there are {len(classes)} classes, not 2")
    if array.dtype.kind == "f" and not (np.isfinite(array) & (array == np.round(array))).all():
        first = int(np.flatnonzero(~(np.isfinite(array) & (array == np.round(array))))[0])
        raise DataError(f"labels should be whole numbers, but item {first} has {array[first]}")
    return array if array.dtype.kind in "iu" else array.astype(int)


def _numbers_of_names(labels: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    numbers = {name: number for number, name in enumerate(classes)}
    names, which = np.unique(labels, return_inverse=True)
    for name in map(str, names):
        if composed(name) not in numbers:
            known = ", ".join(map(printable, [*classes[:5], *["..."] * (len(classes) > 5)]))
            raise DataError(f"labels: {printable(name)} is not one of the classes ({known})")
    return np.array([numbers[composed(str(name))] for name in names])[which]
