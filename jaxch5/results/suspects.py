"""Items whose label looks wrong, as a table in which a person corrects the labels."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxch5.errors import DataError

# The loss of a probability of a tenth: so little is left to the label.
SUSPECT_LOSS = 2.302585
# More than all other classes together have.
SUSPECT_PROBABILITY = 0.5


class Suspect(NamedTuple):
    """An item whose label looks wrong; `probability` is that of the prediction."""

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
    """Finds the items that are taken for another class than their own, largest loss first."""
    # The answer "none of these" is no other class.
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
    """Writes suspects that are files into a CSV file that `from_csv` reads; returns how many.

    Args:
        path: CSV file to write; an existing one is replaced.
        suspects: Suspects, in the order of the rows.
        references: Path of each item, not of suspects alone.

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
    file = Path(path).expanduser()
    rows = [
        (
            os.path.abspath(references[suspect.item]),
            suspect.label,
            suspect.prediction,
            f"{suspect.probability:.4f}",
            f"{suspect.loss:.4f}",
        )
        for suspect in suspects
        if os.path.isfile(references[suspect.item])
    ]
    try:
        # A file's name may hold bytes that are no text; they are written, and read, as they are.
        with file.open("w", newline="", encoding="utf-8", errors="surrogateescape") as opened:
            writer = csv.writer(opened)
            writer.writerow(("image", "label", "prediction", "probability", "loss"))
            writer.writerows(rows)
    except OSError as error:
        raise DataError(f"{file}: cannot be written: {error}") from None
    return len(rows)
