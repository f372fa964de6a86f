"""Measures how much class weights and samplers help if the classes have unequal sizes.

The set consists of five classes of photographs in `train/` and `valid/`. Of these classes, 100, 50,
20, 10 and 10 pictures are used for training. The seed decides which class gets how many pictures,
and which pictures these are. All validation pictures are scored. Each class should have equally
many of them, so that accuracy and balanced accuracy are the same. A ResNet-18 is fine-tuned from
the weights of a run, which may have been trained on other pictures:

    jaxch5 train --data.path caltech --model.weights none --data.presize 72 \
        --data.size 64 --data.batch-size 64 --fit.epochs 10 --fit.lr 3e-3 --workdir caltech_run
    python benchmarks/imbalance.py --path flowers --weights caltech_run --out cells

A cell is one combination of a seed and a measure against the imbalance. The result of each cell is
stored as a file in the folder that `--out` names, and cells that have such a file are not trained
again. The benchmark can therefore be stopped and resumed at any time.
"""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import arguments_of, mean_text, tell
from rich.console import Console

import jaxch5 as jx
from jaxch5.data.sampler import IMBALANCE, SAMPLERS
from jaxch5.data.source import Source
from jaxch5.data.split import folder_split

COUNTS = (100, 50, 20, 10, 10)
MEASURES = {
    "none": ("shuffled", "none"),
    "weights_balanced": ("shuffled", "balanced"),
    "weights_sqrt": ("shuffled", "sqrt"),
    "sampling_balanced": ("balanced", "none"),
    "sampling_sqrt": ("sqrt", "none"),
}


def unequal(seed: int) -> Callable[[Source], tuple[np.ndarray, np.ndarray]]:
    """Returns a split whose seed decides how many training pictures each class has."""

    def split(source: Source) -> tuple[np.ndarray, np.ndarray]:
        train, valid = folder_split()(source)
        rng = np.random.default_rng(seed)
        labels, counts = source.labels[train], rng.permutation(COUNTS)
        drawn = [
            rng.permutation(train[labels == number])[:count] for number, count in enumerate(counts)
        ]
        return np.sort(np.concatenate(drawn)), valid

    return split


def cell(arguments: Any, measure: str, seed: int) -> dict[str, Any]:
    """Trains once and returns the scores, among them the recall of each class."""
    sampler, class_weights = MEASURES[measure]
    block = jx.DataBlock(
        jx.from_folder(arguments.path),
        unequal(seed),
        arguments.presize,
        arguments.size,
        sampler=SAMPLERS[sampler],
    )
    data = block.load(arguments.batch, cache="memory", seed=seed)
    learn = jx.vision_learner(
        data, "resnet18", arguments.weights, class_weights=class_weights, seed=seed, say=print
    )
    learn.console = Console(file=io.StringIO())
    began = time.perf_counter()
    learn.fine_tune(arguments.epochs, freeze_epochs=arguments.freeze_epochs)
    seconds = time.perf_counter() - began
    matrix = learn.interpret().confusion_matrix()
    counts = np.bincount(data.train.labels, minlength=len(data.classes))
    recalls = np.diag(matrix) / matrix.sum(axis=1)
    rare = counts * IMBALANCE <= counts.max()
    return {
        "counts": counts.tolist(),
        "recalls": recalls.tolist(),
        "rare": float(recalls[rare].mean()),
        "common": float(recalls[~rare].mean()),
        "accuracy": float(np.trace(matrix) / matrix.sum()),
        "balanced_accuracy": float(recalls.mean()),
        "seconds": seconds,
    }


def summary(cells: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Returns the scores of each measure in percent, and by how much they exceed those of `none`.

    The excess is in percentage points. Each figure is a mean, followed by the lowest and the
    highest.
    """
    document: dict[str, Any] = {}
    for score in ("rare", "common", "balanced_accuracy"):
        figures = {
            name: 100 * np.array([one[score] for one in of_seeds])
            for name, of_seeds in cells.items()
        }
        for name, values in figures.items():
            over = mean_text(values - figures["none"])
            document[f"{score} {name}"] = f"{mean_text(values)}, over none {over}"
    return document


def main() -> None:
    parser = arguments_of(__doc__, turns=None, device=False, path=True)
    parser.add_argument("--weights", default="none", help="run or file whose weights are tuned")
    parser.add_argument("--out", type=Path, required=True, help="folder for the cells")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each measure (default: 5)")
    parser.add_argument(
        "--presize", type=int, default=72, help="length of short sides, pixels (default: 72)"
    )
    parser.add_argument(
        "--size", type=int, default=64, help="side of the network's input, pixels (default: 64)"
    )
    parser.add_argument("--batch", type=int, default=16, help="pictures per step (default: 16)")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of all layers (default: 10)")
    parser.add_argument(
        "--freeze-epochs", type=int, default=3, help="epochs of the head (default: 3)"
    )
    arguments = parser.parse_args()
    if arguments.path is None:
        sys.exit("--path or JAXCH5_FLOWERS should name a folder of pictures")
    arguments.out.mkdir(parents=True, exist_ok=True)
    cells: dict[str, list[dict[str, Any]]] = {name: [] for name in MEASURES}
    for seed in range(arguments.seeds):
        for name, of_seeds in cells.items():
            file = arguments.out / f"{name}_{seed}.json"
            if not file.exists():
                file.write_text(json.dumps(cell(arguments, name, seed)))
            of_seeds.append(json.loads(file.read_text()))
            scores = {key: of_seeds[-1][key] for key in ("rare", "common", "balanced_accuracy")}
            print(seed, name, scores, file=sys.stderr, flush=True)
    tell(summary(cells), arguments.json)


if __name__ == "__main__":
    main()
