"""Labels with the answers of a person put in, as a table that training takes."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jaxch5.data.source import IS_VALID
from jaxch5.data.split import TRAIN, VALID
from jaxch5.errors import DataError
from jaxch5.results.answers import CLASS, DROP, UNSURE, Answer, Key
from jaxch5.util.files import sha256_of, to_json, write_file
from jaxch5.util.text import composed, counted, is_text

# Beside a table of corrected labels: what was corrected in it.
ABOUT = ".json"


class Row(NamedTuple):
    """A picture of a set: its path, its label, and whether it is validated."""

    image: str
    label: str
    valid: bool

    @property
    def part(self) -> str:
        """Returns the name of the part that the picture is in."""
        return VALID if self.valid else TRAIN


@dataclass(frozen=True)
class Corrections:
    """A set with its labels corrected, and what that changed.

    Attributes:
        rows: Pictures that are left, in their order.
        relabelled: Pictures of another class now, by part, old and new class.
        dropped: Pictures that were left out, by part and class.
        kinds: Answers about pictures of the set, by kind.
        elsewhere: Answers about pictures that are not in the set, or not with that label.
    """

    rows: Sequence[Row]
    relabelled: Counter[tuple[str, str, str]]
    dropped: Counter[tuple[str, str]]
    kinds: Counter[str]
    elsewhere: int


def corrected(
    rows: Sequence[Row], answers: Mapping[Key, Answer], drop_unsure: bool = False
) -> Corrections:
    """Puts answers into the labels of a set; a picture without one stays as it is.

    Args:
        rows: Pictures of the set.
        answers: Last answer about each picture.
        drop_unsure: Whether pictures that the person was not sure of are left out too.

    Example:
        >>> rows = [Row("1.jpg", "cat", False), Row("2.jpg", "cat", True)]
        >>> dog = Answer("class", (("1.jpg", "cat"),), "dog")
        >>> corrected(rows, {("1.jpg", "cat"): dog}).rows[0].label
        'dog'
    """
    left: list[Row] = []
    relabelled: Counter[tuple[str, str, str]] = Counter()
    dropped: Counter[tuple[str, str]] = Counter()
    kinds: Counter[str] = Counter()
    for row in rows:
        answer = answers.get((row.image, row.label))
        kinds.update([answer.kind] if answer else [])
        if answer and answer.kind in ((DROP, UNSURE) if drop_unsure else (DROP,)):
            dropped[row.part, row.label] += 1
            continue
        label = answer.label if answer and answer.kind == CLASS else row.label
        if label != row.label:
            relabelled[row.part, row.label, label] += 1
        left.append(row._replace(label=label))
    elsewhere = len(answers.keys() - {(row.image, row.label) for row in rows})
    return Corrections(left, relabelled, dropped, kinds, elsewhere)


def check_listable(rows: Sequence[Row]) -> None:
    """Makes sure that a table can name all pictures and classes.

    Raises:
        DataError: It cannot.
    """
    classes = {row.label for row in rows}
    spaced = {name for name in classes if name != name.strip()}
    for name in sorted(classes):
        if not is_text(name):
            raise DataError(f"class {name}: is no text, which it has to be in a table; rename it")
    for name in sorted(spaced):
        if name.strip() in classes - {name}:
            raise DataError(
                f"class {name!r}: differs from another by spaces alone, which a table leaves out; "
                "rename one of them"
            )
    for row in rows:
        if row.image != row.image.strip():
            raise DataError(
                f"{row.image!r}: ends in a space, which a table leaves out; rename the file"
            )


def remarks(before: Sequence[Row], now: Corrections) -> list[str]:
    """Returns what training on corrected labels has to know: classes that came, went or are bare.

    Example:
        >>> rows = [Row("1.jpg", "cat", False), Row("2.jpg", "dog", False)]
        >>> remarks(rows, corrected(rows, {("2.jpg", "dog"): Answer("drop")}))[0]
        'no picture of dog is left: a network that is trained on these labels will not know it'
    """
    had, has = ({composed(row.label.strip()) for row in rows} for rows in (before, now.rows))
    trained = {composed(row.label.strip()) for row in now.rows if not row.valid}
    lines = [
        f"no picture of {name} is left: a network that is trained on these labels will not know it"
        for name in sorted(had - has)
    ]
    lines += [f"{name} is a new class" for name in sorted(has - had)]
    lines += [
        f"{name} has no picture for training, so that train will refuse these labels: correct or "
        f"drop those for validation"
        for name in sorted(has - trained)
    ]
    if len(trained) < 2:
        lines.append("fewer than two classes are left: train will refuse these labels")
    for part, valid in ((TRAIN, False), (VALID, True)):
        if not any(row.valid == valid for row in now.rows):
            lines.append(f"no picture of the part {part} is left: train will refuse these labels")
    if now.elsewhere:
        lines.append(
            counted(now.elsewhere, "answer is", "answers are")
            + " about pictures that are not in the set any more, or not with that label, and "
            "changed nothing"
        )
    return lines


def summary(now: Corrections, drop_unsure: bool) -> str:
    """Returns the counts of answers in one line.

    Example:
        >>> summary(corrected([], {}), False)
        '0 kept, 0 relabelled, 0 dropped, 0 unsure'
    """
    kinds = now.kinds
    unsure = f"{kinds[UNSURE]:,} unsure"
    if kinds[UNSURE]:
        unsure += ", and left out" if drop_unsure else ", and left as they are"
    moved = now.relabelled.total()
    kept = kinds.total() - kinds[DROP] - kinds[UNSURE] - moved
    return f"{kept:,} kept, {moved:,} relabelled, {kinds[DROP]:,} dropped, {unsure}"


def write_labels(path: Path, now: Corrections, run: Path | None) -> None:
    """Writes a table of corrected labels, and beside it what was corrected, each in one piece.

    Args:
        path: CSV file; the other one has its name with another ending.
        now: Corrected labels.
        run: Run that the labels were of; None without one.

    Raises:
        CheckpointError: They cannot be written.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "labels.csv"
        >>> write_labels(path, corrected([Row("/1.jpg", "cat", True)], {}), None)
        >>> path.read_text().split()
        ['image,label,is_valid', '/1.jpg,cat,True']
        >>> about_labels(path)["relabelled"]
        []
    """
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(("image", "label", IS_VALID))
    writer.writerows(now.rows)
    # A file's name may hold bytes that are no text; they are written, and read, as they are.
    write_file(path, table.getvalue().encode("utf-8", "surrogateescape"))
    about = {
        "format": 1,
        "run": run and str(run),
        "labels": sha256_of(path),
        "pictures": len(now.rows),
        "relabelled": [(*key, count) for key, count in now.relabelled.most_common()],
        "dropped": [(*key, count) for key, count in now.dropped.most_common()],
        "unsure": now.kinds[UNSURE],
    }
    write_file(path.with_suffix(ABOUT), to_json(about).encode() + b"\n")


def about_labels(path: Path) -> dict[str, Any] | None:
    """Returns what `write_labels` wrote beside a table; None where the table is no such one.

    Its "edited" tells whether the table is another than was written, so that counts may be wrong.
    """
    try:
        about = json.loads(path.with_suffix(ABOUT).read_bytes())
        return (
            about | {"edited": about["labels"] != sha256_of(path)} if about["format"] == 1 else None
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None
