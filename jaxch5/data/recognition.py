"""Tells which pictures of a run are in another set, as far as names and sizes prove that."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from jaxch5.data.pictures import UNKNOWN, Found, Pictures, distinct, find

# Equal names and sizes prove that pictures are the same if at least this share of the pictures with
# a run's names also have its sizes, although sizes vary so much that two of the run's pictures are
# of one size with at most this chance. All BMP files of one height and width are of one size.
AGREEING, BY_CHANCE = 0.5, 0.1


def recognize(
    pictures: Pictures,
    others: Pictures,
    file: Callable[[int], Path] | None = None,
    home: Path | None = None,
) -> Found:
    """Looks up a run's pictures in a set that need not be the run's own.

    A picture is recognized by its file, whatever its name is in the set, or else by its name. If
    sizes do not prove that names mean the same pictures, those are `unproven`.

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
    mine, theirs = list(pictures.references), list(others.references)
    by_file = np.zeros(len(pictures), bool)
    if file is not None and home is not None:
        # The files of a set are in few folders, so each folder is looked up once.
        folder = cache(os.path.realpath)

        def real(path: Path) -> str:
            where, name = os.path.split(path)
            return os.path.join(folder(where), name)

        paths = distinct(real(home / name) for name in pictures.references)
        numbers = {path: number for number, path in enumerate(paths)}
        for place, path in enumerate(distinct(real(file(item)) for item in range(len(others)))):
            number = numbers.get(path, -1)
            if number >= 0:
                # The same file gets a name that no other file can have.
                mine[number] = theirs[place] = f"\0{number}"
                by_file[number] = True
    found = find(replace(pictures, references=mine), replace(others, references=theirs))
    by_name = (found.places >= 0) & ~by_file
    agreeing = (
        by_name
        & (pictures.sizes != UNKNOWN)
        & (pictures.sizes == others.sizes[np.maximum(found.places, 0)])
    )
    proven = (
        agreeing.sum() >= AGREEING * by_name.sum() and _chance_of_one_size(pictures) <= BY_CHANCE
    )
    return found._replace(unproven=by_name & ~found.changed & (not proven))


def _chance_of_one_size(pictures: Pictures) -> float:
    """Returns the probability that two of the pictures have the same size; 1 if none is known."""
    _, counts = np.unique(pictures.sizes[pictures.sizes != UNKNOWN], return_counts=True)
    total = int(counts.sum())
    return float((counts * (counts - 1)).sum() / (total * (total - 1))) if total > 1 else 1.0
