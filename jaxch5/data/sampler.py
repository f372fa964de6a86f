"""Defines samplers, which decide which items an epoch draws, how often, and in which order.

A sampler is a pure function `(labels, epoch, seed) -> places`, where the places are indices into
the labels. It keeps no state from one epoch to the next, so training can be resumed at any step,
and every process arrives at the same order by itself. All epochs have the same number of draws. An
item that is drawn twice in an epoch is augmented in two different ways.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from jaxtyping import Int

from jaxch5.errors import ConfigError
from jaxch5.util.seeds import check_seed
from jaxch5.util.text import counted, described

Labels = Int[np.ndarray, "items"]
Order = Int[np.ndarray, "draws"]
Sampler = Callable[[Labels, int, int], Order]

# Classes count as unequal if the largest class has at least this many times as many items as the
# smallest one.
IMBALANCE = 3.0


def sequential(labels: Labels, epoch: int = 0, seed: int = 0) -> Order:
    """Draws each item once, in order.

    Args:
        labels: Classes of the items.
        epoch, seed: Ignored.

    Example:
        >>> sequential(np.array([0, 0, 1]))
        array([0, 1, 2])
    """
    return np.arange(len(labels))


def shuffled(labels: Labels, epoch: int, seed: int = 0) -> Order:
    """Draws each item once, in a new order in every epoch.

    Args:
        labels: Classes of the items; only the number of items matters.
        epoch: Number of the epoch, from 0.
        seed: Seed for the draws.

    Example:
        >>> shuffled(np.zeros(5, int), epoch=0), shuffled(np.zeros(5, int), epoch=1)
        (array([2, 4, 3, 0, 1]), array([1, 4, 3, 0, 2]))
    """
    return shuffled_ranges([sequential(labels)], epoch, seed)[0]


def shuffled_ranges(ranges: Sequence[Order], epoch: int, seed: int) -> list[Order]:
    """Shuffles each range of indices separately."""
    # grain's own shuffle takes 90 microseconds per item, which alone would limit the pipeline to
    # 11,000 pictures a second; a NumPy permutation of a whole epoch takes next to no time.
    generator = _generator(seed, epoch)
    return [places[generator.permutation(len(places))] for places in ranges]


def balanced(
    labels: Labels,
    epoch: int,
    seed: int = 0,
    weights: Sequence[float] | None = None,
    power: float = 0.0,
) -> Order:
    """Draws from each class equally often, or in proportion to its weight.

    There are as many draws as there are items. The items of a class are drawn equally often too:
    all of them are drawn before any is drawn again. If the number of draws that a class should get
    is not a whole number, it is rounded up or down at random, so that it is right on average
    (systematic sampling; Madow, 1949).

    Args:
        labels: Classes of the items.
        epoch: Number of the epoch, from 0.
        seed: Seed for the draws.
        weights: How often each class is drawn, relative to the others; if None, it is the number of
            the class's items, raised to the power of `power`. A class without items is not drawn.
        power: Exponent that is used if `weights` is None. With 0, all classes are drawn equally
            often; with 1, as often as they occur; 0.5 is a compromise (Mahajan et al., 1805.00932).

    Raises:
        ConfigError: A class has no valid weight, or no class would be drawn.

    Example:
        >>> order = balanced(np.array([0, 0, 0, 0, 0, 1]), epoch=0)
        >>> int((order == 5).sum())
        3
        >>> order = balanced(np.array([0, 0, 0, 1]), epoch=0, weights=(3, 1))
        >>> sorted(order.tolist())
        [0, 1, 2, 3]
    """
    counts = np.bincount(labels)
    try:
        wanted = counts**power if weights is None else np.asarray(weights, float)
    except (TypeError, ValueError):
        # A mapping, say, or text.
        wanted = np.empty(0)
    fits = wanted.ndim == 1 and len(wanted) >= len(counts)
    if not (fits and np.all((wanted >= 0) & np.isfinite(wanted))):
        raise ConfigError(
            f"balanced: weights = {weights}: should be {len(counts)} numbers of at least 0, one "
            "for each class"
        )
    wanted = wanted[: len(counts)] * (counts > 0)
    if not wanted.sum():
        raise ConfigError(f"balanced: weights = {weights} leave no item to draw")
    generator = _generator(seed, epoch)
    until = np.cumsum(wanted) / wanted.sum() * len(labels) + generator.uniform()
    # The last limit is set exactly, so that rounding errors do not change the number of draws.
    until[np.flatnonzero(wanted)[-1] :] = len(labels)
    draws = np.diff(np.floor(until).astype(int), prepend=0)
    of_classes = np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])
    drawn = [
        places[generator.permutation(len(places))][: count - start]
        for places, count in zip(of_classes, draws, strict=True)
        for start in range(0, count, max(1, len(places)))
    ]
    order = np.concatenate(drawn)
    return order[generator.permutation(len(order))]


def repeated(
    labels: Labels, epoch: int, seed: int = 0, times: int = 2, sampler: Sampler = shuffled
) -> Order:
    """Joins several epochs into one, for sets so small that an epoch is over at once.

    Args:
        labels: Classes of the items.
        epoch: Number of the epoch, from 0.
        seed: Seed for the draws.
        times: Number of epochs to join.
        sampler: Sampler that draws each epoch.

    Raises:
        ConfigError: `times` is below 1.

    Example:
        >>> repeated(np.zeros(3, int), epoch=0, times=2)
        array([2, 0, 1, 2, 0, 1])
    """
    if times < 1:
        raise ConfigError(f"repeated: times = {times}: should be at least 1")
    first = epoch * times
    return np.concatenate([sampler(labels, first + n, seed) for n in range(times)])


SAMPLERS: dict[str, Sampler] = {
    "shuffled": shuffled,
    "balanced": balanced,
    "sqrt": partial(balanced, power=0.5),
}


def imbalance(labels: Labels, classes: int) -> float:
    """Returns how many times as many items the largest class has as the smallest class.

    An empty class counts as a class with one item.

    Example:
        >>> imbalance(np.array([0, 0, 0, 1]), classes=2)
        3.0
    """
    counts = np.bincount(labels, minlength=classes)
    return float(counts.max() / max(counts.min(), 1))


def is_unequal(labels: Labels, classes: int) -> bool:
    """Checks whether a class is so rare that the accuracy says little about it.

    Example:
        >>> is_unequal(np.array([0, 0, 0, 1]), classes=2)
        True
    """
    return imbalance(labels, classes) >= IMBALANCE


def draw(
    sampler: Sampler, labels: Labels, epoch: int, seed: int, draws: int | None = None
) -> Order:
    """Calls a sampler and checks the order that it returns.

    Args:
        sampler: The sampler.
        labels, epoch, seed: Arguments of the sampler.
        draws: Expected number of draws; None allows any number above 0.

    Raises:
        ConfigError: The sampler does not return indices into the labels, or not as many as it
            should.
    """
    order = np.asarray(sampler(labels, epoch, seed))
    given = f"data.sampler = {described(sampler)}: epoch {epoch}"
    if order.ndim != 1 or not np.issubdtype(order.dtype, np.integer):
        raise ConfigError(f"{given} is not a list of whole numbers, each an index into labels")
    if len(order) != (max(len(order), 1) if draws is None else draws):
        wanted = "at least 1" if draws is None else f"{draws:,}, as many as epoch 0"
        raise ConfigError(f"{given} has {counted(len(order), 'draw')}; should be {wanted}")
    low, high = (order.min(), order.max()) if len(order) else (0, -1)
    if low < 0 or high >= len(labels):
        raise ConfigError(
            f"{given} has indices from {low} to {high} into labels; should be from 0 to "
            f"{len(labels) - 1}"
        )
    return order


def _generator(seed: int, epoch: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([check_seed(seed), epoch]))
