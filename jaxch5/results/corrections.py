"""Applies a person's answers to labels, and writes the new labels as a table to train on."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jaxch5.data.parts import TRAIN, VALID
from jaxch5.data.source import IS_VALID
from jaxch5.errors import CheckpointError, DataError
from jaxch5.results.answers import CLASS, DROP, UNSURE, Answer, Key
from jaxch5.util.files import sha256_of, to_json, unused, write_file
from jaxch5.util.text import composed, counted, is_text

# Suffixes of the files beside a table of corrected labels: the record of what was corrected, and
# the settings for training on the table.
ABOUT, SETTINGS = ".json", ".toml"


class Row(NamedTuple):
    """A picture of a set: its path, its label, and whether it is for validation."""

    image: str
    label: str
    valid: bool

    @property
    def part(self) -> str:
        """Returns the name of the part that the picture is in."""
        return VALID if self.valid else TRAIN


@dataclass(frozen=True)
class Corrections:
    """Holds a set with corrected labels, and what changed.

    Attributes:
        rows: Pictures that are left, in their order.
        relabelled: Number of pictures that changed class, keyed by part, old class and new class.
        dropped: Number of pictures that were left out, keyed by part and class.
        kinds: Number of answers about pictures of the set, keyed by the kind of answer.
        elsewhere: Number of answers about pictures that are not in the set, or have a label there
            other than the one that the answer was about.
    """

    rows: Sequence[Row]
    relabelled: Counter[tuple[str, str, str]]
    dropped: Counter[tuple[str, str]]
    kinds: Counter[str]
    elsewhere: int


def corrected(
    rows: Sequence[Row], answers: Mapping[Key, Answer], drop_unsure: bool = False
) -> Corrections:
    """Applies answers to the labels of a set; a picture without an answer stays unchanged.

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
    """Checks that a table can name all pictures and classes.

    Raises:
        DataError: A table cannot hold one of the names.
    """
    classes = {row.label for row in rows}
    spaced = {name for name in classes if name != name.strip()}
    for name in sorted(classes):
        if not is_text(name):
            raise DataError(f"class {name}: is not valid text, which a table needs; rename it")
    for name in sorted(spaced):
        if name.strip() in classes - {name}:
            raise DataError(
                f"class {name!r}: differs from another only by spaces around it, which a table "
                "drops; rename one of them"
            )
    for row in rows:
        if row.image != row.image.strip():
            raise DataError(f"{row.image!r}: a table drops the spaces around it; rename the file")


def remarks(before: Sequence[Row], now: Corrections) -> list[str]:
    """Returns remarks about corrected labels, for example about classes that are new or gone.

    Example:
        >>> rows = [Row("1.jpg", "cat", False), Row("2.jpg", "dog", False)]
        >>> remarks(rows, corrected(rows, {("2.jpg", "dog"): Answer("drop")}))[0]
        'no picture of dog is left: a network trained on these labels will not know it'
    """
    had, has = ({composed(row.label.strip()) for row in rows} for rows in (before, now.rows))
    trained = {composed(row.label.strip()) for row in now.rows if not row.valid}
    lines = [
        f"no picture of {name} is left: a network trained on these labels will not know it"
        for name in sorted(had - has)
    ]
    lines += [f"{name} is a new class" for name in sorted(has - had)]
    lines += [
        f"{name} has no pictures for training, so train will refuse these labels: correct or "
        f"drop its pictures for validation"
        for name in sorted(has - trained)
    ]
    if len(trained) < 2:
        lines.append("fewer than two classes are left: train will refuse these labels")
    for part, valid in ((TRAIN, False), (VALID, True)):
        if not any(row.valid == valid for row in now.rows):
            lines.append(f"no picture is left in the part {part}: train will refuse these labels")
    if now.elsewhere:
        lines.append(
            counted(now.elsewhere, "answer is", "answers are")
            + " about pictures that are no longer in the set, or have another label now, and "
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
        unsure += " (left out)" if drop_unsure else " (unchanged)"
    moved = now.relabelled.total()
    kept = kinds.total() - kinds[DROP] - kinds[UNSURE] - moved
    return f"{kept:,} kept, {moved:,} relabelled, {kinds[DROP]:,} dropped, {unsure}"


def write_labels(
    path: Path, now: Corrections, run: Path | None, settings: str = ""
) -> dict[Path, Path]:
    """Writes a table of corrected labels, with settings and a record beside it, each atomically.

    A table or settings that do not match the record, as after an edit, are kept under another name.

    Args:
        path: CSV file to write. The settings and the record get the same name, but with the
            suffixes `.toml` and `.json`.
        now: Corrected labels.
        run: Run whose labels were corrected, if there is one.
        settings: Settings for training on the table, as TOML; "" writes none.

    Returns:
        New paths of the files that did not match the record, keyed by their former paths.

    Raises:
        CheckpointError: A file cannot be written, or a former one cannot be kept, because it cannot
            be read.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "labels.csv"
        >>> write_labels(path, corrected([Row("/1.jpg", "cat", True)], {}), None)
        {}
        >>> path.read_text().split()
        ['image,label,is_valid', '/1.jpg,cat,True']
        >>> about_labels(path)["relabelled"]
        []
    """
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(("image", "label", IS_VALID))
    writer.writerows(now.rows)
    # A file's name may hold bytes that are not valid text; they are written and read unchanged.
    files = {path: table.getvalue().encode("utf-8", "surrogateescape")}
    if settings:
        files[path.with_suffix(SETTINGS)] = settings.encode()
    about = about_labels(path) or {}
    recorded = {path: about.get("labels"), path.with_suffix(SETTINGS): about.get("settings")}
    kept = {file: _kept_if_edited(file, recorded[file], files[file]) for file in files}
    for file, content in files.items():
        write_file(file, content)
    record = {
        "format": 1,
        "run": run and str(run),
        "labels": sha256_of(path),
        "settings": sha256_of(path.with_suffix(SETTINGS)) if settings else None,
        "pictures": len(now.rows),
        "relabelled": [(*key, count) for key, count in now.relabelled.most_common()],
        "dropped": [(*key, count) for key, count in now.dropped.most_common()],
        "unsure": now.kinds[UNSURE],
    }
    write_file(path.with_suffix(ABOUT), to_json(record).encode() + b"\n")
    return {file: edited for file, edited in kept.items() if edited}


def _kept_if_edited(file: Path, digest: str | None, new: bytes) -> Path | None:
    """Copies a file that has neither the recorded digest nor the new content; returns the copy."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(
            f"{file}: cannot be read, so it is not replaced: {error.strerror}; rename it"
        ) from None
    if content == new or hashlib.sha256(content).hexdigest() == digest:
        return None
    edited = unused(file.with_name(f"{file.stem}-edited"), file.suffix)
    write_file(edited, content)
    return edited


def about_labels(path: Path) -> dict[str, Any] | None:
    """Returns the record that `write_labels` wrote beside a table; None if it cannot be read.

    The entry "edited" tells whether the table has been changed since it was written; if it has, the
    counts may be wrong.
    """
    try:
        about = json.loads(path.with_suffix(ABOUT).read_bytes())
        return (
            about | {"edited": about["labels"] != sha256_of(path)} if about["format"] == 1 else None
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None
