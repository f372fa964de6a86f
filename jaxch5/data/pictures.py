"""Records which pictures a run was trained and validated on, and finds these pictures later.

A set may change after a run: pictures are added or removed, labels are corrected, or the set moves.
Drawing the split again would then give a different split, so a run stores the one that it began
with, as compressed lines of JSON, one for each picture.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from jaxch5.data.digests import UNKNOWN, digests_of
from jaxch5.data.parts import TRAIN, VALID
from jaxch5.data.source import Source, take
from jaxch5.errors import CheckpointError, ConfigError
from jaxch5.util.files import to_json, write_file
from jaxch5.util.text import composed

FORMAT = "jaxch5 pictures of a run, 1"


@dataclass(frozen=True, eq=False)
class Pictures:
    """Holds the names of a source's pictures, in order, and the part that each picture is in.

    Attributes:
        classes: Class names, in the order of the labels.
        references: Names of the pictures in the source, which are the same on every machine.
        labels: The class of each picture, as an index into `classes`.
        sizes: Size of each picture's file in bytes; -1 if it is not known.
        held_out: Whether each picture is for validation; the others are for training.
        contents: Digest of each picture's file; -1 if it is not known, as in a record that an
            earlier version wrote.
    """

    classes: tuple[str, ...]
    references: Sequence[str]
    labels: Int[np.ndarray, "pictures"]
    sizes: Int[np.ndarray, "pictures"]
    held_out: Bool[np.ndarray, "pictures"]
    contents: Int[np.ndarray, "pictures"]

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def digest(self) -> str:
        """Returns a digest of the names, classes and parts, but not of the files' contents."""
        names = [list(map(composed, texts)) for texts in (self.classes, self.references)]
        said = json.dumps([*names, self.labels.tolist(), self.held_out.tolist()])
        return hashlib.sha256(said.encode()).hexdigest()

    def split(self, source: Source) -> tuple[np.ndarray, np.ndarray]:
        """Returns the indices of both parts in a source from `restricted`, as a `Split` does."""
        return np.flatnonzero(~self.held_out), np.flatnonzero(self.held_out)


class Found(NamedTuple):
    """Tells which pictures of a run occur in another list of pictures, and where.

    The pictures of the other list are called the others.

    Attributes:
        places: For each picture of the run, its index among the others; -1 if it is missing there.
        changed: For each picture of the run, whether the picture with the same name among the
            others is a different file: one with different content or, if that is not known, of a
            different size.
        relabelled: For each picture of the run, whether the picture with the same name among the
            others has a different class.
        known: For each of the others, its index among the run's pictures; -1 if the run lacks it.
        unproven: For each picture of the run, whether the one with the same name among the others
            may be another picture, since nothing but the name suggests that it is the same.
    """

    places: Int[np.ndarray, "pictures"]
    changed: Bool[np.ndarray, "pictures"]
    relabelled: Bool[np.ndarray, "pictures"]
    known: Int[np.ndarray, "others"]
    unproven: Bool[np.ndarray, "pictures"]

    @property
    def same(self) -> Bool[np.ndarray, "pictures"]:
        """Tells for each of the run's pictures whether it is surely among the others, unchanged."""
        return (self.places >= 0) & ~self.changed & ~self.unproven


def pictures_of(
    source: Source,
    train: Int[np.ndarray, "train"] | None = None,
    valid: Int[np.ndarray, "valid"] | None = None,
) -> Pictures:
    """Returns the names and parts of a source's pictures; without a split, all are for training.

    An item that is in both parts counts as a training picture.

    Example:
        >>> from jaxch5.data.source import from_arrays
        >>> source = from_arrays(np.zeros((3, 8, 8), np.uint8), np.array([0, 1, 1]), ["a", "b"])
        >>> pictures_of(source, np.array([0, 2]), np.array([1])).held_out.tolist()
        [False, True, False]
    """
    train = np.arange(len(source)) if train is None else train
    items = train if valid is None else np.union1d(train, valid)
    sizes, contents = digests_of(source, items)
    return Pictures(
        source.classes,
        [source.references[item] for item in items.tolist()],
        source.labels[items].astype(int),
        sizes,
        ~np.isin(items, train),
        contents,
    )


