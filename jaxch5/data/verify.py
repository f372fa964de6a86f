"""Reads every picture once to find those that are broken, blank, duplicated or leaked."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8
from rich.console import Console

from jaxch5.data.decode import WAY_OUT
from jaxch5.data.formats import ends_as_it_begins
from jaxch5.data.near import Thumbnail, find_near, thumbnail
from jaxch5.data.parallel import in_order
from jaxch5.data.source import Source, leave_out, read_pixels, without_bad
from jaxch5.errors import DataError
from jaxch5.util.text import counted, progress_bar

# A picture is black if all its levels are below this. If 12-bit values are misread as 16-bit
# values, the levels reach at most 16.
DARK = 17
# How many unreadable pictures a message names.
BAD_NAMED = 5
# Largest spread of levels that JPEG adds to a picture of one colour.
SAME_COLOUR = 2


class Repeated(NamedTuple):
    """Holds groups of items that show the same picture, or nearly the same.

    Attributes:
        duplicates: Groups within one class that are not leaks.
        conflicts: Groups with items of two or more classes.
        leaks: Groups with items in both training and validation.
    """

    duplicates: list[list[int]]
    conflicts: list[list[int]]
    leaks: list[list[int]]


@dataclass(frozen=True)
class Findings:
    """Holds what is wrong with a set; two pictures are the same if all their pixels are equal.

    Attributes:
        count: Number of pictures looked at.
        unreadable: Each item that cannot be read, with the reason.
        duplicates, conflicts, leaks: Items that show the same picture, as in `Repeated`.
        blank: Each item that is blank when decoded, with "black", "white" or "one colour"; this
            may be intended, so a set with such items still counts as clean.
        near: Items that show nearly the same picture; a set with such items counts as clean too.
        not_compared: Number of items too small or too plain to be compared for `near`.
    """

    count: int
    unreadable: dict[int, str]
    duplicates: list[list[int]]
    conflicts: list[list[int]]
    leaks: list[list[int]]
    blank: dict[int, str] = field(default_factory=dict)
    near: Repeated = field(default_factory=lambda: Repeated([], [], []))
    not_compared: int = 0

    @property
    def clean(self) -> bool:
        return not (self.unreadable or self.duplicates or self.conflicts or self.leaks)


def find_problems(
    source: Source,
    train: Int[np.ndarray, "train"] | None = None,
    valid: Int[np.ndarray, "valid"] | None = None,
    console: Console | None = None,
    near: bool = True,
) -> Findings:
    """Reads every picture of a source, in parallel, to find what is wrong with the set.

    Args:
        source: Labelled pictures.
        train, valid: Items of each part; without them, no leaks are found.
        console: Where the progress bar is drawn; None means standard error.
        near: Whether to look for pictures that are nearly the same.

    Example:
        >>> from jaxch5.data.source import from_arrays
        >>> pictures = np.arange(3)[:, None, None] // 2 * np.ones((3, 8, 8))
        >>> source = from_arrays(pictures.astype(np.uint8), np.array([0, 1, 1]), ["a", "b"])
        >>> find_problems(source).conflicts
        [[0, 1]]
    """
    unread, blanks = {}, {}
    same: dict[bytes, list[int]] = defaultdict(list)
    thumbnails: list[Thumbnail | None] = []
    for item, outcome in enumerate(_with_progress(_seen(source, near), len(source), console)):
        if isinstance(outcome, DataError):
            unread[item] = str(outcome)
            continue
        if outcome.digest not in same:
            thumbnails.append(outcome.thumbnail)
        same[outcome.digest].append(item)
        if outcome.blank:
            blanks[item] = outcome.blank
    groups = list(same.values())
    alike = [
        sorted(chain.from_iterable(groups[place] for place in found))
        for found in (find_near(thumbnails, console) if near else ())
    ]
    plain = [len(group) for group, one in zip(groups, thumbnails, strict=True) if one is None]
    exact, guessed = (_by_kind(source, found, train, valid) for found in (groups, alike))
    return Findings(len(source), unread, *exact, blanks, guessed, near * sum(plain))


def _by_kind(
    source: Source,
    groups: Iterable[list[int]],
    train: Int[np.ndarray, "train"] | None,
    valid: Int[np.ndarray, "valid"] | None,
) -> Repeated:
    part = np.zeros(len(source), int)  # 0 for neither part
    for number, own in enumerate((train, valid), 1):
        if own is not None:
            part[own] = number
    repeated = Repeated([], [], [])
    for items in groups:
        conflict = len(set(source.labels[items])) > 1
        leak = {1, 2} <= set(part[items].tolist())
        if conflict:
            repeated.conflicts.append(items)
        if leak:
            repeated.leaks.append(items)
        if len(items) > 1 and not conflict and not leak:
            repeated.duplicates.append(items)
    return repeated


def unreadable(source: Source, console: Console | None = None) -> dict[str, str]:
    """Returns the references of the pictures that cannot be read, each with the reason.

    Args:
        source: Labelled pictures; every one of them is read.
        console: Where the progress bar is drawn; None means standard error.
    """
    outcomes = _with_progress(_seen(source, near=False), len(source), console)
    return {
        source.references[item]: str(outcome)
        for item, outcome in enumerate(outcomes)
        if isinstance(outcome, DataError)
    }


def readable(source: Source, console: Console | None = None) -> Source:
    """Returns the source without the pictures that cannot be read.

    Args:
        source: Labelled pictures; every one of them is read.
        console: Where the progress bar is drawn; None means standard error.

    Raises:
        DataError: A class is left without pictures.

    Example:
        >>> from jaxch5.data.source import digits
        >>> len(readable(digits()))
        1797
    """
    return leave_out(source, unreadable(source, console))


def check_heads(source: Source) -> None:
    """Looks for broken pictures, so that training fails at the start, not when it reaches one.

    Only files whose first or last bytes are not those of a picture are decoded, because decoding
    all files may take minutes.

    Raises:
        DataError: Some pictures cannot be read; the message names at most the first five.
    """
    if source.file is None:
        return
    file = source.file

    def wrong(item: int) -> str | None:
        if ends_as_it_begins(file(item)):
            return None
        try:
            read_pixels(source, item)
        except DataError as error:
            return str(error)
        return None

    bad = [reason for reason in in_order(wrong, range(len(source))) if reason]
    if len(bad) == 1:
        raise without_bad(DataError(bad[0]))
    if bad:
        reasons = [reason.removesuffix(WAY_OUT) for reason in bad]
        more = f" and {len(bad) - BAD_NAMED:,} more" if len(bad) > BAD_NAMED else ""
        named = ", ".join(reasons[:BAD_NAMED])
        raise DataError(
            f"{counted(len(bad), 'picture')} cannot be read: {named}{more}; --data.on-bad skip "
            "leaves them out, and jaxch5 verify lists them all"
        )


class _Seen(NamedTuple):
    """Holds what is kept about a picture after it was read.

    Attributes:
        digest: Digest of the picture's size and pixels.
        blank: What the function `blank` returns for the picture.
        thumbnail: Thumbnail for finding near-duplicates; None if the picture is not compared.
    """

    digest: bytes
    blank: str | None
    thumbnail: Thumbnail | None


def blank(pixels: UInt8[np.ndarray, "height width 3"]) -> str | None:
    """Returns "black", "white" or "one colour" for a picture that shows nothing; else None.

    Example:
        >>> blank(np.full((8, 8, 3), 15, np.uint8)), blank(np.eye(3, dtype=np.uint8)[None] * 99)
        ('black', None)
    """
    kind = None
    # For most pictures, a few pixels suffice to see that they are not blank.
    for part in (pixels[::16, ::16], pixels):
        low, high = (edge(part, axis=(0, 1)).astype(int) for edge in (np.min, np.max))
        if high.max() < DARK:
            kind = "black"
        elif low.min() > 255 - DARK:
            kind = "white"
        elif (high - low).max() <= SAME_COLOUR:
            kind = "one colour"
        else:
            return None
    return kind


def _seen(source: Source, near: bool) -> Iterator[_Seen | DataError]:
    """Yields what is kept about each item's picture, in order, or the error in reading it."""

    def seen(item: int) -> _Seen | DataError:
        try:
            content = read_pixels(source, item)
        except DataError as error:
            return error
        digest = hashlib.sha256(str(content.shape).encode())
        digest.update(np.ascontiguousarray(content).data)
        return _Seen(digest.digest(), blank(content), thumbnail(content) if near else None)

    return in_order(seen, range(len(source)))


def _with_progress(
    outcomes: Iterator[_Seen | DataError], total: int, console: Console | None
) -> Iterator[_Seen | DataError]:
    with progress_bar(console) as progress:
        yield from progress.track(outcomes, total=total, description="reading pictures")
