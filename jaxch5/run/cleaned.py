"""Records the label corrections made before a run, and compares its network with an older one."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxch5.data.block import Data
from jaxch5.data.source import IS_VALID
from jaxch5.errors import Jaxch5Error
from jaxch5.results.corrections import about_labels
from jaxch5.results.interpretation import Interpretation
from jaxch5.results.predictor import load_learner
from jaxch5.run.directory import RunDir, open_run
from jaxch5.util.files import to_json, write_file
from jaxch5.util.imports import is_import_path
from jaxch5.util.text import composed

# Maximum number of changed classes, and of pairs of classes, that a report names.
SHOWN = 6


class Gain(NamedTuple):
    """The number of a class's pictures, and how many of them each of two networks gets right."""

    name: str
    before: int
    now: int
    pictures: int


class Compared(NamedTuple):
    """Holds a comparison of two networks on the same pictures with the same labels.

    Attributes:
        pictures: Number of pictures.
        before, now: Number of pictures that the first and the second network get right.
        won: Number of pictures that only the second network gets right.
        lost: Number of pictures that only the first network gets right.
        gains: At most `SHOWN` classes whose `before` and `now` differ, largest difference first.
    """

    pictures: int
    before: int
    now: int
    won: int
    lost: int
    gains: list[Gain]


def record_cleaning(run: RunDir) -> None:
    """Records the corrections of a new run's labels, if there are any.

    The run keeps its own record, since the labels may be corrected again later.

    Raises:
        CheckpointError: The record cannot be written.
    """
    labels = open_run(run.path)[1].data.path
    if isinstance(labels, Path) and (about := about_labels(labels)):
        write_file(run.cleaned_file, to_json(about).encode() + b"\n")


def changes(run: RunDir, data: Data, interp: Interpretation | None) -> dict[str, Any] | None:
    """Returns what a report shows about corrected labels; None if the run recorded none.

    The report shows how many labels were corrected. If the corrected labels are those of an earlier
    run, the report also compares the networks of the two runs; the earlier run's network is
    evaluated again, since its score was based on the old labels. If a comparison is impossible or
    would be unfair, the entry "why_not" says why.

    Args:
        run: Finished run.
        data: Pictures of the run.
        interp: Answers of the run's network for the validation set; None if there are none.
    """
    if not run.cleaned_file.is_file():
        return None
    about = json.loads(run.cleaned_file.read_bytes())
    pairs: Counter[tuple[str, str]] = Counter()
    counts: Counter[str] = Counter()
    for part, old, new, count in about["relabelled"]:
        pairs[old, new] += count
        counts.update({"relabelled": count, f"relabelled_{part}": count})
    for part, _, count in about["dropped"]:
        counts.update({"dropped": count, f"dropped_{part}": count})
    said: dict[str, Any] = {
        "run": about["run"],
        "counts": counts,
        "pairs": pairs.most_common(SHOWN),
        "edited": about["edited"],
        "compared": None,
        "why_not": "",
    }
    held_out = [str(word) for word in data.source.columns.get(IS_VALID, ())]
    if about["run"] is None:
        said["why_not"] = "there is no earlier run"
    elif interp is None:
        said["why_not"] = "this network's outputs are not finite"
    elif about["edited"] or not all(held_out[item] == "True" for item in data.valid.items):
        said["why_not"] = (
            "this run's validation set may contain pictures that the earlier network was trained on"
        )
    else:
        try:
            said["compared"] = compare(Path(about["run"]), run, data, interp)
        except Jaxch5Error as error:
            said["why_not"] = str(error)
    return said


def compare(earlier: Path, run: RunDir, data: Data, interp: Interpretation) -> Compared:
    """Compares an earlier run's network with another run's answers for the same pictures.

    Args:
        earlier: Directory of the earlier run.
        run: Run whose network gave the answers.
        data: Pictures of that run.
        interp: Answers for the validation pictures, with their labels.

    Raises:
        ConfigError: The earlier run is gone, or its configuration is invalid.
        WeightsError: The earlier run has no network that can be loaded.
        DataError: A picture cannot be read.
    """
    arch = open_run(run.path)[1].model.arch
    # The earlier run's import path is imported only if this run was given the same one.
    same = is_import_path(arch) and open_run(earlier)[1].model.arch == arch
    predictor = load_learner(earlier, arch if same else None)
    probabilities = predictor.probabilities_of(data.source, data.valid.items)
    # Classes are matched by name, as cleaning may have created or emptied a class.
    classes = tuple(composed(name.strip()) for name in predictor.classes)
    answers = np.array(predictor.task.answers(classes))
    targets = np.array(interp.classes)[interp.targets]
    before = answers[predictor.task.decode(probabilities)] == targets
    now = interp.predictions == interp.targets
    gains = [
        Gain(name, int(before[of].sum()), int(now[of].sum()), int(of.sum()))
        for name in interp.classes
        if (of := targets == name).any()
    ]
    changed = sorted(
        (gain for gain in gains if gain.now != gain.before),
        key=lambda gain: (-abs(gain.now - gain.before), gain.name),
    )
    return Compared(
        len(targets),
        int(before.sum()),
        int(now.sum()),
        int((now & ~before).sum()),
        int((before & ~now).sum()),
        changed[:SHOWN],
    )
