"""Defines losses for classification, as pure functions of logits and labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from jaxch5.errors import ConfigError
from jaxch5.util.limits import check_numbers, is_traced
from jaxch5.util.text import names_in_order


def softmax(logits: Float[Array, "*batch classes"]) -> Float[Array, "*batch classes"]:
    """Returns probabilities: exponentials of the logits, divided by their sum.

    The exponential makes every value positive and the division makes them add up to one.

    Args:
        logits: The model's activations, any real numbers; classes are the last axis.

    Example:
        >>> [round(float(p), 4) for p in softmax(jnp.array([0.6734, 0.2576]))]
        [0.6025, 0.3975]
    """
    return jax.nn.softmax(logits)


def log_softmax(logits: Float[Array, "*batch classes"]) -> Float[Array, "*batch classes"]:
    """Returns log-probabilities, computed without taking the logarithm of a small number.

    Args:
        logits: The model's activations, any real numbers; classes are the last axis.

    Example:
        >>> [round(float(p), 4) for p in log_softmax(jnp.array([0.6734, 0.2576]))]
        [-0.5067, -0.9225]
    """
    return jax.nn.log_softmax(logits)


class ItemLosses(NamedTuple):
    """Holds the losses of a batch's items, whose mean is still to be taken.

    A loss function of your own that weights items should return this, not a mean: if a batch is
    mixed (MixUp, CutMix) or shared by devices, its mean cannot be computed from the means of its
    parts.

    Attributes:
        value: Loss of each item, multiplied by the item's weight.
        weight: Weight of each item; None gives each the weight 1.

    Example:
        >>> def doubted(logits, labels):
        ...     of_each = cross_entropy(logits, labels, reduction="none")
        ...     weight = jnp.where(labels == 0, 0.5, 1.0)  # label 0 counts half
        ...     return ItemLosses(weight * of_each, weight)
        >>> round(float(doubted(jnp.zeros((4, 2)), jnp.array([0, 0, 0, 1])).mean()), 4)
        0.6931
    """

    value: Float[Array, "batch"]
    weight: Float[Array, "batch"] | None = None

    def mean(self, over_devices: Callable[[Array], Array] = lambda x: x) -> Float[Array, ""]:
        """Divides the sum of the values by that of the weights, as PyTorch does, but 0 / 0 gives 0.

        Args:
            over_devices: Function that averages over the devices that share the batch.
        """
        if self.weight is None:
            return jnp.mean(self.value)
        total = over_devices(jnp.sum(self.weight))
        return jnp.sum(self.value) / jnp.where(total == 0, 1.0, total)


Loss = Callable[[Float[Array, "batch classes"], Int[Array, "batch"]], Float[Array, ""] | ItemLosses]
Reduction = Literal["mean", "sum", "none"]
# An internal reduction, which returns `ItemLosses`; `loss_of_batch` then takes their mean.
ITEMS = "items"


def nll_loss(
    log_probabilities: Float[Array, "batch classes"],
    labels: Int[Array, "batch"],
    weight: Float[ArrayLike, "classes"] | None = None,
    reduction: Reduction = "mean",
) -> Float[Array, "*batch"]:
    """Computes the negative log-likelihood: minus each item's log-probability of its label.

    Args:
        log_probabilities: What `log_softmax` returns.
        labels: Class numbers.
        weight: Importance of each class. If it is given, the sum of the losses is divided by the
            sum of the labels' weights to get the mean, as in PyTorch's `nll_loss`.
        reduction: "mean"; "sum"; or "none" for an array with the loss of each item, multiplied by
            the item's weight.

    Raises:
        ConfigError: There is not one weight for each class, or there is no such reduction.

    Example:
        >>> float(nll_loss(jnp.log(jnp.array([[0.5, 0.5], [0.25, 0.75]])), jnp.array([0, 0])))
        1.0397207736968994
    """
    class_weight = _class_weight(log_probabilities, weight)
    items = _weighted(-_of_labels(log_probabilities, labels), class_weight, labels)
    return _reduced(items, reduction)


def cross_entropy(
    logits: Float[Array, "batch classes"],
    labels: Int[Array, "batch"],
    weight: Float[ArrayLike, "classes"] | None = None,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
) -> Float[Array, "*batch"]:
    """Computes the cross-entropy: `nll_loss` of `log_softmax`.

    Args:
        logits: The model's activations, any real numbers.
        labels: Class numbers.
        weight: Importance of each class, as in `nll_loss`.
        label_smoothing: Share of each target, at least 0 and below 1, that is spread evenly over
            all classes (Szegedy et al., 1512.00567; combined with `weight` as in PyTorch).
        reduction: As in `nll_loss`.

    Raises:
        ConfigError: There is not one weight for each class, `label_smoothing` is out of range, or
            there is no such reduction.

    Example:
        >>> round(float(cross_entropy(jnp.array([[0.6734, 0.2576]]), jnp.array([0]))), 4)
        0.5067
    """
    check_numbers(label_smoothing=label_smoothing)
    log_probabilities = log_softmax(logits)
    class_weight = _class_weight(logits, weight)
    items = _weighted(-_of_labels(log_probabilities, labels), class_weight, labels)
    if is_traced(label_smoothing) or label_smoothing != 0.0:
        weighted = log_probabilities if class_weight is None else class_weight * log_probabilities
        spread = -jnp.mean(weighted, axis=-1)
        if is_traced(label_smoothing):
            # Masked classes can make this infinite, and then 0 times it would be NaN.
            unused = (label_smoothing == 0.0) & ~jnp.isfinite(spread)
            spread = jnp.where(unused, 0.0, spread)
        value = (1.0 - label_smoothing) * items.value + label_smoothing * spread
        items = ItemLosses(value, items.weight)
    return _reduced(items, reduction)


def focal_loss(
    logits: Float[Array, "batch classes"],
    labels: Int[Array, "batch"],
    gamma: float = 2.0,
    weight: Float[ArrayLike, "classes"] | None = None,
    reduction: Reduction = "mean",
) -> Float[Array, "*batch"]:
    """Computes cross-entropy with less weight on items that are right (Lin et al., 1708.02002).

    Args:
        logits: The model's activations.
        labels: Class numbers.
        gamma: How fast an item's weight falls as its label gets likelier, 0 to 10; 0 gives
            `cross_entropy`.
        weight: Importance of each class, called alpha in the paper; the mean is then taken as in
            `nll_loss`. (fastai's `FocalLoss` also raises the label's probability to the power of
            its weight, and divides by the number of items.)
        reduction: As in `nll_loss`.

    Raises:
        ConfigError: There is not one weight for each class, `gamma` is out of range, or there is no
            such reduction.

    Example:
        >>> round(float(focal_loss(jnp.array([[2.0, 0.0]]), jnp.array([0]))), 5)
        0.0018
    """
    check_numbers(gamma=gamma)
    likelihood = _of_labels(log_softmax(logits), labels)
    # The value is kept above 0, because at 0 the gradient of a power below 1 is infinite.
    wrong = jnp.maximum(1.0 - jnp.exp(likelihood), jnp.finfo(likelihood.dtype).tiny)
    items = _weighted(-(wrong**gamma) * likelihood, _class_weight(logits, weight), labels)
    return _reduced(items, reduction)


def binary_cross_entropy(
    logits: Float[Array, "batch"], labels: Int[Array, "batch"], reduction: Reduction = "mean"
) -> Float[Array, "*batch"]:
    """Computes two-class cross-entropy from one logit per item, whose sigmoid is P(class 1).

    It equals `cross_entropy` of the logits 0 and `logits`: a softmax of two classes depends only on
    the difference of their logits.

    Args:
        logits: One activation per item, any real number.
        labels: 0 or 1.
        reduction: As in `nll_loss`.

    Raises:
        ConfigError: There is no such reduction.

    Example:
        >>> round(float(binary_cross_entropy(jnp.array([0.0, 2.0]), jnp.array([0, 1]))), 4)
        0.41
    """
    sign = 2.0 * labels - 1.0
    return _reduced(ItemLosses(-jax.nn.log_sigmoid(sign * logits)), reduction)


def sigmoid_cross_entropy(
    logits: Float[Array, "batch classes"],
    labels: Int[Array, "batch"],
    weight: Float[ArrayLike, "classes"] | None = None,
    reduction: Reduction = "mean",
) -> Float[Array, "*batch"]:
    """Computes the binary cross-entropy of each class against all others, summed over the classes.

    Each class has a sigmoid of its own, so that an item may belong to no class. The sum is as
    in big_vision's `sigmoid_xent` (Beyer et al., 2006.07159); a mean over the classes would make
    gradients smaller the more classes there are.

    Args:
        logits: The model's activations, any real numbers.
        labels: Class numbers.
        weight: Importance of each class, as in `nll_loss`.
        reduction: As in `nll_loss`.

    Raises:
        ConfigError: There is not one weight for each class, or there is no such reduction.

    Example:
        >>> round(float(sigmoid_cross_entropy(jnp.array([[2.0, -1.0]]), jnp.array([0]))), 4)
        0.4402
    """
    sign = 2.0 * jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype) - 1.0
    value = -jnp.sum(jax.nn.log_sigmoid(sign * logits), axis=-1)
    return _reduced(_weighted(value, _class_weight(logits, weight), labels), reduction)


def _of_labels(values: Float[Array, "batch classes"], labels: Int[Array, "batch"]) -> Array:
    def cpu(values: Array, labels: Array) -> Array:
        return jnp.take_along_axis(values, labels[:, None], axis=1)[:, 0]

    # If a GPU has to be deterministic, the gradient sorts indices unless they are declared unique.
    def elsewhere(value: Array, label: Array) -> Array:
        return value.at[label].get(unique_indices=True)

    return jax.lax.platform_dependent(values, labels, cpu=cpu, default=jax.vmap(elsewhere))


def _class_weight(
    logits: Float[Array, "batch classes"], weight: Float[ArrayLike, "classes"] | None
) -> Float[Array, "classes"] | None:
    if weight is None:
        return None
    weight = jnp.asarray(weight, logits.dtype)
    if weight.shape != logits.shape[-1:]:
        raise ConfigError(
            f"weight should have one value for each of the {logits.shape[-1]} classes, but has the "
            f"shape {weight.shape}"
        )
    return weight


def _weighted(
    value: Float[Array, "batch"],
    class_weight: Float[Array, "classes"] | None,
    labels: Int[Array, "batch"],
) -> ItemLosses:
    if class_weight is None:
        return ItemLosses(value)
    weight = class_weight[labels]
    return ItemLosses(weight * value, weight)


def _reduced(items: ItemLosses, reduction: str) -> Any:
    ways = {
        "mean": ItemLosses.mean,
        "sum": lambda items: jnp.sum(items.value),
        "none": lambda items: items.value,
        ITEMS: lambda items: items,
    }
    if reduction not in ways:
        raise ConfigError(f"reduction = {reduction}: should be mean, sum or none")
    return ways[reduction](items)


def explain_loss(
    logits: Float[ArrayLike, "classes"], label: int, classes: Sequence[str] | None = None
) -> None:
    """Prints the steps of one item's cross-entropy, like the table in fastbook's chapter 5.

    Args:
        logits: The model's activations for the item.
        label: Class number of the item.
        classes: Names of the classes; None shows their numbers.

    Raises:
        ConfigError: The label is not the number of a class, or there are more or fewer names than
            activations.
        DataError: `classes` is a set, a mapping or the like, which has no order of its own.

    Example:
        >>> explain_loss([0.6734, 0.2576], label=0, classes=["3", "7"])
        class  activation     exp  softmax      log
        3          0.6734  1.9609   0.6025  -0.5067  <- label
        7          0.2576  1.2938   0.3975  -0.9225
        sum                3.2547   1.0000
        loss = -log softmax of the label = 0.5067
    """
    activations = np.asarray(logits, np.float64)
    if not 0 <= label < len(activations):
        raise ConfigError(f"label = {label}: should be from 0 to {len(activations) - 1}")
    numbers = [str(number) for number in range(len(activations))]
    names = numbers if classes is None else [*map(str, names_in_order(classes))]
    if len(names) != len(activations):
        raise ConfigError(
            f"classes: there are {len(names)} names, but {len(activations)} activations"
        )
    exponentials = np.exp(activations)
    probabilities = np.asarray(softmax(jnp.asarray(activations)))
    logarithms = np.asarray(log_softmax(jnp.asarray(activations)))
    width = max(5, *map(len, names))
    print(f"{'class':<{width}}  activation  {'exp':>6}  softmax  {'log':>7}")
    rows = zip(names, activations, exponentials, probabilities, logarithms, strict=True)
    for number, (name, activation, exponential, probability, logarithm) in enumerate(rows):
        mark = "  <- label" if number == label else ""
        print(
            f"{name:<{width}}  {activation:>10.4f}  {exponential:>6.4f}  {probability:>7.4f}  "
            f"{logarithm:>7.4f}{mark}"
        )
    total = f"{exponentials.sum():>6.4f}  {probabilities.sum():>7.4f}"
    print(f"{'sum':<{width}}  {'':>10}  {total}")
    print(f"loss = -log softmax of the label = {-logarithms[label]:.4f}")
