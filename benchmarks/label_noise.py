"""Compares how well `jaxch5 suspects` and cleanlab find wrong labels, and what fixing them gains.

Some labels of photographs (or of the digits, with --path digits) are changed, either to a random
class or to the most similar one, which is the class that a linear layer most often confuses with
the true class. Both sides then have to find the changed labels. They rank all labels by the same
probabilities. These come from the features of a network that was trained on other pictures
(--weights) or, with --by training, from whole training runs on parts of the set. The figure is the
average precision of a ranking over all pictures. cleanlab 2.x is installed in an environment of its
own, whose Python interpreter JAXCH5_CLEANLAB_PYTHON names. It ranks in four ways: by each of its
two label scores, and by `find_label_issues` with each of these scores, where all labels that the
function does not return are put last.

With --accuracy, a linear layer on the features (or a network, with --by training) is trained three
times: on the noisy labels, on the noisy labels with every listed suspect corrected, and on the true
labels. Each time it is scored on the true labels of the validation pictures. With --heads, only the
time of the linear layers is measured, on 10,000 pictures.

    JAXCH5_CLEANLAB_PYTHON=cleanlab/bin/python python benchmarks/label_noise.py --path flowers \
        --weights body
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from common import arguments_of, seconds_of, tell

KINDS = ("random", "similar")
FOLDS = 5
# The settings for training on photographs; all others are the defaults of `jaxch5 train`.
SMALL = {"presize": 72, "size": 64, "batch_size": 32}


def main() -> None:
    parser = arguments_of(__doc__, turns=None, device=False, path=True)
    parser.add_argument("--weights", help="network that computes the features: a run, file or name")
    parser.add_argument("--by", choices=("features", "training"), default="features")
    parser.add_argument("--classes", type=int, help="use only this many classes")
    parser.add_argument(
        "--first-class", type=int, default=0, help="number of the first class (default: 0)"
    )
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[5, 10, 20], help="percent of labels to change"
    )
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5, help="epochs of a training run")
    parser.add_argument(
        "--accuracy", action="store_true", help="also train on the corrected labels"
    )
    parser.add_argument("--heads", action="store_true", help="time the linear layers alone")
    arguments = parser.parse_args()
    if arguments.heads:
        tell(time_of_heads(), arguments.json)
        return
    tell(found(arguments), arguments.json)


def time_of_heads(count: int = 10_000, channels: int = 512, classes: int = 101) -> dict[str, Any]:
    """Measures how long all folds' linear layers take, by the clock and in processor time."""
    from jaxch5.results.out_of_fold import judge_by_heads, stratified_folds

    rng = np.random.default_rng(0)
    labels = np.arange(count) % classes
    centres = 0.15 * rng.normal(size=(classes, channels))
    features = centres[labels] + rng.normal(size=(count, channels))
    folds = stratified_folds(labels, FOLDS)
    begin = time.process_time()
    seconds = seconds_of(lambda: judge_by_heads(features, labels, folds, classes))
    busy = time.process_time() - begin
    return {"pictures": count, "seconds": seconds, "processor_seconds": busy}


def found(arguments: Any) -> dict[str, Any]:
    """Measures average precisions and numbers of labels for each kind and rate of noise."""
    from sklearn.metrics import average_precision_score

    from jaxch5.config.building import load_source, split_of
    from jaxch5.config.settings import Config
    from jaxch5.data.source import take
    from jaxch5.results.confident import find_label_issues
    from jaxch5.suspects import with_own_classes
    from jaxch5.training.process import prepare_process

    prepare_process()
    photographs = {"data": {"path": arguments.path, **SMALL}}
    config = Config.model_validate(
        {
            **({} if str(arguments.path) == "digits" else photographs),
            "model": {"weights": arguments.weights or "none"},
            "fit": {"epochs": arguments.epochs},
        }
    )
    source = load_source(config.data)
    if arguments.classes:
        numbers = source.labels - arguments.first_class
        items = np.flatnonzero((numbers >= 0) & (numbers < arguments.classes))
        source = with_own_classes(take(source, items))
    judge = Judge(config, source)
    truth = source.labels
    similar = judge.most_similar()
    document: dict[str, Any] = {"pictures": len(source), "classes": len(source.classes)}
    for kind in arguments.kinds:
        for rate in arguments.rates:
            cells: dict[str, list[float]] = {}
            for seed in range(arguments.seeds):
                labels = noisy(truth, rate / 100, seed, similar if kind == "similar" else None)
                wrong = labels != truth
                probabilities = judge.by(arguments.by, labels, seed)
                calibrated = arguments.by == "features"
                issues = find_label_issues(labels, probabilities, calibrated)
                scores = {"ours": issues.doubt, **cleanlab_scores(labels, probabilities)}
                figures = {"wrong": wrong.sum(), "estimate": issues.estimated}
                if "cleanlab count" in scores:
                    figures["estimate of cleanlab"] = scores.pop("cleanlab count")
                figures |= {
                    name: average_precision_score(wrong, score) for name, score in scores.items()
                }
                if arguments.accuracy:
                    put_right = np.where(issues.disputed, truth, labels)
                    figures["still wrong"] = (put_right != truth).sum()
                    parts = split_of(config.data, source)(source)
                    for name, used in (("noisy", labels), ("cleaned", put_right), ("true", truth)):
                        figures[f"accuracy {name}"] = judge.accuracy(
                            arguments.by, used, parts, seed
                        )
                for name, figure in figures.items():
                    cells.setdefault(name, []).append(float(figure))
            document[f"{kind} {rate:g} %"] = {
                name: {"mean": float(np.mean(values)), "low": min(values), "high": max(values)}
                for name, values in cells.items()
            }
            print(f"{kind} {rate:g} %: {document[f'{kind} {rate:g} %']}", file=sys.stderr)
    return document


