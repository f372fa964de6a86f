"""Stores a person's answers about labels in an append-only log, and reads it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from jaxch5.errors import CheckpointError
from jaxch5.util.files import to_json

KEEP, CLASS, DROP, UNSURE, UNDO = "keep", "class", "drop", "unsure", "undo"
KINDS = (KEEP, CLASS, DROP, UNSURE, UNDO)

# A picture's path, and the label that it had when an answer about it was given; the answer applies
# only while the picture has that label.
Key = tuple[str, str]


class Answer(NamedTuple):
    """Holds one answer, about one or several pictures.

    Attributes:
        kind: "keep", "class" (another class is right), "drop", "unsure", or "undo", which revokes
            the last answer that still holds.
        pictures: Path and label of each picture.
        label: Right class of the pictures, if the kind is "class"; otherwise "".
    """

    kind: str
    pictures: tuple[Key, ...] = ()
    label: str = ""


def holding(answers: Iterable[Answer]) -> list[Answer]:
    """Returns the answers that were not undone, in their order.

    Example:
        >>> cat = Answer("keep", (("1.jpg", "cat"),))
        >>> holding([cat, Answer("drop", cat.pictures), Answer("undo")]) == [cat]
        True
    """
    found: list[Answer] = []
    for answer in answers:
        if answer.kind != UNDO:
            found.append(answer)
        elif found:
            found.pop()
    return found


def by_picture(answers: Iterable[Answer]) -> dict[Key, Answer]:
    """Returns the last answer about each picture.

    Example:
        >>> answers = [Answer(kind, (("1.jpg", "cat"),)) for kind in ("keep", "drop")]
        >>> by_picture(answers)[("1.jpg", "cat")].kind
        'drop'
    """
    return {key: answer for answer in answers for key in answer.pictures}


class AnswerLog:
    """Appends answers to a file, one per line.

    Attributes:
        path: The file.
        torn: Whether the file ended in a partial line, which was never confirmed as saved, and
            which has been removed.
        lines: Number of lines, including those with answers that were undone, and those that undid
            them.
        answers: Answers that were not undone, in their order.
        labels: Classes that the answers in the file named when it was opened, in the order in which
            they were first named; answers that were undone count too.

    Raises:
        CheckpointError: The file cannot be read or written, or a line of it is damaged.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "answers.jsonl"
        >>> with AnswerLog(path) as log:
        ...     log.add(Answer("drop", (("1.jpg", "cat"),)))
        >>> with AnswerLog(path) as log:
        ...     log.lines, log.answers[0].kind
        (1, 'drop')
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("ab+", buffering=0)
            self._file.seek(0)
            content = self._file.read()
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be written: {error.strerror}") from None
        self._size = content.rfind(b"\n") + 1
        self.torn = self._size < len(content)
        given = [
            _answer(path, number, line)
            for number, line in enumerate(content[: self._size].splitlines(), 1)
        ]
        self._file.truncate(self._size)
        self.lines, self.answers = len(given), holding(given)
        self.labels = dict.fromkeys(answer.label for answer in given if answer.label)

    def add(self, answer: Answer) -> None:
        """Appends an answer, which is on the disk once this method returns.

        Raises:
            CheckpointError: The answer cannot be written; the file is unchanged.
        """
        said = answer._asdict() | {"time": datetime.now().astimezone().isoformat("T", "seconds")}
        line = to_json({name: value for name, value in said.items() if value}).encode() + b"\n"
        try:
            if self._file.write(line) < len(line):
                raise OSError(0, "the disk is full")
            os.fsync(self._file.fileno())
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(self._size)
            raise CheckpointError(f"{self.path}: cannot be written: {error.strerror}") from None
        self._size += len(line)
        self.lines += 1
        self.answers = holding([*self.answers, answer])

    def __enter__(self) -> AnswerLog:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def _answer(path: Path, number: int, line: bytes) -> Answer:
    try:
        said = json.loads(line)
        pictures = tuple((str(image), str(label)) for image, label in said.get("pictures", ()))
        answer = Answer(said["kind"], pictures, str(said.get("label", "")))
        if answer.kind not in KINDS or (answer.kind == CLASS) != bool(answer.label):
            raise ValueError
    except (ValueError, TypeError, KeyError, AttributeError):
        raise CheckpointError(
            f"{path}, line {number}: is not an answer; remove the line, or restore a copy "
            "of the file"
        ) from None
    return answer