def find(
    pictures: Pictures, others: Pictures, places: Int[np.ndarray, "pictures"] | None = None
) -> Found:
    """Looks up a run's pictures by name in the run's own set; for other sets, see `recognize`.

    Args:
        pictures: Pictures of the run.
        others: Pictures of the set.
        places: For each picture of the run, its index among the others or -1; None looks it up.

    Example:
        >>> from jaxch5.data.source import from_arrays
        >>> source = from_arrays(np.zeros((3, 8, 8), np.uint8), np.array([0, 1, 1]), ["a", "b"])
        >>> found = find(pictures_of(source, np.array([0, 2])), pictures_of(source))
        >>> found.places.tolist(), found.known.tolist()
        ([0, 2], [0, -1, 1])
    """
    if places is None:
        places = places_of(pictures.references, others.references)
    found = np.flatnonzero(places >= 0)
    at = places[found]
    known = np.full(len(others), -1)
    known[at] = found

    changed, relabelled = np.zeros((2, len(pictures)), bool)
    # A digest covers the size as well, so the size matters only if a digest is not known.
    for mine, theirs in ((pictures.sizes, others.sizes), (pictures.contents, others.contents)):
        differ = mine[found] != theirs[at]
        changed[found] |= differ & (mine[found] != UNKNOWN) & (theirs[at] != UNKNOWN)
    classes = _places(others.classes, pictures.classes)
    relabelled[found] = classes[others.labels[at]] != pictures.labels[found]
    return Found(places, changed, relabelled, known, np.zeros(len(pictures), bool))


def places_of(mine: Iterable[str], theirs: Iterable[str]) -> Int[np.ndarray, "mine"]:
    """Returns where each name is in another list; -1 if it is not there.

    Names are compared in composed form, since file systems differ in how they store an umlaut. If a
    name is listed repeatedly, its occurrences are matched in the order in which they are listed.

    Example:
        >>> places_of(["b", "a", "a", "a"], ["a", "c", "a"]).tolist()
        [-1, 0, 2, -1]
    """
    there = {name: place for place, name in enumerate(_distinct(theirs))}
    return np.array([there.get(name, -1) for name in _distinct(mine)], int)


def _distinct(references: Iterable[str]) -> Iterator[Hashable]:
    """Yields composed names; a repeated name comes with the number of its earlier occurrences."""
    before: Counter[str] = Counter()
    for reference in references:
        name = composed(reference)
        yield (name, before[name]) if name in before else name
        before[name] += 1


def merged(before: Pictures, now: Pictures) -> Pictures:
    """Joins the pictures of two calls that train the same run.

    A picture that either call trained on counts as a training picture.

    Args:
        before, now: Pictures of the earlier and of the later call, which have the same classes.

    Example:
        >>> from jaxch5.data.source import from_arrays
        >>> source = from_arrays(np.zeros((3, 8, 8), np.uint8), np.array([0, 1, 1]), ["a", "b"])
        >>> before = pictures_of(source, np.array([0]), np.array([2]))
        >>> merged(before, pictures_of(source, np.array([2]), np.array([1]))).held_out.tolist()
        [False, True, False]
    """
    found = find(before, now)
    there = np.flatnonzero(found.places >= 0)
    held_out = now.held_out.copy()
    held_out[found.places[there]] &= before.held_out[there]
    gone = np.flatnonzero(found.places < 0)
    return Pictures(
        now.classes,
        [*(before.references[place] for place in gone.tolist()), *now.references],
        np.concatenate([before.labels[gone], now.labels]),
        np.concatenate([before.sizes[gone], now.sizes]),
        np.concatenate([before.held_out[gone], held_out]),
        np.concatenate([before.contents[gone], now.contents]),
    )


def restricted(source: Source, pictures: Pictures, found: Found) -> Source:
    """Returns a source of the run's pictures alone, in the run's order and with the run's classes.

    Args:
        source: Source that holds the run's pictures, and possibly others.
        pictures: Pictures of the run, all of which are in the source.
        found: What `find(pictures, pictures_of(source))` returns: where the source has the run's
            pictures.
    """
    same = len(source) == len(pictures) and np.array_equal(found.places, np.arange(len(source)))
    if same and source.classes == pictures.classes:
        return source
    return with_classes(take(source, found.places), pictures.classes)