class Judge:
    """Judges the labels of a set, whose features are computed only once."""

    def __init__(self, config: Any, source: Any) -> None:
        self.config, self.source = config, source
        self.features: np.ndarray | None = None

    def by(self, way: str, labels: np.ndarray, seed: int) -> np.ndarray:
        from rich.console import Console

        from jaxch5.configured import judge_by_training
        from jaxch5.results.out_of_fold import judge_by_heads, stratified_folds

        folds = stratified_folds(labels, FOLDS, seed)
        if way == "features":
            return judge_by_heads(self._features(), labels, folds, len(self.source.classes))
        config = self.config.model_copy(update={"seed": seed})
        quiet = Console(quiet=True)
        with tempfile.TemporaryDirectory() as kept:
            return judge_by_training(
                config, replace(self.source, labels=labels), folds, Path(kept), quiet
            )

    def _features(self) -> np.ndarray:
        from jaxch5.configured import data_without, learner_of

        if self.features is None:
            data = data_without(self.config, self.source, np.arange(len(self.source)) == 0)
            predictor = learner_of(data, self.config, lambda line: None).predictor()
            self.features = predictor.features_of(self.source, np.arange(len(self.source)))
        return self.features

    def most_similar(self) -> np.ndarray:
        """Returns, for each class, the class that it is most often mistaken for.

        Without weights there are no features to judge this by, and the next class is returned.
        """
        if self.config.model.weights == "none":
            return np.roll(np.arange(len(self.source.classes)), 1)
        truth = self.source.labels
        matrix = np.zeros((len(self.source.classes),) * 2)
        np.add.at(matrix, truth, self.by("features", truth, 0))
        np.fill_diagonal(matrix, 0)
        return matrix.argmax(axis=1)

    def accuracy(self, way: str, labels: np.ndarray, parts: Any, seed: int) -> float:
        """Trains on some labels, and returns the accuracy on the true labels held out."""
        from rich.console import Console

        from jaxch5.config.building import load_data
        from jaxch5.configured import learner_of, train_as_configured
        from jaxch5.results.out_of_fold import judge_by_heads, stratified_folds

        train, valid = parts
        if way == "features":
            folds = stratified_folds(labels, FOLDS, seed) + 1
            folds[valid] = 0
            found = judge_by_heads(self._features(), labels, folds, len(self.source.classes))
            return float(np.mean(found[valid].argmax(axis=1) == self.source.labels[valid]))
        used = np.where(np.isin(np.arange(len(labels)), train), labels, self.source.labels)
        config = self.config.model_copy(update={"seed": seed})
        data = load_data(config, replace(self.source, labels=used), lambda _: (train, valid))
        learn = learner_of(data, config, lambda line: None)
        learn.console = Console(quiet=True)
        train_as_configured(learn, config.fit)
        return learn.record["accuracy"]


def noisy(
    truth: np.ndarray, rate: float, seed: int, similar: np.ndarray | None = None
) -> np.ndarray:
    """Returns labels of which a share is changed to any other class or to the most similar one."""
    rng = np.random.default_rng(1000 + seed)
    labels = truth.copy()
    items = rng.permutation(len(truth))[: round(rate * len(truth))]
    shift = rng.integers(1, truth.max() + 1, len(items))
    other = (truth[items] + shift) % (truth.max() + 1)
    labels[items] = other if similar is None else similar[truth[items]]
    return labels


def cleanlab_scores(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, Any]:
    """Returns cleanlab's results for the same labels, or nothing if no Python is named for it."""
    from jaxch5.util.libraries import variable

    python = variable("JAXCH5_CLEANLAB_PYTHON")
    if not python:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/in.npz", labels=labels, probabilities=probabilities)
        script = Path(__file__).with_name("cleanlab_labels.py")
        subprocess.run([python, script, folder], check=True)
        with np.load(f"{folder}/out.npz") as said:
            return {f"cleanlab {name}": said[name] for name in said.files}


if __name__ == "__main__":
    main()
