"""Measures how many nines a network leaves unanswered if it has never seen a nine.

A ResNet-18 learns scikit-learn's digits without the nines, once with a softmax and once with a
sigmoid for each class. Both networks give an answer only if their highest probability for a digit
reaches the threshold that `evaluate` suggests. At this threshold 95 % of the validation digits are
answered, and ideally no nine is.

    python benchmarks/nines.py --seeds 5
"""

from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np
from common import arguments_of, mean_text, tell
from rich.console import Console

import jaxch5 as jx
from jaxch5.results.calibration import select

NINE = 9
TASKS = {"softmax": jx.single_label(), "sigmoid": jx.one_vs_rest()}


def trained(task: jx.Task, seed: int) -> tuple[jx.Learner, list[np.ndarray]]:
    """Returns a learner of the digits from 0 to 8, and the pictures of the nines."""
    source = jx.digits()
    pictures = [source.read(item) for item in range(len(source))]
    known = np.flatnonzero(source.labels != NINE)
    digits = jx.from_arrays(
        [pictures[item] for item in known], source.labels[known], source.classes[:NINE]
    )
    block = jx.DataBlock(
        digits, jx.random_split(seed=seed), 40, 32, jx.aug_transforms(do_flip=False)
    )
    data = block.load(64, seed=seed)
    learn = jx.vision_learner(data, "resnet18", "none", head="linear", task=task, seed=seed)
    learn.console = Console(file=io.StringIO())
    learn.fit_one_cycle(5, 3e-3)
    return learn, [pictures[item] for item in np.flatnonzero(source.labels == NINE)]


def measured(learn: jx.Learner, nines: list[np.ndarray]) -> dict[str, float]:
    """Returns the threshold and, in percent, how much is answered or wrong at this threshold."""
    probabilities, labels = learn.get_preds()
    right = probabilities.argmax(axis=1) == labels
    selection = select(probabilities.max(axis=1).astype(np.float64), right)
    threshold = selection.suggested()
    answered, error = selection.at(threshold)
    of_nines = np.array(
        [found.probabilities.max() for found in learn.predictor().predict_many(nines)]
    )
    return {
        "threshold": threshold,
        "digits answered": 100 * answered,
        "errors among these": 100 * error,
        "errors among all": 100 * float(np.mean(~right)),
        "nines not answered": 100 * float(np.mean(of_nines < threshold)),
        "nines below 0.5": 100 * float(np.mean(of_nines < 0.5)),
    }


def main() -> None:
    parser = arguments_of(__doc__, turns=None, device=False)
    parser.add_argument("--seeds", type=int, default=5, help="runs of each network (default: 5)")
    arguments = parser.parse_args()
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in TASKS}
    for seed in range(arguments.seeds):
        for name, task in TASKS.items():
            figures[name].append(measured(*trained(task, seed)))
            print(seed, name, figures[name][-1], file=sys.stderr, flush=True)
    document: dict[str, Any] = {
        name: {key: mean_text([one[key] for one in runs]) for key in runs[0]}
        for name, runs in figures.items()
    }
    tell(document, arguments.json)


if __name__ == "__main__":
    main()
