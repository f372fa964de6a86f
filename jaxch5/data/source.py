"""Defines `Source`, a small type for labelled pictures, wherever they are stored."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from os.path import join
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int, Int32, Shaped, UInt8

from jaxch5.data.decode import AS_FILES_SAY, Decoded, Reading
from jaxch5.data.depth import SUFFIXES as DEEP
from jaxch5.data.labels import check_classes, check_labels, look_alikes, numbers_of
from jaxch5.data.picture import (
    Picture,
    as_images,
    content_of,
    is_encoded,
    presized,
    read_picture,
    read_stored,
)
from jaxch5.data.scale import guess_range
from jaxch5.data.sources.content import head_of
from jaxch5.data.sources.listing import PassedOver, described
from jaxch5.errors import DataError
from jaxch5.util.address import is_address
from jaxch5.util.text import composed, counted

# Names of the columns that hold each item's folder, and whether the item is for validation.
FOLDER = "folder"
IS_VALID = "is_valid"


@dataclass(frozen=True)
class Source:
    """Gives random access to labelled pictures.

    Attributes:
        classes: Names of the classes, in the order in which `labels` numbers them.
        labels: The class of each item, as an index into `classes`.
        references: Names of the items, which are the same on every machine; errors show them.
        read: Function from an item's number to its file's bytes, or to its pixels [height, width,
            3], with their colour profile if it is not sRGB.
        columns: What else is known about each item and may decide how the items are split: its
            folder, or its cells in the other columns of a table.
        file: Function from an item's number to its file; None if items are not files.
        presized: Short side, in pixels, to which the pictures were resized beforehand; None if
            they were not.
        cut: Whether the ends of long pictures, which no crop reaches, were also cut off beforehand.
        sharded: Whether the items are stored in a few large files, in the order of their numbers,
            so each of several processes should keep to a range of numbers.
        in_parts: Whether the items are split already: their column `folder` names the parts, and
            is not just a column of this name in a table.
        passed_over: Files below the source's folder that are not items, grouped by reason; a folder
            that was not looked into is a single entry, which ends with a slash.
        notes: Phrases for the line that describes the data: what was guessed about the pictures,
            and what else is worth knowing.
        reading: How the files are decoded, if there is more than one right way.
        name: What error messages call the source.
        hint: Advice that is added to an error about the classes.

    Raises:
        DataError: Not every item has an index into `classes`, or class names are not distinct.
    """

    classes: tuple[str, ...]
    labels: Int32[np.ndarray, "items"]
    references: Sequence[str]
    read: Callable[[int], bytes | UInt8[np.ndarray, "height width 3"] | Decoded]
    columns: Mapping[str, Sequence[str | bool]] = field(default_factory=dict)
    file: Callable[[int], Path] | None = None
    presized: int | None = None
    cut: bool = False
    sharded: bool = False
    in_parts: bool = False
    passed_over: PassedOver = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    reading: Reading = AS_FILES_SAY
    name: str = "data"
    hint: str = ""

    def __post_init__(self) -> None:
        # Every source is checked: otherwise a wrong label would show at an epoch's end, or never.
        labels = check_labels(self.labels, self.classes, self.references)
        object.__setattr__(self, "labels", labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        # A notebook shows the value of a cell's last line; all names and labels would be too long.
        return (
            f"<{counted(len(self), 'picture')} of {counted(len(self.classes), 'class', 'classes')}>"
        )


def remarks(source: Source) -> list[str]:
    """Returns remarks for the line that describes a source: its notes, and what was passed over.

    Example:
        >>> from jaxch5.data.sources.listing import HIDDEN
        >>> remarks(replace(digits(), passed_over={HIDDEN: [".a", ".b"]}))
        ['passed over: 2 hidden files']
    """
    passed_over = described(source.passed_over)
    return [*source.notes, *([f"passed over: {passed_over}"] if passed_over else [])]


def item_name(source: Source, item: int) -> str:
    """Returns what errors call an item: its reference, and also its file if it was fetched.

    Example:
        >>> item_name(digits(), 7)
        'image 000000007'
    """
    reference = source.references[item]
    if source.file is None or not is_address(reference):
        return reference
    return f"{reference} (kept as {source.file(item)})"


def read_pixels(source: Source, item: int) -> UInt8[np.ndarray, "height width 3"]:
    """Returns an item's picture, decoded if it is a file.

    Raises:
        DataError: The picture cannot be read.
    """
    return read_picture(source.read(item), item_name(source, item), reading=source.reading)


def canvas_of(
    source: Source,
    item: int,
    size: int,
    method: str = "crop",
    out: UInt8[np.ndarray, "size canvas_width 3"] | None = None,
) -> tuple[UInt8[np.ndarray, "size canvas_width 3"], Float32[np.ndarray, "3 3"]]:
    """Returns an item's picture on a canvas, and its frame; see `presized`.

    Raises:
        DataError: The picture cannot be read.
    """
    name = item_name(source, item)
    return presized(source.read(item), size, name, source.reading, method, out)


def without_bad(error: DataError) -> DataError:
    """Returns an error about an item, with advice added on how to leave such items out."""
    return DataError(f"{error}; --data.on-bad skip leaves such pictures out of the set")


def with_range(source: Source, read_all: bool = False) -> Source:
    """Returns the source with a value range for its pictures of more than 8 bits, if there are any.

    The range is guessed from some of these pictures, unless it is set already. If the names of all
    files rule out such pictures, no file is read.

    Args:
        source: Labelled pictures.
        read_all: Whether to look at the pictures even if they are not files.
    """
    if source.reading.range != "auto" or source.presized is not None:
        return source
    file, reading = source.file, source.reading
    if not (may_be_deep(source) if file else read_all):
        return source
    peek = None if file is None else lambda item: head_of(file(item))
    text, words = guess_range(len(source), source.read, peek, reading.max_pixels)
    if text == "auto":
        return source
    reading = reading._replace(range=text)
    return replace(source, reading=reading, notes=(*source.notes, words))


def may_be_deep(source: Source) -> bool:
    """Checks whether pictures may have over 8 bits, judging by file names or the first item."""
    if source.file is None:
        return isinstance(source.read(0), bytes)
    return any(name.lower().endswith(DEEP) for name in source.references)


def take(source: Source, items: Sequence[int] | Int[np.ndarray, "kept"]) -> Source:
    """Returns a source of some of the items, in the order given; it keeps all classes.

    Example:
        >>> len(take(digits(), [3, 1]))
        2
    """
    items = np.asarray(items, int)
    file = source.file
    return replace(
        source,
        labels=source.labels[items],
        file=file and (lambda index: file(int(items[index]))),
        references=[source.references[item] for item in items],
        read=lambda index: source.read(int(items[index])),
        columns={name: [column[item] for item in items] for name, column in source.columns.items()},
    )


def select(source: Source, items: Sequence[int] | Int[np.ndarray, "kept"]) -> Source:
    """Returns a source of some of the items, in the order given, if each class keeps at least one.

    Raises:
        DataError: A class is left without pictures.

    Example:
        >>> source = digits()
        >>> len(select(source, np.flatnonzero(source.labels >= 0)[:100]))
        100
    """
    selected = take(source, items)
    counts = np.bincount(selected.labels, minlength=len(source.classes))
    if not counts.all():
        name = source.classes[int(np.argmin(counts))]
        raise DataError(f"class {name} has no picture left; remove the class or fix its pictures")
    return selected


def check_several(source: Source) -> None:
    """Checks that a source has several classes, which training needs and scoring does not.

    Raises:
        DataError: The source has only one class.
    """
    if len(source.classes) < 2:
        hint = f"; {source.hint}" if source.hint else ""
        raise DataError(
            f"{source.name}: holds one class only, {source.classes[0]}; a classifier needs two"
            f"{hint}"
        )


def leave_out(source: Source, references: Container[str]) -> Source:
    """Returns the source without the items that have the given references; see `select`."""
    names = enumerate(source.references)
    return select(source, [item for item, name in names if name not in references])


def from_arrays(
    images: Sequence[Picture] | Shaped[np.ndarray, "items ..."],
    labels: Sequence[int] | Sequence[str] | Shaped[np.ndarray, "items ..."],
    classes: Sequence[str],
) -> Source:
    """Makes a source from a sequence or an array of pictures.

    Args:
        images: Pictures, as a sequence or as one array of pixels. A picture is given as pixels from
            0 to 255, [height, width] or [height, width, channels]; as a PIL picture; or as a file's
            content or path. See `read_picture`.
        labels: For each item, an index into `classes` or the name of a class; one column
            [items, 1] and one-hot rows [items, classes] are also accepted.
        classes: Names of the classes, in the order of their numbers.

    Raises:
        DataError: Pictures, labels or classes are not valid, or do not fit together.

    Example:
        >>> source = from_arrays(np.zeros((4, 8, 8), np.uint8), np.array([0, 1, 0, 1]), ["a", "b"])
        >>> len(source), source.read(3).shape
        (4, (8, 8, 3))
    """
    numbers, classes = numbers_of(labels, classes), check_classes(classes)
    pictures = as_images(images)
    if not len(pictures):
        raise DataError("from_arrays: there are no images")
    if len(pictures) != len(numbers):
        raise DataError(f"from_arrays: {len(pictures)} images but {len(numbers)} labels")

    def read(index: int) -> bytes | UInt8[np.ndarray, "height width 3"] | Decoded:
        picture = pictures[index]
        if is_encoded(picture):
            return content_of(picture, references[index])
        decoded = read_stored(picture, references[index])
        return decoded if decoded.profile else decoded.pixels

    references = [f"image {index:09d}" for index in range(len(numbers))]
    return Source(classes, numbers, references, read)


def digits() -> Source:
    """Returns scikit-learn's 1,797 handwritten digits, which are 8x8 scans with 17 levels of grey.

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI repository.

    Example:
        >>> source = digits()
        >>> len(source), source.classes[:3], source.read(0).shape
        (1797, ('0', '1', '2'), (8, 8, 3))
    """
    # scikit-learn is not imported, as that takes two seconds, a tenth of a short run.
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise DataError("digits: these pictures are part of scikit-learn, which is not installed")
    file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    table = np.loadtxt(file, delimiter=",", dtype=np.int32)
    pixels = np.round(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    return from_arrays(pixels, table[:, -1], [str(digit) for digit in range(10)])


def labelled_files(
    root: Path,
    references: Sequence[str],
    class_names: Sequence[str],
    columns: Mapping[str, Sequence[str | bool]] | None = None,
    elsewhere: Mapping[str, Path] | None = None,
    notes: Sequence[str] = (),
) -> Source:
    """Makes a source from files below a folder.

    Args:
        root: The folder.
        references: Path of each item, relative to `root`, or its address.
        class_names: Class of each item; composed and decomposed umlauts count as the same.
        columns: What else is known about each item.
        elsewhere: File for each reference that is an address.
        notes: Phrases for the line that describes the data.
    """
    class_names = [*map(composed, class_names)]
    classes = tuple(sorted(set(class_names)))
    numbers = {name: number for number, name in enumerate(classes)}
    labels = np.fromiter((numbers[name] for name in class_names), np.int32, len(references))

    elsewhere, folder = elsewhere or {}, str(root)

    def file(index: int) -> Path:
        return elsewhere.get(references[index]) or root / references[index]

    def read(index: int) -> bytes:
        reference = references[index]
        try:
            # This takes half the time of `Path.read_bytes`, which matters for small pictures.
            path = elsewhere.get(reference) or join(folder, reference)
            with open(path, "rb", buffering=0) as opened:
                return opened.read()
        except OSError as error:
            raise DataError(f"{file(index)}: cannot be read: {error.strerror}") from None

    alike = [
        f"classes {one!r} and {other!r} look alike, but count as two"
        for one, other in look_alikes(classes)
    ]
    notes = (*notes, *alike)
    columns = columns or {}
    return Source(classes, labels, references, read, columns, file, notes=notes, name=folder)
