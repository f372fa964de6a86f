"""Losses for classification: pure functions of logits and labels, each the mean over items."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from jaxch5.errors import ConfigError


def softmax(logits: Float[Array, "*batch classes"]) -> Float[Array, "*batch classes"]:
    """Probabilities: exponentials of the logits, divided by their sum.

    The exponential makes every value positive and the division makes them add to one.

    Args:
        logits: the model's activations, any real numbers; classes are the last axis.

    Example:
        >>> [round(float(p), 4) for p in softmax(jnp.array([0.6734, 0.2576]))]
        [0.6025, 0.3975]
    """
    return jax.nn.softmax(logits)


def log_softmax(logits: Float[Array, "*batch classes"]) -> Float[Array, "*batch classes"]:
    """Logarithms of the probabilities, computed without taking the logarithm of a small number.

    Args:
        logits: the model's activations, any real numbers; classes are the last axis.

    Example:
        >>> [round(float(p), 4) for p in log_softmax(jnp.array([0.6734, 0.2576]))]
        [-0.5067, -0.9225]
    """
    return jax.nn.log_softmax(logits)


def nll_loss(
    log_probabilities: Float[Array, "batch classes"],
    labels: Int[Array, "batch"],
    weight: Float[Array, "classes"] | None = None,
) -> Float[Array, ""]:
    """Negative log-likelihood: minus the log-probability that each item gives to its label.

    Args:
        log_probabilities: what `log_softmax` returns.
        labels: class numbers.
        weight: importance of each class; the mean then divides by the sum of the weights of the
            labels, as PyTorch's `nll_loss` does.

    Example:
        >>> float(nll_loss(jnp.log(jnp.array([[0.5, 0.5], [0.25, 0.75]])), jnp.array([0, 0])))
        1.0397207736968994
    """
    likelihood = jnp.take_along_axis(log_probabilities, labels[:, None], axis=1)[:, 0]
    if weight is None:
        return -jnp.mean(likelihood)
    item_weight = weight[labels]
    return -jnp.sum(item_weight * likelihood) / jnp.sum(item_weight)


def cross_entropy(
    logits: Float[Array, "batch classes"],
    labels: Int[Array, "batch"],
    weight: Float[Array, "classes"] | None = None,
    label_smoothing: float = 0.0,
) -> Float[Array, ""]:
    """Cross-entropy: `nll_loss` of `log_softmax`.

    Args:
        logits: the model's activations, any real numbers.
        labels: class numbers.
        weight: importance of each class, as in `nll_loss`.
        label_smoothing: share of each target, 0 to 1, that is spread evenly over all classes
            (Szegedy et al., 1512.00567; with `weight`, PyTorch's way).

    Example:
        >>> round(float(cross_entropy(jnp.array([[0.6734, 0.2576]]), jnp.array([0]))), 4)
        0.5067
    """
    log_probabilities = log_softmax(logits)
    loss = nll_loss(log_probabilities, labels, weight)
    if label_smoothing == 0.0:
        return loss
    class_weight = jnp.ones(logits.shape[-1]) if weight is None else weight
    spread = -jnp.mean(class_weight * log_probabilities, axis=-1)
    uniform = jnp.sum(spread) / jnp.sum(class_weight[labels])
    return (1.0 - label_smoothing) * loss + label_smoothing * uniform


def focal_loss(
    logits: Float[Array, "batch classes"], labels: Int[Array, "batch"], gamma: float = 2.0
) -> Float[Array, ""]:
    """Cross-entropy in which items that are already right count less (Lin et al., 1708.02002).

    Args:
        logits: the model's activations.
        labels: class numbers.
        gamma: how fast an item's share falls as its probability rises; 0 is `cross_entropy`.

    Example:
        >>> round(float(focal_loss(jnp.array([[2.0, 0.0]]), jnp.array([0]))), 5)
        0.0018
    """
    likelihood = jnp.take_along_axis(log_softmax(logits), labels[:, None], axis=1)[:, 0]
    return -jnp.mean((1.0 - jnp.exp(likelihood)) ** gamma * likelihood)


def binary_cross_entropy(
    logits: Float[Array, "batch"], labels: Int[Array, "batch"]
) -> Float[Array, ""]:
    """Cross-entropy of two classes with one activation an item, whose sigmoid is class 1's share.

    The same as `cross_entropy` of the logits 0 and `logits`: a softmax of two classes depends on
    their difference alone.

    Args:
        logits: one activation an item, any real number.
        labels: 0 or 1.

    Example:
        >>> round(float(binary_cross_entropy(jnp.array([0.0, 2.0]), jnp.array([0, 1]))), 4)
        0.41
    """
    sign = 2.0 * labels - 1.0
    return jnp.mean(-jax.nn.log_sigmoid(sign * logits))


def explain_loss(
    logits: Float[ArrayLike, "classes"], label: int, classes: Sequence[str] | None = None
) -> None:
    """Prints how cross-entropy comes about for one item, step by step, as the chapter's table does.

    Args:
        logits: the model's activations for the item.
        label: its class number.
        classes: names; None numbers them.

    Raises:
        ConfigError: the label is no class.

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
    names = [str(number) for number in range(len(activations))] if classes is None else classes
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
