"""Reading every picture once: which are broken, which are there twice, which leak."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from rich.console import Console

from jaxch5.data.parallel import in_order
from jaxch5.data.source import Source, leave_out, read_pixels
from jaxch5.errors import DataError
from jaxch5.text import progress_bar


@dataclass(frozen=True)
class Findings:
    """What is wrong with a set of pictures; two are the same where all their pixels are.

    Attributes:
        count: of the pictures looked at.
        unreadable: item to reason.
        duplicates: items that show the same picture, all of one class and in one part.
        conflicts: items that show the same picture under two or more classes.
        leaks: items that show the same picture, in training and in validation.
    """

    count: int
    unreadable: dict[int, str]
    duplicates: list[list[int]]
    conflicts: list[list[int]]
    leaks: list[list[int]]

    @property
    def clean(self) -> bool:
        return not (self.unreadable or self.duplicates or self.conflicts or self.leaks)


def find_problems(
    source: Source,
    train: Int[np.ndarray, "train"] | None = None,
    valid: Int[np.ndarray, "valid"] | None = None,
    console: Console | None = None,
) -> Findings:
    """Reads every picture of a source, in parallel.

    Args:
        source: labelled pictures.
        train, valid: items of each part; without them there are no leaks to find.
        console: where the progress bar is drawn; None is standard error.

    Example:
        >>> from jaxch5.data.source import from_arrays
        >>> pictures = np.arange(3)[:, None, None] // 2 * np.ones((3, 8, 8))
        >>> source = from_arrays(pictures.astype(np.uint8), np.array([0, 1, 1]), ["a", "b"])
        >>> find_problems(source).conflicts
        [[0, 1]]
    """
    in_valid = np.zeros(len(source), bool)
    if valid is not None:
        in_valid[valid] = True
    unreadable: dict[int, str] = {}
    same: dict[bytes, list[int]] = defaultdict(list)
    for item, outcome in enumerate(_with_progress(_fingerprints(source), len(source), console)):
        if isinstance(outcome, bytes):
            same[outcome].append(item)
        else:
            unreadable[item] = str(outcome)

    findings = Findings(len(source), unreadable, [], [], [])
    for items in same.values():
        conflict = len(set(source.labels[items])) > 1
        leak = train is not None and len(set(in_valid[items])) > 1
        if conflict:
            findings.conflicts.append(items)
        if leak:
            findings.leaks.append(items)
        if len(items) > 1 and not conflict and not leak:
            findings.duplicates.append(items)
    return findings


def unreadable(source: Source, console: Console | None = None) -> dict[str, str]:
    """References of the pictures that cannot be read, each with the reason.

    Args:
        source: labelled pictures; every one of them is read.
        console: where the progress bar is drawn; None is standard error.
    """
    outcomes = _with_progress(_fingerprints(source), len(source), console)
    return {
        source.references[item]: str(outcome)
        for item, outcome in enumerate(outcomes)
        if isinstance(outcome, DataError)
    }


def readable(source: Source, console: Console | None = None) -> Source:
    """The pictures of a source that can be read, in their order.

    Args:
        source: labelled pictures; every one of them is read.
        console: where the progress bar is drawn; None is standard error.

    Raises:
        DataError: a class is left without pictures.

    Example:
        >>> from jaxch5.data.source import digits
        >>> len(readable(digits()))
        1797
    """
    return leave_out(source, unreadable(source, console))


def _fingerprints(source: Source) -> Iterator[bytes | DataError]:
    """Of each item in order, a digest of its size and pixels, or why it cannot be read."""

    def fingerprint(item: int) -> bytes | DataError:
        try:
            content = read_pixels(source, item)
        except DataError as error:
            return error
        digest = hashlib.sha256(str(content.shape).encode())
        digest.update(np.ascontiguousarray(content).data)
        return digest.digest()

    return in_order(fingerprint, range(len(source)))


def _with_progress(
    outcomes: Iterator[bytes | DataError], total: int, console: Console | None
) -> Iterator[bytes | DataError]:
    with progress_bar(console) as progress:
        yield from progress.track(outcomes, total=total, description="reading pictures")
