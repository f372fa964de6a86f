"""Tells which pictures of a run are in another set, as far as that can be proven."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Int

from jaxch5.data.digests import UNKNOWN
from jaxch5.data.pictures import Found, Pictures, find, places_of

# Equal names and sizes of files prove that pictures are the same under two conditions. First, at
# least the share AGREEING of the pictures that are named like one of the run's are also as large as
# that one. Second, any two of the run's pictures are equally large with a probability of at most
# BY_CHANCE.
# BMP files often fail the second condition: all those of one height and width have the same size.
AGREEING, BY_CHANCE = 0.5, 0.1


def recognize(
    pictures: Pictures,
    others: Pictures,
    file: Callable[[int], Path] | None = None,
    home: Path | None = None,
) -> Found:
    """Looks up a run's pictures in a set that need not be the run's own.

    A picture is recognized by the content of its file, whatever its name is in the set. If the
    content is not known, or is found nowhere, the picture is recognized by its file's path, or else
    by its name; it counts as changed if its content or size is known to differ. A picture that is
    recognized by its name is `unproven` if its content is not known and the sizes of the pictures
    do not prove that equal names mean the same pictures.

    Args:
        pictures: Pictures of the run.
        others: Pictures of the set.
        file: Function from a picture's number among the others to its file; None if they are not
            files.
        home: Folder that the names of the run's pictures are relative to; None if it is not known.

    Example:
        >>> from jaxch5.data.source import from_arrays
        >>> source = from_arrays(np.zeros((2, 8, 8), np.uint8), np.array([0, 1]), ["a", "b"])
        >>> from jaxch5.data.pictures import pictures_of
        >>> recognize(pictures_of(source), pictures_of(source)).unproven.tolist()
        [True, True]
    """
    # Of several pictures with the same content, one with the same name is preferred.
    places = _added(np.full(len(pictures), -1), _named_contents(pictures), _named_contents(others))
    places = _added(places, _contents(pictures), _contents(others))
    if file is not None and home is not None:
        # The files of a set are in few folders, so each folder is looked up once.
        folder = cache(os.path.realpath)

        def real(path: Path) -> str:
            where, name = os.path.split(path)
            return os.path.join(folder(where), name)

        theirs = [real(file(item)) for item in range(len(others))]
        places = _added(places, [real(home / name) for name in pictures.references], theirs)
    unnamed = places < 0
    found = find(pictures, others, _added(places, pictures.references, others.references))
    there = np.maximum(found.places, 0)
    by_name = (found.places >= 0) & unnamed
    by_name &= (pictures.contents == UNKNOWN) | (others.contents[there] == UNKNOWN)
    agreeing = by_name & (pictures.sizes != UNKNOWN) & (pictures.sizes == others.sizes[there])
    proven = (
        agreeing.sum() >= AGREEING * by_name.sum() and _chance_of_one_size(pictures) <= BY_CHANCE
    )
    return found._replace(unproven=by_name & ~found.changed & (not proven))


def trained_on(pictures: Pictures, earlier: Pictures, found: Found) -> tuple[int, int]:
    """Returns how many validation pictures an earlier run was trained on, or may have been.

    Args:
        pictures: Pictures of a run.
        earlier: Pictures of an earlier run.
        found: Where the earlier run's pictures are among those of the run.

    Returns:
        The number of validation pictures that were training pictures of the earlier run, and the
        number of others that share a name with such a picture, which proves nothing.

    Example:
        >>> from jaxch5.data.pictures import find, pictures_of
        >>> from jaxch5.data.source import from_arrays
        >>> source = from_arrays(np.zeros((3, 8, 8), np.uint8), np.array([0, 1, 1]), ["a", "b"])
        >>> earlier = pictures_of(source, np.array([0, 1]), np.array([2]))
        >>> pictures = pictures_of(source, np.array([1, 2]), np.array([0]))
        >>> trained_on(pictures, earlier, find(earlier, pictures))
        (1, 0)
    """
    places = (found.places[one & ~earlier.held_out] for one in (found.same, found.unproven))
    sure, possible = (int(pictures.held_out[some].sum()) for some in places)
    return sure, possible


def _added(
    places: Int[np.ndarray, "pictures"], mine: Sequence[str], theirs: Sequence[str]
) -> Int[np.ndarray, "pictures"]:
    """Returns the places, with those that were missing filled in where names are equal.

    Args:
        places: For each picture of the run, its index among the others; -1 if it has none so far.
        mine, theirs: What the run's pictures and the others are called; "" matches nothing.
    """
    taken = set(places.tolist())
    left = [number for number, place in enumerate(places.tolist()) if place < 0 and mine[number]]
    free = [place for place, name in enumerate(theirs) if name and place not in taken]
    at = places_of((mine[number] for number in left), (theirs[place] for place in free))
    added = places.copy()
    added[np.array(left, int)[at >= 0]] = np.array(free, int)[at[at >= 0]]
    return added


def _contents(pictures: Pictures) -> list[str]:
    return [str(content) if content != UNKNOWN else "" for content in pictures.contents.tolist()]


def _named_contents(pictures: Pictures) -> list[str]:
    contents = zip(_contents(pictures), pictures.references, strict=True)
    return [content and f"{content} {name}" for content, name in contents]


def _chance_of_one_size(pictures: Pictures) -> float:
    """Returns the probability that two of the pictures have the same size; 1 if none is known."""
    _, counts = np.unique(pictures.sizes[pictures.sizes != UNKNOWN], return_counts=True)
    total = int(counts.sum())
    return float((counts * (counts - 1)).sum() / (total * (total - 1))) if total > 1 else 1.0
