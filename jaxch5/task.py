"""Defines what a label means, in one place: activation, answers, default loss and metrics."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from jaxch5.errors import ConfigError
from jaxch5.losses import Loss, cross_entropy, sigmoid_cross_entropy, softmax
from jaxch5.metrics import (
    FIELDS,
    LOSSES,
    Best,
    Labels,
    Metric,
    Probabilities,
    best_by,
    decide,
    metric_of,
)
from jaxch5.util.imports import load_object
from jaxch5.util.text import name_of, names_in_order

# The smallest normal float32. As a probability it has a loss of 87; smaller ones underflow to zero.
SMALLEST = float(np.finfo(np.float32).tiny)
# The answer if no class is probable enough.
NONE = "none of these"
# Default minimum probability of an answer, for a task that needs one.
THRESHOLD = 0.5
# What `train` and `evaluate` return besides the metrics and the fields of an epoch's record.
OF_COMMANDS = {
    "run",
    "calibration_error",
    "pictures",
    "scored",
    "classes",
    "answers",
    "absent",
    "confusion_matrix",
    "most_confused",
    "suggested",
    "advice",
    "figures",
}


BY_ACCURACY = Best()


def _of_label(probabilities: Probabilities, labels: Labels) -> Float[np.ndarray, "items"]:
    of_label = probabilities[np.arange(len(labels)), labels]
    return np.abs(np.log(np.clip(of_label, SMALLEST, 1)))


def _of_each_class(probabilities: Probabilities, labels: Labels) -> Float[np.ndarray, "items"]:
    right = np.arange(probabilities.shape[1]) == np.asarray(labels)[:, None]
    of_truth = np.where(right, probabilities, 1 - probabilities)
    return np.abs(np.log(np.clip(of_truth, SMALLEST, 1))).sum(axis=1)


BUILT_IN = {"softmax": (softmax, _of_label), "sigmoid": (jax.nn.sigmoid, _of_each_class)}


@dataclass(frozen=True)
class Task:
    """Defines what a label means, for items with one label each.

    Attributes:
        name: Name of the task in settings, runs and files.
        loss: Default loss, a function of logits and labels; see `jaxch5.losses`.
        activation: Function from logits to probabilities; classes are the last axis.
        item_losses: Function from probabilities (float64) and labels to the loss of each item.
        threshold: Minimum probability, from 0 to 1, of an answer other than "none of these".
        metrics: Metrics to compute in every epoch, as names (see `metric_of`) or as functions of
            probabilities and labels. Metrics in `jaxch5.metrics.METRICS` apply the threshold.
        best: Rule by which epochs are compared.

    Raises:
        ConfigError: A metric does not exist, is given twice or has a reserved name, the metric of
            `best` is not recorded, the threshold is not a probability, or the name is that of a
            built-in task with a different `activation` or `item_losses`.

    Example:
        >>> single_label().decode(np.array([[0.5, 0.3, 0.2], [0.4, 0.2, 0.4]]))
        array([0, 0])
    """

    name: str
    loss: Loss
    activation: Callable[[Float[Array, "*batch classes"]], Float[Array, "*batch classes"]]
    item_losses: Callable[[Probabilities, Labels], Float[np.ndarray, "items"]] = _of_label
    threshold: float = 0.0
    metrics: tuple[str | Metric, ...] = ("accuracy", "error_rate")
    best: Best = BY_ACCURACY

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ConfigError(f"threshold = {self.threshold}: should be from 0 to 1")
        # A run or file that names a built-in task is read with that task.
        own = self.activation, self.item_losses
        if BUILT_IN.get(self.name, own) != own:
            raise ConfigError(
                f"name = {self.name}: is the name of a built-in task with a different activation "
                "or item_losses; name your task by its import path, package.module:TASK"
            )
        known = (*self.scores(), *LOSSES)
        if self.best.metric not in known:
            raise ConfigError(
                f"best = {self.best.metric}: epochs should be compared by one of {', '.join(known)}"
            )

    def probabilities(self, logits: Float[np.ndarray, "items classes"]) -> Probabilities:
        """Applies the activation to logits; takes and returns arrays on the host."""
        return np.asarray(jax.device_get(self.activation(jax.device_put(logits))))

    def decode(self, probabilities: Probabilities) -> Int[np.ndarray, "items"]:
        """Returns the answer for each item, as an index into `answers`."""
        return decide(probabilities, self.threshold)

    def answers(self, classes: Sequence[str]) -> tuple[str, ...]:
        """Returns the names of all answers: the classes, then "none of these" if the task has it.

        Args:
            classes: Names of the classes.

        Raises:
            DataError: `classes` is a set, a mapping or the like, which has no order of its own.
        """
        return (*names_in_order(classes), *[NONE] * (self.threshold > 0))

    def compared_by(self, name: str, more: Collection[str | Metric] = ()) -> Task:
        """Returns a copy of the task that compares epochs by another of the numbers they record.

        Args:
            name: "valid_loss", "train_loss" or the name of a metric. For losses and "error_rate"
                the lowest is the best, for all others the highest.
            more: Metrics that are recorded in addition to the task's.

        Raises:
            ConfigError: The number is not recorded.

        Example:
            >>> single_label().compared_by("f1", ["f1"]).best
            Best(metric='f1', direction='highest')
        """
        known = {metric_of(metric)[0]: metric for metric in (*self.metrics, *more)}
        if name not in (*known, *LOSSES):
            raise ConfigError(
                f"fit.best = {name}: should be one of {', '.join((*known, *LOSSES))}, which each "
                f"epoch records; add a metric with --metrics {name}"
            )
        others = () if name in LOSSES or known[name] in self.metrics else (known[name],)
        return replace(self, metrics=(*self.metrics, *others), best=best_by(name))

    def scores(self, more: Collection[str | Metric] = ()) -> dict[str, Metric]:
        """Returns metric functions, keyed by name: those of the task, then any others.

        Args:
            more: Other metrics, as in `metrics`; a metric that the task already has is skipped.

        Raises:
            ConfigError: There is no such metric, two have the same name, one has the name of
                another field of the records, or `more` is one metric instead of several.

        Example:
            >>> list(single_label().scores(["accuracy", "top_5"]))
            ['accuracy', 'error_rate', 'top_5']
        """
        for given in (self.metrics, more):
            # A single name would be read as a sequence of letters, and a mapping as its keys; an
            # iterator would be empty when it is read again.
            if isinstance(given, str | Mapping) or not isinstance(given, Collection):
                shown = name_of(given) if callable(given) else given
                raise ConfigError(
                    f"fit.metrics = {shown}: should be several metrics, or one in a tuple, as in "
                    'metrics=("f1",)'
                )
        found: dict[str, Metric] = {}
        for metric in (*self.metrics, *(one for one in more if one not in self.metrics)):
            name, function = metric_of(metric, self.threshold)
            if name in FIELDS:
                raise ConfigError(
                    f"fit.metrics = {name}: each epoch records something else under this name; "
                    "give the function another name"
                )
            if name in found:
                raise ConfigError(
                    f"fit.metrics = {name}: two metrics have this name; leave one out"
                )
            found[name] = function
        return found


def computed(
    scores: Mapping[str, Metric], probabilities: Probabilities, labels: Labels
) -> dict[str, float]:
    """Computes metrics, such as those that `Task.scores` returns.

    Args:
        scores: Metrics, keyed by name.
        probabilities: Probabilities of all items.
        labels: Classes of the items.

    Raises:
        ConfigError: A metric returns something other than one number.

    Example:
        >>> computed({"mean": lambda p, labels: p.mean()}, np.array([[0.5, 0.5]]), np.array([0]))
        {'mean': 0.5}
    """
    return {name: _number(name, metric(probabilities, labels)) for name, metric in scores.items()}


def _number(name: str, value: Any) -> float:
    # NumPy's and JAX's scalars are numbers too, but cannot be written to the records as JSON.
    if not hasattr(value, "__float__") or np.ndim(value):
        shape = f" of shape {np.shape(value)}" if hasattr(value, "shape") else ""
        raise ConfigError(
            f"fit.metrics = {name}: should return one number, such as a mean over the items, but "
            f"returned a value of type {type(value).__name__}{shape}"
        )
    return float(value)


def single_label() -> Task:
    """Returns the task of finding an item's most probable class; the activation is a softmax.

    Example:
        >>> single_label().name, single_label().metrics
        ('softmax', ('accuracy', 'error_rate'))
    """
    return Task("softmax", cross_entropy, softmax)


def one_vs_rest(threshold: float = THRESHOLD) -> Task:
    """Returns the task of finding the class of an item that may belong to none of the classes.

    Each class has its own sigmoid and is learned against all others, so the network has to be
    sure of a class, and not only surer of it than of the others.

    Args:
        threshold: Minimum probability, from 0 to 1, of an answer other than "none of these".

    Raises:
        ConfigError: The threshold is not a probability.

    Example:
        >>> task = one_vs_rest(threshold=0.5)
        >>> found = task.decode(task.probabilities(np.array([[1.0, 2.0], [-1.0, -2.0]])))
        >>> [task.answers(["cat", "dog"])[answer] for answer in found]
        ['dog', 'none of these']
    """
    return Task("sigmoid", sigmoid_cross_entropy, jax.nn.sigmoid, _of_each_class, threshold)


SOFTMAX = single_label()
# Names of the built-in tasks; a user's own task is named by its import path.
NAMED = tuple(BUILT_IN)


def task_of(name: str, threshold: float = THRESHOLD) -> Task:
    """Returns the task that settings name.

    Args:
        name: "softmax", "sigmoid", or the import path of a task of your own, `package.module:TASK`.
        threshold: Threshold of the sigmoid task; see `one_vs_rest`. A task of your own
            defines its own threshold.

    Raises:
        ConfigError: There is no such task, or the threshold is not a probability.

    Example:
        >>> task_of("sigmoid").threshold
        0.5
    """
    if name == SOFTMAX.name:
        return SOFTMAX
    if name in NAMED:
        return one_vs_rest(threshold)
    found = load_object(name, "model.task")
    if not isinstance(found, Task):
        kind = type(found).__name__
        raise ConfigError(f"model.task = {name}: should be a Task, but is of type {kind}")
    return replace(found, name=name)
