"""Lists items whose label looks wrong, in a table in which a person can correct the labels."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxch5.data.parts import TRAIN, VALID
from jaxch5.data.source import Source
from jaxch5.errors import DataError
from jaxch5.results.confident import find_label_issues
from jaxch5.results.out_of_fold import nearest_items
from jaxch5.task import SOFTMAX

# The loss of a label that has a probability of a tenth.
SUSPECT_LOSS = 2.302585
# A class above this probability is more probable than all other classes together.
SUSPECT_PROBABILITY = 0.5
COLUMNS = ("image", "label", "prediction", "probability", "loss")


class Suspect(NamedTuple):
    """Describes an item whose label looks wrong; `probability` is that of the prediction."""

    item: int
    label: str
    prediction: str
    probability: float
    loss: float


def find_suspects(
    targets: Int[np.ndarray, "items"],
    predictions: Int[np.ndarray, "items"],
    confidences: Float[np.ndarray, "items"],
    losses: Float[np.ndarray, "items"],
    classes: Sequence[str],
) -> list[Suspect]:
    """Finds the items predicted as a class other than their own, largest loss first."""
    # The answer "none of these" does not count as another class.
    wrong = (predictions != targets) & (predictions < len(classes))
    found = [
        Suspect(
            int(item),
            classes[targets[item]],
            classes[predictions[item]],
            float(confidences[item]),
            float(losses[item]),
        )
        for item in np.flatnonzero(wrong)
    ]
    return sorted(found, key=lambda suspect: -suspect.loss)


def write_suspects(
    path: str | os.PathLike[str], suspects: Sequence[Suspect], references: Sequence[str]
) -> int:
    """Writes a CSV table of those suspects that are files, and returns their number.

    `from_csv` reads the table.

    Args:
        path: CSV file to write; an existing one is replaced.
        suspects: Suspects, in the order of the rows.
        references: Path of each item, not only of the suspects.

    Raises:
        DataError: The file cannot be written.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "suspects.csv"
        >>> write_suspects(file, [Suspect(0, "cat", "dog", 0.9, 3.0)], ["no file.png"])
        0
        >>> file.read_text().strip()
        'image,label,prediction,probability,loss'
    """
    rows = [
        {"image": os.path.abspath(references[suspect.item]), **suspect._asdict()}
        for suspect in suspects
        if os.path.isfile(references[suspect.item])
    ]
    write_table(path, COLUMNS, rows)
    return len(rows)


def write_table(
    path: str | os.PathLike[str], columns: Sequence[str], rows: Iterable[Mapping[str, Any]]
) -> None:
    """Writes a CSV file that `from_csv` reads; floats have four decimals.

    Args:
        path: CSV file to write; an existing one is replaced.
        columns: Names of the columns.
        rows: Values of each row, keyed by column name; values of other columns are left out.

    Raises:
        DataError: The file cannot be written.

    Example:
        >>> write_table(os.devnull, ["image", "label"], [{"image": "a.png", "label": "cat"}])
    """

    def cell(value: Any) -> Any:
        return f"{value:.4f}" if isinstance(value, float) else value

    file = Path(path).expanduser()
    try:
        # A file's name may hold bytes that are not valid text; they are written and read unchanged.
        with file.open("w", newline="", encoding="utf-8", errors="surrogateescape") as opened:
            writer = csv.writer(opened)
            writer.writerow(columns)
            writer.writerows([cell(row[name]) for name in columns] for row in rows)
    except OSError as error:
        raise DataError(f"{file}: cannot be written: {error}") from None


def named(source: Source, item: int) -> str:
    """Returns an item's name in a list of suspects: its file's path, or else its reference."""
    return os.path.abspath(source.file(item)) if source.file else source.references[item]


def described(
    source: Source,
    valid: Bool[np.ndarray, "items"],
    judged: Int[np.ndarray, "judged"],
    probabilities: Float[np.ndarray, "items classes"],
    features: Float[np.ndarray, "items channels"] | None = None,
) -> dict[str, Any]:
    """Compares labels with the predictions of a classifier that was not trained on them.

    Items for which another class is more probable than the label are listed, most doubtful first.

    Args:
        source: Labelled items.
        valid: Whether each item is for validation.
        judged: Indices of the items that have predictions.
        probabilities: Class probabilities of all items; only those of judged items are used.
        features: Features of all items, with which the items nearest to each suspect are found;
            None leaves the nearest items out.

    Returns:
        The estimated number of `wrong` labels, the share of labels that the classifier `agreed`
        with, `pairs` of a label and another class, each with the estimated number of items that
        have the label but belong to the other class, and the `suspects`.
    """
    labels, classes = source.labels[judged], source.classes
    # With features, the probabilities are those of `judge_by_heads`.
    issues = find_label_issues(labels, probabilities[judged], calibrated=features is not None)
    losses = SOFTMAX.item_losses(probabilities[judged], labels)
    places = np.flatnonzero(issues.disputed)
    places = places[np.argsort(-issues.doubt[places], kind="stable")]
    listed = [
        {
            "image": named(source, judged[place]),
            "label": classes[labels[place]],
            "prediction": classes[issues.rival[place]],
            "probability": float(probabilities[judged[place], issues.rival[place]]),
            "label_probability": float(probabilities[judged[place], labels[place]]),
            "doubt": float(issues.doubt[place]),
            "loss": float(losses[place]),
            "part": VALID if valid[judged[place]] else TRAIN,
            "likely_wrong": bool(issues.wrong[place]),
        }
        for place in places.tolist()
    ]
    if features is not None:
        for side, sought in (("label", labels), ("prediction", issues.rival)):
            asked = [(int(judged[place]), int(sought[place])) for place in places.tolist()]
            nearest = nearest_items(features, source.labels, asked)
            for one, items in zip(listed, nearest, strict=True):
                near = one.setdefault("nearest", {})
                near[side] = [named(source, item) for item in items]
    counts = np.rint(issues.joint).astype(int)
    np.fill_diagonal(counts, 0)
    rows, columns = np.nonzero(counts)
    pairs = [
        (classes[rows[kind]], classes[columns[kind]], int(counts[rows[kind], columns[kind]]))
        for kind in np.argsort(-counts[rows, columns], kind="stable")
    ]
    agreed = float(np.mean(~issues.disputed))
    return {"wrong": issues.estimated, "agreed": agreed, "pairs": pairs, "suspects": listed}