def with_classes(source: Source, classes: tuple[str, ...]) -> Source:
    """Returns the source with its labels as indices into the given class names.

    Args:
        source: Labelled pictures.
        classes: Class names; a class of the source that has no pictures need not be listed.

    Raises:
        ConfigError: A picture's class is not among the names.
    """
    labels = _places(source.classes, classes)[source.labels]
    if np.any(labels < 0):
        unknown = source.classes[source.labels[int(np.argmin(labels))]]
        hint = f"; {source.hint}" if source.hint else ""
        raise ConfigError(
            f"{source.name}: class {unknown} is not one of the run's classes "
            f"({', '.join(classes)}){hint}"
        )
    return replace(source, classes=classes, labels=labels)


def with_own_classes(source: Source) -> Source:
    """Returns a source without the classes that have no pictures."""
    present = np.unique(source.labels).tolist()
    return with_classes(source, tuple(source.classes[label] for label in present))


def write_pictures(path: Path, pictures: Pictures) -> None:
    """Writes the record of a run's pictures atomically; the same pictures give the same bytes.

    The first line says what the file is, how many pictures each part has, and what the classes are
    called, in order. Every other line describes a picture: its name, its class, its part ("train"
    or "valid") and, if they are known, its file's size and digest.

    Raises:
        CheckpointError: The file cannot be written.
    """
    held_out = int(pictures.held_out.sum())
    lines: list[dict[str, object]] = [
        {
            "format": FORMAT,
            "classes": pictures.classes,
            TRAIN: len(pictures) - held_out,
            VALID: held_out,
        }
    ]
    rows = zip(
        pictures.references,
        pictures.labels.tolist(),
        pictures.held_out.tolist(),
        pictures.sizes.tolist(),
        pictures.contents.tolist(),
        strict=True,
    )
    for reference, label, valid, size, content in rows:
        line: dict[str, object] = {
            "picture": reference,
            "class": pictures.classes[label],
            "part": VALID if valid else TRAIN,
        }
        if size != UNKNOWN:
            line["bytes"] = size
        if content != UNKNOWN:
            # As text, since many readers of JSON do not keep all digits of a number this large.
            line["digest"] = f"{content:016x}"
        lines.append(line)
    text = "".join(to_json(line) + "\n" for line in lines)
    # The lines are compressed at a fast level, and without a time stamp, since a time stamp would
    # change the bytes.
    write_file(path, gzip.compress(text.encode(), compresslevel=3, mtime=0))


def read_pictures(path: Path) -> Pictures | None:
    """Returns what `write_pictures` wrote; None if there is no such file.

    Raises:
        CheckpointError: The file is damaged, or cannot be read.

    Example:
        >>> import tempfile
        >>> from jaxch5.data.source import from_arrays
        >>> source = from_arrays(np.zeros((3, 8, 8), np.uint8), np.array([0, 1, 1]), ["a", "b"])
        >>> pictures = pictures_of(source, np.array([0, 2]), np.array([1]))
        >>> file = Path(tempfile.mkdtemp()) / "pictures.jsonl.gz"
        >>> write_pictures(file, pictures)
        >>> read_pictures(file).digest == pictures.digest
        True
    """
    try:
        head, *lines = map(json.loads, gzip.decompress(path.read_bytes()).splitlines())
        if head["format"] != FORMAT or len(lines) != head[TRAIN] + head[VALID]:
            raise ValueError("it is a different kind of file, or lines are missing")
        classes = tuple(map(str, head["classes"]))
        numbers = {name: number for number, name in enumerate(classes)}
        return Pictures(
            classes,
            [str(line["picture"]) for line in lines],
            np.array([numbers[line["class"]] for line in lines], int),
            np.array([line.get("bytes", UNKNOWN) for line in lines], int),
            np.array([line["part"] == VALID for line in lines], bool),
            np.array([int(line.get("digest", "-1"), 16) for line in lines], int),
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    # Reading a damaged compressed file may raise almost any kind of error.
    except Exception as error:
        raise CheckpointError(
            f"{path}: is damaged ({error}); put back a copy, or remove it, so that the split is "
            "drawn again"
        ) from None


def _places(names: Sequence[str], classes: Sequence[str]) -> Int[np.ndarray, "names"]:
    """Returns the index of each name among the classes; -1 if it is not one of them."""
    numbers = {composed(name): number for number, name in enumerate(classes)}
    return np.array([numbers.get(composed(name), -1) for name in names], np.int32)
