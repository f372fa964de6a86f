"""Chooses the pictures that a run is scored on, and describes them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from jaxch5.data.pictures import Found, Pictures
from jaxch5.errors import DataError
from jaxch5.util.text import counted

VALIDATED, ALL, DRAWN_AGAIN = "validated", "all", "drawn again"
# A set that holds at least this share of the pictures that a run was validated on counts as the
# run's own.
OWN_SHARE = 0.5


class Scored(NamedTuple):
    """Holds the pictures that are scored.

    Attributes:
        part: Which pictures these are: "validated", "all", or, if a run has no record of its
            pictures, "drawn again".
        items: Indices of the pictures in the source.
        counts: Number of pictures of each kind, such as "missing" or "new".
        line: Description of the pictures, for messages.
    """

    part: str
    items: Int[np.ndarray, "scored"]
    counts: dict[str, int]
    line: str


def holds_own(pictures: Pictures, found: Found) -> bool:
    """Checks whether another set holds at least half of the pictures that a run was validated on.

    The run's own set passes even if it has been moved or its files renamed. Files with the same
    names do not count if they differ, or if nothing else shows them to be the same.
    """
    return bool(found.same[pictures.held_out].sum() >= OWN_SHARE * pictures.held_out.sum())


def score_validated(pictures: Pictures, found: Found, where: str) -> Scored:
    """Returns those pictures that a run was validated on and that still exist.

    A file that has the name of such a picture but different content is left out, because it may be
    a picture that the run was trained on. A picture whose class has changed is scored against the
    class that it has now.

    Args:
        pictures: Pictures of the run.
        found: Where these pictures are in the source.
        where: Name of the source, for messages.

    Raises:
        DataError: None of the validation pictures is in the source unchanged.
    """
    held_out, there = pictures.held_out, found.places >= 0
    # Pictures that are recognized by name alone are scored too, because the caller says that this
    # is the run's set; the line mentions them.
    scored = held_out & there & ~found.changed
    counts = {
        "validated": int(held_out.sum()),
        "missing": int((held_out & ~there).sum()),
        "changed": int((held_out & found.changed).sum()),
        "relabelled": int((scored & found.relabelled).sum()),
        "new": int((found.known < 0).sum()),
    }
    if not scored.any():
        raise DataError(
            f"{where}: holds none of the {counted(counts['validated'], 'picture')} that the run "
            "validated on; name the folder they are in now (--data.path), or score all pictures "
            "of this set (--pictures all)"
        )
    left_out = _listed(
        (counts["missing"], "is missing", "are missing"),
        (
            counts["changed"],
            "is a different file now and is left out",
            "are different files now and are left out",
        ),
    )
    count, of = int(scored.sum()), ""
    if left_out:
        count, of = counts["validated"], f"{count:,} of the "
    by_name = " (recognized by name alone)" if (scored & found.unproven).any() else ""
    its_class = "scored against that class"
    scores_it = "left out (--pictures all scores every picture)"
    notes = [
        f"{of}{counted(count, 'picture')} that the run validated on{by_name}",
        *left_out,
        *_listed(
            (
                counts["relabelled"],
                f"is now in another class and is {its_class}",
                f"are now in another class and are {its_class}",
            ),
            (
                counts["new"],
                f"is new to the run and is {scores_it}",
                f"are new to the run and are {scores_it}",
            ),
        ),
    ]
    return Scored(VALIDATED, found.places[scored], counts, "; ".join(notes))


def score_all(count: int, pictures: Pictures | None, found: Found | None, where: str) -> Scored:
    """Returns all pictures of a source, and how many of them the run knows.

    Args:
        count: Number of the source's pictures.
        pictures: Pictures of the run; None if the run has no record of them.
        found: Where these pictures are in the source.
        where: Name of the source, for messages.
    """
    line = f"all {counted(count, 'picture')} of {where}"
    if pictures is None or found is None:
        line += (
            "; it is not known whether the run was trained on any of them, since it has no record "
            "of its pictures"
        )
        return Scored(ALL, np.arange(count), {}, line)
    known, held_out = found.same, pictures.held_out
    counts = {
        "validated": int((known & held_out).sum()),
        "trained": int((known & ~held_out).sum()),
        "changed": int(found.changed.sum()),
        "unproven": int(found.unproven.sum()),
        "new": int((found.known < 0).sum()),
    }
    notes = _listed(
        (counts["validated"], "validated by the run"),
        (counts["trained"], "seen in training, which makes the scores too good"),
        (
            counts["changed"],
            "different file with the name of one of the run's pictures",
            "different files with the names of some of the run's pictures",
        ),
        (
            counts["unproven"],
            "has the name of one of the run's pictures, and may be that picture or another",
            "have the names of some of the run's pictures, and may be those pictures or others",
        ),
        (
            counts["new"],
            "under a name that the run does not know",
            "under names that the run does not know",
        ),
    )
    return Scored(ALL, np.arange(count), counts, f"{line}: {', '.join(notes)}")


def score_drawn_again(items: Int[np.ndarray, "items"]) -> Scored:
    """Returns the pictures on which a run without a record is assumed to have been validated."""
    line = (
        f"{counted(len(items), 'picture')}, the validation part of the run's split drawn again: "
        "the run has no record of its pictures; if any were added to the set or removed from it "
        "since, the run was trained on some of these"
    )
    return Scored(DRAWN_AGAIN, items, {}, line)


def _listed(*counts: tuple[int, str] | tuple[int, str, str]) -> list[str]:
    return [counted(count, one, *(many or (one,))) for count, one, *many in counts if count]
